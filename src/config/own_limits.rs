//! The limits that a credential brings with it: a token, an API key or a certificate.

use std::fmt;
use std::num::NonZeroU32;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, Unexpected, Visitor};

/// The limits that a credential brings with it. They count in addition to those of `[limits]`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OwnLimits {
    /// Publishes per second with its key and subject; `None` is without limit.
    pub publishes_per_second: Option<NonZeroU32>,
    /// Open streams of its key and subject; `None` is without limit.
    pub subscribers_max: Option<NonZeroU32>,
}

/// The highest limit of [`OwnLimits`].
pub const OWN_LIMIT_MAX: u32 = 10_000_000;

/// The fields of [`OwnLimits`].
const FIELDS: &[&str] = &[PUBLISHES, SUBSCRIBERS];
const PUBLISHES: &str = "publishes_per_second";
const SUBSCRIBERS: &str = "subscribers_max";

impl<'de> Deserialize<'de> for OwnLimits {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Fields)
    }
}

/// Reads the fields by name. A derived implementation would also accept a list of limits without names.
struct Fields;

impl<'de> Visitor<'de> for Fields {
    type Value = OwnLimits;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", FIELDS.join(" and "))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<OwnLimits, A::Error> {
        let mut limits = OwnLimits::default();
        while let Some(name) = map.next_key::<String>()? {
            let (field, limit) = match name.as_str() {
                PUBLISHES => (PUBLISHES, &mut limits.publishes_per_second),
                SUBSCRIBERS => (SUBSCRIBERS, &mut limits.subscribers_max),
                other => return Err(A::Error::unknown_field(other, FIELDS)),
            };
            let OwnLimit(given) = map.next_value()?;
            if limit.replace(given).is_some() {
                return Err(A::Error::duplicate_field(field));
            }
        }
        Ok(limits)
    }
}

/// Reads a limit that is given: `null` is a mistake, not a limit that is absent.
pub(super) fn if_given<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<NonZeroU32>, D::Error> {
    OwnLimit::deserialize(deserializer).map(|OwnLimit(limit)| Some(limit))
}

/// A whole number from 1 to [`OWN_LIMIT_MAX`].
struct OwnLimit(NonZeroU32);

impl<'de> Deserialize<'de> for OwnLimit {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // This asks for no type: otherwise the reader of `config.toml` would convert text and fractions to that type.
        deserializer.deserialize_any(WholeNumber)
    }
}

struct WholeNumber;

impl Visitor<'_> for WholeNumber {
    type Value = OwnLimit;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a whole number from 1 to {OWN_LIMIT_MAX}")
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<OwnLimit, E> {
        let limit = u32::try_from(number).ok().filter(|limit| *limit <= OWN_LIMIT_MAX).and_then(NonZeroU32::new);
        limit.map(OwnLimit).ok_or_else(|| E::invalid_value(Unexpected::Unsigned(number), &self))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<OwnLimit, E> {
        match u64::try_from(number) {
            Ok(number) => self.visit_u64(number),
            Err(_) => Err(E::invalid_value(Unexpected::Signed(number), &self)),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_limit_is_a_whole_number_within_its_bounds() {
        for name in ["publishes_per_second", "subscribers_max"] {
            let read = |value: serde_json::Value| serde_json::from_value::<OwnLimits>(json!({ name: value })).ok();
            for limit in [1, 2, OWN_LIMIT_MAX] {
                let limits = read(json!(limit)).expect("it is allowed");
                let given =
                    if name == "subscribers_max" { limits.subscribers_max } else { limits.publishes_per_second };
                assert_eq!(given.map(NonZeroU32::get), Some(limit));
            }
            for refused in [
                json!(0),
                json!(-1),
                json!(OWN_LIMIT_MAX + 1),
                json!(u64::MAX),
                json!(1e300),
                json!(1.0),
                json!(1.5),
                json!("1"),
                json!(true),
                json!(null),
                json!([1]),
                json!({}),
            ] {
                assert_eq!(read(refused.clone()), None, "{name}: {refused}");
            }
        }
        assert_eq!(serde_json::from_value::<OwnLimits>(json!({})).ok(), Some(OwnLimits::default()));
        for unknown in [json!({"subscribers": 1}), json!({"publishes_per_second": 1, "x": 1}), json!([]), json!(null)] {
            assert!(serde_json::from_value::<OwnLimits>(unknown.clone()).is_err(), "{unknown}");
        }
        let twice = r#"{"subscribers_max": 1, "subscribers_max": 2}"#;
        assert!(serde_json::from_str::<OwnLimits>(twice).is_err());
    }
}
