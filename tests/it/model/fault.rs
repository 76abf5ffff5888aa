//! How the driver is broken, so that the checks can be seen to fail.

use std::collections::{HashSet, VecDeque};

use tidings::{
    event::TopicName,
    log::{Batch, Commit, Page},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    None,
    /// Topics are fanned out by two shards: the odd ones' commits come a turn later than the even ones'.
    Sharded,
    /// Every seventh commit is dropped from the feed and nobody is told.
    Swallowed,
    /// Deletions are dropped from the feed.
    Undeleted,
    /// What is published to a topic after its deletion is dropped from the feed.
    Orphaned,
    /// A page that was read from the disk lacks its last event.
    Torn,
}

/// A fault at work.
pub struct Breaker {
    fault: Fault,
    late: VecDeque<Commit>,
    deleted: HashSet<TopicName>,
    commits: usize,
}

impl Breaker {
    pub fn new(fault: Fault) -> Self {
        Self { fault, late: VecDeque::new(), deleted: HashSet::new(), commits: 0 }
    }

    /// Whether it holds commits back.
    pub fn is_holding(&self) -> bool {
        !self.late.is_empty()
    }

    /// What it holds back is of a history that has ended.
    pub fn end_epoch(&mut self) {
        self.late.clear();
        self.deleted.clear();
    }

    pub fn break_feed(&mut self, batch: &mut Batch) {
        match self.fault {
            Fault::None | Fault::Torn => {}
            Fault::Sharded => {
                let odd = |commit: &Commit| {
                    let topic = match commit {
                        Commit::Event(event) => &event.topic,
                        Commit::Deleted(topic, _) => topic,
                        Commit::Other(_) => return false,
                    };
                    topic.as_str().ends_with(['1', '3', '5'])
                };
                let late = std::mem::take(&mut self.late);
                let (odd, even): (Vec<_>, Vec<_>) = batch.commits.drain(..).partition(odd);
                batch.commits.extend(even.into_iter().chain(late));
                self.late = odd.into();
            }
            Fault::Undeleted => batch.commits.retain(|commit| matches!(commit, Commit::Event(_))),
            Fault::Orphaned => batch.commits.retain(|commit| match commit {
                Commit::Event(event) => !self.deleted.contains(&event.topic),
                Commit::Deleted(topic, _) => {
                    self.deleted.insert(topic.clone());
                    true
                }
                Commit::Other(_) => true,
            }),
            Fault::Swallowed => batch.commits.retain(|_| {
                self.commits += 1;
                !self.commits.is_multiple_of(7)
            }),
        }
    }

    pub fn break_page(&self, page: &mut Page) {
        if self.fault == Fault::Torn && page.events.len() > 1 {
            page.events.pop();
        }
    }
}
