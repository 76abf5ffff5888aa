//! Retention: what goes, and in which steps.
//!
//! Readers and publishers wait while the index is locked. So no more than [`STEP`] events are taken apart at once,
//! whatever has become too old or too much in a moment; what is left is [`Index::is_behind`], and goes with the next
//! steps. A deletion is complete at once for everybody who reads, and taken apart the same way.

use std::{collections::VecDeque, mem};

use super::{Entry, Index, Removed, is_held};
use crate::{event::TopicName, log::clock::millis};

/// Events that are taken apart while the index is locked.
pub(in crate::log) const STEP: usize = 4096;
/// How many of them an event may drive out even when that is used up: more than one, so that limits are kept in the end.
pub(super) const STEP_MIN: usize = 4;
/// Empty topics whose last position is remembered, so that a gap is reported exactly when there is one.
const EMPTY_MAX: usize = 65_536;

impl Index {
    /// The index has been locked: another step may be made.
    pub(in crate::log) fn begin_step(&mut self) {
        self.budget = STEP;
    }

    /// Adds the next event of `topic`. What that drives out goes to `removed`.
    pub(in crate::log) fn push(&mut self, topic: &TopicName, entry: Entry, removed: &mut dyn FnMut(Removed<'_>)) {
        debug_assert!(entry.seq > self.watermark, "positions only grow");
        let (seq, now_ms) = (entry.seq, entry.at_ms);
        // At least a few steps are always left for an event that comes.
        self.budget = self.budget.max(STEP_MIN);
        self.times.note(seq, entry.time_ms);
        self.watermark = seq;
        self.events += 1;
        self.bytes += entry.bytes;
        self.hot_bytes += if entry.event.is_some() { entry.bytes } else { 0 };
        self.order.push_back(seq, topic.clone());
        let (events_max, bytes_max) = (self.retention.topic_events_max, self.retention.topic_bytes_max.get());
        let log = match self.topics.get_mut(topic) {
            Some(log) => log,
            None => self.topic_log(topic),
        };
        log.bytes += entry.bytes;
        log.events.push_back(entry);
        let over = log.events.len() > events_max || log.bytes > bytes_max;
        if over {
            self.trim_topic(topic, removed);
        }
        let full = self.bytes > self.retention.bytes_max.get() || self.events > self.retention.events_max;
        if over || full || now_ms > self.aged_at_ms || self.must_trim() {
            self.trim(now_ms, removed);
        } else {
            self.cool();
            self.assert_invariants();
        }
    }

    /// Whether something is left to be taken apart.
    pub(in crate::log) fn is_behind(&self) -> bool {
        self.must_trim() || self.hot_bytes > self.hot_bytes_max
    }

    fn must_trim(&self) -> bool {
        self.is_behind || !self.deleted.is_empty() || !self.over_limit.is_empty()
    }

    /// Forgets what `topic` holds; the deletion stands at `seq`, and is of this moment.
    pub(in crate::log) fn forget(&mut self, topic: &TopicName, seq: u64, now_ms: u64) {
        self.watermark = self.watermark.max(seq);
        let is_new = !self.topics.contains_key(topic);
        self.removals += 1;
        let removals = self.removals;
        let log = self.topic_log(topic);
        (log.deleted_to, log.deleted_at_ms) = (seq, now_ms);
        let was_empty = log.events.is_empty();
        let (events, bytes) = (mem::take(&mut log.events), mem::take(&mut log.bytes));
        if let Some(last) = events.back() {
            (log.evicted_to, log.evicted_at) = (log.evicted_to.max(last.seq), removals);
            log.evicted_ms = log.evicted_ms.max(last.time_ms);
        }
        let mark = log.evicted_to;
        // One that was known and empty is in the queue since it became so.
        if is_new || !was_empty {
            self.empty.push_back((mark, topic.clone()));
        }
        self.events -= events.len();
        self.bytes -= bytes;
        self.lost.remove_all(topic);
        if !events.is_empty() {
            self.deleted.push_back((topic.clone(), events));
        }
        self.assert_invariants();
    }

    /// Removes what the bounds do not allow, as far as this step goes.
    pub(in crate::log) fn trim(&mut self, now_ms: u64, removed: &mut dyn FnMut(Removed<'_>)) {
        self.is_behind = false;
        self.aged_at_ms = 0;
        self.drop_deleted(removed);
        while self.budget > 0
            && let Some(topic) = self.over_limit.pop_front()
        {
            self.trim_topic(&topic, removed);
        }
        self.trim_front(now_ms, removed);
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

    /// What deletions have left.
    fn drop_deleted(&mut self, removed: &mut dyn FnMut(Removed<'_>)) {
        while self.budget > 0
            && let Some((topic, events)) = self.deleted.front_mut()
        {
            let Some(entry) = events.pop_front() else {
                self.deleted.pop_front();
                continue;
            };
            self.budget -= 1;
            self.hot_bytes -= if entry.event.is_some() { entry.bytes } else { 0 };
            removed(Removed::Event(topic, entry.seq, entry.time_ms));
            let topics = &self.topics;
            self.order.mark_stale(entry.seq, |seq, topic| is_held(topics, seq, topic));
        }
        if self.deleted.is_empty() {
            self.deleted = VecDeque::new();
        }
    }

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

    /// From the front what the bounds over all topics do not allow.
    fn trim_front(&mut self, now_ms: u64, removed: &mut dyn FnMut(Removed<'_>)) {
        let (bytes_max, events_max) = (self.retention.bytes_max.get(), self.retention.events_max);
        let age_max_ms = millis(self.retention.age_max);
        while let Some((seq, topic)) = self.order.front() {
            if self.budget == 0 {
                self.is_behind = true;
                return;
            }
            let oldest = self.topics.get(topic).and_then(|log| log.events.front());
            if let Some(entry) = oldest.filter(|entry| entry.seq == *seq) {
                let aged_at_ms = if age_max_ms == 0 { u64::MAX } else { entry.at_ms.saturating_add(age_max_ms) };
                if self.bytes <= bytes_max && self.events <= events_max && now_ms <= aged_at_ms {
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

    /// Removes the oldest event of `topic`; its position.
    fn evict(&mut self, topic: &TopicName, removed: &mut dyn FnMut(Removed<'_>)) -> Option<u64> {
        let log = self.topics.get_mut(topic)?;
        let entry = log.events.pop_front()?;
        self.budget = self.budget.saturating_sub(1);
        self.removals += 1;
        (log.evicted_to, log.evicted_at) = (log.evicted_to.max(entry.seq), self.removals);
        let time_ms = self.times.at_most(entry.seq, entry.time_ms);
        log.evicted_ms = log.evicted_ms.max(time_ms);
        log.bytes -= entry.bytes;
        self.bytes -= entry.bytes;
        self.hot_bytes -= if entry.event.is_some() { entry.bytes } else { 0 };
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

    /// Lets go of the oldest events that are kept whole, until the rest is within the budget.
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

    fn forget_longest_empty(&mut self, removed: &mut dyn FnMut(Removed<'_>)) {
        let Some((mark, topic)) = self.empty.pop_front() else { return };
        if let Some(log) = self.topics.get(&topic).filter(|log| log.events.is_empty() && log.evicted_to == mark) {
            let evicted_ms = log.evicted_ms;
            self.topics.remove(&topic);
            self.forgotten_ms = self.forgotten_ms.max(evicted_ms);
            self.forgotten_to = self.forgotten_to.max(mark);
            self.forgotten_at = self.removals;
            removed(Removed::Topic(&topic, mark, evicted_ms));
        }
    }
}
