//! The positions of all events, over all topics, oldest first.
//!
//! An event that is removed before older events of other topics leaves a *stale* position behind. Stale positions are
//! removed at the front, or when they are more than half of their chunk. To remove each one at once from the middle
//! would take time in proportion to the length of the log. To clean all chunks at once would delay appends.

use std::collections::VecDeque;

use crate::event::TopicName;

/// Positions and topics of the events, in order of position.
#[derive(Debug, Default)]
pub(super) struct Order {
    chunks: VecDeque<Chunk>,
}

/// A part of the order. Its stale entries are removed together.
#[derive(Debug)]
struct Chunk {
    entries: VecDeque<(u64, TopicName)>,
    /// How many entries are stale, at most: [`Order::pop_front`] does not know whether the entry it removes was stale.
    stale: usize,
}

/// How many entries a chunk may have.
const CHUNK_MAX: usize = 1024;

impl Order {
    pub(super) fn push_back(&mut self, seq: u64, topic: TopicName) {
        match self.chunks.back_mut() {
            Some(chunk) if chunk.entries.len() < CHUNK_MAX => chunk.entries.push_back((seq, topic)),
            _ => self.chunks.push_back(Chunk { entries: [(seq, topic)].into(), stale: 0 }),
        }
    }

    pub(super) fn front(&self) -> Option<&(u64, TopicName)> {
        self.chunks.front().and_then(|chunk| chunk.entries.front())
    }

    /// Removes the first entry.
    pub(super) fn pop_front(&mut self) {
        let Some(chunk) = self.chunks.front_mut() else { return };
        chunk.entries.pop_front();
        chunk.stale = chunk.stale.min(chunk.entries.len());
        if chunk.entries.is_empty() {
            self.chunks.pop_front();
        }
    }

    /// The entries after `seq`.
    pub(super) fn after(&self, seq: u64) -> impl Iterator<Item = &(u64, TopicName)> {
        let is_before = |chunk: &Chunk| chunk.entries.back().is_none_or(|(last, _)| *last <= seq);
        let first = self.chunks.partition_point(is_before);
        self.chunks.range(first..).flat_map(|chunk| &chunk.entries).skip_while(move |entry| entry.0 <= seq)
    }

    /// Notes that the event at `seq` was removed. Older events may still be held. When too many entries of its chunk
    /// are stale, the chunk keeps only those that `is_held` accepts.
    pub(super) fn mark_stale(&mut self, seq: u64, is_held: impl Fn(u64, &TopicName) -> bool) {
        let index = self.chunks.partition_point(|chunk| chunk.entries.back().is_none_or(|(last, _)| *last < seq));
        let Some(chunk) = self.chunks.get_mut(index) else { return };
        if chunk.entries.front().is_some_and(|(first, _)| *first > seq) {
            // Its entry has been removed at the front already.
            return;
        }
        chunk.stale += 1;
        if 2 * chunk.stale > chunk.entries.len() {
            chunk.entries.retain(|(seq, topic)| is_held(*seq, topic));
            chunk.entries.shrink_to_fit();
            chunk.stale = 0;
            if chunk.entries.is_empty() {
                self.chunks.remove(index);
            }
        }
    }

    pub(super) fn assert_invariants(&self) {
        assert!(self.after(0).is_sorted_by(|(a, _), (b, _)| a < b), "entries are in order of position");
        for chunk in &self.chunks {
            assert!((1..=CHUNK_MAX).contains(&chunk.entries.len()), "a chunk is neither empty nor too long");
            assert!(chunk.stale <= chunk.entries.len(), "a chunk counts only entries of its own");
        }
    }

    pub(super) fn len(&self) -> usize {
        self.chunks.iter().map(|chunk| chunk.entries.len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_is_cleaned_when_most_of_it_is_stale() {
        // Goal: a chunk is not cleaned for each stale entry, which would cost more than it frees, and not only when
        // nearly all are stale.
        let topic = TopicName::parse("topic", 255).expect("a name");
        let mut order = Order::default();
        (1..=10).for_each(|seq| order.push_back(seq, topic.clone()));
        for seq in (6..=10).rev() {
            order.mark_stale(seq, |live, _| live < seq);
            assert_eq!(order.len(), 10, "half of it has not gone");
        }
        order.mark_stale(5, |live, _| live < 5);
        assert_eq!(order.len(), 4);
    }

    #[test]
    fn a_new_chunk_begins_when_the_last_one_is_full() {
        // Goal: chunks have many entries, but at most `CHUNK_MAX`, so a cleanup is worth its cost and never long.
        let topic = TopicName::parse("topic", 255).expect("a name");
        let mut order = Order::default();
        (1..).zip(0..=CHUNK_MAX).for_each(|(seq, _)| order.push_back(seq, topic.clone()));
        let sizes: Vec<usize> = order.chunks.iter().map(|chunk| chunk.entries.len()).collect();
        assert_eq!(sizes, [CHUNK_MAX, 1]);
    }
}
