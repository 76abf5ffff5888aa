//! The stamp at the beginning of an event's content, by which its arrival is checked: run, topic, number and time.

use std::{io::Write as _, ops::Range};

/// The length of a stamp: `~RRRRRRRR.TTTTTT.NNNNNNNN.tttttttttttt` in hexadecimal digits. No event is smaller.
pub const BYTES: usize = 38;

/// The identity of one event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// The index of the topic.
    pub topic: usize,
    /// 0, 1, 2, … within the topic, over all publishers.
    pub number: usize,
    /// The scheduled time of publishing, in nanoseconds since the run began.
    pub time: u64,
}

impl Stamp {
    /// Appends content of `size` bytes: the stamp and padding.
    pub fn write(self, run_id: u32, size: usize, out: &mut Vec<u8>) {
        let end = out.len() + size.max(BYTES);
        // Writing to memory that grows cannot fail.
        write!(out, "~{run_id:08x}.{:06x}.{:08x}.{:012x}", self.topic, self.number, self.time).ok();
        out.resize(end, b'x');
    }

    /// Reads the stamp at the beginning of `content`; `None` if there is none, or it belongs to another run.
    pub fn read(run_id: u32, content: &[u8]) -> Option<Self> {
        let field = |range: Range<usize>| hex(content.get(range)?);
        if content.first() != Some(&b'~') || field(1..9)? != u64::from(run_id) {
            return None;
        }
        let [topic, number] = [field(10..16)?, field(17..25)?].map(usize::try_from);
        Some(Self { topic: topic.ok()?, number: number.ok()?, time: field(26..BYTES)? })
    }
}

fn hex(digits: &[u8]) -> Option<u64> {
    digits.iter().try_fold(0, |value, digit| Some(value << 4 | u64::from(char::from(*digit).to_digit(16)?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_reads_back_and_nothing_else_does() {
        let stamp = Stamp { topic: 0xfffff, number: 0xffff_ffff, time: 0xffff_ffff_ffff };
        for bytes in [0, BYTES, 100] {
            let mut content = Vec::new();
            stamp.write(7, bytes, &mut content);
            assert_eq!((content.len(), Stamp::read(7, &content)), (bytes.max(BYTES), Some(stamp)));
            assert_eq!(Stamp::read(8, &content), None, "a stamp of another run");
            assert_eq!(Stamp::read(7, &content[..BYTES - 1]), None);
            assert_eq!(Stamp::read(7, &content[1..]), None);
        }
    }
}
