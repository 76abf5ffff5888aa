//! Patterns of topics.
//!
//! A topic and a pattern consist of segments, separated by `/`. In a pattern, `*` stands for any one segment, and `**`,
//! at the end, for one or more segments. `{sub}` stands for the subject of the token. All else stands for itself.
//!
//! | pattern | matches | does not match |
//! |---|---|---|
//! | `orders` | `orders` | `orders/1` |
//! | `orders/*` | `orders/1` | `orders`, `orders/1/items` |
//! | `orders/**` | `orders/1`, `orders/1/items` | `orders` |
//! | `**` | every topic | |
//! | `users/{sub}` | `users/ann` in a token of `ann` | `users/bob` |

/// A pattern of topics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pattern {
    segments: Box<[Segment]>,
    /// It ends with `**`.
    has_rest: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Segment {
    /// This text.
    Exact(Box<str>),
    /// `*`.
    Any,
}

/// Why a pattern cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// It is empty.
    #[error("a pattern of topics is empty")]
    Empty,
    /// `*` is only a part of a segment, or `**` is not the last segment.
    #[error("the pattern {0:?}: `*` stands for a whole segment between slashes, and `**` only for the end")]
    BadStar(String),
    /// It has `{sub}`, but there is no subject.
    #[error("the pattern {0:?} needs a subject (`sub`)")]
    NoSubject(String),
}

/// Stands for the subject in a pattern.
const SUBJECT: &str = "{sub}";

impl Pattern {
    pub(super) fn parse(text: &str, subject: Option<&str>) -> Result<Self, PatternError> {
        if text.is_empty() {
            return Err(PatternError::Empty);
        }
        let (segments, has_rest) = match text.strip_suffix("**") {
            Some("") => (None, true),
            Some(before) => match before.strip_suffix('/') {
                Some(before) => (Some(before), true),
                None => return Err(PatternError::BadStar(text.to_owned())),
            },
            None => (Some(text), false),
        };
        let segment = |segment: &str| match segment {
            "*" => Ok(Segment::Any),
            _ if segment.contains('*') => Err(PatternError::BadStar(text.to_owned())),
            // The subject is inserted after the split: a subject with `/` or `*` is only text, and cannot widen the
            // pattern.
            _ if segment.contains(SUBJECT) => match subject {
                Some(subject) if !subject.is_empty() => Ok(Segment::Exact(segment.replace(SUBJECT, subject).into())),
                _ => Err(PatternError::NoSubject(text.to_owned())),
            },
            _ => Ok(Segment::Exact(segment.into())),
        };
        let segments = segments.into_iter().flat_map(|segments| segments.split('/')).map(segment);
        Ok(Self { segments: segments.collect::<Result<_, _>>()?, has_rest })
    }

    /// Whether it matches every topic.
    pub(super) fn matches_all(&self) -> bool {
        self.segments.is_empty() && self.has_rest
    }

    /// Whether it matches `topic`. The time is linear in the length of the topic.
    pub(super) fn matches(&self, topic: &str) -> bool {
        let mut given = topic.split('/');
        for segment in &self.segments {
            let is_match = given.next().is_some_and(|given| match segment {
                Segment::Any => true,
                Segment::Exact(text) => **text == *given,
            });
            if !is_match {
                return false;
            }
        }
        given.next().is_some() == self.has_rest
    }
}

#[cfg(test)]
mod fuzz;

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, topic: &str) -> bool {
        Pattern::parse(pattern, Some("ann")).expect("a pattern").matches(topic)
    }

    #[test]
    fn a_pattern_matches_by_segments() {
        let topics = ["orders", "orders/1", "orders/1/items", "orders/", "ordersx", "", "/", "users/ann", "users/bob"];
        let cases: [(&str, &[&str]); 10] = [
            ("orders", &["orders"]),
            ("orders/", &["orders/"]),
            ("orders/*", &["orders/1", "orders/"]),
            ("*/1", &["orders/1"]),
            ("*", &["orders", "ordersx", ""]),
            ("orders/**", &["orders/1", "orders/1/items", "orders/"]),
            ("*/*/**", &["orders/1/items"]),
            ("**", &topics),
            ("users/{sub}", &["users/ann"]),
            ("{sub}", &[]),
        ];
        for (pattern, expected) in cases {
            let matched: Vec<&str> = topics.into_iter().filter(|topic| matches(pattern, topic)).collect();
            assert_eq!(matched, expected, "{pattern}");
        }
        assert!(matches("user-{sub}/x", "user-ann/x") && !matches("user-{sub}/x", "user-/x"));
        assert!(Pattern::parse("**", None).expect("a pattern").matches_all());
        assert!(!Pattern::parse("*", None).expect("a pattern").matches_all());
    }

    #[test]
    fn a_subject_cannot_widen_a_pattern() {
        // Goal: who chooses a subject cannot reach other topics with it.
        for subject in ["*", "**", "a/b", "../x", "{sub}"] {
            let pattern = Pattern::parse("users/{sub}", Some(subject)).expect("a pattern");
            for topic in ["users/ann", "users/a/b", "users/../x", "x", "users/ann/x"] {
                assert!(!pattern.matches(topic), "{subject} {topic}");
            }
            let is_one_segment = !subject.contains('/');
            assert_eq!(pattern.matches(&format!("users/{subject}")), is_one_segment, "{subject}");
        }
        for subject in [None, Some("")] {
            let pattern = Pattern::parse("users/{sub}", subject);
            assert_eq!(pattern, Err(PatternError::NoSubject("users/{sub}".to_owned())));
        }
    }

    #[test]
    fn a_star_in_a_wrong_place_is_refused() {
        for text in ["a*", "*a", "a**", "***", "**/a", "a/**/b", "a/*b/c"] {
            assert_eq!(Pattern::parse(text, None), Err(PatternError::BadStar(text.to_owned())));
        }
        assert_eq!(Pattern::parse("", None), Err(PatternError::Empty));
    }
}
