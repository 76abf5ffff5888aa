//! The unsent bytes of slow subscribers: events that are partly sent, and control blocks.
//!
//! The connection of a slow subscriber stores only which event is partly sent, and how many bytes of it. The event
//! itself is stored here, once for all subscribers that need it in the same encoding. The limit is
//! `stream.unsent_bytes_max`. When it is exceeded, the oldest events are dropped. They are read from the log again when
//! a socket accepts bytes.

use std::{
    collections::{BTreeMap, HashMap, btree_map::Entry},
    sync::{Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;

use crate::frame::{Encoding, Frame};

/// An event, by its position, in one encoding.
pub(super) type EventKey = (u64, Encoding);

/// The unsent bytes of all connections, shared by all hubs. Only slow subscribers have any.
#[derive(Debug)]
pub struct UnsentBytes(Mutex<Inner>);

#[derive(Debug)]
struct Inner {
    /// For each event that is partly sent: to how many connections.
    readers: HashMap<EventKey, usize>,
    /// The frames of these events, as far as the limit allows.
    frames: BTreeMap<EventKey, Frame>,
    /// The size of `frames` in bytes.
    bytes: usize,
    /// The size of the control blocks of all connections, in bytes.
    control: usize,
    /// The limit for `bytes` and `control` together.
    bytes_max: usize,
}

impl UnsentBytes {
    /// Creates it empty. `bytes_max` is `stream.unsent_bytes_max`.
    #[must_use]
    pub fn new(bytes_max: usize) -> Self {
        Self(Mutex::new(Inner { readers: HashMap::new(), frames: BTreeMap::new(), bytes: 0, control: 0, bytes_max }))
    }

    /// Whether no connection has unsent bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let inner = self.lock();
        inner.readers.is_empty() && inner.frames.is_empty() && inner.control == 0
    }

    /// Locks, also after a panic under the lock. An error would close every slow stream, which is worse.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a connection that has been sent a part of `frame`, and needs the rest later.
    pub(super) fn add_reader(&self, event: EventKey, frame: Frame) {
        let mut inner = self.lock();
        *inner.readers.entry(event).or_default() += 1;
        inner.keep(event, frame);
    }

    /// Stores `frame` for the connections that need its rest, if the limit allows.
    pub(super) fn keep(&self, event: EventKey, frame: Frame) {
        self.lock().keep(event, frame);
    }

    /// The frame of an event, if it is stored.
    pub(super) fn frame(&self, event: EventKey) -> Option<Frame> {
        self.lock().frames.get(&event).cloned()
    }

    /// Removes a connection that has been sent all of an event, or is closed.
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

    /// Adds a control block of a connection. If necessary, this drops events, because they can be read from the log
    /// again. Returns whether the control blocks are within the limit.
    pub(super) fn add_control(&self, block: &Bytes) -> bool {
        let mut inner = self.lock();
        inner.control += block.len();
        inner.drop_oldest();
        inner.control <= inner.bytes_max
    }

    /// Removes this many bytes of control blocks, which were sent, or were dropped with their connection.
    pub(super) fn remove_control(&self, bytes: usize) {
        let mut inner = self.lock();
        debug_assert!(bytes <= inner.control, "more bytes of control blocks are sent than were added");
        inner.control -= bytes;
    }
}

impl Inner {
    fn keep(&mut self, event: EventKey, frame: Frame) {
        debug_assert!(self.readers.contains_key(&event), "a stored event has readers");
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
        debug_assert!(!self.frames.is_empty() || self.bytes == 0, "without frames there are no bytes");
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

    /// The bytes of stored events, their number, and the number of events that are partly sent.
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
        unsent.remove_reader((1, LINES));
        unsent.remove_reader((1, LINES));
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
        for seq in 1..=3 {
            unsent.remove_reader((seq, LINES));
        }
        assert_eq!(counts(&unsent), (0, 0, 0));
        unsent.add_reader((4, LINES), frame(101));
        assert!(unsent.frame((4, LINES)).is_none(), "one that is larger than the limit is not kept");
        unsent.remove_reader((4, LINES));
    }

    #[test]
    fn it_is_empty_when_nobody_has_anything_to_be_sent() {
        let unsent = UnsentBytes::new(100);
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
