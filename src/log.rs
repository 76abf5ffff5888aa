//! The one truth: what was published, in what order, and what of it is still held.
//!
//! An engine implements [`Log`]. It may keep its events in this process or in another one: what may have to wait is
//! [`Later`]. The conformance suite checks what every engine must keep.
//!
//! # Exact guarantees
//! They hold at every moment.
//! - *One sequence.* [`Log::append`] gives positions that grow over all topics, in the order of the calls; none is
//!   given twice in an epoch.
//! - *Commit, then tell.* The future of an append completes, and the feed carries the event, only when the engine's
//!   durability is reached.
//! - *Order, nothing lost, nothing twice.* The feed is in order of position and skips nothing but what
//!   [`Batch::lost_to`] admits. A page has every event of its topics that is held up to [`Page::to`], in order, once.
//! - *The feed is told first.* What a receipt, a start or a page tells of has been handed to every feed before.
//! - *No silent gap.* A read that passes over an event that is no longer held says so in [`Page::evicted_to`], and a
//!   start that does in [`StartPoint`]. What cannot be read is lost history, too, not the end: the read goes on after
//!   it.
//! - *One event a key.* However often and from however many threads a draft comes with the same idempotency key, one
//!   event is published, and the others get its receipt: within the window and the limits, until the topic is deleted.
//! - *Deletions have their place.* What was published before one has gone with it, what comes later is the next life.
//! - *An epoch is one history.* When it ends, every feed says so before anything of the next one is told
//!   ([`Batch::epoch`]). Whatever has a position names its epoch.
//!
//! # Conservative guarantees
//! The engine may err, but only to this side.
//! - *A gap* may be told where nothing is missing, once something has been removed.
//! - *Retention* may keep more than its limits allow, or for longer. It removes nothing that they allow.
//! - *What is held* ([`Log::held`]) may be counted late: as it was a moment ago.
//! - *A start by time* may give events that are older than what was asked for.
//! - *A deletion* ([`Log::deletion`]) is remembered for `stream.gone` at least.
//! - *A failure* ([`Log::check`], [`Log::failed`]) may be noticed late.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt as _};

use crate::{
    config::Config,
    event::{Epoch, Event, EventId, EventName, TopicName},
    frame::GapReason,
    later::Later,
};

pub mod disk;
pub mod memory;

mod clock;
mod feed;
mod index;
mod keys;
mod mutex;

#[cfg(test)]
mod conformance;

pub use clock::Wall;
pub use feed::{Batch, Commit, Feed};

/// The contract of an engine. Calls never block on I/O: they run on the workers' threads.
pub trait Log: Send + Sync {
    /// The name of the newest history. A feed that was opened before may not have told of it yet.
    fn epoch(&self) -> Epoch;

    /// What a completed [`append`](Self::append) promises.
    fn durability(&self) -> Durability;

    /// Position of the last committed event; 0 before the first.
    fn watermark(&self) -> u64;

    /// Takes a position for `draft` at once, and completes when it is committed. Dropping the future does not
    /// take the event back.
    ///
    /// An engine whose queue is full waits for room first. It is the future that waits: dropping it withdraws the draft,
    /// and one that is neither polled nor dropped would keep the room it is given from everyone else.
    ///
    /// A draft whose key was used before in its topic is not published again: the answer is the first one.
    fn append(&self, draft: Draft) -> Append;

    /// Forgets what `topic` holds. The deletion takes a position of its own, which the future gives: streams that are
    /// below it end, a cursor at or above it belongs to the topic's next life. The keys of what was published before are
    /// forgotten, too; the appends before it complete first.
    fn forget(&self, topic: &TopicName) -> Later<Result<EventId, AppendError>>;

    /// Where a subscription of `topics` that asks for `start` begins. It is told that those in `deleted` were deleted
    /// since: what went with that is no gap.
    fn resolve_start(&self, topics: &[TopicName], start: &Start, deleted: &[TopicName]) -> Resolved;

