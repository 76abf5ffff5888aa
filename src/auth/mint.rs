//! Makes tokens, and shows what a token says. `tidings token` uses this; the server does not.

use std::{
    fs, io,
    path::PathBuf,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use jsonwebtoken::{AlgorithmFamily, EncodingKey, Header, dangerous::insecure_decode, encode};
use serde_json::{Map, Value, json};

use super::{
    key_file::{self, KeyError},
    pattern::PatternError,
    rights::Rights,
};
use crate::config::{KeyConfig, OwnLimits};

/// What a new token says.
#[derive(Debug)]
pub struct NewToken {
    /// The file of the private key, if the algorithm is not an HMAC.
    pub private_key_file: Option<PathBuf>,
    /// `sub`.
    pub subject: Option<String>,
    /// Patterns of the topics that its holder may publish to.
    pub publish: Vec<String>,
    /// Patterns of the topics that its holder may subscribe to.
    pub subscribe: Vec<String>,
    /// Patterns of the topics that its holder may manage.
    pub manage: Vec<String>,
    /// The limits of the token itself.
    pub limits: OwnLimits,
    /// How long it is valid.
    pub expires_in: Duration,
}

/// Why a token cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum MintError {
    /// The secret cannot be used.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// A pattern cannot be read.
    #[error(transparent)]
    Pattern(#[from] PatternError),
    /// The key has no secret, and no private key was given.
    #[error("the configuration has only the public key: give the private key with --private-key FILE")]
    NoPrivateKey,
    /// The file cannot be read.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The error of the system.
        source: io::Error,
    },
    /// The private key does not fit the algorithm.
    #[error("the private key is not one in PEM for the algorithm of the key: {0}")]
    Sign(jsonwebtoken::errors::Error),
}

/// Makes a token that `key` signs. It has the `iss` and the `aud` that the key demands.
///
/// # Errors
/// See [`MintError`].
pub fn mint(key: &KeyConfig, token: &NewToken, now: SystemTime) -> Result<String, MintError> {
    Rights::parse([&token.publish, &token.subscribe, &token.manage], token.subject.as_deref())?;
    let mut claims = Map::new();
    let texts = [("sub", &token.subject), ("iss", &key.issuer), ("aud", &key.audience)];
    for (name, text) in texts {
        if let Some(text) = text {
            claims.insert(name.to_owned(), json!(text));
        }
    }
    let expires_at = now + token.expires_in;
    claims.insert("exp".to_owned(), json!(expires_at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()));
    let rights = [("publish", &token.publish), ("subscribe", &token.subscribe), ("manage", &token.manage)];
    let mut tidings: Map<String, Value> =
        rights.into_iter().map(|(right, patterns)| (right.to_owned(), json!(patterns))).collect();
    let limits = limits(token.limits);
    if !limits.is_empty() {
        tidings.insert("limits".to_owned(), limits.into());
    }
    claims.insert("tidings".to_owned(), tidings.into());
    let algorithm = key_file::algorithm(key.algorithm);
    let header = Header { kid: Some(key.id.clone()), ..Header::new(algorithm) };
    let signing = if let Some(secret) = key_file::secret(key)? {
        EncodingKey::from_secret(&secret)
    } else {
        let path = token.private_key_file.as_deref().ok_or(MintError::NoPrivateKey)?;
        let pem = fs::read(path).map_err(|source| MintError::File { path: path.to_owned(), source })?;
        match algorithm.family() {
            AlgorithmFamily::Rsa => EncodingKey::from_rsa_pem(&pem),
            AlgorithmFamily::Ec => EncodingKey::from_ec_pem(&pem),
            // A key for an HMAC has a secret, so it does not come here.
            AlgorithmFamily::Ed | AlgorithmFamily::Hmac => EncodingKey::from_ed_pem(&pem),
        }
    };
    encode(&header, &claims, &signing.map_err(MintError::Sign)?).map_err(MintError::Sign)
}

/// The limits that are given, for the claim.
fn limits(limits: OwnLimits) -> Map<String, Value> {
    let OwnLimits { publishes_per_second, subscribers_max } = limits;
    let limits = [("publishes_per_second", publishes_per_second), ("subscribers_max", subscribers_max)];
    limits.into_iter().filter_map(|(name, limit)| Some((name.to_owned(), json!(limit?)))).collect()
}

/// The header and the claims of a token, which is not verified. `None` if the text is no token.
#[must_use]
pub fn decode_unverified(token: &str) -> Option<Value> {
    let decoded = insecure_decode::<Value>(token).ok()?;
    Some(json!({"header": decoded.header, "claims": decoded.claims}))
}
