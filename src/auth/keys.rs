//! All configured keys, and the tokens that they have verified.

use std::{sync::Arc, time::SystemTime};

use aws_lc_rs::digest::{Context, Digest, SHA256, digest};
use quick_cache::sync::Cache;

use super::{
    api_keys::ApiKey,
    caller::{Caller, Verified},
    error::{AuthConfigError, Refused, TOKEN_BYTES_MAX},
    jwt::{self, TokenKey},
};
use crate::config::{ApiKeyConfig, AuthConfig, KeyConfig};

/// How many verified tokens are remembered. Without this, the signature would be verified for each request.
const VERIFIED_MAX: usize = 10_000;

/// All configured keys, and the tokens that they have verified.
pub(super) struct Keys {
    /// The keys of `auth.keys`.
    signing: Vec<TokenKey>,
    /// The keys of `auth.api_keys`.
    fixed: Vec<ApiKey>,
    /// Verified tokens by their SHA-256, so that no token is kept.
    verified: Cache<[u8; 32], Arc<Verified>>,
    /// What the keys were read from, to find out which have changed.
    sources: Vec<Source>,
}

/// What a key was read from.
struct Source {
    /// The `id` or the `name` of the key.
    name: Box<str>,
    /// A digest of the configuration of the key, and of what its file has.
    digest: Digest,
}

impl Source {
    fn of_key(config: &KeyConfig, token_keys: &[TokenKey]) -> Self {
        let mut context = Context::new(&SHA256);
        // The text of the configuration shows no secret and no content of a file. The keys have both.
        context.update(format!("{config:?}").as_bytes());
        for key in token_keys {
            key.update(&mut context);
        }
        Self { name: config.id.as_str().into(), digest: context.finish() }
    }

    fn of_api_key(config: &ApiKeyConfig) -> Self {
        Self { name: config.name.as_str().into(), digest: digest(&SHA256, format!("{config:?}").as_bytes()) }
    }

    fn is_same(&self, other: &Self) -> bool {
        self.name == other.name && self.digest.as_ref() == other.digest.as_ref()
    }
}

impl Keys {
    pub(super) fn load(config: &AuthConfig) -> Result<Self, AuthConfigError> {
        let mut keys =
            Self { signing: Vec::new(), fixed: Vec::new(), verified: Cache::new(VERIFIED_MAX), sources: Vec::new() };
        for key in &config.keys {
            let token_keys = TokenKey::load(key)?;
            keys.sources.push(Source::of_key(key, &token_keys));
            keys.signing.extend(token_keys);
        }
        for key in &config.api_keys {
            let api_key = ApiKey::new(key);
            let api_key = api_key.map_err(|error| AuthConfigError::Pattern { name: key.name.clone(), error })?;
            keys.fixed.push(api_key);
            keys.sources.push(Source::of_api_key(key));
        }
        Ok(keys)
    }

    /// Verifies a token or an API key.
    pub(super) fn authenticate(&self, credential: &[u8], now: SystemTime) -> Result<Caller, Refused> {
        if credential.len() > TOKEN_BYTES_MAX {
            return Err(Refused::TooLong);
        }
        let digest = digest(&SHA256, credential);
        let sha256: [u8; 32] = digest.as_ref().try_into().map_err(|_| Refused::Unknown)?;
        // All keys are compared, so that the time does not tell which one it is.
        let api_key = self.fixed.iter().fold(None, |found, key| if key.is(&sha256) { Some(key) } else { found });
        if let Some(key) = api_key {
            return Ok(Caller::verified(Arc::clone(&key.verified)));
        }
        if let Some(verified) = self.verified.get(&sha256) {
            return match verified.check_times(now) {
                Ok(()) => Ok(Caller::verified(verified)),
                Err(error) => {
                    self.verified.remove(&sha256);
                    Err(error)
                }
            };
        }
        let verified = Arc::new(jwt::verify(&self.signing, credential)?);
        verified.check_times(now)?;
        self.verified.insert(sha256, Arc::clone(&verified));
        Ok(Caller::verified(verified))
    }

    /// The names of the keys that `later` does not have, or has with another value or other rights.
    pub(super) fn not_in(&self, later: &Self) -> Vec<Box<str>> {
        let is_kept = |source: &&Source| later.sources.iter().any(|other| other.is_same(source));
        self.sources.iter().filter(|source| !is_kept(source)).map(|source| source.name.clone()).collect()
    }
}
