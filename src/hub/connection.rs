//! One subscriber: its socket, where it stands in the log, and what it has taken of a block in part.

use std::{
    any::Any,
    io::{self, ErrorKind, IoSlice, Read, Write},
    num::NonZeroU32,
    time::Instant,
};

use bytes::Bytes;
use smallvec::SmallVec;

use crate::{
    event::TopicName,
    frame::{Encoding, Marks},
};

use super::unsent::Unsent;

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
    pub encoding: Encoding,
    /// How its position is told where there is no event.
    pub marks: Marks,
    /// It has everything up to this position.
    pub after: u64,
    /// It knows of this many removals of the log.
    pub told_to: u64,
    /// Deletions up to this position were before it.
    pub placed_at: u64,
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
    pub(super) encoding: Encoding,
    pub(super) seats: SmallVec<[Seat; 1]>,
    /// Everything up to here has been written, or is in `unsent`.
    pub(super) cursor: u64,
    /// The last id on the wire.
    pub(super) marked: u64,
    /// What the socket has yet to take of blocks that were begun; as a rule nothing.
    unsent: Option<Box<Rest>>,
    room: Room,
    /// Since when the socket has taken nothing of what it was offered.
    pub(super) stalled_since: Option<Instant>,
    pub(super) wrote_at: Instant,
    /// Nothing follows what is in `unsent`.
    pub(super) ending: bool,
    /// It waits for a page that is fetched under this ticket.
    pub(super) fetching: Option<NonZeroU32>,
    /// It waits in the hub's backlog.
    pub(super) queued: bool,
    pub(super) seldom: Box<Seldom>,
}

/// What a socket has yet to take, in this order.
#[derive(Default)]
struct Rest {
    cut: Option<Cut>,
    /// Blocks of the broker's own.
    own: Bytes,
}

/// An event that the socket has taken in part. Its bytes are in [`Unsent`], or have to be read
/// again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cut {
    pub(super) seq: u64,
    /// Bytes of its frame that are out.
    pub(super) taken: usize,
}

/// What a delivery has no use for.
pub(super) struct Seldom {
    pub(super) marks: Marks,
    pub(super) ends_at: Option<Instant>,
    /// It was to end when the log was here, and does when it has everything up to here.
    pub(super) ends_with: Option<u64>,
    /// When to look after it next.
    pub(super) due: Instant,
    /// It has been told of this many removals of the log.
    pub(super) told_to: u64,
    /// Deletions up to this position were before it.
    pub(super) placed_at: u64,
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
    /// The position of its last event; 0 when there is none.
    pub(super) last: u64,
    /// The whole run written, the subscriber has everything up to here.
    pub(super) to: u64,
}

/// Said of a stream that ends because the rest of a cut event was not at hand.
const NO_REST: &str = "the rest of the event that it is in the middle of is missing";

/// How a write went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wrote {
    /// All of it.
    All,
    /// The socket is full. The caller says which event was cut, if one was, and then lets the connection wait.
    Part {
        /// Bytes of the run taken.
        taken: usize,
    },
}

impl<S> Connection<S> {
    /// The event that the socket has taken in part.
    pub(super) fn cut(&self) -> Option<Cut> {
        self.unsent.as_ref().and_then(|rest| rest.cut)
    }

    /// Bytes of the broker's own blocks that the socket has yet to take.
    pub(super) fn own(&self) -> usize {
        self.unsent.as_ref().map_or(0, |rest| rest.own.len())
    }

    /// What it has not sent will not be sent.
    pub(super) fn let_go(&self, unsent: &Unsent) {
        if let Some(rest) = &self.unsent {
            unsent.settle(rest.own.len());
            rest.cut.into_iter().for_each(|cut| unsent.end((cut.seq, self.encoding)));
        }
    }
}

impl<S: Peer> Connection<S> {
    /// What a peer may send on a stream before it is cut: some clients pipeline a request or two, a flood is an attack
    /// on the worker's time.
    const RECEIVED_MAX: usize = 64 << 10;

