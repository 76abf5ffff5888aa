//! One topic in one encoding on one hub: who sits in it, and the frames that not all of them have yet.
//!
//! Streams of one topic and streams of several have channels of their own: a deletion ends the former, and is a frame like
//! any other for the latter, which go on with the topic's next life.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use smallvec::SmallVec;

use super::connection::{Segment, Written};
use crate::{
    event::TopicName,
    frame::{self, Encoding, Frame},
};

/// A topic's subscribers of one encoding on this hub, and the window of frames between the slowest round and the tail.
#[derive(Debug)]
pub(super) struct Channel {
    pub(super) topic: TopicName,
    pub(super) encoding: Encoding,
    /// Its members have no other topic.
    pub(super) alone: bool,
    /// The last notice of a deletion that is known.
    pub(super) notice_at: u64,
    /// The topic was deleted at this position, and as far as is known nothing was published since; else 0.
    pub(super) deleted_at: u64,
    /// Keys of the connections that sit here.
    pub(super) members: SmallVec<[usize; 2]>,
    frames: VecDeque<(u64, Frame)>,
    bytes: usize,
    /// The last frame that has left the window: a cursor below it must read from the log.
    trimmed_to: u64,
    /// The last merged run: connections that stand together, as most do, are written the same memory.
    merged: Option<Box<Merged>>,
    /// When the current round began.
    pub(super) began: Instant,
    /// Members before this one have been visited in it.
    pub(super) visited: usize,
    /// When it ends, every member that takes bytes has everything up to here.
    pub(super) floor: u64,
    /// It waits for its turn.
    pub(super) active: bool,
    /// The topic was deleted: no name leads here any more, and its members are being told.
    pub(super) dying: bool,
}

#[derive(Debug)]
struct Merged {
    /// It begins with this frame,
    first: u64,
    /// was made when this was the window's last,
    last: u64,
    /// and got as far as this one.
    to: u64,
    bytes: Bytes,
}

impl Channel {
    /// Frames a window may hold in bytes. Past it the oldest go and whoever had not seen them reads from the log:
    /// a window is a shortcut, never a queue.
    const BYTES_MAX: usize = 4 << 20;
    /// The most that one write is given.
    const RUN_BYTES_MAX: usize = 256 << 10;

    /// A rest after a shorter round would be too short for any timer.
    const RESTFUL_MIN: Duration = Duration::from_millis(1);
    /// A round that takes this many times the longest rest has collected enough by itself.
    const RESTFUL_MAX: u32 = 4;
    /// With more than this the bytes of a write cost more than the write: nothing is gained by waiting.
    const REST_BYTES_MAX: usize = 32 << 10;

    pub(super) fn new(topic: TopicName, encoding: Encoding, alone: bool, seen: u64, now: Instant) -> Self {
        Self {
            topic,
            encoding,
            alone,
            notice_at: 0,
            deleted_at: 0,
            members: SmallVec::new(),
            frames: VecDeque::new(),
            bytes: 0,
            trimmed_to: seen,
            merged: None,
            began: now,
            visited: 0,
            floor: 0,
            active: false,
            dying: false,
        }
    }

    pub(super) fn push(&mut self, seq: u64, frame: Frame) {
        self.deleted_at = 0;
        self.put(seq, frame);
    }

    /// Puts the notice of the topic's deletion, at its place in the order.
    pub(super) fn push_deletion(&mut self, seq: u64) {
        self.put(seq, Frame::Made(frame::deleted(self.encoding, &self.topic)));
        (self.notice_at, self.deleted_at) = (seq, seq);
    }

    /// The log says that the topic was deleted at `seq`, which the feed may have lost.
    pub(super) fn note_deletion(&mut self, seq: u64) {
        self.notice_at = self.notice_at.max(seq);
        if self.frames.back().is_none_or(|(last, _)| *last < seq) {
            self.deleted_at = self.deleted_at.max(seq);
        }
    }

    fn put(&mut self, seq: u64, frame: Frame) {
        self.bytes += frame.len();
        self.frames.push_back((seq, frame));
        while self.bytes > Self::BYTES_MAX {
            self.pop();
        }
    }

    fn pop(&mut self) {
        if let Some((seq, frame)) = self.frames.pop_front() {
            self.trimmed_to = seq;
            self.bytes -= frame.len();
        }
    }

