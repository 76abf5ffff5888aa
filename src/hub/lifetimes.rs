//! The life of a stream: its heartbeats, its write deadline, and its end. These are methods of [`Streams`], whose
//! struct is in `streams`.

use std::time::{Duration, Instant};

use smallvec::SmallVec;

use super::{
    channels::Channels,
    connection::{Peer, Stage},
    end::End,
    jitter::jitter,
    streams::Streams,
};
use crate::{
    event::{Epoch, EventId},
    frame::{self, Marks},
};

/// In a drain that is long enough, no stream ends before this time. Publishes that are in progress when the drain
/// begins are usually committed by then, so all streams get them.
const DRAIN_DELAY: Duration = Duration::from_millis(100);

/// How many expired timers are handled before other work. Further ones are handled step by step.
const CHECKS_PER_ADVANCE: usize = 64;

impl<S: Peer> Streams<S> {
    /// Sets the clock, ends the channels' pauses that are over, and checks [`CHECKS_PER_ADVANCE`] connections whose
    /// timers have expired. [`step`](Self::step) checks the others: thousands of streams may end at the same moment.
    pub fn advance(&mut self, now: Instant) {
        self.now = self.now.max(now);
        self.channels.end_pauses(self.now);
        self.check_expired(CHECKS_PER_ADVANCE);
        self.assert_invariants();
    }

    /// Checks the next connections whose timers have expired, at most `n`.
    pub(super) fn check_expired(&mut self, n: usize) {
        for _ in 0..n {
            let Some(key) = self.next_timer() else { return };
            self.check(key);
            self.set_timer(key);
        }
    }

    /// Checks a connection whose timer has expired: its right, its write deadline, its end, its heartbeat.
    fn check(&mut self, key: usize) {
        let right_ends_at = self.connections.get(key).and_then(|connection| connection.cold.right_ends_at);
        if right_ends_at.is_some_and(|at| at <= self.now) {
            // The right comes first: the visits below may write events, and the client has no right to them any more.
            self.end_at_cursor(key, End::Unauthorized);
        }
        if self.is_overdue(key) {
            // The kernel reports space only when a third of the buffer is free. A slow reader may have read a little
            // without such a report, so try to write before the connection is cut.
            if let Some(connection) = self.connections.get_mut(key) {
                connection.unblock();
            }
            self.visit(key);
            self.cut_overdue(key);
        }
        let Some(connection) = self.connections.get(key) else { return };
        if connection.slots.iter().any(|slot| self.channels.is_ending(slot.channel)) {
            // A channel is ending only if its members have no other topic, and that topic was deleted. A heartbeat
            // would move the client's cursor past the deletion.
            self.end_deleted(key);
        } else if connection.cold.stage_ends_at.is_some_and(|at| at <= self.now) {
            if connection.is_ending() {
                self.cut(key, End::WriteTimeout);
            } else {
                self.end_caught_up(key);
            }
        } else if self.is_idle(key) && !self.is_overdue(key) {
            // A connection that is still overdue waits for a page. The page comes before a heartbeat.
            // A heartbeat may tell the client a position, so this visit first writes the events up to that position.
            self.visit(key);
            if self.is_idle(key) {
                self.send_heartbeat(key);
            }
        }
    }

    /// Whether nothing was sent to a connection for `stream.heartbeat`.
    fn is_idle(&self, key: usize) -> bool {
        let connection = self.connections.get(key);
        connection.is_some_and(|connection| connection.last_write + self.config.heartbeat <= self.now)
    }

