//! The times of events, corrected so that they never decrease with the position.
//!
//! Every event keeps the time that the wall clock said. When the clock goes back, earlier events have later times than
//! the events after them, and a search by time would miss events. So each time the clock goes back, the index adds a
//! correction.

use crate::log::clock;

/// A position and a time in milliseconds: events before the position count as no later than the time.
type Correction = (u64, u64);

/// The newest time, and the corrections of earlier ones.
#[derive(Debug, Default)]
pub(super) struct Times {
    /// Time of the newest event, or what the wall clock said when it went back after that event.
    pub(super) newest_ms: u64,
    /// In ascending order of position and of time. A correction applies to every event before its position. If several
    /// apply to an event, the first of them has the earliest time, so only that one counts.
    corrections: Vec<Correction>,
}

/// Corrections that are remembered. Without an older one, `since=` may return events from before the time asked for.
const CORRECTIONS_MAX: usize = 1024;

impl Times {
    /// Notes that the event at `seq`, the newest one, has the time `time_ms`.
    pub(super) fn note(&mut self, seq: u64, time_ms: u64) {
        if time_ms < self.newest_ms {
            self.correct((seq, time_ms));
        }
        self.newest_ms = time_ms;
    }

    /// Notes that the wall clock says `wall_ms`, although no event has that time. `next` is the position of the next
    /// event.
    pub(super) fn observe(&mut self, next: u64, wall_ms: u64) {
        if clock::has_gone_back(self.newest_ms, wall_ms) {
            self.correct((next, wall_ms));
        }
    }

    /// Adds a correction of all events so far. Older corrections to the same or a later time change nothing any more,
    /// so they are removed.
    fn correct(&mut self, (before, time_ms): Correction) {
        self.corrections.retain(|(_, other)| *other < time_ms);
        if self.corrections.len() == CORRECTIONS_MAX {
            self.corrections.remove(0);
        }
        self.corrections.push((before, time_ms));
        self.newest_ms = time_ms;
    }

    /// The corrected time of the event at `seq`, which says `time_ms`.
    pub(super) fn corrected(&self, seq: u64, time_ms: u64) -> u64 {
        let at = self.corrections.partition_point(|(before, _)| *before <= seq);
        self.corrections.get(at).map_or(time_ms, |(_, latest_ms)| time_ms.min(*latest_ms))
    }

    pub(super) fn assert_invariants(&self) {
        let is_in_order = self.corrections.is_sorted_by(|a, b| a.0 <= b.0 && a.1 < b.1);
        assert!(is_in_order, "corrections are in order of position and of time");
        assert!(
            self.corrections.last().is_none_or(|(_, time_ms)| *time_ms <= self.newest_ms),
            "the newest time is not before a correction"
        );
    }
}
