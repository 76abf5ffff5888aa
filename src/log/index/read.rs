//! Answers readers: pages of events, where a subscription begins, what a topic holds.

use std::{cmp::Reverse, collections::BinaryHeap, iter::Peekable, time::Duration};

use super::{Entry, Index, Plan};
use crate::{
    event::{EventId, TopicName},
    frame::GapReason,
    log::{Held, Page, ReadFrom, Start, StartPoint},
};

/// How many lost entries one page skips, so that it holds the lock only for a short time.
pub(super) const LOST_MAX: usize = 4096;

impl Index {
    /// The page of events after position `after`, up to the first cold one: up to `bytes_max`, but at least one event.
    pub(in crate::log) fn read(&self, topics: &[TopicName], from: ReadFrom, bytes_max: usize) -> Option<Page> {
        let Plan { mut page, entries } = self.plan(topics, from, bytes_max);
        for (_, entry) in entries {
            match entry.event {
                Some(event) => page.events.push(event),
                None if page.events.is_empty() => return None,
                None => {
                    page.end(entry.seq - 1);
                    break;
                }
            }
        }
        Some(page)
    }

    /// The same page with the cold entries, so that the engine can fetch them.
    pub(in crate::log) fn plan(&self, topics: &[TopicName], from: ReadFrom, bytes_max: usize) -> Plan {
        let ReadFrom { after, removals_seen } = from;
        let mut page = Page::new(self.epoch, self.removals);
        let mut to = self.watermark.max(after);
        let mut sources = Vec::with_capacity(topics.len());
        for topic in topics {
            let Some(log) = self.topics.get(topic) else {
                if self.forgotten_at > removals_seen {
                    page.miss(self.forgotten_to, after);
                }
                continue;
            };
            let deletion = Some(log.deleted_to).filter(|seq| *seq > after);
            page.deleted.extend(deletion.map(|seq| (topic.clone(), seq)));
            // The reader is told of the deletion. Events that it removed are no gap.
            if log.evicted_at > removals_seen && Some(log.evicted_to) > deletion {
                page.miss(log.evicted_to, after);
            }
            sources.push(log.events.range(log.after(after)..).map(move |entry| (topic, entry)).peekable());
        }
        let (mut bytes, mut entries) = (0, Vec::new());
        let mut lost = 0;
        for (topic, entry) in merge(sources) {
            if entry.is_lost() {
                // A page reports a gap before its events. So events before the lost one get a page of their own.
                if !entries.is_empty() || lost == LOST_MAX {
                    to = entry.seq - 1;
                    break;
                }
                lost += 1;
                page.lose(entry.seq);
                continue;
            }
            let size = entry.event.as_ref().map_or(entry.bytes.try_into().unwrap_or(usize::MAX), |e| e.frame.len());
            if bytes > 0 && bytes + size > bytes_max {
                to = entry.seq - 1;
                break;
            }
            bytes += size;
            entries.push((topic.clone(), entry.clone()));
        }
        page.end(to);
        Plan { page, entries }
    }

    /// Where a subscription of `topics` that asks for `start` begins.
    pub(in crate::log) fn resolve_start(
        &self,
        topics: &[TopicName],
        start: &Start,
        deleted: &[TopicName],
    ) -> StartPoint {
        let everything = || self.before_first(topics, |_| true);
        let whole_after = topics.iter().map(|topic| self.whole_after(topic, deleted)).max().unwrap_or_default();
        let (epoch, removals_seen, watermark) = (self.epoch, self.removals, self.watermark);
        let at = |after| {
            let from = ReadFrom { after, removals_seen };
            StartPoint { epoch, from, gap: None, gap_ahead: None, watermark }
        };
        let gap = |reason, after| StartPoint { gap: Some(reason), ..at(after) };
        match *start {
            Start::Live => at(self.watermark),
            Start::All => at(everything()),
            Start::Since(time_ms) => {
                let after = self.before_first(topics, |entry| self.time_ms(entry) >= time_ms);
                let unreadable = self.unreadable_to > 0 && self.unreadable_ms >= time_ms;
                let evicted = topics.iter().any(|topic| self.has_removed_since(topic, time_ms));
                let evicted = evicted || (self.hole_to > 0 && self.hole_ms >= time_ms);
                let gap_ahead = (after < self.lost.last_of(topics)).then_some(GapReason::Unreadable);
                let reason = if unreadable { GapReason::Unreadable } else { GapReason::Evicted };
                StartPoint { gap: (unreadable || evicted).then_some(reason), gap_ahead, ..at(after) }
            }
            Start::Last(n) => at(self.before_last(topics, n)),
            Start::Unreadable => gap(GapReason::Unreadable, everything()),
            Start::After(id) if id.epoch != self.epoch || id.seq > self.watermark => {
                gap(GapReason::Reset, everything())
            }
            Start::After(id) if id.seq < whole_after => {
                let reason = if id.seq < self.unreadable_to { GapReason::Unreadable } else { GapReason::Evicted };
                gap(reason, self.before_first(topics, |entry| entry.seq > id.seq))
            }
            Start::After(id) => {
                let gap_ahead = (id.seq < self.lost.last_of(topics)).then_some(GapReason::Unreadable);
                StartPoint { gap_ahead, ..at(id.seq) }
            }
        }
    }

