//! API keys: fixed credentials, of which only the SHA-256 is stored.

use std::sync::Arc;

use aws_lc_rs::constant_time::verify_slices_are_equal;

use super::{caller::Verified, pattern::PatternError, rights::Rights};
use crate::{
    config::{ApiKeyConfig, Sha256},
    identity::Identity,
};

/// An API key.
pub(super) struct ApiKey {
    pub(super) sha256: Sha256,
    pub(super) verified: Arc<Verified>,
}

impl ApiKey {
    pub(super) fn new(config: &ApiKeyConfig) -> Result<Self, PatternError> {
        let rights = Rights::parse([&config.publish, &config.subscribe, &config.manage], None)?;
        let identity = Arc::new(Identity { key: config.name.as_str().into(), subject: None });
        let limits = config.limits();
        let verified = Arc::new(Verified { identity, rights, limits, starts_at: None, expires_at: None });
        Ok(Self { sha256: config.sha256, verified })
    }

    /// Whether this is the key with the digest `sha256`. The time does not depend on where the two digests differ.
    pub(super) fn is(&self, sha256: &[u8]) -> bool {
        verify_slices_are_equal(&self.sha256.0, sha256).is_ok()
    }
}
