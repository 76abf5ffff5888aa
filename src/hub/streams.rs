//! The streams of one hub: the connections, their memberships in channels, the backlog, and the timers.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use slab::Slab;
use smallvec::SmallVec;

use super::{
    backlog::Backlog,
    channels::Channels,
    connection::{Connection, Peer, Slot, Stage},
    end::End,
    segment::{WriteEnd, Written},
    unsent::UnsentBytes,
};
use crate::{
    config::StreamConfig,
    event::{Epoch, EventId, TopicName},
};

/// The connections of one hub, and the queues that they wait in.
pub(super) struct Streams<S> {
    /// All connections, each under its key.
    pub(super) connections: Slab<Connection<S>>,
    /// The channels that the connections are members of.
    pub(super) channels: Channels,
    /// The epoch of all positions here.
    pub(super) epoch: Epoch,
    /// All commits up to this position have been put into the channels.
    pub(super) seen: u64,
    /// The time of the last call to `advance`.
    pub(super) now: Instant,
    pub(super) config: StreamConfig,
    /// What slow subscribers have not been sent yet. All hubs share it.
    pub(super) unsent: Arc<UnsentBytes>,
    /// The queue of connections that must be visited. They have `is_queued` set.
    backlog: Backlog,
    /// When to check each connection. An entry is stale if the connection's `timer_at` is different.
    timers: BinaryHeap<Reverse<(Instant, usize)>>,
}

/// A connection is not checked again sooner. Otherwise an overdue connection could keep the hub busy.
const CHECK_INTERVAL_MIN: Duration = Duration::from_millis(10);

impl<S: Peer> Streams<S> {
    /// No streams. `seen` is the watermark of the log.
    pub(super) fn new(config: StreamConfig, unsent: Arc<UnsentBytes>, seen: EventId, now: Instant) -> Self {
        Self {
            connections: Slab::new(),
            channels: Channels::new(),
            epoch: seen.epoch,
            seen: seen.seq,
            now,
            config,
            unsent,
            backlog: Backlog::default(),
            timers: BinaryHeap::new(),
        }
    }

    /// Adds a connection, and makes it a member of a channel for each of its topics. Its key is [`Slab::vacant_key`].
    pub(super) fn insert(&mut self, mut connection: Connection<S>, topics: SmallVec<[TopicName; 1]>) -> usize {
        let key = self.connections.vacant_key();
        let single_topic = topics.len() == 1;
        for topic in topics {
            let channel = self.channels.open(topic, connection.encoding, single_topic, (self.seen, self.now));
            if let Some(entry) = self.channels.get_mut(channel) {
                connection.slots.push(Slot { channel, index: entry.members.len() });
                entry.members.push(key);
            }
        }
        self.connections.insert(connection);
        self.set_timer(key);
        key
    }

    /// Begins another epoch. All connections must already have got their last blocks.
    pub(super) fn begin_epoch(&mut self, epoch: Epoch) {
        for (_, connection) in &mut self.connections {
            debug_assert!(
                connection.is_ending() && connection.partial().is_none(),
                "all streams of the old epoch are ending"
            );
            connection.slots = SmallVec::new();
        }
        self.channels = Channels::new();
        (self.epoch, self.seen) = (epoch, 0);
    }

