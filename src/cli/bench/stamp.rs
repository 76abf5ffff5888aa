//! The stamp at the beginning of an event's content, by which its arrival is checked: run, topic, number and time.

use std::io::Write as _;

/// The length of a stamp: `~RRRRRRRR.TTTTTT.NNNNNNNN.tttttttttttt` in hexadecimal digits. No event is smaller.
pub const BYTES: usize = 38;

/// The identity of one event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// The index of the topic.
    pub topic: u32,
    /// 0, 1, 2, … within the topic, over all publishers.
    pub number: u32,
    /// The scheduled time of publishing, in nanoseconds since the run began.
    pub time: u64,
}

impl Stamp {
    /// Appends content of `bytes` bytes: the stamp and padding.
    pub fn write(self, run: u32, bytes: usize, out: &mut Vec<u8>) {
        let end = out.len() + bytes.max(BYTES);
        // Writing to memory that grows cannot fail.
        write!(out, "~{run:08x}.{:06x}.{:08x}.{:012x}", self.topic, self.number, self.time).ok();
        out.resize(end, b'x');
    }

    /// Reads the stamp at the beginning of `content`; `None` if there is none, or it belongs to another run.
    pub fn read(run: u32, content: &[u8]) -> Option<Self> {
        let (stamp, _) = content.split_first_chunk::<BYTES>()?;
        let (mark, stamp) = stamp.split_first()?;
        let (of_run, stamp) = stamp.split_first_chunk::<8>()?;
        let (topic, stamp) = stamp.split_first()?.1.split_first_chunk::<6>()?;
        let (number, stamp) = stamp.split_first()?.1.split_first_chunk::<8>()?;
        let (time, _) = stamp.split_first()?.1.split_first_chunk::<12>()?;
        let is_ours = *mark == b'~' && hex(of_run)? == u64::from(run);
        let (topic, number) = (u32::try_from(hex(topic)?).ok()?, u32::try_from(hex(number)?).ok()?);
        is_ours.then_some(Self { topic, number, time: hex(time)? })
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
        let stamp = Stamp { topic: 0xfffff, number: u32::MAX, time: 0xffff_ffff_ffff };
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
