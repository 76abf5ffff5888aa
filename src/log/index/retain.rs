//! Adds events, applies the retention limits, and deletes topics, in steps.
//!
//! Readers and publishers wait while the index is locked. So one step, from lock to unlock, visits at most about
//! [`STEP`] entries, to remove them or to make them cold. While [`Index::needs_step`] says that more are left, the
//! engine makes further steps. A deletion takes effect for readers at once; its entries are dropped in steps, too.
//!
//! For example, the deletion of a topic with 10,000 entries needs three steps: of 4096, 4096 and 1808 entries.

use std::{collections::VecDeque, mem};

use super::{Entry, Index, Missing, Removal, TopicState, is_held};
use crate::{
    event::TopicName,
    log::clock::{Moment, millis},
};

/// How many entries one step may visit.
pub(in crate::log) const STEP: usize = 4096;
/// How many entries each new event may visit even after the step has used up its budget. It is more than one, so that
/// the limits are met in the end.
pub(super) const PUSH_MIN: usize = 4;
/// How many topics without entries stay known, at most. A known topic reports a gap only if there is one. A forgotten
/// topic reports the gaps of all forgotten topics: see [`Index::forgotten`].
pub(super) const EMPTY_MAX: usize = 65_536;

impl Index {
    /// Begins a step. Engines call it after they lock the index and before they add events.
    pub(in crate::log) fn begin_step(&mut self) {
        self.budget = STEP;
    }

