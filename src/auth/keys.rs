//! All configured keys, and the tokens that they have verified.

use std::{fmt, sync::Arc, time::SystemTime};

use aws_lc_rs::digest::{Context, Digest, SHA256, digest};
use quick_cache::sync::Cache;

use super::{
    api_keys::ApiKey,
    caller::{Caller, Verified},
    certificates::Certificates,
    error::{AuthConfigError, Refused, TOKEN_BYTES_MAX},
    jwt::{self, TokenKey},
};
use crate::{
    config::{ApiKeyConfig, AuthConfig, CERTIFICATE_KEY, CertificateConfig, KeyConfig},
    identity::Identity,
    transport::ClientCertificate,
};

/// How many verified tokens are remembered. Without this, the signature would be verified for each request.
const VERIFIED_MAX: usize = 10_000;

/// All configured keys, and the tokens that they have verified.
pub(super) struct Keys {
    /// The keys of `auth.keys`.
    for_tokens: Vec<TokenKey>,
    /// The keys of `auth.api_keys`.
    for_api: Vec<ApiKey>,
    /// The rows of `auth.certificates`.
    certificates: Certificates,
    /// Verified tokens by their SHA-256, so that the text of no token is kept.
    verified_tokens: Cache<[u8; 32], Arc<Verified>>,
    /// What the keys were read from, to find out which have changed.
    sources: Vec<Source>,
}

/// The name of a key, or of a row of certificates.
#[derive(Clone, PartialEq, Eq)]
pub struct KeyName {
    /// The `id` or the `name` of the key.
    key: Box<str>,
    /// The subject of a row of certificates. `None` for a key, which may have any number of subjects.
    subject: Option<Box<str>>,
}

impl KeyName {
    /// Whether `identity` comes from a credential of this key or row.
    #[must_use]
    pub fn covers(&self, identity: &Identity) -> bool {
        self.key == identity.key && (self.subject.is_none() || self.subject == identity.subject)
    }
}

/// For the audit line. The texts are quoted, so that a name cannot forge another line.
impl fmt::Debug for KeyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.subject {
            None => write!(f, "{:?}", self.key),
            Some(subject) => write!(f, "{:?} of {subject:?}", self.key),
        }
    }
}

/// What a key or a row of certificates was read from.
struct Source {
    name: KeyName,
    /// A digest of the configuration of the key, and of what its file has.
    digest: Digest,
}

/// What is known of a credential without a check of its signature.
pub(super) enum Recalled {
    /// Who has the credential.
    Known(Caller),
    /// Nothing: the signature must be verified. The bytes are the SHA-256 of the credential.
    Unknown([u8; 32]),
}

impl Source {
    fn of_key(config: &KeyConfig, token_keys: &[TokenKey]) -> Self {
        let mut context = Context::new(&SHA256);
        // The `Debug` text of the configuration contains neither secrets nor the contents of files. The token keys have
        // both.
        context.update(format!("{config:?}").as_bytes());
        for key in token_keys {
            key.add_to_digest(&mut context);
        }
        Self { name: KeyName { key: config.id.as_str().into(), subject: None }, digest: context.finish() }
    }

    fn of_api_key(config: &ApiKeyConfig) -> Self {
        let name = KeyName { key: config.name.as_str().into(), subject: None };
        Self { name, digest: digest(&SHA256, format!("{config:?}").as_bytes()) }
    }

    fn of_certificate(config: &CertificateConfig) -> Self {
        let name = KeyName { key: CERTIFICATE_KEY.into(), subject: Some(config.subject.as_str().into()) };
        Self { name, digest: digest(&SHA256, format!("{config:?}").as_bytes()) }
    }

    fn is_same(&self, other: &Self) -> bool {
        self.name == other.name && self.digest.as_ref() == other.digest.as_ref()
    }
}

impl Keys {
    pub(super) fn load(config: &AuthConfig) -> Result<Self, AuthConfigError> {
        let mut keys = Self {
            for_tokens: Vec::new(),
            for_api: Vec::new(),
            certificates: Certificates::load(&config.certificates)?,
            verified_tokens: Cache::new(VERIFIED_MAX),
            sources: config.certificates.iter().map(Source::of_certificate).collect(),
        };
        for key in &config.keys {
            let token_keys = TokenKey::load(key)?;
            keys.sources.push(Source::of_key(key, &token_keys));
            keys.for_tokens.extend(token_keys);
        }
        for key in &config.api_keys {
            let api_key = ApiKey::new(key);
            let api_key = api_key.map_err(|error| AuthConfigError::Pattern { name: key.name.clone(), error })?;
            keys.for_api.push(api_key);
            keys.sources.push(Source::of_api_key(key));
        }
        Ok(keys)
    }

    /// Verifies a token or an API key.
    pub(super) fn authenticate(&self, credential: &[u8], now: SystemTime) -> Result<Caller, Refused> {
        let sha256 = match self.recall(credential, now)? {
            Recalled::Known(caller) => return Ok(caller),
            Recalled::Unknown(sha256) => sha256,
        };
        let verified = Arc::new(jwt::verify(&self.for_tokens, credential)?);
        verified.check_times(now)?;
        self.verified_tokens.insert(sha256, Arc::clone(&verified));
        Ok(Caller::verified(verified))
    }

    /// Finds an API key, or a token that was verified before. It checks no signature, so it costs little.
    pub(super) fn recall(&self, credential: &[u8], now: SystemTime) -> Result<Recalled, Refused> {
        if credential.len() > TOKEN_BYTES_MAX {
            return Err(Refused::TooLong);
        }
        let digest = digest(&SHA256, credential);
        let sha256: [u8; 32] = digest.as_ref().try_into().map_err(|_| Refused::Unknown)?;
        // All keys are compared, so that the time does not tell which key matches.
        let api_key = self.for_api.iter().fold(None, |found, key| if key.is(&sha256) { Some(key) } else { found });
        if let Some(key) = api_key {
            return Ok(Recalled::Known(Caller::verified(Arc::clone(&key.verified))));
        }
        if let Some(verified) = self.verified_tokens.get(&sha256) {
            return match verified.check_times(now) {
                Ok(()) => Ok(Recalled::Known(Caller::verified(verified))),
                Err(error) => {
                    self.verified_tokens.remove(&sha256);
                    Err(error)
                }
            };
        }
        Ok(Recalled::Unknown(sha256))
    }

    /// The caller with a verified certificate; `None` if its subject has no row, or if the certificate has expired.
    pub(super) fn of_certificate(&self, certificate: &ClientCertificate, now: SystemTime) -> Option<Caller> {
        self.certificates.caller(certificate, now)
    }

    /// Whether there is the key or the row of certificates that `identity` comes from.
    pub(super) fn has(&self, identity: &Identity) -> bool {
        self.sources.iter().any(|source| source.name.covers(identity))
    }

    /// The keys and rows that `later` does not have, or has with another value or other rights.
    pub(super) fn not_in(&self, later: &Self) -> Vec<KeyName> {
        let is_kept = |source: &&Source| later.sources.iter().any(|other| other.is_same(source));
        self.sources.iter().filter(|source| !is_kept(source)).map(|source| source.name.clone()).collect()
    }
}
