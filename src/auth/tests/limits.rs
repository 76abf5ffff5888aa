//! The limits that tokens and API keys bring with them.

use std::num::NonZeroU32;

use super::*;
use crate::config::{OWN_LIMIT_MAX, OwnLimits};

#[test]
fn a_token_brings_its_limits() {
    let keys = keys(&[key("k", SECRET)]);
    let limits = |tidings: Value| {
        let caller = keys.authenticate(sign(&json!({"exp": seconds(60), "tidings": tidings})).as_bytes(), now());
        caller.map(|caller| caller.limits())
    };
    let given = |publishes_per_second, subscribers_max| OwnLimits {
        publishes_per_second: NonZeroU32::new(publishes_per_second),
        subscribers_max: NonZeroU32::new(subscribers_max),
    };
    for (tidings, expected) in [
        (json!({}), given(0, 0)),
        (json!({"limits": {}}), given(0, 0)),
        (json!({"limits": {"publishes_per_second": 1}}), given(1, 0)),
        (json!({"limits": {"subscribers_max": OWN_LIMIT_MAX}}), given(0, OWN_LIMIT_MAX)),
        (json!({"limits": {"publishes_per_second": 5, "subscribers_max": 2}}), given(5, 2)),
    ] {
        assert_eq!(limits(tidings.clone()), Ok(expected), "{tidings}");
    }
    for tidings in [
        json!({"limits": null}),
        json!({"limits": []}),
        json!({"limits": [5, 2]}),
        json!({"limits": 5}),
        json!({"limits": {"publishes": 5}}),
        json!({"limits": {"subscribers_max": 0}}),
        json!({"limits": {"subscribers_max": -1}}),
        json!({"limits": {"subscribers_max": 1.5}}),
        json!({"limits": {"subscribers_max": "1"}}),
        json!({"limits": {"subscribers_max": null}}),
        json!({"limits": {"publishes_per_second": OWN_LIMIT_MAX + 1}}),
        json!({"limits": {"publishes_per_second": 1e300}}),
    ] {
        let refused = limits(tidings.clone()).expect_err("it is refused");
        assert_eq!(refused, Refused::BadClaims, "{tidings}");
        assert!(refused.to_string().contains("\"subscribers_max\": n"), "{refused}");
    }
    let twice = format!(r#"{{"exp":{},"tidings":{{"limits":{{}},"limits":{{}}}}}}"#, seconds(60));
    assert_eq!(refused(&keys, &sign_raw(r#"{"alg":"HS256"}"#, &twice)), Some(Refused::BadClaims));
}

#[test]
fn an_api_key_brings_its_limits() {
    let load = |limits: &str| {
        let key = format!("{{ \"name\": \"k\", \"sha256\": \"{}\"{limits} }}", "0".repeat(64));
        serde_json::from_str::<ApiKeyConfig>(&key).map(|key| key.limits())
    };
    let one = NonZeroU32::MIN;
    let both = OwnLimits { publishes_per_second: Some(one), subscribers_max: Some(one) };
    assert_eq!(load(", \"publishes_per_second\": 1, \"subscribers_max\": 1").ok(), Some(both));
    assert_eq!(load("").ok(), Some(OwnLimits::default()));
    for bad in ["0", "-1", "1.5", "\"1\"", "null", "10000001"] {
        for name in ["publishes_per_second", "subscribers_max"] {
            assert!(load(&format!(", \"{name}\": {bad}")).is_err(), "{name}: {bad}");
        }
    }
}
