//! The streams of one hub: the connections, their memberships in channels, the backlog, and the timers.
//!
//! Files above this one have further methods of [`Streams`]: `fanout` decides which connection is written next,
//! `lifetimes` and `subscribers` end streams, `delivery` writes events, and `pages` reads them from the log.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
    io,
    num::NonZeroU32,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use slab::Slab;
use smallvec::SmallVec;

use super::{
    backlog::Backlog,
    channel::Channel,
    channels::Channels,
    connection::{Connection, Peer, Slot, Stage},
    counts::HubCounts,
    end::End,
    recent_ends::RecentEnds,
    segment::WriteEnd,
    unsent::UnsentBytes,
    walk::Walk,
};
use crate::{
    config::StreamConfig,
    event::{Epoch, TopicName},
    log::{Log, Page, ReadError},
};

/// The subscribers of one worker.
pub struct Streams<S> {
    pub(super) log: Arc<dyn Log>,
    /// All connections, each under its key.
    pub(super) connections: Slab<Connection<S>>,
    /// The channels that the connections are members of.
    pub(super) channels: Channels,
    /// The epoch of all positions here.
    pub(super) epoch: Epoch,
    /// The feed has been applied up to this position. Commits that the feed dropped, or that are older than this hub,
    /// are not in the channels.
    pub(super) seen: u64,
    /// The time of the last call to `advance`.
    pub(super) now: Instant,
    pub(super) config: StreamConfig,
    /// The unsent bytes of slow subscribers. All hubs share them.
    pub(super) unsent: Arc<UnsentBytes>,
    pub(super) counts: Arc<HubCounts>,
    /// The queue of connections that must be visited. They have `is_queued` set.
    pub(super) backlog: Backlog,
    /// When to check which connection, by its key. An entry is stale if the connection's `timer_at` is another time.
    pub(super) timers: BinaryHeap<Reverse<(Instant, usize)>>,
    /// Pages that the event loop must fetch, in order.
    pub(super) page_requests: VecDeque<PageRequest>,
    /// The id of the newest page request.
    pub(super) last_request_id: NonZeroU32,
    /// When every stream must have ended; `None` as long as no drain has begun.
    pub(super) drain_ends_at: Option<Instant>,
    /// How many turns channels have had.
    pub(super) turns: u32,
    /// Commands that look at all connections, in order. The first one is under way.
    pub(super) walks: VecDeque<Walk>,
    /// The latest commands that ended the streams of identities.
    pub(super) recent_ends: RecentEnds,
}

/// A page of the log that a connection waits for. The event loop fetches it, and calls [`Streams::supply`].
pub struct PageRequest {
    /// The key of the connection.
    pub key: usize,
    /// Identifies the request. The page of an earlier request with the same key may arrive late, and must be ignored.
    pub id: NonZeroU32,
    /// Reads the page. The read begins when the future is polled.
    pub page: BoxFuture<'static, Result<Page, ReadError>>,
}

/// The shortest timer of a connection. With a shorter one, a connection whose check changes nothing could keep the hub
/// busy.
const TIMER_MIN: Duration = Duration::from_millis(10);

impl<S: Peer> Streams<S> {
    /// Creates the streams of a hub that has no subscribers yet. The hub's feed must already be open.
    #[must_use]
    pub fn new(log: Arc<dyn Log>, config: StreamConfig, unsent: Arc<UnsentBytes>, now: Instant) -> Self {
        // Read the epoch before the watermark. If a new epoch begins in between, the feed reports it.
        let epoch = log.epoch();
        Self {
            seen: log.watermark(),
            log,
            connections: Slab::new(),
            channels: Channels::new(),
            epoch,
            now,
            config,
            unsent,
            counts: Arc::default(),
            backlog: Backlog::default(),
            timers: BinaryHeap::new(),
            page_requests: VecDeque::new(),
            last_request_id: NonZeroU32::MIN,
            drain_ends_at: None,
            turns: 0,
            walks: VecDeque::new(),
            recent_ends: RecentEnds::new(now),
        }
    }

    /// Counts in `counts` from now on.
    #[must_use]
    pub fn counting_in(self, counts: Arc<HubCounts>) -> Self {
        let mut streams = self;
        streams.counts = counts;
        streams
    }

    /// The number of connections.
    #[must_use]
    pub fn len(&self) -> usize {
        self.connections.len()
    }

