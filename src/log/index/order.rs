//! Every event held, oldest first, over all topics.
//!
//! An entry whose event has gone out of turn stays until it reaches the front or outnumbers the living of its chunk:
//! to remove it from the middle at once would make every append pay for the length of the log, and to tidy all of the log
//! at once would hold up every append meanwhile.

use std::collections::VecDeque;

use crate::event::TopicName;

/// The events' positions and topics.
#[derive(Debug, Default)]
pub(super) struct Order {
    chunks: VecDeque<Chunk>,
}

#[derive(Debug, Default)]
struct Chunk {
    entries: VecDeque<(u64, TopicName)>,
    /// How many of them have gone out of turn.
    stale: usize,
}

/// Entries that are tidied at once.
const CHUNK: usize = 1024;

impl Order {
    pub(super) fn push_back(&mut self, seq: u64, topic: TopicName) {
        if self.chunks.back().is_none_or(|chunk| chunk.entries.len() >= CHUNK) {
            self.chunks.push_back(Chunk::default());
        }
        if let Some(chunk) = self.chunks.back_mut() {
            chunk.entries.push_back((seq, topic));
        }
    }

    pub(super) fn front(&self) -> Option<&(u64, TopicName)> {
        self.chunks.front().and_then(|chunk| chunk.entries.front())
    }

    /// Removes the first one.
    pub(super) fn pop_front(&mut self) {
        let Some(chunk) = self.chunks.front_mut() else { return };
        chunk.entries.pop_front();
        if chunk.entries.is_empty() {
            self.chunks.pop_front();
        }
    }

    /// As above, one that has gone out of turn.
    pub(super) fn pop_stale(&mut self) {
        if let Some(chunk) = self.chunks.front_mut() {
            chunk.stale = chunk.stale.saturating_sub(1);
        }
        self.pop_front();
    }

    /// The entries after `seq`.
    pub(super) fn after(&self, seq: u64) -> impl Iterator<Item = &(u64, TopicName)> {
        let ends_by = |chunk: &Chunk| chunk.entries.back().is_none_or(|(last, _)| *last <= seq);
        let first = self.chunks.partition_point(ends_by);
        self.chunks.range(first..).flat_map(|chunk| chunk.entries.iter()).skip_while(move |(at, _)| *at <= seq)
    }

    /// The event at `seq` has gone before its turn. Its chunk is tidied when it is worth it.
    pub(super) fn mark_stale(&mut self, seq: u64, is_live: impl Fn(u64, &TopicName) -> bool) {
        let at = self.chunks.partition_point(|chunk| chunk.entries.back().is_none_or(|(last, _)| *last < seq));
        let Some(chunk) = self.chunks.get_mut(at).filter(|chunk| chunk.entries.front().is_some_and(|(f, _)| *f <= seq))
        else {
            // It has reached the front meanwhile.
            return;
        };
        chunk.stale += 1;
        if 2 * chunk.stale > chunk.entries.len() {
            chunk.entries.retain(|(seq, topic)| is_live(*seq, topic));
            chunk.entries.shrink_to_fit();
            chunk.stale = 0;
            if chunk.entries.is_empty() {
                self.chunks.remove(at);
            }
        }
    }

    pub(super) fn assert_invariants(&self) {
        assert!(self.after(0).is_sorted_by(|(a, _), (b, _)| a < b), "entries are in order of position");
        for chunk in &self.chunks {
            assert!((1..=CHUNK).contains(&chunk.entries.len()), "a chunk is neither empty nor too long");
            assert!(chunk.stale <= chunk.entries.len(), "a chunk counts only stale entries of its own");
        }
    }

    pub(super) fn len(&self) -> usize {
        self.chunks.iter().map(|chunk| chunk.entries.len()).sum()
    }
}
