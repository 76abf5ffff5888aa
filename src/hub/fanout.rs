//! Who gets what next: the hub without its event loop.
//!
//! It owns the connections and is driven from outside, by commits from the feed, by readiness of sockets and by time;
//! it never waits. So a test can drive it with sockets of its own.
//!
//! Work waits in two queues: channels that have a *round* to give, which is one visit to each member, and the *backlog*
//! of connections that have more to read than one visit gives. A channel's *turn* is a part of a round.

use std::{
    io,
    num::NonZeroU32,
    sync::Arc,
    time::{Duration, Instant},
};

use smallvec::SmallVec;

use super::{
    channels::Next,
    connection::{Connection, Peer, Subscription},
    delivery::{Delivery, PageRequest},
    end::End,
    lifetimes::Lifetimes,
    streams::Streams,
    unsent::UnsentBytes,
};
use crate::{
    config::StreamConfig,
    event::EventId,
    log::{Batch, Commit, Log, Page, ReadError},
};

/// The subscribers of one worker.
pub struct Fanout<S> {
    lifetimes: Lifetimes<S>,
    /// Turns that channels have had.
    turns: u32,
}

/// Members of a channel that are visited before the next channel has its turn.
const MEMBERS_PER_TURN: usize = 16;
/// Turns that channels have, while there are some, before a connection of the backlog has its visit: a reader of old
/// events waits rather than a reader of new ones, but never for ever.
const TURNS_PER_VISIT: u32 = 4;
/// Connections of a hub whose state is checked, in a debug build, after each change.
const CHECKED_MAX: usize = 32;

impl<S: Peer> Fanout<S> {
    /// A hub without subscribers. Its feed must have been opened before.
    #[must_use]
    pub fn new(log: Arc<dyn Log>, config: StreamConfig, unsent: Arc<UnsentBytes>, now: Instant) -> Self {
        // In this order: should another epoch begin in between, the feed says so.
        let epoch = log.epoch();
        let streams = Streams::new(config, unsent, EventId { epoch, seq: log.watermark() }, now);
        Self { lifetimes: Lifetimes::new(Delivery::new(streams, log)), turns: 0 }
    }

    fn delivery(&mut self) -> &mut Delivery<S> {
        &mut self.lifetimes.delivery
    }

    fn streams(&mut self) -> &mut Streams<S> {
        &mut self.lifetimes.delivery.streams
    }