    /// Adds the next event of `topic`. Then removes what exceeds the limits.
    pub(in crate::log) fn push(&mut self, topic: &TopicName, entry: Entry, on_removal: &mut dyn FnMut(Removal<'_>)) {
        debug_assert!(entry.seq > self.watermark, "positions only grow");
        let mono_ms = entry.mono_ms;
        self.budget = self.budget.max(PUSH_MIN);
        self.times.note(entry.seq, entry.time_ms);
        self.watermark = entry.seq;
        let is_topic_over = self.insert(topic, entry);
        if is_topic_over {
            self.trim_topic(topic, on_removal);
        }
        let is_log_over = self.bytes > self.retention.bytes_max.get() || self.events > self.retention.events_max;
        if is_topic_over || is_log_over || mono_ms > self.next_expiry_mono_ms || self.must_trim() {
            self.trim(mono_ms, on_removal);
        } else {
            self.cool();
            self.assert_invariants();
        }
    }

    /// Adds the newest entry, and returns whether its topic is over its limits now.
    pub(super) fn insert(&mut self, topic: &TopicName, entry: Entry) -> bool {
        self.events += 1;
        self.bytes += entry.bytes;
        self.hot_bytes += entry.hot_bytes();
        self.order.push_back(entry.seq, topic.clone());
        let state = match self.topics.get_mut(topic) {
            Some(state) => {
                if state.entries.is_empty() {
                    self.empty.remove(&(state.last_removal_seq(), topic.clone()));
                }
                state
            }
            None => self.topics.entry(topic.clone()).or_insert(TopicState::new(self.forgotten)),
        };
        state.bytes += entry.bytes;
        state.entries.push_back(entry);
        state.is_over_limit(&self.retention)
    }

    /// Whether another step is needed to meet all limits.
    pub(in crate::log) fn needs_step(&self) -> bool {
        self.must_trim() || self.hot_bytes > self.hot_bytes_max
    }

    /// Whether the last step left something to remove. Hot entries that must become cold do not count.
    fn must_trim(&self) -> bool {
        self.is_trim_unfinished || !self.deleted_entries.is_empty() || !self.over_limit.is_empty()
    }

    /// Deletes `topic`. The deletion has the position `seq`.
    pub(in crate::log) fn delete(&mut self, topic: &TopicName, seq: u64, mono_ms: u64) {
        self.watermark = self.watermark.max(seq);
        self.removals += 1;
        let state = self.topics.entry(topic.clone()).or_insert(TopicState::new(self.forgotten));
        self.empty.remove(&(state.last_removal_seq(), topic.clone()));
        let (entries, bytes) = (mem::take(&mut state.entries), mem::take(&mut state.bytes));
        (state.unreadable, state.unreadable_to) = (0, 0);
        (state.deleted_to, state.deleted_mono_ms) = (seq, mono_ms);
        if let Some(last) = entries.back() {
            state.removed.add(last.seq, last.time_ms, self.removals);
        }
        self.empty.insert((state.last_removal_seq(), topic.clone()));
        self.events -= entries.len();
        self.bytes -= bytes;
        if !entries.is_empty() {
            self.deleted_entries.push_back((topic.clone(), entries));
        }
        self.assert_invariants();
    }

    /// Notes that all events up to `seq` were removed elsewhere, at or before `newest_ms`. If this includes positions
    /// above the watermark, the index has not seen their events, so each topic may have lost some. Otherwise this is one
    /// step. Returns whether another step is needed.
    pub(in crate::log) fn remove_to(&mut self, seq: u64, newest_ms: u64) -> bool {
        self.begin_step();
        let has_unseen = seq > self.watermark;
        while let Some((oldest, topic)) = self.order.front()
            && *oldest <= seq
        {
            if self.budget == 0 && !has_unseen {
                return true;
            }
            if is_held(&self.topics, *oldest, topic) {
                let topic = topic.clone();
                self.remove_oldest(&topic, &mut |_| ());
            } else {
                self.budget = self.budget.saturating_sub(1);
            }
            self.order.pop_front();
        }
        if has_unseen {
            self.watermark = seq;
            self.removals += 1;
            for state in self.topics.values_mut() {
                state.removed.add(seq, newest_ms, self.removals);
            }
            self.forgotten.add(seq, newest_ms, self.removals);
            self.empty = self.topics.keys().map(|topic| (seq, topic.clone())).collect();
        }
        self.assert_invariants();
        false
    }

    /// Notes at position `seq`, which follows all others, that the events of `topic` so far were removed elsewhere, and
    /// others at or before `newest_ms` that the index has not seen.
    pub(in crate::log) fn remove_topic(&mut self, topic: &TopicName, seq: u64, newest_ms: u64) {
        debug_assert!(seq > self.watermark, "positions only grow");
        self.watermark = seq;
        while let Some(removed) = self.remove_oldest(topic, &mut |_| ()) {
            self.mark_stale(removed);
        }
        self.removals += 1;
        let state = self.topics.entry(topic.clone()).or_insert(TopicState::new(self.forgotten));
        self.empty.remove(&(state.last_removal_seq(), topic.clone()));
        state.removed.add(seq, newest_ms, self.removals);
        self.empty.insert((seq, topic.clone()));
        self.assert_invariants();
    }

    /// Does one step of retention, without a new event. Returns whether another step is needed.
    pub(in crate::log) fn enforce_retention(&mut self, now: Moment, on_removal: &mut dyn FnMut(Removal<'_>)) -> bool {
        self.begin_step();
        self.times.observe(self.watermark + 1, now.wall_ms);
        self.trim(now.mono_ms, on_removal);
        self.needs_step()
    }

    /// Removes what is over the limits, within the budget of this step.
    pub(super) fn trim(&mut self, mono_ms: u64, on_removal: &mut dyn FnMut(Removal<'_>)) {
        self.is_trim_unfinished = false;
        self.next_expiry_mono_ms = 0;
        self.drop_deleted(on_removal);
        while self.budget > 0
            && let Some(topic) = self.over_limit.pop_front()
        {
            self.trim_topic(&topic, on_removal);
        }
        self.trim_front(mono_ms, on_removal);
        while self.empty.len() > EMPTY_MAX {
            if self.budget == 0 {
                self.is_trim_unfinished = true;
                break;
            }
            self.budget -= 1;
            self.forget_first_empty(on_removal);
        }
        self.cool();
        self.assert_invariants();
    }

    /// Drops entries of deleted topics.
    fn drop_deleted(&mut self, on_removal: &mut dyn FnMut(Removal<'_>)) {
        while self.budget > 0
            && let Some((topic, entries)) = self.deleted_entries.front_mut()
        {
            let Some(entry) = entries.pop_front() else {
                self.deleted_entries.pop_front();
                continue;
            };
            self.budget -= 1;
            self.hot_bytes -= entry.hot_bytes();
            on_removal(Removal::Event { topic, seq: entry.seq, time_ms: entry.time_ms });
            self.mark_stale(entry.seq);
        }
        if self.deleted_entries.is_empty() {
            self.deleted_entries = VecDeque::new();
        }
    }

    /// Removes the oldest events of `topic` while it is over its limits.
    pub(super) fn trim_topic(&mut self, topic: &TopicName, on_removal: &mut dyn FnMut(Removal<'_>)) {
        while self.topics.get(topic).is_some_and(|state| state.is_over_limit(&self.retention)) {
            if self.budget == 0 {
                self.over_limit.push_back(topic.clone());
                return;
            }
            if let Some(seq) = self.remove_oldest(topic, on_removal) {
                self.mark_stale(seq);
            }
        }
    }

    /// Notes in [`Index::order`] that the entry at `seq` was removed. Older entries, of other topics, may still be
    /// held.
    fn mark_stale(&mut self, seq: u64) {
        self.order.mark_stale(seq, |seq, topic| is_held(&self.topics, seq, topic));
    }

    /// Removes the oldest events of the log while the log is over its limits or these events are too old.
    fn trim_front(&mut self, mono_ms: u64, on_removal: &mut dyn FnMut(Removal<'_>)) {
        let (bytes_max, events_max) = (self.retention.bytes_max.get(), self.retention.events_max);
        let age_max_ms = millis(self.retention.age_max);
        while let Some((seq, topic)) = self.order.front() {
            if self.budget == 0 {
                self.is_trim_unfinished = true;
                return;
            }
            let oldest = self.topics.get(topic).and_then(|state| state.entries.front());
            if let Some(entry) = oldest.filter(|entry| entry.seq == *seq) {
                let expiry_mono_ms = if age_max_ms == 0 { u64::MAX } else { entry.mono_ms.saturating_add(age_max_ms) };
                if self.bytes <= bytes_max && self.events <= events_max && mono_ms <= expiry_mono_ms {
                    self.next_expiry_mono_ms = expiry_mono_ms;
                    return;
                }
                let topic = topic.clone();
                self.remove_oldest(&topic, on_removal);
            } else {
                // The entry is stale.
                self.budget -= 1;
            }
            self.order.pop_front();
        }
    }

    /// Removes the oldest event of `topic`, and returns its position.
    fn remove_oldest(&mut self, topic: &TopicName, on_removal: &mut dyn FnMut(Removal<'_>)) -> Option<u64> {
        let state = self.topics.get_mut(topic)?;
        let entry = state.entries.pop_front()?;
        self.budget = self.budget.saturating_sub(1);
        self.removals += 1;
        let time_ms = self.times.corrected(entry.seq, entry.time_ms);
        state.removed.add(entry.seq, time_ms, self.removals);
        if entry.is_unreadable() {
            state.unreadable -= 1;
        }
        if entry.seq == state.unreadable_to {
            state.unreadable_to = 0;
        }
        state.bytes -= entry.bytes;
        self.bytes -= entry.bytes;
        self.hot_bytes -= entry.hot_bytes();
        self.events -= 1;
        if state.entries.is_empty() {
            state.entries = VecDeque::new();
            self.empty.insert((state.last_removal_seq(), topic.clone()));
        } else if state.entries.len() < state.entries.capacity() / 4 {
            state.entries.shrink_to(state.entries.len() * 2);
        }
        on_removal(Removal::Event { topic, seq: entry.seq, time_ms });
        Some(entry.seq)
    }

    /// Makes the oldest hot entries cold until the hot bytes are within their limit.
    fn cool(&mut self) {
        if self.hot_bytes <= self.hot_bytes_max {
            return;
        }
        for (seq, topic) in self.order.after(self.cold_to) {
            if self.hot_bytes <= self.hot_bytes_max || self.budget == 0 {
                return;
            }
            self.budget -= 1;
            self.cold_to = *seq;
            if let Some(entry) = self.topics.get_mut(topic).and_then(|state| state.entry_mut(*seq))
                && entry.event.take().is_some()
            {
                self.hot_bytes -= entry.bytes;
            }
        }
    }

    /// Forgets the first of the topics without entries. From then on, its removed events are in `forgotten`.
    fn forget_first_empty(&mut self, on_removal: &mut dyn FnMut(Removal<'_>)) {
        let Some((_, topic)) = self.empty.pop_first() else { return };
        let Some(state) = self.topics.remove(&topic) else { return };
        let Missing { to, newest_ms, .. } = state.removed;
        self.forgotten.add(to, newest_ms, self.removals);
        on_removal(Removal::Topic { topic: &topic, removed_to: to, removed_ms: newest_ms });
    }
}
