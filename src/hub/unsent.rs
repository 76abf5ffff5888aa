//! What slow subscribers are in the middle of: events that a socket has taken in part, and blocks of the broker's own that
//! it has not taken yet.
//!
//! A slow subscriber costs a cursor: its connection remembers which event it is in the middle of, and how many bytes of it
//! are out. The event's bytes are here, once for all subscribers that read it in the same encoding, as far as
//! `stream.unsent_bytes_max` allows. Past that the oldest event goes, and is read again from the log when a socket that
//! needs it takes bytes.

use std::{
    collections::{BTreeMap, HashMap, btree_map::Entry},
    sync::{Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;

use crate::frame::{Encoding, Frame};

/// An event, by its position, in one encoding.
pub(super) type Place = (u64, Encoding);

/// What connections have begun and not sent; shared by all hubs. Only slow subscribers come here.
#[derive(Debug)]
pub struct Unsent(Mutex<Books>);

#[derive(Debug)]
struct Books {
    /// How many connections are in the middle of an event.
    readers: HashMap<Place, usize>,
    /// The events, as far as there is room.
    frames: BTreeMap<Place, Frame>,
    /// Bytes of `frames`.
    bytes: usize,
    /// Bytes of the broker's own blocks, over all connections.
    own: usize,
    bytes_max: usize,
}

impl Unsent {
    /// Nothing yet; `bytes_max` is `stream.unsent_bytes_max`.
    #[must_use]
    pub fn new(bytes_max: usize) -> Self {
        Self(Mutex::new(Books { readers: HashMap::new(), frames: BTreeMap::new(), bytes: 0, own: 0, bytes_max }))
    }

    /// Whether nothing is begun that is not sent.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let books = self.books();
        books.readers.is_empty() && books.frames.is_empty() && books.own == 0
    }

    /// A panic under the lock is a bug, but to cut every slow subscriber over it would be a worse one: go on.
    fn books(&self) -> MutexGuard<'_, Books> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection is in the middle of `frame` from now on.
    pub(super) fn begin(&self, place: Place, frame: Frame) {
        let mut books = self.books();
        *books.readers.entry(place).or_default() += 1;
        books.keep(place, frame);
    }

    /// Keeps `frame` for the connections that are in the middle of it, if there is room.
    pub(super) fn keep(&self, place: Place, frame: Frame) {
        self.books().keep(place, frame);
    }

    pub(super) fn frame(&self, place: Place) -> Option<Frame> {
        self.books().frames.get(&place).cloned()
    }

    /// A connection has sent all of the event, or has gone.
    pub(super) fn end(&self, place: Place) {
        let mut books = self.books();
        let Some(readers) = books.readers.get_mut(&place) else { return };
        *readers -= 1;
        if *readers == 0 {
            books.readers.remove(&place);
            books.bytes -= books.frames.remove(&place).map_or(0, |frame| frame.len());
        }
    }

    /// A connection has been given a block of the broker's own; whether there is room for it. Events make room: they can be
    /// read again.
    pub(super) fn owe(&self, block: &Bytes) -> bool {
        let mut books = self.books();
        books.own += block.len();
        books.make_room();
        books.own <= books.bytes_max
    }

    /// So many bytes of the broker's own blocks have been sent, or are not wanted any more.
    pub(super) fn settle(&self, own: usize) {
        self.books().own -= own;
    }
}

impl Books {
    fn keep(&mut self, place: Place, frame: Frame) {
        if let Entry::Vacant(entry) = self.frames.entry(place) {
            self.bytes += frame.len();
            entry.insert(frame);
            self.make_room();
        }
    }

    fn make_room(&mut self) {
        while self.bytes + self.own > self.bytes_max
            && let Some((_, frame)) = self.frames.pop_first()
        {
            self.bytes -= frame.len();
        }
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

    /// Bytes of events, events, and events that somebody is in the middle of.
    fn books(unsent: &Unsent) -> (usize, usize, usize) {
        let books = unsent.books();
        (books.bytes, books.frames.len(), books.readers.len())
    }

    #[test]
    fn an_event_is_kept_once_for_all_its_readers_and_until_the_last() {
        let unsent = Unsent::new(100);
        for _ in 0..3 {
            unsent.begin((1, LINES), frame(60));
        }
        assert_eq!(books(&unsent), (60, 1, 1));
        (0..2).for_each(|_| unsent.end((1, LINES)));
        assert!(unsent.frame((1, LINES)).is_some());
        unsent.end((1, LINES));
        assert_eq!(books(&unsent), (0, 0, 0));
        assert!(unsent.frame((1, LINES)).is_none());
    }

    #[test]
    fn past_the_limit_the_oldest_event_goes_and_its_readers_stay() {
        let unsent = Unsent::new(100);
        unsent.begin((1, LINES), frame(50));
        unsent.begin((2, LINES), frame(50));
        assert_eq!(books(&unsent).0, 100, "the limit itself is allowed");
        unsent.begin((3, LINES), frame(1));
        assert!(unsent.frame((1, LINES)).is_none() && unsent.frame((2, LINES)).is_some());
        unsent.keep((1, LINES), frame(50));
        assert!(unsent.frame((1, LINES)).is_none(), "it is still the oldest");
        (1..=3).for_each(|seq| unsent.end((seq, LINES)));
        assert_eq!(books(&unsent), (0, 0, 0));
        unsent.begin((4, LINES), frame(101));
        assert!(unsent.frame((4, LINES)).is_none(), "one that is larger than the limit is not kept");
        unsent.end((4, LINES));
    }

    #[test]
    fn own_blocks_take_the_room_of_events_and_no_more() {
        let unsent = Unsent::new(100);
        unsent.begin((1, LINES), frame(50));
        assert!(unsent.owe(&vec![0; 60].into()));
        assert!(unsent.frame((1, LINES)).is_none(), "an event can be read again, a block of the broker's own cannot");
        assert!(unsent.owe(&vec![0; 40].into()));
        assert!(!unsent.owe(&vec![0; 1].into()));
        unsent.settle(101);
        assert!(unsent.owe(&vec![0; 100].into()));
    }
}
