//! One subscriber: its socket, its cursor, and the bytes that its socket has not accepted yet.

use std::{
    any::Any,
    io::{self, ErrorKind, Read, Write},
    num::NonZeroU32,
    sync::Arc,
    time::Instant,
};

use bytes::Bytes;
use smallvec::SmallVec;

use crate::{
    event::TopicName,
    frame::{Encoding, Marks},
    identity::Identity,
    log::{StartPoint, wall_ms},
};

use super::{end::End, segment::Segment, unsent::UnsentBytes};

/// What a hub needs from a socket. The socket must be non-blocking.
pub trait Peer: Read + Write {
    /// Ends the stream cleanly: the client gets all that was written, and then the end.
    fn finish(&mut self);

    /// From now on, the hub is told under `key` each time that the socket was full and accepts bytes again.
    ///
    /// # Errors
    /// When the system cannot watch the socket. The hub then closes the connection.
    fn watch_writable(&mut self, key: usize) -> io::Result<()>;
}

/// A new subscriber, as HTTP hands it over to the hub.
#[derive(Debug)]
pub struct Subscription {
    /// The topics, each once.
    pub topics: SmallVec<[TopicName; 1]>,
    /// How its events are written.
    pub encoding: Encoding,
    /// How its client learns its position when there is no event.
    pub marks: Marks,
    /// Where its stream begins. Deletions up to `start.watermark` were before it, and the hub does not report them.
    pub start: StartPoint,
    /// When the hub must end the stream; `None` for no limit.
    pub ends_at: Option<Instant>,
    /// The right that its credential gives; `None` for an anonymous client.
    pub right: Option<CheckedRight>,
    /// Permits and topic memberships. They are dropped when the stream has ended.
    pub guards: Box<dyn Any>,
}

/// The right of a stream, as HTTP has checked it.
#[derive(Clone, Debug)]
pub struct CheckedRight {
    /// Whose right it is.
    pub identity: Arc<Identity>,
    /// A moment before the check began. A command to end the streams of an identity also ends the streams that are
    /// handed over later, if their right was checked before the command.
    pub checked_at: Instant,
    /// When the right ends, and the stream with it: at the `exp` of the token plus the leeway, or at the end of the
    /// certificate.
    pub ends_at: Option<Instant>,
}

/// A connection's membership in one channel.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slot {
    /// The key of the channel.
    pub(super) channel: usize,
    /// The index of the connection in the channel's members.
    pub(super) index: usize,
}

/// A subscriber's connection, owned by the hub. It fits in two cache lines: with thousands of connections, these lines
/// are not in the cache, and a delivery must load each of them from memory.
#[repr(align(64))]
pub(super) struct Connection<S> {
    pub(super) socket: S,
    /// How its events are written.
    pub(super) encoding: Encoding,
    /// Its memberships in channels, one for each topic.
    pub(super) slots: SmallVec<[Slot; 1]>,
    /// It has been given everything up to this position. All of this is sent, except for what is in `remainder`.
    pub(super) cursor: u64,
    /// The position of the last id that was sent to its client. After a deletion notice, which has no id: a position
    /// below the notice.
    pub(super) last_id_sent: u64,
    /// What the socket must accept before anything else; `None` if it has accepted everything, as it usually has.
    remainder: Option<Box<Remainder>>,
    send_buffer: SendBuffer,
    /// Since when the socket has accepted nothing; `None` if it has accepted the last write.
    pub(super) stalled_since: Option<Instant>,
    /// When the socket last accepted bytes.
    pub(super) last_write: Instant,
    pub(super) stage: Stage,
    /// The id of the page request that it waits for, if any.
    pub(super) page_request: Option<NonZeroU32>,
    /// It is in the backlog, perhaps also while it is blocked or waits for a page.
    pub(super) is_queued: bool,
    /// The fields that a normal delivery does not need. They are allocated apart to keep this struct small.
    pub(super) cold: Box<Cold>,
}

/// What a socket has not accepted yet: first the rest of an event, then control blocks.
#[derive(Default)]
struct Remainder {
    /// The event that is partly sent, without its bytes.
    partial: Option<Partial>,
    /// Control blocks: what the broker itself writes into a stream, such as heartbeats and notices.
    control: Bytes,
}

/// An event that is partly sent. Its bytes are in [`UnsentBytes`], or must be read from the log again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Partial {
    /// Its position.
    pub(super) seq: u64,
    /// How many bytes of its frame are sent.
    pub(super) sent: usize,
}

