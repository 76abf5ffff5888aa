//! The log: the committed events and deletions of all topics in one order, and which of the events are still held.
//!
//! An engine implements [`Log`]. It may keep its events in this process or in another one, so every call that may have
//! to wait returns a [`Later`]. The conformance suite tests the guarantees below for every engine.
//!
//! # Words
//! The documentation of all engines uses these words.
//! - A *hot* event is in memory. A *cold* event is only in the engine's file or service, so to read it takes time.
//! - An event is *removed* by retention or by the deletion of its topic. The reason of a gap, which clients get, and
//!   the columns of the SQLite file say *evicted* instead. These names cannot be changed any more.
//! - An event is *unreadable* when the log should hold it, but could not read it.
//! - A topic without events may be *forgotten*: the log then knows nothing more of it.
//!
//! # Exact guarantees
//! They hold at every moment.
//! - *One sequence.* [`Log::append`] gives positions that grow over all topics, in the order of the calls. A call
//!   that waits for space gets its position together with the space. No position is given twice in an epoch (one
//!   history of the log).
//! - *Commit first.* The future of an append completes, and the feeds ([`Log::feed`]) carry the event, only after the
//!   event is as durable as [`Log::durability`] promises.
//! - *Feeds and pages are ordered and complete.* A feed has every commit once, in order of position, except for those
//!   that [`Batch::dropped_to`] reports. A page has every event of its topics that is held up to [`Page::to`], once and
//!   in order.
//! - *The feed comes first.* A commit is in every feed before a receipt, a start point or a page shows it.
//! - *No silent gap.* A read that skips events that are no longer held reports this in [`Page::missing_to`], and a
//!   start in [`StartPoint`]. An event that cannot be read is reported as a gap, too, and the read goes on after it.
//! - *One event per key.* When several drafts have the same topic and idempotency key, from any number of threads, one
//!   event is published. The other drafts get its receipt, or [`AppendError::KeyReused`] if they are another event.
//!   This holds within the window and the limits of the keys, until the topic is deleted.
//! - *Deletions have a position.* A deletion removes the events of its topic at lower positions, and only those.
//! - *An epoch is one history.* When an epoch ends, each feed reports this before anything of the next epoch is visible
//!   ([`Batch::epoch`]). Everything that has a position also has its epoch.
//!
//! # Conservative guarantees
//! The engine may be inexact, but only in the direction that is stated here.
//! - *A gap* may be reported although no event is missing, once something has been removed.
//! - *Retention* may keep more events than its limits allow, or keep events longer. It removes nothing that the limits
//!   allow.
//! - *[`Log::held`]* may return a state that is slightly out of date.
//! - *A start by time* may give events that are older than the requested time.
//! - *A deletion* ([`Log::deletion`]) is remembered for at least `stream.gone`, unless 65,536 other topics
//!   have become empty since.
//! - *A failure* ([`Log::check`], [`Log::failed`]) may be reported late.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt as _};

use crate::{
    event::{Epoch, Event, EventId, EventName, TopicName},
    frame::GapReason,
    later::Later,
    peers::Peers,
};

#[cfg(test)]
mod conformance;

// Each file uses only files below it.
pub mod import;
pub mod memory;
pub mod disk;
pub mod cluster;
mod queue;
mod index;
mod keys;
mod key_limits;
mod feed;
mod stats;
mod clock;
mod mutex;

pub use clock::{Wall, wall_ms};
pub use feed::{Batch, Commit, Feed};
pub use key_limits::KeyLimits;
pub use stats::{LogStats, LogTimes};

/// What every engine implements. Its methods never block on I/O, because they run on the workers' threads.
pub trait Log: Send + Sync {
    /// The newest epoch. A feed that was opened earlier may not have reported it yet.
    fn epoch(&self) -> Epoch;

    /// What the engine promises when an [`append`](Self::append) completes.
    fn durability(&self) -> Durability;

    /// Position of the last committed event or deletion; 0 before the first.
    fn watermark(&self) -> u64;

    /// Gives `draft` its place in the order of events at once, unless the engine's queue is full. The future completes
    /// when the event is committed. A draft that has its place is published even if the future is dropped.
    ///
    /// When the queue is full, the future first waits for space. If the future is dropped during this wait, the draft
    /// is not published. The caller must poll or drop the future: a future that is only kept may get space that it
    /// never uses, and block all later appends.
    ///
    /// A draft whose key was used before in its topic is not published. It gets the receipt of the first draft, or
    /// [`AppendError::KeyReused`] if it is another event.
    fn append(&self, draft: Draft) -> Append;

    /// Deletes the events of `topic` and their idempotency keys. The deletion has a position of its own, which the
    /// future returns. Subscribers whose cursor is below that position learn that the topic was deleted. Earlier
    /// appends to the topic complete before the deletion does.
    fn delete(&self, topic: &TopicName) -> Later<Result<EventId, AppendError>>;

