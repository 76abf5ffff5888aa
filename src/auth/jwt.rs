//! Verifies a token (RFC 7519) with the configured keys.
//!
//! The algorithm comes from the configuration, never from the token: otherwise a client could sign with the public key
//! as the secret of an HMAC, or not at all (`none`). Of the token's header only `kid` is used, and only to choose among
//! the configured keys; `jku`, `x5u` and `jwk` are ignored.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use aws_lc_rs::digest::Context;
use jsonwebtoken::{Algorithm, DecodingKey, DecodingKeyKind, Validation, decode, decode_header, errors::ErrorKind};
use serde::{Deserialize, Deserializer};

use super::{
    caller::Verified,
    error::{AuthConfigError, LEEWAY, Refused},
    key_file,
    pattern::PatternError,
    rights::Rights,
};
use crate::{
    config::{KeyConfig, OwnLimits},
    identity::Identity,
};

/// A key that verifies tokens.
pub(super) struct TokenKey {
    /// The `id` of the configuration.
    pub(super) id: Box<str>,
    /// Tokens with another `kid` are not for this key.
    kid: Option<String>,
    key: DecodingKey,
    algorithm: Algorithm,
    validation: Validation,
}

/// The claims that the broker uses (RFC 7519, section 4.1). If a claim is given twice, the token is refused.
#[derive(Deserialize)]
struct Claims {
    sub: Option<String>,
    #[serde(deserialize_with = "time")]
    exp: SystemTime,
    #[serde(default, deserialize_with = "time_if_given")]
    nbf: Option<SystemTime>,
    #[serde(default)]
    tidings: TidingsClaim,
}

/// The claim `tidings`: patterns of topics for each right, and limits.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct TidingsClaim {
    publish: Vec<String>,
    subscribe: Vec<String>,
    manage: Vec<String>,
    limits: OwnLimits,
}

/// Times after this are taken as this one, in seconds since 1970: the year 2400.
const LATEST_TIME: f64 = 13_569_465_600.0;

impl TokenKey {
    /// Reads the key or the keys of a `[[auth.keys]]`.
    pub(super) fn load(config: &KeyConfig) -> Result<Vec<Self>, AuthConfigError> {
        let materials =
            key_file::read(config).map_err(|error| AuthConfigError::Key { id: config.id.clone(), error })?;
        let algorithm = key_file::algorithm(config.algorithm);
        let mut validation = Validation::new(algorithm);
        // The times are checked here, with the one clock of the broker, also for tokens that were verified before.
        validation.validate_exp = false;
        validation.validate_aud = config.audience.is_some();
        let mut required = vec!["exp"];
        if let Some(audience) = &config.audience {
            validation.set_audience(&[audience]);
            required.push("aud");
        }
        if let Some(issuer) = &config.issuer {
            validation.set_issuer(&[issuer]);
            required.push("iss");
        }
        validation.set_required_spec_claims(&required);
        let id: Box<str> = config.id.as_str().into();
        let key = |material: key_file::Material| Self {
            id: id.clone(),
            kid: material.kid,
            key: material.key,
            algorithm,
            validation: validation.clone(),
        };
        Ok(materials.into_iter().map(key).collect())
    }

    /// Adds the key to a digest.
    pub(super) fn add_to_digest(&self, context: &mut Context) {
        let kid = self.kid.as_deref().unwrap_or_default().as_bytes();
        let parts: [&[u8]; 3] = match self.key.kind() {
            DecodingKeyKind::SecretOrDer(bytes) => [kid, bytes, &[]],
            DecodingKeyKind::RsaModulusExponent { n, e } => [kid, n, e],
        };
        for part in parts {
            context.update(&part.len().to_be_bytes());
            context.update(part);
        }
    }

    /// Whether this key may have signed a token with this header.
    fn is_for(&self, algorithm: Algorithm, kid: Option<&str>) -> bool {
        self.algorithm == algorithm && (kid.is_none() || self.kid.as_deref() == kid)
    }

    fn verify(&self, token: &[u8]) -> Result<Verified, Refused> {
        let claims =
            decode::<Claims>(token, &self.key, &self.validation).map_err(|error| refusal(error.kind()))?.claims;
        let TidingsClaim { publish, subscribe, manage, limits } = &claims.tidings;
        let rights = Rights::parse([publish, subscribe, manage], claims.sub.as_deref());
        let rights = rights.map_err(|_: PatternError| Refused::BadClaims)?;
        let identity = Identity { key: self.id.clone(), subject: claims.sub.map(String::into_boxed_str) };
        Ok(Verified {
            identity: Arc::new(identity),
            rights,
            limits: *limits,
            starts_at: claims.nbf.and_then(|nbf| nbf.checked_sub(LEEWAY)),
            expires_at: claims.exp.checked_add(LEEWAY),
        })
    }
}

/// Verifies the signature and the claims of a token, but not its times.
pub(super) fn verify(keys: &[TokenKey], token: &[u8]) -> Result<Verified, Refused> {
    let header = decode_header(token).map_err(|_| Refused::Unknown)?;
    let mut refused = Refused::Unknown;
    for key in keys.iter().filter(|key| key.is_for(header.alg, header.kid.as_deref())) {
        match key.verify(token) {
            Ok(verified) => return Ok(verified),
            // Another key may have signed the token.
            Err(Refused::Unknown) => {}
            Err(error) => refused = error,
        }
    }
    Err(refused)
}

impl Verified {
    /// Refuses a token that has expired, or is not valid yet.
    pub(super) fn check_times(&self, now: SystemTime) -> Result<(), Refused> {
        if self.expires_at.is_some_and(|expires_at| now >= expires_at) {
            return Err(Refused::Expired);
        }
        if self.starts_at.is_some_and(|starts_at| now < starts_at) { Err(Refused::NotYetValid) } else { Ok(()) }
    }
}

fn refusal(error: &ErrorKind) -> Refused {
    match error {
        ErrorKind::InvalidIssuer | ErrorKind::InvalidAudience => Refused::OtherAudience,
        ErrorKind::MissingRequiredClaim(claim) if claim != "exp" => Refused::OtherAudience,
        ErrorKind::MissingRequiredClaim(_) | ErrorKind::InvalidClaimFormat(_) | ErrorKind::Json(_) => {
            Refused::BadClaims
        }
        _ => Refused::Unknown,
    }
}

/// A `NumericDate` (RFC 7519, section 2): seconds since 1970, perhaps with a fraction.
fn time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SystemTime, D::Error> {
    let seconds = f64::deserialize(deserializer)?;
    let since_epoch = Duration::try_from_secs_f64(seconds.clamp(0.0, LATEST_TIME));
    since_epoch.map(|since_epoch| UNIX_EPOCH + since_epoch).map_err(serde::de::Error::custom)
}

fn time_if_given<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SystemTime>, D::Error> {
    time(deserializer).map(Some)
}
