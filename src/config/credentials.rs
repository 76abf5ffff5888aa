//! `[auth]`: who may publish, subscribe and manage.

use std::fmt;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Deserializer};

use super::own_limits::{OwnLimits, if_given};

/// `[auth]`: who may publish, subscribe and manage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthConfig {
    /// What a caller without a credential may do.
    pub anonymous: Anonymous,
    /// Whether a token may be given as `access_token` in the query.
    pub query_token: bool,
    /// The name of the cookie that may carry a token. Empty means none.
    pub cookie: String,
    /// How long a ticket can be used.
    pub ticket_ttl: Duration,
    /// Topics of all unused tickets together.
    pub tickets_max: usize,
    /// Topics of the unused tickets of one key and subject.
    pub tickets_per_key_max: usize,
    /// `[[auth.keys]]`: the keys of tokens.
    pub keys: Vec<KeyConfig>,
    /// `[[auth.api_keys]]`: fixed credentials.
    pub api_keys: Vec<ApiKeyConfig>,
    /// `[[auth.certificates]]`: what verified client certificates give.
    pub certificates: Vec<CertificateConfig>,
}

impl Default for AuthConfig {
    fn default() -> Self {
        Self {
            anonymous: Anonymous::Loopback,
            query_token: false,
            cookie: String::new(),
            ticket_ttl: Duration::from_secs(30),
            tickets_max: 100_000,
            tickets_per_key_max: 1_000,
            keys: Vec::new(),
            api_keys: Vec::new(),
            certificates: Vec::new(),
        }
    }
}

/// What a caller without a credential may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Anonymous {
    /// Everything, if the server listens only on loopback and no proxy has forwarded the request. Otherwise nothing.
    Loopback,
    /// Nothing.
    None,
    /// Subscribe.
    Subscribe,
    /// Publish and subscribe.
    All,
}

/// A key of tokens (RFC 7519): a secret that signs and verifies tokens, or public keys that verify tokens.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyConfig {
    /// Its name. If a token has a `kid`, only the key with this id verifies the token. With a `jwks_file`, the ids in
    /// the set count instead.
    pub id: String,
    /// The one algorithm of tokens that this key verifies.
    pub algorithm: Algorithm,
    /// The secret of an HMAC: the bytes of this text.
    pub secret: Option<Secret>,
    /// The file of the secret. A line break at its end is not part of the secret.
    pub secret_file: Option<PathBuf>,
    /// The PEM file of a public key.
    pub public_key_file: Option<PathBuf>,
    /// The file of a JSON Web Key Set (RFC 7517).
    pub jwks_file: Option<PathBuf>,
    /// If it is given, a token must have this `iss`.
    pub issuer: Option<String>,
    /// If it is given, a token must have this `aud`, or a list with it.
    pub audience: Option<String>,
}

/// The algorithms of RFC 7518, section 3.1, and of RFC 8037, except `none` and ES512.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[expect(missing_docs, reason = "the names are those of the standard")]
pub enum Algorithm {
    HS256,
    HS384,
    HS512,
    RS256,
    RS384,
    RS512,
    PS256,
    PS384,
    PS512,
    ES256,
    ES384,
    EdDSA,
}

/// A fixed credential for a service.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApiKeyConfig {
    /// Its name, for logs and limits.
    pub name: String,
    /// The SHA-256 of the credential, in hexadecimal. The credential itself is not stored.
    pub sha256: Sha256,
    /// The topics that it may publish to, as patterns.
    #[serde(default)]
    pub publish: Vec<String>,
    /// The topics that it may subscribe to, as patterns.
    #[serde(default)]
    pub subscribe: Vec<String>,
    /// The topics that it may manage, as patterns: describe and delete them, and list their subscribers.
    #[serde(default)]
    pub manage: Vec<String>,
    /// How often it may publish within a second.
    #[serde(default, deserialize_with = "if_given")]
    pub publishes_per_second: Option<NonZeroU32>,
    /// How many streams it may have open at one time.
    #[serde(default, deserialize_with = "if_given")]
    pub subscribers_max: Option<NonZeroU32>,
}

impl ApiKeyConfig {
    /// The limits that it brings with it.
    #[must_use]
    pub fn limits(&self) -> OwnLimits {
        OwnLimits { publishes_per_second: self.publishes_per_second, subscribers_max: self.subscribers_max }
    }
}

/// What a verified client certificate gives.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CertificateConfig {
    /// The common name of the certificate's subject, otherwise its first DNS name.
    pub subject: String,
    /// The topics that it may publish to, as patterns.
    #[serde(default)]
    pub publish: Vec<String>,
    /// The topics that it may subscribe to, as patterns.
    #[serde(default)]
    pub subscribe: Vec<String>,
    /// The topics that it may manage, as patterns: describe and delete them, and list their subscribers.
    #[serde(default)]
    pub manage: Vec<String>,
    /// How often it may publish within a second.
    #[serde(default, deserialize_with = "if_given")]
    pub publishes_per_second: Option<NonZeroU32>,
    /// How many streams it may have open at one time.
    #[serde(default, deserialize_with = "if_given")]
    pub subscribers_max: Option<NonZeroU32>,
}

impl CertificateConfig {
    /// The limits that it brings with it.
    #[must_use]
    pub fn limits(&self) -> OwnLimits {
        OwnLimits { publishes_per_second: self.publishes_per_second, subscribers_max: self.subscribers_max }
    }
}

/// The key of the list of certificates. The identity of every client with a certificate has this name, as the identity
/// from a token has the name of the token's key.
pub const CERTIFICATE_KEY: &str = "auth.certificates";

