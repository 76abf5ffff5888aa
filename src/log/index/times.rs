//! Times that were corrected: what the wall clock said before it went back is no time to search by.

use super::{Entry, Index};
use crate::log::clock;

/// What is before this position happened at this time at the latest, whatever it is stamped with.
pub(super) type Correction = (u64, u64);

impl Index {
    /// The wall clock says `wall_ms`, and nothing comes with it.
    pub(in crate::log) fn observe(&mut self, wall_ms: u64) {
        if clock::is_back(self.newest_ms, wall_ms) {
            self.correct((self.watermark + 1, wall_ms));
        }
    }

    /// Notes a time that is before one that was noted.
    pub(super) fn correct(&mut self, (before, time_ms): Correction) {
        let first = self.order.front().map_or(self.watermark, |(seq, _)| *seq);
        self.corrections.retain(|(seq, other)| *seq > first && *other < time_ms);
        self.corrections.push((before, time_ms));
        self.newest_ms = time_ms;
    }

    /// When `entry` happened, by all that is known; never later than a later entry.
    pub(super) fn time_ms(&self, entry: &Entry) -> u64 {
        let later = self.corrections.partition_point(|(before, _)| *before <= entry.seq);
        self.corrections.get(later).map_or(entry.time_ms, |(_, time_ms)| entry.time_ms.min(*time_ms))
    }
}
