//! Every topic has a valid subject, which leads back to it.

use proptest::prelude::*;

use super::*;
use crate::fuzz;

const PIECES: &[&str] = &["a", "Z9", "/", "//", ".", "*", ">", " ", "=", "=41", "_", "-", "é", "新", "\u{2028}", "$JS"];

fn topic(name: &str) -> TopicName {
    TopicName::parse(name, usize::MAX).expect("a name")
}

#[test]
fn a_topic_has_the_subject_that_the_documentation_says() {
    // Goal: the form of subjects stays as it is, because streams outlive releases.
    for (name, expected) in [
        ("news", "tidings.t.news"),
        ("room/ä/", "tidings.t.room.=C3=A4.="),
        ("a.b *>", "tidings.t.a=2Eb=20=2A=3E"),
        ("/", "tidings.t.=.="),
    ] {
        assert_eq!(of_topic("tidings", &topic(name)), expected);
    }
    let long = topic(&"x".repeat(BYTES_MAX + 1));
    assert!(of_topic("n", &long).starts_with("n.h.") && of_topic("n", &long).len() == "n.h.".len() + 32);
    assert!(of_topic("n", &topic(&"x".repeat(BYTES_MAX))).starts_with("n.t."));
    assert!(of_topic("n", &topic(&"/".repeat(TOKENS_MAX))).starts_with("n.h."));
}

#[test]
fn other_subjects_are_no_topic() {
    for subject in ["n.t.=61", "n.t.=6", "n.t.=zz", "n.t.", "n.t.a..b", "n.h.00", "other.t.a", "n.t.=FF", "n.t.a=2F"] {
        assert_eq!(to_topic("n", subject), None, "{subject}");
    }
}

proptest! {
    #[test]
    fn a_subject_is_valid_and_leads_back_to_its_topic(name in fuzz::text(PIECES)) {
        if let Ok(topic) = TopicName::parse(&name, 255) {
            let subject = of_topic("n", &topic);
            let is_token = |token: &str| {
                !token.is_empty() && token.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-=".contains(&b))
            };
            prop_assert!(subject.split('.').all(is_token), "{}", subject);
            prop_assert!(subject.len() <= "n.t.".len() + BYTES_MAX);
            if subject.starts_with("n.t.") {
                prop_assert_eq!(to_topic("n", &subject), Some(topic));
            }
        }
    }

    #[test]
    fn any_text_is_a_topics_subject_or_none(subject in fuzz::text(&["n.t.", ".", "=", "=2F", "a", "=C3", "=A4", "n.h."])) {
        if let Some(topic) = to_topic("n", &subject) {
            prop_assert_eq!(of_topic("n", &topic), subject);
        }
    }
}