    /// Where a subscription to `topics` that asks for `start` begins. The caller itself reports the deletion of the
    /// topics in `deleted` to the subscriber, so the events that these deletions removed do not count as a gap.
    fn resolve_start(&self, topics: &[TopicName], start: &Start, deleted: &[TopicName]) -> Resolved;

    /// Reads the events of `topics` after `from`, in order: at most `bytes_max` bytes of frames, but at least one
    /// event. The page is returned at once when its first event is in memory. Otherwise the future reads it outside the
    /// workers' threads. The read begins when the future is first polled, so a caller can limit how many reads run at
    /// once.
    fn read(&self, topics: &[TopicName], from: ReadFrom, bytes_max: usize) -> Reading;

    /// Position of the last deletion of `topic`, and how long ago it was; `None` when there was none, or when the log
    /// no longer knows of it. The topic's actor calls this when it starts and cannot wait, so an engine answers from
    /// memory. If [other servers](Self::peers) may delete topics, it calls this for every subscriber.
    fn deletion(&self, topic: &TopicName) -> Option<(EventId, Duration)>;

    /// The other servers that write to this log, if the engine is one for several servers.
    fn peers(&self) -> Option<&dyn Peers> {
        None
    }

    /// Whether the engine accepts events now, as far as it knows.
    fn check(&self) -> Result<(), AppendError> {
        Ok(())
    }

    /// Completes with the reason when the engine has failed for good. The process must then be restarted.
    fn failed(&self) -> BoxFuture<'static, String> {
        std::future::pending().boxed()
    }

    /// Stops accepting events, writes those that are queued, and closes the log.
    fn close(&self) -> BoxFuture<'static, ()> {
        std::future::ready(()).boxed()
    }

    /// What the log holds of `topic`; `None` when the topic never had an event, or when the log no longer knows of it.
    fn held(&self, topic: &TopicName) -> Later<Result<Option<Held>, ReadError>>;

    /// Opens a feed. It gets everything that is committed from now on, in order.
    fn feed(&self) -> Arc<Feed>;

    /// What the log holds, for metrics. It may be slightly out of date.
    fn stats(&self) -> LogStats;

    /// How long commits take, unless each is made at once.
    fn times(&self) -> Option<&LogTimes> {
        None
    }

    /// How many idempotency keys are remembered.
    fn keys(&self) -> usize;

    /// Removes expired keys. Also removes old events, unless a thread of the engine does that. The server calls this
    /// regularly.
    fn enforce_retention(&self);
}

/// The result of [`Log::append`], at once or later.
pub type Append = Later<Appended>;

/// The result of [`Log::resolve_start`], at once or later.
pub type Resolved = Later<Result<StartPoint, ReadError>>;

/// The result of [`Log::read`], at once or later.
pub type Reading = Later<Result<Page, ReadError>>;

/// A receipt, or the reason why there is none.
pub type Appended = Result<Receipt, AppendError>;

/// An event to publish, which has no position yet.
#[derive(Clone, Debug)]
pub struct Draft {
    /// The topic to publish to.
    pub topic: TopicName,
    /// The name of the event, if the publisher gave one.
    pub name: Option<EventName>,
    /// The content, UTF-8.
    pub content: Bytes,
    /// How many subscribers the topic has now, for the receipt.
    pub subscribers: usize,
    /// The idempotency key, if any.
    pub key: Option<Arc<str>>,
}

/// A committed append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// The event's id.
    pub id: EventId,
    /// How many subscribers the topic had when the event was published.
    pub subscribers: usize,
    /// The idempotency key was used before: this is the receipt of the first publish with that key.
    pub replayed: bool,
}

/// Why an append or a deletion failed. After each error except [`Unknown`](Self::Unknown), it is certain that nothing
/// was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// The engine has failed or is closed.
    #[error("the log accepts no events now")]
    Unavailable,
    /// The queue (`log.queue_bytes_max`) had no space within `log.queue_wait`.
    #[error("the queue of events that wait to be written is full")]
    QueueFull,
    /// The disk has no space, or the service that keeps the events has none.
    #[error("the disk is full")]
    DiskFull,
    /// The event is larger than the service accepts that keeps the events.
    #[error("the event is larger than {bytes_max} bytes, which the log accepts")]
    TooLarge {
        /// The largest content.
        bytes_max: usize,
    },
    /// The idempotency key was used before, for another event.
    #[error("the idempotency key was used for another event")]
    KeyReused,
    /// The log failed during the write. Whether the event or the deletion was written is not known.
    #[error("the log failed during the write")]
    Unknown,
}

/// The log could not be read at all. A single damaged event is not this error: it is a gap in the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the log cannot be read")]
pub struct ReadError;

