//! A strict parser for `application/x-www-form-urlencoded`, the format of queries and forms.
//!
//! A lenient parser would publish replacement characters instead of what the sender meant. Here, a broken
//! percent-encoding or invalid UTF-8 is an error that tells the position.

use std::{borrow::Cow, str::Utf8Error};

use memchr::memchr2;
use smallvec::SmallVec;

use super::{
    problem::{Code, Problem},
    spelling::suggest,
};

/// At most this many pairs are kept. Of further pairs, only those with the name `topic` are counted. The configuration
/// never allows so many topics in a request.
const KEPT_MAX: usize = 2048;

/// The name-value pairs of a query or a form, in order.
#[derive(Debug, Default)]
pub(super) struct Fields<'a> {
    pairs: SmallVec<[(Cow<'a, str>, Cow<'a, str>); 3]>,
    /// How many pairs with the name `topic` were not kept because of [`KEPT_MAX`].
    topics_dropped: usize,
    /// The names whose pairs are kept.
    known: &'static [&'static str],
}

impl<'a> Fields<'a> {
    /// Parses a query. The value of a name in `lenient` may be broken: then it is kept as it is, without decoding.
    ///
    /// An unknown name is ignored, but if it looks like a `known` one, it is an error: the client would not notice its
    /// typing error.
    pub(super) fn query(text: &'a str, known: &'static [&'static str], lenient: &[&str]) -> Result<Self, Problem> {
        let check_unknown = |name: &str| match suggest(name, known) {
            None => Ok(()),
            Some(suggestion) => {
                let detail = format!("there is no parameter `{name}`; did you mean `{suggestion}`?");
                Err(Problem::new(Code::UnknownParameter, detail))
            }
        };
        Self::parse(text.as_bytes(), "the query", known, lenient, check_unknown)
    }

    /// Parses a form. Other names than the `known` ones are ignored.
    pub(super) fn form(text: &'a [u8], known: &'static [&'static str]) -> Result<Self, Problem> {
        Self::parse(text, "the form", known, &[], |_| Ok(()))
    }

    /// Parses `text`. Only the pairs whose names are `known` are kept, so that a form with a million other names uses
    /// no memory for them. `source` names the text in errors. `check_unknown` may refuse the other names.
    fn parse(
        text: &'a [u8],
        source: &str,
        known: &'static [&'static str],
        lenient: &[&str],
        check_unknown: impl Fn(&str) -> Result<(), Problem>,
    ) -> Result<Self, Problem> {
        let mut fields = Self { known, ..Self::default() };
        for pair in text.split(|b| *b == b'&').filter(|pair| !pair.is_empty()) {
            let mut parts = pair.splitn(2, |b| *b == b'=');
            let (raw_name, raw_value) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
            let name = decode(raw_name, b' ', raw_name, source)?;
            if !known.contains(&&*name) {
                check_unknown(&name)?;
                continue;
            }
            let value = match decode(raw_value, b' ', raw_name, source) {
                Err(_) if lenient.contains(&&*name) => String::from_utf8_lossy(raw_value),
                decoded => decoded?,
            };
            if fields.pairs.len() < KEPT_MAX {
                fields.pairs.push((name, value));
            } else {
                fields.topics_dropped += usize::from(name == "topic");
            }
        }
        Ok(fields)
    }

    /// Copies the pairs, so that they no longer borrow from the request.
    pub(super) fn into_owned(self) -> Fields<'static> {
        let copy = |text: Cow<'_, str>| Cow::Owned(text.into_owned());
        let pairs = self.pairs.into_iter().map(|(name, value)| (copy(name), copy(value))).collect();
        Fields { pairs, topics_dropped: self.topics_dropped, known: self.known }
    }

    /// Whether there is no pair with a known name.
    pub(super) fn is_empty(&self) -> bool {
        self.pairs.is_empty()
    }

    /// How many topics were not kept.
    pub(super) fn topics_dropped(&self) -> usize {
        self.topics_dropped
    }

    /// The value of `name`. It is an error if it is given more than once.
    pub(super) fn only(&self, name: &str) -> Result<Option<&str>, Problem> {
        let mut values = self.all(name);
        let value = values.next();
        match values.next() {
            None => Ok(value),
            Some(_) => Err(Problem::new(Code::Repeated, format!("`{name}` is given more than once"))),
        }
    }

    /// All values of `name`.
    pub(super) fn all<'s, 'n>(&'s self, name: &'n str) -> impl Iterator<Item = &'s str> + use<'a, 's, 'n> {
        debug_assert!(self.known.contains(&name), "`{name}` is not a known name");
        self.pairs.iter().filter(move |(other, _)| other == name).map(|(_, value)| &**value)
    }
}

/// Percent-decodes a part of a path. Unlike in a form, a plus is a plus there (RFC 3986, section 3.3).
pub(super) fn decode_path<'a>(text: &'a str, name: &[u8]) -> Result<Cow<'a, str>, Problem> {
    decode(text.as_bytes(), b'+', name, "the path")
}

