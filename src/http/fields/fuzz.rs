//! Parameters mean what the URL standard says, or are refused. Here a second decoder, which is as simple as possible.

use proptest::prelude::*;

use super::*;
use crate::fuzz;

const KNOWN: [&str; 4] = ["topic", "content", "since", "id"];
const PIECES: &[&str] = &[
    "topic",
    "content",
    "since",
    "id",
    "topics",
    "_",
    "=",
    "=",
    "=",
    "&",
    "&",
    "&",
    "%",
    "%4",
    "%41",
    "%zz",
    "%00",
    "%0A",
    "%26",
    "%3D",
    "%ff",
    "%C3%A9",
    "%ED%A0%80",
    "%2",
    "+",
    "é",
    "新闻",
    ";",
    "#",
    "?",
    " ",
    "%74opic",
];

/// The pairs as the URL standard decodes them, without its replacement of what is wrong.
fn reference(text: &[u8]) -> Vec<(Vec<u8>, Option<Vec<u8>>)> {
    let decode = |text: &[u8]| {
        let (mut out, mut at) = (Vec::new(), 0);
        while at < text.len() {
            let hex = text.get(at + 1..at + 3).filter(|hex| hex.iter().all(u8::is_ascii_hexdigit));
            match (text[at], hex) {
                (b'%', Some(hex)) => {
                    let hex = std::str::from_utf8(hex).expect("ASCII");
                    out.push(u8::from_str_radix(hex, 16).expect("two digits"));
                    at += 2;
                }
                (b'%', None) => return None,
                (b'+', _) => out.push(b' '),
                (byte, _) => out.push(byte),
            }
            at += 1;
        }
        Some(out)
    };
    let pairs = text.split(|b| *b == b'&').filter(|pair| !pair.is_empty());
    pairs
        .filter_map(|pair| {
            let end = pair.iter().position(|b| *b == b'=').unwrap_or(pair.len());
            Some((decode(&pair[..end])?, decode(pair.get(end + 1..).unwrap_or_default())))
        })
        .collect()
}

proptest! {
    #[test]
    fn a_form_means_what_the_standard_says(text in fuzz::bytes(PIECES)) {
        if let Ok(fields) = Fields::form(&text, &KNOWN) {
            let ours: Vec<_> = fields.pairs.iter().map(|(name, value)| {
                (name.as_bytes().to_vec(), Some(value.as_bytes().to_vec()))
            }).collect();
            let mut expected = reference(&text);
            expected.retain(|(name, _)| KNOWN.iter().any(|known| known.as_bytes() == name));
            prop_assert_eq!(ours, expected);
        } else {
            let is_fine = |text: &[u8]| String::from_utf8(text.to_vec()).is_ok();
            let pairs = reference(&text);
            let all = text.split(|b| *b == b'&').filter(|pair| !pair.is_empty()).count();
            let are_fine = pairs.iter().all(|(name, value)| is_fine(name) && value.as_deref().is_some_and(is_fine));
            prop_assert!(pairs.len() < all || !are_fine, "it is refused without a reason");
        }
    }

    #[test]
    fn a_query_is_a_form_that_notices_typing_errors(text in fuzz::text(PIECES)) {
        match (Fields::query(&text, &KNOWN, &["id"]), Fields::form(text.as_bytes(), &KNOWN)) {
            (Ok(query), Ok(form)) => prop_assert_eq!(query.pairs, form.pairs),
            // Only what is wrong in a lenient value is forgiven.
            (Ok(query), Err(_)) => prop_assert!(query.all("id").next().is_some()),
            (Err(problem), Ok(_)) => prop_assert_eq!(problem.code(), Code::UnknownParameter),
            (Err(_), Err(_)) => {}
        }
    }

    #[test]
    fn a_path_that_is_decoded_is_the_one_that_was_encoded(path in any::<String>(), raw in fuzz::text(PIECES)) {
        let encoded: String = path.bytes().fold(String::new(), |all, b| all + &format!("%{b:02x}"));
        prop_assert_eq!(decode_path(&encoded, b"x").expect("it is valid"), path);
        if let Ok(decoded) = decode_path(&raw, b"x") {
            prop_assert!(raw.contains('%') || decoded == raw);
        }
    }
}
