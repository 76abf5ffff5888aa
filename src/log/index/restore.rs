//! Fills the index from what an engine has stored: first the topics, then the events in order of position, then the
//! marks.

use super::{Entry, Index, Marks, Removed, TopicLog};
use crate::{event::TopicName, log::clock::Moment};

impl Index {
    /// Adds a topic, before its events. `evicted` is the position and time of its last removed event; the time is 0
    /// when it is not known. `deleted` is the position and monotonic time of its last deletion.
    pub(in crate::log) fn restore_topic(&mut self, topic: &TopicName, evicted: (u64, u64), deleted: (u64, u64)) {
        let ((evicted_to, evicted_ms), (deleted_to, deleted_mono_ms)) = (evicted, deleted);
        let log = TopicLog { evicted_to, evicted_ms, deleted_to, deleted_mono_ms, ..TopicLog::default() };
        self.topics.insert(topic.clone(), log);
    }

    /// Adds the next event, unless it was removed: with a deletion at `deleted_to`, or before the topic's last removed
    /// event. Returns whether it was added.
    pub(in crate::log) fn restore(&mut self, topic: &TopicName, deleted_to: u64, entry: Entry) -> bool {
        self.watermark = entry.seq;
        self.times.note(entry.seq, entry.time_ms);
        let Some(log) = self.topics.get_mut(topic) else { return false };
        if entry.seq <= deleted_to || entry.seq <= log.evicted_to {
            log.evicted_to = log.evicted_to.max(entry.seq);
            log.evicted_ms = log.evicted_ms.max(entry.time_ms);
            return false;
        }
        self.events += 1;
        self.bytes += entry.bytes;
        self.order.push_back(entry.seq, topic.clone());
        // The entry is cold. Without this, the first call of `cool` would visit every restored entry.
        self.cold_to = entry.seq;
        log.bytes += entry.bytes;
        log.events.push_back(entry);
        true
    }

    /// Adds what is known of all topics together, after their events, and applies the retention limits.
    pub(in crate::log) fn restore_marks(
        &mut self,
        Marks { last, forgotten_to, forgotten_ms, hole_to, unreadable_to }: Marks,
        now: Moment,
        removed: &mut dyn FnMut(Removed<'_>),
    ) {
        self.watermark = self.watermark.max(last);
        self.forgotten_ms = forgotten_ms;
        (self.forgotten_to, self.hole_to, self.unreadable_to) = (forgotten_to, hole_to, unreadable_to);
        // Nobody waits for the lock yet, so one step does everything.
        self.budget = usize::MAX;
        self.observe(now.wall_ms);
        self.set_ages(now);
        self.date_removals(now.wall_ms);
        let topics: Vec<TopicName> = self.topics.keys().cloned().collect();
        for topic in topics {
            self.trim_topic(&topic, removed);
        }
        let empty = self.topics.iter().filter(|(_, log)| log.events.is_empty());
        let mut empty: Vec<_> = empty.map(|(topic, log)| (log.evicted_to, topic.clone())).collect();
        empty.sort_unstable();
        self.empty = empty.into();
        self.trim(now.mono_ms, removed);
    }

    /// Sets the monotonic time of every entry. This comes after all events, because a correction applies to those
    /// before it.
    fn set_ages(&mut self, now: Moment) {
        let mut topics = std::mem::take(&mut self.topics);
        for entry in topics.values_mut().flat_map(|log| log.events.iter_mut()) {
            entry.mono_ms = now.mono_ms_of(self.time_ms(entry));
        }
        self.topics = topics;
    }

    /// Limits the time of removed events to the time of the first event after them. If the engine did not know their
    /// time, this limit is used as the time.
    fn date_removals(&mut self, wall_ms: u64) {
        let end_ms = self.times.newest_ms().max(wall_ms);
        let mut topics = std::mem::take(&mut self.topics);
        for log in topics.values_mut().filter(|log| log.evicted_to > 0) {
            let next_ms = log.events.front().map_or(end_ms, |entry| self.time_ms(entry));
            log.evicted_ms = if log.evicted_ms == 0 { next_ms } else { log.evicted_ms.min(next_ms) };
        }
        self.topics = topics;
        self.forgotten_ms = if self.forgotten_ms == 0 { end_ms } else { self.forgotten_ms.min(end_ms) };
        self.hole_ms = self.next_ms(self.hole_to).unwrap_or(end_ms);
        self.unreadable_ms = self.next_ms(self.unreadable_to).unwrap_or(end_ms);
    }

    /// Time of the first event after `seq`.
    fn next_ms(&self, seq: u64) -> Option<u64> {
        let (at, topic) = self.order.after(seq).next()?;
        let log = self.topics.get(topic)?;
        log.events.get(log.events.partition_point(|entry| entry.seq < *at)).map(|entry| self.time_ms(entry))
    }
}
