//! A pattern matches what its table says, or is refused. Here a second matcher, written from the table alone.

use proptest::prelude::*;

use super::*;
use crate::fuzz;

const PIECES: &[&str] =
    &["a", "b", "/", "/", "/", "*", "**", "/*", "/**", "{sub}", "{sub", "ann", "é", ".", "..", " ", "a*"];

/// Whether the segments of a pattern match those of a topic.
fn reference(pattern: &[&str], topic: &[&str], subject: &str) -> bool {
    match (pattern, topic) {
        (["**"], [_, ..]) | ([], []) => true,
        ([first, pattern @ ..], [segment, topic @ ..]) => {
            let is_match = *first == "*" || first.replace(SUBJECT, subject) == *segment;
            is_match && reference(pattern, topic, subject)
        }
        _ => false,
    }
}

proptest! {
    #[test]
    fn a_pattern_matches_what_its_table_says(
        pattern in fuzz::text(PIECES), topic in fuzz::text(PIECES), subject in prop::sample::select(vec!["ann", "*", "a/b", "**"]),
    ) {
        let segments: Vec<&str> = pattern.split('/').collect();
        let last = segments.len() - 1;
        let is_star = |(n, segment): (usize, &&str)| *segment == "*" || (*segment == "**" && n == last);
        let is_valid = !pattern.is_empty() && segments.iter().enumerate().all(|part| !part.1.contains('*') || is_star(part));
        let parsed = Pattern::parse(&pattern, Some(subject));
        prop_assert_eq!(parsed.is_ok(), is_valid);
        if let Ok(parsed) = parsed {
            for topic in [&topic, &pattern, &pattern.replace('*', "x"), &pattern.replace(SUBJECT, subject)] {
                let expected = reference(&segments, &topic.split('/').collect::<Vec<_>>(), subject);
                prop_assert_eq!(parsed.matches(topic), expected, "{}", topic);
            }
        }
    }
}
