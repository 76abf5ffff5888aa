//! The JSON body. It is parsed without a tree of values: a tree of `[0,0,…]` needs fifty times the memory of the text.

use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use crate::http::topic_list::TopicList;

/// How deep objects and arrays may be nested, including the outermost object.
const DEPTH_MAX: usize = 127;

/// The members of the outermost object. Other members are ignored.
#[derive(Deserialize)]
pub(super) struct JsonBody<'a> {
    pub(super) topic: Option<TopicList>,
    pub(super) event: Option<String>,
    /// `None` only if the member is absent: `null` is content, too.
    #[serde(default, borrow, deserialize_with = "present")]
    content: Option<&'a RawValue>,
}

/// Deserializes a member that is present, even if it is `null`.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

impl<'a> JsonBody<'a> {
    /// Parses the body. The error tells what is wrong and where.
    pub(super) fn parse(text: &'a str) -> Result<Self, String> {
        // The parser allocates memory for each open bracket, so the depth is checked before.
        if let Some(at) = find_too_deep(text.as_bytes()) {
            return Err(format!("it is nested deeper than {DEPTH_MAX} at byte {at}"));
        }
        serde_json::from_str(text).map_err(|error| error.to_string())
    }

    /// The content: the text of a string, or any other value as compact JSON.
    pub(super) fn content(&self) -> Result<Option<Vec<u8>>, String> {
        let Some(raw) = self.content.map(RawValue::get) else { return Ok(None) };
        let content =
            if raw.starts_with('"') { serde_json::from_str(raw).map(String::into_bytes) } else { compact(raw) };
        // The parser has accepted the body, but it does not look at the surrogates in a `RawValue`.
        content.map(Some).map_err(|_| "a string in `content` has only half of a surrogate pair".to_owned())
    }
}

