//! Events that are held no more because the engine could not read them back.
//!
//! Such an entry stays at its place, without bytes, until retention comes to it: so every stream that passes over it is
//! told, once and there, and the order of the others stays what it was.

use super::{Entry, Index};
use crate::event::TopicName;

/// What of a topic cannot be read.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Lost {
    /// How many of its entries.
    pub(super) events: usize,
    /// The last of them.
    pub(super) to: u64,
}

impl Entry {
    /// No event costs nothing, so this can tell.
    pub(super) fn is_lost(&self) -> bool {
        self.bytes == 0
    }
}

impl Index {
    /// Notes that the event at `seq` cannot be read; whether that is news. One that has been removed meanwhile is not
    /// lost.
    pub(in crate::log) fn lose(&mut self, topic: &TopicName, seq: u64) -> bool {
        let Some(log) = self.topics.get_mut(topic) else { return false };
        let at = log.events.partition_point(|entry| entry.seq < seq);
        let Some(entry) = log.events.get_mut(at).filter(|entry| entry.seq == seq && !entry.is_lost()) else {
            return false;
        };
        if entry.event.take().is_some() {
            self.hot_bytes -= entry.bytes;
        }
        log.bytes -= entry.bytes;
        self.bytes -= entry.bytes;
        entry.bytes = 0;
        let lost = self.lost.entry(topic.clone()).or_default();
        lost.events += 1;
        lost.to = lost.to.max(seq);
        true
    }

    /// An entry of `topic` that could not be read has been removed like any other.
    pub(super) fn lost_is_evicted(&mut self, topic: &TopicName) {
        if let Some(lost) = self.lost.get_mut(topic) {
            lost.events -= 1;
            if lost.events == 0 {
                self.lost.remove(topic);
            }
        }
    }

    /// The last position of `topics` that cannot be read; 0 when there is none.
    pub(super) fn lost_to(&self, topics: &[TopicName]) -> u64 {
        if self.lost.is_empty() {
            return 0;
        }
        topics.iter().filter_map(|topic| self.lost.get(topic)).map(|lost| lost.to).max().unwrap_or_default()
    }
}