    /// Closes a connection after its last block was sent. The client sees a clean end of the stream.
    pub(super) fn finish(&mut self, key: usize) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        let Stage::Ending(end) = connection.stage else { return };
        connection.socket.finish();
        self.close(key, end);
    }

    /// Closes a connection that has failed.
    pub(super) fn fail(&mut self, key: usize, error: &io::Error) {
        self.remove(key, End::from_error(error), Some(error));
    }

    /// Closes a connection at once.
    pub(super) fn close(&mut self, key: usize, end: End) {
        self.remove(key, end, None);
    }

    /// Removes a connection, which closes its socket.
    fn remove(&mut self, key: usize, end: End, error: Option<&io::Error>) {
        let Some(connection) = self.connections.try_remove(key) else { return };
        log_end(key, end, error);
        if connection.is_queued {
            self.backlog.close(key);
        }
        connection.release_unsent(&self.unsent);
        for slot in connection.slots {
            self.leave(slot);
        }
    }

    /// Removes a connection from a channel. The caller has removed the slot from the connection.
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

    /// The topics of a connection.
    pub(super) fn topics(&self, connection: &Connection<S>) -> Vec<TopicName> {
        let channels = connection.slots.iter().filter_map(|slot| self.channels.get(slot.channel));
        channels.map(|channel| channel.topic.clone()).collect()
    }

    /// Puts a connection into the backlog, unless it is already there.
    pub(super) fn queue(&mut self, key: usize) {
        let Some(connection) = self.connections.get_mut(key).filter(|connection| !connection.is_queued) else { return };
        connection.is_queued = true;
        self.backlog.push(key);
    }

    pub(super) fn has_backlog(&self) -> bool {
        !self.backlog.is_empty()
    }

    /// Removes the next connection from the backlog.
    pub(super) fn next_queued(&mut self) -> Option<usize> {
        let key = self.backlog.pop()?;
        if let Some(connection) = self.connections.get_mut(key) {
            connection.is_queued = false;
        }
        Some(key)
    }

    /// Queues a control block for a connection, unless its stream has got its last block. If that would exceed
    /// `stream.unsent_bytes_max`, the connection is closed: its client reconnects, and is told then.
    pub(super) fn push_control(&mut self, key: usize, block: &Bytes) {
        let Some(connection) = self.connections.get_mut(key).filter(|connection| !connection.is_ending()) else {
            return;
        };
        if block.is_empty() {
            return;
        }
        connection.push_control(block);
        if !self.unsent.add_control(block) {
            self.close(key, End::UnsentBytes);
        }
    }

    /// Queues the last control block for a connection, which then ends for the reason `end`. If it is ending already,
    /// the reason does not change.
    pub(super) fn push_last(&mut self, key: usize, block: &Bytes, end: End) {
        self.push_control(key, block);
        if let Some(connection) = self.connections.get_mut(key) {
            // A topic may be deleted while its stream is ending for another reason.
            if !connection.is_ending() {
                connection.stage = Stage::Ending(end);
            }
            // No further events are sent, so only a partly sent event may still need its page.
            connection.page_request = connection.page_request.filter(|_| connection.partial().is_some());
        }
    }

    /// Writes the unsent control blocks of a connection that has no partly sent event. Returns whether all are sent.
    pub(super) fn flush(&mut self, key: usize) -> io::Result<bool> {
        let Some(connection) = self.connections.get_mut(key) else { return Ok(false) };
        let control = connection.control_len();
        let written = connection.flush(&[], self.now)?;
        self.after_write(key, control, written, None)?;
        Ok(written == Written::All)
    }

    /// Updates the state after a write. Before the write, the connection had `control` bytes of control blocks. If the
    /// socket is full, the connection now waits until the socket accepts bytes.
    ///
    /// # Errors
    /// When the system cannot watch the socket.
    pub(super) fn after_write(
        &mut self,
        key: usize,
        control: usize,
        written: Written,
        end: Option<WriteEnd>,
    ) -> io::Result<()> {
        let Some(connection) = self.connections.get_mut(key) else { return Ok(()) };
        debug_assert!(control >= connection.control_len(), "a write adds no control block");
        if control > 0 {
            self.unsent.remove_control(control - connection.control_len());
        }
        if let Some(WriteEnd { seq, partial }) = end {
            connection.move_cursor(seq);
            connection.last_id_sent = seq;
            if let Some((frame, sent)) = partial {
                connection.set_partial(seq, sent);
                self.unsent.add_reader((seq, connection.encoding), frame);
            }
        }
        if written != Written::All {
            connection.wait_writable(key, self.now)?;
            self.bring_timer_forward(key);
        }
        Ok(())
    }

    /// Whether a connection's socket has accepted nothing for `stream.write_timeout`.
    pub(super) fn is_overdue(&self, key: usize) -> bool {
        let stalled_since = self.connections.get(key).and_then(|connection| connection.stalled_since);
        stalled_since.is_some_and(|since| since + self.config.write_timeout <= self.now)
    }

    /// Closes an overdue connection, unless it waits for a page of the log. While it waits, nothing is written, so its
    /// socket cannot accept anything. Whether it is overdue is decided after the page has been written.
    pub(super) fn close_overdue(&mut self, key: usize) {
        let waits = self.connections.get(key).is_some_and(|connection| connection.page_request.is_some());
        if !waits && self.is_overdue(key) {
            self.close(key, End::WriteTimeout);
        }
    }

    /// Sets the timer of a connection to the time of its next check.
    pub(super) fn set_timer(&mut self, key: usize) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        let heartbeat_at = connection.last_write + self.config.heartbeat;
        let check_at = match connection.stalled_since {
            // It is not closed before the page has come: see `close_overdue`.
            Some(_) if connection.page_request.is_some() => self.now + self.config.heartbeat,
            // Check it no later than the next heartbeat, because its socket may accept bytes again long before the
            // deadline.
            Some(since) => (since + self.config.write_timeout).min(self.now + self.config.heartbeat),
            None => heartbeat_at,
        };
        let timer_at = connection.cold.ends_at.map_or(check_at, |ends_at| ends_at.min(check_at));
        connection.cold.timer_at = timer_at.max(self.now + CHECK_INTERVAL_MIN);
        self.timers.push(Reverse((connection.cold.timer_at, key)));
    }

    /// Sets the timer of a connection to its write deadline, if that is earlier.
    fn bring_timer_forward(&mut self, key: usize) {
        let Some(connection) = self.connections.get(key) else { return };
        let write_deadline = connection.stalled_since.map(|since| since + self.config.write_timeout);
        if write_deadline.is_some_and(|deadline| deadline < connection.cold.timer_at) {
            self.set_timer(key);
        }
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

    /// When the next timer expires or the next pause ends.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let timer = self.timers.peek().map(|Reverse((at, _))| *at);
        timer.into_iter().chain(self.channels.next_pause_end()).min()
    }

    /// Panics if connections, channels, backlog and timers contradict each other. It checks everything, so it is for
    /// debug builds.
    pub(super) fn assert_invariants(&self) {
        self.channels.assert_invariants();
        let backlog: Vec<usize> = self.backlog.iter().collect();
        let mut slots = 0;
        for (key, connection) in &self.connections {
            slots += connection.slots.len();
            for slot in &connection.slots {
                let member = self.channels.get(slot.channel).and_then(|channel| channel.members.get(slot.index));
                assert_eq!(member, Some(&key), "a connection is a member where its slots say");
            }
            let queued = backlog.iter().filter(|other| **other == key).count();
            assert_eq!(queued, usize::from(connection.is_queued), "`is_queued` says whether it is in the backlog");
            let timer = Reverse((connection.cold.timer_at, key));
            assert!(self.timers.iter().any(|other| *other == timer), "each connection has a timer");
            assert!(connection.last_id_sent <= connection.cursor, "the last id sent is not after the cursor");
        }
        assert_eq!(slots, self.channels.memberships(), "each member of a channel is a connection with a slot there");
        assert!(backlog.iter().all(|key| self.connections.contains(*key)), "no closed connection is in the backlog");
    }
}

/// Gives back the connections' part of the shared [`UnsentBytes`], also when the hub panics.
impl<S> Drop for Streams<S> {
    fn drop(&mut self) {
        for (key, connection) in &self.connections {
            log_end(key, End::Cut, None);
            connection.release_unsent(&self.unsent);
        }
    }
}

fn log_end(key: usize, end: End, error: Option<&io::Error>) {
    let error = error.map(tracing::field::display);
    tracing::debug!(key, end = end.as_str(), error, "stream closed");
}

#[cfg(test)]
mod tests;