impl AuthConfig {
    /// Whether a caller can have a credential.
    #[must_use]
    pub fn has_credentials(&self) -> bool {
        !self.keys.is_empty() || !self.api_keys.is_empty() || !self.certificates.is_empty()
    }

    /// The mistakes in `keys`, `api_keys` and `certificates` that can be found without reading the files that they
    /// name.
    pub(super) fn mistakes(&self) -> Vec<Mistake> {
        let mut mistakes = Vec::new();
        let mut add = |key, allowed| mistakes.push(Mistake { key, allowed });
        for key in &self.keys {
            if let Some(mistake) = key.mistake() {
                add("auth.keys", format!("in the key {:?}: {mistake}", key.id));
            }
        }
        for key in &self.api_keys {
            if !is_name(&key.name) {
                add("auth.api_keys", format!("in the key {:?}: a name of {NAME}", key.name));
            }
        }
        let ids = self.keys.iter().map(|key| &key.id);
        let names: Vec<&String> = ids.chain(self.api_keys.iter().map(|key| &key.name)).collect();
        if let Some(twice) = given_twice(&names) {
            let key = if self.keys.iter().any(|key| key.id == *twice) { "auth.keys" } else { "auth.api_keys" };
            add(key, format!("a name for each key; {twice:?} is given twice"));
        }
        if names.iter().any(|name| *name == CERTIFICATE_KEY) {
            add("auth.keys", format!("a name other than {CERTIFICATE_KEY}, which is that of certificates"));
        }
        let subjects: Vec<&String> = self.certificates.iter().map(|row| &row.subject).collect();
        if let Some(twice) = given_twice(&subjects) {
            add(CERTIFICATE_KEY, format!("one row for each subject; {twice:?} is given twice"));
        }
        if let Some(bad) = subjects.iter().find(|subject| !is_subject(subject)) {
            let form = format!("1 to {SUBJECT_BYTES_MAX} bytes without control characters");
            add(CERTIFICATE_KEY, format!("in the row of {bad:?}: a subject of {form}"));
        }
        mistakes
    }
}

/// A mistake in the lists of `[auth]`.
pub(super) struct Mistake {
    /// The key of the configuration.
    pub(super) key: &'static str,
    /// What is allowed instead.
    pub(super) allowed: String,
}

/// The first text, in alphabetical order, that is in `texts` more than once.
fn given_twice<'a>(texts: &[&'a String]) -> Option<&'a String> {
    let mut sorted = texts.to_vec();
    sorted.sort();
    sorted.iter().zip(sorted.iter().skip(1)).find(|(one, next)| one == next).map(|(one, _)| *one)
}

fn is_subject(text: &str) -> bool {
    (1..=SUBJECT_BYTES_MAX).contains(&text.len()) && !text.chars().any(char::is_control)
}

/// The longest subject of a row.
const SUBJECT_BYTES_MAX: usize = 256;

/// The form of an `id` and of a `name`.
const NAME: &str = "1 to 128 printable ASCII characters";

fn is_name(text: &str) -> bool {
    (1..=128).contains(&text.len()) && text.bytes().all(|b| matches!(b, b' '..=b'~'))
}

impl KeyConfig {
    fn mistake(&self) -> Option<String> {
        if !is_name(&self.id) {
            return Some(format!("an id of {NAME}"));
        }
        let Self { secret, secret_file, public_key_file, jwks_file, algorithm, .. } = self;
        let given = [secret.is_some(), secret_file.is_some(), public_key_file.is_some(), jwks_file.is_some()];
        if given.into_iter().filter(|is_given| *is_given).count() != 1 {
            return Some("one of secret, secret_file, public_key_file and jwks_file".to_owned());
        }
        // With a public key as the secret of an HMAC, anybody who knows the public key could sign tokens.
        if algorithm.is_hmac() && public_key_file.is_some() {
            return Some(format!("a secret, because the algorithm is {algorithm:?}"));
        }
        if !algorithm.is_hmac() && (secret.is_some() || secret_file.is_some()) {
            return Some(format!("a public key, because the algorithm is {algorithm:?}"));
        }
        None
    }
}

impl Algorithm {
    /// Whether the signature is an HMAC, whose key is a secret.
    #[must_use]
    pub fn is_hmac(self) -> bool {
        matches!(self, Self::HS256 | Self::HS384 | Self::HS512)
    }
}

/// A SHA-256 digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sha256(pub [u8; 32]);

impl<'de> Deserialize<'de> for Sha256 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // The error does not show the text, which may be the credential itself, given by mistake.
        let error = || serde::de::Error::custom("sha256 must be text of 64 hexadecimal digits");
        let text = String::deserialize(deserializer).map_err(|_| error())?;
        let mut digest = [0; 32];
        let (pairs, []) = text.as_bytes().as_chunks::<2>() else { return Err(error()) };
        if pairs.len() != digest.len() {
            return Err(error());
        }
        for (byte, pair) in digest.iter_mut().zip(pairs) {
            // `from_str_radix` alone would accept a sign.
            let digits = std::str::from_utf8(pair).ok().filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()));
            *byte = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()).ok_or_else(error)?;
        }
        Ok(Self(digest))
    }
}

/// A secret. It is not printed, and its memory is overwritten when it is dropped.
#[derive(Clone)]
pub struct Secret(SecretString);

impl Secret {
    /// The text of the secret.
    #[must_use]
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // The error of serde would show the value.
        let text = String::deserialize(deserializer);
        text.map(|text| Self(text.into())).map_err(|_| serde::de::Error::custom("a secret must be text, in quotes"))
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Self(text.into())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// Only configurations are compared, never a secret with what a client has sent.
impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.expose() == other.expose()
    }
}

impl Eq for Secret {}
