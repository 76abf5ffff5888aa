//! Names and ids are exact: what is accepted is what was sent, and it cannot end a line of a stream.

use proptest::prelude::*;

use super::*;
use crate::fuzz;

const PIECES: &[&str] = &[
    "a",
    "news",
    "broker.",
    "broker",
    ".",
    "-",
    "-",
    "0",
    "00",
    "7",
    "18446744073709551615",
    "18446744073709551616",
    "k3f9x2ab",
    "A",
    "\n",
    "\r",
    "\0",
    "\u{7f}",
    "\u{85}",
    "\u{9f}",
    "\u{2028}",
    "\u{feff}",
    "\u{200b}",
    "é",
    "新闻",
    " ",
    "/",
    ":",
    "+1",
];

/// Whether a parser of event streams could take a part of `name` for the end of a line.
fn ends_a_line(name: &str) -> bool {
    name.contains(['\r', '\n', '\0'])
}

proptest! {
    #[test]
    fn an_id_is_read_as_it_is_written(text in fuzz::text(PIECES), seq in any::<u64>()) {
        if let Some(id) = EventId::parse(&text) {
            prop_assert_eq!(id.to_string(), text.as_str());
            let is_plain = text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'z' | b'-'));
            prop_assert!(is_plain, "it has more than the characters of ids");
        }
        let id = EventId { epoch: Epoch::random(), seq };
        prop_assert_eq!(EventId::parse(&id.to_string()), Some(id));
    }

    #[test]
    fn a_name_cannot_end_a_line(text in fuzz::text(PIECES), long in 0..300_usize) {
        let text = if long > 280 { text.repeat(long) } else { text };
        if let Ok(name) = TopicName::parse(&text, 255) {
            prop_assert_eq!(name.as_str(), text.as_str());
            prop_assert!(!ends_a_line(&text) && !text.is_empty() && text.len() <= 255);
            prop_assert!(!text.chars().any(char::is_control));
        }
        if let Ok(name) = EventName::parse(&text) {
            prop_assert_eq!(name.as_str(), text.as_str());
            prop_assert!(!ends_a_line(&text) && text.len() <= EventName::BYTES_MAX);
            prop_assert!(!text.starts_with(EventName::RESERVED) && !text.chars().any(char::is_control));
        }
    }
}