    pub(super) fn new(socket: S, subscription: Subscription, now: Instant) -> Self {
        Self {
            socket,
            encoding: subscription.encoding,
            seats: SmallVec::new(),
            cursor: subscription.after,
            marked: if subscription.marks == Marks::None { 0 } else { subscription.after },
            unsent: None,
            room: Room::Untried,
            stalled_since: None,
            wrote_at: now,
            ending: false,
            fetching: None,
            queued: false,
            seldom: Box::new(Seldom {
                marks: subscription.marks,
                ends_at: subscription.ends_at,
                ends_with: None,
                due: now,
                told_to: subscription.told_to,
                placed_at: subscription.placed_at,
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
        let own = &mut self.unsent.get_or_insert_default().own;
        if own.is_empty() {
            *own = block.clone();
        } else {
            *own = [&**own, block].concat().into();
        }
    }

    /// The socket has taken so many bytes of the event at `seq`, and not all.
    pub(super) fn begin(&mut self, seq: u64, taken: usize) {
        let rest = self.unsent.get_or_insert_default();
        debug_assert!(
            rest.own.is_empty() && rest.cut.is_none(),
            "an event was begun while an earlier block was not out"
        );
        rest.cut = Some(Cut { seq, taken });
    }

    /// Writes what is left of the broker's own, then `run`, as far as the socket takes it.
    ///
    /// # Errors
    /// When an event is cut: its rest comes first.
    pub(super) fn write(&mut self, run: Run<'_>, now: Instant) -> io::Result<Wrote> {
        if self.cut().is_some() {
            return Err(io::Error::other(NO_REST));
        }
        let own = self.unsent.as_ref().map(|rest| rest.own.clone());
        let own = own.as_deref().unwrap_or_default();
        let taken = self.offer(own, run.bytes, now)?;
        if taken == own.len() + run.bytes.len() {
            self.unsent = None;
            self.cursor = self.cursor.max(run.to);
            self.marked = self.marked.max(run.last);
            return Ok(Wrote::All);
        }
        let of_own = taken.min(own.len());
        if let Some(rest) = self.unsent.take().filter(|_| of_own < own.len()) {
            self.unsent = Some(Box::new(Rest { cut: None, own: rest.own.slice(of_own..) }));
        }
        Ok(Wrote::Part { taken: taken - of_own })
    }

    /// Writes what is left over, as far as the socket takes it. `frame` is that of the event that was cut, if one was.
    ///
    /// # Errors
    /// When an event is cut and `frame` does not have its rest: with anything else the stream would be corrupt.
    pub(super) fn flush(&mut self, frame: &[u8], now: Instant) -> io::Result<Wrote> {
        let Some(Rest { cut, own }) = self.unsent.as_deref() else { return Ok(Wrote::All) };
        let (cut, own) = (*cut, own.clone());
        let event = match cut {
            Some(cut) => {
                frame.get(cut.taken..).filter(|rest| !rest.is_empty()).ok_or_else(|| io::Error::other(NO_REST))?
            }
            None => &[],
        };
        let taken = self.offer(event, &own, now)?;
        if taken == event.len() + own.len() {
            self.unsent = None;
            return Ok(Wrote::All);
        }
        let of_event = taken.min(event.len());
        let cut = cut.filter(|_| of_event < event.len()).map(|cut| Cut { taken: cut.taken + of_event, ..cut });
        self.unsent = Some(Box::new(Rest { cut, own: own.slice(taken - of_event..) }));
        Ok(Wrote::Part { taken })
    }

    /// Offers both, one after the other, to the socket; how much it took.
    #[inline]
    fn offer(&mut self, first: &[u8], second: &[u8], now: Instant) -> io::Result<usize> {
        let total = first.len() + second.len();
        let taken = loop {
            let result = match (first, second) {
                (only, []) | ([], only) => self.socket.write(only),
                _ => self.socket.write_vectored(&[IoSlice::new(first), IoSlice::new(second)]),
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
        Ok(taken)
    }

    /// From now on it waits until the socket takes bytes again.
    pub(super) fn wait(&mut self, key: usize, now: Instant) -> io::Result<()> {
        self.stalled_since.get_or_insert(now);
        if std::mem::replace(&mut self.room, Room::Full) == Room::Untried {
            self.socket.watch_writable(key)?;
        }
        Ok(())
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
mod tests;
