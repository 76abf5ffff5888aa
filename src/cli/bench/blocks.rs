//! Parses an event stream (HTML standard, section 9.2.6), and keeps only what the checks need.
//!
//! The bytes arrive in arbitrary pieces. A complete line is parsed in place. If a line is split between pieces, only
//! its beginning is copied: the rest of a line is never needed. Lines end with LF or CRLF.

use memchr::memchr;

use super::stamp::Stamp;

/// How much of a split line is copied: enough for `data: ` and a stamp, or for `id: ` and an id.
const PARTIAL_LINE_BYTES: usize = 96;

/// A part of the stream that ends with an empty line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Block {
    /// An event of this run.
    Event(Stamp),
    /// The server says that requested events are missing.
    Gap,
    /// The server refuses the subscriber.
    Refused,
    /// A comment (servers send comments as heartbeats), or an event of another run.
    Other,
}

/// The parser of one stream.
#[derive(Debug)]
pub struct Blocks {
    run_id: u32,
    /// The beginning of an incomplete line.
    partial: Vec<u8>,
    /// The current block, according to its lines so far.
    block: Block,
    /// Whether the stream will be resumed.
    keeps_ids: bool,
    /// The id of the last complete block that has one. An `EventSource` would send it to resume.
    pub cursor: Vec<u8>,
    /// The id in the current block.
    id: Option<Vec<u8>>,
}

impl Blocks {
    pub fn new(run_id: u32, keeps_ids: bool) -> Self {
        Self { run_id, partial: Vec::new(), block: Block::Other, keeps_ids, cursor: Vec::new(), id: None }
    }

    /// Discards the incomplete block, because the connection has ended.
    pub fn disconnect(&mut self) {
        self.partial.clear();
        (self.block, self.id) = (Block::Other, None);
    }

    /// Removes the next complete block from `bytes`. `None` if there is no more: then all bytes are parsed.
    pub fn next(&mut self, bytes: &mut &[u8]) -> Option<Block> {
        while let Some(end) = memchr(b'\n', bytes) {
            let line = bytes.split_off(..=end).unwrap_or_default();
            let is_end = if self.partial.is_empty() {
                self.parse_line(line)
            } else {
                self.append_partial(line);
                let line = std::mem::take(&mut self.partial);
                self.parse_line(&line)
            };
            if is_end {
                return Some(std::mem::replace(&mut self.block, Block::Other));
            }
        }
        self.append_partial(std::mem::take(bytes));
        None
    }

    /// Appends to the incomplete line what still fits.
    fn append_partial(&mut self, bytes: &[u8]) {
        self.partial.extend(bytes.iter().take(PARTIAL_LINE_BYTES - self.partial.len()));
    }

    /// Parses a complete line. Returns whether it ends the block.
    fn parse_line(&mut self, line: &[u8]) -> bool {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() {
            if let Some(id) = self.id.take() {
                self.cursor = id;
            }
            return true;
        }
        // A heartbeat need not have an empty line after it.
        if line.starts_with(b":") && self.block == Block::Other {
            return true;
        }
        if let Some(data) = value(line, b"data:") {
            if let Some(stamp) = Stamp::read(self.run_id, data) {
                self.block = Block::Event(stamp);
            }
        } else if let Some(id) = value(line, b"id:") {
            self.id = self.keeps_ids.then(|| id.to_vec());
        } else if let Some(name) = value(line, b"event:") {
            match name {
                b"broker.gap" => self.block = Block::Gap,
                b"broker.refused" => self.block = Block::Refused,
                _ => {}
            }
        }
        false
    }
}

/// The value of the field `name`, without the blank that may precede it; `None` if the line has another field.
fn value<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let value = line.strip_prefix(name)?;
    Some(value.strip_prefix(b" ").unwrap_or(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUN: u32 = 5;

    fn stamp(number: usize) -> Stamp {
        Stamp { topic: 1, number, time: 9 }
    }

    /// A stream with every kind of block, and the blocks that the parser should find.
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

    fn all(parser: &mut Blocks, mut bytes: &[u8]) -> Vec<Block> {
        std::iter::from_fn(|| parser.next(&mut bytes)).collect()
    }

    #[test]
    fn blocks_are_the_same_however_the_bytes_are_cut() {
        for end in ["\n", "\r\n"] {
            let (bytes, blocks) = stream(end);
            for piece in [1, 2, 3, 7, 64, 97, 4_096, bytes.len()] {
                let (mut parser, mut found) = (Blocks::new(RUN, true), Vec::new());
                bytes.chunks(piece).for_each(|piece| found.extend(all(&mut parser, piece)));
                assert_eq!(found, blocks, "in pieces of {piece}");
                assert_eq!(parser.cursor, b"c");
            }
        }
    }

    #[test]
    fn the_cursor_moves_with_whole_blocks() {
        let mut parser = Blocks::new(RUN, true);
        all(&mut parser, b"id: a\ndata: x\n\nid: b\ndata: y\n");
        assert_eq!(parser.cursor, b"a", "the second event has not been dispatched");
        parser.disconnect();
        all(&mut parser, b"\n");
        assert_eq!(parser.cursor, b"a", "an empty line of the next connection does not complete the block");
        all(&mut parser, b"id: c\n\n");
        assert_eq!(parser.cursor, b"c", "a block without data moves the cursor, too");
        let mut parser = Blocks::new(RUN, false);
        all(&mut parser, b"id: a\ndata: x\n\n");
        assert_eq!(parser.cursor, b"", "ids are not kept");
    }
}
