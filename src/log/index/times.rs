//! Times that were corrected: what the wall clock said before it went back is no time to search by.

use crate::log::clock;

/// What is before this position happened at this time at the latest, whatever it is stamped with.
type Correction = (u64, u64);

/// When the events happened, by all that is known.
#[derive(Debug, Default)]
pub(super) struct Times {
    /// The time of the newest event, or what the wall clock has gone back to since.
    newest_ms: u64,
    /// In order of position, and of time.
    corrections: Vec<Correction>,
}

/// Steps back that are remembered. Without the oldest of them `since=` may give too much.
const CORRECTIONS_MAX: usize = 1024;

impl Times {
    pub(super) fn newest_ms(&self) -> u64 {
        self.newest_ms
    }

    /// The event at `seq` comes, and is stamped with `time_ms`.
    pub(super) fn note(&mut self, seq: u64, time_ms: u64) {
        if time_ms < self.newest_ms {
            self.correct((seq, time_ms));
        }
        self.newest_ms = time_ms;
    }

    /// The wall clock says `wall_ms` before the event at `next` comes.
    pub(super) fn observe(&mut self, next: u64, wall_ms: u64) {
        if clock::has_gone_back(self.newest_ms, wall_ms) {
            self.correct((next, wall_ms));
        }
    }

    /// Notes a time that is before one that was noted.
    fn correct(&mut self, (before, time_ms): Correction) {
        self.corrections.retain(|(_, other)| *other < time_ms);
        if self.corrections.len() == CORRECTIONS_MAX {
            self.corrections.remove(0);
        }
        self.corrections.push((before, time_ms));
        self.newest_ms = time_ms;
    }

    /// What happened at `seq` or before it, and is stamped with `time_ms`, happened then at the latest.
    pub(super) fn at_most(&self, seq: u64, time_ms: u64) -> u64 {
        let later = self.corrections.partition_point(|(before, _)| *before <= seq);
        self.corrections.get(later).map_or(time_ms, |(_, at_most)| time_ms.min(*at_most))
    }

    pub(super) fn assert_invariants(&self) {
        let is_in_order = self.corrections.is_sorted_by(|a, b| a.0 <= b.0 && a.1 < b.1);
        assert!(is_in_order, "corrections are in order of position and of time");
        assert!(
            self.corrections.last().is_none_or(|(_, time_ms)| *time_ms <= self.newest_ms),
            "time has gone on since"
        );
    }
}
