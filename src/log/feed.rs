//! Feeds: they carry committed events and deletions from the engine to the hubs.

use std::sync::{Arc, Mutex};

use tokio::sync::Notify;

use super::mutex::lock;
use crate::event::{Epoch, Event, TopicName};

/// What is committed at one position.
#[derive(Clone, Debug)]
pub enum Commit {
    /// An event.
    Event(Arc<Event>),
    /// The deletion of a topic, at a position of its own.
    Deleted(TopicName, u64),
    /// Something that is nothing to subscribers, at this position.
    Other(u64),
}

impl Commit {
    /// Its position in the log.
    #[must_use]
    pub fn seq(&self) -> u64 {
        match self {
            Self::Event(event) => event.seq,
            Self::Deleted(_, seq) | Self::Other(seq) => *seq,
        }
    }
}

/// The queue of commits for one hub, in order of position.
///
/// The queue is bounded. When a hub falls too far behind, the queue drops all waiting commits and notes the position of
/// the last one. The hub then reads the dropped events from the log.
#[derive(Debug, Default)]
pub struct Feed {
    waiting: Mutex<Batch>,
    arrived: Notify,
}

/// What waits in a feed. A hub takes all of it at once.
#[derive(Debug, Default)]
pub struct Batch {
    /// The commits, in order of position.
    pub commits: Vec<Commit>,
    /// Position of the last commit that was dropped, and that the hub must read from the log; 0 when there is none.
    pub dropped_to: u64,
    /// When set: this epoch has begun. Everything in the batch belongs to it. Earlier epochs cannot be read any more.
    pub epoch: Option<Epoch>,
    /// Bytes of the events in `commits`.
    bytes: usize,
    /// New commits are dropped: see [`Feed::pause`].
    is_paused: bool,
}

impl Feed {
    /// How many commits may wait. When one more comes, all these are dropped, and only the new one waits.
    pub(super) const COMMITS_MAX: usize = 65_536;
    /// How many bytes of events may wait. When a commit would exceed this, all commits before it are dropped, too.
    pub(super) const BYTES_MAX: usize = 64 << 20;

    /// Queues `commit` for the hub. Engines call this in order of position.
    pub fn push(&self, commit: Commit) {
        let mut waiting = lock(&self.waiting);
        if waiting.is_paused {
            waiting.dropped_to = commit.seq();
            return;
        }
        let bytes = match &commit {
            Commit::Event(event) => event.frame.len(),
            Commit::Deleted(..) | Commit::Other(_) => 0,
        };
        if waiting.commits.len() == Self::COMMITS_MAX || waiting.bytes + bytes > Self::BYTES_MAX {
            waiting.drop_commits();
        }
        waiting.bytes += bytes;
        waiting.commits.push(commit);
        let is_first = waiting.commits.len() == 1;
        drop(waiting);
        if is_first {
            self.arrived.notify_one();
        }
    }

    /// Tells the hub to read everything up to `to` from the log, instead of what waits in the feed.
    pub(super) fn skip(&self, to: u64) {
        let mut waiting = lock(&self.waiting);
        waiting.drop_commits();
        waiting.dropped_to = to;
        if waiting.is_paused {
            return;
        }
        drop(waiting);
        self.arrived.notify_one();
    }

    /// Tells the hub that `epoch` begins, with its last commit at `watermark`. An engine must call this before it shows
    /// any id of the new epoch. The disk and the memory engine never call it: they keep their epoch while they run.
    pub fn begin_epoch(&self, epoch: Epoch, watermark: u64) {
        let mut waiting = lock(&self.waiting);
        waiting.drop_commits();
        (waiting.epoch, waiting.dropped_to) = (Some(epoch), watermark);
        drop(waiting);
        self.arrived.notify_one();
    }

