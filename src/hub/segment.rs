//! Joins frames into one segment for one write, and finds the frame in which a partial write ended.

use std::borrow::Cow;

use super::counts::Written;
use crate::frame::Frame;

/// The maximum size of a segment of several frames. A larger frame is a segment by itself.
const SEGMENT_BYTES_MAX: usize = 256 << 10;

/// Consecutive frames of a stream, in one piece of memory.
#[derive(Clone, Copy)]
pub(super) struct Segment<'a> {
    /// The frames.
    pub(super) bytes: &'a [u8],
    /// The position of its last frame; 0 if it has none.
    pub(super) last: u64,
    /// A subscriber that has got the whole segment has everything up to here.
    pub(super) to: u64,
    /// Its events.
    pub(super) written: Written,
}

/// Frames that were joined.
pub(super) struct Merge<'a> {
    /// The position of the last one; 0 if there is none.
    pub(super) last: u64,
    pub(super) bytes: Cow<'a, [u8]>,
    pub(super) written: Written,
}

/// Where a partial write ended.
pub(super) struct WriteEnd {
    /// The position of the last frame of which at least one byte was sent.
    pub(super) seq: u64,
    /// That frame, and how many of its bytes were sent; `None` if all of them were sent.
    pub(super) partial: Option<(Frame, usize)>,
    /// The events that were sent to their last byte.
    pub(super) written: Written,
}

/// Whether `frame` is a segment by itself, because no other frame fits beside it.
pub(super) fn fills_segment(frame: &Frame) -> bool {
    frame.len() >= SEGMENT_BYTES_MAX
}

/// Joins as many frames as fit into a segment, and at least one. Their bytes are copied only if there are several.
pub(super) fn merge<'a>(frames: impl Iterator<Item = &'a (u64, Frame)> + Clone) -> Merge<'a> {
    let (mut last, mut total, mut count, mut written) = (0, 0, 0, Written::default());
    for (seq, frame) in frames.clone() {
        if count > 0 && total + frame.len() > SEGMENT_BYTES_MAX {
            break;
        }
        (last, total, count) = (*seq, total + frame.len(), count + 1);
        written.add(frame);
    }
    let mut fitting = frames.take(count).map(|(_, frame)| &**frame);
    if count <= 1 {
        return Merge { last, bytes: Cow::Borrowed(fitting.next().unwrap_or_default()), written };
    }
    let mut bytes = Vec::with_capacity(total);
    fitting.for_each(|frame| bytes.extend_from_slice(frame));
    Merge { last, bytes: Cow::Owned(bytes), written }
}

/// Where a write of `frames` ended, if the socket accepted only `accepted` bytes; `None` if it accepted nothing.
pub(super) fn write_end<'a>(frames: impl Iterator<Item = &'a (u64, Frame)>, accepted: usize) -> Option<WriteEnd> {
    let (mut left, mut written) = (accepted, Written::default());
    let mut end = None;
    for (seq, frame) in frames {
        if left == 0 {
            break;
        }
        if left < frame.len() {
            return Some(WriteEnd { seq: *seq, partial: Some((frame.clone(), left)), written });
        }
        written.add(frame);
        end = Some(WriteEnd { seq: *seq, partial: None, written });
        left -= frame.len();
    }
    debug_assert_eq!(left, 0, "the socket accepts no more than the frames have");
    end
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames(sizes: &[usize]) -> Vec<(u64, Frame)> {
        (1..).zip(sizes).map(|(seq, bytes)| (seq, Frame::Made(vec![b'x'; *bytes].into()))).collect()
    }

    #[test]
    fn as_many_frames_are_put_together_as_fit_and_at_least_one() {
        // Goal: no write is larger than the limit, unless one frame alone is.
        const HALF: usize = SEGMENT_BYTES_MAX / 2;
        let cases: [(&[usize], u64, usize); 6] = [
            (&[], 0, 0),
            (&[1, 2, 3], 3, 6),
            (&[HALF, HALF], 2, 2 * HALF),
            (&[HALF, HALF, 1], 2, 2 * HALF),
            (&[HALF, HALF + 1, 1], 1, HALF),
            (&[2 * HALF + 1, 1], 1, 2 * HALF + 1),
        ];
        for (sizes, last, bytes) in cases {
            let frames = frames(sizes);
            let merged = merge(frames.iter());
            assert_eq!((merged.last, merged.bytes.len()), (last, bytes), "{sizes:?}");
        }
        let sizes = frames(&[2 * HALF - 1, 2 * HALF]);
        assert!(!fills_segment(&sizes[0].1) && fills_segment(&sizes[1].1), "nothing fits behind the second");
    }

    #[test]
    fn a_write_ends_in_the_frame_of_which_something_is_sent() {
        // Goal: a frame that is sent to its last byte is not one that is sent in part.
        let frames = frames(&[3, 4]);
        let end = |accepted| {
            let end = write_end(frames.iter(), accepted);
            end.map(|WriteEnd { seq, partial, .. }| (seq, partial.map(|(_, sent)| sent)))
        };
        let ends = [None, Some((1, Some(1))), Some((1, Some(2))), Some((1, None)), Some((2, Some(1)))];
        for (bytes, expected) in ends.into_iter().enumerate() {
            assert_eq!(end(bytes), expected, "after {bytes} bytes");
        }
        assert_eq!(end(7), Some((2, None)));
    }
}
