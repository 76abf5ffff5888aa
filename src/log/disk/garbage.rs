//! Collects the rows that the index has removed, and that the writer has to remove from the file.
//!
//! Rows are removed in portions of [`PORTION`]. One row at a time would be expensive: each publish would also write the
//! page of an old event. All at once would delay publishes for too long.
//!
//! For example, the index removes event 3 of topic `a`. Then the row of event 3 is to be removed, and the row of topic
//! `a` is to say that event 3 was the last removed one.

use std::{
    collections::{HashMap, VecDeque},
    mem,
};

use super::{
    error::StoreError,
    transaction::{LastRemoved, PORTION, TimeRange, Transaction},
};
use crate::{event::TopicName, log::index::Removal};

/// A row to remove.
enum OldRow {
    /// Of the event at this position.
    Event(u64),
    /// Of a topic. The box keeps the entries for events small, because most entries are for events.
    Topic(Box<(TopicName, LastRemoved)>),
}

/// The rows to remove.
#[derive(Default)]
pub(super) struct Garbage {
    /// In the order in which the index removed them. The row of a topic must not be removed before the rows of its
    /// events: a new topic may get the row id of the removed topic, and with the id these events.
    rows: VecDeque<OldRow>,
    /// For each topic, how many entries in `rows` are for its row: two when it was forgotten, used and forgotten again.
    topics: HashMap<TopicName, usize>,
    /// What to write into the rows of topics. All of these are written before the first of `rows` is removed, or in the
    /// same transaction: otherwise a crash in between would leave a gap that is not reported.
    last_removed: HashMap<TopicName, LastRemoved>,
}

/// What one batch removes.
#[derive(Default)]
pub(super) struct Portion {
    /// Positions of events, in ascending order.
    pub(super) events: Vec<u64>,
    /// Topics whose rows are removed.
    pub(super) topics: Vec<(TopicName, LastRemoved)>,
    /// What to write into the rows of topics that stay.
    pub(super) last_removed: Vec<(TopicName, LastRemoved)>,
    /// The times of the receipts that are kept. Receipts from other times are removed. `None` keeps all.
    pub(super) kept_receipts: Option<TimeRange>,
}

impl Garbage {
    /// Adds what the index has removed.
    pub(super) fn note(&mut self, removal: Removal<'_>) {
        match removal {
            Removal::Event { topic, seq, time_ms } => {
                self.note_row(seq);
                self.note_last_removed(topic.clone(), LastRemoved { seq, time_ms });
            }
            Removal::Topic { topic, removed_to, removed_ms } => {
                *self.topics.entry(topic.clone()).or_default() += 1;
                let last = LastRemoved { seq: removed_to, time_ms: removed_ms };
                self.rows.push_back(OldRow::Topic(Box::new((topic.clone(), last))));
            }
        }
    }

    /// Adds the row of an event, without a change to the row of its topic.
    pub(super) fn note_row(&mut self, seq: u64) {
        self.rows.push_back(OldRow::Event(seq));
    }

    /// Notes a removed event of `topic`. The index drops the events of a deleted topic later, so an older event may
    /// come after a newer one. Then the newer one stays.
    fn note_last_removed(&mut self, topic: TopicName, removed: LastRemoved) {
        let last = self.last_removed.entry(topic).or_default();
        last.seq = last.seq.max(removed.seq);
        last.time_ms = last.time_ms.max(removed.time_ms);
    }

    /// Whether there is enough for a full portion.
    pub(super) fn has_full_portion(&self) -> bool {
        self.rows.len() >= PORTION
    }

