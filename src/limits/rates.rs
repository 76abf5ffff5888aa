//! Limits on how often clients publish, subscribe, and fail to authenticate. They are for the whole server, not for
//! each worker.

use std::{
    hash::{BuildHasher as _, RandomState},
    net::IpAddr,
    num::NonZeroU32,
    time::Duration,
};

use governor::{
    Quota, RateLimiter,
    clock::{Clock, MonotonicClock},
    middleware::NoOpMiddleware,
};
use smallvec::SmallVec;

use super::network::network;
use crate::{config::LimitsConfig, identity::Identity};

mod own;
mod keys;
#[cfg(test)]
mod tests;

use keys::Keys;
use own::{OwnLimiter, UsedUp};

/// How often clients publish, subscribe and fail to authenticate. A rate that is 0 in the configuration is not limited,
/// and costs nothing.
///
/// A rate is counted for each of its keys: for each address, identity or topic. A key may use up one second's worth at
/// once.
pub struct Rates<C: Clock = MonotonicClock> {
    publishes_per_ip: Option<Limiter<C>>,
    publishes_per_key: Option<Limiter<C>>,
    /// The rates that credentials bring with them: tokens, API keys and certificates.
    publishes_of_credential: OwnLimiter<C>,
    publishes_per_topic: Option<Limiter<C>>,
    subscribes_per_ip: Option<Limiter<C>>,
    failed_authentications_per_ip: Option<Limiter<C>>,
    /// Hashes the keys. Its seed is secret: otherwise a client could find a topic with the hash of another topic, and
    /// use up the rate of that topic.
    hasher: RandomState,
}

/// A limited rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rate {
    /// `limits.publishes_per_second_per_ip`.
    PublishesPerIp,
    /// `limits.publishes_per_second_per_key`.
    PublishesPerKey,
    /// `publishes_per_second` of a credential.
    PublishesOfCredential,
    /// `limits.publishes_per_second_per_topic`.
    PublishesPerTopic,
    /// `limits.subscribes_per_second_per_ip`.
    SubscribesPerIp,
    /// `limits.failed_authentications_per_second_per_ip`.
    FailedAuthenticationsPerIp,
}

/// Why a request is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RateError {
    /// The rate is used up.
    #[error("{} has reached its limit of {per_second} {} per second", who(*.rate, .topic.as_deref()), .rate.unit())]
    Reached {
        /// The rate.
        rate: Rate,
        /// Its limit.
        per_second: u32,
        /// How much is left, which is not enough for the request.
        remaining: u32,
        /// After this time there is enough.
        wait: Duration,
        /// The topic, if the rate is per topic.
        topic: Option<Box<str>>,
    },
    /// The request needs more than is ever free at once.
    #[error(
        "a request counts as one publish for each of its topics; this one names {topics}, and limits.{} allows \
         {per_second} per second",
        .rate.key()
    )]
    TooManyTopics {
        /// The rate.
        rate: Rate,
        /// Its limit.
        per_second: u32,
        /// How many topics the request names.
        topics: u32,
    },
}

/// What a publish has used of the rates.
#[derive(Debug, Default)]
pub struct Used {
    ip: Share,
    identity: Share,
    /// What it has used of the rate of its credential.
    credential: Share,
    /// The limit of the credential's rate, if it has one.
    credential_limit: Option<NonZeroU32>,
    /// The hashes of the topics that are counted.
    topics: SmallVec<[u64; 2]>,
}

/// An authentication that counts as failed until [`Rates::succeed`].
#[derive(Debug)]
pub struct Attempt {
    /// The hash of the address, if there is a rate.
    key: Option<u64>,
}

/// What a publish has used of the rate of its address or identity.
#[derive(Debug, Default)]
struct Share {
    /// The hash of the address or identity.
    key: Option<u64>,
    publishes: u32,
}

impl Rates {
    /// Nothing is used yet.
    #[must_use]
    pub fn new(limits: &LimitsConfig) -> Self {
        Self::with_clock(limits, &MonotonicClock)
    }
}

impl<C: Clock + Clone> Rates<C> {
    fn with_clock(limits: &LimitsConfig, clock: &C) -> Self {
        let limiter = |rate, per_second: usize| {
            let per_second = NonZeroU32::new(u32::try_from(per_second).unwrap_or(u32::MAX))?;
            Some(Limiter::new(rate, per_second, clock.clone()))
        };
        Self {
            publishes_per_ip: limiter(Rate::PublishesPerIp, limits.publishes_per_second_per_ip),
            publishes_per_key: limiter(Rate::PublishesPerKey, limits.publishes_per_second_per_key),
            publishes_of_credential: OwnLimiter::new(clock.clone()),
            publishes_per_topic: limiter(Rate::PublishesPerTopic, limits.publishes_per_second_per_topic),
            subscribes_per_ip: limiter(Rate::SubscribesPerIp, limits.subscribes_per_second_per_ip),
            failed_authentications_per_ip: limiter(
                Rate::FailedAuthenticationsPerIp,
                limits.failed_authentications_per_second_per_ip,
            ),
            hasher: RandomState::new(),
        }
    }
}

