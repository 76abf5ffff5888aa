//! One subscriber: its socket, where it stands in the log, and what it has taken of a block in part.

use std::{
    any::Any,
    io::{self, ErrorKind, IoSlice, Read, Write},
    num::NonZeroU32,
    time::Instant,
};

use bytes::{Bytes, BytesMut};
use smallvec::SmallVec;

use crate::{event::TopicName, frame::Format};

/// What a hub needs of a socket. It must not block.
pub trait Peer: Read + Write {
    /// Ends the stream cleanly: all that was written, then the end.
    fn finish(&mut self);

    /// From now on report each time that the socket, having been full, takes bytes again.
    ///
    /// # Errors
    /// As the system says; the connection is then closed.
    fn watch_writable(&mut self, key: usize) -> io::Result<()>;
}

/// What a subscriber wants, decided before its socket came.
#[derive(Debug)]
pub struct Subscription {
    /// The topics, each once.
    pub topics: SmallVec<[TopicName; 1]>,
    /// How its events are written.
    pub format: Format,
    /// It has everything up to this position.
    pub after: u64,
    /// It knows of this many removals of the log.
    pub told_to: u64,
    /// When the stream is to end by itself.
    pub ends_at: Option<Instant>,
    /// Released when the stream has ended, however it ended: permits, memberships.
    pub hold: Box<dyn Any>,
}

/// A connection's place in one channel.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seat {
    pub(super) channel: usize,
    pub(super) position: usize,
}

/// A subscriber's connection, owned by the hub. It fits in two lines of the processor's cache: with thousands of them
/// each line is far away, and a delivery waits for it.
#[repr(align(64))]
pub(super) struct Connection<S> {
    pub(super) socket: S,
    pub(super) format: Format,
    pub(super) seats: SmallVec<[Seat; 1]>,
    /// Everything up to here has been written, or is in `rest`.
    pub(super) cursor: u64,
    /// What the socket has not yet taken of the last blocks written: always the tail of a block, or whole blocks of
    /// the broker's own. It shares the frame's memory.
    rest: Bytes,
    room: Room,
    /// Since when the socket has taken nothing of what it was offered.
    pub(super) stalled_since: Option<Instant>,
    pub(super) wrote_at: Instant,
    /// Nothing follows what is in `rest`.
    pub(super) ending: bool,
    /// It waits for a page that is fetched under this ticket.
    pub(super) fetching: Option<NonZeroU32>,
    /// It waits in the hub's backlog.
    pub(super) queued: bool,
    pub(super) seldom: Box<Seldom>,
}

/// What a delivery has no use for.
pub(super) struct Seldom {
    pub(super) ends_at: Option<Instant>,
    /// When to look after it next.
    pub(super) due: Instant,
    /// It has been told of this many removals of the log.
    pub(super) told_to: u64,
    /// Bytes that the peer sent although it has nothing to say.
    received: usize,
    _hold: Box<dyn Any>,
}

/// Whether the socket takes bytes, as far as is known.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Room {
    /// It has never been full, and its readiness is not watched: most never are.
    Untried,
    /// It is full; readiness will say when it is not.
    Full,
    /// It has been full, and takes bytes again.
    Again,
}

/// Blocks that follow each other in a stream, in one piece of memory.
#[derive(Clone, Copy)]
pub(super) struct Run<'a> {
    pub(super) bytes: &'a [u8],
    /// The whole run written, the subscriber has everything up to here.
    pub(super) to: u64,
}

/// How a write went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wrote {
    /// All of it.
    All,
    /// The socket is full. The caller hands over the tail of the block that was cut, if one was.
    Part {
        /// Bytes of the run taken.
        taken: usize,
    },
}

impl<S: Peer> Connection<S> {
    /// What a peer may send on a stream before it is cut: some clients pipeline a request or two, a flood is an attack
    /// on the worker's time.
    const RECEIVED_MAX: usize = 64 << 10;

    pub(super) fn new(socket: S, subscription: Subscription, now: Instant) -> Self {
        Self {
            socket,
            format: subscription.format,
            seats: SmallVec::new(),
            cursor: subscription.after,
            rest: Bytes::new(),
            room: Room::Untried,
            stalled_since: None,
            wrote_at: now,
            ending: false,
            fetching: None,
            queued: false,
            seldom: Box::new(Seldom {
                ends_at: subscription.ends_at,
                due: now,
                told_to: subscription.told_to,
                received: 0,
                _hold: subscription.hold,
            }),
        }
    }

    /// Whether it waits for its socket.
    pub(super) fn is_blocked(&self) -> bool {
        self.room == Room::Full
    }

    /// The socket may take bytes again.
    pub(super) fn unblock(&mut self) {
        self.room = Room::Again;
    }

    /// Puts a block of the broker's own behind what is still to be written.
    pub(super) fn say(&mut self, block: &Bytes) {
        if self.rest.is_empty() {
            self.rest = block.clone();
        } else {
            let mut both = BytesMut::with_capacity(self.rest.len() + block.len());
            both.extend_from_slice(&self.rest);
            both.extend_from_slice(block);
            self.rest = both.freeze();
        }
    }

    /// Keeps the tail of a block that the socket has taken in part.
    pub(super) fn keep(&mut self, tail: Bytes) {
        debug_assert!(self.rest.is_empty(), "a block was cut while an earlier one was not out");
        self.rest = tail;
    }

    /// Writes what is left over, then `run`, as far as the socket takes it.
    pub(super) fn write(&mut self, run: Run<'_>, key: usize, now: Instant) -> io::Result<Wrote> {
        let (rest, total) = (self.rest.len(), self.rest.len() + run.bytes.len());
        let taken = loop {
            let result = if rest == 0 {
                self.socket.write(run.bytes)
            } else {
                self.socket.write_vectored(&[IoSlice::new(&self.rest), IoSlice::new(run.bytes)])
            };
            match result {
                Ok(0) if total > 0 => return Err(ErrorKind::WriteZero.into()),
                Ok(taken) => break taken,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break 0,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        };
        if taken > 0 {
            self.wrote_at = now;
            self.stalled_since = None;
        }
        if taken == total {
            self.rest = Bytes::new();
            self.cursor = self.cursor.max(run.to);
            return Ok(Wrote::All);
        }
        self.stalled_since.get_or_insert(now);
        if std::mem::replace(&mut self.room, Room::Full) == Room::Untried {
            self.socket.watch_writable(key)?;
        }
        self.rest = self.rest.slice(taken.min(rest)..);
        Ok(Wrote::Part { taken: taken.saturating_sub(rest) })
    }

    /// Writes what is left over.
    pub(super) fn flush(&mut self, key: usize, now: Instant) -> io::Result<Wrote> {
        if self.rest.is_empty() { Ok(Wrote::All) } else { self.write(Run { bytes: &[], to: 0 }, key, now) }
    }

    /// Reads and drops what the peer sends.
    ///
    /// # Errors
    /// When it has closed its side, or sends more than a subscriber has any reason to.
    pub(super) fn discard(&mut self) -> io::Result<()> {
        let mut buffer = [0; 4096];
        loop {
            match self.socket.read(&mut buffer) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(n) => self.seldom.received += n,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
            if self.seldom.received > Self::RECEIVED_MAX {
                return Err(io::Error::new(ErrorKind::InvalidData, "the peer floods its stream"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_pointer_width = "64")]
    #[test]
    fn a_connection_fits_in_two_lines_of_the_cache() {
        // A socket, and the poll where it is registered.
        assert_eq!(size_of::<Connection<[usize; 2]>>(), 128);
    }
}
