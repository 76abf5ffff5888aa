//! What time does to a stream: its heartbeat, its write deadline, and its end.

use std::time::{Duration, Instant};

use super::{
    connection::{Peer, Stage},
    delivery::{Delivery, Visit},
    end::End,
};
use crate::{
    event::{Epoch, EventId},
    frame::{self, Marks},
};

/// The streams of one hub, and the time at which all of them must have ended.
pub(super) struct Lifetimes<S> {
    pub(super) delivery: Delivery<S>,
    /// A drain has begun, and this is when every stream must have ended.
    drain_ends_at: Option<Instant>,
}

/// The soonest that a drain ends a stream, if there is time: what is being published when it begins is as a rule
/// committed within this, and gets into all streams.
const DRAIN_DELAY: Duration = Duration::from_millis(100);

impl<S: Peer> Lifetimes<S> {
    pub(super) fn new(delivery: Delivery<S>) -> Self {
        Self { delivery, drain_ends_at: None }
    }

    /// Whether a drain has begun.
    pub(super) fn is_draining(&self) -> bool {
        self.drain_ends_at.is_some()
    }

    /// Moves the clock, ends the pauses of channels, and checks the connections whose timers are over.
    pub(super) fn advance(&mut self, now: Instant) {
        let streams = &mut self.delivery.streams;
        streams.now = streams.now.max(now);
        streams.channels.end_pauses(streams.now);
        while let Some(key) = self.delivery.streams.next_timer() {
            self.check(key);
            self.delivery.streams.set_timer(key);
        }
    }

    /// Does what is due for a connection: its deletion, its end, its write deadline or its heartbeat.
    fn check(&mut self, key: usize) {
        let delivery = &mut self.delivery;
        if delivery.streams.is_overdue(key) {
            // The kernel reports space only when a third of the buffer is free: a slow reader may have read something
            // without any report of it.
            if let Some(connection) = delivery.streams.connections.get_mut(key) {
                connection.unblock();
            }
            delivery.visit(key);
            delivery.streams.close_overdue(key);
        }
        let Some(connection) = delivery.streams.connections.get(key) else { return };
        // A connection that must be told of a deletion must not be given a cursor past it first.
        let is_ending = connection.slots.iter().any(|slot| delivery.streams.channels.is_ending(slot.channel));
        if is_ending {
            delivery.end_member(key);
            return;
        }
        let streams = &delivery.streams;
        let Some(connection) = streams.connections.get(key) else { return };
        if connection.cold.ends_at.is_some_and(|ends_at| ends_at <= streams.now) {
            return self.end(key);
        }
        // What it is overdue for comes before a heartbeat.
        if connection.last_write + streams.config.heartbeat <= streams.now && !streams.is_overdue(key) {
            delivery.visit(key);
            self.send_heartbeat(key);
        }
    }

    /// Shows the client of a stream that has had nothing for `stream.heartbeat` that the stream lives.
    fn send_heartbeat(&mut self, key: usize) {
        let streams = &mut self.delivery.streams;
        let Some(connection) = streams.connections.get_mut(key) else { return };
        let is_idle = connection.last_write + streams.config.heartbeat <= streams.now;
        // Within an event no heartbeat can be written: the rest of the event has to be read from the disk first.
        if !is_idle || connection.is_blocked() || connection.is_ending() || connection.partial().is_some() {
            return;
        }
        debug_assert!(
            connection.is_queued || connection.page_request.is_some() || connection.cursor >= streams.seen,
            "a visit leads to the tail, to the backlog, or to a page of the log"
        );
        // A position that the client knows is left out: some clients take each for an empty message.
        let seq = connection.cursor;
        let tells_position = connection.cold.marks == Marks::Id && connection.last_id_sent < seq;
        if tells_position {
            connection.last_id_sent = seq;
        }
        let position = tells_position.then_some(EventId { epoch: streams.epoch, seq });
        let block = frame::heartbeat(connection.encoding, position);
        streams.push_control(key, &block);
        if let Err(error) = streams.flush(key) {
            streams.fail(key, &error);
        }
    }

