//! Adds events, applies the retention limits, and deletes topics, in steps.
//!
//! Readers and publishers wait while the index is locked. So one step, from lock to unlock, drops at most about
//! [`STEP`] entries, however many have become too old or too many. If more are left, [`Index::is_behind`] says so, and
//! the engine makes further steps. A deletion takes effect for readers at once; its entries are dropped in steps, too.

use std::{collections::VecDeque, mem};

use super::{Entry, Index, Removed, is_held};
use crate::{event::TopicName, log::clock::millis};

/// How many entries one step may drop.
pub(in crate::log) const STEP: usize = 4096;
/// How many entries each new event may drop even after the step has used up its budget. With more than one, the limits
/// are met in the end.
pub(super) const STEP_MIN: usize = 4;
/// How many topics without entries stay known. For these a gap is reported only if there is one; for topics that are no
/// longer known, `forgotten_to` may report a gap where there is none.
const EMPTY_MAX: usize = 65_536;

impl Index {
    /// Begins a step. Engines call it each time they have locked the index to change it.
    pub(in crate::log) fn begin_step(&mut self) {
        self.budget = STEP;
    }

    /// Adds the next event of `topic`, and tells `removed` what the limits remove for it.
    pub(in crate::log) fn push(&mut self, topic: &TopicName, entry: Entry, removed: &mut dyn FnMut(Removed<'_>)) {
        debug_assert!(entry.seq > self.watermark, "positions only grow");
        let (seq, mono_ms) = (entry.seq, entry.mono_ms);
        self.budget = self.budget.max(STEP_MIN);
        self.times.note(seq, entry.time_ms);
        self.watermark = seq;
        self.events += 1;
        self.bytes += entry.bytes;
        self.hot_bytes += entry.hot_bytes();
        self.order.push_back(seq, topic.clone());
        let (events_max, bytes_max) = (self.retention.topic_events_max, self.retention.topic_bytes_max.get());
        let log = match self.topics.get_mut(topic) {
            Some(log) => log,
            None => self.topic_log(topic),
        };
        log.bytes += entry.bytes;
        log.events.push_back(entry);
        let is_topic_over = log.events.len() > events_max || log.bytes > bytes_max;
        if is_topic_over {
            self.trim_topic(topic, removed);
        }
        let is_log_over = self.bytes > self.retention.bytes_max.get() || self.events > self.retention.events_max;
        if is_topic_over || is_log_over || mono_ms > self.aged_at_ms || self.must_trim() {
            self.trim(mono_ms, removed);
        } else {
            self.cool();
            self.assert_invariants();
        }
    }

    /// Whether another step is needed to meet the limits.
    pub(in crate::log) fn is_behind(&self) -> bool {
        self.must_trim() || self.hot_bytes > self.hot_bytes_max
    }

    fn must_trim(&self) -> bool {
        self.is_behind || !self.deleted.is_empty() || !self.over_limit.is_empty()
    }

    /// Deletes `topic`. The deletion has the position `seq`.
    pub(in crate::log) fn delete(&mut self, topic: &TopicName, seq: u64, mono_ms: u64) {
        self.watermark = self.watermark.max(seq);
        let is_new = !self.topics.contains_key(topic);
        self.removals += 1;
        let removals = self.removals;
        let log = self.topic_log(topic);
        (log.deleted_to, log.deleted_mono_ms) = (seq, mono_ms);
        let was_empty = log.events.is_empty();
        let (events, bytes) = (mem::take(&mut log.events), mem::take(&mut log.bytes));
        if let Some(last) = events.back() {
            (log.evicted_to, log.evicted_at) = (log.evicted_to.max(last.seq), removals);
            log.evicted_ms = log.evicted_ms.max(last.time_ms);
        }
        let evicted_to = log.evicted_to;
        // A topic that was known and had no entries is in the queue already.
        if is_new || !was_empty {
            self.empty.push_back((evicted_to, topic.clone()));
        }
        self.events -= events.len();
        self.bytes -= bytes;
        self.lost.remove_all(topic);
        if !events.is_empty() {
            self.deleted.push_back((topic.clone(), events));
        }
        self.assert_invariants();
    }

    /// Removes what is over the limits, within the budget of this step.
    pub(in crate::log) fn trim(&mut self, mono_ms: u64, removed: &mut dyn FnMut(Removed<'_>)) {
        self.is_behind = false;
        self.aged_at_ms = 0;
        self.drop_deleted(removed);
        while self.budget > 0
            && let Some(topic) = self.over_limit.pop_front()
        {
            self.trim_topic(&topic, removed);
        }
        self.trim_front(mono_ms, removed);
        while self.empty.len() > EMPTY_MAX {
            if self.budget == 0 {
                self.is_behind = true;
                break;
            }
            self.budget -= 1;
            self.forget_longest_empty(removed);
        }
        self.cool();
        self.assert_invariants();
    }

    /// Drops entries of deleted topics.
    fn drop_deleted(&mut self, removed: &mut dyn FnMut(Removed<'_>)) {
        while self.budget > 0
            && let Some((topic, events)) = self.deleted.front_mut()
        {
            let Some(entry) = events.pop_front() else {
                self.deleted.pop_front();
                continue;
            };
            self.budget -= 1;
            self.hot_bytes -= entry.hot_bytes();
            removed(Removed::Event(topic, entry.seq, entry.time_ms));
            let topics = &self.topics;
            self.order.mark_stale(entry.seq, |seq, topic| is_held(topics, seq, topic));
        }
        if self.deleted.is_empty() {
            self.deleted = VecDeque::new();
        }
    }

    /// Removes the oldest events of `topic` while it is over its limits.
    pub(super) fn trim_topic(&mut self, topic: &TopicName, removed: &mut dyn FnMut(Removed<'_>)) {
        let (events_max, bytes_max) = (self.retention.topic_events_max, self.retention.topic_bytes_max.get());
        while self.topics.get(topic).is_some_and(|log| log.events.len() > events_max || log.bytes > bytes_max) {
            if self.budget == 0 {
                self.over_limit.push_back(topic.clone());
                return;
            }
            if let Some(seq) = self.evict(topic, removed) {
                let topics = &self.topics;
                self.order.mark_stale(seq, |seq, topic| is_held(topics, seq, topic));
            }
        }
    }

    /// Removes the oldest events of the log while it is over its limits or they are too old.
    fn trim_front(&mut self, mono_ms: u64, removed: &mut dyn FnMut(Removed<'_>)) {
        let (bytes_max, events_max) = (self.retention.bytes_max.get(), self.retention.events_max);
        let age_max_ms = millis(self.retention.age_max);
        while let Some((seq, topic)) = self.order.front() {
            if self.budget == 0 {
                self.is_behind = true;
                return;
            }
            let oldest = self.topics.get(topic).and_then(|log| log.events.front());
            if let Some(entry) = oldest.filter(|entry| entry.seq == *seq) {
                let aged_at_ms = if age_max_ms == 0 { u64::MAX } else { entry.mono_ms.saturating_add(age_max_ms) };
                if self.bytes <= bytes_max && self.events <= events_max && mono_ms <= aged_at_ms {
                    self.aged_at_ms = aged_at_ms;
                    return;
                }
                let topic = topic.clone();
                self.evict(&topic, removed);
                self.order.pop_front();
            } else {
                self.budget -= 1;
                self.order.pop_stale();
            }
        }
    }

    /// Removes the oldest event of `topic`, and returns its position.
    fn evict(&mut self, topic: &TopicName, removed: &mut dyn FnMut(Removed<'_>)) -> Option<u64> {
        let log = self.topics.get_mut(topic)?;
        let entry = log.events.pop_front()?;
        self.budget = self.budget.saturating_sub(1);
        self.removals += 1;
        (log.evicted_to, log.evicted_at) = (log.evicted_to.max(entry.seq), self.removals);
        let time_ms = self.times.corrected(entry.seq, entry.time_ms);
        log.evicted_ms = log.evicted_ms.max(time_ms);
        log.bytes -= entry.bytes;
        self.bytes -= entry.bytes;
        self.hot_bytes -= entry.hot_bytes();
        self.events -= 1;
        if log.events.is_empty() {
            log.events = VecDeque::new();
            self.empty.push_back((log.evicted_to, topic.clone()));
        } else if log.events.len() < log.events.capacity() / 4 {
            log.events.shrink_to(log.events.len() * 2);
        }
        removed(Removed::Event(topic, entry.seq, time_ms));
        if entry.is_lost() {
            self.lost.remove_one(topic);
        }
        Some(entry.seq)
    }

    /// Makes the oldest hot entries cold until the hot bytes are within their budget.
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
            let Some(log) = self.topics.get_mut(topic) else { continue };
            let at = log.events.partition_point(|entry| entry.seq < *seq);
            if let Some(entry) = log.events.get_mut(at).filter(|entry| entry.seq == *seq)
                && entry.event.take().is_some()
            {
                self.hot_bytes -= entry.bytes;
            }
        }
    }

    /// Removes the topic that has been empty for the longest time. From then on `forgotten_to` stands for its removals.
    fn forget_longest_empty(&mut self, removed: &mut dyn FnMut(Removed<'_>)) {
        let Some((evicted_to, topic)) = self.empty.pop_front() else { return };
        let Some(log) = self.topics.get(&topic) else { return };
        if !log.events.is_empty() || log.evicted_to != evicted_to {
            // It has had events since. When it became empty again, it was queued again.
            return;
        }
        let evicted_ms = log.evicted_ms;
        self.topics.remove(&topic);
        self.forgotten_ms = self.forgotten_ms.max(evicted_ms);
        self.forgotten_to = self.forgotten_to.max(evicted_to);
        self.forgotten_at = self.removals;
        removed(Removed::Topic(&topic, evicted_to, evicted_ms));
    }
}
