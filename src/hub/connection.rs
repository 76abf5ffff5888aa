//! One subscriber: its socket, its cursor, and the bytes that its socket has yet to accept.

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
    log::StartPoint,
};

use super::{
    end::End,
    segment::{Segment, Written},
    unsent::UnsentBytes,
};

/// What a hub needs from a socket, which must not block.
pub trait Peer: Read + Write {
    /// Ends the stream cleanly: all that was written, then the end.
    fn finish(&mut self);

    /// Reports from now on, under `key`, each time that the socket was full and accepts bytes again.
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
    /// How its client learns its position where there is no event.
    pub marks: Marks,
    /// Where it begins. It must not be told of deletions up to `start.watermark`.
    pub start: StartPoint,
    /// When the stream must end by itself.
    pub ends_at: Option<Instant>,
    /// Dropped when the stream has ended, however it ended: permits, memberships of topics.
    pub guards: Box<dyn Any>,
}

/// A connection's membership in one channel.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slot {
    /// Key of the channel.
    pub(super) channel: usize,
    /// Where the connection is among the channel's members.
    pub(super) index: usize,
}

/// A subscriber's connection, owned by the hub. It fits in two cache lines: with thousands of connections no line is in
/// the cache, and a delivery waits for each.
#[repr(align(64))]
pub(super) struct Connection<S> {
    pub(super) socket: S,
    /// How its events are written.
    pub(super) encoding: Encoding,
    /// Its memberships in channels, one a topic.
    pub(super) slots: SmallVec<[Slot; 1]>,
    /// It has been given everything up to here: all of that is sent, or is in `remainder`.
    pub(super) cursor: u64,
    /// The last id that its client has been sent. With `Marks::None` 0 until there is an event.
    pub(super) last_id_sent: u64,
    /// Bytes that the socket has yet to accept before anything else; as a rule none.
    remainder: Option<Box<Remainder>>,
    send_buffer: SendBuffer,
    /// Since when the socket has accepted nothing of what was written to it.
    pub(super) stalled_since: Option<Instant>,
    /// When the socket accepted bytes last.
    pub(super) last_write: Instant,
    pub(super) stage: Stage,
    /// The id of the page request that it waits for.
    pub(super) page_request: Option<NonZeroU32>,
    /// It is in the backlog.
    pub(super) is_queued: bool,
    /// The fields that a delivery does not need, in memory of their own.
    pub(super) cold: Box<Cold>,
}

/// Bytes that a socket has yet to accept, in this order.
#[derive(Default)]
struct Remainder {
    /// The rest of an event.
    partial: Option<Partial>,
    /// Control blocks: what the broker itself says in a stream, such as heartbeats and notices.
    control: Bytes,
}

/// An event that is sent in part. Its bytes are in [`UnsentBytes`], or have to be read from the log again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Partial {
    /// Its position.
    pub(super) seq: u64,
    /// Bytes of its frame that are sent.
    pub(super) sent: usize,
}

/// The fields of a connection that a delivery does not need.
pub(super) struct Cold {
    pub(super) marks: Marks,
    /// When its stream must end by itself.
    pub(super) ends_at: Option<Instant>,
    /// When to check it next.
    pub(super) timer_at: Instant,
    /// It has been told of the first so many removals of the log.
    pub(super) removals_seen: u64,
    /// The last position of the log when it subscribed: it must not be told of deletions up to here.
    pub(super) subscribed_at: u64,
    /// Bytes that the peer has sent, though a subscriber has nothing to send.
    received: usize,
    _guards: Box<dyn Any>,
}

/// How far a stream is from its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// It goes on.
    Open,
    /// Its time is over: it ends once it has everything up to this position.
    Finishing(u64),
    /// It has been given its last block, and ends for this reason when all of its remainder is sent.
    Ending(End),
}

/// Whether the socket accepts bytes, as far as is known.
#[derive(Clone, Copy, PartialEq, Eq)]
enum SendBuffer {
    /// It has never been full, and its readiness is not watched: most never are.
    NeverFull,
    /// It is full; an event of the poll will say when it is not.
    Full,
    /// It was full, and accepts bytes again.
    HasSpace,
}

