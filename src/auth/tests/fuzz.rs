//! Only the token that was signed is accepted, and a signed one only with a time of expiry.

use proptest::prelude::*;

use super::*;
use crate::fuzz;

/// Pieces of headers and payloads.
const JSON: &[&str] = &[
    "{",
    "}",
    "\"alg\":\"HS256\"",
    "\"alg\":\"none\"",
    "\"alg\":\"RS256\"",
    "\"typ\":\"JWT\"",
    "\"kid\":\"one\"",
    "\"kid\":\"../x\"",
    "\"kid\":7",
    "\"crit\":[\"x\"]",
    "\"exp\":1800000060",
    "\"exp\":1799999000",
    "\"exp\":\"1800000060\"",
    "\"exp\":1e99",
    "\"exp\":-1",
    "\"nbf\":1800009999",
    "\"sub\":\"ann\"",
    "\"sub\":7",
    "\"tidings\":{}",
    "\"tidings\":{\"publish\":[\"**\"]}",
    "\"tidings\":[]",
    "\"iss\":\"x\"",
    ",",
    ",",
    ":",
    "[",
    "]",
    "null",
    "0",
    " ",
];

proptest! {
    #[test]
    fn a_changed_token_is_refused(at in any::<prop::sample::Index>(), byte in any::<u8>(), junk in fuzz::bytes(JSON)) {
        let keys = keys(&[key("one", SECRET)]);
        let token = sign(&json!({"exp": seconds(60), "tidings": {"publish": ["**"]}})).into_bytes();
        prop_assert!(keys.authenticate(&token, now()).is_ok());
        let mut changed = token.clone();
        let at = at.index(token.len());
        changed[at] = byte;
        prop_assert!(changed == token || keys.authenticate(&changed, now()).is_err());
        prop_assert!(keys.authenticate(&token[..at], now()).is_err());
        prop_assert!(keys.authenticate(&junk, now()).is_err());
        prop_assert!(keys.authenticate(&[&token[..at], &*junk].concat(), now()).is_err());
    }

    #[test]
    fn a_signed_token_needs_a_time_of_expiry(
        header in fuzz::text(JSON), payload in fuzz::text(JSON), is_known in any::<bool>(),
    ) {
        let header = if is_known { "{\"alg\":\"HS256\"}".to_owned() } else { header };
        let keys = keys(&[key("one", SECRET)]);
        for payload in [payload.clone(), format!("{{{payload}}}"), format!("{{\"exp\":1800000060,{payload}}}")] {
            if keys.authenticate(sign_raw(&header, &payload).as_bytes(), now()).is_ok() {
                let claims: Value = serde_json::from_str(&payload).expect("JSON");
                let header: Value = serde_json::from_str(&header).expect("JSON");
                prop_assert_eq!(&header["alg"], "HS256");
                prop_assert!(claims["exp"].as_f64().is_some_and(|exp| exp >= 1_799_999_995.0), "{}", payload);
                prop_assert!(claims["nbf"].as_f64().is_none_or(|nbf| nbf <= 1_800_000_005.0), "{}", payload);
            }
        }
    }
}
