//! Whether a stream may end, and as it did.

use std::time::Instant;

use tidings::{
    event::StopId,
    frame::{Format, Marks},
};

use super::{Client, Fact, History, notice::Notice};
use crate::{harness::parser::Block, model::world::WRITE_TIMEOUT};

impl Client {
    /// It is told why its stream ends.
    pub(super) fn end_notice(&mut self, block: &Block) -> Result<(), String> {
        let code = Notice::read(block)?.text("code")?.to_owned();
        if block.event != format!("broker.{code}") {
            return Err(format!("the code of another event: {block:?}"));
        }
        match self.end_notice.replace(block.event.clone()) {
            None => Ok(()),
            Some(before) => Err(format!("after {before}: {block:?}")),
        }
    }

    /// Whether it may be cut: its stream was ended, and it has not taken its last bytes in time.
    pub fn may_be_cut(&self, now: Instant) -> bool {
        [self.right_ends_at, self.ended_at].into_iter().flatten().any(|at| at + WRITE_TIMEOUT <= now)
    }

    /// Whether it was cut in the middle of an event that is gone: the hub need not have kept it, and can read it no more.
    pub fn is_within_a_lost_event(&self, history: &History) -> bool {
        let lost = |fact: &Fact| {
            fact.seq > self.pos
                && self.topics.contains(&fact.topic)
                && (fact.removed.is_some() || history.deleted_after(fact.topic, self.placed).is_some())
        };
        let within = match &self.chunks {
            Some(chunks) => chunks.is_within(),
            None => self.parser.is_within() || !self.line.is_empty(),
        };
        within && history.facts.iter().any(lost)
    }

    /// After a clean end: it was due to end, and its cursor tells the broker what to do with it when it comes back. The
    /// hub had been `fed` everything up to there; it may have read more, and need not have.
    pub fn ended_well(&self, now: Instant, fed: u64, history: &History) -> Result<(), String> {
        if self.chunks.as_ref().is_some_and(|chunks| !chunks.ended) {
            return Err("its stream ended without the last chunk".to_owned());
        }
        if self.topics.is_empty() {
            let cursor = self.seq(&self.last_id, history)?;
            return match self.asked[..] {
                [topic] if history.deleted_after(topic, self.placed).is_none_or(|deleted| deleted <= cursor) => {
                    Err(format!("with the cursor {cursor} it would not be told to stop"))
                }
                _ => Ok(()),
            };
        }
        let is_over = |topic: &usize| {
            let last = |to| history.last_deletion(*topic, self.placed, to);
            let is_told = |at: u64| self.deletion_told(*topic) >= at && !history.holds(*topic, at, fed);
            [fed, history.watermark].into_iter().filter_map(last).any(is_told)
        };
        if !self.is_alone() && self.asked.iter().all(is_over) {
            return Ok(());
        }
        match self.end_notice.as_deref() {
            Some("broker.unauthorized") if self.right_ends_at.is_some_and(|at| at <= now) => return Ok(()),
            Some("broker.ended") if self.ended_at.is_some() => return Ok(()),
            Some(notice) => return Err(format!("it was told {notice} without a reason")),
            None => {}
        }
        // It is told when to come back first and, if the stream ends politely, last.
        let farewell = self.encoding.format == Format::Lines || self.marks != Marks::Id || self.fields("retry") == 2;
        if self.ends_at.is_some_and(|ends_at| ends_at <= now) && farewell {
            return Ok(());
        }
        Err("its stream was ended without a reason".to_owned())
    }
}

/// The id to resume with after the time to stay away.
pub(super) fn without_stop(id: &str) -> String {
    StopId::parse(id).map_or_else(|| id.to_owned(), |stop| stop.id.to_string())
}