    /// Events of `topics` from there on, in order: up to `bytes_max` of frames, but at least one event. The page is at
    /// hand where its first event is in memory. Else the future reads it, off the workers' threads, and begins only
    /// when it is polled: whoever asks for many pages bounds how many are read at once.
    fn read(&self, topics: &[TopicName], from: ReadFrom, bytes_max: usize) -> Reading;

    /// Events that could not be read since the start, and are lost history.
    fn unreadable(&self) -> u64 {
        0
    }

    /// Where `topic` was deleted last, and how long ago; `None` when it never was, or no trace of that is left. A
    /// topic's actor asks when it starts, and cannot wait: an engine keeps the deletions of the last `stream.gone` in memory.
    fn deletion(&self, topic: &TopicName) -> Option<(EventId, Duration)>;

    /// Whether it takes events, as far as is known.
    fn check(&self) -> Result<(), AppendError> {
        Ok(())
    }

    /// Completes when the engine has failed for good, with the reason: the process must end, and start anew.
    fn failed(&self) -> BoxFuture<'static, String> {
        std::future::pending().boxed()
    }

    /// Writes what is waiting and closes; nothing is taken any more.
    fn close(&self) -> BoxFuture<'static, ()> {
        std::future::ready(()).boxed()
    }

    /// What is held of `topic`; `None` when nothing ever was, or no trace of it is left.
    fn held(&self, topic: &TopicName) -> Later<Result<Option<Held>, ReadError>>;

    /// A new feed: everything that is committed from now on, in order.
    fn feed(&self) -> Arc<Feed>;

    /// Idempotency keys that are remembered.
    fn keys(&self) -> usize;

    /// Removes what no append would drive out: events that have grown too old, and keys whose window is over.
    fn enforce_retention(&self);
}

/// An append under way: an engine that commits at once gives the outcome as it is.
pub type Append = Later<Appended>;

/// Where a subscription begins, now or later.
pub type Resolved = Later<Result<StartPoint, ReadError>>;

/// A page, now or later.
pub type Reading = Later<Result<Page, ReadError>>;

/// How an append ended.
pub type Appended = Result<Receipt, AppendError>;

/// How long an idempotency key is remembered, and how many are.
#[derive(Clone, Copy, Debug)]
pub struct KeyLimits {
    /// `publish.idempotency_window`.
    pub window: Duration,
    /// `publish.idempotency_keys_max`: of one topic.
    pub of_topic_max: usize,
    /// `limits.idempotency_keys_max`: of all topics together.
    pub max: usize,
}

impl From<&Config> for KeyLimits {
    fn from(config: &Config) -> Self {
        Self {
            window: config.publish.idempotency_window,
            of_topic_max: config.publish.idempotency_keys_max,
            max: config.limits.idempotency_keys_max,
        }
    }
}

/// An event that has no position yet.
#[derive(Clone, Debug)]
pub struct Draft {
    /// The topic to publish to.
    pub topic: TopicName,
    /// The event type, if any.
    pub name: Option<EventName>,
    /// The content, UTF-8.
    pub content: Bytes,
    /// The topic's subscribers now: part of the answer.
    pub subscribers: usize,
    /// The idempotency key, if it has one.
    pub key: Option<Arc<str>>,
}

/// A committed append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// The event's id.
    pub id: EventId,
    /// Subscribers of the topic when it was published.
    pub subscribers: usize,
    /// The idempotency key had been used: this is the answer that was given then.
    pub replayed: bool,
}

/// Why an append was not acknowledged. Unless it says so, the event is certainly not published.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// The engine takes no more events.
    #[error("the log takes no events at the moment")]
    Unavailable,
    /// More is waiting to be written than `log.queue_bytes_max`, and was not written within `log.queue_wait`.
    #[error("more events are waiting to be written than may wait")]
    QueueFull,
    /// There is no room on the disk.
    #[error("the disk is full")]
    DiskFull,
    /// The idempotency key was used with another event.
    #[error("the idempotency key was used for another event")]
    KeyReused,
    /// The disk failed over it: it may have been done, or not.
    #[error("the disk failed over it")]
    Unknown,
}

/// The log could not read what it holds, for a reason that is not in the events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the log cannot be read")]
pub struct ReadError;

