//! How far a name is from another: what somebody may have meant.

/// How many letters to insert, drop or change to turn `a` into `b` (Levenshtein).
pub fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (1..=b.chars().count()).collect();
    for (i, x) in a.chars().enumerate() {
        let (mut diagonal, mut left) = (i, i + 1);
        for (y, cell) in b.chars().zip(&mut row) {
            let above = *cell;
            *cell = (diagonal + usize::from(x != y)).min(above.min(left) + 1);
            (diagonal, left) = (above, *cell);
        }
    }
    row.last().copied().unwrap_or_else(|| a.chars().count())
}

/// The shortest name that is compared letter by letter: most of the shorter ones are other words.
const LETTERS_MIN: usize = 4;
/// And the longest, so that a comparison costs little.
const LETTERS_MAX: usize = 24;

/// The one of `known` that `name` was probably meant to be: but for case and `-`, `_`, but for a letter too many or too few,
/// or for two letters in the wrong order. A letter that is another one makes too many other words (`context`, `list`).
pub fn meant<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    if name.len() > LETTERS_MAX || known.contains(&name) {
        return None;
    }
    let plain = |name: &str| name.to_ascii_lowercase().replace(['-', '_'], "");
    let name = plain(name);
    let is_near = |other: &str| {
        let other = plain(other);
        let is_shorter_or_longer = name.len() != other.len() && distance(&name, &other) == 1;
        name == other || (name.len() >= LETTERS_MIN && (is_shorter_or_longer || is_swapped(&name, &other)))
    };
    known.iter().find(|other| is_near(other)).copied()
}

/// Whether two neighbours have changed places.
fn is_swapped(one: &str, other: &str) -> bool {
    let mut differ = one.bytes().zip(other.bytes()).enumerate().filter(|(_, (ours, theirs))| ours != theirs);
    let (Some((first, before)), Some((second, after)), None) = (differ.next(), differ.next(), differ.next()) else {
        return false;
    };
    one.len() == other.len() && second == first + 1 && before == (after.1, after.0)
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
