//! Reads the material of a key: a secret, a public key, or a set of keys.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use jsonwebtoken::{
    Algorithm, AlgorithmFamily, DecodingKey,
    jwk::{Jwk, JwkSet, PublicKeyUse},
};
use secrecy::zeroize::Zeroizing;

use crate::config::{self, KeyConfig};

/// The shortest secret. A shorter one could be found by trying (RFC 7518, section 3.2).
const SECRET_BYTES_MIN: usize = 32;

/// Why a key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// A file cannot be read.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The error of the system.
        source: io::Error,
    },
    /// The secret is too short.
    #[error("the secret has {0} bytes, and needs at least {SECRET_BYTES_MIN}; `openssl rand -hex 32` makes a good one")]
    ShortSecret(usize),
    /// The file is not a PEM file with a public key of the algorithm.
    #[error("{}: not a public key in PEM for {algorithm:?}", path.display())]
    NotAPublicKey {
        /// The file.
        path: PathBuf,
        /// The algorithm of the key.
        algorithm: config::Algorithm,
    },
    /// The file is not a JSON Web Key Set.
    #[error("{}: not a JSON Web Key Set (RFC 7517): {reason}", path.display())]
    NotAKeySet {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The set has no key of the algorithm.
    #[error("{}: the set has no usable key for {algorithm:?}", path.display())]
    EmptyKeySet {
        /// The file.
        path: PathBuf,
        /// The algorithm of the key.
        algorithm: config::Algorithm,
    },
}

/// One key that verifies signatures.
pub(super) struct Material {
    /// Tokens with another `kid` are not for this key.
    pub(super) kid: Option<String>,
    pub(super) key: DecodingKey,
}

/// Reads the key or the keys of a `[[auth.keys]]`.
pub(super) fn read(config: &KeyConfig) -> Result<Vec<Material>, KeyError> {
    let algorithm = algorithm(config.algorithm);
    let own = |key| vec![Material { kid: Some(config.id.clone()), key }];
    if let Some(secret) = secret(config)? {
        return Ok(own(DecodingKey::from_secret(&secret).map_err(|_| KeyError::ShortSecret(secret.len()))?));
    }
    if let Some(path) = &config.public_key_file {
        let pem = read_file(path)?;
        let key = match algorithm.family() {
            AlgorithmFamily::Rsa => DecodingKey::from_rsa_pem(&pem),
            AlgorithmFamily::Ec => DecodingKey::from_ec_pem(&pem),
            // `KeyConfig` has refused a public key for an HMAC.
            AlgorithmFamily::Ed | AlgorithmFamily::Hmac => DecodingKey::from_ed_pem(&pem),
        };
        // The library also accepts a private key, but this server must not have one.
        let is_private = pem.windows(PRIVATE.len()).any(|window| window == PRIVATE);
        return match key {
            Ok(key) if !is_private => Ok(own(key)),
            _ => Err(KeyError::NotAPublicKey { path: path.clone(), algorithm: config.algorithm }),
        };
    }
    let Some(path) = &config.jwks_file else { return Ok(Vec::new()) };
    read_set(path, config.algorithm)
}

/// In the first line of a PEM file with a private key.
const PRIVATE: &[u8] = b"PRIVATE KEY-----";

fn read_set(path: &Path, configured: config::Algorithm) -> Result<Vec<Material>, KeyError> {
    let algorithm = algorithm(configured);
    let set: JwkSet = serde_json::from_slice(&read_file(path)?)
        .map_err(|error| KeyError::NotAKeySet { path: path.to_owned(), reason: error.to_string() })?;
    let mut keys = Vec::new();
    for jwk in set.keys.iter().filter(|jwk| is_usable(jwk, algorithm)) {
        let Ok(key) = DecodingKey::from_jwk(jwk) else { continue };
        if key.family() != algorithm.family() {
            continue;
        }
        if let (AlgorithmFamily::Hmac, Ok(secret)) = (key.family(), key.try_get_as_bytes()) {
            check_secret(secret)?;
        }
        keys.push(Material { kid: jwk.common.key_id.clone(), key });
    }
    if keys.is_empty() {
        return Err(KeyError::EmptyKeySet { path: path.to_owned(), algorithm: configured });
    }
    Ok(keys)
}

/// Whether a key of a set verifies signatures, of this algorithm if it names one.
fn is_usable(jwk: &Jwk, algorithm: Algorithm) -> bool {
    let common = &jwk.common;
    let is_for_signatures = common.public_key_use.as_ref().is_none_or(|used| *used == PublicKeyUse::Signature);
    let is_for_algorithm = common.key_algorithm.as_ref().is_none_or(|named| named.to_string() == name(algorithm));
    is_for_signatures && is_for_algorithm
}

/// The name of an algorithm in RFC 7518.
fn name(algorithm: Algorithm) -> String {
    format!("{algorithm:?}")
}

/// The secret of the key, if it has one.
pub(super) fn secret(config: &KeyConfig) -> Result<Option<Zeroizing<Vec<u8>>>, KeyError> {
    let secret = if let Some(secret) = &config.secret {
        secret.expose().as_bytes().to_vec()
    } else if let Some(path) = &config.secret_file {
        let mut text = read_file(path)?;
        if text.ends_with(b"\n") {
            text.pop();
            text.truncate(text.len() - usize::from(text.ends_with(b"\r")));
        }
        text
    } else {
        return Ok(None);
    };
    let secret = Zeroizing::new(secret);
    check_secret(&secret)?;
    Ok(Some(secret))
}

fn check_secret(secret: &[u8]) -> Result<(), KeyError> {
    if secret.len() < SECRET_BYTES_MIN { Err(KeyError::ShortSecret(secret.len())) } else { Ok(()) }
}

fn read_file(path: &Path) -> Result<Vec<u8>, KeyError> {
    fs::read(path).map_err(|source| KeyError::File { path: path.to_owned(), source })
}

/// The algorithm as the library names it.
pub(super) fn algorithm(configured: config::Algorithm) -> Algorithm {
    match configured {
        config::Algorithm::HS256 => Algorithm::HS256,
        config::Algorithm::HS384 => Algorithm::HS384,
        config::Algorithm::HS512 => Algorithm::HS512,
        config::Algorithm::RS256 => Algorithm::RS256,
        config::Algorithm::RS384 => Algorithm::RS384,
        config::Algorithm::RS512 => Algorithm::RS512,
        config::Algorithm::PS256 => Algorithm::PS256,
        config::Algorithm::PS384 => Algorithm::PS384,
        config::Algorithm::PS512 => Algorithm::PS512,
        config::Algorithm::ES256 => Algorithm::ES256,
        config::Algorithm::ES384 => Algorithm::ES384,
        config::Algorithm::EdDSA => Algorithm::EdDSA,
    }
}
