//! What somebody may have meant with the name of a parameter.

use strsim::{levenshtein, osa_distance};

/// The shortest name that is compared letter by letter: most of the shorter ones are other words.
const LETTERS_MIN: usize = 4;
/// And the longest, so that a comparison costs little.
const LETTERS_MAX: usize = 24;

/// The one of `known` that `name` was probably meant to be: but for case and `-`, `_`, but for a letter too many or too few,
/// or for two letters in the wrong order. A letter that is another one makes too many other words (`context`, `list`).
pub(super) fn meant<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    if name.len() > LETTERS_MAX || known.contains(&name) {
        return None;
    }
    let plain = |name: &str| name.to_ascii_lowercase().replace(['-', '_'], "");
    let name = plain(name);
    let is_near = |other: &str| {
        let other = plain(other);
        // One step where a swap is a step, and two where it is not: two neighbours have changed places.
        let is_swapped = || levenshtein(&name, &other) == 2;
        let is_slip = || osa_distance(&name, &other) == 1 && (name.len() != other.len() || is_swapped());
        name == other || (name.len() >= LETTERS_MIN && is_slip())
    };
    known.iter().find(|other| is_near(other)).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_is_recognised_and_another_word_is_not() {
        let known =
            ["topic", "content", "event", "since", "last", "on_gap", "lastEventId", "last_event_id", "envelope"];
        for (name, expected) in [
            ("topics", "topic"),
            ("Topic", "topic"),
            ("topc", "topic"),
            ("tpoic", "topic"),
            ("contents", "content"),
            ("lastn", "last"),
            ("ongap", "on_gap"),
            ("on-gap", "on_gap"),
            ("lasteventid", "lastEventId"),
            ("LAST_EVENT_ID", "lastEventId"),
            ("evnelope", "envelope"),
        ] {
            assert_eq!(meant(name, &known), Some(expected), "{name}");
        }
        for name in [
            "_",
            "t",
            "token",
            "to",
            "top",
            "tonic",
            "context",
            "list",
            "ts",
            "id",
            "utm_source",
            "cache",
            "key",
            "las",
            "topic",
            "last",
            "",
            "topic[]more",
            "新闻",
        ] {
            assert_eq!(meant(name, &known), None, "{name}");
        }
    }
}
