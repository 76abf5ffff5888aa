//! The times of events, corrected so that they never decrease with the position.
//!
//! Every event keeps the time that the wall clock said. When the clock goes back, earlier events have later times than
//! the events after them, and a search by time would miss events. So each time the clock goes back, the index adds a
//! correction. For example, event 7 is from 12:00, the clock is set back, and event 8 is from 11:00. Then events before
//! 8 count as no later than 11:00.

use crate::log::clock;

/// Events before the position `before` count as no later than `latest_ms`.
#[derive(Debug)]
struct Correction {
    before: u64,
    latest_ms: u64,
}

/// The newest time, and the corrections of earlier ones.
#[derive(Debug, Default)]
pub(super) struct Times {
    /// Time of the newest event. If the wall clock went back after that event, what the clock said then.
    pub(super) newest_ms: u64,
    /// In ascending order of position and of time. If several corrections apply to an event, the first of them has the
    /// earliest time, so only that one counts.
    corrections: Vec<Correction>,
}

/// How many corrections are remembered. When an older one is dropped, `since=` may also return events from before the
/// time asked for.
const CORRECTIONS_MAX: usize = 1024;

impl Times {
    /// Notes that the event at `seq`, the newest one, has the time `time_ms`.
    pub(super) fn note(&mut self, seq: u64, time_ms: u64) {
        if time_ms < self.newest_ms {
            self.correct(Correction { before: seq, latest_ms: time_ms });
        }
        self.newest_ms = time_ms;
    }

    /// Notes that the wall clock says `wall_ms`, although no event has that time. `next` is the position of the next
    /// event.
    pub(super) fn observe(&mut self, next: u64, wall_ms: u64) {
        if clock::has_gone_back(self.newest_ms, wall_ms) {
            self.correct(Correction { before: next, latest_ms: wall_ms });
        }
    }

    /// Adds a correction of all events so far. Older corrections to the same or a later time change nothing any more,
    /// so they are removed.
    fn correct(&mut self, correction: Correction) {
        self.newest_ms = correction.latest_ms;
        self.corrections.retain(|older| older.latest_ms < correction.latest_ms);
        if self.corrections.len() == CORRECTIONS_MAX {
            self.corrections.remove(0);
        }
        self.corrections.push(correction);
    }

    /// The corrected time of the event at `seq`, which says `time_ms`.
    pub(super) fn corrected(&self, seq: u64, time_ms: u64) -> u64 {
        let at = self.corrections.partition_point(|correction| correction.before <= seq);
        self.corrections.get(at).map_or(time_ms, |correction| time_ms.min(correction.latest_ms))
    }

    pub(super) fn assert_invariants(&self) {
        let is_in_order = self.corrections.is_sorted_by(|a, b| a.before <= b.before && a.latest_ms < b.latest_ms);
        assert!(is_in_order, "corrections are in order of position and of time");
        assert!(
            self.corrections.last().is_none_or(|correction| correction.latest_ms <= self.newest_ms),
            "the newest time is not before a correction"
        );
    }
}
