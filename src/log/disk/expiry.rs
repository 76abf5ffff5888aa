//! Decides which receipts have expired, so that the writer can remove them.
//!
//! A receipt expires when it is older than the idempotency window. It has the time of the wall clock. When that clock
//! is set, older receipts seem older or younger than they are. If one were removed too early, a retry would publish the
//! event again. So for one window after the clock was set, a receipt expires only when it is too old both by the clock
//! as it was before and by the clock as it is now. After that window, every receipt from before has expired, and only
//! the clock as it is now counts.
//!
//! For example, the window is 5 minutes, and at 12:00 the clock is set to 13:00. At 13:01 the old clock would say
//! 12:01, so receipts from 11:56 to 13:06 are kept. From 13:05 on, only those are whose time differs from the clock by
//! at most 5 minutes.

use std::time::Duration;

use super::{error::StoreError, store::Store, transaction::TimeRange};
use crate::log::clock::{Clock, Moment, TOLERANCE_MS, millis};

/// Knows whether there are expired receipts to remove, and of which times.
pub(super) struct Expiry {
    /// How long a receipt is kept: `publish.idempotency_window`.
    window_ms: u64,
    state: State,
    wall: WallClock,
}

/// Whether there are expired receipts, as far as is known.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    NoneExpired,
    /// Receipts from outside this range of times have expired.
    SomeExpired(TimeRange),
    /// Expired receipts are no longer removed, because some are on damaged pages.
    Stopped,
}

/// Notices when the wall clock is set: how far it is ahead of the monotonic time changes then.
#[expect(clippy::struct_field_names, reason = "each name ends in its unit")]
struct WallClock {
    /// When it was last set, in monotonic time.
    set_mono_ms: u64,
    /// How far it was ahead then. Later readings are compared with this value, so that many small steps are noticed,
    /// too.
    ahead_ms: i64,
    /// The smallest value of `ahead_ms` within the last window.
    ahead_min_ms: i64,
    /// The largest value of `ahead_ms` within the last window.
    ahead_max_ms: i64,
}

impl Expiry {
    pub(super) fn new(window: Duration, now: Moment) -> Self {
        let ahead_ms = now.ahead_ms();
        Self {
            window_ms: millis(window),
            state: State::NoneExpired,
            wall: WallClock { set_mono_ms: now.mono_ms, ahead_ms, ahead_min_ms: ahead_ms, ahead_max_ms: ahead_ms },
        }
    }

    /// Looks whether there are expired receipts. This does not write.
    pub(super) fn find_expired(&mut self, store: &Store, clock: &Clock) -> Result<(), StoreError> {
        if self.state == State::Stopped {
            return Ok(());
        }
        let now = clock.read();
        self.wall.observe(now, self.window_ms);
        let kept_times = self.kept_at(now);
        let has_expired = match store.has_receipts_outside(kept_times) {
            // Removal is not urgent. If the file really cannot be used, the next publish will fail and end the process.
            Err(error) if error.is_damage() || store.is_full(&error) => false,
            found => found?,
        };
        self.state = if has_expired { State::SomeExpired(kept_times) } else { State::NoneExpired };
        Ok(())
    }

    /// Whether there are expired receipts to remove.
    pub(super) fn has_expired(&self) -> bool {
        self.kept_times().is_some()
    }

    /// The times of the receipts that are kept; all others are to be removed. `None` if none has expired.
    pub(super) fn kept_times(&self) -> Option<TimeRange> {
        if let State::SomeExpired(kept_times) = self.state { Some(kept_times) } else { None }
    }

    /// Makes the writer remove no more receipts until [`find_expired`](Self::find_expired) finds expired ones. The
    /// writer calls this when no expired ones are left, and to postpone their removal.
    pub(super) fn forget_expired(&mut self) {
        if self.state != State::Stopped {
            self.state = State::NoneExpired;
        }
    }

    /// No receipts are removed until the next start.
    pub(super) fn stop(&mut self) {
        self.state = State::Stopped;
    }

    /// The times of receipts that have not expired at `now`.
    ///
    /// The wall clock may have been set several times within the last window. Each earlier setting would make the clock
    /// show another time at this moment: `earliest_ms` is the first of all these times, `latest_ms` the last. A receipt
    /// may even be later by a window: see `receipts`.
    fn kept_at(&self, now: Moment) -> TimeRange {
        let ahead_ms = now.ahead_ms();
        let earliest_ms = now.mono_ms.saturating_add_signed(self.wall.ahead_min_ms.min(ahead_ms));
        let latest_ms = now.mono_ms.saturating_add_signed(self.wall.ahead_max_ms.max(ahead_ms));
        TimeRange {
            first_ms: earliest_ms.saturating_sub(self.window_ms),
            last_ms: latest_ms.saturating_add(self.window_ms),
        }
    }
}

