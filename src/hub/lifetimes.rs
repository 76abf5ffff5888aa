//! The timers of a stream: its heartbeat, its write deadline, and its end.

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

/// The streams of one hub, and the state of the drain.
pub(super) struct Lifetimes<S> {
    pub(super) delivery: Delivery<S>,
    /// When every stream must have ended; `None` as long as no drain has begun.
    drain_ends_at: Option<Instant>,
}

/// A drain ends no stream sooner, if it has time. Publishes that are in progress when it begins are usually committed
/// within this time, so all streams get them.
const DRAIN_DELAY: Duration = Duration::from_millis(100);

impl<S: Peer> Lifetimes<S> {
    pub(super) fn new(delivery: Delivery<S>) -> Self {
        Self { delivery, drain_ends_at: None }
    }

    /// Whether a drain has begun.
    pub(super) fn is_draining(&self) -> bool {
        self.drain_ends_at.is_some()
    }

    /// Sets the clock, ends the pauses of channels, and checks the connections whose timers have expired.
    pub(super) fn advance(&mut self, now: Instant) {
        let streams = &mut self.delivery.streams;
        streams.now = streams.now.max(now);
        streams.channels.end_pauses(streams.now);
        while let Some(key) = self.delivery.streams.next_timer() {
            self.check(key);
            self.delivery.streams.set_timer(key);
        }
    }

    /// Checks a connection whose timer has expired: its write deadline, its end, its heartbeat.
    fn check(&mut self, key: usize) {
        let delivery = &mut self.delivery;
        if delivery.streams.is_overdue(key) {
            // The kernel reports space only when a third of the buffer is free. A slow reader may have read a little
            // without such a report, so try to write before the connection is closed.
            if let Some(connection) = delivery.streams.connections.get_mut(key) {
                connection.unblock();
            }
            delivery.visit(key);
            delivery.streams.close_overdue(key);
        }
        let Some(connection) = delivery.streams.connections.get(key) else { return };
        // If the only topic was deleted, end the stream first. The heartbeat below would move the cursor past the
        // deletion.
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
        // An overdue connection cannot be sent a heartbeat.
        if connection.last_write + streams.config.heartbeat <= streams.now && !streams.is_overdue(key) {
            delivery.visit(key);
            self.send_heartbeat(key);
        }
    }

    /// Sends a heartbeat if nothing was sent for `stream.heartbeat`, so that the client knows that the stream is alive.
    fn send_heartbeat(&mut self, key: usize) {
        let streams = &mut self.delivery.streams;
        let Some(connection) = streams.connections.get_mut(key) else { return };
        let is_idle = connection.last_write + streams.config.heartbeat <= streams.now;
        // No heartbeat within an event that is partly sent. Its rest must be read from the disk first.
        if !is_idle || connection.is_blocked() || connection.is_ending() || connection.partial().is_some() {
            return;
        }
        debug_assert!(
            connection.is_queued || connection.page_request.is_some() || connection.cursor >= streams.seen,
            "a visit leads to the tail, to the backlog, or to a page of the log"
        );
        // Send a position only if it is new to the client. Some clients handle each one as an empty message.
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

    /// Ends a stream cleanly: its client gets all events up to now, unless it waits for its socket or for a page, and then
    /// where and when to resume.
    ///
    /// If the events need several visits, the timer calls this again until the stream has everything up to the position
    /// of the first call. When the drain time is over, the stream ends at its cursor.
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
        // A stream that waits in the backlog since the first call gets its further visits from there.
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

    /// Queues the last block of a stream: where to resume in `epoch`, and when.
    pub(super) fn push_farewell(&mut self, key: usize, epoch: Epoch, end: End) {
        let streams = &mut self.delivery.streams;
        let Some(connection) = streams.connections.get_mut(key) else { return };
        connection.cold.ends_at = None;
        let id = EventId { epoch, seq: connection.cursor };
        let retry = jitter(streams.config.retry);
        let farewell = frame::farewell(connection.encoding, connection.cold.marks, retry, id);
        streams.push_last(key, &farewell, end);
    }

    /// Ends all streams at their cursors, because a new epoch begins. When the clients reconnect, they are told of it
    /// (`reset`).
    pub(super) fn begin_epoch(&mut self, epoch: Epoch) {
        let keys: Vec<usize> = self.delivery.streams.connections.iter().map(|(key, _)| key).collect();
        for key in keys {
            let streams = &mut self.delivery.streams;
            let Some(connection) = streams.connections.get(key) else { continue };
            if connection.partial().is_some() {
                // The rest of its event cannot be read any more: in the new epoch, that position has another event.
                streams.close(key, End::EpochEnded);
                continue;
            }
            let old = streams.epoch;
            self.push_farewell(key, old, End::EpochEnded);
            self.delivery.streams.queue(key);
        }
        self.delivery.streams.begin_epoch(epoch);
    }

    /// Ends every stream within `within`. The ends are spread evenly, so that not all clients reconnect at the same
    /// moment. A stream that has not got all events by then ends at its cursor.
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

    /// Panics if the state is inconsistent. It checks everything, so it is for debug builds.
    pub(super) fn assert_invariants(&self) {
        let streams = &self.delivery.streams;
        streams.assert_invariants();
        for (_, connection) in &streams.connections {
            let ends = connection.is_ending() || connection.cold.ends_at.is_some();
            assert!(ends || !self.is_draining(), "in a drain each stream has an end");
        }
    }
}

/// Returns `duration` with a random change of up to 20 %, so that clients that were disconnected together do not
/// reconnect together.
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
