//! What slow subscribers have yet to be sent: the events that are sent to them in part, and control blocks.
//!
//! A slow subscriber costs a cursor: its connection remembers which event it has in part, and how many bytes of it. The
//! event's bytes are here, once for all subscribers that read it in the same encoding, as far as
//! `stream.unsent_bytes_max` allows. Past that the oldest event is dropped, and is read again from the log when a
//! socket that needs it accepts bytes.

use std::{
    collections::{BTreeMap, HashMap, btree_map::Entry},
    sync::{Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;

use crate::frame::{Encoding, Frame};

/// An event, by its position, in one encoding.
pub(super) type EventKey = (u64, Encoding);

/// What connections have yet to send, shared by all hubs. Only slow subscribers come here.
#[derive(Debug)]
pub struct UnsentBytes(Mutex<Inner>);

#[derive(Debug)]
struct Inner {
    /// How many connections have sent an event in part, for each such event.
    readers: HashMap<EventKey, usize>,
    /// The frames of these events, as many as the limit allows.
    frames: BTreeMap<EventKey, Frame>,
    /// Bytes of `frames`.
    bytes: usize,
    /// Bytes of control blocks, over all connections.
    control: usize,
    /// The limit for both together.
    bytes_max: usize,
}

impl UnsentBytes {
    /// Nothing yet; `bytes_max` is `stream.unsent_bytes_max`.
    #[must_use]
    pub fn new(bytes_max: usize) -> Self {
        Self(Mutex::new(Inner { readers: HashMap::new(), frames: BTreeMap::new(), bytes: 0, control: 0, bytes_max }))
    }

    /// Whether no connection has anything to send.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let inner = self.lock();
        inner.readers.is_empty() && inner.frames.is_empty() && inner.control == 0
    }

    /// A panic under the lock is a bug, but to close every slow stream over it would be a worse one: go on.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection has sent a part of `frame`, and needs the rest.
    pub(super) fn add_reader(&self, event: EventKey, frame: Frame) {
        let mut inner = self.lock();
        *inner.readers.entry(event).or_default() += 1;
        inner.keep(event, frame);
    }

    /// Keeps `frame` for the connections that need the rest of it, if the limit allows.
    pub(super) fn keep(&self, event: EventKey, frame: Frame) {
        self.lock().keep(event, frame);
    }

    /// The frame of an event, if it is here.
    pub(super) fn frame(&self, event: EventKey) -> Option<Frame> {
        self.lock().frames.get(&event).cloned()
    }

    /// A connection has sent all of an event, or is closed.
    pub(super) fn remove_reader(&self, event: EventKey) {
        let mut inner = self.lock();
        let Some(readers) = inner.readers.get_mut(&event) else {
            debug_assert!(false, "a reader is removed that was not added");
            return;
        };
        *readers -= 1;
        if *readers == 0 {
            inner.readers.remove(&event);
            inner.bytes -= inner.frames.remove(&event).map_or(0, |frame| frame.len());
        }
    }

    /// A connection has been given a control block; whether the limit allows it. Events are dropped for it: they can be
    /// read again.
    pub(super) fn add_control(&self, block: &Bytes) -> bool {
        let mut inner = self.lock();
        inner.control += block.len();
        inner.drop_oldest();
        inner.control <= inner.bytes_max
    }

    /// So many bytes of control blocks have been sent, or are dropped with their connection.
    pub(super) fn remove_control(&self, bytes: usize) {
        let mut inner = self.lock();
        debug_assert!(bytes <= inner.control, "more bytes of control blocks are sent than were added");
        inner.control -= bytes;
    }
}

impl Inner {
    fn keep(&mut self, event: EventKey, frame: Frame) {
        debug_assert!(self.readers.contains_key(&event), "an event is kept for those that it is sent in part to");
        if let Entry::Vacant(entry) = self.frames.entry(event) {
            self.bytes += frame.len();
            entry.insert(frame);
            self.drop_oldest();
        }
    }

    fn drop_oldest(&mut self) {
        while self.bytes + self.control > self.bytes_max
            && let Some((_, frame)) = self.frames.pop_first()
        {
            self.bytes -= frame.len();
        }
        debug_assert!(!self.frames.is_empty() || self.bytes == 0, "bytes are counted that are not here");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{Format, Framing};

    const LINES: Encoding = Encoding { format: Format::Lines, framing: Framing::Chunked };

    fn frame(bytes: usize) -> Frame {
        Frame::Made(vec![b'x'; bytes].into())
    }

    /// Bytes of events, events, and events that somebody has in part.
    fn counts(unsent: &UnsentBytes) -> (usize, usize, usize) {
        let inner = unsent.lock();
        (inner.bytes, inner.frames.len(), inner.readers.len())
    }

    #[test]
    fn an_event_is_kept_once_for_all_its_readers_and_until_the_last() {
        let unsent = UnsentBytes::new(100);
        for _ in 0..3 {
            unsent.add_reader((1, LINES), frame(60));
        }
        assert_eq!(counts(&unsent), (60, 1, 1));
        (0..2).for_each(|_| unsent.remove_reader((1, LINES)));
        assert!(unsent.frame((1, LINES)).is_some());
        unsent.remove_reader((1, LINES));
        assert_eq!(counts(&unsent), (0, 0, 0));
        assert!(unsent.frame((1, LINES)).is_none());
    }

    #[test]
    fn past_the_limit_the_oldest_event_goes_and_its_readers_stay() {
        let unsent = UnsentBytes::new(100);
        unsent.add_reader((1, LINES), frame(50));
        unsent.add_reader((2, LINES), frame(50));
        assert_eq!(counts(&unsent).0, 100, "the limit itself is allowed");
        unsent.add_reader((3, LINES), frame(1));
        assert!(unsent.frame((1, LINES)).is_none() && unsent.frame((2, LINES)).is_some());
        unsent.keep((1, LINES), frame(50));
        assert!(unsent.frame((1, LINES)).is_none(), "it is still the oldest");
        unsent.remove_reader((2, LINES));
        unsent.keep((1, LINES), frame(50));
        assert!(unsent.frame((1, LINES)).is_some(), "there is room for it again");
        unsent.add_reader((2, LINES), frame(50));
        (1..=3).for_each(|seq| unsent.remove_reader((seq, LINES)));
        assert_eq!(counts(&unsent), (0, 0, 0));
        unsent.add_reader((4, LINES), frame(101));
        assert!(unsent.frame((4, LINES)).is_none(), "one that is larger than the limit is not kept");
        unsent.remove_reader((4, LINES));
    }

    #[test]
    fn it_is_empty_when_nobody_has_anything_to_be_sent() {
        let unsent = Unsent::new(100);
        assert!(unsent.is_empty());
        unsent.add_reader((1, LINES), frame(101));
        assert!(unsent.frame((1, LINES)).is_none() && !unsent.is_empty(), "its reader needs it all the same");
        unsent.remove_reader((1, LINES));
        assert!(unsent.is_empty());
        unsent.add_control(&vec![0; 1].into());
        assert!(!unsent.is_empty());
        unsent.remove_control(1);
        assert!(unsent.is_empty());
    }

    #[test]
    fn control_blocks_displace_events_and_are_limited_too() {
        let unsent = UnsentBytes::new(100);
        unsent.add_reader((1, LINES), frame(50));
        assert!(unsent.add_control(&vec![0; 60].into()));
        assert!(unsent.frame((1, LINES)).is_none(), "an event can be read again, a control block cannot");
        assert!(unsent.add_control(&vec![0; 40].into()));
        assert!(!unsent.add_control(&vec![0; 1].into()));
        unsent.remove_control(101);
        assert!(unsent.add_control(&vec![0; 100].into()));
    }
}