impl WallClock {
    /// Notes what the clocks say now.
    fn observe(&mut self, now: Moment, window_ms: u64) {
        let ahead_ms = now.ahead_ms();
        if ahead_ms.abs_diff(self.ahead_ms) > TOLERANCE_MS {
            (self.set_mono_ms, self.ahead_ms) = (now.mono_ms, ahead_ms);
            self.ahead_min_ms = self.ahead_min_ms.min(ahead_ms);
            self.ahead_max_ms = self.ahead_max_ms.max(ahead_ms);
        } else if now.mono_ms.saturating_sub(self.set_mono_ms) >= window_ms {
            (self.ahead_min_ms, self.ahead_max_ms) = (self.ahead_ms, self.ahead_ms);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW_MS: u64 = 300_000;
    const BEGIN: u64 = 1_700_000_000_000;
    const TEN_YEARS: u64 = 10 * 365 * 24 * 3_600_000;

    /// A monotonic time, and by how much the wall clock was set.
    fn moment(mono_ms: u64, set_ms: u64) -> Moment {
        Moment { mono_ms, wall_ms: BEGIN + mono_ms + set_ms }
    }

    /// The range of times at that moment, without the window, relative to what a wall clock that was never set would
    /// say.
    fn seen(expiry: &mut Expiry, mono_ms: u64, set_ms: u64) -> (u64, u64) {
        let now = moment(mono_ms, set_ms);
        expiry.wall.observe(now, WINDOW_MS);
        let TimeRange { first_ms, last_ms } = expiry.kept_at(now);
        (first_ms + WINDOW_MS - BEGIN - mono_ms, last_ms - WINDOW_MS - BEGIN - mono_ms)
    }

    fn new() -> Expiry {
        Expiry::new(Duration::from_millis(WINDOW_MS), moment(0, TEN_YEARS))
    }

    #[test]
    fn a_clock_that_was_set_is_trusted_when_a_window_has_passed() {
        // Goal: for one window both the earlier and the present time count, whether the clock was set forward or back.
        // After that only the present time does.
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
        // Goal: after several jumps, the time from before the first one counts until one window after the last one.
        let mut expiry = new();
        assert_eq!(seen(&mut expiry, 1000, 2 * TEN_YEARS), (TEN_YEARS, 2 * TEN_YEARS));
        assert_eq!(seen(&mut expiry, WINDOW_MS, 0), (0, 2 * TEN_YEARS));
        assert_eq!(seen(&mut expiry, 2 * WINDOW_MS - 1, 0), (0, 2 * TEN_YEARS));
        assert_eq!(seen(&mut expiry, 2 * WINDOW_MS, 0), (0, 0));
    }

    #[test]
    fn small_steps_add_up_to_a_jump() {
        // Goal: steps that are within the tolerance each are noticed when their sum is not, whether a window passes
        // between them or not. A clock that is set once, by little, makes no receipt expire too early.
        let mut expiry = new();
        assert_eq!(seen(&mut expiry, 1000, TEN_YEARS + TOLERANCE_MS), (TEN_YEARS, TEN_YEARS + TOLERANCE_MS));
        assert_eq!(seen(&mut expiry, 9 * WINDOW_MS, TEN_YEARS + TOLERANCE_MS), (TEN_YEARS, TEN_YEARS + TOLERANCE_MS));
        let set = TEN_YEARS + TOLERANCE_MS + 1;
        assert_eq!(seen(&mut expiry, 10 * WINDOW_MS, set), (TEN_YEARS, set));
        assert_eq!(seen(&mut expiry, 11 * WINDOW_MS, set), (set, set));
    }

    #[test]
    fn a_clock_that_says_nonsense_costs_nothing() {
        // Goal: at the lowest and the highest time, no receipt with a correct time expires. One window after the clock
        // is right again, old receipts expire.
        let mut expiry = new();
        for wall_ms in [u64::MAX, 0] {
            let now = Moment { mono_ms: 1000, wall_ms };
            expiry.wall.observe(now, WINDOW_MS);
            let kept = expiry.kept_at(now);
            assert!((kept.first_ms..kept.last_ms).contains(&(BEGIN + TEN_YEARS)), "{wall_ms}: {kept:?}");
        }
        let right = moment(2000, TEN_YEARS);
        expiry.wall.observe(right, WINDOW_MS);
        assert_eq!(expiry.kept_at(right).first_ms, 0);
        assert_eq!(seen(&mut expiry, 2000 + WINDOW_MS, TEN_YEARS), (TEN_YEARS, TEN_YEARS));
    }
}
