//! One topic: the actor that holds its subscriber list and gates publishes with a key, and [`TopicHandle`], the only way
//! to it.
//!
//! No other file names the `actix` crate. A message to an actor that has died is never lost in silence: the answer
//! says whether the actor had begun with it ([`PublishError`]).

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
use futures_util::{FutureExt as _, future::BoxFuture};
use slab::Slab;

mod receipts;

use receipts::{Kept, Receipts};

use crate::{
    event::{EventId, TopicName},
    log::{AppendError, Draft, DraftKey, Log, Receipt},
};

/// What bounds a topic; the same for all.
#[derive(Clone, Debug)]
pub struct TopicLimits {
    /// `limits.subscribers_per_topic_max`.
    pub subscribers_max: usize,
    /// `publish.idempotency_window`.
    pub idempotency_window: Duration,
    /// `publish.idempotency_keys_max`.
    pub idempotency_keys_max: usize,
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

/// An acknowledged publish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Published {
    /// The event's id.
    pub id: EventId,
    /// Subscribers of the topic when it was taken.
    pub subscribers: usize,
    /// The idempotency key had been used: this is the answer that was given then.
    pub replayed: bool,
}

/// Why a publish was not acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// The topic's actor was gone before it began: certainly not published, try a new one.
    #[error("the topic has gone")]
    NotStarted,
    /// The topic's actor died over it: it may have been published.
    #[error("the topic failed while it published; the event may have been published")]
    Unknown,
    /// The idempotency key was used with another event.
    #[error("the idempotency key was used for another event")]
    KeyReused,
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
    /// It was deleted after the subscriber's cursor.
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
        let mut receipts = Receipts::new(limits.idempotency_window, limits.idempotency_keys_max);
        let kept = log.receipts(&name);
        let busy_for = if kept.is_empty() { Duration::ZERO } else { limits.idempotency_window };
        for kept in kept {
            receipts.restore(kept);
        }
        let handle = Arc::new_cyclic(|handle| {
            let topic = Topic {
                name: name.clone(),
                log: Arc::clone(log),
                limits,
                handle: Weak::clone(handle),
                subscribers: Slab::new(),
                life: 0,
                deleted: None,
                receipts,
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

    /// Whether nobody would miss it: no subscriber, no idempotency key and no deletion to remember.
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

    /// Publishes unless `key` was used before; then the answer is the one given then.
    ///
    /// # Errors
    /// See [`PublishError`].
    pub async fn publish_once(&self, draft: Draft, key: Arc<str>) -> Result<Published, PublishError> {
        let draft = Draft { topic: self.name.clone(), ..draft };
        let begun = Arc::new(AtomicBool::new(false));
        let answer = self.topic.send(Publish { draft, key, begun: Arc::clone(&begun) }).await;
        let lost = || if begun.load(Ordering::Acquire) { PublishError::Unknown } else { PublishError::NotStarted };
        let taken = answer.map_err(|_| lost())?.ok_or(PublishError::KeyReused)?;
        let receipt = taken.receipt.await?;
        Ok(Published { id: receipt.id, subscribers: taken.subscribers, replayed: taken.replayed })
    }

    /// Adds a subscriber to the list.
    ///
    /// # Errors
    /// See [`JoinError`].
    pub async fn join(self: &Arc<Self>, subscriber: Subscriber) -> Result<Membership, JoinError> {
        self.topic.send(Join(subscriber, Arc::clone(self))).await.map_err(|_| JoinError::NotStarted)?
    }

    /// Deletes the topic: forgets what it holds and ends its streams. For `stream.gone` those that come back with an
    /// older cursor are told to stop.
    ///
    /// # Errors
    /// [`PublishError::Unknown`] when the actor died over it, else as the log says.
    pub async fn delete(&self) -> Result<(), PublishError> {
        Ok(self.topic.send(Delete).await.map_err(|_| PublishError::Unknown)??)
    }
}

/// Messages that may wait for a topic before its senders do.
const MAILBOX: usize = 256;

struct Topic {
    name: TopicName,
    log: Arc<dyn Log>,
    limits: TopicLimits,
    /// Gone as soon as nobody would ask it.
    handle: Weak<TopicHandle>,
    subscribers: Slab<Entry>,
    /// Deletions so far: a subscriber of an earlier life that leaves late must not free somebody else's entry.
    life: u64,
    deleted: Option<(u64, Instant)>,
    receipts: Receipts,
}

/// A line of the subscriber list.
struct Entry {
    subscriber: Subscriber,
    since: Instant,
}

/// What the actor answers to a publish: it is in the log's order, and this is how to learn of its commit.
struct Taken {
    receipt: BoxFuture<'static, Result<Receipt, AppendError>>,
    subscribers: usize,
    replayed: bool,
}

#[derive(Message)]
#[rtype(result = "Option<Taken>")]
struct Publish {
    draft: Draft,
    key: Arc<str>,
    begun: Arc<AtomicBool>,
}

/// The answer is the membership itself: when the client has gone meanwhile and nobody takes it, it is given back.
#[derive(Message)]
#[rtype(result = "Result<Membership, JoinError>")]
struct Join(Subscriber, Arc<TopicHandle>);

#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
struct Leave {
    life: u64,
    entry: usize,
}

#[derive(Message)]
#[rtype(result = "Result<(), AppendError>")]
struct Delete;

impl Actor for Topic {
    type Context = Context<Self>;
}

impl Topic {
    fn busy_for(&self, duration: Duration) {
        self.handle.upgrade().into_iter().for_each(|handle| handle.busy_for(duration));
    }

    fn count(&self) {
        let handle = self.handle.upgrade().into_iter();
        handle.for_each(|handle| handle.subscribers.store(self.subscribers.len(), Ordering::Relaxed));
    }
}

impl Drop for Topic {
    fn drop(&mut self) {
        self.handle.upgrade().into_iter().for_each(|handle| handle.alive.store(false, Ordering::Relaxed));
    }
}

impl Handler<Publish> for Topic {
    type Result = MessageResult<Publish>;

    /// The log takes the position here, at once, so the order of a topic is the order of its mailbox; the commit is
    /// awaited by the publisher, not by the topic, so that one fsync can serve many publishes.
    fn handle(&mut self, Publish { draft, key, begun }: Publish, _: &mut Context<Self>) -> Self::Result {
        begun.store(true, Ordering::Release);
        let subscribers = self.subscribers.len();
        let fingerprint = receipts::fingerprint(&draft);
        if let Some(first) = self.receipts.find(&key) {
            let taken =
                Taken { receipt: first.receipt.clone().boxed(), subscribers: first.subscribers, replayed: true };
            return MessageResult((first.fingerprint == fingerprint).then_some(taken));
        }
        let draft = Draft { key: Some(DraftKey { key: Arc::clone(&key), fingerprint, subscribers }), ..draft };
        let receipt = self.log.append(draft).shared();
        self.receipts.keep(key, Kept { fingerprint, subscribers, receipt: receipt.clone() });
        self.busy_for(self.limits.idempotency_window);
        MessageResult(Some(Taken { receipt: receipt.boxed(), subscribers, replayed: false }))
    }
}

impl Handler<Join> for Topic {
    type Result = MessageResult<Join>;

    fn handle(&mut self, Join(subscriber, topic): Join, _: &mut Context<Self>) -> Self::Result {
        let gone = self.deleted.filter(|(_, at)| at.elapsed() < self.limits.gone);
        if gone.is_some_and(|(deleted, _)| subscriber.cursor.is_some_and(|cursor| cursor < deleted)) {
            return MessageResult(Err(JoinError::Deleted));
        }
        if self.subscribers.len() >= self.limits.subscribers_max {
            return MessageResult(Err(JoinError::Full));
        }
        tracing::debug!(topic = %self.name, remote = ?subscriber.remote, "subscribed");
        let entry = self.subscribers.insert(Entry { subscriber, since: Instant::now() });
        self.count();
        MessageResult(Ok(Membership { topic, leave: Leave { life: self.life, entry } }))
    }
}

impl Handler<Leave> for Topic {
    type Result = ();

    fn handle(&mut self, Leave { life, entry }: Leave, _: &mut Context<Self>) {
        if life == self.life
            && let Some(Entry { subscriber, since }) = self.subscribers.try_remove(entry)
        {
            tracing::debug!(topic = %self.name, remote = ?subscriber.remote, after = ?since.elapsed(), "left");
            self.count();
        }
    }
}

impl Handler<Delete> for Topic {
    type Result = ResponseActFuture<Self, Result<(), AppendError>>;

    /// The hubs end the streams when the deletion comes to them in the feed, after all that was published before.
    fn handle(&mut self, _: Delete, _: &mut Context<Self>) -> Self::Result {
        let before = self.deleted;
        // Until the deletion has its position, every cursor is older.
        self.deleted = Some((u64::MAX, Instant::now()));
        self.busy_for(self.limits.gone);
        Box::pin(self.log.forget(&self.name).into_actor(self).map(move |forgotten, topic, _| {
            topic.deleted = forgotten.map_or(before, |seq| Some((seq, Instant::now())));
            if forgotten.is_ok() {
                topic.subscribers.clear();
                topic.life += 1;
                topic.count();
            }
            forgotten.map(|_| ())
        }))
    }
}
