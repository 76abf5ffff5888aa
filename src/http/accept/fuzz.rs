//! `Accept` never refuses, and its lists mean the same in one header or in several.

use std::net::IpAddr;

use proptest::{collection::vec, prelude::*};

use super::*;
use crate::fuzz;
use crate::http::{
    authority::{Authority, Scheme},
    head::SentHead,
};

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

/// A request that has only these `Accept` headers.
struct Request(Vec<Vec<u8>>);

impl SentHead for Request {
    fn method(&self) -> &'static str {
        "GET"
    }

    fn path(&self) -> &'static str {
        "/subscribe"
    }

    fn query(&self) -> &'static str {
        ""
    }

    fn target_authority(&self) -> Option<&str> {
        None
    }

    fn is_http_1_1(&self) -> bool {
        true
    }

    fn peer(&self) -> Option<IpAddr> {
        None
    }

    fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|_| "accept")
    }

    fn values<'a>(&'a self, name: &'static str) -> impl Iterator<Item = &'a [u8]> {
        self.0.iter().filter(move |_| name == "accept").map(|value| &**value)
    }
}

impl Head for Request {
    fn remote(&self) -> Option<IpAddr> {
        None
    }

    fn host(&self) -> Option<Authority<'_>> {
        None
    }

    fn scheme(&self) -> Option<Scheme> {
        None
    }
}

fn read(values: Vec<Vec<u8>>) -> (bool, bool) {
    let accept = Accept::read(&Request(values));
    (accept.prefers_lines(), accept.names_events())
}

proptest! {
    #[test]
    fn a_list_means_the_same_in_one_header_or_in_several(parts in vec(fuzz::bytes(PIECES), 0..5)) {
        // What is not ASCII spoils its own header only, and a quoted comma is no end of a part.
        let is_plain = |part: &Vec<u8>| part.iter().all(|b| matches!(b, b' '..=b'~') && !matches!(b, b'"' | b','));
        let several = read(parts.clone());
        if parts.iter().all(is_plain) {
            prop_assert_eq!(read(vec![parts.join(&b", "[..])]), several);
            let mut with_junk = parts;
            with_junk.push(b"junk/x;q=1".to_vec());
            prop_assert_eq!(read(with_junk).1, several.1);
        }
    }
}
