//! Who gets what next: the hub without its event loop.
//!
//! It owns the connections and is driven from outside, by commits from the feed, by readiness of sockets and by time;
//! it never waits. So a test can drive it with sockets of its own.
//!
//! The invariant everything rests on: *a connection whose cursor is c has been given every matching event up to c, in
//! order, once*. A visit moves the cursor from where it is to the tail, out of the windows of its channels when they
//! reach back far enough, else out of the log. There is no other way to write an event.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
    io,
    num::NonZeroU32,
    sync::Arc,
    time::Instant,
};

use slab::Slab;

use super::{
    channels::{Channels, Next},
    connection::{Connection, Peer, Slot, Subscription},
    unsent::Unsent,
};
use crate::{
    config::StreamConfig,
    event::TopicName,
    log::{Batch, Commit, Log},
};

/// The subscribers of one worker.
pub struct Fanout<S> {
    pub(super) log: Arc<dyn Log>,
    pub(super) config: StreamConfig,
    /// Every commit up to here has been put into the channels.
    pub(super) seen: u64,
    pub(super) connections: Slab<Connection<S>>,
    pub(super) channels: Channels,
    /// What sockets have taken in part.
    pub(super) unsent: Arc<Unsent>,
    /// Connections that have more to read than one visit gives, each once.
    pub(super) backlog: VecDeque<usize>,
    /// When to look after which connection. An entry counts only while the connection's `due` agrees.
    pub(super) deadlines: BinaryHeap<Reverse<(Instant, usize)>>,
    /// Pages to be fetched, in order.
    pub(super) page_requests: VecDeque<PageRequest>,
    /// Turns that channels have had.
    turns: u32,
    pub(super) last_request_id: NonZeroU32,
    pub(super) now: Instant,
    /// A drain has begun, and this is when every stream is to have ended.
    pub(super) drained_by: Option<Instant>,
}

/// A page of the log that a connection waits for: to be fetched, and given to [`Fanout::supply`].
#[derive(Debug)]
pub struct PageRequest {
    /// The connection.
    pub key: usize,
    /// Tells a late answer from the one waited for.
    pub id: NonZeroU32,
    /// The arguments of [`Log::fetch`].
    pub topics: Vec<TopicName>,
    /// See `topics`.
    pub after: u64,
    /// See `topics`.
    pub removals_seen: u64,
    /// See `topics`.
    pub bytes_max: usize,
}

/// Members of a channel that are visited before the next channel has its turn.
const TURN: usize = 16;
/// Turns that channels have, as long as there are some, before a connection with a backlog has its visit: who reads on
/// from long ago waits rather than who reads what has just come, but never in vain.
const TURNS_PER_VISIT: u32 = 4;

impl<S: Peer> Fanout<S> {
    /// A hub without subscribers. Its feed must have been opened before.
    #[must_use]
    pub fn new(log: Arc<dyn Log>, config: StreamConfig, unsent: Arc<Unsent>, now: Instant) -> Self {
        Self {
            seen: log.watermark(),
            unsent,
            log,
            config,
            connections: Slab::new(),
            channels: Channels::new(),
            backlog: VecDeque::new(),
            deadlines: BinaryHeap::new(),
            page_requests: VecDeque::new(),
            turns: 0,
            last_request_id: NonZeroU32::MIN,
            now,
            drained_by: None,
        }
    }

    /// Connections held.
    #[must_use]
    pub fn len(&self) -> usize {
        self.connections.len()
    }

