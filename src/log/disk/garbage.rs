//! What is in the file although it is no longer held. It is removed in bulk: row by row every publish would write the page
//! of some old event; and in portions: all at once it would hold up every publish meanwhile.

use std::collections::HashMap;

use super::{batch::Batch, error::StoreError};
use crate::{event::TopicName, log::index::Removed};

/// What waits for its removal.
#[derive(Default)]
pub(super) struct Garbage {
    pub(super) seqs: Vec<u64>,
    /// Up to where topics have lost events, and up to when. It is written before any of the rows is removed, or with it: a
    /// crash in between must not leave a hole without a mark.
    evicted: HashMap<TopicName, (u64, u64)>,
    /// Topics of which nothing is left to remember.
    forgotten: Vec<(TopicName, (u64, u64))>,
}

/// What is removed in one transaction.
#[derive(Default)]
pub(super) struct Portion {
    /// In order.
    pub(super) seqs: Vec<u64>,
    evicted: Vec<(TopicName, (u64, u64))>,
    pub(super) forgotten: Vec<(TopicName, (u64, u64))>,
}

/// Rows of each kind that are removed at once.
const PORTION: usize = 8192;

impl Garbage {
    pub(super) fn note(&mut self, removed: Removed<'_>) {
        match removed {
            Removed::Event(topic, seq, time_ms) => {
                self.seqs.push(seq);
                self.mark(topic.clone(), (seq, time_ms));
            }
            Removed::Topic(topic, seq, time_ms) => self.forgotten.push((topic.clone(), (seq, time_ms))),
        }
    }

    /// A deletion that is taken apart may be behind what retention has removed since, so the higher mark counts.
    fn mark(&mut self, topic: TopicName, (seq, time_ms): (u64, u64)) {
        let (to, ms) = self.evicted.entry(topic).or_default();
        (*to, *ms) = (seq.max(*to), time_ms.max(*ms));
    }

    /// Whether it is worth a removal at once.
    pub(super) fn is_much(&self) -> bool {
        self.seqs.len() >= PORTION
    }

    pub(super) fn is_empty(&self) -> bool {
        self.seqs.is_empty() && self.evicted.is_empty() && self.forgotten.is_empty()
    }

    /// The next portion.
    pub(super) fn take(&mut self) -> Portion {
        let evicted: Vec<_> = self.evicted.iter().take(PORTION).map(|(topic, to)| (topic.clone(), *to)).collect();
        for (topic, _) in &evicted {
            self.evicted.remove(topic);
        }
        let mut portion = Portion { evicted, ..Portion::default() };
        if self.evicted.is_empty() {
            portion.seqs = self.seqs.split_off(self.seqs.len().saturating_sub(PORTION));
            // By position, so that each page is written once.
            portion.seqs.sort_unstable();
            portion.forgotten = self.forgotten.split_off(self.forgotten.len().saturating_sub(PORTION));
        }
        if self.is_empty() {
            // What has grown once is not kept for ever.
            *self = Self::default();
        }
        portion
    }

    /// Takes back what could not be removed.
    pub(super) fn give_back(&mut self, mut portion: Portion) {
        self.seqs.append(&mut portion.seqs);
        for (topic, to) in portion.evicted {
            self.mark(topic, to);
        }
        self.forgotten.append(&mut portion.forgotten);
    }
}

impl Portion {
    pub(super) fn is_empty(&self) -> bool {
        self.seqs.is_empty() && self.evicted.is_empty() && self.forgotten.is_empty()
    }

    /// Removes it within `batch`, but for the rows of topics that are `returning`.
    pub(super) fn remove(&self, batch: &Batch<'_>, returning: impl Fn(&TopicName) -> bool) -> Result<(), StoreError> {
        batch.remove(&self.seqs)?;
        for (topic, (to, ms)) in &self.evicted {
            batch.mark_evicted(topic, *to, *ms)?;
        }
        for (topic, (to, ms)) in &self.forgotten {
            if !returning(topic) {
                batch.forget_topic(topic, *to, *ms)?;
            }
        }
        Ok(())
    }
}
