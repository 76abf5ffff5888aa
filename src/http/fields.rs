//! A strict parser for `application/x-www-form-urlencoded`, the format of queries and forms.
//!
//! A lenient parser would publish replacement characters in place of what the sender meant. Here a broken
//! percent-encoding or invalid UTF-8 is an error that tells the position.

use std::borrow::Cow;

use memchr::memchr2;
use smallvec::SmallVec;

use super::{
    problem::{Code, Problem},
    spelling::suggest,
};

/// The most pairs that are kept. It is more than a request may use in any configuration. Further pairs are only
/// counted.
const KEPT_MAX: usize = 2048;

/// The name-value pairs of a query or a form, in order.
#[derive(Debug, Default)]
pub(super) struct Fields<'a> {
    pairs: SmallVec<[(Cow<'a, str>, Cow<'a, str>); 3]>,
    /// How many pairs were not kept because of [`KEPT_MAX`].
    dropped: usize,
    /// The names whose pairs are kept.
    known: &'static [&'static str],
}

impl<'a> Fields<'a> {
    /// Parses a query. The value of a name in `lenient` may be broken; then it is kept without decoding.
    ///
    /// An unknown name that looks like a `known` one is an error. Otherwise it would be ignored, and the client would
    /// not notice the mistake.
    pub(super) fn query(text: &'a str, known: &'static [&'static str], lenient: &[&str]) -> Result<Self, Problem> {
        let check = |name: &str| match suggest(name, known) {
            None => Ok(()),
            Some(suggestion) => {
                let detail = format!("there is no parameter `{name}`; did you mean `{suggestion}`?");
                Err(Problem::new(Code::UnknownParameter, detail))
            }
        };
        Self::parse(text.as_bytes(), "the query", known, lenient, check)
    }

    /// Parses a form. Other names than the `known` ones are ignored.
    pub(super) fn form(text: &'a [u8], known: &'static [&'static str]) -> Result<Self, Problem> {
        Self::parse(text, "the form", known, &[], |_| Ok(()))
    }

    /// Parses `text`. It keeps only the pairs whose names are `known`, so that a form with a million other names uses
    /// no memory for them. `source` names the text in errors. `check_unknown` is called with the other names.
    fn parse(
        text: &'a [u8],
        source: &str,
        known: &'static [&'static str],
        lenient: &[&str],
        check_unknown: impl Fn(&str) -> Result<(), Problem>,
    ) -> Result<Self, Problem> {
        let mut fields = Self { known, ..Self::default() };
        for pair in text.split(|b| *b == b'&').filter(|pair| !pair.is_empty()) {
            let mut halves = pair.splitn(2, |b| *b == b'=');
            let (name, value) = (halves.next().unwrap_or_default(), halves.next().unwrap_or_default());
            let decode = |half| decode(half, source, name);
            let name = decode(name)?;
            if !known.contains(&&*name) {
                check_unknown(&name)?;
                continue;
            }
            let value = match decode(value) {
                Err(_) if lenient.contains(&&*name) => String::from_utf8_lossy(value),
                decoded => decoded?,
            };
            if fields.pairs.len() < KEPT_MAX {
                fields.pairs.push((name, value));
            } else {
                fields.dropped += 1;
            }
        }
        Ok(fields)
    }

    /// Copies the pairs, so that they no longer borrow from the request.
    pub(super) fn into_owned(self) -> Fields<'static> {
        let copy = |text: Cow<'_, str>| Cow::Owned(text.into_owned());
        let pairs = self.pairs.into_iter().map(|(name, value)| (copy(name), copy(value))).collect();
        Fields { pairs, dropped: self.dropped, known: self.known }
    }

    /// How many pairs with a known name were not kept.
    pub(super) fn dropped(&self) -> usize {
        self.dropped
    }

    /// The value of `name`, which may be given once.
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

/// Percent-decodes `text`, which is the name of a pair or its value. `source` and `name` are for errors.
pub(super) fn decode<'a>(text: &'a [u8], source: &str, name: &[u8]) -> Result<Cow<'a, str>, Problem> {
    let what = || format!("`{}` in {source}", String::from_utf8_lossy(name));
    let bad_utf8 = |at: usize| Problem::new(Code::BadUtf8, format!("{} is not valid UTF-8 at byte {at}", what()));
    if memchr2(b'%', b'+', text).is_none() {
        return std::str::from_utf8(text).map(Cow::Borrowed).map_err(|error| bad_utf8(error.valid_up_to()));
    }
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [byte, tail @ ..] = rest {
        rest = tail;
        decoded.push(match (byte, tail) {
            (b'+', _) => b' ',
            (b'%', [high, low, tail @ ..]) if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                rest = tail;
                hex(*high) << 4 | hex(*low)
            }
            (b'%', _) => {
                let at = text.len() - tail.len() - 1;
                let detail = format!("{} has a `%` without two hexadecimal digits at byte {at}", what());
                return Err(Problem::new(Code::BadEncoding, detail));
            }
            _ => *byte,
        });
    }
    String::from_utf8(decoded).map(Cow::Owned).map_err(|error| bad_utf8(error.utf8_error().valid_up_to()))
}

/// Percent-decodes a part of a path. Unlike in a form, a plus is a plus there (RFC 3986, section 3.3).
pub(super) fn decode_path<'a>(text: &'a str, name: &[u8]) -> Result<Cow<'a, str>, Problem> {
    if !text.contains('%') {
        return Ok(Cow::Borrowed(text));
    }
    let text = text.replace('+', "%2B");
    decode(text.as_bytes(), "the path", name).map(|decoded| Cow::Owned(decoded.into_owned()))
}

/// The value of a hexadecimal digit.
fn hex(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        _ => (digit | 0x20) - b'a' + 10,
    }
}

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
            "unknown names are not decoded"
        );
        assert_eq!(parse("topics=a"), Err("unknown_parameter"));
        assert!(Fields::form(b"topics=a", &["topic"]).is_ok(), "a form may have other fields");
        for (given, kept) in [(KEPT_MAX, KEPT_MAX), (KEPT_MAX + 1, KEPT_MAX)] {
            let text = vec!["x"; given].join("&");
            let fields = Fields::form(text.as_bytes(), &["x"]).expect("valid");
            assert_eq!((fields.all("x").count(), fields.dropped()), (kept, given - kept));
        }
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