/// The fields of a connection that a normal delivery does not need.
pub(super) struct Cold {
    /// How its client learns its position when there is no event.
    pub(super) marks: Marks,
    /// When its stage is over: at this time an open stream ends, and an ending one is cut. `None` for no limit.
    pub(super) stage_ends_at: Option<Instant>,
    /// When its right ends; `None` if the right has no end, or if the last block is queued.
    pub(super) right_ends_at: Option<Instant>,
    /// Whose stream it is; `None` for an anonymous client.
    pub(super) identity: Option<Arc<Identity>>,
    /// When it was adopted, in milliseconds since the Unix epoch.
    pub(super) since_ms: u64,
    /// A random number, part of its id: see [`StreamId`](super::command::StreamId).
    pub(super) salt: u32,
    /// When to check the connection next.
    pub(super) timer_at: Instant,
    /// How many removals of the log it knows of: see [`crate::log::ReadFrom`].
    pub(super) removals_seen: u64,
    /// The last position of the log when it subscribed. The hub does not report deletions up to here.
    pub(super) subscribed_seq: u64,
    /// How many bytes the peer has sent, although a subscriber has nothing to send.
    received: usize,
    /// Permits and topic memberships, which are dropped with the connection.
    _guards: Box<dyn Any>,
}

/// The stages of a stream's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// It is not about to end.
    Open,
    /// Its time is over. It ends when it has everything up to this position.
    CatchingUp(u64),
    /// Its last block is queued or sent. When the remainder is sent, it ends for this reason.
    Ending(End),
}

/// What is known of the socket's send buffer in the kernel.
#[derive(Clone, Copy, PartialEq, Eq)]
enum SendBuffer {
    /// It has never been full, so the poll does not report when it has space. Most sockets stay in this state.
    NeverFull,
    /// It is full. The poll will report when it has space.
    Full,
    /// It was full before, and has space again.
    HasSpace,
}

/// The error when other bytes must be written first: the rest of a partly sent event, or control blocks.
const UNSENT_FIRST: &str = "earlier bytes of the stream are not sent yet, or are missing";

impl<S> Connection<S> {
    /// The event that is partly sent, if any.
    pub(super) fn partial(&self) -> Option<Partial> {
        self.remainder.as_ref().and_then(|remainder| remainder.partial)
    }

    /// Whether control blocks are unsent.
    pub(super) fn has_control(&self) -> bool {
        self.remainder.as_ref().is_some_and(|remainder| !remainder.control.is_empty())
    }

    /// Removes its unsent bytes from the shared `unsent`, because it will send nothing more.
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
    /// How many bytes a peer may send before its stream is closed. Some clients pipeline one or two requests. More is
    /// an attack: to read the bytes costs time of the worker.
    const RECEIVED_MAX: usize = 64 << 10;

    pub(super) fn new(socket: S, subscription: Subscription, now: Instant) -> Self {
        let (identity, right_ends_at) = subscription.right.map(|right| (right.identity, right.ends_at)).unzip();
        Self {
            socket,
            encoding: subscription.encoding,
            slots: SmallVec::new(),
            cursor: subscription.start.from.after,
            last_id_sent: subscription.start.from.after,
            remainder: None,
            send_buffer: SendBuffer::NeverFull,
            stalled_since: None,
            last_write: now,
            stage: Stage::Open,
            page_request: None,
            is_queued: false,
            cold: Box::new(Cold {
                marks: subscription.marks,
                stage_ends_at: subscription.ends_at,
                right_ends_at: right_ends_at.flatten(),
                identity,
                since_ms: wall_ms(),
                salt: fastrand::u32(..),
                timer_at: now,
                removals_seen: subscription.start.from.removals_seen,
                subscribed_seq: subscription.start.watermark,
                received: 0,
                _guards: subscription.guards,
            }),
        }
    }

    /// Notes that the subscriber has been given everything up to `to`. A cursor never goes back.
    pub(super) fn move_cursor(&mut self, to: u64) {
        debug_assert!(to >= self.cursor, "a cursor goes back from {} to {to}", self.cursor);
        self.cursor = self.cursor.max(to);
    }

    /// Whether its last block is queued or sent.
    pub(super) fn is_ending(&self) -> bool {
        matches!(self.stage, Stage::Ending(_))
    }

    /// Whether it waits until its socket accepts bytes again.
    pub(super) fn is_blocked(&self) -> bool {
        self.send_buffer == SendBuffer::Full
    }

    /// Notes that the socket may accept bytes again. First the socket gets the bytes that were encrypted before. If it
    /// does not accept all of them, the connection goes on waiting.
    pub(super) fn unblock(&mut self) {
        if self.socket.flush().is_ok() {
            self.send_buffer = SendBuffer::HasSpace;
        }
    }

    /// Appends a control block to the unsent bytes.
    pub(super) fn push_control(&mut self, block: &Bytes) {
        let control = &mut self.remainder.get_or_insert_default().control;
        if control.is_empty() {
            *control = block.clone();
        } else {
            *control = [&**control, block].concat().into();
        }
    }

