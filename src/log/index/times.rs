//! Times that were corrected: what the wall clock said before it went back is no time to search by.

use super::{Entry, Index};
use crate::{event::TopicName, log::clock};

/// What is before this position happened at this time at the latest, whatever it is stamped with.
pub(super) type Correction = (u64, u64);

/// Steps back that are remembered. Without the oldest of them `since=` may give too much.
const CORRECTIONS_MAX: usize = 1024;

impl Index {
    /// The wall clock says `wall_ms`, and nothing comes with it.
    pub(in crate::log) fn observe(&mut self, wall_ms: u64) {
        if clock::is_back(self.newest_ms, wall_ms) {
            self.correct((self.watermark + 1, wall_ms));
        }
    }

    /// Notes a time that is before one that was noted.
    pub(super) fn correct(&mut self, (before, time_ms): Correction) {
        self.corrections.retain(|(_, other)| *other < time_ms);
        if self.corrections.len() == CORRECTIONS_MAX {
            self.corrections.remove(0);
        }
        self.corrections.push((before, time_ms));
        self.newest_ms = time_ms;
    }

    /// When `entry` happened, by all that is known; never later than a later entry.
    pub(super) fn time_ms(&self, entry: &Entry) -> u64 {
        at_most(&self.corrections, entry.seq, entry.time_ms)
    }

    /// Whether events of `topic` are missing that happened at `time_ms` or later.
    pub(super) fn has_lost_since(&self, topic: &TopicName, time_ms: u64) -> bool {
        let (to, ms) = match self.topics.get(topic) {
            Some(log) => (log.evicted_to, log.evicted_ms),
            None => (self.forgotten_to, self.forgotten_ms),
        };
        to > 0 && at_most(&self.corrections, to, ms) >= time_ms
    }

    /// Gives what was removed before this process a time no later than what is known to have come after it; where none
    /// was noted, that is all there is to go by.
    pub(super) fn date_removals(&mut self, wall_ms: u64) {
        let end_ms = self.newest_ms.max(wall_ms);
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

    /// When the first event after `seq` that is held happened.
    fn next_ms(&self, seq: u64) -> Option<u64> {
        let (at, topic) = self.order.after(seq).next()?;
        let log = self.topics.get(topic)?;
        log.events.get(log.events.partition_point(|entry| entry.seq < *at)).map(|entry| self.time_ms(entry))
    }
}

/// What happened at `seq` or before it, and is stamped with `time_ms`, happened then at the latest.
pub(super) fn at_most(corrections: &[Correction], seq: u64, time_ms: u64) -> u64 {
    let later = corrections.partition_point(|(before, _)| *before <= seq);
    corrections.get(later).map_or(time_ms, |(_, at_most)| time_ms.min(*at_most))
}
