//! Tokens that must be accepted, and tokens of known attacks.

use std::{
    fs,
    net::SocketAddr,
    path::PathBuf,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use jsonwebtoken::{EncodingKey, Header, encode};
use serde_json::{Value, json};

mod fuzz;
mod limits;

use super::*;
use crate::config::{Algorithm, ApiKeyConfig, KeyConfig, Sha256};

const SECRET: &str = "a secret of thirty-two bytes....";
const LOOPBACK: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 80);

fn key(id: &str, secret: &str) -> KeyConfig {
    KeyConfig {
        id: id.to_owned(),
        algorithm: Algorithm::HS256,
        secret: Some(secret.into()),
        secret_file: None,
        public_key_file: None,
        jwks_file: None,
        issuer: None,
        audience: None,
    }
}

fn keys(keys: &[KeyConfig]) -> Keys {
    Keys::load(&AuthConfig { keys: keys.to_vec(), ..AuthConfig::default() }).expect("the keys load")
}

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_hours(500_000)
}

fn seconds(from_now: i64) -> i64 {
    1_800_000_000 + from_now
}

fn sign_with(header: &Header, claims: &Value, secret: &str) -> String {
    encode(header, claims, &EncodingKey::from_secret(secret.as_bytes()).expect("a key")).expect("it is signed")
}

fn sign(claims: &Value) -> String {
    sign_with(&Header::default(), claims, SECRET)
}

/// A token with this header and payload as they are, signed by HMAC-SHA-256.
fn sign_raw(header: &str, payload: &str) -> String {
    let encoded = |text: &str| base64url(text.as_bytes());
    let message = format!("{}.{}", encoded(header), encoded(payload));
    let signature = jsonwebtoken::crypto::sign(
        message.as_bytes(),
        &EncodingKey::from_secret(SECRET.as_bytes()).expect("a key"),
        jsonwebtoken::Algorithm::HS256,
    );
    format!("{message}.{}", signature.expect("it is signed"))
}

/// base64url without padding (RFC 7515, appendix C).
fn base64url(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let digits = bytes.chunks(3).flat_map(|chunk| {
        let bits = chunk.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        (0..=chunk.len()).map(move |n| char::from(DIGITS[usize::try_from(bits >> (18 - 6 * n) & 63).expect("small")]))
    });
    digits.collect()
}

fn refused(keys: &Keys, token: &str) -> Option<Refused> {
    keys.authenticate(token.as_bytes(), now()).err()
}

fn topic(name: &str) -> crate::event::TopicName {
    crate::event::TopicName::parse(name, 255).expect("a topic")
}

#[test]
fn a_token_gives_the_rights_of_its_claims() {
    let keys = keys(&[key("k", SECRET)]);
    let token = sign(&json!({
        "sub": "ann", "exp": seconds(60),
        "tidings": {"publish": ["users/{sub}"], "subscribe": ["news/*"], "manage": ["**"]},
    }));
    let caller = keys.authenticate(token.as_bytes(), now()).expect("it is valid");
    let identity = caller.identity().expect("an identity");
    assert_eq!((&*identity.key, identity.subject.as_deref()), ("k", Some("ann")));
    assert!(
        caller.grant::<Publish>(topic("users/ann")).is_ok() && caller.grant::<Publish>(topic("users/bob")).is_err()
    );
    assert!(
        caller.grant::<Subscribe>(topic("news/1")).is_ok() && caller.grant::<Subscribe>(topic("users/ann")).is_err()
    );
    assert!(caller.grant_all::<Manage>().is_ok() && caller.grant_all::<Subscribe>().is_err());
    assert_eq!(caller.valid_for(now()), Some(Duration::from_secs(65)));
    let forbidden = caller.grant::<Publish>(topic("x")).expect_err("no right");
    assert_eq!((forbidden.right, forbidden.credential), (Right::Publish, Credential::Token));
}