    /// Drops the frames up to `seq`.
    pub(super) fn trim(&mut self, seq: u64) {
        while self.frames.front().is_some_and(|(first, _)| *first <= seq) {
            self.pop();
        }
        if self.frames.is_empty() {
            self.frames = VecDeque::new();
            self.merged = None;
        }
    }

    /// Drops every frame: the feed has lost events up to `seq`.
    pub(super) fn lose(&mut self, seq: u64) {
        self.trim(u64::MAX);
        self.trimmed_to = self.trimmed_to.max(seq);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// How long a round that has ended, and left frames, is followed by nothing: as long as it took, up to `max`.
    ///
    /// A topic that is always busy would otherwise be written to its members as fast as the thread can, a few frames at a
    /// time, and the write costs much more than the frames. In the rest the publishers have the thread, and what they
    /// bring goes out with the same write.
    pub(super) fn rest(&self, now: Instant, max: Duration) -> Duration {
        let took = now.saturating_duration_since(self.began);
        let restful = Self::RESTFUL_MIN..max * Self::RESTFUL_MAX;
        let rests = restful.contains(&took) && self.bytes <= Self::REST_BYTES_MAX;
        if rests { took.min(max) } else { Duration::ZERO }
    }

    /// Whether the window still has everything after `cursor`.
    pub(super) fn covers(&self, cursor: u64) -> bool {
        cursor >= self.trimmed_to
    }

    /// The frames after `cursor`.
    pub(super) fn after(&self, cursor: u64) -> impl Iterator<Item = &(u64, Frame)> + Clone {
        let all_new = self.frames.front().is_none_or(|(first, _)| *first > cursor);
        let at = if all_new { 0 } else { self.frames.partition_point(|(seq, _)| *seq <= cursor) };
        self.frames.range(at..)
    }

    /// The frames after `cursor` in one piece, up to the limit of a run; `to` where the window ends.
    pub(super) fn run(&mut self, cursor: u64, to: u64) -> Option<Segment<'_>> {
        let (first, alone) = self.after(cursor).next().map(|(seq, frame)| (*seq, Self::fills_a_run(frame)))?;
        let last = self.frames.back().map_or(first, |(seq, _)| *seq);
        if first == last || alone {
            let to = if first == last { to } else { first };
            return self.after(cursor).next().map(|(_, frame)| Segment { bytes: frame, last: first, to });
        }
        let kept = self.merged.take().filter(|merged| merged.first == first && merged.last == last);
        let merged = kept.unwrap_or_else(|| {
            let (to, bytes) = merge(self.after(cursor).map(|(seq, frame)| (*seq, frame)));
            Box::new(Merged { first, last, to, bytes })
        });
        let merged = self.merged.insert(merged);
        Some(Segment { bytes: &merged.bytes, last: merged.to, to: if merged.to == last { to } else { merged.to } })
    }

    /// Whether `frame` is written by itself: to put others behind it would copy it.
    pub(super) fn fills_a_run(frame: &Frame) -> bool {
        frame.len() >= Self::RUN_BYTES_MAX
    }
}

/// Puts frames together up to the limit of a run, at least one; gives the position of the last that went in.
pub(super) fn merge<'a>(frames: impl Iterator<Item = (u64, &'a Frame)> + Clone) -> (u64, Bytes) {
    let (mut to, mut total) = (0, 0);
    for (seq, frame) in frames.clone() {
        if total > 0 && total + frame.len() > Channel::RUN_BYTES_MAX {
            break;
        }
        total += frame.len();
        to = seq;
    }
    let mut bytes = BytesMut::with_capacity(total);
    frames.take_while(|(seq, _)| *seq <= to).for_each(|(_, frame)| bytes.extend_from_slice(frame));
    (to, bytes.freeze())
}

/// Where a write ended: the position of the last frame that it touched, and, when that is not all out, the frame and how
/// much of it is.
pub(super) type WriteEnd = (u64, Option<(Frame, usize)>);

/// Where a write of `frames` ended; nothing when it took all of them, or none.
pub(super) fn write_end<'a>(frames: impl Iterator<Item = (u64, &'a Frame)>, wrote: Written) -> Option<WriteEnd> {
    let Written::Part { mut taken } = wrote else { return None };
    let mut end = None;
    for (seq, frame) in frames {
        if taken == 0 {
            break;
        }
        if taken < frame.len() {
            return Some((seq, Some((frame.clone(), taken))));
        }
        end = Some((seq, None));
        taken -= frame.len();
    }
    end
}
