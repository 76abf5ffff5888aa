//! What is in the file although it is no longer held. It is removed in bulk: row by row every publish would write the page
//! of some old event; and in portions: all at once it would hold up every publish meanwhile.

use std::collections::{HashMap, VecDeque};

use super::{
    batch::{Batch, PORTION},
    error::StoreError,
};
use crate::{event::TopicName, log::index::Removed};

/// What waits for its removal. The first that comes is the first that goes: a topic's row must not go before the rows of
/// its events, because its number may be another topic's from then on.
#[derive(Default)]
pub(super) struct Garbage {
    /// Rows of events.
    seqs: VecDeque<u64>,
    /// How many of them have gone before these.
    rows_taken: u64,
    /// Up to where topics have lost events, and up to when. It is written before any of the rows is removed, or with it: a
    /// crash in between must not leave a hole without a mark.
    evicted: HashMap<TopicName, (u64, u64)>,
    /// Topics of which nothing is left to remember, each with how many rows of events must have gone before its own.
    forgotten: VecDeque<(u64, TopicName)>,
    /// For each topic in `forgotten`: the count of its last entry there, and up to where and when it had lost events.
    last_removals: HashMap<TopicName, (u64, (u64, u64))>,
}

/// What is removed in one transaction.
#[derive(Default)]
pub(super) struct Portion {
    /// In order.
    pub(super) seqs: Vec<u64>,
    evicted: Vec<(TopicName, (u64, u64))>,
    pub(super) forgotten: Vec<(TopicName, (u64, u64))>,
}

impl Garbage {
    pub(super) fn note(&mut self, removed: Removed<'_>) {
        match removed {
            Removed::Event(topic, seq, time_ms) => {
                self.note_row(seq);
                self.note_evicted(topic.clone(), (seq, time_ms));
            }
            Removed::Topic(topic, seq, time_ms) => {
                let after = self.rows_taken + count(self.seqs.len());
                self.forgotten.push_back((after, topic.clone()));
                self.last_removals.insert(topic.clone(), (after, (seq, time_ms)));
            }
        }
    }

    /// An event's row that is no topic's.
    pub(super) fn note_row(&mut self, seq: u64) {
        self.seqs.push_back(seq);
    }

    /// A deletion that is rows_taken apart may be behind what retention has removed since, so the higher mark counts.
    fn note_evicted(&mut self, topic: TopicName, (seq, time_ms): (u64, u64)) {
        let (to, ms) = self.evicted.entry(topic).or_default();
        (*to, *ms) = (seq.max(*to), time_ms.max(*ms));
    }

    /// Whether it is worth a removal at once.
    pub(super) fn has_full_portion(&self) -> bool {
        self.seqs.len() >= PORTION || self.forgotten.len() >= PORTION
    }

    pub(super) fn is_empty(&self) -> bool {
        self.seqs.is_empty() && self.evicted.is_empty() && self.forgotten.is_empty()
    }

    /// Whether it is forgotten, but what there was of it has yet to be removed.
    pub(super) fn has_topic(&self, topic: &TopicName) -> bool {
        self.last_removals.contains_key(topic)
    }

    /// The next portion.
    pub(super) fn take(&mut self) -> Portion {
        let evicted: Vec<_> = self.evicted.iter().take(PORTION).map(|(topic, to)| (topic.clone(), *to)).collect();
        for (topic, _) in &evicted {
            self.evicted.remove(topic);
        }
        let mut portion = Portion { evicted, ..Portion::default() };
        if self.evicted.is_empty() {
            portion.seqs.extend(self.seqs.drain(..PORTION.min(self.seqs.len())));
            self.rows_taken += count(portion.seqs.len());
            // By position, so that each page is written once.
            portion.seqs.sort_unstable();
            portion.forgotten = self.take_forgotten();
        }
        if self.is_empty() {
            // What has grown once is not kept for ever.
            *self = Self { rows_taken: self.rows_taken, ..Self::default() };
        }
        portion
    }

    /// Topics of which no event has a row any more.
    fn take_forgotten(&mut self) -> Vec<(TopicName, (u64, u64))> {
        let mut forgotten = Vec::new();
        while forgotten.len() < PORTION
            && self.forgotten.front().is_some_and(|(after, _)| *after <= self.rows_taken)
            && let Some((after, topic)) = self.forgotten.pop_front()
        {
            // One that came back has the same row, and it is for its last life to say when that goes.
            if self.last_removals.get(&topic).is_some_and(|(last, _)| *last == after)
                && let Some((_, mark)) = self.last_removals.remove(&topic)
            {
                forgotten.push((topic, mark));
            }
        }
        forgotten
    }

