//! Reads an event stream (HTML standard, section 9.2.6) without keeping any of it but what a check needs.
//!
//! Bytes come in whatever pieces the network makes of them. Lines are read where they lie; of one that is cut only the
//! beginning is kept, for no line has anything of interest further on. Lines end with LF or CRLF.

use memchr::memchr;

use super::stamp::Stamp;

/// What is kept of a line that is cut: enough for `data: ` and a stamp, or `id: ` and an id.
const PART: usize = 96;

/// What a block was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Block {
    /// An event of this run.
    Event(Stamp),
    /// The broker says that it goes on without events that were asked for.
    Gap,
    /// The broker does not want the subscriber.
    Refused,
    /// A comment, a heartbeat, an event of somebody else.
    Other,
}

/// Where a stream stands between two pieces.
#[derive(Debug)]
pub struct Blocks {
    run: u32,
    /// The beginning of a line that is not complete.
    part: [u8; PART],
    part_len: usize,
    /// What the lines of the block say so far.
    block: Block,
    /// Only where the stream is to be resumed.
    ids: Option<Box<Ids>>,
}

/// The ids of a stream.
#[derive(Debug, Default)]
struct Ids {
    /// Of the last block that was complete: the cursor.
    last: Vec<u8>,
    /// The `id` field since, if there was one.
    next: Vec<u8>,
    is_set: bool,
}

impl Blocks {
    pub fn new(run: u32, keeps_ids: bool) -> Self {
        let ids = keeps_ids.then(Box::default);
        Self { run, part: [0; PART], part_len: 0, block: Block::Other, ids }
    }

    /// The last event id, as an `EventSource` would send it to resume.
    pub fn cursor(&self) -> &[u8] {
        self.ids.as_ref().map_or(&[], |ids| &ids.last)
    }

    /// The connection has gone, and with it what was not complete.
    pub fn cut(&mut self) {
        (self.part_len, self.block) = (0, Block::Other);
        if let Some(ids) = &mut self.ids {
            ids.is_set = false;
        }
    }

    /// Reads on, and gives each block that is complete to `found`.
    pub fn feed(&mut self, mut bytes: &[u8], mut found: impl FnMut(Block)) {
        while let Some((line, rest)) = memchr(b'\n', bytes).and_then(|end| bytes.split_at_checked(end)) {
            bytes = rest.split_first().map_or(&[], |(_, rest)| rest);
            let is_end = if self.part_len == 0 {
                self.line(line)
            } else {
                self.keep(line);
                let (part, len) = (self.part, std::mem::take(&mut self.part_len));
                self.line(part.get(..len).unwrap_or_default())
            };
            if is_end {
                found(std::mem::replace(&mut self.block, Block::Other));
            }
        }
        self.keep(bytes);
    }

    fn keep(&mut self, bytes: &[u8]) {
        let room = self.part.iter_mut().skip(self.part_len);
        self.part_len += room.zip(bytes).map(|(to, from)| *to = *from).count();
    }

    /// Takes a whole line; whether it ends the block.
    fn line(&mut self, line: &[u8]) -> bool {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        match line {
            [] => {
                self.commit_id();
                return true;
            }
            // A comment between blocks is a sign of life, with or without a blank line behind it.
            [b':', ..] if self.block == Block::Other => return true,
            [b'd', b'a', b't', b'a', b':', value @ ..] => {
                if let Some(stamp) = Stamp::read(self.run, trimmed(value)) {
                    self.block = Block::Event(stamp);
                }
            }
            [b'i', b'd', b':', value @ ..] => {
                if let Some(ids) = &mut self.ids {
                    ids.next.clear();
                    ids.next.extend_from_slice(trimmed(value));
                    ids.is_set = true;
                }
            }
            [b'e', b'v', b'e', b'n', b't', b':', value @ ..] => match trimmed(value) {
                b"broker.gap" => self.block = Block::Gap,
                b"broker.refused" => self.block = Block::Refused,
                _ => {}
            },
            _ => {}
        }
        false
    }

    fn commit_id(&mut self) {
        if let Some(ids) = &mut self.ids
            && std::mem::take(&mut ids.is_set)
        {
            let Ids { last, next, .. } = &mut **ids;
            std::mem::swap(last, next);
        }
    }
}

fn trimmed(value: &[u8]) -> &[u8] {
    value.strip_prefix(b" ").unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUN: u32 = 5;

    fn stamp(number: u32) -> Stamp {
        Stamp { topic: 1, number, time: 9 }
    }

    /// A stream of every kind of block, the cursor before and after its last one, and what it is.
    fn stream(end: &str) -> (Vec<u8>, Vec<Block>) {
        let events = [("a", 0, 38), ("b", 1, 5_000), ("c", 2, 100)].map(|(id, number, bytes)| {
            let mut content = Vec::new();
            stamp(number).write(RUN, bytes, &mut content);
            format!("id: {id}{end}data: {}{end}data:more{end}{end}", String::from_utf8(content).unwrap())
        });
        let first = format!(": hello{end}id: first{end}{end}");
        let last =
            format!("event: broker.gap{end}data: {{}}{end}{end}event:broker.refused{end}{end}data: ~x{end}{end}");
        let text = [first, events.concat(), last].concat();
        let event = |number| Block::Event(stamp(number));
        (
            text.into_bytes(),
            vec![Block::Other, Block::Other, event(0), event(1), event(2), Block::Gap, Block::Refused, Block::Other],
        )
    }

    #[test]
    fn blocks_are_the_same_however_the_bytes_are_cut() {
        for end in ["\n", "\r\n"] {
            let (bytes, blocks) = stream(end);
            for piece in [1, 2, 3, 7, 64, 97, 4_096, bytes.len()] {
                let (mut reader, mut found) = (Blocks::new(RUN, true), Vec::new());
                bytes.chunks(piece).for_each(|piece| reader.feed(piece, |block| found.push(block)));
                assert_eq!(found, blocks, "in pieces of {piece}");
                assert_eq!(reader.cursor(), b"c");
            }
        }
    }

    #[test]
    fn the_cursor_moves_with_whole_blocks() {
        let mut reader = Blocks::new(RUN, true);
        reader.feed(b"id: a\ndata: x\n\nid: b\ndata: y\n", |_| {});
        assert_eq!(reader.cursor(), b"a", "the second event has not been dispatched");
        reader.cut();
        reader.feed(b"\n", |_| {});
        assert_eq!(reader.cursor(), b"a", "another connection's blank line does not complete it");
        reader.feed(b"id: c\n\n", |_| {});
        assert_eq!(reader.cursor(), b"c", "a block without data moves it, too");
        let mut reader = Blocks::new(RUN, false);
        reader.feed(b"id: a\ndata: x\n\n", |_| {});
        assert_eq!(reader.cursor(), b"", "not asked for");
    }
}
