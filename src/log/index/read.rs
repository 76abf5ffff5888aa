//! Answers readers: pages of events, where a subscription begins, what a topic holds.

use std::{cmp::Reverse, collections::BinaryHeap, iter::Peekable, time::Duration};

use super::{Entry, Index, Plan};
use crate::{
    event::{EventId, TopicName},
    frame::GapReason,
    log::{Held, Page, ReadFrom, Start, StartPoint},
};

/// How many unreadable entries one page skips, so that it holds the lock only for a short time.
pub(super) const UNREADABLE_MAX: usize = 4096;

impl Index {
    /// The page that [`plan`](Self::plan) describes, up to its first cold entry; `None` when it begins with a cold one.
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

    /// What the page of events after `from` consists of: at most `bytes_max` bytes, but at least one event.
    pub(in crate::log) fn plan(&self, topics: &[TopicName], from: ReadFrom, bytes_max: usize) -> Plan {
        let mut page = Page::new(self.epoch, self.removals);
        let mut sources = Vec::with_capacity(topics.len());
        for topic in topics {
            let Some(state) = self.topics.get(topic) else {
                if self.forgotten.removal > from.removals_seen {
                    page.note_removed(self.forgotten.to, from.after);
                }
                continue;
            };
            let is_deleted = state.deleted_to > from.after;
            if is_deleted {
                page.deleted.push((topic.clone(), state.deleted_to));
            }
            // The page reports the deletion. If all removed events were before the deletion, they are no gap.
            let is_reported = is_deleted && state.removed.to < state.deleted_to;
            if !is_reported && state.removed.removal > from.removals_seen {
                page.note_removed(state.removed.to, from.after);
            }
            sources.push(state.after(from.after).map(move |entry| (topic, entry)).peekable());
        }
        // The page is complete up to here, unless it ends early.
        let mut to = self.watermark.max(from.after);
        let (mut bytes, mut unreadable, mut entries) = (0, 0, Vec::new());
        for (topic, entry) in merge(sources, |(_, entry)| Reverse(entry.seq)) {
            if entry.is_unreadable() {
                // A page reports a gap before its events. So events before the gap get a page of their own.
                if !entries.is_empty() || unreadable == UNREADABLE_MAX {
                    to = entry.seq - 1;
                    break;
                }
                unreadable += 1;
                page.note_unreadable(entry.seq);
                continue;
            }
            let size = match &entry.event {
                Some(event) => event.frame.len(),
                None => usize::try_from(entry.bytes).unwrap_or(usize::MAX),
            };
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
        match *start {
            Start::Live => self.start_after(self.watermark),
            Start::All => self.start_after(self.before_oldest(topics)),
            Start::Last(n) => self.start_after(self.before_last(topics, n)),
            Start::Since(time_ms) => {
                let after = self.before_first(topics, |entry| self.time_ms(entry) >= time_ms);
                let (gap, gap_ahead) = (self.gap_since(topics, time_ms), self.unreadable_after(after, topics));
                StartPoint { gap, gap_ahead, ..self.start_after(after) }
            }
            Start::Unreadable => {
                StartPoint { gap: Some(GapReason::Unreadable), ..self.start_after(self.before_oldest(topics)) }
            }
            Start::After(cursor) => self.resume(topics, cursor, deleted),
        }
    }

    /// Where a subscription that has everything up to `cursor` begins.
    fn resume(&self, topics: &[TopicName], cursor: EventId, deleted: &[TopicName]) -> StartPoint {
        if cursor.epoch != self.epoch || cursor.seq > self.watermark {
            return StartPoint { gap: Some(GapReason::Reset), ..self.start_after(self.before_oldest(topics)) };
        }
        if topics.iter().any(|topic| self.is_missing_after(cursor.seq, topic, deleted)) {
            let is_unreadable = cursor.seq < self.unreadable_at_start.to;
            let reason = if is_unreadable { GapReason::Unreadable } else { GapReason::Evicted };
            let after = self.before_first(topics, |entry| entry.seq > cursor.seq);
            return StartPoint { gap: Some(reason), ..self.start_after(after) };
        }
        let gap_ahead = self.unreadable_after(cursor.seq, topics);
        StartPoint { gap_ahead, ..self.start_after(cursor.seq) }
    }

    /// A start after this position, without a gap.
    fn start_after(&self, after: u64) -> StartPoint {
        let from = ReadFrom { after, removals_seen: self.removals };
        StartPoint { epoch: self.epoch, from, gap: None, gap_ahead: None, watermark: self.watermark }
    }

    /// Whether an event of `topic` after `seq` is missing. If the topic is in `deleted`, the events that its deletion
    /// removed do not count.
    fn is_missing_after(&self, seq: u64, topic: &TopicName, deleted: &[TopicName]) -> bool {
        let (removed_to, deleted_to) = match self.topics.get(topic) {
            Some(state) => (state.removed.to, state.deleted_to),
            None => (self.forgotten.to, 0),
        };
        let is_reported = removed_to < deleted_to && deleted.contains(topic);
        (seq < removed_to && !is_reported) || seq < self.hole.to.max(self.unreadable_at_start.to)
    }

    /// Why events of `topics` from `time_ms` or later may be missing, if they may.
    fn gap_since(&self, topics: &[TopicName], time_ms: u64) -> Option<GapReason> {
        let is_since = |to, newest_ms| to > 0 && newest_ms >= time_ms;
        let is_removed = |topic| {
            let removed = self.topics.get(topic).map_or(self.forgotten, |state| state.removed);
            is_since(removed.to, self.times.corrected(removed.to, removed.newest_ms))
        };
        if is_since(self.unreadable_at_start.to, self.unreadable_at_start.newest_ms) {
            return Some(GapReason::Unreadable);
        }
        (is_since(self.hole.to, self.hole.newest_ms) || topics.iter().any(is_removed)).then_some(GapReason::Evicted)
    }

    /// The reason of a gap, if `topics` have an unreadable entry after this position.
    fn unreadable_after(&self, after: u64, topics: &[TopicName]) -> Option<GapReason> {
        (after < self.last_unreadable(topics)).then_some(GapReason::Unreadable)
    }

    /// Position of the last unreadable entry of `topics`; 0 when there is none.
    pub(super) fn last_unreadable(&self, topics: &[TopicName]) -> u64 {
        let states = topics.iter().filter_map(|topic| self.topics.get(topic));
        states.map(|state| state.unreadable_to).max().unwrap_or_default()
    }

    /// The position before the oldest event of `topics`.
    fn before_oldest(&self, topics: &[TopicName]) -> u64 {
        self.before_first(topics, |_| true)
    }

    /// The position before the first event of `topics` that `is_wanted` accepts. `is_wanted` must accept all later
    /// events, too: this is a binary search.
    fn before_first(&self, topics: &[TopicName], is_wanted: impl Fn(&Entry) -> bool) -> u64 {
        let states = topics.iter().filter_map(|topic| self.topics.get(topic));
        let firsts = states.filter_map(|state| {
            let at = state.entries.partition_point(|entry| !is_wanted(entry));
            state.entries.get(at).map(|entry| entry.seq - 1)
        });
        firsts.min().unwrap_or(self.watermark)
    }

    /// The position before the last `n` events of `topics`.
    fn before_last(&self, topics: &[TopicName], n: usize) -> u64 {
        let states = topics.iter().filter_map(|topic| self.topics.get(topic));
        let newest_first = states.map(|state| state.readable().rev().map(|entry| entry.seq).peekable()).collect();
        merge(newest_first, |seq| *seq).take(n).last().map_or(self.watermark, |seq| seq - 1)
    }

    /// The position of the last deletion of `topic`, and how long before `mono_ms` it was.
    pub(in crate::log) fn deletion(&self, topic: &TopicName, mono_ms: u64) -> Option<(EventId, Duration)> {
        let state = self.topics.get(topic).filter(|state| state.deleted_to > 0)?;
        Some((self.id(state.deleted_to), Duration::from_millis(mono_ms.saturating_sub(state.deleted_mono_ms))))
    }

    /// What the log holds of `topic`; `None` when the topic is not known.
    pub(in crate::log) fn held(&self, topic: &TopicName) -> Option<Held> {
        self.topics.get(topic).map(|state| Held {
            first: state.readable().next().map(|entry| self.id(entry.seq)),
            last: state.readable().next_back().map(|entry| self.id(entry.seq)),
            events: state.entries.len() - state.unreadable,
            bytes: state.bytes,
        })
    }

    fn id(&self, seq: u64) -> EventId {
        EventId { epoch: self.epoch, seq }
    }
}

/// Merges `sources`: the item with the greatest `key` comes first. Each source has its items in this order already.
fn merge<T, K: Ord>(
    mut sources: Vec<Peekable<impl Iterator<Item = T>>>,
    key: impl Fn(&T) -> K,
) -> impl Iterator<Item = T> {
    // The key of each source's next item, and the index of the source.
    let mut heap: BinaryHeap<(K, usize)> = BinaryHeap::with_capacity(sources.len());
    for (at, source) in sources.iter_mut().enumerate() {
        if let Some(first) = source.peek() {
            heap.push((key(first), at));
        }
    }
    std::iter::from_fn(move || {
        let (_, at) = heap.pop()?;
        let source = sources.get_mut(at)?;
        let item = source.next();
        if let Some(following) = source.peek() {
            heap.push((key(following), at));
        }
        item
    })
}
