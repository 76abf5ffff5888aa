//! Fills the index from what an engine has stored: first the topics, then the events in order of position, then what
//! concerns all topics.

use super::{Entry, Index, LogState, Missing, Removal, TopicState, is_held};
use crate::{event::TopicName, log::clock::Moment};

impl Index {
    /// Adds a topic, before its events: its removed events, and the position and time of its last deletion.
    pub(in crate::log) fn restore_topic(
        &mut self,
        topic: &TopicName,
        removed: Missing,
        deleted_to: u64,
        deleted_mono_ms: u64,
    ) {
        self.topics.insert(topic.clone(), TopicState { removed, deleted_to, deleted_mono_ms, ..TopicState::default() });
    }

    /// Adds the next event of `topic`, unless the event was removed: the topic's last deletion or last removed event
    /// has the position of `entry` or a later one. Returns whether the event was added.
    pub(in crate::log) fn restore_event(&mut self, topic: &TopicName, entry: Entry) -> bool {
        self.watermark = entry.seq;
        self.times.note(entry.seq, entry.time_ms);
        let Some(state) = self.topics.get_mut(topic) else { return false };
        if entry.seq <= state.deleted_to.max(state.removed.to) {
            // The removal has no number, because it was before the log was opened.
            state.removed.add(entry.seq, entry.time_ms, 0);
            return false;
        }
        // The entry is cold. Otherwise the first call of `cool` would visit every restored entry.
        self.cold_to = entry.seq;
        self.insert(topic, entry);
        true
    }

    /// Adds what is known of all topics together, after their events, and applies the retention limits.
    pub(in crate::log) fn restore_log(
        &mut self,
        stored: LogState,
        now: Moment,
        on_removal: &mut dyn FnMut(Removal<'_>),
    ) {
        self.watermark = self.watermark.max(stored.reserved);
        (self.forgotten.to, self.forgotten.newest_ms) = (stored.forgotten_to, stored.forgotten_ms);
        (self.hole.to, self.unreadable_at_start.to) = (stored.hole_to, stored.unreadable_to);
        // Nobody waits for the lock yet, so one step does everything.
        self.budget = usize::MAX;
        self.times.observe(self.watermark + 1, now.wall_ms);
        self.restore_times(now);
        let topics: Vec<TopicName> = self.topics.keys().cloned().collect();
        for topic in topics {
            self.trim_topic(&topic, on_removal);
        }
        let empty = self.topics.iter().filter(|(_, state)| state.entries.is_empty());
        self.empty = empty.map(|(topic, state)| (state.last_removal_seq(), topic.clone())).collect();
        self.trim(now.mono_ms, on_removal);
    }

    /// The held events after `seq`, each with its topic, in order of position.
    pub(in crate::log) fn held_after(&self, seq: u64) -> impl Iterator<Item = (u64, &TopicName)> {
        let in_order = self.order.after(seq).filter(|(seq, topic)| is_held(&self.topics, *seq, topic));
        in_order.map(|(seq, topic)| (*seq, topic))
    }

    /// Each topic with its removed events and the position of its last deletion, 0 when there was none.
    pub(in crate::log) fn removed(&self) -> impl Iterator<Item = (&TopicName, Missing, u64)> {
        self.topics.iter().map(|(topic, state)| (topic, state.removed, state.deleted_to))
    }

    /// The events that are missing and may be of any topic.
    pub(in crate::log) fn removed_of_any(&self) -> Missing {
        let mut all = Missing::default();
        for missing in
            [self.forgotten, self.hole, self.unreadable_at_start].into_iter().filter(|missing| missing.to > 0)
        {
            all.add(missing.to, missing.newest_ms, missing.removal);
        }
        all
    }

    /// Sets the monotonic time of every entry, and the time of the missing events. All events must be restored before,
    /// because each may correct the times of earlier ones.
    fn restore_times(&mut self, now: Moment) {
        let end_ms = self.times.newest_ms.max(now.wall_ms);
        for state in self.topics.values_mut() {
            for entry in &mut state.entries {
                entry.mono_ms = now.mono_ms_of(self.times.corrected(entry.seq, entry.time_ms));
            }
            if state.removed.to > 0 {
                // The removed events were before the first entry.
                let first = state.entries.front();
                let first_ms = first.map_or(end_ms, |entry| self.times.corrected(entry.seq, entry.time_ms));
                state.removed.limit_time(first_ms);
            }
        }
        self.forgotten.limit_time(end_ms);
        self.hole.limit_time(self.first_ms_after(self.hole.to).unwrap_or(end_ms));
        self.unreadable_at_start.limit_time(self.first_ms_after(self.unreadable_at_start.to).unwrap_or(end_ms));
    }

    /// Time of the first event after `seq`.
    fn first_ms_after(&self, seq: u64) -> Option<u64> {
        let (_, topic) = self.order.after(seq).next()?;
        self.topics.get(topic)?.after(seq).next().map(|entry| self.time_ms(entry))
    }
}

impl Missing {
    /// Notes that no missing event is newer than `first_ms`, the time of the first event after the missing ones. If
    /// the time of the newest missing event is not known (0), `first_ms` takes its place.
    fn limit_time(&mut self, first_ms: u64) {
        self.newest_ms = if self.newest_ms == 0 { first_ms } else { self.newest_ms.min(first_ms) };
    }
}