/// What an acknowledgement promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// As long as the process lives.
    Memory,
    /// The process may die, the machine may not.
    Os,
    /// The power may go.
    Disk,
}

impl Durability {
    /// The word on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Os => "os",
            Self::Disk => "disk",
        }
    }
}

/// Where a subscription asks to begin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Start {
    /// After the last committed event.
    Live,
    /// After the event it saw last.
    After(EventId),
    /// It gave a cursor that is not an id of ours.
    Unreadable,
    /// With everything held.
    All,
    /// With the first event at or after this time, in milliseconds since the Unix epoch. Where the wall clock has gone
    /// back, what came before counts as no later than what it said then.
    Since(u64),
    /// With the last `n` events of its topics.
    Last(usize),
}

/// Where a reader goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadFrom {
    /// It has been given everything up to this position.
    pub after: u64,
    /// It has been told of the first so many removals. Its position cannot say that: retention removes the events of
    /// several topics in any order.
    pub removals_seen: u64,
}

/// Where a subscription begins, and whether it must be told of a gap before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StartPoint {
    /// The history that this is a place in.
    pub epoch: Epoch,
    /// It reads from here. What is missing by now is in `gap`, or was not asked for.
    pub from: ReadFrom,
    /// Events that it asked for are missing.
    pub gap: Option<GapReason>,
    /// Events that it asked for are missing further on: the stream is told when it comes there.
    pub gap_ahead: Option<GapReason>,
    /// The log ended here: deletions up to this position were before the subscription.
    pub watermark: u64,
}

impl StartPoint {
    /// The id of the position that it reads after.
    #[must_use]
    pub fn id(&self) -> EventId {
        EventId { epoch: self.epoch, seq: self.from.after }
    }
}

/// One answer of [`Log::read`].
#[derive(Debug)]
pub struct Page {
    /// The history that this is a page of. A reader in another one must not take it.
    pub epoch: Epoch,
    /// Events in order.
    pub events: Vec<Arc<Event>>,
    /// Every event of the topics up to here that is held is in `events`.
    pub to: u64,
    /// When not 0: events after the asked position that the reader does not know of are not held any more, the last of
    /// them here.
    pub evicted_to: u64,
    /// Some of them could not be read.
    pub is_damaged: bool,
    /// Topics whose last deletion is after the asked position and up to `to`, and where it is: what they held before has
    /// gone with it, and their events in `events` come after it.
    pub deleted: Vec<(TopicName, u64)>,
    /// Removals so far, all of which this page tells of.
    pub removals_seen: u64,
}

impl Page {
    fn new(epoch: Epoch, removals_seen: u64) -> Self {
        let (events, deleted) = (Vec::new(), Vec::new());
        Self { epoch, events, to: 0, evicted_to: 0, is_damaged: false, deleted, removals_seen }
    }

    /// Notes that a reader after `after` misses events of a topic that has lost those up to `evicted_to`.
    fn miss(&mut self, evicted_to: u64, after: u64) {
        if evicted_to > after {
            self.evicted_to = self.evicted_to.max(evicted_to);
        }
    }

    /// Notes that the event at `seq` is missing because it cannot be read.
    fn lose(&mut self, seq: u64) {
        self.evicted_to = self.evicted_to.max(seq);
        self.is_damaged = true;
    }

    /// Why events are missing, when some are.
    #[must_use]
    pub fn reason(&self) -> GapReason {
        if self.is_damaged { GapReason::Unreadable } else { GapReason::Evicted }
    }

    /// The page ends at `to`: what comes after it is another page's.
    fn end(&mut self, to: u64) {
        self.to = to;
        self.deleted.retain(|(_, seq)| *seq <= to);
    }

    /// Where a reader of this page stands before its first event: what lies between is not held.
    #[must_use]
    pub fn resumes_after(&self) -> u64 {
        self.events.first().map_or(self.to, |event| event.seq - 1)
    }
}

/// What is held of one topic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// The oldest event held; `None` when there is none.
    pub first: Option<EventId>,
    /// The newest event held.
    pub last: Option<EventId>,
    /// Events held.
    pub events: usize,
    /// Bytes held, bookkeeping included.
    pub bytes: u64,
}
