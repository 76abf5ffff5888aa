//! The rates that credentials bring with them. Each credential has its own limit, so one quota is not enough.

use std::{num::NonZeroU32, time::Duration};

use governor::{Quota, RateLimiter, clock::Clock, middleware::NoOpMiddleware};

use super::keys::Keys;

/// How many cells become free in a second: one in each nanosecond. A publish takes 1/n of them, where n is the limit of
/// its credential. For example, with a limit of 10 publishes a second, a publish takes 100,000,000 cells.
const SECOND: NonZeroU32 = NonZeroU32::new(1_000_000_000).unwrap();

/// The rate is used up.
pub(super) struct UsedUp {
    /// How many publishes are left. They are not enough for the request.
    pub(super) remaining: u32,
    /// After this time, enough are left.
    pub(super) wait: Duration,
}

/// What each identity has used of its own rate.
///
/// All credentials of an identity share the same cells. So nobody gets more by having several credentials.
pub(super) struct OwnLimiter<C: Clock> {
    keys: Keys,
    gcra: RateLimiter<u64, Keys, C, NoOpMiddleware<C::Instant>>,
}

impl<C: Clock> OwnLimiter<C> {
    pub(super) fn new(clock: C) -> Self {
        let keys = Keys::new();
        Self { gcra: RateLimiter::new(Quota::per_second(SECOND), keys.clone(), clock), keys }
    }

    /// Takes `n` publishes of the rate of `key`, which allows `per_second` publishes. The caller has checked that `n`
    /// is at most `per_second`.
    pub(super) fn take(&self, key: u64, n: u32, per_second: NonZeroU32) -> Result<(), UsedUp> {
        let cost = cost(per_second);
        let cells = n.saturating_mul(cost).min(SECOND.get());
        let Some(needed) = NonZeroU32::new(cells) else { return Ok(()) };
        let wait = match self.gcra.check_key_n(&key, needed) {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(refused)) => refused.wait_time_from(self.gcra.clock().now()),
            Err(_) => Duration::MAX,
        };
        // A cell becomes free in each nanosecond of the wait, so as many cells are missing.
        let missing = u32::try_from(wait.as_nanos()).unwrap_or(u32::MAX);
        let remaining = cells.saturating_sub(missing) / cost;
        Err(UsedUp { remaining, wait })
    }

    /// Gives `n` publishes back.
    pub(super) fn give_back(&self, key: u64, n: u32, per_second: NonZeroU32) {
        self.keys.give_back(key, u64::from(n.saturating_mul(cost(per_second))).into());
    }

    /// Forgets the identities whose rate is free again.
    pub(super) fn forget_unused(&self) {
        self.gcra.retain_recent();
    }

    /// How many identities are remembered.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.gcra.len()
    }
}

/// How many cells a publish takes. The number is rounded down, so that as many publishes as the limit fit into a
/// second. With a limit above ten million, the rounding would allow many more: `OWN_LIMIT_MAX` of the
/// configuration forbids such a limit.
fn cost(per_second: NonZeroU32) -> u32 {
    (SECOND.get() / per_second).max(1)
}
