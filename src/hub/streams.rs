//! The streams of one hub: its connections, their slots in the channels, the backlog, and a timer for each.

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

/// The connections of one hub, and what each of them waits for.
pub(super) struct Streams<S> {
    /// Each under its key.
    pub(super) connections: Slab<Connection<S>>,
    pub(super) channels: Channels,
    /// The history that all positions are of.
    pub(super) epoch: Epoch,
    /// Every commit up to here has been put into the channels.
    pub(super) seen: u64,
    /// The time when the hub was called last.
    pub(super) now: Instant,
    pub(super) config: StreamConfig,
    /// Bytes that sockets have yet to accept.
    pub(super) unsent: Arc<UnsentBytes>,
    /// Connections that have more to read than one visit gives, which are those that are `is_queued`.
    backlog: Backlog,
    /// When to check which connection. An entry counts only while the connection's `timer_at` agrees.
    timers: BinaryHeap<Reverse<(Instant, usize)>>,
}

/// The soonest that a connection is checked again, so that one which is overdue does not keep the hub busy.
const CHECK_INTERVAL_MIN: Duration = Duration::from_millis(10);

impl<S: Peer> Streams<S> {
    /// No streams. Every commit up to `seen` is in the log.
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

    /// Adds a connection, under [`Slab::vacant_key`], with a slot in the channel of each of its topics.
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

    /// Begins another history. The connections that there are must have had their last blocks.
    pub(super) fn begin_epoch(&mut self, epoch: Epoch) {
        for (_, connection) in &mut self.connections {
            debug_assert!(connection.is_ending() && connection.partial().is_none(), "nothing more is read for it");
            connection.slots = SmallVec::new();
        }
        self.channels = Channels::new();
        (self.epoch, self.seen) = (epoch, 0);
    }

    /// Closes a connection whose last block is sent: its client sees that the stream ended, and was not cut.
    pub(super) fn finish(&mut self, key: usize) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        let Stage::Ending(end) = connection.stage else { return };
        connection.socket.finish();
        self.close(key, end);
    }

    /// Closes a connection that met with an error.
    pub(super) fn fail(&mut self, key: usize, error: &io::Error) {
        self.remove(key, End::from_error(error), Some(error));
    }

    /// Closes a connection at once.
    pub(super) fn close(&mut self, key: usize, end: End) {
        self.remove(key, end, None);
    }

    /// Forgets a connection, which closes its socket.
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

    /// Gives up a connection's slot in a channel. The connection itself must not have it any more.
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

    /// Puts a connection into the backlog, unless it is there.
    pub(super) fn queue(&mut self, key: usize) {
        let Some(connection) = self.connections.get_mut(key).filter(|connection| !connection.is_queued) else { return };
        connection.is_queued = true;
        self.backlog.push(key);
    }

    pub(super) fn has_backlog(&self) -> bool {
        !self.backlog.is_empty()
    }

    /// Takes the next connection out of the backlog.
    pub(super) fn next_queued(&mut self) -> Option<usize> {
        let key = self.backlog.pop()?;
        if let Some(connection) = self.connections.get_mut(key) {
            connection.is_queued = false;
        }
        Some(key)
    }

    /// Gives a connection a control block, unless its stream has had its last block. Past `stream.unsent_bytes_max` the
    /// connection is closed: its client comes back, and is told then.
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

    /// Gives a connection its last control block: it ends for this reason, unless it ends already.
    pub(super) fn push_last(&mut self, key: usize, block: &Bytes, end: End) {
        self.push_control(key, block);
        if let Some(connection) = self.connections.get_mut(key) {
            // A topic may be deleted while a stream that ends for another reason waits for its socket.
            if !connection.is_ending() {
                connection.stage = Stage::Ending(end);
            }
            // No other event follows: only the one that is sent in part still needs a page.
            connection.page_request = connection.page_request.filter(|_| connection.partial().is_some());
        }
    }

    /// Writes what is left of the control blocks; whether all of that is sent.
    pub(super) fn flush(&mut self, key: usize) -> io::Result<bool> {
        let Some(connection) = self.connections.get_mut(key) else { return Ok(false) };
        let control = connection.control_len();
        let written = connection.flush(&[], self.now)?;
        self.after_write(key, control, written, None)?;
        Ok(written == Written::All)
    }

    /// Notes what a write to a connection with `control` bytes of control blocks has changed. Then lets it wait for its
    /// socket where that is full, which may fail.
    pub(super) fn after_write(
        &mut self,
        key: usize,
        control: usize,
        written: Written,
        end: Option<WriteEnd>,
    ) -> io::Result<()> {
        let Some(connection) = self.connections.get_mut(key) else { return Ok(()) };
        debug_assert!(control >= connection.control_len(), "a write adds nothing to what is unsent");
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

    /// Closes a connection that is overdue. To one that waits for a page of the log nothing is written meanwhile: it is
    /// closed when its socket does not accept what the page brings.
    pub(super) fn close_overdue(&mut self, key: usize) {
        let waits = self.connections.get(key).is_some_and(|connection| connection.page_request.is_some());
        if !waits && self.is_overdue(key) {
            self.close(key, End::WriteTimeout);
        }
    }

    /// Sets the timer of a connection to when it must be checked next.
    pub(super) fn set_timer(&mut self, key: usize) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        let heartbeat_at = connection.last_write + self.config.heartbeat;
        let check_at = match connection.stalled_since {
            // What decides is the write that follows the page.
            Some(_) if connection.page_request.is_some() => self.now + self.config.heartbeat,
            // Its socket may accept bytes again long before: not later than a heartbeat would then be due.
            Some(since) => (since + self.config.write_timeout).min(self.now + self.config.heartbeat),
            None => heartbeat_at,
        };
        let timer_at = connection.cold.ends_at.map_or(check_at, |ends_at| ends_at.min(check_at));
        connection.cold.timer_at = timer_at.max(self.now + CHECK_INTERVAL_MIN);
        self.timers.push(Reverse((connection.cold.timer_at, key)));
    }

    /// Sets the timer again where the write deadline of a socket that has become full comes before it.
    fn bring_timer_forward(&mut self, key: usize) {
        let Some(connection) = self.connections.get(key) else { return };
        let write_deadline = connection.stalled_since.map(|since| since + self.config.write_timeout);
        if write_deadline.is_some_and(|deadline| deadline < connection.cold.timer_at) {
            self.set_timer(key);
        }
    }

    /// The next connection whose timer is over. Its timer must then be set again.
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

    /// When the next timer or pause is over.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let timer = self.timers.peek().map(|Reverse((at, _))| *at);
        timer.into_iter().chain(self.channels.next_pause_end()).min()
    }

    /// Fails when connections, channels, backlog and timers contradict each other. It checks everything, so it is for
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
            assert_eq!(queued, usize::from(connection.is_queued), "a connection is queued that is in the backlog");
            let timer = Reverse((connection.cold.timer_at, key));
            assert!(self.timers.iter().any(|other| *other == timer), "each connection has a timer");
            assert!(connection.last_id_sent <= connection.cursor, "an id on the wire is not beyond the cursor");
        }
        assert_eq!(slots, self.channels.memberships(), "each member of a channel is a connection with a slot there");
        assert!(
            backlog.iter().all(|key| self.connections.contains(*key)),
            "a connection that is closed waits for nothing"
        );
    }
}

/// What all hubs share is given back when a hub goes, also when it panics.
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