/// Why a stream is closed whose event the caller cannot complete.
const NO_REMAINDER: &str = "the rest of an event that was sent in part is missing";

impl<S> Connection<S> {
    /// The event that is sent in part.
    pub(super) fn partial(&self) -> Option<Partial> {
        self.remainder.as_ref().and_then(|remainder| remainder.partial)
    }

    /// Bytes of control blocks that the socket has yet to accept.
    pub(super) fn control_len(&self) -> usize {
        self.remainder.as_ref().map_or(0, |remainder| remainder.control.len())
    }

    /// Gives back what it holds of `unsent`: it will send nothing more.
    pub(super) fn release_unsent(&self, unsent: &UnsentBytes) {
        if let Some(remainder) = &self.remainder {
            unsent.remove_control(remainder.control.len());
            if let Some(partial) = remainder.partial {
                unsent.remove_reader((partial.seq, self.encoding));
            }
        }
    }
}

impl<S: Peer> Connection<S> {
    /// Bytes that a peer may send on a stream before it is closed. Some clients pipeline a request or two; a flood is
    /// an attack on the worker's time.
    const RECEIVED_MAX: usize = 64 << 10;

    pub(super) fn new(socket: S, subscription: Subscription, now: Instant) -> Self {
        Self {
            socket,
            encoding: subscription.encoding,
            slots: SmallVec::new(),
            cursor: subscription.start.from.after,
            last_id_sent: if subscription.marks == Marks::None { 0 } else { subscription.start.from.after },
            remainder: None,
            send_buffer: SendBuffer::NeverFull,
            stalled_since: None,
            last_write: now,
            stage: Stage::Open,
            page_request: None,
            is_queued: false,
            cold: Box::new(Cold {
                marks: subscription.marks,
                ends_at: subscription.ends_at,
                timer_at: now,
                removals_seen: subscription.start.from.removals_seen,
                subscribed_at: subscription.start.watermark,
                received: 0,
                _guards: subscription.guards,
            }),
        }
    }

    /// The subscriber has been given everything up to `to`. A cursor never goes back.
    pub(super) fn move_cursor(&mut self, to: u64) {
        debug_assert!(to >= self.cursor, "a cursor goes back from {} to {to}", self.cursor);
        self.cursor = self.cursor.max(to);
    }

    /// Whether it has been given its last block.
    pub(super) fn is_ending(&self) -> bool {
        matches!(self.stage, Stage::Ending(_))
    }

    /// Whether it waits until its socket accepts bytes.
    pub(super) fn is_blocked(&self) -> bool {
        self.send_buffer == SendBuffer::Full
    }

    /// The socket may accept bytes again.
    pub(super) fn unblock(&mut self) {
        self.send_buffer = SendBuffer::HasSpace;
    }

    /// Puts a control block behind what is still to be written.
    pub(super) fn push_control(&mut self, block: &Bytes) {
        let control = &mut self.remainder.get_or_insert_default().control;
        if control.is_empty() {
            *control = block.clone();
        } else {
            *control = [&**control, block].concat().into();
        }
    }

    /// Of the event at `seq`, `sent` bytes are sent, and not all.
    pub(super) fn set_partial(&mut self, seq: u64, sent: usize) {
        let remainder = self.remainder.get_or_insert_default();
        debug_assert!(
            remainder.control.is_empty() && remainder.partial.is_none(),
            "an event is begun only when all earlier blocks are sent"
        );
        debug_assert!(sent > 0, "of an event that is sent in part something is sent");
        remainder.partial = Some(Partial { seq, sent });
    }

