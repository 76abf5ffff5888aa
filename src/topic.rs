//! One topic: the actor that holds its subscriber list and knows of its deletion, and [`TopicHandle`], the only way to it.
//!
//! No other module names the `actix` crate. A message to an actor that has died is never lost in silence: the answer
//! says so.

use std::{
    net::IpAddr,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use actix::{Actor as _, Addr, Context};
use slab::Slab;

mod actor;

use actor::{Delete, Deleted, Join, Leave, MAILBOX, Topic};

use crate::{
    event::TopicName,
    log::{AppendError, Log},
};

/// What bounds topics; the same for all.
#[derive(Clone, Debug)]
pub struct TopicLimits {
    /// `limits.subscribers_per_topic_max`.
    pub subscribers_max: usize,
    /// `stream.gone`.
    pub gone: Duration,
}

/// The way to a topic. Dropping the last one retires the actor, which itself holds none.
///
/// What a publish needs to know without asking the actor is in here, so that it costs no further place in memory:
/// with many topics each is a cache line that is far away.
pub struct TopicHandle {
    name: TopicName,
    topic: Addr<Topic>,
    started: Instant,
    /// The actor has not died.
    alive: AtomicBool,
    subscribers: AtomicUsize,
    /// Until this many milliseconds after the start the topic has something to remember.
    busy_until: AtomicU64,
}

/// Why a topic was not deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeleteError {
    /// The topic's actor died over it: it may have been deleted.
    #[error("the topic failed over it")]
    Unknown,
    /// The log refused.
    #[error(transparent)]
    Log(#[from] AppendError),
}

/// Why a topic takes no subscriber.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JoinError {
    /// The topic's actor has died; try a new one.
    #[error("the topic has gone")]
    NotStarted,
    /// It has `limits.subscribers_per_topic_max` subscribers.
    #[error("the topic has as many subscribers as it may have")]
    Full,
    /// It was deleted after the subscriber's cursor, and the subscriber's stream has no other topic.
    #[error("the topic was deleted")]
    Deleted,
}

/// One subscriber as its topic knows it.
#[derive(Clone, Copy, Debug)]
pub struct Subscriber {
    /// Where it connects from.
    pub remote: Option<IpAddr>,
    /// Its cursor, when it resumes in this history.
    pub cursor: Option<u64>,
    /// Its stream has no other topic, and ends with this one.
    pub alone: bool,
}

/// A subscriber that the topic has taken in.
pub struct Joined {
    /// Its place in the list.
    pub membership: Membership,
    /// The topic's deletion, when it is within `stream.gone` and was after the subscriber's cursor.
    pub deletion: Option<Deletion>,
}

/// Where a topic was deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deletion {
    /// At this position of the log.
    At(u64),
    /// It is under way.
    Pending,
}

/// A place in a topic's subscriber list; given back on drop.
pub struct Membership {
    topic: Arc<TopicHandle>,
    leave: Leave,
}

impl Membership {
    /// The topic's name, the one copy of it.
    #[must_use]
    pub fn topic(&self) -> &TopicName {
        self.topic.name()
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        // Unlike `try_send` this ignores the mailbox's bound. It must: a membership that is not given back would count
        // for ever. There is one such message a subscriber at most, and subscribers are bounded.
        self.topic.topic.do_send(self.leave);
    }
}

impl TopicHandle {
    /// Starts a topic on this thread, which must be one of the server's workers.
    #[must_use]
    pub fn start(name: TopicName, log: &Arc<dyn Log>, limits: TopicLimits) -> Arc<Self> {
        let deletion = log.deletion(&name);
        let busy_for = deletion.map_or(Duration::ZERO, |(_, ago)| limits.gone.saturating_sub(ago));
        let deleted = deletion.and_then(|(at, ago)| Some((at, Instant::now().checked_sub(ago)?)));
        let handle = Arc::new_cyclic(|handle| {
            let topic = Topic {
                name: name.clone(),
                log: Arc::clone(log),
                limits,
                handle: Weak::clone(handle),
                subscribers: Slab::new(),
                deleted,
                deleting: 0,
            };
            let topic = Topic::create(|context: &mut Context<Topic>| {
                context.set_mailbox_capacity(MAILBOX);
                topic
            });
            Self {
                name,
                topic,
                started: Instant::now(),
                alive: AtomicBool::new(true),
                subscribers: AtomicUsize::new(0),
                busy_until: AtomicU64::new(0),
            }
        });
        handle.busy_for(busy_for);
        handle
    }

    /// The topic's name.
    #[must_use]
    pub fn name(&self) -> &TopicName {
        &self.name
    }

    /// Subscribers now.
    #[must_use]
    pub fn subscribers(&self) -> usize {
        self.subscribers.load(Ordering::Relaxed)
    }

    /// Whether nobody would miss it: no subscriber, and no deletion to remember.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        let now = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.subscribers() == 0 && self.busy_until.load(Ordering::Relaxed) < now
    }

    /// Whether its actor lives.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.alive.load(Ordering::Relaxed)
    }

    fn busy_for(&self, duration: Duration) {
        let until = self.started.elapsed() + duration;
        self.busy_until.fetch_max(u64::try_from(until.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Adds a subscriber to the list.
    ///
    /// # Errors
    /// See [`JoinError`].
    pub async fn join(self: &Arc<Self>, subscriber: Subscriber) -> Result<Joined, JoinError> {
        self.topic.send(Join(subscriber, Arc::clone(self))).await.map_err(|_| JoinError::NotStarted)?
    }

    /// Deletes the topic: forgets what it holds and ends its streams. For `stream.gone` those that come back with an
    /// older cursor are told to stop.
    ///
    /// # Errors
    /// [`DeleteError::Unknown`] when the actor died over it, else as the log says.
    pub async fn delete(&self) -> Result<(), DeleteError> {
        Ok(self.topic.send(Delete).await.map_err(|_| DeleteError::Unknown)??)
    }

    /// Takes note of a deletion that the log was asked for past the actor.
    pub fn was_deleted(&self, at: u64) {
        // An actor that has died has nothing to forget.
        self.topic.do_send(Deleted(at));
    }
}