/// The position of the first bracket that is nested too deep.
fn find_too_deep(json: &[u8]) -> Option<usize> {
    let (mut depth, mut is_in_string, mut is_escaped) = (0_usize, false, false);
    for (at, byte) in json.iter().enumerate() {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' if is_in_string => is_escaped = true,
            b'"' => is_in_string = !is_in_string,
            _ if is_in_string => {}
            b'[' | b'{' => {
                depth += 1;
                if depth > DEPTH_MAX {
                    return Some(at);
                }
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    None
}

/// Rewrites valid JSON without blanks between the tokens, and with the shortest escape for each character. Members keep
/// their order, and numbers their digits.
fn compact(json: &str) -> serde_json::Result<Vec<u8>> {
    let mut out = Vec::with_capacity(json.len());
    let mut rest = json.as_bytes();
    while let [byte, tail @ ..] = rest {
        match byte {
            b' ' | b'\t' | b'\n' | b'\r' => {}
            b'"' => {
                let mut strings = serde_json::Deserializer::from_slice(rest).into_iter::<String>();
                if let Some(text) = strings.next() {
                    serde_json::to_writer(&mut out, &text?)?;
                }
                rest = rest.get(strings.byte_offset()..).unwrap_or_default();
                continue;
            }
            _ => out.push(*byte),
        }
        rest = tail;
    }
    Ok(out)
}

#[cfg(test)]
mod fuzz;

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};
    use serde_json::Value;

    use super::*;
    use crate::http::topic_list::TOPICS_KEPT_MAX;

    fn content(json: &str) -> Result<String, String> {
        let body = format!("{{\"content\":{json}}}");
        let body = JsonBody::parse(&body)?;
        let content = body.content()?.expect("a content");
        Ok(String::from_utf8(content).expect("UTF-8"))
    }

    /// The reference: what a tree of `serde_json` makes of the content.
    fn through_a_tree(json: &str) -> Option<String> {
        let body: Value = serde_json::from_str(&format!("{{\"content\":{json}}}")).ok()?;
        Some(match &body["content"] {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        })
    }

    /// JSON texts with blanks and escapes wherever they are allowed.
    fn json() -> impl Strategy<Value = String> {
        let blank = || prop::sample::select(vec!["", "", "", " ", "\n", "\t\r "]);
        let piece = prop::sample::select(vec![
            "a",
            "é",
            "订",
            "🦀",
            " ",
            "[",
            "{",
            ",",
            ":",
            "\\n",
            "\\r",
            "\\t",
            "\\b",
            "\\f",
            "\\\\",
            "\\\"",
            "\\/",
            "\\u0000",
            "\\u001F",
            "\\u0041",
            "\\u00e9",
            "\\u8BA2",
            "\\ud83e\\udd80",
            "\\uDBFF\\uDFFF",
            "\\u2028",
            "\\u007f",
            "\u{7f}",
            "\\ud800",
            "\\udc00",
            "\\ud800\\u0041",
            "\\ud800\\ud800",
        ]);
        let string = vec(piece, 0..6).prop_map(|pieces| format!("\"{}\"", pieces.concat()));
        let word = prop::sample::select(vec!["null", "true", "false", "0", "-7", "12", "1.5", "-0.25"]);
        let leaf = prop_oneof![string, word.prop_map(str::to_owned)];
        leaf.prop_recursive(4, 40, 5, move |inner| {
            let spaced = (blank(), inner, blank()).prop_map(|(before, json, after)| format!("{before}{json}{after}"));
            let members = vec((blank(), spaced.clone()), 0..5).prop_map(|members| {
                let member = |(n, (blank, json)): (usize, (&str, String))| format!("{blank}\"k{n}\"{blank}:{json}");
                format!("{{{}}}", members.into_iter().enumerate().map(member).collect::<Vec<_>>().join(","))
            });
            prop_oneof![vec(spaced, 0..5).prop_map(|items| format!("[{}]", items.join(","))), members]
        })
    }

    proptest! {
        #[test]
        fn content_is_the_same_as_through_a_tree(json in json()) {
            prop_assert_eq!(content(&json).ok(), through_a_tree(&json), "{}", json);
        }
    }

    #[test]
    fn numbers_keep_their_digits_and_members_their_order() {
        for json in ["1.10", "123456789012345678901234567890", "0.1234567890123456789", "1E5", "1e+5", "-0", "1e-400"] {
            assert_eq!(content(json).as_deref(), Ok(json));
        }
        // A tree would drop one of the two members. Which one is valid is for the subscriber to decide.
        assert_eq!(content(r#"{ "z": 1, "a": 2, "z": 3 }"#).as_deref(), Ok(r#"{"z":1,"a":2,"z":3}"#));
    }

    #[test]
    fn nesting_has_the_same_limit_as_in_a_tree() {
        // The outermost object counts as one level. Brackets in strings do not count.
        for (open, close) in [("[", "]"), ("{\"k\":", "}")] {
            let nested = |n: usize| format!("{}0{}", open.repeat(n), close.repeat(n));
            for n in [DEPTH_MAX - 1, DEPTH_MAX] {
                assert_eq!(content(&nested(n)).is_ok(), n < DEPTH_MAX, "{n}");
                assert_eq!(through_a_tree(&nested(n)).is_some(), n < DEPTH_MAX, "reference: {n}");
            }
        }
        let brackets = format!("[\"{}\\\"{}\"]", "[".repeat(500), "{".repeat(500));
        assert_eq!(content(&brackets), Ok(brackets));
        assert_eq!(find_too_deep("[".repeat(1 << 20).as_bytes()), Some(DEPTH_MAX));
    }

    #[test]
    fn all_topics_are_counted_and_only_some_kept() {
        for (given, kept) in [(1, 1), (TOPICS_KEPT_MAX, TOPICS_KEPT_MAX), (TOPICS_KEPT_MAX + 1, TOPICS_KEPT_MAX)] {
            let body = format!("{{\"topic\":[{}]}}", vec!["\"t\""; given].join(","));
            let topics = JsonBody::parse(&body).expect("valid").topic.expect("topics");
            assert_eq!((topics.kept.len(), topics.dropped), (kept, given - kept));
        }
    }
}
