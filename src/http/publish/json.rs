//! The JSON body. It is parsed without building a tree: a tree of `[0,0,…]` needs fifty times the memory of the text.

use std::{borrow::Cow, fmt, str};

use serde::{
    Deserialize, Deserializer,
    de::{SeqAccess, Visitor},
};
use serde_json::value::RawValue;

/// How deep objects and arrays may be nested, including the outermost object.
const DEPTH_MAX: usize = 127;
/// The most topics that are kept. It is more than any configuration allows in a request. Further topics are only
/// counted.
const TOPICS_KEPT_MAX: usize = 1025;

/// The members of the outermost object. Other members are ignored.
#[derive(Deserialize)]
pub(super) struct JsonBody<'a> {
    #[serde(default)]
    topic: Option<Topics>,
    #[serde(default)]
    pub(super) event: Option<String>,
    /// `None` only if the member is absent: `null` is content, too.
    #[serde(default, borrow, deserialize_with = "present")]
    content: Option<&'a RawValue>,
}

/// The value of `topic`: one topic or a list.
#[derive(Default)]
pub(super) struct Topics {
    /// The first [`TOPICS_KEPT_MAX`] topics.
    pub(super) kept: Vec<String>,
    /// How many topics the body names.
    pub(super) given: usize,
}

/// Deserializes a member that is present, even if it is `null`.
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
            if topics.kept.len() < TOPICS_KEPT_MAX {
                topics.kept.push(topic.into_owned());
            }
        }
        Ok(topics)
    }
}

impl<'a> JsonBody<'a> {
    /// Parses the body. The error tells what is wrong and where.
    pub(super) fn parse(text: &'a str) -> Result<Self, String> {
        // The parser uses memory for each open bracket.
        if let Some(at) = find_too_deep(text.as_bytes()) {
            return Err(format!("it is nested deeper than {DEPTH_MAX} at byte {at}"));
        }
        serde_json::from_str(text).map_err(|error| error.to_string())
    }

    pub(super) fn topics(&mut self) -> Topics {
        self.topic.take().unwrap_or_default()
    }

    /// The content: the text of a string, or any other value as compact JSON.
    pub(super) fn content(&self) -> Result<Option<Vec<u8>>, String> {
        let Some(raw) = self.content else { return Ok(None) };
        let raw = raw.get().as_bytes();
        let compact = match raw.split_first() {
            Some((b'"', rest)) => unescape(rest),
            _ => compact(raw),
        };
        compact.map(Some).ok_or_else(|| "a string in `content` has only half of a surrogate pair".to_owned())
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

/// The text of a JSON string. `json` starts after the opening quote.
fn unescape(json: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(json.len());
    copy_string(json, &mut out, |c, out| {
        out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
    })?;
    Some(out)
}

/// Rewrites valid JSON without blanks between the tokens, and with the shortest escape for each character. Members keep
/// their order, and numbers their digits. `None` if a string has only half of a surrogate pair.
fn compact(json: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(json.len());
    let mut rest = json;
    while let [byte, tail @ ..] = rest {
        rest = tail;
        match byte {
            b' ' | b'\t' | b'\n' | b'\r' => {}
            b'"' => {
                out.push(b'"');
                rest = copy_string(tail, &mut out, escape)?;
                out.push(b'"');
            }
            _ => out.push(*byte),
        }
    }
    Some(out)
}

/// Copies a string to `out` up to its closing quote, and returns what follows the quote. Each escape sequence is
/// decoded, and `put` appends the character.
fn copy_string<'a>(json: &'a [u8], out: &mut Vec<u8>, put: fn(char, &mut Vec<u8>)) -> Option<&'a [u8]> {
    let mut rest = json;
    loop {
        let plain = memchr::memchr2(b'"', b'\\', rest)?;
        out.extend_from_slice(rest.get(..plain)?);
        rest = match rest.get(plain..)? {
            [b'"', tail @ ..] => return Some(tail),
            [_, b'u', tail @ ..] => {
                let (c, tail) = unicode_escape(tail)?;
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

/// Decodes the character after `\u`, and returns what follows it. The character may need two escapes, a surrogate pair.
fn unicode_escape(json: &[u8]) -> Option<(char, &[u8])> {
    let (high, rest) = utf16_unit(json)?;
    if !(0xd800..=0xdbff).contains(&high) {
        return Some((char::from_u32(high)?, rest));
    }
    let (low, rest) = utf16_unit(rest.strip_prefix(b"\\u")?)?;
    let low = low.checked_sub(0xdc00).filter(|low| *low < 0x400)?;
    Some((char::from_u32(0x10000 + ((high - 0xd800) << 10) + low)?, rest))
}

/// Reads the four hexadecimal digits of a UTF-16 unit.
fn utf16_unit(json: &[u8]) -> Option<(u32, &[u8])> {
    let (digits, rest) = json.split_at_checked(4)?;
    Some((u32::from_str_radix(str::from_utf8(digits).ok()?, 16).ok()?, rest))
}

/// Appends a character to a JSON string, escaped only where JSON requires it.
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
            let topics = JsonBody::parse(&body).expect("valid").topics();
            assert_eq!((topics.given, topics.kept.len()), (given, kept));
        }
    }
}