    /// How many connections it has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lifetimes.delivery.streams.connections.len()
    }

    /// Whether it has no connection.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lifetimes.delivery.streams.connections.is_empty()
    }

    /// Adds a subscriber; the first bytes of its stream are already written. `register` learns the key under which the
    /// readiness of the socket must be reported.
    ///
    /// The feed must have been applied after the log placed the subscription: a deletion that the subscription knows of
    /// would otherwise still be in the feed, and end a stream that begins after it.
    ///
    /// # Errors
    /// As `register` says; the subscriber is then dropped.
    pub fn adopt(
        &mut self,
        mut socket: S,
        subscription: Subscription,
        register: impl FnOnce(&mut S, usize) -> io::Result<()>,
    ) -> io::Result<()> {
        let is_draining = self.lifetimes.is_draining();
        let streams = self.streams();
        register(&mut socket, streams.connections.vacant_key())?;
        let (topics, epoch) = (subscription.topics.clone(), subscription.start.epoch);
        let mut connection = Connection::new(socket, subscription, streams.now);
        if epoch != streams.epoch {
            // Its history has ended on its way here.
            let key = streams.insert(connection, SmallVec::new());
            self.lifetimes.push_farewell(key, epoch, End::EpochEnded);
            self.streams().queue(key);
        } else if is_draining {
            connection.cold.ends_at = Some(streams.now);
            let key = streams.insert(connection, topics);
            self.lifetimes.end(key);
        } else {
            // It is not visited at once: what it has missed may be long, and others wait, too.
            let key = streams.insert(connection, topics);
            streams.queue(key);
        }
        self.assert_invariants();
        Ok(())
    }

    /// Puts what has been committed into the channels, which wakes those that are quiet, then moves the clock as
    /// [`advance`](Self::advance). In this order, and with a time from before the batch was taken from the feed, no
    /// stream that ends is short of an event that was committed before its end.
    pub fn apply(&mut self, batch: &mut Batch, now: Instant) {
        if let Some(epoch) = batch.epoch {
            self.lifetimes.begin_epoch(epoch);
        }
        let streams = self.streams();
        if batch.lost_to > 0 {
            streams.seen = streams.seen.max(batch.lost_to);
            streams.channels.mark_lost(batch.lost_to);
        }
        for commit in batch.commits.drain(..) {
            streams.seen = streams.seen.max(commit.seq());
            match commit {
                Commit::Event(event) => streams.channels.push_event(event, streams.epoch),
                Commit::Deleted(topic, seq) => streams.channels.push_deletion(&topic, seq),
            }
        }
        self.advance(now);
    }

    /// Moves the clock and does what is due.
    pub fn advance(&mut self, now: Instant) {
        self.lifetimes.advance(now);
        self.assert_invariants();
    }

    /// When [`advance`](Self::advance) has something to do next.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        self.lifetimes.delivery.streams.next_deadline()
    }

    /// Ends every stream within `within`, spread evenly, so that not all clients come back at the same moment. One that
    /// has not got everything by then ends where it is.
    pub fn drain(&mut self, within: Duration) {
        self.lifetimes.drain(within);
        self.assert_invariants();
    }

    /// The next page to fetch, if there is one whose connection still waits for it.
    pub fn next_page_request(&mut self) -> Option<PageRequest> {
        self.delivery().next_page_request()
    }

    /// Goes on with the connection that waits for a page under this key and id, if there still is one.
    pub fn supply(&mut self, key: usize, id: NonZeroU32, page: Result<Page, ReadError>) {
        self.delivery().supply(key, id, page);
        self.assert_invariants();
    }

    /// Whether a channel or a connection waits to be worked on.
    #[must_use]
    pub fn has_work(&self) -> bool {
        self.lifetimes.delivery.streams.channels.first_ready().is_some() || self.has_backlog()
    }

    /// Whether one channel with a few members waits, and nothing else.
    #[must_use]
    pub fn is_work_small(&self) -> bool {
        let streams = &self.lifetimes.delivery.streams;
        !streams.has_backlog() && streams.channels.is_single_small_channel_ready()
    }

    /// Whether a connection waits that has much to read: a step may then be a long one.
    #[must_use]
    pub fn has_backlog(&self) -> bool {
        self.lifetimes.delivery.streams.has_backlog()
    }

    /// Gives the next channel its turn. After every few turns, or when no channel is left, it also visits the next
    /// connection of the backlog.
    pub fn step(&mut self) {
        if let Some(key) = self.streams().channels.first_ready() {
            self.turn(key);
            self.assert_invariants();
            self.turns = self.turns.wrapping_add(1);
            if !self.turns.is_multiple_of(TURNS_PER_VISIT) && self.streams().channels.first_ready().is_some() {
                return;
            }
        }
        if let Some(key) = self.streams().next_queued() {
            self.delivery().visit(key);
            self.assert_invariants();
        }
    }

    /// Visits the next members of a channel.
    fn turn(&mut self, key: usize) {
        let delivery = self.delivery();
        for _ in 0..MEMBERS_PER_TURN {
            let streams = &mut delivery.streams;
            match streams.channels.next(key, streams.seen, streams.now) {
                Next::Visit(member) => {
                    delivery.visit(member);
                }
                Next::End(member) => {
                    if !delivery.end_member(member) {
                        break;
                    }
                }
                Next::RoundOver => {
                    if !streams.channels.end_round(key, streams.now, streams.config.coalesce_max) {
                        return;
                    }
                }
            }
        }
        delivery.streams.channels.end_turn();
    }

    /// The socket accepts bytes again.
    pub fn writable(&mut self, key: usize) {
        let streams = self.streams();
        if let Some(connection) = streams.connections.get_mut(key).filter(|connection| connection.is_blocked()) {
            connection.unblock();
            streams.queue(key);
        }
        self.assert_invariants();
    }

    /// The peer has sent something, or has gone.
    pub fn readable(&mut self, key: usize) {
        let streams = self.streams();
        if let Some(Err(error)) = streams.connections.get_mut(key).map(Connection::discard_input) {
            streams.fail(key, &error);
        }
        self.assert_invariants();
    }

    /// In a debug build, fails when what the hub holds contradicts itself. Each call checks everything, so hubs that
    /// are larger than those of most tests are left out.
    fn assert_invariants(&self) {
        if cfg!(debug_assertions) && self.len() <= CHECKED_MAX {
            self.lifetimes.assert_invariants();
        }
    }
}
