//! Old receipts: which of them answer no retry any more, and when the writer removes some.
//!
//! A receipt has the time of the wall clock. When that clock is set, receipts from before look older or younger than
//! they are, and a retry must not become a new event for it. So for one window after the clock was set, receipts are
//! judged by what it was before and by what it is now, whichever keeps them longer. After that, all receipts from
//! before are older than the window, and the wall clock alone decides.

use std::time::Duration;

use super::{
    batch::TimeRange,
    column::{number, position},
    error::StoreError,
    store::Store,
};
use crate::log::clock::{Clock, Moment, TOLERANCE_MS, millis};

/// What there is to remove of receipts.
pub(super) struct Expiry {
    /// How long a receipt counts.
    window_ms: u64,
    /// There are some that do not count any more, as far as is known.
    has_expired: bool,
    /// Some are on damaged pages: none is removed any more.
    is_stopped: bool,
    wall: WallClock,
}

/// How the wall clock was set: by how much it is ahead of the log's own time.
struct WallClock {
    /// When it was set last, in the log's own time.
    set_at_ms: u64,
    /// By how much it was ahead then. Later readings are compared with this one: many small steps are noticed, too.
    ahead_ms: i64,
    /// The least and the most within the last window, in milliseconds.
    range: (i64, i64),
}

impl Expiry {
    pub(super) fn new(window: Duration, now: Moment) -> Self {
        let ahead_ms = now.ahead_ms();
        Self {
            window_ms: millis(window),
            has_expired: false,
            is_stopped: false,
            wall: WallClock { set_at_ms: now.at_ms, ahead_ms, range: (ahead_ms, ahead_ms) },
        }
    }

    /// Looks for old receipts, which costs no write.
    pub(super) fn find_expired(&mut self, store: &Store, clock: &Clock) -> Result<(), StoreError> {
        if self.is_stopped {
            return Ok(());
        }
        let now = clock.now();
        self.wall.observe(now, self.window_ms);
        self.has_expired = match store.has_receipts_outside(self.range_at(now)) {
            // The publish that needs to write there ends the process, if it must end; nothing of this has to be done.
            Err(error) if error.is_damage() || store.is_full(&error) => false,
            found => found?,
        };
        Ok(())
    }

    /// The times of those to remove are outside of these; `None` when there is nothing to remove.
    pub(super) fn kept_range(&self, clock: &Clock) -> Option<TimeRange> {
        self.has_expired.then(|| self.range_at(clock.now()))
    }

    pub(super) fn has_expired(&self) -> bool {
        self.has_expired
    }

    /// Says whether there is something to remove at once; the next look says it anew.
    pub(super) fn set_has_expired(&mut self, has_expired: bool) {
        self.has_expired = has_expired;
    }

    /// None is removed in this process any more.
    pub(super) fn stop(&mut self) {
        (self.has_expired, self.is_stopped) = (false, true);
    }

    fn range_at(&self, now: Moment) -> TimeRange {
        let (least_ms, most_ms) = self.wall.range_with(now.ahead_ms());
        let wall_ms = |ahead_ms: i64| position(number(now.at_ms).saturating_add(ahead_ms));
        (wall_ms(least_ms).saturating_sub(self.window_ms), wall_ms(most_ms).saturating_add(self.window_ms))
    }
}

impl WallClock {
    /// Takes note of what it says now.
    fn observe(&mut self, now: Moment, window_ms: u64) {
        let ahead_ms = now.ahead_ms();
        if ahead_ms.abs_diff(self.ahead_ms) > TOLERANCE_MS {
            (self.set_at_ms, self.ahead_ms) = (now.at_ms, ahead_ms);
            self.range = self.range_with(ahead_ms);
        } else if now.at_ms.saturating_sub(self.set_at_ms) >= window_ms {
            self.range = (self.ahead_ms, self.ahead_ms);
        }
    }