    /// Writes the control blocks that are left, then `segment`, as far as the socket accepts them.
    ///
    /// # Errors
    /// When an event is sent in part: the rest of it must come first.
    pub(super) fn write(&mut self, segment: Segment<'_>, now: Instant) -> io::Result<Written> {
        debug_assert!(!self.is_ending(), "nothing follows the last block");
        debug_assert!(segment.last <= segment.to && segment.to >= self.cursor, "a segment leads on from the cursor");
        if self.partial().is_some() {
            return Err(io::Error::other(NO_REMAINDER));
        }
        let control = self.remainder.as_ref().map(|remainder| remainder.control.clone());
        let control = control.as_deref().unwrap_or_default();
        let accepted = self.write_both(control, segment.bytes, now)?;
        if accepted == control.len() + segment.bytes.len() {
            self.remainder = None;
            self.move_cursor(segment.to);
            self.last_id_sent = self.last_id_sent.max(segment.last);
            return Ok(Written::All);
        }
        let of_control = accepted.min(control.len());
        if let Some(remainder) = self.remainder.take().filter(|_| of_control < control.len()) {
            self.remainder =
                Some(Box::new(Remainder { partial: None, control: remainder.control.slice(of_control..) }));
        }
        Ok(Written::Part { bytes: accepted - of_control })
    }

    /// Writes the remainder, as far as the socket accepts it. `frame` is that of the event that is sent in part, if one
    /// is.
    ///
    /// # Errors
    /// When an event is sent in part and `frame` does not have its rest: with anything else the stream would be
    /// corrupt.
    pub(super) fn flush(&mut self, frame: &[u8], now: Instant) -> io::Result<Written> {
        let Some(Remainder { partial, control }) = self.remainder.as_deref() else { return Ok(Written::All) };
        debug_assert!(partial.is_some() || !control.is_empty(), "a remainder that is sent is dropped");
        let (partial, control) = (*partial, control.clone());
        let event = match partial {
            Some(partial) => frame
                .get(partial.sent..)
                .filter(|rest| !rest.is_empty())
                .ok_or_else(|| io::Error::other(NO_REMAINDER))?,
            None => &[],
        };
        let accepted = self.write_both(event, &control, now)?;
        if accepted == event.len() + control.len() {
            self.remainder = None;
            return Ok(Written::All);
        }
        let of_event = accepted.min(event.len());
        let partial = partial
            .filter(|_| of_event < event.len())
            .map(|partial| Partial { sent: partial.sent + of_event, ..partial });
        self.remainder = Some(Box::new(Remainder { partial, control: control.slice(accepted - of_event..) }));
        Ok(Written::Part { bytes: accepted })
    }

    /// Writes both, one after the other, to the socket; how many bytes it accepted.
    #[inline]
    fn write_both(&mut self, first: &[u8], second: &[u8], now: Instant) -> io::Result<usize> {
        let total = first.len() + second.len();
        debug_assert!(total > 0, "something is written");
        let accepted = loop {
            let result = match (first, second) {
                (only, []) | ([], only) => self.socket.write(only),
                _ => self.socket.write_vectored(&[IoSlice::new(first), IoSlice::new(second)]),
            };
            match result {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(accepted) => break accepted,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break 0,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        };
        debug_assert!(accepted <= total, "the socket accepts no more than was written to it");
        if accepted > 0 {
            self.last_write = now;
            self.stalled_since = None;
        }
        Ok(accepted)
    }

    /// From now on it waits until the socket accepts bytes again.
    pub(super) fn wait_writable(&mut self, key: usize, now: Instant) -> io::Result<()> {
        self.stalled_since.get_or_insert(now);
        if std::mem::replace(&mut self.send_buffer, SendBuffer::Full) == SendBuffer::NeverFull {
            self.socket.watch_writable(key)?;
        }
        Ok(())
    }

    /// Reads what the peer sends, and drops it.
    ///
    /// # Errors
    /// When it has closed its side, or sends more than a subscriber has any reason to.
    pub(super) fn discard_input(&mut self) -> io::Result<()> {
        let mut buffer = [0; 4096];
        loop {
            match self.socket.read(&mut buffer) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(n) => self.cold.received += n,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
            if self.cold.received > Self::RECEIVED_MAX {
                return Err(io::Error::new(ErrorKind::InvalidData, "the peer floods its stream"));
            }
        }
    }
}

#[cfg(test)]
mod tests;