impl<C: Clock> Rates<C> {
    /// Counts a subscription, whatever the number of its topics.
    ///
    /// # Errors
    /// When the rate is used up.
    pub fn subscribe(&self, ip: Option<IpAddr>) -> Result<(), RateError> {
        let (Some(limiter), Some(ip)) = (&self.subscribes_per_ip, ip) else { return Ok(()) };
        limiter.take(self.hasher.hash_one(network(ip)), 1)
    }

    /// Counts an authentication as failed before it is tried. If it were counted afterwards, requests on several
    /// threads could together fail more often than the rate allows.
    ///
    /// # Errors
    /// When the rate is used up. Then the authentication must not be tried.
    pub fn authenticate(&self, ip: Option<IpAddr>) -> Result<Attempt, RateError> {
        let (Some(limiter), Some(ip)) = (&self.failed_authentications_per_ip, ip) else {
            return Ok(Attempt { key: None });
        };
        let key = self.hasher.hash_one(network(ip));
        limiter.take(key, 1)?;
        Ok(Attempt { key: Some(key) })
    }

    /// Gives back what an authentication has used, because it has succeeded.
    #[expect(clippy::needless_pass_by_value, reason = "an attempt succeeds only once")]
    pub fn succeed(&self, attempt: Attempt) {
        if let (Some(limiter), Some(key)) = (&self.failed_authentications_per_ip, attempt.key) {
            limiter.give_back(key, 1);
        }
    }

    /// Counts a publish to the `topics` that are known before its body is read. A publish counts once for each topic,
    /// and once if it names none. `credential_limit` is the limit that the credential of `identity` brings with it.
    ///
    /// # Errors
    /// When a rate is used up. Then the publish has used nothing.
    pub fn publish<'t>(
        &self,
        ip: Option<IpAddr>,
        identity: Option<&Identity>,
        credential_limit: Option<NonZeroU32>,
        topics: impl Iterator<Item = &'t str>,
    ) -> Result<Used, RateError> {
        let mut used = Used { credential_limit, ..Used::default() };
        if self.limits_publish(&used) {
            used.ip.key = ip.map(|ip| self.hasher.hash_one(network(ip)));
            used.identity.key = identity.map(|identity| self.hasher.hash_one(identity));
            used.credential.key = used.identity.key;
            self.count(&mut used, topics)?;
        }
        Ok(used)
    }

    /// Counts all `topics` of the publish, except those that are counted already.
    ///
    /// # Errors
    /// When a rate is used up. Then the publish has used nothing.
    pub fn publish_to<'t>(&self, mut used: Used, topics: impl Iterator<Item = &'t str>) -> Result<(), RateError> {
        if self.limits_publish(&used) { self.count(&mut used, topics) } else { Ok(()) }
    }

    /// Forgets the keys whose rate is free again. Without this, their number would only grow.
    pub fn forget_unused(&self) {
        for limiter in self.limiters().into_iter().flatten() {
            limiter.gcra.retain_recent();
        }
        self.publishes_of_credential.forget_unused();
    }

    fn limiters(&self) -> [Option<&Limiter<C>>; 5] {
        let (ip, key, topic) = (&self.publishes_per_ip, &self.publishes_per_key, &self.publishes_per_topic);
        let (subscribes, failures) = (&self.subscribes_per_ip, &self.failed_authentications_per_ip);
        [ip, key, topic, subscribes, failures].map(Option::as_ref)
    }

    /// Whether a rate applies to this publish.
    fn limits_publish(&self, used: &Used) -> bool {
        self.publishes_per_ip.is_some()
            || self.publishes_per_key.is_some()
            || self.publishes_per_topic.is_some()
            || used.credential_limit.is_some()
    }

    fn count<'t>(&self, used: &mut Used, topics: impl Iterator<Item = &'t str>) -> Result<(), RateError> {
        let mut new = SmallVec::<[(u64, &str); 2]>::new();
        for topic in topics {
            let key = self.hasher.hash_one(topic);
            if !used.topics.contains(&key) && new.iter().all(|(other, _)| *other != key) {
                new.push((key, topic));
            }
        }
        let counted = self.take(used, &new);
        if counted.is_err() {
            self.give_back(used);
        }
        counted
    }

    /// Takes what the publish needs for the `new` topics. After an error, `used` has what was taken before the error.
    ///
    /// The rates of topics come last. A client that has reached its own limit must not use up the rate of a topic:
    /// others could not publish to that topic any more.
    fn take(&self, used: &mut Used, new: &[(u64, &str)]) -> Result<(), RateError> {
        let publishes = u32::try_from(used.topics.len() + new.len()).unwrap_or(u32::MAX).max(1);
        for (limiter, share) in [(&self.publishes_per_ip, &mut used.ip), (&self.publishes_per_key, &mut used.identity)]
        {
            if let (Some(limiter), Some(key)) = (limiter, share.key) {
                check_topics(limiter.rate, limiter.per_second, publishes)?;
                limiter.take(key, publishes - share.publishes)?;
                share.publishes = publishes;
            }
        }
        if let (Some(limit), Some(key)) = (used.credential_limit, used.credential.key) {
            check_topics(Rate::PublishesOfCredential, limit, publishes)?;
            let taken = self.publishes_of_credential.take(key, publishes - used.credential.publishes, limit);
            taken.map_err(|UsedUp { remaining, wait }| RateError::Reached {
                rate: Rate::PublishesOfCredential,
                per_second: limit.get(),
                remaining,
                wait,
                topic: None,
            })?;
            used.credential.publishes = publishes;
        }
        for (key, name) in new {
            if let Some(limiter) = &self.publishes_per_topic {
                limiter.take(*key, 1).map_err(|error| error.of_topic(name))?;
            }
            used.topics.push(*key);
        }
        Ok(())
    }

    fn give_back(&self, used: &Used) {
        for (limiter, share) in [(&self.publishes_per_ip, &used.ip), (&self.publishes_per_key, &used.identity)] {
            if let (Some(limiter), Some(key)) = (limiter, share.key) {
                limiter.give_back(key, share.publishes);
            }
        }
        if let (Some(limit), Some(key)) = (used.credential_limit, used.credential.key) {
            self.publishes_of_credential.give_back(key, used.credential.publishes, limit);
        }
        if let Some(limiter) = &self.publishes_per_topic {
            used.topics.iter().for_each(|key| limiter.give_back(*key, 1));
        }
    }
}