    /// Notes that only the first `sent` bytes of the event at `seq` are sent.
    pub(super) fn set_partial(&mut self, seq: u64, sent: usize) {
        let remainder = self.remainder.get_or_insert_default();
        debug_assert!(
            remainder.control.is_empty() && remainder.partial.is_none(),
            "an event is sent only after all earlier blocks"
        );
        debug_assert!(sent > 0, "at least one byte of a partly sent event is sent");
        remainder.partial = Some(Partial { seq, sent });
    }

    /// Writes `segment`. Returns how many bytes of it the socket accepted. If these are not all, the caller must note
    /// where the write ended (`Streams::stop_at`).
    ///
    /// # Errors
    /// When the socket fails, or when earlier bytes must be sent first.
    pub(super) fn write(&mut self, segment: Segment<'_>, now: Instant) -> io::Result<usize> {
        debug_assert!(!self.is_ending(), "nothing follows the last block");
        debug_assert!(segment.last <= segment.to && segment.to >= self.cursor, "a segment continues from the cursor");
        if self.remainder.is_some() {
            return Err(io::Error::other(UNSENT_FIRST));
        }
        let accepted = self.write_bytes(segment.bytes, now)?;
        if accepted == segment.bytes.len() {
            self.move_cursor(segment.to);
            self.last_id_sent = self.last_id_sent.max(segment.last);
        }
        Ok(accepted)
    }

    /// Writes the rest of the partly sent event `partial`, whose whole frame is `frame`. Returns whether the whole
    /// event is sent now.
    ///
    /// # Errors
    /// When the socket fails, or when `frame` is too short to have the rest of the event.
    pub(super) fn write_rest(&mut self, partial: Partial, frame: &[u8], now: Instant) -> io::Result<bool> {
        debug_assert_eq!(self.partial(), Some(partial), "the event is partly sent");
        let rest = frame.get(partial.sent..).filter(|rest| !rest.is_empty());
        let rest = rest.ok_or_else(|| io::Error::other(UNSENT_FIRST))?;
        let accepted = self.write_bytes(rest, now)?;
        let is_sent = accepted == rest.len();
        let left = Partial { sent: partial.sent + accepted, ..partial };
        self.set_remainder((!is_sent).then_some(left), self.control());
        Ok(is_sent)
    }

    /// Writes the unsent control blocks. Returns how many bytes of them the socket accepted.
    ///
    /// # Errors
    /// When the socket fails, or when an event is partly sent: its rest must come first.
    pub(super) fn write_control(&mut self, now: Instant) -> io::Result<usize> {
        if self.partial().is_some() {
            return Err(io::Error::other(UNSENT_FIRST));
        }
        let control = self.control();
        let accepted = self.write_bytes(&control, now)?;
        self.set_remainder(None, control.slice(accepted..));
        Ok(accepted)
    }

    /// The unsent control blocks.
    fn control(&self) -> Bytes {
        self.remainder.as_ref().map(|remainder| remainder.control.clone()).unwrap_or_default()
    }

    fn set_remainder(&mut self, partial: Option<Partial>, control: Bytes) {
        let is_empty = partial.is_none() && control.is_empty();
        self.remainder = (!is_empty).then(|| Box::new(Remainder { partial, control }));
    }

    /// Writes `bytes`. Returns how many of them the socket accepted.
    #[inline]
    fn write_bytes(&mut self, bytes: &[u8], now: Instant) -> io::Result<usize> {
        debug_assert!(!bytes.is_empty(), "something is written");
        let accepted = loop {
            match self.socket.write(bytes) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(accepted) => break accepted,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(0),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        };
        debug_assert!(accepted <= bytes.len(), "the socket accepts no more than it is offered");
        self.last_write = now;
        self.stalled_since = None;
        Ok(accepted)
    }

    /// Notes that the socket is full. From now on, the connection waits until the socket accepts bytes again.
    pub(super) fn wait_writable(&mut self, key: usize, now: Instant) -> io::Result<()> {
        self.stalled_since.get_or_insert(now);
        if std::mem::replace(&mut self.send_buffer, SendBuffer::Full) == SendBuffer::NeverFull {
            self.socket.watch_writable(key)?;
        }
        Ok(())
    }

    /// Reads what the peer has sent, and discards it.
    ///
    /// # Errors
    /// When the peer has closed its side, or has sent more than [`Self::RECEIVED_MAX`] bytes.
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
                return Err(io::Error::new(ErrorKind::InvalidData, "the peer sends too many bytes"));
            }
        }
    }
}

#[cfg(test)]
pub(super) mod tests;
