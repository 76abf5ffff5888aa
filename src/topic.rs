//! One topic: an actor that holds the list of its subscribers and remembers its deletion. Other modules reach it only
//! through its [`TopicHandle`].
//!
//! No other module names the `actix` crate. The sender of a message to an actor that has died gets an error.

use std::{
    net::IpAddr,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use actix::{
    Actor, ActorFutureExt as _, Addr, Context, Handler, Message, MessageResult, ResponseActFuture, WrapFuture as _,
};
use slab::Slab;

use crate::{
    event::{EventId, TopicName},
    limits::Permit,
    log::{AppendError, Log},
};

/// Messages that may wait for a topic. With more, the senders wait.
const MAILBOX: usize = 256;

/// The limits of a topic, the same for all topics.
#[derive(Clone, Copy, Debug)]
pub struct TopicLimits {
    /// `limits.subscribers_per_topic_max`.
    pub subscribers_max: usize,
    /// How long a topic remembers its deletion: `stream.gone`.
    pub deletion_kept_for: Duration,
}

/// A subscriber, as its topic knows it.
#[derive(Clone, Copy, Debug)]
pub struct Subscriber {
    /// The address that it connects from.
    pub remote: Option<IpAddr>,
    /// Its cursor, if it resumes in this history.
    pub cursor: Option<EventId>,
    /// Its stream has no other topic, and ends when this topic is deleted.
    pub single_topic: bool,
}

/// The answer to a subscriber that was added to the list.
pub struct Joined {
    /// Its entry in the list.
    pub membership: Membership,
    /// The topic's deletion, if the deletion is after the subscriber's cursor and was less than `stream.gone` ago. A
    /// pending deletion is reported, too, unless `stream.gone` is zero.
    pub deletion: Option<Deletion>,
}

/// Where a topic was deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deletion {
    /// At this position of the log.
    At(u64),
    /// The deletion is not committed yet. Its position will be above every cursor that exists now.
    Pending,
}

/// Why a topic did not accept a subscriber.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JoinError {
    /// The topic's actor has died: try a new one.
    #[error("the topic has gone")]
    ActorDied,
    /// The topic has `limits.subscribers_per_topic_max` subscribers.
    #[error("the topic has as many subscribers as it may have")]
    Full,
    /// The topic was deleted after the subscriber's cursor, or its deletion is pending, and the subscriber's stream has
    /// no other topic.
    #[error("the topic was deleted")]
    Deleted,
}

/// Why a deletion is not confirmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeleteError {
    /// The topic's actor died. The topic may be deleted or not.
    #[error("the topic's actor died during the deletion")]
    ActorDied,
    /// The log refused the deletion.
    #[error(transparent)]
    Log(#[from] AppendError),
}

/// The way to a topic. The actor ends when the last handle is dropped. The actor itself holds only a weak handle.
///
/// A publish reads `subscribers` here and does not ask the actor. The fields are not behind another pointer: with many
/// topics, that pointer would be one more read of memory that is not in the cache.
pub struct TopicHandle {
    name: TopicName,
    actor: Addr<Topic>,
    started: Instant,
    /// The actor has not died.
    alive: AtomicBool,
    subscribers: AtomicUsize,
    /// The topic is not retired before this many milliseconds after `started`, because it remembers a deletion.
    keep_until: AtomicU64,
    /// Counts the topic for the address that has started the topic.
    _permit: Permit,
}

/// An entry in a topic's subscriber list. Dropping it removes the entry.
pub struct Membership {
    topic: Arc<TopicHandle>,
    /// Its key in the list.
    key: usize,
}

