//! What a caller may do to which topics.

use std::fmt;

use super::pattern::{Pattern, PatternError};

/// Something that a caller may do to a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Right {
    /// Publish to it.
    Publish,
    /// Subscribe to it.
    Subscribe,
    /// Describe it, delete it, and list its subscribers. To end subscribers needs this right to all topics.
    Manage,
}

impl fmt::Display for Right {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Publish => "publish",
            Self::Subscribe => "subscribe",
            Self::Manage => "manage",
        })
    }
}

/// The topics of each right.
#[derive(Debug, Default)]
pub(super) struct Rights {
    publish: Box<[Pattern]>,
    subscribe: Box<[Pattern]>,
    manage: Box<[Pattern]>,
}

impl Rights {
    /// Reads the patterns of each right. `subject` stands for `{sub}` in a pattern.
    pub(super) fn parse(
        [publish, subscribe, manage]: [&[String]; 3],
        subject: Option<&str>,
    ) -> Result<Self, PatternError> {
        let parse = |patterns: &[String]| -> Result<Box<[Pattern]>, PatternError> {
            patterns.iter().map(|text| Pattern::parse(text, subject)).collect()
        };
        Ok(Self { publish: parse(publish)?, subscribe: parse(subscribe)?, manage: parse(manage)? })
    }

    fn patterns(&self, right: Right) -> &[Pattern] {
        match right {
            Right::Publish => &self.publish,
            Right::Subscribe => &self.subscribe,
            Right::Manage => &self.manage,
        }
    }

    pub(super) fn allows(&self, right: Right, topic: &str) -> bool {
        self.patterns(right).iter().any(|pattern| pattern.matches(topic))
    }

    pub(super) fn allows_any(&self, right: Right) -> bool {
        !self.patterns(right).is_empty()
    }

    pub(super) fn allows_all(&self, right: Right) -> bool {
        self.patterns(right).iter().any(Pattern::matches_all)
    }
}
