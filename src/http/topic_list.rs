//! The topics that a JSON body names.

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{SeqAccess, Visitor},
};

/// The most topics that are kept. Further topics are only counted. No configuration allows so many in a request.
pub(super) const TOPICS_KEPT_MAX: usize = 1025;

/// One topic or a list of topics.
#[derive(Default)]
pub(super) struct TopicList {
    /// The first [`TOPICS_KEPT_MAX`] topics.
    pub(super) kept: Vec<String>,
    /// How many other topics the body names.
    pub(super) dropped: usize,
}

impl<'de> Deserialize<'de> for TopicList {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Visit)
    }
}

impl TopicList {
    /// Deserializes a list of topics, and nothing else.
    pub(super) fn only_list<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(Visit)
    }
}

struct Visit;

impl<'de> Visitor<'de> for Visit {
    type Value = TopicList;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a topic or a list of topics")
    }

    fn visit_str<E>(self, topic: &str) -> Result<TopicList, E> {
        Ok(TopicList { kept: vec![topic.to_owned()], dropped: 0 })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<TopicList, A::Error> {
        let mut topics = TopicList::default();
        while let Some(topic) = list.next_element::<Cow<'_, str>>()? {
            if topics.kept.len() < TOPICS_KEPT_MAX {
                topics.kept.push(topic.into_owned());
            } else {
                topics.dropped += 1;
            }
        }
        Ok(topics)
    }
}
