//! The plain model of the log: every event ever committed, and since when it is no longer held.

use tidings::{
    event::{Epoch, TopicName},
    frame::GapReason,
    log::{Log, Start},
};

use super::engine::End;
use crate::harness::at_hand;

/// One event ever committed.
#[derive(Debug)]
pub struct Fact {
    pub seq: u64,
    pub topic: usize,
    pub name: Option<String>,
    pub content: String,
    /// The stamp of the change with which it was no longer held.
    pub removed: Option<usize>,
}

/// Everything that ever happened.
#[derive(Debug)]
pub struct History {
    pub epoch: Epoch,
    pub names: Vec<TopicName>,
    pub facts: Vec<Fact>,
    /// Topic and position of each deletion.
    pub deletions: Vec<(usize, u64)>,
    pub watermark: u64,
    /// Changes so far.
    pub stamp: usize,
}

impl History {
    pub fn new(epoch: Epoch, names: Vec<TopicName>) -> Self {
        Self { epoch, names, facts: Vec::new(), deletions: Vec::new(), watermark: 0, stamp: 0 }
    }

    /// Takes note that `seq` was given: the next one.
    pub fn give(&mut self, seq: u64) -> Result<(), String> {
        self.watermark += 1;
        if seq == self.watermark {
            Ok(())
        } else {
            Err(format!("the log gave the position {seq}, the next was {}", self.watermark))
        }
    }

    /// Positions worth asking for: of everything there ever was, before it, and past the end.
    pub fn positions(&self) -> Vec<u64> {
        let given = self.facts.iter().map(|fact| fact.seq).chain(self.deletions.iter().map(|(_, seq)| *seq));
        let mut positions: Vec<u64> =
            given.chain([0, self.watermark, self.watermark + 1, self.watermark + 2]).collect();
        positions.sort_unstable();
        positions.dedup();
        positions
    }

    /// Another process has opened the log after this `end` of the last one.
    pub fn reopened(&mut self, log: &dyn Log, end: End) -> Result<(), String> {
        let watermark = log.watermark();
        if log.epoch() != self.epoch {
            return Err("it is another history".to_owned());
        }
        if watermark < self.watermark || (end == End::Ordered && watermark > self.watermark) {
            return Err(format!("after its {end:?} end it goes on at {watermark}, it was at {}", self.watermark));
        }
        self.watermark = watermark;
        // What retention has removed leaves the file a little later: it may be back, the newest of it first.
        for (topic, name) in self.names.iter().enumerate() {
            let first = at_hand(log.held(name)).and_then(|held| held.first).map_or(u64::MAX, |first| first.seq);
            let deleted_to = self.deletions.iter().filter(|(other, _)| *other == topic).map(|(_, seq)| *seq).max();
            let is_back = |fact: &&mut Fact| fact.topic == topic && fact.seq >= first && Some(fact.seq) > deleted_to;
            self.facts.iter_mut().filter(is_back).for_each(|fact| fact.removed = None);
        }
        Ok(())
    }

    /// Looks up what retention has removed. How much it may remove is the conformance suite's business; here it must
    /// be the oldest of a topic, for good, and be told.
    pub fn look(&mut self, log: &dyn Log, topic_events_max: usize) -> Result<(), String> {
        self.stamp += 1;
        for (topic, name) in self.names.iter().enumerate() {
            let held = at_hand(log.held(name)).unwrap_or_default();
            let first = held.first.map_or(u64::MAX, |first| first.seq);
            let mut count = 0;
            for fact in self.facts.iter_mut().filter(|fact| fact.topic == topic && fact.removed.is_none()) {
                if fact.seq < first {
                    fact.removed = Some(self.stamp);
                } else {
                    count += 1;
                }
            }
            if count != held.events || count > topic_events_max {
                return Err(format!("{name}: {held:?}, the model has {count}, the limit is {topic_events_max}"));
            }
        }
        Ok(())
    }

    /// The deletion of `topic` after position `after`, if there was one.
    pub fn deleted_after(&self, topic: usize, after: u64) -> Option<u64> {
        self.deletions.iter().find(|(other, seq)| *other == topic && *seq > after).map(|(_, seq)| *seq)
    }

    /// The last deletion of `topic` after position `after` and up to `to`.
    pub fn last_deletion(&self, topic: usize, after: u64, to: u64) -> Option<u64> {
        let within = |(other, seq): &&(usize, u64)| *other == topic && (after + 1..=to).contains(seq);
        self.deletions.iter().rev().find(within).map(|(_, seq)| *seq)
    }

    /// Whether an event of `topic` that was published after position `after` and up to `to` is held.
    pub fn holds(&self, topic: usize, after: u64, to: u64) -> bool {
        let is_within = |fact: &&Fact| fact.topic == topic && (after + 1..=to).contains(&fact.seq);
        self.facts.iter().filter(is_within).any(|fact| fact.removed.is_none())
    }

    /// Whether `seq` is a position of an event of `topics`.
    pub fn has(&self, topics: &[usize], seq: u64) -> bool {
        self.facts.iter().any(|fact| fact.seq == seq && topics.contains(&fact.topic))
    }

    /// Where a subscription of `topics` must begin that knows that some were `deleted`: after which position, and told of
    /// which gap.
    pub fn place(&self, topics: &[usize], start: &Start, deleted: &[usize]) -> (u64, Option<GapReason>) {
        let mine = || self.facts.iter().filter(|fact| topics.contains(&fact.topic));
        let held = || mine().filter(|fact| fact.removed.is_none());
        let before = |fact: Option<&Fact>| fact.map_or(self.watermark, |fact| fact.seq - 1);
        match *start {
            Start::All => (before(held().next()), None),
            // The clock of the log is not the model's: since the beginning, or since the end of time.
            Start::Since(0) => {
                let missing = mine().any(|fact| fact.removed.is_some());
                (before(held().next()), missing.then_some(GapReason::Evicted))
            }
            Start::Live | Start::Last(0) | Start::Since(_) => (self.watermark, None),
            Start::Last(n) => (before(held().rev().take(n).last()), None),
            Start::Unreadable => (before(held().next()), Some(GapReason::Unreadable)),
            Start::After(id) if id.epoch != self.epoch || id.seq > self.watermark => {
                (before(held().next()), Some(GapReason::Reset))
            }
            Start::After(id) => {
                let went_with_it = |fact: &Fact| {
                    deleted.contains(&fact.topic) && self.last_deletion(fact.topic, fact.seq, self.watermark).is_some()
                };
                if mine().any(|fact| fact.seq > id.seq && fact.removed.is_some() && !went_with_it(fact)) {
                    (before(held().find(|fact| fact.seq > id.seq)), Some(GapReason::Evicted))
                } else {
                    (id.seq, None)
                }
            }
        }
    }
}
