//! A window: the newest frames of one channel, kept until a round has visited all members.
//!
//! A window is a cache, not a queue. A member whose cursor is before the window reads from the log.

use std::collections::VecDeque;

use super::{
    counts::Written,
    segment::{Merge, Segment, fills_segment, merge},
};
use crate::frame::Frame;

/// The newest frames of one channel.
#[derive(Debug)]
pub(super) struct Window {
    /// The frames in order, each with its position.
    frames: VecDeque<(u64, Frame)>,
    /// The size of `frames` in bytes.
    bytes: usize,
    /// The window has every frame after this position. A member with a cursor before it must read from the log.
    trimmed_to: u64,
    /// The last segment that was merged. Most members have the same cursor, so they get the same segment.
    merged: Option<Box<Merged>>,
}

/// A segment of several frames.
#[derive(Debug)]
struct Merged {
    /// The position of its first frame.
    first: u64,
    /// The position of its last frame.
    last: u64,
    /// The position of the window's last frame when the segment was merged. When a further frame has come, the segment
    /// is merged again.
    window_last: u64,
    bytes: Vec<u8>,
    written: Written,
}

impl Window {
    /// With more bytes, the oldest frames are dropped.
    const BYTES_MAX: usize = 4 << 20;

    /// An empty window, which begins after `seen`.
    pub(super) fn new(seen: u64) -> Self {
        Self { frames: VecDeque::new(), bytes: 0, trimmed_to: seen, merged: None }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// The size of its frames in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The position of its last frame.
    fn last(&self) -> Option<u64> {
        self.frames.back().map(|(seq, _)| *seq)
    }

    /// Whether it has all frames after `cursor`.
    pub(super) fn covers(&self, cursor: u64) -> bool {
        cursor >= self.trimmed_to
    }

    pub(super) fn push(&mut self, seq: u64, frame: Frame) {
        debug_assert!(self.last().is_none_or(|last| last < seq), "frames are in order of position, each once");
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
        debug_assert!(!self.is_empty() || self.bytes == 0, "an empty window has no bytes");
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

    /// Drops all frames. Members with cursors before `seq` must read from the log.
    pub(super) fn skip_to(&mut self, seq: u64) {
        self.trim(u64::MAX);
        self.trimmed_to = self.trimmed_to.max(seq);
    }

    /// The frames after `cursor`.
    pub(super) fn after(&self, cursor: u64) -> impl Iterator<Item = &(u64, Frame)> + Clone {
        // Most members need all frames, so the search is usually not needed.
        let needs_all = self.frames.front().is_none_or(|(first, _)| *first > cursor);
        let at = if needs_all { 0 } else { self.frames.partition_point(|(seq, _)| *seq <= cursor) };
        self.frames.range(at..)
    }

    /// The first frames after `cursor` as one segment; `None` if there are none. A subscriber that has got the last
    /// frame of the window has everything up to `seen`.
    pub(super) fn segment(&mut self, cursor: u64, seen: u64) -> Option<Segment<'_>> {
        let (first, fills) = self.after(cursor).next().map(|(seq, frame)| (*seq, fills_segment(frame)))?;
        let window_last = self.last().unwrap_or(first);
        debug_assert!(
            cursor < first && first <= window_last && window_last <= seen,
            "a segment begins after the cursor"
        );
        let is_only = first == window_last;
        if is_only || fills {
            // The segment is this one frame, without a copy.
            let to = if is_only { seen } else { first };
            return self.after(cursor).next().map(|(_, frame)| {
                let mut written = Written::default();
                written.add(frame);
                Segment { bytes: frame, last: first, to, written }
            });
        }
        let is_same = |merged: &Merged| merged.first == first && merged.window_last == window_last;
        if !self.merged.as_deref().is_some_and(is_same) {
            let Merge { last, bytes, written } = merge(self.after(cursor));
            self.merged = Some(Box::new(Merged { first, last, window_last, bytes: bytes.into_owned(), written }));
        }
        let merged = self.merged.as_ref()?;
        let to = if merged.last == window_last { seen } else { merged.last };
        Some(Segment { bytes: &merged.bytes, last: merged.last, to, written: merged.written })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(bytes: usize) -> Frame {
        Frame::Made(vec![b'x'; bytes].into())
    }

    #[test]
    fn past_its_limit_the_oldest_frames_go_and_their_bytes_with_them() {
        // Goal: the limit itself is allowed, and one byte more is not.
        let mut window = Window::new(0);
        let quarter = Window::BYTES_MAX / 4;
        (1..=4).for_each(|seq| window.push(seq, frame(quarter)));
        assert!(window.covers(0) && window.bytes() == Window::BYTES_MAX, "the limit itself is allowed");
        window.push(5, frame(1));
        assert!(!window.covers(0) && window.covers(1), "the first has gone");
        assert_eq!(window.bytes(), 3 * quarter + 1);
        window.trim(4);
        assert_eq!((window.bytes(), window.after(0).count()), (1, 1));
        window.trim(5);
        assert!(window.bytes() == 0 && window.is_empty());
    }

    #[test]
    fn a_frame_by_itself_is_not_copied() {
        // Goal: what is large, or alone, is written from where it is; with a large one nobody has what is behind it.
        let mut window = Window::new(0);
        window.push(1, frame(1 << 20));
        window.push(2, frame(10));
        let own: Vec<_> = window.after(0).map(|(_, frame)| frame.as_ptr()).collect();
        let large = window.segment(0, 9).expect("a frame");
        assert_eq!((large.bytes.as_ptr(), large.last, large.to), (own[0], 1, 1));
        let alone = window.segment(1, 9).expect("a frame");
        assert_eq!((alone.bytes.as_ptr(), alone.last, alone.to), (own[1], 2, 9));
        assert!(window.segment(2, 9).is_none());
    }

    #[test]
    fn a_merged_run_is_used_again_by_those_who_need_the_same() {
        // Goal: one copy for all members at the same cursor, and another one for other cursors or when more has come.
        let mut window = Window::new(0);
        (1..=3).for_each(|seq| window.push(seq, frame(10 + usize::from(seq == 1))));
        let run = |window: &mut Window, cursor| {
            let segment = window.segment(cursor, 9).expect("frames");
            (segment.bytes.as_ptr(), segment.bytes.len(), segment.last, segment.to)
        };
        let first = run(&mut window, 0);
        assert_eq!((first.1, first.2, first.3), (31, 3, 9));
        assert_eq!(run(&mut window, 0), first, "the same memory");
        assert_eq!(run(&mut window, 1).1, 20, "from another cursor");
        assert_eq!(run(&mut window, 0).1, 31);
        window.push(4, frame(5));
        assert_eq!(run(&mut window, 0).1, 36, "with the frame that has come");
    }
}