    /// Whether there is nothing to remove.
    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty() && self.last_removed.is_empty()
    }

    /// Whether the row of `topic` is still to be removed.
    pub(super) fn has_topic(&self, topic: &TopicName) -> bool {
        self.topics.contains_key(topic)
    }

    /// Takes the next portion.
    pub(super) fn take(&mut self) -> Portion {
        let last_removed = self.last_removed.extract_if(|_, _| true).take(PORTION).collect();
        let mut portion = Portion { last_removed, ..Portion::default() };
        // No row of an event is removed before all of `last_removed` is written.
        if self.last_removed.is_empty() {
            self.take_rows(&mut portion);
        }
        if self.is_empty() {
            // Gives back the memory of a backlog.
            *self = Self::default();
        }
        portion
    }

    fn take_rows(&mut self, portion: &mut Portion) {
        while portion.events.len() < PORTION
            && portion.topics.len() < PORTION
            && let Some(row) = self.rows.pop_front()
        {
            match row {
                OldRow::Event(seq) => portion.events.push(seq),
                OldRow::Topic(topic) => {
                    let Some(entries) = self.topics.get_mut(&topic.0) else { continue };
                    *entries -= 1;
                    // A topic that was forgotten twice has one row, but two entries. When the first entry is taken,
                    // later events of the topic may still have their rows.
                    if *entries == 0 {
                        self.topics.remove(&topic.0);
                        portion.topics.push(*topic);
                    }
                }
            }
        }
        // In order of position, so that each page is written once.
        portion.events.sort_unstable();
    }

    /// Puts back a portion that was not removed. It comes first again. Its receipts are not garbage: the next
    /// maintenance finds them again.
    pub(super) fn put_back(&mut self, portion: Portion) {
        for topic in portion.topics.into_iter().rev() {
            *self.topics.entry(topic.0.clone()).or_default() += 1;
            self.rows.push_front(OldRow::Topic(Box::new(topic)));
        }
        for seq in portion.events.into_iter().rev() {
            self.rows.push_front(OldRow::Event(seq));
        }
        for (topic, last_removed) in portion.last_removed {
            self.note_last_removed(topic, last_removed);
        }
    }
}

impl Portion {
    /// Whether there is nothing to remove.
    pub(super) fn is_empty(&self) -> bool {
        self.events.is_empty() && self.topics.is_empty() && self.last_removed.is_empty() && self.kept_receipts.is_none()
    }

    /// Takes out the rows to remove, as a portion of their own. `last_removed`, which removes no row, stays.
    pub(super) fn take_removals(&mut self) -> Self {
        let last_removed = mem::take(&mut self.last_removed);
        mem::replace(self, Self { last_removed, ..Self::default() })
    }

