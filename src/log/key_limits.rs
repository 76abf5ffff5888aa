//! The limits on idempotency keys.

use std::time::Duration;

use crate::config::Config;

/// How long an idempotency key is remembered, and how many are.
#[derive(Clone, Copy, Debug)]
pub struct KeyLimits {
    /// `publish.idempotency_window`.
    pub window: Duration,
    /// `publish.idempotency_keys_max`: the limit for each topic.
    pub of_topic_max: usize,
    /// `limits.idempotency_keys_max`: the limit for all topics together.
    pub max: usize,
}

impl From<&Config> for KeyLimits {
    fn from(config: &Config) -> Self {
        Self {
            window: config.publish.idempotency_window,
            of_topic_max: config.publish.idempotency_keys_max,
            max: config.limits.idempotency_keys_max,
        }
    }
}
