//! Decides which connection is written next: the hub without its event loop.
//!
//! It owns the connections. The event loop tells it about commits, ready sockets and the time. It never waits itself,
//! so a test can run it with sockets of its own.
//!
//! Work waits in two queues. A *visit* writes to one connection what it is missing, up to a limit.
//!
//! - Ready channels: each must do a *round*, which is one visit to each member. A channel works in *turns* of at most
//!   [`MEMBERS_PER_TURN`] visits, so that the other channels need not wait for a whole round.
//! - The *backlog*: connections that must be visited apart from rounds, because one visit was not enough, or they are
//!   new, or their sockets accept bytes again.

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
    /// How many turns channels have had.
    turns: u32,
}

/// How many members of a channel are visited before the next channel has its turn.
const MEMBERS_PER_TURN: usize = 16;
/// After this many turns of channels, a connection of the backlog is visited. New events have priority over the
/// backlog, but cannot starve it.
const TURNS_PER_VISIT: u32 = 4;
/// In a debug build, a hub with at most this many connections checks its state after each change.
const CHECKED_MAX: usize = 32;

impl<S: Peer> Fanout<S> {
    /// Creates a hub without subscribers. Its feed must already be open.
    #[must_use]
    pub fn new(log: Arc<dyn Log>, config: StreamConfig, unsent: Arc<UnsentBytes>, now: Instant) -> Self {
        // Read the epoch before the watermark. If a new epoch begins in between, the feed reports it.
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

    /// The number of connections.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lifetimes.delivery.streams.connections.len()
    }

    /// Whether there is no connection.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lifetimes.delivery.streams.connections.is_empty()
    }

    /// Adds a subscriber. The first bytes of its stream have been written. `register` gets the key under which the
    /// caller must report that the socket is ready.
    ///
    /// The caller must apply the feed after the log has resolved the subscription's start, and before this call.
    /// Otherwise the feed may still contain a deletion from before the start, and that would end the new stream.
    ///
    /// # Errors
    /// The error of `register`. The subscriber is then dropped.
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
            // A new epoch has begun since its start was resolved.
            let key = streams.insert(connection, SmallVec::new());
            self.lifetimes.push_farewell(key, epoch, End::EpochEnded);
            self.streams().queue(key);
        } else if is_draining {
            connection.cold.ends_at = Some(streams.now);
            let key = streams.insert(connection, topics);
            self.lifetimes.end(key);
        } else {
            // It is visited from the backlog, not now: its replay may be long, and other connections wait, too.
            let key = streams.insert(connection, topics);
            streams.queue(key);
        }
        self.assert_invariants();
        Ok(())
    }

    /// Puts commits into the channels, which makes quiet channels ready. Then it calls [`advance`](Self::advance).
    ///
    /// The caller must read `now` before it takes the batch from the feed. So a stream that ends at `now` has got every
    /// event that was committed before `now`.
    pub fn apply(&mut self, batch: &mut Batch, now: Instant) {
        if let Some(epoch) = batch.epoch {
            self.lifetimes.begin_epoch(epoch);
        }
        let streams = self.streams();
        if batch.dropped_to > 0 {
            streams.seen = streams.seen.max(batch.dropped_to);
            streams.channels.mark_lost(batch.dropped_to);
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

    /// Sets the clock to `now`, and handles the timers and pauses that are over.
    pub fn advance(&mut self, now: Instant) {
        self.lifetimes.advance(now);
        self.assert_invariants();
    }

    /// The time at which [`advance`](Self::advance) must be called next.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        self.lifetimes.delivery.streams.next_deadline()
    }

    /// Ends every stream within `within`. The ends are spread evenly, so that not all clients reconnect at the same
    /// moment. A stream that has not got all events by then ends at its cursor.
    pub fn drain(&mut self, within: Duration) {
        self.lifetimes.drain(within);
        self.assert_invariants();
    }

    /// The next page to fetch. Requests whose connections no longer wait are skipped.
    pub fn next_page_request(&mut self) -> Option<PageRequest> {
        self.delivery().next_page_request()
    }

    /// Gives a fetched page to the connection that requested it, if that still waits for it.
    pub fn supply(&mut self, key: usize, id: NonZeroU32, page: Result<Page, ReadError>) {
        self.delivery().supply(key, id, page);
        self.assert_invariants();
    }

    /// Whether a channel is ready or a connection is in the backlog.
    #[must_use]
    pub fn has_work(&self) -> bool {
        self.lifetimes.delivery.streams.channels.first_ready().is_some() || self.has_backlog()
    }

    /// Whether the only work is one channel with a few members.
    #[must_use]
    pub fn is_work_small(&self) -> bool {
        let streams = &self.lifetimes.delivery.streams;
        !streams.has_backlog() && streams.channels.is_single_small_channel_ready()
    }

    /// Whether a connection is in the backlog. A step may then take long.
    #[must_use]
    pub fn has_backlog(&self) -> bool {
        self.lifetimes.delivery.streams.has_backlog()
    }

    /// Gives the next channel its turn. After every [`TURNS_PER_VISIT`] turns, or when no channel is ready, it also
    /// visits the next connection of the backlog.
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

    /// Visits the next members of the first ready channel, which is `key`.
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

    /// Handles that the socket of connection `key` accepts bytes again.
    pub fn writable(&mut self, key: usize) {
        let streams = self.streams();
        if let Some(connection) = streams.connections.get_mut(key).filter(|connection| connection.is_blocked()) {
            connection.unblock();
            streams.queue(key);
        }
        self.assert_invariants();
    }

    /// Handles that the peer of connection `key` has sent bytes, or has closed the connection.
    pub fn readable(&mut self, key: usize) {
        let streams = self.streams();
        if let Some(Err(error)) = streams.connections.get_mut(key).map(Connection::discard_input) {
            streams.fail(key, &error);
        }
        self.assert_invariants();
    }

    /// In a debug build, panics if the state of the hub is inconsistent. Each call checks everything, so larger hubs
    /// are not checked.
    fn assert_invariants(&self) {
        if cfg!(debug_assertions) && self.len() <= CHECKED_MAX {
            self.lifetimes.assert_invariants();
        }
    }
}
