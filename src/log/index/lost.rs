//! Counts the lost entries: those whose events the engine could not read back.
//!
//! A lost entry stays in its topic, with 0 bytes, until it is removed like any other. So each stream that reads past
//! its position is told of a gap there, once.

use std::collections::HashMap;

use crate::event::TopicName;

/// The topics with lost entries. There are none as long as the disk is sound.
#[derive(Debug, Default)]
pub(super) struct Lost(HashMap<TopicName, LostOfTopic>);

/// The lost entries of one topic.
#[derive(Debug, Default)]
struct LostOfTopic {
    /// How many there are.
    events: usize,
    /// Position of the last one.
    to: u64,
}

impl Lost {
    /// Notes that the entry of `topic` at `seq` is lost.
    pub(super) fn note(&mut self, topic: &TopicName, seq: u64) {
        let lost = self.0.entry(topic.clone()).or_default();
        lost.events += 1;
        lost.to = lost.to.max(seq);
    }

    /// Notes that a lost entry of `topic` has been removed.
    pub(super) fn remove_one(&mut self, topic: &TopicName) {
        if let Some(lost) = self.0.get_mut(topic) {
            lost.events -= 1;
            if lost.events == 0 {
                self.0.remove(topic);
            }
        }
    }

    /// Notes that all entries of `topic` have been removed.
    pub(super) fn remove_all(&mut self, topic: &TopicName) {
        self.0.remove(topic);
    }

    /// How many lost entries `topic` has.
    pub(super) fn count(&self, topic: &TopicName) -> usize {
        self.0.get(topic).map_or(0, |lost| lost.events)
    }

    /// How many topics have lost entries.
    pub(super) fn topics(&self) -> usize {
        self.0.len()
    }

    /// Position of the last lost entry of `topics`; 0 when there is none.
    pub(super) fn last_of(&self, topics: &[TopicName]) -> u64 {
        if self.0.is_empty() {
            return 0;
        }
        topics.iter().filter_map(|topic| self.0.get(topic)).map(|lost| lost.to).max().unwrap_or_default()
    }
}