    /// Whether there is no connection.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.connections.is_empty()
    }

    /// Adds a connection under the next vacant key, and makes it a member of a channel for each of its topics.
    pub(super) fn insert(&mut self, mut connection: Connection<S>, topics: SmallVec<[TopicName; 1]>) -> usize {
        let key = self.connections.vacant_key();
        let single_topic = topics.len() == 1;
        for topic in topics {
            let channel_key = self.channels.open(topic, connection.encoding, single_topic, self.seen);
            if let Some(channel) = self.channels.get_mut(channel_key) {
                connection.slots.push(Slot { channel: channel_key, index: channel.members.len() });
                channel.members.push(key);
            }
        }
        self.connections.insert(connection);
        self.counts.opened.add(1);
        self.set_timer(key);
        key
    }

    /// Closes a connection after its last block was sent. The client sees a clean end of the stream.
    pub(super) fn close_ended(&mut self, key: usize) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        let Stage::Ending(end) = connection.stage else { return };
        connection.socket.finish();
        self.cut(key, end);
    }

    /// Closes a connection that has failed.
    pub(super) fn cut_failed(&mut self, key: usize, error: &io::Error) {
        self.remove(key, End::from_error(error), Some(error));
    }

    /// Closes a connection at once. Bytes that its socket has not accepted yet are lost.
    pub(super) fn cut(&mut self, key: usize, end: End) {
        self.remove(key, end, None);
    }

    /// Removes a connection, which closes its socket.
    fn remove(&mut self, key: usize, end: End, error: Option<&io::Error>) {
        let Some(connection) = self.connections.try_remove(key) else { return };
        self.counts.note_end(key, end, error);
        if connection.is_queued {
            self.backlog.close(key);
        }
        connection.release_unsent(&self.unsent);
        for slot in connection.slots {
            self.leave(slot);
        }
    }

    /// Removes a connection from a channel. The caller has removed the slot from the connection. Up to two other
    /// members of the channel move to another index, so their slots are corrected.
    pub(super) fn leave(&mut self, slot: Slot) {
        for moved in self.channels.leave(slot.channel, slot.index).into_iter().flatten() {
            let Some(connection) = self.connections.get_mut(moved.key) else { continue };
            for other in &mut connection.slots {
                if other.channel == slot.channel {
                    other.index = moved.index;
                }
            }
        }
    }

    /// The channels of a connection, one for each of its topics.
    pub(super) fn channels_of(&self, connection: &Connection<S>) -> impl Iterator<Item = &Channel> {
        connection.slots.iter().filter_map(|slot| self.channels.get(slot.channel))
    }

    /// Puts a connection into the backlog, unless it is already there.
    pub(super) fn queue(&mut self, key: usize) {
        let Some(connection) = self.connections.get_mut(key).filter(|connection| !connection.is_queued) else { return };
        connection.is_queued = true;
        self.backlog.push(key);
    }

    /// Whether there is work besides the rounds of channels: a connection is in the backlog or has an expired timer, or
    /// a walk is under way. One step of such work may take long.
    #[must_use]
    pub fn has_slow_work(&self) -> bool {
        !self.backlog.is_empty() || !self.walks.is_empty() || self.has_expired_timer()
    }

    /// Removes the next connection from the backlog.
    pub(super) fn next_queued(&mut self) -> Option<usize> {
        let key = self.backlog.pop()?;
        if let Some(connection) = self.connections.get_mut(key) {
            connection.is_queued = false;
        }
        Some(key)
    }

    /// Queues a control block for a connection, unless the last block of its stream is already queued. If there is no
    /// room for the block in `stream.unsent_bytes_max`, the connection is closed. A client that missed the notice of a
    /// gap or of a deletion gets it when it reconnects.
    pub(super) fn push_control(&mut self, key: usize, block: &Bytes) {
        let Some(connection) = self.connections.get_mut(key).filter(|connection| !connection.is_ending()) else {
            return;
        };
        if block.is_empty() {
            return;
        }
        connection.push_control(block);
        if !self.unsent.add_control(block) {
            self.cut(key, End::UnsentBytes);
        }
    }

    /// Queues the last control block for a connection, which then ends for the reason `end`. If the connection is
    /// ending already, the reason does not change.
    pub(super) fn push_last(&mut self, key: usize, block: &Bytes, end: End) {
        self.push_control(key, block);
        if let Some(connection) = self.connections.get_mut(key) {
            // A topic may be deleted while its stream is ending for another reason.
            if !connection.is_ending() {
                connection.stage = Stage::Ending(end);
                (connection.cold.stage_ends_at, connection.cold.right_ends_at) = (None, None);
            }
            // No further events are sent, so only a partly sent event may still need its page.
            connection.page_request = connection.page_request.filter(|_| connection.partial().is_some());
        }
    }

    /// Writes the unsent control blocks of a connection that has no partly sent event. Returns whether all are sent.
    pub(super) fn flush(&mut self, key: usize) -> io::Result<bool> {
        let Some(connection) = self.connections.get_mut(key) else { return Ok(false) };
        if connection.has_control() {
            self.unsent.remove_control(connection.write_control(self.now)?);
        }
        let is_sent = !connection.has_control();
        if !is_sent {
            self.wait_writable(key)?;
        }
        Ok(is_sent)
    }

    /// Notes that the socket is full, and that it accepted the events of a write up to `end`; `None` if it accepted
    /// nothing.
    pub(super) fn stop_at(&mut self, key: usize, end: Option<WriteEnd>) -> io::Result<()> {
        if let Some(connection) = self.connections.get_mut(key)
            && let Some(WriteEnd { seq, partial, .. }) = end
        {
            connection.move_cursor(seq);
            connection.last_id_sent = seq;
            if let Some((frame, sent)) = partial {
                connection.set_partial(seq, sent);
                self.unsent.add_reader((seq, connection.encoding), frame);
            }
        }
        self.wait_writable(key)
    }

    /// Notes that the socket is full. From now on, the connection waits until the socket accepts bytes again.
    ///
    /// # Errors
    /// When the system cannot watch the socket.
    pub(super) fn wait_writable(&mut self, key: usize) -> io::Result<()> {
        let Some(connection) = self.connections.get_mut(key) else { return Ok(()) };
        connection.wait_writable(key, self.now)?;
        // The timer was set for a heartbeat or for the stream's end, which may be after the write deadline.
        let timer_at = connection.cold.timer_at;
        if self.write_deadline(key).is_some_and(|deadline| deadline < timer_at) {
            self.set_timer(key);
        }
        Ok(())
    }

    /// The time at which a connection is overdue, unless its socket accepts bytes before. `None` if the socket has
    /// accepted the last write.
    fn write_deadline(&self, key: usize) -> Option<Instant> {
        let stalled_since = self.connections.get(key)?.stalled_since?;
        Some(stalled_since + self.config.write_timeout)
    }

    /// Whether a connection's socket has accepted nothing for `stream.write_timeout`.
    pub(super) fn is_overdue(&self, key: usize) -> bool {
        self.write_deadline(key).is_some_and(|deadline| deadline <= self.now)
    }

    /// Closes an overdue connection, unless it waits for a page of the log. As long as it waits, nothing is written to
    /// its socket, so the socket cannot accept anything. After the page is written, the connection is checked again.
    pub(super) fn cut_overdue(&mut self, key: usize) {
        let waits = self.connections.get(key).is_some_and(|connection| connection.page_request.is_some());
        if !waits && self.is_overdue(key) {
            self.cut(key, End::WriteTimeout);
        }
    }

    /// Sets the timer of a connection to the time of its next check.
    pub(super) fn set_timer(&mut self, key: usize) {
        let write_deadline = self.write_deadline(key);
        let Some(connection) = self.connections.get_mut(key) else { return };
        let mut check_at = match write_deadline {
            None => connection.last_write + self.config.heartbeat,
            // The socket is full, so the next write is later than now. The next heartbeat is due `stream.heartbeat`
            // after that write.
            Some(_) => self.now + self.config.heartbeat,
        };
        // A connection that waits for a page is not closed before the page has come: see `cut_overdue`.
        if let Some(deadline) = write_deadline.filter(|_| connection.page_request.is_none()) {
            check_at = check_at.min(deadline);
        }
        for ends_at in [connection.cold.stage_ends_at, connection.cold.right_ends_at].into_iter().flatten() {
            check_at = check_at.min(ends_at);
        }
        connection.cold.timer_at = check_at.max(self.now + TIMER_MIN);
        self.timers.push(Reverse((connection.cold.timer_at, key)));
    }

    /// Whether a timer has expired, perhaps a stale one.
    fn has_expired_timer(&self) -> bool {
        self.timers.peek().is_some_and(|Reverse((at, _))| *at <= self.now)
    }

    /// The next connection whose timer has expired. The caller must set its timer again.
    pub(super) fn next_timer(&mut self) -> Option<usize> {
        while let Some(Reverse((at, key))) = self.timers.peek().copied()
            && at <= self.now
        {
            self.timers.pop();
            if self.connections.get(key).is_some_and(|connection| connection.cold.timer_at == at) {
                return Some(key);
            }
        }
        None
    }

    /// The time at which [`advance`](Self::advance) must be called next, because a timer expires or a pause ends.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        let timer = self.timers.peek().map(|Reverse((at, _))| *at);
        timer.into_iter().chain(self.channels.next_pause_end()).min()
    }
}

/// Gives back the connections' part of the shared [`UnsentBytes`], also when the hub panics.
impl<S> Drop for Streams<S> {
    fn drop(&mut self) {
        for (key, connection) in &self.connections {
            self.counts.note_end(key, End::Cut, None);
            connection.release_unsent(&self.unsent);
        }
    }
}

#[cfg(test)]
mod tests;
