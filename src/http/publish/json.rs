//! The JSON body, read without a tree: a tree of `[0,0,…]` takes fifty times its text.

use std::{borrow::Cow, fmt, str};

use serde::{
    Deserialize, Deserializer,
    de::{SeqAccess, Visitor},
};
use serde_json::value::RawValue;

/// How deep objects and arrays may be nested, the body's own object included.
const DEPTH_MAX: usize = 127;
/// Topics that are kept, more than any configuration allows in a request; the others are counted.
const TOPICS_KEPT: usize = 1025;

/// The members of the body.
#[derive(Deserialize)]
pub(super) struct JsonBody<'a> {
    #[serde(default)]
    topic: Option<Topics>,
    #[serde(default)]
    pub(super) event: Option<String>,
    /// Absent is not null: null is content.
    #[serde(default, borrow, deserialize_with = "present")]
    content: Option<&'a RawValue>,
}

/// Topics, one or several.
#[derive(Default)]
pub(super) struct Topics {
    pub(super) kept: Vec<String>,
    /// How many there were.
    pub(super) given: usize,
}

fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

impl<'de> Deserialize<'de> for Topics {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TopicsVisitor)
    }
}

struct TopicsVisitor;

impl<'de> Visitor<'de> for TopicsVisitor {
    type Value = Topics;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a topic or a list of topics")
    }

    fn visit_str<E>(self, topic: &str) -> Result<Topics, E> {
        Ok(Topics { kept: vec![topic.to_owned()], given: 1 })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Topics, A::Error> {
        let mut topics = Topics::default();
        while let Some(topic) = list.next_element::<Cow<'_, str>>()? {
            topics.given += 1;
            if topics.kept.len() < TOPICS_KEPT {
                topics.kept.push(topic.into_owned());
            }
        }
        Ok(topics)
    }
}

impl<'a> JsonBody<'a> {
    /// Reads the body, or says what is wrong with it and where.
    pub(super) fn parse(text: &'a str) -> Result<Self, String> {
        // The parser would remember every open bracket.
        if let Some(at) = too_deep(text.as_bytes()) {
            return Err(format!("it is nested deeper than {DEPTH_MAX} at byte {at}"));
        }
        serde_json::from_str(text).map_err(|error| error.to_string())
    }

    pub(super) fn topics(&mut self) -> Topics {
        self.topic.take().unwrap_or_default()
    }

    /// The content: a string's text, anything else as compact JSON.
    pub(super) fn content(&self) -> Result<Option<Vec<u8>>, String> {
        let Some(raw) = self.content else { return Ok(None) };
        let raw = raw.get().as_bytes();
        let compact = match raw.split_first() {
            Some((b'"', rest)) => text(rest),
            _ => compact(raw),
        };
        compact.map(Some).ok_or_else(|| "a string in `content` has half a surrogate pair".to_owned())
    }
}

/// Where the nesting passes its limit.
fn too_deep(json: &[u8]) -> Option<usize> {
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    for (at, byte) in json.iter().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            _ if in_string => {}
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

/// The text of a string, of which the opening quote has been read.
fn text(json: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(json.len());
    string(json, &mut out, |c, out| {
        out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
    })?;
    Some(out)
}

/// Valid JSON without blanks between its tokens, and each character of a string spelled in the shortest way. Members keep
/// their order, numbers their digits. `None` when a string has half a surrogate pair.
fn compact(json: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(json.len());
    let mut rest = json;
    while let [byte, tail @ ..] = rest {
        rest = tail;
        match byte {
            b' ' | b'\t' | b'\n' | b'\r' => {}
            b'"' => {
                out.push(b'"');
                rest = string(tail, &mut out, escape)?;
                out.push(b'"');
            }
            _ => out.push(*byte),
        }
    }
    Some(out)
}

/// Copies a string up to its closing quote; each character that is escaped goes through `put`. What follows the quote.
fn string<'a>(json: &'a [u8], out: &mut Vec<u8>, put: fn(char, &mut Vec<u8>)) -> Option<&'a [u8]> {
    let mut rest = json;
    loop {
        let plain = memchr::memchr2(b'"', b'\\', rest)?;
        out.extend_from_slice(rest.get(..plain)?);
        rest = match rest.get(plain..)? {
            [b'"', tail @ ..] => return Some(tail),
            [_, b'u', tail @ ..] => {
                let (c, tail) = escaped(tail)?;
                put(c, out);
                tail
            }
            [_, byte, tail @ ..] => {
                put(
                    match byte {
                        b'b' => '\u{8}',
                        b'f' => '\u{c}',
                        b'n' => '\n',
                        b'r' => '\r',
                        b't' => '\t',
                        other => char::from(*other),
                    },
                    out,
                );
                tail
            }
            _ => return None,
        };
    }
}

