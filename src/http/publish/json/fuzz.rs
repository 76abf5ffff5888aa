//! A JSON body has one meaning: that of `serde_json`.

use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::fuzz;

const PIECES: &[&str] = &[
    "{",
    "}",
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    "\"",
    "\"topic\":",
    "\"topic\":\"a\"",
    "\"content\":",
    "\"content\":",
    "\"event\":",
    "\"event\":\"e\"",
    "\"x\"",
    "\"\\n\"",
    "\"\\ud800\"",
    "\"\\ud83e\\udd80\"",
    "\"\\u0000\"",
    "\\",
    "null",
    "true",
    "0",
    "-1",
    "1.50",
    "1e999",
    "01",
    " ",
    "\n",
    "\t",
    "[\"a\",\"b\"]",
    "[[[[[[[[",
    "]]]]]]]]",
    "{\"k\":",
    "\"c\\u006fntent\":",
    "é",
    "\u{feff}",
];

proptest! {
    #[test]
    fn a_body_means_what_serde_json_says(text in fuzz::text(PIECES), is_object in any::<bool>()) {
        let text = if is_object { format!("{{{text}}}") } else { text };
        let Ok(body) = JsonBody::parse(&text) else { return Ok(()) };
        let Ok(content) = body.content() else { return Ok(()) };
        let Ok(tree) = serde_json::from_str::<Value>(&text) else {
            // A tree refuses numbers that it cannot hold; here a number is only text. It also refuses half of a
            // surrogate pair, which the grammar allows (RFC 8259, section 8.2); here it is read only in the members
            // with a meaning.
            prop_assert!(text.contains("1e999") || text.contains("\\ud800"), "only the tree refuses it");
            return Ok(());
        };
        if tree.is_array() {
            // The derived parser takes the members of an array in their order.
            return Ok(());
        }
        prop_assert_eq!(content.is_some(), tree.get("content").is_some());
        if let (Some(content), Some(expected)) = (content, tree.get("content")) {
            match expected {
                Value::String(text) => prop_assert_eq!(content, text.as_bytes()),
                other => prop_assert_eq!(&serde_json::from_slice::<Value>(&content).expect("JSON"), other),
            }
        }
        let event = tree.get("event").and_then(Value::as_str);
        prop_assert_eq!(body.event.as_deref(), event);
    }
}