impl TopicHandle {
    /// Starts a topic on this thread, which must be one of the server's workers.
    #[must_use]
    pub fn start(name: TopicName, log: &Arc<dyn Log>, limits: TopicLimits, permit: Permit) -> Arc<Self> {
        let deletion = log.deletion(&name);
        let keep_for = deletion.map_or(Duration::ZERO, |(_, ago)| limits.deletion_kept_for.saturating_sub(ago));
        let last_deletion = deletion.and_then(|(at, ago)| Some((at, Instant::now().checked_sub(ago)?)));
        let handle = Arc::new_cyclic(|handle| {
            let topic = Topic {
                name: name.clone(),
                log: Arc::clone(log),
                limits,
                handle: Weak::clone(handle),
                subscribers: Slab::new(),
                last_deletion,
                deletions_pending: 0,
            };
            let actor = Topic::create(|context: &mut Context<Topic>| {
                context.set_mailbox_capacity(MAILBOX);
                topic
            });
            Self {
                name,
                actor,
                started: Instant::now(),
                alive: AtomicBool::new(true),
                subscribers: AtomicUsize::new(0),
                keep_until: AtomicU64::new(0),
                _permit: permit,
            }
        });
        handle.keep_for(keep_for);
        handle
    }

    /// The topic's name.
    #[must_use]
    pub fn name(&self) -> &TopicName {
        &self.name
    }

    /// How many subscribers of this server it has now.
    #[must_use]
    pub fn subscribers(&self) -> usize {
        self.subscribers.load(Ordering::Relaxed)
    }

