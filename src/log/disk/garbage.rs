//! Collects the rows that the index has removed, and that the writer has to remove from the file.
//!
//! Rows are removed in portions of [`PORTION`]. One row at a time would be expensive: each publish would also write the
//! page of an old event. All at once would delay publishes for too long.

use std::collections::{HashMap, VecDeque};

use super::{
    batch::{Batch, PORTION},
    error::StoreError,
};
use crate::{event::TopicName, log::index::Removal};

/// Position and time of a topic's last removed event.
type LastEvicted = (u64, u64);

/// The rows to remove, in the order in which the index removed them. A topic's row must not be removed before the rows
/// of its events: another topic may get its id as soon as it is removed, and with it these events.
#[derive(Default)]
pub(super) struct Garbage {
    /// Positions of events.
    seqs: VecDeque<u64>,
    /// How many positions have been taken out of `seqs` so far.
    rows_taken: u64,
    /// What to write into the rows of topics. It is written before the rows of the events are removed, or together with
    /// that: otherwise a crash in between would leave a gap that no reader is told of.
    evicted: HashMap<TopicName, LastEvicted>,
    /// Topics whose own rows are to be removed, each with the value that `rows_taken` must reach first: then all rows of its events are removed.
    forgotten: VecDeque<(u64, TopicName)>,
    /// For each topic in `forgotten`: the value in its last entry there, and what was known of its removed events.
    last_removals: HashMap<TopicName, (u64, LastEvicted)>,
}

/// What is removed in one transaction.
#[derive(Default)]
pub(super) struct Portion {
    /// Positions of events, in ascending order.
    pub(super) seqs: Vec<u64>,
    /// What to write into the rows of topics.
    evicted: Vec<(TopicName, LastEvicted)>,
    /// Topics whose rows are removed.
    pub(super) forgotten: Vec<(TopicName, LastEvicted)>,
}

impl Garbage {
    /// Adds what the index has removed.
    pub(super) fn note(&mut self, removal: Removal<'_>) {
        match removal {
            Removal::Event(topic, seq, time_ms) => {
                self.note_row(seq);
                self.note_evicted(topic.clone(), (seq, time_ms));
            }
            Removal::Topic(topic, seq, time_ms) => {
                let after = self.rows_taken + count(self.seqs.len());
                self.forgotten.push_back((after, topic.clone()));
                self.last_removals.insert(topic.clone(), (after, (seq, time_ms)));
            }
        }
    }

    /// Adds the row of an event, without a change to the row of its topic.
    pub(super) fn note_row(&mut self, seq: u64) {
        self.seqs.push_back(seq);
    }

    /// Notes the last removed event of `topic`. The index drops the events of a deletion later, so an older event may
    /// come after a newer one. The newest one counts.
    fn note_evicted(&mut self, topic: TopicName, (seq, time_ms): LastEvicted) {
        let (to, ms) = self.evicted.entry(topic).or_default();
        (*to, *ms) = (seq.max(*to), time_ms.max(*ms));
    }

    /// Whether there is enough for a full portion.
    pub(super) fn has_full_portion(&self) -> bool {
        self.seqs.len() >= PORTION || self.forgotten.len() >= PORTION
    }

    /// Whether there is nothing to remove.
    pub(super) fn is_empty(&self) -> bool {
        self.seqs.is_empty() && self.evicted.is_empty() && self.forgotten.is_empty()
    }

    /// Whether the row of `topic` is still to be removed.
    pub(super) fn has_topic(&self, topic: &TopicName) -> bool {
        self.last_removals.contains_key(topic)
    }

    /// Takes the next portion.
    pub(super) fn take(&mut self) -> Portion {
        let evicted: Vec<_> = self.evicted.iter().take(PORTION).map(|(topic, to)| (topic.clone(), *to)).collect();
        for (topic, _) in &evicted {
            self.evicted.remove(topic);
        }
        let mut portion = Portion { evicted, ..Portion::default() };
        if self.evicted.is_empty() {
            portion.seqs.extend(self.seqs.drain(..PORTION.min(self.seqs.len())));
            self.rows_taken += count(portion.seqs.len());
            // In order of position, so that each page is written once.
            portion.seqs.sort_unstable();
            portion.forgotten = self.take_forgotten();
        }
        if self.is_empty() {
            // Gives back the memory of a backlog.
            *self = Self { rows_taken: self.rows_taken, ..Self::default() };
        }
        portion
    }

    /// Takes topics whose events have no rows any more.
    fn take_forgotten(&mut self) -> Vec<(TopicName, LastEvicted)> {
        let mut forgotten = Vec::new();
        while forgotten.len() < PORTION
            && self.forgotten.front().is_some_and(|(after, _)| *after <= self.rows_taken)
            && let Some((after, topic)) = self.forgotten.pop_front()
        {
            // A topic that was forgotten, used and forgotten again has the same row and two entries here. Its row is
            // removed with the last one.
            if self.last_removals.get(&topic).is_some_and(|(last, _)| *last == after)
                && let Some((_, evicted)) = self.last_removals.remove(&topic)
            {
                forgotten.push((topic, evicted));
            }
        }
        forgotten
    }

    /// Puts back a portion that could not be removed. It comes first again.
    pub(super) fn put_back(&mut self, portion: Portion) {
        let after = self.rows_taken;
        self.rows_taken -= count(portion.seqs.len());
        for seq in portion.seqs.into_iter().rev() {
            self.seqs.push_front(seq);
        }
        for (topic, evicted) in portion.evicted {
            self.note_evicted(topic, evicted);
        }
        for (topic, evicted) in portion.forgotten.into_iter().rev() {
            self.forgotten.push_front((after, topic.clone()));
            self.last_removals.entry(topic).or_insert((after, evicted));
        }
    }
}

fn count(rows: usize) -> u64 {
    u64::try_from(rows).unwrap_or(u64::MAX)
}

impl Portion {
    /// Whether there is nothing to remove.
    pub(super) fn is_empty(&self) -> bool {
        self.seqs.is_empty() && self.evicted.is_empty() && self.forgotten.is_empty()
    }

    /// Moves the rows to remove into a portion of their own. What is left are the changes to the rows of topics.
    pub(super) fn take_rows(&mut self) -> Self {
        let (seqs, forgotten) = (std::mem::take(&mut self.seqs), std::mem::take(&mut self.forgotten));
        Self { seqs, forgotten, evicted: Vec::new() }
    }

    /// Removes the rows within `batch`. The row of a topic that `is_in_use` stays.
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
            garbage.note(Removal::Event(&topic(name), seq, 0));
        }
    }

    fn note_topic(garbage: &mut Garbage, name: &str) {
        garbage.note(Removal::Topic(&topic(name), 1, 0));
    }

    /// Takes the next portion. Returns the first and the last position in it, and the topics whose rows it removes.
    fn take(garbage: &mut Garbage) -> (Option<u64>, Option<u64>, Vec<String>) {
        let portion = garbage.take();
        assert!(portion.seqs.len() <= PORTION && portion.seqs.is_sorted());
        let topics = portion.forgotten.iter().map(|(topic, _)| topic.as_str().to_owned()).collect();
        (portion.seqs.first().copied(), portion.seqs.last().copied(), topics)
    }

    #[test]
    fn what_was_removed_first_goes_first() {
        // Goal: a topic's row is removed together with the last row of its events, and not before, whether these fill
        // one portion or more.
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