#[test]
fn a_token_without_the_claim_gives_no_right() {
    let keys = keys(&[key("k", SECRET)]);
    let token = sign(&json!({"exp": seconds(60)}));
    let caller = keys.authenticate(token.as_bytes(), now()).expect("it is valid");
    for result in [caller.check_any::<Publish>(), caller.check_any::<Subscribe>(), caller.check_any::<Manage>()] {
        assert!(result.is_err());
    }
}

#[test]
fn times_count_with_the_leeway_and_not_one_second_more() {
    // Goal: `exp` and `nbf` at the limit and one past it; also for a token that was verified before.
    let keys = keys(&[key("k", SECRET)]);
    for (claims, expected) in [
        (json!({"exp": seconds(-4)}), None),
        (json!({"exp": seconds(-5)}), Some(Refused::Expired)),
        (json!({"exp": 0}), Some(Refused::Expired)),
        (json!({"exp": -1}), Some(Refused::BadClaims)),
        (json!({"exp": 1e300}), Some(Refused::BadClaims)),
        (json!({"exp": 1e15}), None),
        (json!({"exp": f64::from(1_800_000_000) + 0.5}), None),
        (json!({"exp": seconds(60), "nbf": seconds(5)}), None),
        (json!({"exp": seconds(60), "nbf": seconds(6)}), Some(Refused::NotYetValid)),
        (json!({}), Some(Refused::BadClaims)),
        (json!({"exp": null}), Some(Refused::BadClaims)),
        (json!({"exp": seconds(60).to_string()}), Some(Refused::BadClaims)),
        (json!({"exp": [seconds(60)]}), Some(Refused::BadClaims)),
        (json!({"exp": seconds(60), "nbf": "x"}), Some(Refused::BadClaims)),
    ] {
        assert_eq!(refused(&keys, &sign(&claims)), expected, "{claims}");
    }
    let token = sign(&json!({"exp": seconds(10)}));
    let at = |seconds: u64| keys.authenticate(token.as_bytes(), now() + Duration::from_secs(seconds)).err();
    assert_eq!([at(0), at(14), at(15), at(15)], [None, None, Some(Refused::Expired), Some(Refused::Expired)]);
    assert_eq!(at(0), None, "the clock was set back");
}

#[test]
fn issuer_and_audience_count_only_when_configured() {
    let strict =
        keys(&[KeyConfig { issuer: Some("us".to_owned()), audience: Some("broker".to_owned()), ..key("k", SECRET) }]);
    let lenient = keys(&[key("k", SECRET)]);
    for (claims, expected) in [
        (json!({"iss": "us", "aud": "broker", "exp": seconds(60)}), None),
        (json!({"iss": "us", "aud": ["other", "broker"], "exp": seconds(60)}), None),
        (json!({"iss": "us", "aud": "other", "exp": seconds(60)}), Some(Refused::OtherAudience)),
        (json!({"iss": "them", "aud": "broker", "exp": seconds(60)}), Some(Refused::OtherAudience)),
        (json!({"iss": "us", "exp": seconds(60)}), Some(Refused::OtherAudience)),
        (json!({"aud": "broker", "exp": seconds(60)}), Some(Refused::OtherAudience)),
        (json!({"iss": 1, "aud": {}, "exp": seconds(60)}), Some(Refused::OtherAudience)),
    ] {
        assert_eq!(refused(&strict, &sign(&claims)), expected, "{claims}");
        assert_eq!(refused(&lenient, &sign(&claims)), None, "{claims}");
    }
}