    /// Whether the topic can be retired: it has no subscriber, and no deletion to remember.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        let now = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.subscribers() == 0 && self.keep_until.load(Ordering::Relaxed) < now
    }

    /// Whether its actor is alive.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.alive.load(Ordering::Relaxed)
    }

    fn keep_for(&self, duration: Duration) {
        let until = self.started.elapsed() + duration;
        self.keep_until.fetch_max(u64::try_from(until.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Adds a subscriber to the list.
    ///
    /// # Errors
    /// See [`JoinError`].
    pub async fn join(self: &Arc<Self>, subscriber: Subscriber) -> Result<Joined, JoinError> {
        self.actor.send(Join(subscriber, Arc::clone(self))).await.map_err(|_| JoinError::ActorDied)?
    }

    /// Deletes the topic: the log forgets its events, and streams of this topic alone end. For `stream.gone` after
    /// the deletion, clients that reconnect with an older cursor are told to stop.
    ///
    /// # Errors
    /// See [`DeleteError`].
    pub async fn delete(&self) -> Result<(), DeleteError> {
        Ok(self.actor.send(Delete).await.map_err(|_| DeleteError::ActorDied)??)
    }

    /// Tells the topic that the log has deleted it at position `at`, without the topic's actor.
    pub fn was_deleted(&self, at: EventId) {
        // If the actor has died, its successor reads the deletion from the log.
        self.actor.do_send(Deleted(at));
    }
}

impl Membership {
    /// The topic's name. Clone this one, so that all users share one copy of a long name.
    #[must_use]
    pub fn topic(&self) -> &TopicName {
        self.topic.name()
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        // Unlike `try_send`, `do_send` ignores the mailbox's limit: if the message were refused, the subscriber would
        // be counted for ever. Each subscriber sends only one such message, and the number of subscribers is limited.
        self.topic.actor.do_send(Leave(self.key));
    }
}

/// The actor.
struct Topic {
    name: TopicName,
    log: Arc<dyn Log>,
    limits: TopicLimits,
    /// Its handle. After the handle is dropped, no message can come any more.
    handle: Weak<TopicHandle>,
    subscribers: Slab<Listed>,
    /// The position of the last deletion, and when it was.
    last_deletion: Option<(EventId, Instant)>,
    /// Deletions that the log has not committed yet.
    deletions_pending: usize,
}

/// A subscriber in the list.
struct Listed {
    remote: Option<IpAddr>,
    since: Instant,
}

/// Adds the subscriber to the list. If the client has gone meanwhile, nobody takes the [`Joined`]. Then its membership
/// is dropped, which removes the subscriber again.
#[derive(Message)]
#[rtype(result = "Result<Joined, JoinError>")]
struct Join(Subscriber, Arc<TopicHandle>);

/// Removes the subscriber with this key from the list.
#[derive(Message)]
#[rtype(result = "()")]
struct Leave(usize);

#[derive(Message)]
#[rtype(result = "Result<(), AppendError>")]
struct Delete;

#[derive(Message)]
#[rtype(result = "()")]
struct Deleted(EventId);

impl Topic {
    /// The deletion that is reported to a subscriber with this cursor. The position of the deletion is above the
    /// cursor, or will be.
    fn deletion_after(&mut self, cursor: Option<EventId>) -> Option<Deletion> {
        let cursor = cursor?;
        if self.log.peers().is_some() {
            self.look_for_deletion();
        }
        if self.deletions_pending > 0 && !self.limits.deletion_kept_for.is_zero() {
            return Some(Deletion::Pending);
        }
        let (at, when) = self.last_deletion?;
        let is_after = at.epoch == cursor.epoch && at.seq > cursor.seq;
        (is_after && when.elapsed() < self.limits.deletion_kept_for).then_some(Deletion::At(at.seq))
    }

    /// Notes a deletion that another server has made.
    fn look_for_deletion(&mut self) {
        if let Some((at, ago)) = self.log.deletion(&self.name)
            && self.last_deletion.is_none_or(|(last, _)| last != at)
            && let Some(when) = Instant::now().checked_sub(ago)
        {
            self.last_deletion = Some((at, when));
            self.keep_for(self.limits.deletion_kept_for.saturating_sub(ago));
        }
    }

    fn was_deleted(&mut self, at: EventId) {
        self.last_deletion = Some((at, Instant::now()));
        self.keep_for(self.limits.deletion_kept_for);
    }

    fn keep_for(&self, duration: Duration) {
        if let Some(handle) = self.handle.upgrade() {
            handle.keep_for(duration);
        }
    }

    /// Tells the handle how many subscribers there are, and the other servers.
    fn store_count(&self, count: usize) {
        if let Some(handle) = self.handle.upgrade() {
            handle.subscribers.store(count, Ordering::Relaxed);
        }
        if let Some(peers) = self.log.peers() {
            peers.note_change(&self.name);
        }
    }
}

impl Actor for Topic {
    type Context = Context<Self>;
}

impl Drop for Topic {
    fn drop(&mut self) {
        if let Some(handle) = self.handle.upgrade() {
            handle.alive.store(false, Ordering::Relaxed);
        }
        if !self.subscribers.is_empty() {
            self.store_count(0);
        }
    }
}

impl Handler<Join> for Topic {
    type Result = MessageResult<Join>;

    fn handle(&mut self, Join(subscriber, topic): Join, _: &mut Context<Self>) -> Self::Result {
        let deletion = self.deletion_after(subscriber.cursor);
        if deletion.is_some() && subscriber.single_topic {
            return MessageResult(Err(JoinError::Deleted));
        }
        if self.subscribers.len() >= self.limits.subscribers_max {
            return MessageResult(Err(JoinError::Full));
        }
        tracing::debug!(topic = %self.name, remote = ?subscriber.remote, "subscribed");
        let key = self.subscribers.insert(Listed { remote: subscriber.remote, since: Instant::now() });
        self.store_count(self.subscribers.len());
        MessageResult(Ok(Joined { membership: Membership { topic, key }, deletion }))
    }
}

impl Handler<Leave> for Topic {
    type Result = ();

    fn handle(&mut self, Leave(key): Leave, _: &mut Context<Self>) {
        if let Some(Listed { remote, since }) = self.subscribers.try_remove(key) {
            tracing::debug!(topic = %self.name, ?remote, after = ?since.elapsed(), "left");
            self.store_count(self.subscribers.len());
        }
    }
}

impl Handler<Delete> for Topic {
    type Result = ResponseActFuture<Self, Result<(), AppendError>>;

    /// The hubs end the streams when the feed brings the deletion. Until then the subscribers stay in the list, because
    /// they still get the events from before the deletion.
    fn handle(&mut self, _: Delete, _: &mut Context<Self>) -> Self::Result {
        self.deletions_pending += 1;
        self.keep_for(self.limits.deletion_kept_for);
        Box::pin(self.log.delete(&self.name).into_actor(self).map(|deleted, topic, _| {
            topic.deletions_pending -= 1;
            deleted.map(|at| topic.was_deleted(at))
        }))
    }
}

impl Handler<Deleted> for Topic {
    type Result = ();

    fn handle(&mut self, Deleted(at): Deleted, _: &mut Context<Self>) {
        self.was_deleted(at);
    }
}
