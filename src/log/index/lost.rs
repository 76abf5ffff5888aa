//! Events that are held no more because the engine could not read them back.
//!
//! Such an entry stays at its place, without bytes, until retention comes to it: so every stream that passes over it is
//! told, once and there, and the order of the others stays what it was.

use std::collections::HashMap;

use crate::event::TopicName;

/// The topics with entries that cannot be read; there is none as long as the disk is sound.
#[derive(Debug, Default)]
pub(super) struct Lost(HashMap<TopicName, LostOfTopic>);

/// What of a topic cannot be read.
#[derive(Debug, Default)]
struct LostOfTopic {
    /// How many of its entries.
    events: usize,
    /// The last of them.
    to: u64,
}

impl Lost {
    /// Notes that the entry of `topic` at `seq` cannot be read.
    pub(super) fn note(&mut self, topic: &TopicName, seq: u64) {
        let lost = self.0.entry(topic.clone()).or_default();
        lost.events += 1;
        lost.to = lost.to.max(seq);
    }

    /// An entry of `topic` that could not be read has been removed like any other.
    pub(super) fn remove_one(&mut self, topic: &TopicName) {
        if let Some(lost) = self.0.get_mut(topic) {
            lost.events -= 1;
            if lost.events == 0 {
                self.0.remove(topic);
            }
        }
    }

    /// All entries of `topic` have been removed.
    pub(super) fn remove_all(&mut self, topic: &TopicName) {
        self.0.remove(topic);
    }

    /// How many entries of `topic` cannot be read.
    pub(super) fn count(&self, topic: &TopicName) -> usize {
        self.0.get(topic).map_or(0, |lost| lost.events)
    }

    /// How many topics have entries that cannot be read.
    pub(super) fn topics(&self) -> usize {
        self.0.len()
    }

    /// The last position of `topics` that cannot be read; 0 when there is none.
    pub(super) fn last_of(&self, topics: &[TopicName]) -> u64 {
        if self.0.is_empty() {
            return 0;
        }
        topics.iter().filter_map(|topic| self.0.get(topic)).map(|lost| lost.to).max().unwrap_or_default()
    }
}