    /// Takes back what could not be removed: it is the next that goes.
    pub(super) fn put_back(&mut self, portion: Portion) {
        let after = self.rows_taken;
        self.rows_taken -= count(portion.seqs.len());
        for seq in portion.seqs.into_iter().rev() {
            self.seqs.push_front(seq);
        }
        for (topic, to) in portion.evicted {
            self.note_evicted(topic, to);
        }
        for (topic, mark) in portion.forgotten.into_iter().rev() {
            self.forgotten.push_front((after, topic.clone()));
            self.last_removals.entry(topic).or_insert((after, mark));
        }
    }
}

fn count(rows: usize) -> u64 {
    u64::try_from(rows).unwrap_or(u64::MAX)
}

impl Portion {
    pub(super) fn is_empty(&self) -> bool {
        self.seqs.is_empty() && self.evicted.is_empty() && self.forgotten.is_empty()
    }

    /// Takes out what removes rows; what is left says up to where topics have lost events.
    pub(super) fn take_rows(&mut self) -> Self {
        let (seqs, forgotten) = (std::mem::take(&mut self.seqs), std::mem::take(&mut self.forgotten));
        Self { seqs, forgotten, evicted: Vec::new() }
    }

    /// Removes it within `batch`, but for the rows of topics that are `is_in_use`.
    pub(super) fn remove(&self, batch: &Batch<'_>, is_in_use: impl Fn(&TopicName) -> bool) -> Result<(), StoreError> {
        batch.remove_events(&self.seqs)?;
        for (topic, (to, ms)) in &self.evicted {
            batch.mark_evicted(topic, *to, *ms)?;
        }
        for (topic, (to, ms)) in &self.forgotten {
            if !is_in_use(topic) {
                batch.forget_topic(topic, *to, *ms)?;
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
            garbage.note(Removed::Event(&topic(name), seq, 0));
        }
    }

    fn note_topic(garbage: &mut Garbage, name: &str) {
        garbage.note(Removed::Topic(&topic(name), 1, 0));
    }

    /// The next portion's first and last row of an event, and the topics of which it removes the rows.
    fn take(garbage: &mut Garbage) -> (Option<u64>, Option<u64>, Vec<String>) {
        let portion = garbage.take();
        assert!(portion.seqs.len() <= PORTION && portion.seqs.is_sorted());
        let topics = portion.forgotten.iter().map(|(topic, _)| topic.as_str().to_owned()).collect();
        (portion.seqs.first().copied(), portion.seqs.last().copied(), topics)
    }

    #[test]
    fn what_was_removed_first_goes_first() {
        // Goal: at the size of a portion and beyond it, a topic's row goes when the last of its events' rows does: the
        // number of the row may be another topic's from then on.
        for more in [0, 10] {
            let mut garbage = Garbage::default();
            note_events(&mut garbage, "t", 1..=PORTION_LENGTH + more);
            note_topic(&mut garbage, "t");
            note_events(&mut garbage, "u", 20_001..=20_010);
            note_topic(&mut garbage, "u");
            let first = take(&mut garbage);
            let none_or_t = if more == 0 { vec!["t".to_owned()] } else { Vec::new() };
            assert_eq!(first, (Some(1), Some(PORTION_LENGTH), none_or_t.clone()), "{more}");
            let begin = if more == 0 { 20_001 } else { PORTION_LENGTH + 1 };
            let (from, to, topics) = take(&mut garbage);
            assert_eq!((from, to), (Some(begin), Some(20_010)), "{more}");
            assert_eq!([none_or_t, topics].concat(), ["t", "u"], "{more}");
            assert!(garbage.is_empty(), "{more}");
        }
    }

    #[test]
    fn topics_go_while_there_is_always_more_to_remove() {
        // Goal: under a load that never ends, of which a backlog stays, no topic's row waits for longer than it.
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
        // Goal: the row that the second life uses is there for as long as its events are.
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
        // Goal: a full disk changes nothing of the order.
        let mut garbage = Garbage::default();
        note_events(&mut garbage, "t", 1..=PORTION_LENGTH);
        note_topic(&mut garbage, "t");
        note_events(&mut garbage, "u", 9001..=9010);
        note_topic(&mut garbage, "u");
        for _ in 0..2 {
            let portion = garbage.take();
            assert_eq!((portion.seqs.first(), portion.forgotten.len()), (Some(&1), 1));
            garbage.put_back(portion);
        }
        assert_eq!(take(&mut garbage), (Some(1), Some(PORTION_LENGTH), vec!["t".to_owned()]));
        assert_eq!(take(&mut garbage), (Some(9001), Some(9010), vec!["u".to_owned()]));
    }

    #[test]
    fn topics_alone_are_worth_a_removal() {
        // Goal: topics that never had an event, as when ever new ones are deleted, do not pile up.
        let mut garbage = Garbage::default();
        for n in 0..PORTION + 10 {
            note_topic(&mut garbage, &n.to_string());
        }
        assert!(garbage.has_full_portion());
        assert_eq!((take(&mut garbage).2.len(), garbage.has_full_portion()), (PORTION, false));
        assert_eq!((take(&mut garbage).2.len(), garbage.is_empty()), (10, true));
    }
}