    /// Whether it holds no connection.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.connections.is_empty()
    }

    /// Takes over a subscriber; the stream's first bytes are already out. `register` learns the key under which its
    /// readiness is to be reported.
    ///
    /// The feed must have been taken after the subscription was placed in the log: a deletion that the subscription
    /// knows of would otherwise still be in the feed, and end the topic's next life for it.
    ///
    /// # Errors
    /// As `register` says; the subscriber is then dropped.
    pub fn adopt(
        &mut self,
        mut socket: S,
        subscription: Subscription,
        register: impl FnOnce(&mut S, usize) -> io::Result<()>,
    ) -> io::Result<()> {
        let key = self.connections.vacant_key();
        register(&mut socket, key)?;
        let topics = subscription.topics.clone();
        let alone = topics.len() == 1;
        let mut connection = Connection::new(socket, subscription, self.now);
        for topic in topics {
            let channel = self.channels.open(topic, connection.encoding, alone, (self.seen, self.now));
            if let Some(entry) = self.channels.get_mut(channel) {
                connection.slots.push(Slot { channel, index: entry.members.len() });
                entry.members.push(key);
            }
        }
        if self.drained_by.is_some() {
            connection.cold.ends_at = Some(self.now);
        }
        self.connections.insert(connection);
        self.schedule(key);
        if self.drained_by.is_some() {
            self.end(key);
        } else {
            // Not at once: what it has missed may be long, and others wait for their turn, too.
            self.queue(key);
        }
        Ok(())
    }

    /// Puts what has been committed into the channels and wakes those that have readers, then moves the clock as
    /// [`advance`](Self::advance). In this order, and with a time from before the batch was taken, no stream that ends is
    /// short of an event that was committed before its end.
    pub fn apply(&mut self, batch: &mut Batch, now: Instant) {
        self.place(batch);
        self.advance(now);
    }

    fn place(&mut self, batch: &mut Batch) {
        if batch.lost_to > 0 {
            self.seen = self.seen.max(batch.lost_to);
            self.channels.lose(batch.lost_to);
        }
        for commit in batch.commits.drain(..) {
            self.seen = self.seen.max(commit.seq());
            match commit {
                Commit::Event(event) => self.channels.push_event(event, self.log.epoch()),
                Commit::Deleted(topic, seq) => self.channels.push_deletion(&topic, seq),
            }
        }
    }

    /// The next page to fetch, if there is one whose connection still waits for it.
    pub fn next_page_request(&mut self) -> Option<PageRequest> {
        std::iter::from_fn(|| self.page_requests.pop_front())
            .find(|request| self.connections.get(request.key).is_some_and(|c| c.fetching == Some(request.id)))
    }

    /// Whether a channel or a connection waits to be worked on.
    #[must_use]
    pub fn has_work(&self) -> bool {
        self.channels.first_ready().is_some() || !self.backlog.is_empty()
    }

    /// Whether a connection waits that has much to read: a step may then be a long one.
    #[must_use]
    pub fn has_backlog(&self) -> bool {
        !self.backlog.is_empty()
    }

    /// Gives the next channel its turn. After every few turns, or when no channel is left, it also visits the next
    /// connection of the backlog.
    pub fn step(&mut self) {
        if let Some(key) = self.channels.first_ready() {
            self.turn(key);
            self.turns = self.turns.wrapping_add(1);
            if !self.turns.is_multiple_of(TURNS_PER_VISIT) && self.channels.first_ready().is_some() {
                return;
            }
        }
        let Some(key) = self.backlog.pop_front() else { return };
        if let Some(connection) = self.connections.get_mut(key) {
            connection.queued = false;
        }
        self.visit(key);
    }

    /// Visits the next members of a channel.
    fn turn(&mut self, key: usize) {
        for _ in 0..TURN {
            match self.channels.next(key, self.seen, self.now) {
                Next::Visit(member) => {
                    self.visit(member);
                }
                Next::End(member) => {
                    if !self.dismiss(member) {
                        break;
                    }
                }
                Next::RoundOver => {
                    if !self.channels.end_round(key, self.now, self.config.coalesce_max) {
                        return;
                    }
                }
            }
        }
        self.channels.end_turn();
    }

    /// The socket takes bytes again.
    pub fn writable(&mut self, key: usize) {
        if let Some(connection) = self.connections.get_mut(key).filter(|connection| connection.is_blocked()) {
            connection.unblock();
            self.queue(key);
        }
    }

    /// The peer has sent something, or gone.
    pub fn readable(&mut self, key: usize) {
        if let Some(Err(error)) = self.connections.get_mut(key).map(Connection::discard_input) {
            self.close(key, error);
        }
    }

    /// Closes a connection at once and forgets it.
    pub(super) fn close(&mut self, key: usize, why: impl std::fmt::Display) {
        if let Some(connection) = self.connections.try_remove(key) {
            tracing::debug!(key, %why, "stream closed");
            connection.release_unsent(&self.unsent);
            for slot in connection.slots {
                self.leave(slot);
            }
        }
    }

    /// Gives up a connection's slot in a channel.
    pub(super) fn leave(&mut self, slot: Slot) {
        for (member, index) in self.channels.leave(slot.channel, slot.index).into_iter().flatten() {
            let Some(connection) = self.connections.get_mut(member) else { continue };
            for moved in &mut connection.slots {
                if moved.channel == slot.channel {
                    moved.index = index;
                }
            }
        }
    }
}

/// A hub that panics leaves no trace in what all hubs share.
impl<S> Drop for Fanout<S> {
    fn drop(&mut self) {
        for (_, connection) in &self.connections {
            connection.release_unsent(&self.unsent);
        }
    }
}
