//! Old receipts: which of them answer no retry any more, and when the writer removes some.

use std::time::Duration;

use super::{error::StoreError, store::Store};
use crate::log::clock::Clock;

/// What there is to remove of receipts.
pub(super) struct Expiry {
    /// How long a receipt counts.
    window: Duration,
    /// There are some that do not count any more, as far as is known.
    is_due: bool,
}

/// From and to, in milliseconds since the Unix epoch: receipts of a time outside do not count.
pub(super) type Times = (u64, u64);

impl Expiry {
    pub(super) fn new(window: Duration) -> Self {
        Self { window, is_due: false }
    }

    /// Looks for old receipts, which costs no write.
    pub(super) fn look(&mut self, store: &Store, clock: &Clock) -> Result<(), StoreError> {
        self.is_due = match store.has_receipts_outside(self.times(clock)) {
            // The publish that needs to write there ends the process, if it must end; nothing of this has to be done now.
            Err(error) if error.is_damage() || store.is_full(&error) => false,
            found => found?,
        };
        Ok(())
    }

    /// The times of those to remove are outside of these; `None` when there is nothing to remove.
    pub(super) fn due(&self, clock: &Clock) -> Option<Times> {
        self.is_due.then(|| self.times(clock))
    }

    pub(super) fn is_due(&self) -> bool {
        self.is_due
    }

    /// A portion has gone; whether there may be more.
    pub(super) fn went_on(&mut self, more: bool) {
        self.is_due = more;
    }

    /// By the clock that keeps more of them: a jump of one must not make retries new events.
    fn times(&self, clock: &Clock) -> Times {
        let window_ms = u64::try_from(self.window.as_millis()).unwrap_or(u64::MAX);
        let (wall_ms, unset_ms) = (clock.now().wall_ms, clock.unset_ms());
        let (first_ms, last_ms) = (wall_ms.min(unset_ms), wall_ms.max(unset_ms));
        (first_ms.saturating_sub(window_ms), last_ms.saturating_add(window_ms))
    }
}
