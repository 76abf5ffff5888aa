//! What is committed, on its way from the engine to the hubs.

use std::sync::{Arc, Mutex};

use tokio::sync::Notify;

use super::lock;
use crate::event::{Epoch, Event, TopicName};

/// One committed fact.
#[derive(Clone, Debug)]
pub enum Commit {
    /// An event.
    Event(Arc<Event>),
    /// The deletion of a topic, at a position of its own.
    Deleted(TopicName, u64),
}

impl Commit {
    /// Its position.
    #[must_use]
    pub fn seq(&self) -> u64 {
        match self {
            Self::Event(event) => event.seq,
            Self::Deleted(_, seq) => *seq,
        }
    }
}

/// What one hub has yet to take of the committed events, in order.
///
/// It is bounded: a hub that falls too far behind loses the feed, not the events. It is told up to where, and reads
/// them from the log like any subscriber that lags.
#[derive(Debug, Default)]
pub struct Feed {
    waiting: Mutex<Batch>,
    arrived: Notify,
}

/// What a hub takes from its feed at once.
#[derive(Debug, Default)]
pub struct Batch {
    /// In order of position.
    pub commits: Vec<Commit>,
    /// When not 0: everything up to here has been left out and must be read from the log.
    pub lost_to: u64,
    /// The history has ended, and this one follows it: all else in this batch is of the new one. What of the old one
    /// had not been taken is left out, and cannot be read any more.
    pub epoch: Option<Epoch>,
    bytes: usize,
    paused: bool,
}

impl Feed {
    /// Commits that may wait for a hub, and their bytes, before the feed is dropped in favour of the log.
    pub(super) const COMMITS_MAX: usize = 65_536;
    pub(super) const BYTES_MAX: usize = 64 << 20;

    /// Hands `commit` to the hub. Engines call it in order of position.
    pub fn push(&self, commit: Commit) {
        let mut waiting = lock(&self.waiting);
        if waiting.paused {
            waiting.lost_to = commit.seq();
            return;
        }
        let bytes = match &commit {
            Commit::Event(event) => event.frame.len(),
            Commit::Deleted(..) => 0,
        };
        if waiting.commits.len() == Self::COMMITS_MAX || waiting.bytes + bytes > Self::BYTES_MAX {
            waiting.lose();
        }
        waiting.bytes += bytes;
        waiting.commits.push(commit);
        let first = waiting.commits.len() == 1;
        drop(waiting);
        if first {
            self.arrived.notify_one();
        }
    }

    /// Tells the hub that the history has ended, and that another one begins, which holds events up to `watermark`.
    /// Engines call it before anything else gives an id of the new one.
    pub fn begin_epoch(&self, epoch: Epoch, watermark: u64) {
        let mut waiting = lock(&self.waiting);
        waiting.lose();
        (waiting.epoch, waiting.lost_to) = (Some(epoch), watermark);
        drop(waiting);
        self.arrived.notify_one();
    }

    /// Takes all that waits, leaving `empty`'s memory for what comes next.
    pub fn take(&self, empty: &mut Batch) {
        empty.commits.clear();
        (empty.bytes, empty.lost_to, empty.epoch, empty.paused) = (0, 0, None, false);
        std::mem::swap(&mut *lock(&self.waiting), empty);
    }

    /// Until the next [`take`](Self::take) nobody listens: what is committed is left out, and wakes nobody.
    pub fn pause(&self) {
        let mut waiting = lock(&self.waiting);
        waiting.lose();
        waiting.paused = true;
    }

    /// Completes when something has come since the last [`take`](Self::take).
    pub async fn arrived(&self) {
        self.arrived.notified().await;
    }
}

impl Batch {
    fn lose(&mut self) {
        self.lost_to = self.commits.last().map_or(self.lost_to, Commit::seq);
        self.commits = Vec::new();
        self.bytes = 0;
    }
}

/// The feeds of all hubs. One that nobody else holds was a hub's that has gone, and is dropped.
#[derive(Debug, Default)]
pub(super) struct Feeds(Vec<Arc<Feed>>);

impl Feeds {
    pub(super) fn open(&mut self) -> Arc<Feed> {
        let feed = Arc::new(Feed::default());
        self.0.push(Arc::clone(&feed));
        feed
    }

    pub(super) fn push(&mut self, commit: Commit) {
        self.0.retain(|feed| Arc::strong_count(feed) > 1);
        if let Some((last, others)) = self.0.split_last() {
            for feed in others {
                feed.push(commit.clone());
            }
            last.push(commit);
        }
    }
}
