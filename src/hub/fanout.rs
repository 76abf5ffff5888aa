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
    collections::{BinaryHeap, HashMap, VecDeque},
    io,
    iter::repeat_n,
    num::NonZeroU32,
    sync::Arc,
    time::Instant,
};

use slab::Slab;
use smallvec::SmallVec;

use super::{
    channel::Channel,
    connection::{Connection, Peer, Slot, Subscription},
    unsent::Unsent,
};
use crate::{
    config::StreamConfig,
    event::{Event, TopicName},
    frame::{self, Encoding, Frame},
    log::{Batch, Commit, Log},
};

/// The subscribers of one worker.
pub struct Fanout<S> {
    pub(super) log: Arc<dyn Log>,
    pub(super) config: StreamConfig,
    /// Every commit up to here has been put into the channels.
    pub(super) seen: u64,
    pub(super) connections: Slab<Connection<S>>,
    pub(super) channels: Slab<Channel>,
    /// The channels of a topic, one an encoding in use, those of an encoding beside each other.
    pub(super) names: HashMap<TopicName, SmallVec<[usize; 1]>>,
    /// Channels with a round to run, each once.
    pub(super) ready: VecDeque<usize>,
    /// Channels with a round to run from then on, each once, and in none of the others.
    pub(super) resting: BinaryHeap<Reverse<(Instant, usize)>>,
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
            channels: Slab::new(),
            names: HashMap::new(),
            ready: VecDeque::new(),
            resting: BinaryHeap::new(),
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
            let channel = self.channel(topic, connection.encoding, alone);
            if let Some(entry) = self.channels.get_mut(channel) {
                connection.slots.push(Slot { channel, position: entry.members.len() });
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

    /// The channel of `topic` in `encoding`, for streams of it `alone` or of others, too; made if need be.
    fn channel(&mut self, topic: TopicName, encoding: Encoding, alone: bool) -> usize {
        let known = self.names.entry(topic.clone()).or_default();
        let mut place = known.len();
        for (at, key) in known.iter().enumerate() {
            match self.channels.get(*key) {
                Some(channel) if channel.encoding == encoding && channel.alone == alone => return *key,
                Some(channel) if channel.encoding == encoding => place = at,
                _ => {}
            }
        }
        let key = self.channels.insert(Channel::new(topic, encoding, alone, self.seen, self.now));
        known.insert(place, key);
        key
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
            let keys: Vec<usize> = self.channels.iter().map(|(key, _)| key).collect();
            for key in keys {
                self.channels.get_mut(key).into_iter().for_each(|channel| channel.lose(batch.lost_to));
                self.activate(key);
            }
        }
        for commit in batch.commits.drain(..) {
            self.seen = self.seen.max(commit.seq());
            match commit {
                Commit::Event(event) => self.put(event),
                Commit::Deleted(topic, seq) => self.put_deletion(&topic, seq),
            }
        }
    }

    fn put(&mut self, event: Arc<Event>) {
        let Some(keys) = self.names.get(&event.topic).cloned() else { return };
        let (seq, epoch) = (event.seq, self.log.epoch());
        let mut made: Option<(Encoding, Frame)> = None;
        for (key, event) in keys.iter().zip(repeat_n(event, keys.len())) {
            let Some(channel) = self.channels.get_mut(*key) else { continue };
            let made_before = made.take().filter(|(encoding, _)| *encoding == channel.encoding);
            let frame = made_before.map_or_else(|| frame::event(channel.encoding, epoch, event), |(_, frame)| frame);
            if keys.len() > 1 {
                made = Some((channel.encoding, frame.clone()));
            }
            channel.push(seq, frame);
            self.activate(*key);
        }
    }

    pub(super) fn activate(&mut self, key: usize) {
        if let Some(channel) = self.channels.get_mut(key).filter(|channel| !channel.active) {
            channel.active = true;
            channel.visited = 0;
            self.ready.push_back(key);
        }
    }

    /// Ends a rest. A deletion must be told before events of other topics that came after it.
    pub(super) fn rouse(&mut self, key: usize) {
        let resting = self.resting.len();
        self.resting.retain(|Reverse((_, other))| *other != key);
        if self.resting.len() < resting {
            self.ready.push_front(key);
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
        !(self.ready.is_empty() && self.backlog.is_empty())
    }

    /// Whether a connection waits that has much to read: a step may then be a long one.
    #[must_use]
    pub fn has_backlog(&self) -> bool {
        !self.backlog.is_empty()
    }

    /// Gives the next channel its turn. After every few turns, or when no channel is left, it also visits the next
    /// connection of the backlog.
    pub fn step(&mut self) {
        if let Some(key) = self.ready.pop_front() {
            self.turn(key);
            self.turns = self.turns.wrapping_add(1);
            if !self.turns.is_multiple_of(TURNS_PER_VISIT) && !self.ready.is_empty() {
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
            let Some(channel) = self.channels.get_mut(key) else { return };
            if channel.dying && !channel.members.is_empty() {
                let member = channel.members.last().copied().unwrap_or_default();
                if self.dismiss(member) {
                    continue;
                }
                break;
            }
            if channel.visited == 0 {
                (channel.floor, channel.began) = (self.seen, self.now);
            }
            if let Some(member) = channel.members.get(channel.visited).copied() {
                channel.visited += 1;
                self.visit(member);
                continue;
            }
            channel.trim(channel.floor);
            channel.visited = 0;
            // A window that has lost frames since is empty, too, but those who were visited before have not had them.
            if (channel.is_empty() && channel.covers(channel.floor)) || channel.members.is_empty() {
                channel.active = false;
                return self.retire(key);
            }
            let rest = channel.rest(self.now, self.config.coalesce_max);
            if !rest.is_zero() {
                return self.resting.push(Reverse((self.now + rest, key)));
            }
        }
        self.ready.push_back(key);
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

    /// Fills a slot that has become free with the channel's last member, without letting a round skip anybody: one
    /// that has been visited moves to the border first, so only a member not yet visited takes a place behind it.
    pub(super) fn leave(&mut self, slot: Slot) {
        let Some(channel) = self.channels.get_mut(slot.channel) else { return };
        let mut hole = slot.position;
        if hole < channel.visited {
            channel.visited -= 1;
            channel.members.swap(hole, channel.visited);
            let moved = channel.members.get(hole).copied();
            hole = channel.visited;
            self.move_slot(moved, Slot { channel: slot.channel, position: slot.position });
        }
        let Some(channel) = self.channels.get_mut(slot.channel) else { return };
        channel.members.swap_remove(hole);
        let moved = channel.members.get(hole).copied();
        self.move_slot(moved, Slot { channel: slot.channel, position: hole });
        self.retire(slot.channel);
    }

    fn move_slot(&mut self, member: Option<usize>, to: Slot) {
        let connection = member.and_then(|key| self.connections.get_mut(key));
        let slots = connection.into_iter().flat_map(|connection| connection.slots.iter_mut());
        slots.filter(|slot| slot.channel == to.channel).for_each(|slot| slot.position = to.position);
    }

    /// Removes a channel that has nobody in it, unless it waits for a turn, which will find it so.
    fn retire(&mut self, key: usize) {
        let Some(channel) = self.channels.get(key).filter(|c| c.members.is_empty() && !c.active) else { return };
        if let Some(known) = self.names.get_mut(&channel.topic) {
            known.retain(|known| *known != key);
            if known.is_empty() {
                self.names.remove(&channel.topic);
            }
        }
        self.channels.remove(key);
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