    /// Ends a stream politely: with all that there is now, where to resume, and when. What is more than one visit gives
    /// comes visit by visit, between those to others; then the stream ends, however much has been published meanwhile.
    /// A drain does not wait for that beyond its time: the client resumes where the stream ended.
    pub(super) fn end(&mut self, key: usize) {
        let streams = &mut self.delivery.streams;
        let Some(connection) = streams.connections.get_mut(key) else { return };
        let (is_first_call, ends_after) = match connection.stage {
            Stage::Open => (true, streams.seen),
            Stage::Finishing(ends_after) => (false, ends_after),
            Stage::Ending(_) => {
                connection.cold.ends_at = None;
                self.delivery.visit(key);
                return;
            }
        };
        connection.stage = Stage::Finishing(ends_after);
        let is_late = self.drain_ends_at.is_some_and(|at| at <= streams.now);
        let is_waiting = connection.is_queued && connection.cursor < ends_after;
        if is_waiting && !is_late {
            return;
        }
        // What the first call leaves has its visits from the backlog.
        let more = is_first_call && self.delivery.visit(key) == Visit::More;
        let streams = &mut self.delivery.streams;
        let Some(connection) = streams.connections.get_mut(key) else { return };
        if more && connection.cursor < ends_after && !is_late {
            return;
        }
        connection.cold.ends_at = None;
        if connection.is_ending() {
            return;
        }
        let epoch = streams.epoch;
        let end = if self.drain_ends_at.is_some() { End::Drained } else { End::Lifetime };
        self.push_farewell(key, epoch, end);
        self.delivery.visit(key);
    }

    /// Gives a stream of this history its last block: where to resume, and when.
    pub(super) fn push_farewell(&mut self, key: usize, epoch: Epoch, end: End) {
        let streams = &mut self.delivery.streams;
        let Some(connection) = streams.connections.get_mut(key) else { return };
        connection.cold.ends_at = None;
        let id = EventId { epoch, seq: connection.cursor };
        let retry = jitter(streams.config.retry);
        let farewell = frame::farewell(connection.encoding, connection.cold.marks, retry, id);
        streams.push_last(key, &farewell, end);
    }

    /// The history has ended. So do its streams, each where it is: their clients come back, and are told that there is
    /// another one (`reset`).
    pub(super) fn begin_epoch(&mut self, epoch: Epoch) {
        let keys: Vec<usize> = self.delivery.streams.connections.iter().map(|(key, _)| key).collect();
        for key in keys {
            let streams = &mut self.delivery.streams;
            let Some(connection) = streams.connections.get(key) else { continue };
            if connection.partial().is_some() {
                // The rest cannot be read any more, and an event of the next history may have the same position.
                streams.close(key, End::EpochEnded);
                continue;
            }
            let old = streams.epoch;
            self.push_farewell(key, old, End::EpochEnded);
            self.delivery.streams.queue(key);
        }
        self.delivery.streams.begin_epoch(epoch);
    }

    /// Ends every stream within `within`, spread evenly, so that not all clients come back at the same moment. One that
    /// has not got everything by then ends where it is.
    pub(super) fn drain(&mut self, within: Duration) {
        let streams = &mut self.delivery.streams;
        self.drain_ends_at = Some(streams.now + within);
        let begin = DRAIN_DELAY.min(within / 10);
        let spread = within.saturating_sub(begin);
        let keys: Vec<usize> = streams.connections.iter().map(|(key, _)| key).collect();
        for key in keys {
            if let Some(connection) = streams.connections.get_mut(key) {
                connection.cold.ends_at = Some(streams.now + begin + spread.mul_f64(fastrand::f64()));
                streams.set_timer(key);
            }
        }
    }

    /// Fails when what is held contradicts itself. It checks everything, so it is for debug builds.
    pub(super) fn assert_invariants(&self) {
        let streams = &self.delivery.streams;
        streams.assert_invariants();
        for (_, connection) in &streams.connections {
            let ends = connection.is_ending() || connection.cold.ends_at.is_some();
            assert!(ends || !self.is_draining(), "in a drain each stream has an end");
        }
    }
}

/// `duration`, up to a fifth shorter or longer, so that clients that were disconnected together do not come back
/// together.
#[must_use]
pub fn jitter(duration: Duration) -> Duration {
    duration.mul_f64(0.8 + 0.4 * fastrand::f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_come_back_over_a_span_of_time() {
        // Goal: up to a fifth sooner or later than they are told, and over all of that.
        let times: Vec<Duration> = (0..1000).map(|_| jitter(Duration::from_secs(10))).collect();
        let (first, last) = (times.iter().min().expect("times"), times.iter().max().expect("times"));
        assert!(*first >= Duration::from_secs(8) && *last <= Duration::from_secs(12), "{first:?} to {last:?}");
        assert!(*first < Duration::from_secs(9) && *last > Duration::from_secs(11), "{first:?} to {last:?}");
    }
}
