//! What a hub counts. Only the thread of the hub writes here.

use std::{array, io, time::Duration};

use super::end::End;
use crate::{
    frame::{Frame, GapReason},
    log::wall_ms,
    metrics::{Counter, Histogram, count_one},
};

/// What one hub has counted since the server started.
// The counters of two hubs are not in one cache line, nor in two that are fetched together.
#[derive(Debug)]
#[repr(align(128))]
pub struct HubCounts {
    /// Streams that were opened.
    pub opened: Counter,
    /// Streams that have ended, by the place of the reason in [`End::ALL`].
    pub ended: [Counter; End::ALL.len()],
    /// Events that sockets have accepted to their last byte.
    pub events: Counter,
    /// Those of them that were read from the log, because the subscriber was behind.
    pub replayed: Counter,
    /// The bytes of events that sockets have accepted.
    pub bytes: Counter,
    /// Gaps that open streams were told of, by the place of the reason in [`GapReason::ALL`].
    pub gaps: [Counter; GapReason::ALL.len()],
    /// From the commit of an event to the moment when a socket accepts it, without those that were replayed. The time
    /// of an event is known to the millisecond. A write of several events counts each with the age of the oldest one.
    pub delivery: Histogram,
}

/// The events of one write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Written {
    /// How many there are.
    events: u64,
    /// When the first one was committed, which is the oldest one.
    oldest_ms: u64,
}

impl Written {
    /// Adds the next frame, if it is an event.
    pub(super) fn add(&mut self, frame: &Frame) {
        if let Some(time_ms) = frame.time_ms() {
            if self.events == 0 {
                self.oldest_ms = time_ms;
            }
            self.events += 1;
        }
    }
}

impl Default for HubCounts {
    fn default() -> Self {
        Self {
            opened: Counter::default(),
            ended: array::from_fn(|_| Counter::default()),
            events: Counter::default(),
            replayed: Counter::default(),
            bytes: Counter::default(),
            gaps: array::from_fn(|_| Counter::default()),
            delivery: Histogram::default(),
        }
    }
}

impl HubCounts {
    /// How many streams are open.
    #[must_use]
    pub fn open(&self) -> u64 {
        let ended: u64 = self.ended.iter().map(Counter::get).sum();
        self.opened.get().saturating_sub(ended)
    }

    /// Counts a stream that has ended, and logs it.
    pub(super) fn note_end(&self, key: usize, end: End, error: Option<&io::Error>) {
        let error = error.map(tracing::field::display);
        tracing::debug!(key, end = end.as_str(), error, "stream closed");
        count_one(End::ALL, &self.ended, &end);
    }

    /// Counts events that a socket has accepted, and bytes of events.
    pub(super) fn note_written(&self, Written { events, oldest_ms }: Written, bytes: usize) {
        self.note_bytes(bytes);
        if events > 0 {
            self.events.add(events);
            self.delivery.add(Duration::from_millis(wall_ms().saturating_sub(oldest_ms)), events);
        }
    }

    /// Counts events that were read from the log, because the subscriber was behind.
    pub(super) fn note_replayed(&self, Written { events, .. }: Written, bytes: usize) {
        self.note_bytes(bytes);
        self.events.add(events);
        self.replayed.add(events);
    }

    /// Counts bytes of a partly sent event, and the event if these are its last ones. It may be a replayed one, so its
    /// age is not counted.
    pub(super) fn note_rest(&self, bytes: usize, is_complete: bool) {
        self.note_bytes(bytes);
        self.events.add(u64::from(is_complete));
    }

    /// Counts a gap that an open stream is told of.
    pub(super) fn note_gap(&self, reason: GapReason) {
        count_one(GapReason::ALL, &self.gaps, &reason);
    }

    fn note_bytes(&self, bytes: usize) {
        self.bytes.add(u64::try_from(bytes).unwrap_or_default());
    }
}