    /// Whether an event of `topic` from `time_ms` or later may have been removed.
    fn has_removed_since(&self, topic: &TopicName, time_ms: u64) -> bool {
        let (to, ms) = match self.topics.get(topic) {
            Some(log) => (log.evicted_to, log.evicted_ms),
            None => (self.forgotten_to, self.forgotten_ms),
        };
        to > 0 && self.times.corrected(to, ms) >= time_ms
    }

    /// The position after which no event of `topic` is missing. A topic in `deleted` misses nothing because of its
    /// deletion.
    fn whole_after(&self, topic: &TopicName, deleted: &[TopicName]) -> u64 {
        let removed_to = self.topics.get(topic).map_or(self.forgotten_to, |log| {
            let with_deletion = log.evicted_to < log.deleted_to && deleted.contains(topic);
            if with_deletion { 0 } else { log.evicted_to }
        });
        removed_to.max(self.hole_to).max(self.unreadable_to)
    }

    /// The position before the first event of `topics` that `wanted` accepts. It must accept all later ones, too: this
    /// is a binary search.
    fn before_first(&self, topics: &[TopicName], wanted: impl Fn(&Entry) -> bool) -> u64 {
        let logs = topics.iter().filter_map(|topic| self.topics.get(topic));
        let firsts = logs.filter_map(|log| {
            let at = log.events.partition_point(|entry| !wanted(entry));
            log.events.get(at).map(|entry| entry.seq - 1)
        });
        firsts.min().unwrap_or(self.watermark)
    }

    /// The position before the last `n` events of `topics`.
    fn before_last(&self, topics: &[TopicName], n: usize) -> u64 {
        let logs = topics.iter().filter_map(|topic| self.topics.get(topic));
        let mut sources: Vec<_> =
            logs.map(|log| log.events.iter().rev().filter(|entry| !entry.is_lost()).map(|entry| entry.seq)).collect();
        // For each topic the newest position that is not counted yet, and the index of its source.
        let mut newest: BinaryHeap<(u64, usize)> =
            sources.iter_mut().enumerate().filter_map(|(at, source)| Some((source.next()?, at))).collect();
        let mut before = self.watermark;
        for _ in 0..n {
            let Some((seq, at)) = newest.pop() else { break };
            before = seq - 1;
            if let Some(older) = sources.get_mut(at).and_then(Iterator::next) {
                newest.push((older, at));
            }
        }
        before
    }

    /// The position of the last deletion of `topic`, and how long before `mono_ms` it was.
    pub(in crate::log) fn deletion(&self, topic: &TopicName, mono_ms: u64) -> Option<(EventId, Duration)> {
        let log = self.topics.get(topic).filter(|log| log.deleted_to > 0)?;
        Some((self.id(log.deleted_to), Duration::from_millis(mono_ms.saturating_sub(log.deleted_mono_ms))))
    }

    /// What the log holds of `topic`; `None` when the topic is not known.
    pub(in crate::log) fn held(&self, topic: &TopicName) -> Option<Held> {
        self.topics.get(topic).map(|log| Held {
            first: log.events.iter().find(|entry| !entry.is_lost()).map(|entry| self.id(entry.seq)),
            last: log.events.iter().rfind(|entry| !entry.is_lost()).map(|entry| self.id(entry.seq)),
            events: log.events.len() - self.lost.count(topic),
            bytes: log.bytes,
        })
    }

    fn id(&self, seq: u64) -> EventId {
        EventId { epoch: self.epoch, seq }
    }
}

/// Merges the entries of several topics in order of position.
fn merge<'a>(
    mut sources: Vec<Peekable<impl Iterator<Item = (&'a TopicName, &'a Entry)>>>,
) -> impl Iterator<Item = (&'a TopicName, &'a Entry)> {
    let seq = |(_, entry): &(&TopicName, &Entry)| Reverse(entry.seq);
    let mut next: BinaryHeap<(Reverse<u64>, usize)> =
        sources.iter_mut().enumerate().filter_map(|(at, source)| Some((source.peek().map(seq)?, at))).collect();
    std::iter::from_fn(move || {
        let (_, at) = next.pop()?;
        let source = sources.get_mut(at)?;
        let item = source.next();
        if let Some(following) = source.peek() {
            next.push((seq(following), at));
        }
        item
    })
}