    fn range_with(&self, ahead_ms: i64) -> (i64, i64) {
        let (least_ms, most_ms) = self.range;
        (least_ms.min(ahead_ms), most_ms.max(ahead_ms))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW_MS: u64 = 300_000;
    const BEGIN: u64 = 1_700_000_000_000;
    const TEN_YEARS: u64 = 10 * 365 * 24 * 3_600_000;

    /// The log's own time, and how far the wall clock is ahead of where it began.
    fn moment(at_ms: u64, set_ms: u64) -> Moment {
        Moment { at_ms, wall_ms: BEGIN + at_ms + set_ms }
    }

    /// From and to, without the window, against what the wall clock would say if it had not been set.
    fn seen(expiry: &mut Expiry, at_ms: u64, set_ms: u64) -> TimeRange {
        let now = moment(at_ms, set_ms);
        expiry.wall.observe(now, WINDOW_MS);
        let (from, to) = expiry.range_at(now);
        (from + WINDOW_MS - BEGIN - at_ms, to - WINDOW_MS - BEGIN - at_ms)
    }

    fn new() -> Expiry {
        Expiry::new(Duration::from_millis(WINDOW_MS), moment(0, TEN_YEARS))
    }

    #[test]
    fn a_clock_that_was_set_is_trusted_when_a_window_has_passed() {
        // Goal: until then both count, ahead as back; from then on it alone.
        for (set, both) in [(2 * TEN_YEARS, (TEN_YEARS, 2 * TEN_YEARS)), (0, (0, TEN_YEARS))] {
            let mut expiry = new();
            assert_eq!(seen(&mut expiry, 5000, TEN_YEARS), (TEN_YEARS, TEN_YEARS));
            assert_eq!(seen(&mut expiry, 6000, set), both);
            assert_eq!(seen(&mut expiry, 6000 + WINDOW_MS - 1, set), both);
            assert_eq!(seen(&mut expiry, 6000 + WINDOW_MS, set), (set, set));
        }
    }

    #[test]
    fn each_jump_begins_the_wait_anew() {
        // Goal: what the clock said before the first of several jumps counts until a window has passed since the last.
        let mut expiry = new();
        assert_eq!(seen(&mut expiry, 1000, 2 * TEN_YEARS), (TEN_YEARS, 2 * TEN_YEARS));
        assert_eq!(seen(&mut expiry, WINDOW_MS, 0), (0, 2 * TEN_YEARS));
        assert_eq!(seen(&mut expiry, 2 * WINDOW_MS - 1, 0), (0, 2 * TEN_YEARS));
        assert_eq!(seen(&mut expiry, 2 * WINDOW_MS, 0), (0, 0));
    }

    #[test]
    fn small_steps_add_up_to_a_jump() {
        // Goal: steps that are within the tolerance, one by one, are noticed together, whether a window passes between
        // them or not; a clock that is set a little and never again costs no receipt its window.
        let mut expiry = new();
        assert_eq!(seen(&mut expiry, 1000, TEN_YEARS + TOLERANCE_MS), (TEN_YEARS, TEN_YEARS + TOLERANCE_MS));
        assert_eq!(seen(&mut expiry, 9 * WINDOW_MS, TEN_YEARS + TOLERANCE_MS), (TEN_YEARS, TEN_YEARS + TOLERANCE_MS));
        let set = TEN_YEARS + TOLERANCE_MS + 1;
        assert_eq!(seen(&mut expiry, 10 * WINDOW_MS, set), (TEN_YEARS, set));
        assert_eq!(seen(&mut expiry, 11 * WINDOW_MS, set), (set, set));
    }

    #[test]
    fn a_clock_that_says_nonsense_costs_nothing() {
        // Goal: at both ends of what it can say, no receipt of the right time goes; a window after it is right again,
        // old ones go.
        let mut expiry = new();
        for wall_ms in [u64::MAX, 0] {
            let now = Moment { at_ms: 1000, wall_ms };
            expiry.wall.observe(now, WINDOW_MS);
            let (from, to) = expiry.range_at(now);
            assert!((from..to).contains(&(BEGIN + TEN_YEARS)), "{wall_ms}: {from} to {to}");
        }
        let right = moment(2000, TEN_YEARS);
        expiry.wall.observe(right, WINDOW_MS);
        assert_eq!(expiry.range_at(right).0, 0);
        assert_eq!(seen(&mut expiry, 2000 + WINDOW_MS, TEN_YEARS), (TEN_YEARS, TEN_YEARS));
    }
}