/// Percent-decodes `text`. A `+` becomes `plus`. `name` and `source` say in errors what the text is.
fn decode<'a>(text: &'a [u8], plus: u8, name: &[u8], source: &str) -> Result<Cow<'a, str>, Problem> {
    let what = || format!("`{}` in {source}", String::from_utf8_lossy(name));
    let bad_utf8 = |error: Utf8Error| {
        let detail = format!("{} is not valid UTF-8 at byte {} after decoding", what(), error.valid_up_to());
        Problem::new(Code::BadUtf8, detail)
    };
    if memchr2(b'%', b'+', text).is_none() {
        return std::str::from_utf8(text).map(Cow::Borrowed).map_err(bad_utf8);
    }
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [byte, tail @ ..] = rest {
        rest = tail;
        match byte {
            b'+' => decoded.push(plus),
            b'%' => {
                let Some((byte, tail)) = hex_byte(tail) else {
                    let at = text.len() - tail.len() - 1;
                    let detail = format!("{} has a `%` without two hexadecimal digits at byte {at}", what());
                    return Err(Problem::new(Code::BadEncoding, detail));
                };
                decoded.push(byte);
                rest = tail;
            }
            _ => decoded.push(*byte),
        }
    }
    String::from_utf8(decoded).map(Cow::Owned).map_err(|error| bad_utf8(error.utf8_error()))
}

/// Reads a byte that is written as two hexadecimal digits, and returns what follows it.
fn hex_byte(text: &[u8]) -> Option<(u8, &[u8])> {
    let [high, low, rest @ ..] = text else { return None };
    let digit = |byte: u8| char::from(byte).to_digit(16);
    Some((u8::try_from(digit(*high)? << 4 | digit(*low)?).ok()?, rest))
}

#[cfg(test)]
mod fuzz;

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Vec<(String, String)>, &'static str> {
        let fields = Fields::query(text, &["topic", "content", "flag", "x", "id"], &["id"])
            .map_err(|problem| problem.code().as_str())?;
        Ok(fields.pairs.into_iter().map(|(name, value)| (name.into_owned(), value.into_owned())).collect())
    }

    #[test]
    fn pairs_are_decoded_in_order() {
        let pairs = parse("topic=a+b&topic=%E8%AE%A2&&content=&flag&x=1=2").expect("valid");
        let pairs: Vec<_> = pairs.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(pairs, [("topic", "a b"), ("topic", "订"), ("content", ""), ("flag", ""), ("x", "1=2")]);
    }

    #[test]
    fn a_lenient_value_is_kept_without_decoding() {
        assert_eq!(parse("id=100%"), Ok(vec![("id".to_owned(), "100%".to_owned())]));
        assert_eq!(parse("id=%ff&topic=%ff"), Err("bad_utf8"));
    }

    #[test]
    fn only_known_names_are_kept_and_only_up_to_a_limit() {
        assert_eq!(parse("other=1&x=2&_=3"), Ok(vec![("x".to_owned(), "2".to_owned())]));
        assert_eq!(
            parse("other=100%&x=2&_=%ff"),
            Ok(vec![("x".to_owned(), "2".to_owned())]),
            "the values of unknown names are not decoded"
        );
        assert_eq!(parse("topics=a"), Err("unknown_parameter"));
        assert!(Fields::form(b"topics=a", &["topic"]).is_ok(), "a form may have other fields");
        for (given, kept) in [(KEPT_MAX, KEPT_MAX), (KEPT_MAX + 1, KEPT_MAX)] {
            let text = vec!["topic"; given].join("&") + "&x";
            let fields = Fields::form(text.as_bytes(), &["topic", "x"]).expect("valid");
            assert_eq!((fields.all("topic").count(), fields.topics_dropped()), (kept, given - kept));
        }
    }

    #[test]
    fn an_error_tells_the_position() {
        // Before decoding for the encoding itself, after decoding for the text that was encoded.
        let detail = |decoded: Result<Cow<'_, str>, Problem>| decoded.expect_err("broken").detail().to_owned();
        let form = |text: &'static str| detail(decode(text.as_bytes(), b' ', b"x", "the form"));
        assert_eq!(form("a+b%zz"), "`x` in the form has a `%` without two hexadecimal digits at byte 3");
        assert_eq!(form("%41+%ff"), "`x` in the form is not valid UTF-8 at byte 2 after decoding");
        let path = detail(decode_path("a+b%zz", b"x"));
        assert_eq!(path, "`x` in the path has a `%` without two hexadecimal digits at byte 3");
    }

    #[test]
    fn broken_encodings_are_refused() {
        for text in ["topic=%", "topic=%4", "topic=%zz", "topic=%+1", "%=1"] {
            assert_eq!(parse(text), Err("bad_encoding"), "{text}");
        }
        for text in ["topic=%ff", "topic=%C3%28", "topic=%ED%A0%80"] {
            assert_eq!(parse(text), Err("bad_utf8"), "{text}");
        }
    }
}