/// Which failures a committed event survives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// None: the event is lost when the process ends.
    Memory,
    /// A crash of the process, but not of the machine.
    Os,
    /// A power failure.
    Disk,
    /// What the cluster of NATS servers survives: the loss of some of them, if there are replicas.
    Cluster,
}

impl Durability {
    /// Its name on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Os => "os",
            Self::Disk => "disk",
            Self::Cluster => "cluster",
        }
    }
}

/// Where a subscription asks to begin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Start {
    /// After the last committed event or deletion.
    Live,
    /// After the last event that the subscriber saw.
    After(EventId),
    /// The subscriber sent a cursor that is not a valid event id.
    Unreadable,
    /// With the oldest event that is held.
    All,
    /// With the first event at or after this time, in milliseconds since the Unix epoch. The wall clock may have been
    /// set back, for example from 12:00 to 11:00. Then all events from before that moment count as published at 11:00
    /// or earlier.
    Since(u64),
    /// With the last `n` events of its topics.
    Last(usize),
}

/// Where a reader continues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadFrom {
    /// The reader has everything up to this position.
    pub after: u64,
    /// How many removals there had been when the reader last read; the log counts them since it was opened. A page
    /// reports only removals after that count. With `u64::MAX`, it reports none. This is a count and not a position,
    /// because events are not always removed in the order of their positions: topic `a` may lose event 9 before topic
    /// `b` loses event 3.
    pub removals_seen: u64,
}

/// Where a subscription begins, and which gaps the server reports to the subscriber.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StartPoint {
    /// The epoch of the positions in `from` and `watermark`.
    pub epoch: Epoch,
    /// Where the subscription starts to read.
    pub from: ReadFrom,
    /// Why requested events before `from` are missing, when some are.
    pub gap: Option<GapReason>,
    /// Why requested events after `from` are missing, when some are. A page reports this gap when the subscription
    /// reaches it.
    pub gap_ahead: Option<GapReason>,
    /// The log's last position. Deletions up to here were before the subscription.
    pub watermark: u64,
}

impl StartPoint {
    /// The id of the position after which the subscription reads.
    #[must_use]
    pub fn id(&self) -> EventId {
        EventId { epoch: self.epoch, seq: self.from.after }
    }
}

/// What one [`Log::read`] returns.
#[derive(Debug)]
pub struct Page {
    /// The epoch of the events. A reader in another epoch must drop the page.
    pub epoch: Epoch,
    /// The events, in order of position.
    pub events: Vec<Arc<Event>>,
    /// The page is complete up to this position: `events` has every event of the topics that is held.
    pub to: u64,
    /// Position of the last missing event that no earlier page reported to the reader; 0 when there is none.
    pub missing_to: u64,
    /// Some of these missing events could not be read.
    pub has_unreadable: bool,
    /// The topics that were deleted after the reader's position and up to `to`, each with the position of its last
    /// deletion. Their events in `events` come after that deletion.
    pub deleted: Vec<(TopicName, u64)>,
    /// How many removals there have been: the next [`ReadFrom::removals_seen`] of the reader.
    pub removals_seen: u64,
}

impl Page {
    fn new(epoch: Epoch, removals_seen: u64) -> Self {
        let (events, deleted) = (Vec::new(), Vec::new());
        Self { epoch, events, to: 0, missing_to: 0, has_unreadable: false, deleted, removals_seen }
    }

    /// Notes that a topic's events up to `removed_to` were removed, if some of them are after the reader's position
    /// `after`.
    fn note_removed(&mut self, removed_to: u64, after: u64) {
        if removed_to > after {
            self.missing_to = self.missing_to.max(removed_to);
        }
    }

    /// Notes that the event at `seq` is missing because it cannot be read.
    fn note_unreadable(&mut self, seq: u64) {
        self.missing_to = self.missing_to.max(seq);
        self.has_unreadable = true;
    }

    /// Why events are missing, if some are.
    #[must_use]
    pub fn reason(&self) -> GapReason {
        if self.has_unreadable { GapReason::Unreadable } else { GapReason::Evicted }
    }

    /// Ends the page at `to`. Deletions after `to` belong to the next page.
    fn end(&mut self, to: u64) {
        self.to = to;
        self.deleted.retain(|(_, seq)| *seq <= to);
    }

    /// The position just before the first event, or `to` without events. A reader that skips to it misses no held
    /// event.
    #[must_use]
    pub fn resumes_after(&self) -> u64 {
        self.events.first().map_or(self.to, |event| event.seq - 1)
    }
}

/// What the log holds of one topic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// The id of the oldest event; `None` when there is none.
    pub first: Option<EventId>,
    /// The id of the newest event; `None` when there is none.
    pub last: Option<EventId>,
    /// How many events.
    pub events: usize,
    /// Their size in bytes, with the overhead of the index.
    pub bytes: u64,
}
