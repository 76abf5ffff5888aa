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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        config::LogConfig,
        event::{Content, Epoch, Event},
        frame::GapReason,
        log::{
            ReadFrom, Start,
            index::{EVENT_OVERHEAD, Entry, Index, read::LOST_MAX},
        },
    };

    fn after(after: u64) -> ReadFrom {
        ReadFrom { after, removals_seen: 0 }
    }

    fn topic(name: &str) -> TopicName {
        TopicName::parse(name, 255).expect("a name")
    }

    /// Three events of `a`, at 1 to 3, then one of `b`, each stamped with its position, and of 10 bytes; the index may
    /// keep three of them hot.
    fn index(config: LogConfig) -> Index {
        let mut index = Index::new(Epoch::random(), config, 3 * COST);
        for (seq, name) in (1..).zip(["a", "a", "a", "b"]) {
            let (content, frame) = (Content::Within(0..0), vec![b'x'; 10].into());
            let event = Event { seq, time_ms: seq, topic: topic(name), name: None, content, frame };
            index.push(&topic(name), Entry::hot(Arc::new(event), 1), &mut |_| {});
        }
        index
    }

    /// What each of them costs: its name, its frame, and what an event costs besides.
    const COST: u64 = 1 + 10 + EVENT_OVERHEAD;

    #[test]
    fn what_cannot_be_read_is_lost_once_and_costs_nothing_more() {
        // Goal: neither an event that is not there nor one that is lost already is taken off the accounts.
        let mut index = index(LogConfig::default());
        assert_eq!((index.bytes, index.hot_bytes), (4 * COST, 3 * COST));
        assert_eq!([("c", 1), ("a", 4), ("a", 9)].map(|(name, seq)| index.lose(&topic(name), seq)), [false; 3]);
        assert_eq!((index.lose(&topic("a"), 1), index.lose(&topic("a"), 1)), (true, false));
        assert_eq!((index.bytes, index.hot_bytes), (3 * COST, 3 * COST), "only the disk had it");
        assert!(index.lose(&topic("a"), 2));
        assert_eq!((index.bytes, index.hot_bytes), (2 * COST, 2 * COST));
        let held = index.held(&topic("a")).expect("it is held");
        let [first, last] = [held.first, held.last].map(|id| id.map(|id| id.seq));
        assert_eq!((first, last, held.events, held.bytes), (Some(3), Some(3), 1, COST));
        assert_eq!(
            [&["a"][..], &["b"], &["b", "a"], &[]]
                .map(|names| { index.lost.last_of(&names.iter().map(|name| topic(name)).collect::<Vec<_>>()) }),
            [2, 0, 2, 0]
        );
    }

    #[test]
    fn a_reader_is_told_of_what_is_lost_at_its_place() {
        // Goal: what is before it comes first; who asks for the last events is not given a lost one.
        let mut index = index(LogConfig::default());
        index.lose(&topic("a"), 2);
        let page = index.plan(&[topic("a")], after(0), usize::MAX);
        assert_eq!((page.entries.len(), page.page.to, page.page.missing_to), (1, 1, 0));
        let page = index.plan(&[topic("a")], after(1), usize::MAX);
        assert_eq!((page.entries.len(), page.page.to, page.page.missing_to), (1, 4, 2));
        assert!(page.page.has_unreadable);
        let last = |n| index.resolve_start(&[topic("a")], &Start::Last(n), &[]).from.after;
        assert_eq!([last(0), last(1), last(2), last(3)], [4, 2, 0, 0]);
        let ahead = |seq| {
            let id = crate::event::EventId { epoch: index.epoch, seq };
            index.resolve_start(&[topic("a")], &Start::After(id), &[]).gap_ahead.is_some()
        };
        assert_eq!([ahead(0), ahead(1), ahead(2), ahead(3)], [true, true, false, false]);
        let ahead = |time_ms| index.resolve_start(&[topic("a")], &Start::Since(time_ms), &[]).gap_ahead.is_some();
        assert_eq!([ahead(1), ahead(2), ahead(3), ahead(9)], [true, true, false, false]);
    }

    #[test]
    fn what_is_lost_goes_in_its_turn() {
        // Goal: retention takes it like any other, and nothing of it is left.
        let mut index = index(LogConfig::default());
        index.lose(&topic("a"), 1);
        index.lose(&topic("a"), 2);
        index.retention.topic_events_max = 2;
        index.trim_topic(&topic("a"), &mut |_| {});
        assert_eq!((index.lost.count(&topic("a")), index.lost.last_of(&[topic("a")])), (1, 2));
        index.retention.topic_events_max = 1;
        index.trim_topic(&topic("a"), &mut |_| {});
        assert_eq!((index.lost.count(&topic("a")), index.bytes), (0, 2 * COST));
    }

    #[test]
    fn a_page_passes_over_so_many_lost_events_and_no_more() {
        // Goal: the index is locked meanwhile.
        let mut index = index(LogConfig::default());
        let count = u64::try_from(LOST_MAX).expect("a number");
        for seq in 5..=count + 9 {
            let (content, frame) = (Content::Within(0..0), [].into());
            let event = Event { seq, time_ms: seq, topic: topic("c"), name: None, content, frame };
            index.push(&topic("c"), Entry::hot(Arc::new(event), 1), &mut |_| {});
            index.lose(&topic("c"), seq);
        }
        let page = index.plan(&[topic("c")], after(0), usize::MAX).page;
        assert_eq!((page.to, page.missing_to), (count + 4, count + 4));
        let page = index.plan(&[topic("c")], after(page.to), usize::MAX).page;
        assert_eq!((page.to, page.missing_to), (count + 9, count + 9));
    }

    #[test]
    fn who_asks_for_what_is_younger_than_a_loss_is_not_told_of_it() {
        // Goal: what a start could not read, and what never reached the disk, is told to those who asked for that time.
        let gap = |unreadable_to, hole_to, time_ms| {
            let mut index = index(LogConfig::default());
            (index.unreadable_to, index.unreadable_ms) = (unreadable_to, 50);
            (index.hole_to, index.hole_ms) = (hole_to, 60);
            index.resolve_start(&[topic("a")], &Start::Since(time_ms), &[]).gap
        };
        assert_eq!([gap(2, 0, 50), gap(2, 0, 51)], [Some(GapReason::Unreadable), None]);
        assert_eq!([gap(0, 2, 60), gap(0, 2, 61)], [Some(GapReason::Evicted), None]);
        assert_eq!([gap(2, 2, 50), gap(2, 2, 55)], [Some(GapReason::Unreadable), Some(GapReason::Evicted)]);
        assert_eq!(gap(0, 0, 1), None);
    }
}
