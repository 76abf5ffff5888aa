//! What time does to a connection: heartbeat, write deadline, a polite end.

use std::{
    cmp::Reverse,
    time::{Duration, Instant},
};

use super::{
    connection::{Connection, Peer},
    fanout::Fanout,
    visit::Visit,
};
use crate::{
    event::EventId,
    frame::{self, Marks},
};

/// The soonest that a connection is looked after again, so that one which is overdue does not spin.
const GRAIN: Duration = Duration::from_millis(10);
/// The soonest that a drain ends a stream, if there is time: what is being published when it begins is as a rule committed
/// within this, and gets into all streams.
const LAST_EVENTS: Duration = Duration::from_millis(100);

impl<S: Peer> Fanout<S> {
    /// Moves the clock and does what has fallen due.
    pub fn advance(&mut self, now: Instant) {
        self.now = self.now.max(now);
        self.channels.end_pauses(self.now);
        while let Some(Reverse((due, key))) = self.deadlines.peek().copied() {
            if due > self.now {
                return;
            }
            self.deadlines.pop();
            if self.connections.get(key).is_some_and(|connection| connection.cold.timer_at == due) {
                self.look_after(key);
                self.schedule(key);
            }
        }
    }

    /// When [`advance`](Self::advance) has something to do next.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        let timer = self.deadlines.peek().map(|Reverse((at, _))| *at);
        timer.into_iter().chain(self.channels.next_pause_end()).min()
    }

    fn is_overdue(&self, key: usize) -> bool {
        let stalled_since = self.connections.get(key).and_then(|connection| connection.stalled_since);
        stalled_since.is_some_and(|since| since + self.config.write_timeout <= self.now)
    }

    /// Closes a connection that has taken nothing until its write deadline. One that waits for a page of the log has not been
    /// offered anything: it is closed when it does not take what the page brings.
    pub(super) fn close_overdue(&mut self, key: usize) {
        let waits = self.connections.get(key).is_some_and(|connection| connection.fetching.is_some());
        if !waits && self.is_overdue(key) {
            self.close(key, "it took nothing for stream.write_timeout");
        }
    }

    fn look_after(&mut self, key: usize) {
        if self.is_overdue(key) {
            // The kernel says that there is room only when a third of the buffer is free: a slow reader may have taken
            // something without a word of it.
            self.connections.get_mut(key).into_iter().for_each(Connection::unblock);
            self.visit(key);
            self.close_overdue(key);
        }
        let Some(connection) = self.connections.get(key) else { return };
        // Whoever waits to be told of a deletion must not be given a cursor past it first.
        let is_ending = connection.slots.iter().any(|slot| self.channels.is_ending(slot.channel));
        if is_ending && !self.dismiss(key) {
            return;
        }
        let Some(connection) = self.connections.get(key) else { return };
        if connection.cold.ends_at.is_some_and(|ends_at| ends_at <= self.now) {
            return self.end(key);
        }
        // What it is overdue for comes before a heartbeat.
        if connection.last_write + self.config.heartbeat <= self.now && !self.is_overdue(key) {
            self.visit(key);
            self.beat(key);
        }
    }

    /// Shows a stream that has had nothing for `stream.heartbeat` that it lives.
    fn beat(&mut self, key: usize) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        // In the middle of an event there is no place for it: the rest has to be read from the disk first.
        let has_no_place = connection.is_blocked() || connection.ending || connection.partial().is_some();
        if has_no_place || connection.last_write + self.config.heartbeat > self.now {
            return;
        }
        // One that waits for its turn or for a page of the log lives as well, but it is not at the tail.
        if !connection.queued && connection.fetching.is_none() {
            connection.cursor = connection.cursor.max(self.seen);
        }
        // A mark that says nothing new is a comment: to some clients each would be an empty message.
        let seq = connection.cursor;
        let moved = connection.cold.marks == Marks::Id && connection.last_id_sent < seq;
        let position = moved.then(|| EventId { epoch: self.log.epoch(), seq });
        connection.last_id_sent = if moved { seq } else { connection.last_id_sent };
        let block = frame::heartbeat(connection.encoding, position);
        self.push_control(key, &block);
        if let Err(error) = self.flush(key) {
            self.close(key, error);
        }
    }

    /// Ends a stream politely: all that there is now, where to resume, and when. What is more than a visit gives comes in turns
    /// with the others, and then the stream ends, however much has come meanwhile. A drain does not wait for it beyond its
    /// time: the client goes on where the stream ended.
    pub(super) fn end(&mut self, key: usize) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        let has_waited = connection.cold.ends_after.is_some();
        let ends_after = *connection.cold.ends_after.get_or_insert(self.seen);
        let is_late = self.drained_by.is_some_and(|by| by <= self.now);
        let waits = connection.queued && connection.cursor < ends_after;
        if waits && !is_late {
            return;
        }
        // One that is late and has waited has had its turns.
        let more = !(waits && has_waited) && self.visit(key) == Visit::More;
        let Some(connection) = self.connections.get_mut(key) else { return };
        if more && connection.cursor < ends_after && !is_late {
            return;
        }
        connection.cold.ends_at = None;
        if !connection.ending {
            let id = EventId { epoch: self.log.epoch(), seq: connection.cursor };
            let retry = jitter(self.config.retry);
            let farewell = frame::farewell(connection.encoding, connection.cold.marks, retry, id);
            self.push_last(key, &farewell);
            self.visit(key);
        }
    }

    /// Ends every stream within `within`, spread evenly, so that not all clients come back at the same moment. One that has not
    /// got everything by then ends where it is.
    pub fn drain(&mut self, within: Duration) {
        self.drained_by = Some(self.now + within);
        let begin = LAST_EVENTS.min(within / 10);
        let spread = within.saturating_sub(begin);
        let keys: Vec<usize> = self.connections.iter().map(|(key, _)| key).collect();
        for key in keys {
            if let Some(connection) = self.connections.get_mut(key) {
                connection.cold.ends_at = Some(self.now + begin + spread.mul_f64(fastrand::f64()));
                self.schedule(key);
            }
        }
    }

    pub(super) fn schedule(&mut self, key: usize) {
        if let Some(connection) = self.connections.get_mut(key) {
            let patience = match connection.stalled_since {
                // What decides is the write that follows the page.
                Some(_) if connection.fetching.is_some() => self.now + self.config.heartbeat,
                // It may take bytes again long before: not later than a heartbeat would then be due.
                Some(since) => (since + self.config.write_timeout).min(self.now + self.config.heartbeat),
                None => connection.last_write + self.config.heartbeat,
            };
            let due = connection.cold.ends_at.map_or(patience, |ends_at| ends_at.min(patience));
            connection.cold.timer_at = due.max(self.now + GRAIN);
            self.deadlines.push(Reverse((connection.cold.timer_at, key)));
        }
    }

    /// After a block: the write deadline may come before whatever it was due for.
    pub(super) fn hasten(&mut self, key: usize) {
        let Some(connection) = self.connections.get(key) else { return };
        if connection.stalled_since.is_some_and(|since| since + self.config.write_timeout < connection.cold.timer_at) {
            self.schedule(key);
        }
    }
}

/// `duration`, up to a fifth shorter or longer, so that clients that were cut together do not come back together.
#[must_use]
pub fn jitter(duration: Duration) -> Duration {
    duration.mul_f64(0.8 + 0.4 * fastrand::f64())
}