    /// Swaps all that waits with `batch`, which is emptied first. So the feed goes on with the memory of `batch`, and
    /// nothing has to be allocated again.
    pub fn take(&self, batch: &mut Batch) {
        batch.commits.clear();
        (batch.bytes, batch.dropped_to, batch.epoch, batch.is_paused) = (0, 0, None, false);
        std::mem::swap(&mut *lock(&self.waiting), batch);
    }

    /// Drops all commits until the next [`take`](Self::take). Dropped commits do not complete
    /// [`arrived`](Self::arrived). A hub without subscribers calls this.
    pub fn pause(&self) {
        let mut waiting = lock(&self.waiting);
        waiting.drop_commits();
        waiting.is_paused = true;
    }

    /// Completes when commits wait, or a new epoch.
    pub async fn arrived(&self) {
        self.arrived.notified().await;
    }
}

impl Batch {
    /// Drops the commits, and notes the position of the last one.
    fn drop_commits(&mut self) {
        self.dropped_to = self.commits.last().map_or(self.dropped_to, Commit::seq);
        self.commits = Vec::new();
        self.bytes = 0;
    }
}

/// The feeds of all hubs. A feed is removed when its hub has dropped it.
#[derive(Debug, Default)]
pub(super) struct Feeds(Vec<Arc<Feed>>);

impl Feeds {
    pub(super) fn open(&mut self) -> Arc<Feed> {
        let feed = Arc::new(Feed::default());
        self.0.push(Arc::clone(&feed));
        feed
    }

    /// Calls [`Feed::skip`] of each feed.
    pub(super) fn skip(&self, to: u64) {
        self.0.iter().for_each(|feed| feed.skip(to));
    }

    /// Calls [`Feed::begin_epoch`] of each feed.
    pub(super) fn begin_epoch(&self, epoch: Epoch, watermark: u64) {
        self.0.iter().for_each(|feed| feed.begin_epoch(epoch, watermark));
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

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[test]
    fn a_paused_feed_keeps_nothing_and_reports_what_it_dropped() {
        // Goal: a hub without subscribers costs no memory, and its next subscribers miss nothing.
        let (feed, mut batch) = (Feed::default(), Batch::default());
        let deleted = |seq| Commit::Deleted(TopicName::parse("topic", 255).expect("a name"), seq);
        let mut take = || {
            feed.take(&mut batch);
            (batch.commits.iter().map(Commit::seq).collect::<Vec<_>>(), batch.dropped_to)
        };
        feed.push(deleted(1));
        feed.pause();
        assert_eq!(take(), (vec![], 1), "what waited is left out");
        feed.push(deleted(2));
        feed.pause();
        (3..6).for_each(|seq| feed.push(deleted(seq)));
        assert_eq!(take(), (vec![], 5), "and what came then");
        feed.push(deleted(6));
        assert_eq!(take(), (vec![6], 0), "until it was taken");
    }

    #[test]
    fn a_feed_that_skips_sends_its_hub_to_the_log() {
        // Goal: the hub wakes up, and reads everything up to the position from the log. Later commits come as always.
        let (feed, mut batch) = (Feed::default(), Batch::default());
        let deleted = |seq| Commit::Deleted(TopicName::parse("topic", 255).expect("a name"), seq);
        feed.push(deleted(1));
        assert!(feed.arrived().now_or_never().is_some() && feed.arrived().now_or_never().is_none());
        feed.skip(5);
        assert!(feed.arrived().now_or_never().is_some());
        feed.push(deleted(6));
        feed.take(&mut batch);
        assert_eq!((batch.dropped_to, batch.commits.iter().map(Commit::seq).collect()), (5, vec![6]));
    }

    #[test]
    fn the_feed_of_a_dropped_hub_is_removed() {
        // Goal: when a worker restarts, no feed is left that fills for ever.
        let mut feeds = Feeds::default();
        let (gone, held) = (feeds.open(), feeds.open());
        drop(gone);
        feeds.push(Commit::Deleted(TopicName::parse("topic", 255).expect("a name"), 1));
        assert!(feeds.0.len() == 1 && Arc::ptr_eq(&feeds.0[0], &held));
    }
}