#[test]
fn known_attacks_are_refused() {
    let public = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n-----END PUBLIC KEY-----\n";
    let directory = tempdir();
    let pem = directory.join("public.pem");
    fs::write(&pem, public).expect("a file");
    let ed = KeyConfig { algorithm: Algorithm::EdDSA, secret: None, public_key_file: Some(pem), ..key("ed", "") };
    let keys = keys(&[key("k", SECRET), ed]);
    let claims = json!({"exp": seconds(60)}).to_string();
    let unsigned = |header: &str| format!("{}.{}.", base64url(header.as_bytes()), base64url(claims.as_bytes()));
    let good = sign_raw(r#"{"alg":"HS256"}"#, &claims);
    assert_eq!(refused(&keys, &good), None, "the control");
    let (message, signature) = good.rsplit_once('.').expect("a token");
    let swapped = if signature.starts_with('A') { "B" } else { "A" };
    let attacks = [
        // No signature (RFC 7519, section 6), in all spellings.
        unsigned(r#"{"alg":"none"}"#),
        unsigned(r#"{"alg":"None"}"#),
        unsigned(r#"{"alg":""}"#),
        unsigned("{}"),
        unsigned(r#"{"alg":"HS256"}"#),
        // The public key as the secret of an HMAC.
        sign_with(&Header::default(), &json!({"exp": seconds(60)}), public),
        sign_with(&Header { kid: Some("ed".to_owned()), ..Header::default() }, &json!({"exp": seconds(60)}), public),
        // An empty secret, and another one.
        sign_with(&Header::default(), &json!({"exp": seconds(60)}), "another secret of enough bytes....."),
        // The key in the header.
        sign_raw(r#"{"alg":"HS256","kid":"../../dev/null"}"#, &claims),
        sign_raw(r#"{"alg":"HS256","kid":"' OR 1=1 --"}"#, &claims),
        sign_raw(r#"{"alg":"HS256","kid":""}"#, &claims),
        sign_raw(r#"{"alg":"HS256","kid":"ed"}"#, &claims),
        // Another algorithm of the same family.
        sign_raw(r#"{"alg":"HS512"}"#, &claims),
        // Given twice: two readers could read two values.
        sign_raw(r#"{"alg":"HS256","alg":"none"}"#, &claims),
        sign_raw(r#"{"alg":"HS256","crit":["x"],"x":1}"#, &claims),
        format!("{message}.{swapped}{}", signature.get(1..).unwrap_or_default()),
        format!("{message}.{signature}="),
        format!("{message}.{signature}.x"),
        format!("{good}\n"),
        format!(" {good}"),
        String::new(),
        "..".to_owned(),
        "a.b.c".to_owned(),
        message.to_owned(),
    ];
    for token in &attacks {
        assert_eq!(refused(&keys, token), Some(Refused::Unknown), "{token}");
    }
    let with_url = sign_raw(r#"{"alg":"HS256","kid":"k","jku":"http://evil.example"}"#, &claims);
    assert_eq!(refused(&keys, &with_url), None, "the address is not used");
    let deep = format!(r#"{{"exp":{},"x":{}1{}}}"#, seconds(60), "[".repeat(1000), "]".repeat(1000));
    for payload in [
        &format!(r#"{{"exp":{},"exp":{}}}"#, seconds(-60), seconds(60)),
        &format!(r#"{{"exp":{},"tidings":{{"publish":["a"],"publish":["**"]}}}}"#, seconds(60)),
        &format!(r#"{{"exp":{},"tidings":{{}},"tidings":{{"publish":["**"]}}}}"#, seconds(60)),
        &format!(r#"{{"exp":{},"tidings":{{"publsh":["a"]}}}}"#, seconds(60)),
        &format!(r#"{{"exp":{},"tidings":{{"publish":"**"}}}}"#, seconds(60)),
        &format!(r#"{{"exp":{},"tidings":{{"publish":["a**"]}}}}"#, seconds(60)),
        &format!(r#"{{"exp":{},"tidings":{{"publish":["{{sub}}"]}}}}"#, seconds(60)),
        "[]",
        "null",
        "",
    ] {
        let token = sign_raw(r#"{"alg":"HS256"}"#, payload);
        let refused = refused(&keys, &token);
        assert!(matches!(refused, Some(Refused::BadClaims | Refused::Unknown)), "{payload}: {refused:?}");
    }
    assert_eq!(refused(&keys, &sign_raw(r#"{"alg":"HS256"}"#, &deep)), None, "a claim that is not used is skipped");
    fs::remove_dir_all(directory).expect("it is removed");
}

#[test]
fn a_token_may_be_as_long_as_the_limit() {
    let keys = keys(&[key("k", SECRET)]);
    let of_length = |length: usize| {
        // base64 makes four bytes of three, so some lengths cannot be reached exactly.
        (0..length)
            .rev()
            .map(|n| sign(&json!({"exp": seconds(60), "x": "x".repeat(n)})))
            .find(|token| token.len() <= length)
    };
    let longest = of_length(TOKEN_BYTES_MAX).expect("a token");
    assert!(longest.len() > TOKEN_BYTES_MAX - 4);
    assert_eq!(refused(&keys, &longest), None);
    assert_eq!(refused(&keys, &"x".repeat(TOKEN_BYTES_MAX)), Some(Refused::Unknown));
    assert_eq!(refused(&keys, &"x".repeat(TOKEN_BYTES_MAX + 1)), Some(Refused::TooLong));
}

#[test]
fn the_vector_of_rfc_7515_a_1_is_verified() {
    // The key is that of RFC 7515, appendix A.1.1, and the claims are from 2011.
    let jwks = r#"{"keys":[{"kty":"oct","k":"AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow"}]}"#;
    let directory = tempdir();
    let file = directory.join("keys.json");
    fs::write(&file, jwks).expect("a file");
    let keys = keys(&[KeyConfig { secret: None, jwks_file: Some(file), ..key("k", "") }]);
    let token = "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
    let at = |seconds: u64| keys.authenticate(token.as_bytes(), UNIX_EPOCH + Duration::from_secs(seconds)).err();
    assert_eq!(at(1_300_819_379), None);
    assert_eq!(at(1_300_819_385), Some(Refused::Expired));
    fs::remove_dir_all(directory).expect("it is removed");
}

#[test]
fn the_key_of_the_kid_verifies_and_without_kid_any_key_does() {
    let other = "another secret of enough bytes.....";
    let keys = keys(&[key("old", SECRET), key("new", other)]);
    let claims = json!({"exp": seconds(60)});
    let with = |kid: Option<&str>, secret: &str| {
        let header = Header { kid: kid.map(str::to_owned), ..Header::default() };
        let caller = keys.authenticate(sign_with(&header, &claims, secret).as_bytes(), now());
        caller.map(|caller| caller.identity().expect("an identity").key.to_string())
    };
    assert_eq!(with(None, SECRET), Ok("old".to_owned()));
    assert_eq!(with(None, other), Ok("new".to_owned()));
    assert_eq!(with(Some("new"), other), Ok("new".to_owned()));
    assert_eq!(with(Some("old"), other), Err(Refused::Unknown));
    assert_eq!(with(Some("other"), other), Err(Refused::Unknown));
}

#[test]
fn an_api_key_is_known_by_its_digest() {
    // The digest of "abc" (FIPS 180-2, appendix B.1).
    let digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    let config: ApiKeyConfig =
        serde_json::from_value(json!({"name": "service", "sha256": digest, "publish": ["orders/*"]})).expect("a key");
    let config = AuthConfig { api_keys: vec![config], ..AuthConfig::default() };
    let keys = Keys::load(&config).expect("the keys load");
    let caller = keys.authenticate(b"abc", now()).expect("it is known");
    assert!(caller.grant::<Publish>(topic("orders/1")).is_ok() && caller.check_any::<Manage>().is_err());
    assert_eq!((caller.identity().expect("an identity").key.as_ref(), caller.valid_for(now())), ("service", None));
    for other in ["abd", "", "abc ", digest] {
        assert_eq!(refused(&keys, other), Some(Refused::Unknown));
    }
    let bad = ApiKeyConfig {
        name: "bad".to_owned(),
        sha256: Sha256([0; 32]),
        publish: vec!["{sub}".to_owned()],
        subscribe: Vec::new(),
        manage: Vec::new(),
        publishes_per_second: None,
        subscribers_max: None,
    };
    let config = AuthConfig { api_keys: vec![bad], ..AuthConfig::default() };
    assert!(matches!(Keys::load(&config), Err(AuthConfigError::Pattern { .. })));
}

#[test]
fn a_short_secret_is_refused() {
    for (length, is_refused) in [(0, true), (31, true), (32, false)] {
        let loaded = Keys::load(&AuthConfig { keys: vec![key("k", &"x".repeat(length))], ..AuthConfig::default() });
        assert_eq!(matches!(loaded, Err(AuthConfigError::Key { .. })), is_refused, "{length}");
    }
}

#[test]
fn anonymous_callers_may_do_what_is_configured() {
    let public: SocketAddr = "0.0.0.0:80".parse().expect("an address");
    let rights = |anonymous, address, is_forwarded| {
        let config = AuthConfig { anonymous, keys: vec![key("k", SECRET)], ..AuthConfig::default() };
        let caller = Auth::load(&config, address).expect("it loads").anonymous(is_forwarded);
        let (publish, subscribe) = (caller.grant_all::<Publish>().is_ok(), caller.grant_all::<Subscribe>().is_ok());
        [publish, subscribe, caller.grant_all::<Manage>().is_ok()]
    };
    for (anonymous, address, is_forwarded, expected) in [
        (Anonymous::Loopback, LOOPBACK, false, [true, true, true]),
        (Anonymous::Loopback, LOOPBACK, true, [false, false, false]),
        (Anonymous::Loopback, public, false, [false, false, false]),
        (Anonymous::None, LOOPBACK, false, [false, false, false]),
        (Anonymous::Subscribe, public, true, [false, true, false]),
        (Anonymous::All, public, true, [true, true, false]),
    ] {
        assert_eq!(rights(anonymous, address, is_forwarded), expected, "{anonymous:?} {address} {is_forwarded}");
    }
}

#[test]
fn a_public_address_needs_a_decision() {
    let public: SocketAddr = "[::]:80".parse().expect("an address");
    let load = |anonymous, keys: &[KeyConfig], address| {
        Auth::load(&AuthConfig { anonymous, keys: keys.to_vec(), ..AuthConfig::default() }, address).map(drop)
    };
    assert!(matches!(load(Anonymous::Loopback, &[], public), Err(AuthConfigError::OpenToAll(_))));
    assert!(load(Anonymous::Loopback, &[], LOOPBACK).is_ok());
    assert!(load(Anonymous::Loopback, &[key("k", SECRET)], public).is_ok());
    for anonymous in [Anonymous::None, Anonymous::Subscribe, Anonymous::All] {
        assert!(load(anonymous, &[], public).is_ok(), "{anonymous:?}");
    }
}

#[test]
fn a_reload_names_the_keys_that_are_gone_or_changed() {
    let other = "another secret of enough bytes.....";
    let config = |keys: &[KeyConfig]| AuthConfig { keys: keys.to_vec(), ..AuthConfig::default() };
    let auth =
        Auth::load(&config(&[key("a", SECRET), key("b", SECRET), key("c", SECRET)]), LOOPBACK).expect("it loads");
    let token = sign_with(
        &Header { kid: Some("b".to_owned()), ..Header::default() },
        &json!({"exp": 4_000_000_000_u64}),
        SECRET,
    );
    assert!(auth.authenticate(token.as_bytes()).is_ok());
    let gone = auth.reload(&config(&[key("a", SECRET), key("b", other), key("d", SECRET)])).expect("it loads");
    assert_eq!(format!("{gone:?}"), r#"["b", "c"]"#);
    assert_eq!(auth.authenticate(token.as_bytes()).err(), Some(Refused::Unknown), "verified tokens are forgotten");
    assert!(auth.reload(&config(&[key("a", "short")])).is_err());
    assert!(auth.reload(&config(&[key("a", SECRET)])).is_ok_and(|gone| gone.len() == 2), "the earlier keys stayed");
}

/// An empty directory of this test.
fn tempdir() -> PathBuf {
    let path = PathBuf::from("target").join(format!("tidings-auth-{}-{}", std::process::id(), fastrand::u64(..)));
    fs::create_dir_all(&path).expect("a directory");
    path
}
