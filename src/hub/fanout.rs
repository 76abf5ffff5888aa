//! Decides which connection is written next.
//!
//! The event loop tells [`Streams`] (the struct is in `streams`) about commits, ready sockets and the time. `Streams`
//! itself never waits, so a test can run it with sockets of its own.
//!
//! Work waits in two queues. A *visit* writes to one connection what it is missing, up to a limit.
//!
//! - Ready channels: each must do a *round*, which is one visit to each member. A channel works in *turns* of at most
//!   [`MEMBERS_PER_TURN`] visits, so that the other channels need not wait for a whole round.
//! - The *backlog*: connections that must be visited apart from rounds, because one visit was not enough, or they are
//!   new, or their sockets accept bytes again.

use std::{io, time::Instant};

use smallvec::SmallVec;

use super::{
    channels::Next,
    connection::{Connection, Peer, Subscription},
    delivery::Visit,
    end::End,
    streams::Streams,
};
use crate::log::{Batch, Commit};

/// How many members of a channel are visited before the next channel has its turn.
const MEMBERS_PER_TURN: usize = 16;
/// After this many turns of channels, a connection of the backlog is visited. New events have priority over the
/// backlog, but cannot starve it.
const TURNS_PER_VISIT: u32 = 4;
/// How many expired timers are handled in one step. To end a stream takes about as long as a visit.
const CHECKS_PER_STEP: usize = 16;

impl<S: Peer> Streams<S> {
    /// Adds a subscriber. The first bytes of its stream have been written. `register` gets the key under which the
    /// caller must report that the socket is ready.
    ///
    /// Before this call, but after the log has resolved the subscription's start, the caller must apply the feed.
    /// Otherwise a deletion from before the start could still be in the feed, and would end the new stream.
    ///
    /// # Errors
    /// The error of `register`. The subscriber is dropped.
    pub fn adopt(
        &mut self,
        mut socket: S,
        mut subscription: Subscription,
        register: impl FnOnce(&mut S, usize) -> io::Result<()>,
    ) -> io::Result<()> {
        register(&mut socket, self.connections.vacant_key())?;
        let (topics, epoch) = (std::mem::take(&mut subscription.topics), subscription.start.epoch);
        let early_end = self.end_on_arrival(&subscription);
        let mut connection = Connection::new(socket, subscription, self.now);
        if epoch != self.epoch {
            // A new epoch has begun since the log resolved the subscription's start.
            let key = self.insert(connection, SmallVec::new());
            self.push_farewell(key, epoch, End::EpochEnded);
            self.queue(key);
        } else if let Some(end) = early_end {
            let key = self.insert(connection, topics);
            self.end_at_cursor(key, end);
        } else if self.drain_ends_at.is_some() {
            connection.cold.stage_ends_at = Some(self.now);
            let key = self.insert(connection, topics);
            self.end_caught_up(key);
        } else {
            // This call does not visit the connection: the replay may be long, and other connections wait, too.
            let key = self.insert(connection, topics);
            self.note_adopted(key);
            self.queue(key);
        }
        self.assert_invariants();
        Ok(())
    }

    /// Puts commits into the channels, which makes quiet channels ready. Then it calls [`advance`](Self::advance).
    ///
    /// The caller must read `now` before it takes the batch from the feed. Then a stream that ends at `now` has got
    /// every event that was committed before `now`.
    pub fn apply(&mut self, batch: &mut Batch, now: Instant) {
        if let Some(epoch) = batch.epoch {
            self.begin_epoch(epoch);
        }
        if batch.dropped_to > 0 {
            self.seen = self.seen.max(batch.dropped_to);
            self.channels.skip_to(batch.dropped_to);
        }
        for commit in batch.commits.drain(..) {
            self.seen = self.seen.max(commit.seq());
            match commit {
                Commit::Event(event) => self.channels.push_event(event, self.epoch),
                Commit::Deleted(topic, seq) => self.channels.push_deletion(&topic, seq),
                Commit::Other(_) => {}
            }
        }
        self.advance(now);
    }

    /// Whether there is work: a channel is ready, or there is slow work.
    #[must_use]
    pub fn has_work(&self) -> bool {
        self.channels.first_ready().is_some() || self.has_slow_work()
    }

    /// Whether the only work is one channel with a few members.
    #[must_use]
    pub fn is_work_small(&self) -> bool {
        !self.has_slow_work() && self.channels.is_single_small_channel_ready()
    }

    /// Checks a few connections whose timers have expired, makes a step of a walk, and gives the next channel its turn.
    /// After every [`TURNS_PER_VISIT`] turns, or when no channel is ready, it also visits the next connection of the
    /// backlog.
    pub fn step(&mut self) {
        self.check_expired(CHECKS_PER_STEP);
        self.step_walk();
        if let Some(channel) = self.channels.first_ready() {
            self.turn(channel);
            self.assert_invariants();
            self.turns = self.turns.wrapping_add(1);
            if !self.turns.is_multiple_of(TURNS_PER_VISIT) && self.channels.first_ready().is_some() {
                return;
            }
        }
        if let Some(key) = self.next_queued() {
            self.visit(key);
            self.assert_invariants();
        }
    }

    /// Visits the next members of `channel`, the first ready channel.
    fn turn(&mut self, channel: usize) {
        for _ in 0..MEMBERS_PER_TURN {
            match self.channels.next(channel, self.seen, self.now) {
                Next::Visit(member) => {
                    self.visit(member);
                }
                Next::End(member) => {
                    // `Channels::next` would return the same member again. End the turn, because other channels wait.
                    if self.end_deleted(member) == Visit::More {
                        break;
                    }
                }
                Next::RoundOver => {
                    if !self.channels.end_round(channel, self.now, self.config.coalesce_max) {
                        // The channel has left the queue, which ends its turn.
                        return;
                    }
                }
            }
        }
        self.channels.end_turn();
    }

    /// Handles that the socket of connection `key` accepts bytes again.
    pub fn writable(&mut self, key: usize) {
        if let Some(connection) = self.connections.get_mut(key).filter(|connection| connection.is_blocked()) {
            connection.unblock();
            self.queue(key);
        }
        self.assert_invariants();
    }

    /// Handles that the peer of connection `key` has sent bytes, or has closed the connection.
    pub fn readable(&mut self, key: usize) {
        if let Some(Err(error)) = self.connections.get_mut(key).map(Connection::discard_input) {
            self.cut_failed(key, &error);
        }
        self.assert_invariants();
    }
}
