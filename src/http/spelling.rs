//! Suggests a parameter for a name that looks like a typing error.

use strsim::{levenshtein, osa_distance};

/// The shortest name that is compared letter by letter. Shorter names are too similar to other words.
const LETTERS_MIN: usize = 4;
/// The longest name that is compared. This bounds the cost of a comparison.
const LETTERS_MAX: usize = 24;

/// The `known` name that the client probably meant with `name`; `None` if none is similar, or `name` is known.
///
/// Names match if they differ only in case, `-` and `_`, in one missing or additional letter, or in two swapped
/// neighbours. Names with one different letter do not match, because that would match other words (`context`, `list`).
pub(super) fn suggest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    if name.len() > LETTERS_MAX || known.contains(&name) {
        return None;
    }
    let normalize = |name: &str| name.to_ascii_lowercase().replace(['-', '_'], "");
    let name = normalize(name);
    let matches = |other: &str| {
        let other = normalize(other);
        if name == other {
            return true;
        }
        if name.len() < LETTERS_MIN || osa_distance(&name, &other) != 1 {
            return false;
        }
        // With equal lengths, only swapped neighbours match. A swap has distance 1 in `osa_distance` and 2 in
        // `levenshtein`; a different letter has distance 1 in both.
        name.len() != other.len() || levenshtein(&name, &other) == 2
    };
    known.iter().find(|other| matches(other)).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typing_error_is_recognised_and_another_word_is_not() {
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
            assert_eq!(suggest(name, &known), Some(expected), "{name}");
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
            assert_eq!(suggest(name, &known), None, "{name}");
        }
    }
}