    /// Sends a heartbeat to a connection that is idle, so that the client knows that the stream is alive.
    fn send_heartbeat(&mut self, key: usize) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        // A partly sent event waits here for its rest from the disk. A heartbeat inside the event would destroy it.
        if connection.is_blocked() || connection.is_ending() || connection.partial().is_some() {
            return;
        }
        debug_assert!(
            connection.is_queued || connection.page_request.is_some() || connection.cursor >= self.seen,
            "a visit leads to the tail, to the backlog, or to a page of the log"
        );
        // Send a position only if it is new to the client. Some clients handle each one as an empty message.
        let mut position = None;
        if connection.cold.marks == Marks::Id && connection.last_id_sent < connection.cursor {
            connection.last_id_sent = connection.cursor;
            position = Some(EventId { epoch: self.epoch, seq: connection.cursor });
        }
        let block = frame::heartbeat(connection.encoding, position);
        self.push_control(key, &block);
        if let Err(error) = self.flush(key) {
            self.cut_failed(key, &error);
        }
    }

    /// Ends a stream cleanly: its client gets all events up to now, and then the farewell. A stream that
    /// waits for its socket or for a page, or whose drain time is over, ends at its cursor instead.
    ///
    /// A connection that is in the backlog may need several visits to catch up. This method does not wait for them:
    /// they take turns with the visits to other connections. The connection's timer calls this method again, because
    /// `stage_ends_at` has passed.
    pub(super) fn end_caught_up(&mut self, key: usize) {
        let is_late = self.drain_ends_at.is_some_and(|at| at <= self.now);
        let Some(connection) = self.connections.get_mut(key) else { return };
        if connection.stage == Stage::Open {
            // This is the first call for this connection.
            connection.stage = Stage::CatchingUp(self.seen);
            // The backlog visits a queued connection later. If the drain time is over, that is too late: visit it now.
            if !connection.is_queued || is_late {
                self.visit(key);
            }
        }
        // The visit may have closed the connection, or have ended its stream for another reason.
        let Some(connection) = self.connections.get(key) else { return };
        let Stage::CatchingUp(last_seq) = connection.stage else { return };
        if connection.is_queued && connection.cursor < last_seq && !is_late {
            return;
        }
        let end = if self.drain_ends_at.is_some() { End::Drained } else { End::Lifetime };
        self.push_farewell(key, self.epoch, end);
        self.visit(key);
    }

    /// Queues the last block of a stream: where to resume in `epoch`, and when.
    pub(super) fn push_farewell(&mut self, key: usize, epoch: Epoch, end: End) {
        let Some(connection) = self.connections.get(key) else { return };
        let id = EventId { epoch, seq: connection.cursor };
        let retry = jitter(self.config.retry);
        let farewell = frame::farewell(connection.encoding, connection.cold.marks, retry, id);
        self.push_last(key, &farewell, end);
    }

    /// Begins another epoch. All streams of the old epoch end at their cursors, and those with a partly sent event are
    /// cut. When their clients reconnect, a gap notice with the reason `reset` tells them of the new epoch.
    pub(super) fn begin_epoch(&mut self, epoch: Epoch) {
        for key in self.keys() {
            if self.connections.get(key).is_some_and(|connection| connection.partial().is_some()) {
                // The rest of the event cannot be read any more: in the new epoch, its position has another event.
                self.cut(key, End::EpochEnded);
                continue;
            }
            self.push_farewell(key, self.epoch, End::EpochEnded);
            self.queue(key);
        }
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

    /// Ends every stream within `within`. The ends are spread evenly, so that not all clients reconnect at the same
    /// moment. A stream that has not got all events in time ends at its cursor.
    pub fn drain(&mut self, within: Duration) {
        self.drain_ends_at = Some(self.now + within);
        let delay = DRAIN_DELAY.min(within / 10);
        let spread = within.saturating_sub(delay);
        for key in self.keys() {
            let Some(connection) = self.connections.get_mut(key).filter(|connection| !connection.is_ending()) else {
                continue;
            };
            connection.cold.stage_ends_at = Some(self.now + delay + spread.mul_f64(fastrand::f64()));
            self.set_timer(key);
        }
        self.assert_invariants();
    }

    /// The keys of all connections.
    fn keys(&self) -> Vec<usize> {
        self.connections.iter().map(|(key, _)| key).collect()
    }
}
