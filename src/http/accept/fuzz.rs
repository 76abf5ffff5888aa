//! `Accept` never refuses, and its lists mean the same in one header or in several.

use proptest::{collection::vec, prelude::*};

use super::*;
use crate::fuzz;

const PIECES: &[&str] = &[
    "text/event-stream",
    "text/event-stream",
    "application/x-ndjson",
    "application/x-ndjson",
    "*/*",
    "text/*",
    "application/*",
    "text/html",
    ";q=0",
    ";q=0.5",
    ";q=1",
    ";q=0.001",
    ";q=1.0001",
    ";q=-1",
    ";q=",
    ";Q=0.3",
    ";charset=utf-8",
    "; q = 1",
    ";",
    "/",
    "*",
    " ",
    "\t",
    "\"",
    "é",
    "TEXT/EVENT-STREAM",
];

fn read(values: &[Vec<u8>]) -> (bool, bool) {
    let accept = Accept::parse(values.iter().filter_map(|value| ascii_text(value)));
    (accept.prefers_lines(), accept.names_events())
}

proptest! {
    #[test]
    fn a_list_means_the_same_in_one_header_or_in_several(parts in vec(fuzz::bytes(PIECES), 0..5)) {
        // What is not ASCII spoils its own header only, and a quoted comma is no end of a part.
        let is_plain = |part: &Vec<u8>| part.iter().all(|b| matches!(b, b' '..=b'~') && !matches!(b, b'"' | b','));
        let several = read(&parts);
        if parts.iter().all(is_plain) {
            prop_assert_eq!(read(&[parts.join(&b", "[..])]), several);
            let mut with_junk = parts;
            with_junk.push(b"junk/x;q=1".to_vec());
            prop_assert_eq!(read(&with_junk).1, several.1);
        }
    }
}
