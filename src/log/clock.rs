//! The two clocks of the log. A monotonic clock tells how old an event is; the wall clock tells what time it was.
//!
//! The wall clock may be set. If it goes back by up to [`TOLERANCE_MS`], the times of events stand still until it has
//! caught up. If it goes back further, the times of events go back with it: otherwise every later event would have the
//! wrong time. The age of an event does not depend on the wall clock while the process runs.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// A wall clock: returns milliseconds since the Unix epoch.
pub type Wall = Arc<dyn Fn() -> u64 + Send + Sync>;

/// How far the wall clock may go back before the times of events go back, too. Time servers correct less than this in
/// one step. An error of this size in `since=` does not matter.
pub(super) const TOLERANCE_MS: u64 = 10_000;
/// The monotonic time when the log is opened: 200 years, so that older events in the file have a time above 0.
const OPENED_MONO_MS: u64 = 200 * 365 * 24 * 3_600_000;

/// The log's clock.
pub(super) struct Clock {
    wall: Wall,
    opened_at: Instant,
    /// [`Moment::ahead_ms`] when the clocks were read last.
    ahead_ms: AtomicI64,
}

/// What both clocks say at one moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    pub(super) mono_ms: u64,
    pub(super) wall_ms: u64,
}

impl Clock {
    pub(super) fn new(wall: Wall) -> Self {
        let now = Moment { mono_ms: OPENED_MONO_MS, wall_ms: wall() };
        Self { wall, opened_at: Instant::now(), ahead_ms: AtomicI64::new(now.ahead_ms()) }
    }

    /// Reads both clocks. Logs a warning when the wall clock was set since the last call.
    pub(super) fn read(&self) -> Moment {
        let mono_ms = OPENED_MONO_MS.saturating_add(millis(self.opened_at.elapsed()));
        let now = Moment { mono_ms, wall_ms: (self.wall)() };
        let ahead_ms = now.ahead_ms();
        let jump_ms = ahead_ms - self.ahead_ms.swap(ahead_ms, Ordering::Relaxed);
        if jump_ms.unsigned_abs() > TOLERANCE_MS {
            let by = Duration::from_millis(jump_ms.unsigned_abs());
            let direction = if jump_ms < 0 { "back" } else { "forward" };
            tracing::warn!(?by, "the wall clock has been set {direction}: the times of new events follow it");
        }
        now
    }
}

impl Moment {
    /// The time of an event that is published now, when the one before it has the time `last_ms`.
    pub(super) fn stamp(&self, last_ms: u64) -> u64 {
        if has_gone_back(last_ms, self.wall_ms) { self.wall_ms } else { self.wall_ms.max(last_ms) }
    }

    /// How far the wall clock is ahead of the monotonic time. This changes only when the wall clock is set.
    pub(super) fn ahead_ms(&self) -> i64 {
        signed(self.wall_ms) - signed(self.mono_ms)
    }

    /// The monotonic time of something that happened at `time_ms` by the wall clock, before the log was opened: its age
    /// is the same by both clocks.
    pub(super) fn mono_ms_of(&self, time_ms: u64) -> u64 {
        self.mono_ms.saturating_sub(self.wall_ms.saturating_sub(time_ms))
    }
}

/// Whether the wall clock has gone back from `last_ms` to `wall_ms` by more than the tolerance.
pub(super) fn has_gone_back(last_ms: u64, wall_ms: u64) -> bool {
    last_ms.saturating_sub(wall_ms) > TOLERANCE_MS
}

/// The wall clock of the system.
pub(super) fn system() -> Wall {
    Arc::new(wall_ms)
}

/// What the wall clock of the system says, in milliseconds since the Unix epoch.
#[must_use]
pub fn wall_ms() -> u64 {
    millis(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
}

/// The whole milliseconds in `duration`.
pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn signed(ms: u64) -> i64 {
    i64::try_from(ms).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use super::*;

    #[test]
    fn time_stands_still_within_the_tolerance_and_follows_beyond() {
        // Goal: time stands still up to the tolerance, goes back beyond it, and always goes forward.
        let at = |wall_ms| Moment { mono_ms: OPENED_MONO_MS, wall_ms };
        let last = 1_000_000;
        assert_eq!(at(last + 1).stamp(last), last + 1);
        assert_eq!(at(last - TOLERANCE_MS).stamp(last), last);
        assert_eq!(at(last - TOLERANCE_MS - 1).stamp(last), last - TOLERANCE_MS - 1);
        assert_eq!(at(u64::MAX).stamp(last), u64::MAX);
    }

    #[test]
    fn ages_do_not_depend_on_the_wall_clock() {
        // Goal: the monotonic time goes on whatever the wall clock says.
        let wall_ms = Arc::new(AtomicU64::new(1_700_000_000_000));
        let told = Arc::clone(&wall_ms);
        let clock = Clock::new(Arc::new(move || told.load(Ordering::Relaxed)));
        let before = clock.read();
        for jump in [u64::MAX, 0, 1_700_000_000_000] {
            wall_ms.store(jump, Ordering::Relaxed);
            let now = clock.read();
            let passed_ms = now.mono_ms.checked_sub(before.mono_ms).expect("it does not go back");
            assert!(passed_ms < 300_000 && now.wall_ms == jump, "{passed_ms}");
        }
        assert_eq!(before.mono_ms_of(before.wall_ms), before.mono_ms);
        assert_eq!(before.mono_ms_of(u64::MAX), before.mono_ms, "a time in the future counts as now");
        assert_eq!(before.mono_ms_of(before.wall_ms - 5000) + 5000, before.mono_ms);
    }
}