    /// Removes the rows of events and topics, and writes the last removed events into the rows of the other topics. The
    /// row of a topic that `is_in_use` stays.
    pub(super) fn remove_garbage(
        &self,
        transaction: &Transaction<'_>,
        is_in_use: impl Fn(&TopicName) -> bool,
    ) -> Result<(), StoreError> {
        transaction.remove_events(&self.events)?;
        for (topic, last) in &self.last_removed {
            transaction.mark_removed(topic, *last)?;
        }
        for (topic, last) in &self.topics {
            if !is_in_use(topic) {
                transaction.forget_topic(topic, *last)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PORTION_LENGTH: u64 = 8192;

    fn topic(name: &str) -> TopicName {
        TopicName::parse(name, 255).expect("a topic name")
    }

    /// Notes an event of `name` for each of `seqs`.
    fn note_events(garbage: &mut Garbage, name: &str, seqs: impl IntoIterator<Item = u64>) {
        for seq in seqs {
            garbage.note(Removal::Event { topic: &topic(name), seq, time_ms: 0 });
        }
    }

    fn note_topic(garbage: &mut Garbage, name: &str) {
        garbage.note(Removal::Topic { topic: &topic(name), removed_to: 1, removed_ms: 0 });
    }

    /// Takes the next portion. Returns the first and the last position in it, and the topics whose rows it removes.
    fn take(garbage: &mut Garbage) -> (Option<u64>, Option<u64>, Vec<String>) {
        let portion = garbage.take();
        assert!(portion.events.len() <= PORTION && portion.events.is_sorted());
        let topics = portion.topics.iter().map(|(topic, _)| topic.as_str().to_owned()).collect();
        (portion.events.first().copied(), portion.events.last().copied(), topics)
    }

    #[test]
    fn what_was_removed_first_goes_first() {
        // Goal: a topic's row is removed after the last row of its events or together with it, whether these fill one
        // portion, less or more.
        for (events, topics_first) in [(PORTION_LENGTH - 10, 1), (PORTION_LENGTH, 0), (PORTION_LENGTH + 10, 0)] {
            let mut garbage = Garbage::default();
            note_events(&mut garbage, "t", 1..=events);
            note_topic(&mut garbage, "t");
            note_events(&mut garbage, "u", 20_001..=20_020);
            note_topic(&mut garbage, "u");
            let (from, _, topics) = take(&mut garbage);
            assert_eq!((from, topics.len()), (Some(1), topics_first), "{events}");
            let (_, to, more) = take(&mut garbage);
            assert_eq!((to, [topics, more].concat()), (Some(20_020), vec!["t".to_owned(), "u".to_owned()]), "{events}");
            assert!(garbage.is_empty(), "{events}");
        }
    }

    #[test]
    fn topics_go_while_there_is_always_more_to_remove() {
        // Goal: while a backlog of events stays, the row of a topic waits only for the events that were there before
        // it.
        let mut garbage = Garbage::default();
        note_events(&mut garbage, "backlog", 0..3 * PORTION_LENGTH + 10);
        let mut gone = Vec::new();
        for turn in 1..=20_u64 {
            let begin = turn * 100_000;
            note_events(&mut garbage, &format!("{turn}"), begin..begin + PORTION_LENGTH);
            note_topic(&mut garbage, &format!("{turn}"));
            assert!(garbage.has_full_portion());
            gone.extend(take(&mut garbage).2);
        }
        assert_eq!(gone, (1..=16).map(|turn: u64| turn.to_string()).collect::<Vec<_>>());
    }

    #[test]
    fn a_topic_that_was_forgotten_twice_waits_for_the_events_of_both_lives() {
        // Goal: a topic that was forgotten, used and forgotten again keeps its row until all its events are removed.
        let mut garbage = Garbage::default();
        note_events(&mut garbage, "t", 1..=10);
        note_topic(&mut garbage, "t");
        note_events(&mut garbage, "t", 11..=PORTION_LENGTH + 10);
        note_topic(&mut garbage, "t");
        assert_eq!(take(&mut garbage), (Some(1), Some(PORTION_LENGTH), Vec::new()));
        assert_eq!(take(&mut garbage), (Some(PORTION_LENGTH + 1), Some(PORTION_LENGTH + 10), vec!["t".to_owned()]));
        assert!(garbage.is_empty());
    }

    #[test]
    fn what_could_not_be_removed_goes_first_again() {
        // Goal: a portion that is put back, as when the disk is full, comes first again.
        let mut garbage = Garbage::default();
        note_events(&mut garbage, "t", 1..=PORTION_LENGTH - 10);
        note_topic(&mut garbage, "t");
        note_events(&mut garbage, "u", 9001..=9011);
        note_topic(&mut garbage, "u");
        for topics in [1, 0] {
            let portion = garbage.take();
            assert_eq!((portion.events.first(), portion.topics.len()), (Some(&1), topics));
            garbage.put_back(portion);
        }
        assert_eq!(take(&mut garbage), (Some(1), Some(9010), Vec::new()));
        assert_eq!(take(&mut garbage), (Some(9011), Some(9011), vec!["t".to_owned(), "u".to_owned()]));
    }

    #[test]
    fn topics_alone_are_worth_a_removal() {
        // Goal: topics without events, as when a client deletes many topics that were never used, do not pile up.
        let mut garbage = Garbage::default();
        for n in 0..PORTION + 10 {
            note_topic(&mut garbage, &n.to_string());
        }
        assert!(garbage.has_full_portion());
        assert_eq!((take(&mut garbage).2.len(), garbage.has_full_portion()), (PORTION, false));
        assert_eq!((take(&mut garbage).2.len(), garbage.is_empty()), (10, true));
    }
}