/// The character after `\u`, which two escapes may be needed for.
fn escaped(json: &[u8]) -> Option<(char, &[u8])> {
    let (high, rest) = unit(json)?;
    if !(0xd800..=0xdbff).contains(&high) {
        return Some((char::from_u32(high)?, rest));
    }
    let (low, rest) = unit(rest.strip_prefix(b"\\u")?)?;
    let low = low.checked_sub(0xdc00).filter(|low| *low < 0x400)?;
    Some((char::from_u32(0x10000 + ((high - 0xd800) << 10) + low)?, rest))
}

fn unit(json: &[u8]) -> Option<(u32, &[u8])> {
    let (digits, rest) = json.split_at_checked(4)?;
    Some((u32::from_str_radix(str::from_utf8(digits).ok()?, 16).ok()?, rest))
}

/// Appends a character as JSON spells it where it must not stand for itself.
fn escape(c: char, out: &mut Vec<u8>) {
    match c {
        '"' => out.extend_from_slice(b"\\\""),
        '\\' => out.extend_from_slice(b"\\\\"),
        '\u{8}' => out.extend_from_slice(b"\\b"),
        '\u{c}' => out.extend_from_slice(b"\\f"),
        '\n' => out.extend_from_slice(b"\\n"),
        '\r' => out.extend_from_slice(b"\\r"),
        '\t' => out.extend_from_slice(b"\\t"),
        control if control < ' ' => out.extend_from_slice(format!("\\u{:04x}", u32::from(control)).as_bytes()),
        other => out.extend_from_slice(other.encode_utf8(&mut [0; 4]).as_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};
    use serde_json::Value;

    use super::*;

    fn content(json: &str) -> Result<String, String> {
        let body = format!("{{\"content\":{json}}}");
        let body = JsonBody::parse(&body)?;
        let content = body.content()?.expect("a content");
        Ok(String::from_utf8(content).expect("UTF-8"))
    }

    /// The way through a tree, which this is in place of.
    fn through_a_tree(json: &str) -> Option<String> {
        let body: Value = serde_json::from_str(&format!("{{\"content\":{json}}}")).ok()?;
        Some(match &body["content"] {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        })
    }

    /// A JSON text with blanks and escapes where they may be.
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
        fn content_is_what_a_tree_would_make_of_it(json in json()) {
            prop_assert_eq!(content(&json).ok(), through_a_tree(&json), "{}", json);
        }
    }

    #[test]
    fn numbers_keep_their_digits_and_members_their_places() {
        for json in ["1.10", "123456789012345678901234567890", "0.1234567890123456789", "1E5", "1e+5", "-0", "1e-400"] {
            assert_eq!(content(json).as_deref(), Ok(json));
        }
        // A tree would keep one of them; which one is the reader's to decide.
        assert_eq!(content(r#"{ "z": 1, "a": 2, "z": 3 }"#).as_deref(), Ok(r#"{"z":1,"a":2,"z":3}"#));
    }

    #[test]
    fn nesting_is_bounded_as_a_tree_bounds_it() {
        // The body's own object is one; brackets in strings are none.
        for (open, close) in [("[", "]"), ("{\"k\":", "}")] {
            let nested = |n: usize| format!("{}0{}", open.repeat(n), close.repeat(n));
            for n in [DEPTH_MAX - 1, DEPTH_MAX] {
                assert_eq!(content(&nested(n)).is_ok(), n < DEPTH_MAX, "{n}");
                assert_eq!(through_a_tree(&nested(n)).is_some(), n < DEPTH_MAX, "the control: {n}");
            }
        }
        let brackets = format!("[\"{}\\\"{}\"]", "[".repeat(500), "{".repeat(500));
        assert_eq!(content(&brackets), Ok(brackets));
        assert_eq!(too_deep("[".repeat(1 << 20).as_bytes()), Some(DEPTH_MAX));
    }

    #[test]
    fn topics_are_counted_and_no_more_kept_than_a_request_may_name() {
        for (given, kept) in [(1, 1), (TOPICS_KEPT, TOPICS_KEPT), (TOPICS_KEPT + 1, TOPICS_KEPT)] {
            let body = format!("{{\"topic\":[{}]}}", vec!["\"t\""; given].join(","));
            let topics = JsonBody::parse(&body).expect("valid").topics();
            assert_eq!((topics.given, topics.kept.len()), (given, kept));
        }
    }
}