impl Rate {
    /// Its key in the section `limits`, or its name in the limits of a credential.
    #[must_use]
    pub fn key(self) -> &'static str {
        match self {
            Self::PublishesPerIp => "publishes_per_second_per_ip",
            Self::PublishesPerKey => "publishes_per_second_per_key",
            Self::PublishesOfCredential => "publishes_per_second",
            Self::PublishesPerTopic => "publishes_per_second_per_topic",
            Self::SubscribesPerIp => "subscribes_per_second_per_ip",
            Self::FailedAuthenticationsPerIp => "failed_authentications_per_second_per_ip",
        }
    }

    fn unit(self) -> &'static str {
        match self {
            Self::SubscribesPerIp => "subscriptions",
            Self::FailedAuthenticationsPerIp => "failed authentications",
            _ => "publishes",
        }
    }
}

impl RateError {
    fn of_topic(mut self, name: &str) -> Self {
        if let Self::Reached { topic, .. } = &mut self {
            *topic = Some(name.into());
        }
        self
    }
}

/// Refuses a request with more topics than the rate ever allows at once.
fn check_topics(rate: Rate, per_second: NonZeroU32, topics: u32) -> Result<(), RateError> {
    let per_second = per_second.get();
    if topics > per_second { Err(RateError::TooManyTopics { rate, per_second, topics }) } else { Ok(()) }
}

/// What has reached the limit, for the message.
fn who(rate: Rate, topic: Option<&str>) -> String {
    match rate {
        Rate::PublishesPerIp | Rate::SubscribesPerIp | Rate::FailedAuthenticationsPerIp => "your address".to_owned(),
        Rate::PublishesPerKey => "your key".to_owned(),
        Rate::PublishesOfCredential => "your credential".to_owned(),
        Rate::PublishesPerTopic => format!("the topic `{}`", topic.unwrap_or_default()),
    }
}

/// One rate, for each of its keys.
struct Limiter<C: Clock> {
    rate: Rate,
    per_second: NonZeroU32,
    /// How long it takes until one more is free.
    interval: Duration,
    keys: Keys,
    /// The generic cell rate algorithm.
    gcra: RateLimiter<u64, Keys, C, NoOpMiddleware<C::Instant>>,
}

impl<C: Clock> Limiter<C> {
    fn new(rate: Rate, per_second: NonZeroU32, clock: C) -> Self {
        let (quota, keys) = (Quota::per_second(per_second), Keys::new());
        let gcra = RateLimiter::new(quota, keys.clone(), clock);
        Self { rate, per_second, interval: quota.replenish_interval(), keys, gcra }
    }

    /// Takes `n` of the rate for `key`.
    fn take(&self, key: u64, n: u32) -> Result<(), RateError> {
        let Some(n) = NonZeroU32::new(n) else { return Ok(()) };
        let wait = match self.gcra.check_key_n(&key, n) {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(refused)) => refused.wait_time_from(self.gcra.clock().now()),
            // `n` is more than is ever free at once. The callers refuse such a request before.
            Err(_) => Duration::MAX,
        };
        // One becomes free after each interval. So the wait says how many of the `n` are missing.
        let missing = wait.as_nanos().div_ceil(self.interval.as_nanos().max(1));
        let remaining = n.get().saturating_sub(u32::try_from(missing).unwrap_or(u32::MAX));
        Err(RateError::Reached { rate: self.rate, per_second: self.per_second.get(), remaining, wait, topic: None })
    }

    /// Gives `n` back.
    fn give_back(&self, key: u64, n: u32) {
        let time = self.interval.saturating_mul(n);
        self.keys.give_back(key, u64::try_from(time.as_nanos()).unwrap_or(u64::MAX).into());
    }
}
