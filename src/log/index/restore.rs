//! From what an engine has stored back to an index: topics, then events in order of position, then the marks.

use super::{Entry, Index, Removed, TopicLog};
use crate::{event::TopicName, log::clock::Moment};

/// What an engine remembers of all topics together.
#[derive(Clone, Copy, Debug)]
pub(in crate::log) struct Marks {
    /// The last position that may have been given.
    pub(in crate::log) last: u64,
    /// Topics of which nothing else is remembered have lost nothing after this position.
    pub(in crate::log) forgotten_to: u64,
    /// When the newest of those happened; 0 where that is not known.
    pub(in crate::log) forgotten_ms: u64,
    /// Any topic may have lost events up to here.
    pub(in crate::log) hole_to: u64,
    /// As above, because a start could not read them.
    pub(in crate::log) unreadable_to: u64,
}

impl Index {
    /// Takes back a topic before its events: up to where it has lost some, and when the newest of those was, 0 where that is
    /// not known; where it was deleted, and when.
    pub(in crate::log) fn restore_topic(&mut self, topic: &TopicName, evicted: (u64, u64), deleted: (u64, u64)) {
        let ((evicted_to, evicted_ms), (deleted_to, deleted_at_ms)) = (evicted, deleted);
        let log = TopicLog { evicted_to, evicted_ms, deleted_to, deleted_at_ms, ..TopicLog::default() };
        self.topics.insert(topic.clone(), log);
    }

    /// Takes back an event, in order of position. One at or before `deleted_to` is gone, and that is noted.
    pub(in crate::log) fn restore(&mut self, topic: &TopicName, deleted_to: u64, entry: Entry) -> bool {
        self.watermark = entry.seq;
        if entry.time_ms < self.newest_ms {
            self.correct((entry.seq, entry.time_ms));
        }
        self.newest_ms = entry.time_ms;
        let Some(log) = self.topics.get_mut(topic) else { return false };
        if entry.seq <= deleted_to || entry.seq <= log.evicted_to {
            log.evicted_to = log.evicted_to.max(entry.seq);
            log.evicted_ms = log.evicted_ms.max(entry.time_ms);
            return false;
        }
        self.events += 1;
        self.bytes += entry.bytes;
        self.order.push_back(entry.seq, topic.clone());
        // Else the first event to cool would look at every one restored, all at once.
        self.cold_to = entry.seq;
        log.bytes += entry.bytes;
        log.events.push_back(entry);
        true
    }

    /// Takes back what concerns all topics, after their events, and does what retention would have done meanwhile.
    pub(in crate::log) fn restore_marks(
        &mut self,
        Marks { last, forgotten_to, forgotten_ms, hole_to, unreadable_to }: Marks,
        now: Moment,
        removed: &mut dyn FnMut(Removed<'_>),
    ) {
        self.watermark = self.watermark.max(last);
        self.forgotten_ms = forgotten_ms;
        (self.forgotten_to, self.hole_to, self.unreadable_to) = (forgotten_to, hole_to, unreadable_to);
        // Nobody waits for a log that is being opened.
        self.step = usize::MAX;
        self.observe(now.wall_ms);
        self.age(now);
        self.date_removals(now.wall_ms);
        let topics: Vec<TopicName> = self.topics.keys().cloned().collect();
        for topic in topics {
            self.trim_topic(&topic, removed);
        }
        let empty = self.topics.iter().filter(|(_, log)| log.events.is_empty());
        let mut empty: Vec<_> = empty.map(|(topic, log)| (log.evicted_to, topic.clone())).collect();
        empty.sort_unstable();
        self.empty = empty.into();
        self.trim(now.at_ms, removed);
    }

    /// Tells every entry how old it is. Only now, because a correction that came later concerns those before it.
    fn age(&mut self, now: Moment) {
        let mut topics = std::mem::take(&mut self.topics);
        for entry in topics.values_mut().flat_map(|log| log.events.iter_mut()) {
            entry.at_ms = now.before(self.time_ms(entry));
        }
        self.topics = topics;
    }

    /// Events and topics held.
    pub(in crate::log) fn size(&self) -> (usize, usize) {
        (self.events, self.topics.len())
    }
}
