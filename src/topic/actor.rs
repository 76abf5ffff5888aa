//! The actor of a topic: its subscriber list and its deletion.

use std::{
    sync::{Arc, Weak, atomic::Ordering},
    time::{Duration, Instant},
};

use actix::{Actor, ActorFutureExt as _, Context, Handler, Message, MessageResult, ResponseActFuture, WrapFuture as _};
use slab::Slab;

use super::{Deletion, JoinError, Joined, Membership, Subscriber, TopicHandle, TopicLimits};
use crate::{
    event::TopicName,
    log::{AppendError, Log},
};

/// Messages that may wait for a topic before its senders do.
pub(super) const MAILBOX: usize = 256;

pub(super) struct Topic {
    pub(super) name: TopicName,
    pub(super) log: Arc<dyn Log>,
    pub(super) limits: TopicLimits,
    /// Gone as soon as nobody would ask it.
    pub(super) handle: Weak<TopicHandle>,
    pub(super) subscribers: Slab<Entry>,
    /// The last deletion, and when it was.
    pub(super) deleted: Option<(u64, Instant)>,
    /// Deletions under way.
    pub(super) deleting: usize,
}

/// A line of the subscriber list.
pub(super) struct Entry {
    subscriber: Subscriber,
    since: Instant,
}

/// The answer is the membership itself: when the client has gone meanwhile and nobody takes it, it is given back.
#[derive(Message)]
#[rtype(result = "Result<Joined, JoinError>")]
pub(super) struct Join(pub(super) Subscriber, pub(super) Arc<TopicHandle>);

#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub(super) struct Leave {
    pub(super) entry: usize,
}

#[derive(Message)]
#[rtype(result = "Result<(), AppendError>")]
pub(super) struct Delete;

#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct Deleted(pub(super) u64);

impl Actor for Topic {
    type Context = Context<Self>;
}

impl Topic {
    fn busy_for(&self, duration: Duration) {
        self.handle.upgrade().into_iter().for_each(|handle| handle.busy_for(duration));
    }

    /// The deletion that a subscriber with this cursor is to know of.
    fn deletion_after(&self, cursor: Option<u64>) -> Option<Deletion> {
        let cursor = cursor.filter(|_| !self.limits.gone.is_zero())?;
        if self.deleting > 0 {
            // Until it has its position, every cursor is older.
            return Some(Deletion::Pending);
        }
        let (at, _) = self.deleted.filter(|(at, when)| cursor < *at && when.elapsed() < self.limits.gone)?;
        Some(Deletion::At(at))
    }

    fn was_deleted(&mut self, at: u64) {
        self.deleted = Some((at, Instant::now()));
        self.busy_for(self.limits.gone);
    }

    fn count(&self) {
        let handle = self.handle.upgrade().into_iter();
        handle.for_each(|handle| handle.subscribers.store(self.subscribers.len(), Ordering::Relaxed));
    }
}

impl Drop for Topic {
    fn drop(&mut self) {
        if let Some(handle) = self.handle.upgrade() {
            handle.alive.store(false, Ordering::Relaxed);
            handle.subscribers.store(0, Ordering::Relaxed);
        }
    }
}

impl Handler<Join> for Topic {
    type Result = MessageResult<Join>;

    fn handle(&mut self, Join(subscriber, topic): Join, _: &mut Context<Self>) -> Self::Result {
        let deletion = self.deletion_after(subscriber.cursor);
        if deletion.is_some() && subscriber.alone {
            return MessageResult(Err(JoinError::Deleted));
        }
        if self.subscribers.len() >= self.limits.subscribers_max {
            return MessageResult(Err(JoinError::Full));
        }
        tracing::debug!(topic = %self.name, remote = ?subscriber.remote, "subscribed");
        let entry = self.subscribers.insert(Entry { subscriber, since: Instant::now() });
        self.count();
        MessageResult(Ok(Joined { membership: Membership { topic, leave: Leave { entry } }, deletion }))
    }
}

impl Handler<Leave> for Topic {
    type Result = ();

    fn handle(&mut self, Leave { entry }: Leave, _: &mut Context<Self>) {
        if let Some(Entry { subscriber, since }) = self.subscribers.try_remove(entry) {
            tracing::debug!(topic = %self.name, remote = ?subscriber.remote, after = ?since.elapsed(), "left");
            self.count();
        }
    }
}

impl Handler<Delete> for Topic {
    type Result = ResponseActFuture<Self, Result<(), AppendError>>;

    /// The hubs end the streams when the deletion comes to them in the feed, after all that was published before. The
    /// subscribers stay in the list until then: they are served, and some of them belong to the topic's next life.
    fn handle(&mut self, _: Delete, _: &mut Context<Self>) -> Self::Result {
        self.deleting += 1;
        self.busy_for(self.limits.gone);
        Box::pin(self.log.forget(&self.name).into_actor(self).map(|forgotten, topic, _| {
            topic.deleting -= 1;
            forgotten.map(|at| topic.was_deleted(at))
        }))
    }
}

impl Handler<Deleted> for Topic {
    type Result = ();

    fn handle(&mut self, Deleted(at): Deleted, _: &mut Context<Self>) {
        self.was_deleted(at);
    }
}
