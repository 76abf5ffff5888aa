//! Parses an event stream (HTML standard, section 9.2.6), and keeps only what the checks need.
//!
//! The bytes arrive in arbitrary pieces. A complete line is parsed in place. If a line is split between pieces, only
//! its beginning is copied: the rest of a line is never needed. Lines end with LF or CRLF.

use memchr::memchr;

use super::stamp::Stamp;

/// How much of a split line is copied: enough for `data: ` and a stamp, or for `id: ` and an id.
const PARTIAL_LINE_BYTES: usize = 96;

/// A comment, or fields that end with an empty line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Block {
    /// An event of this run.
    Event(Stamp),
    /// The server says that requested events are missing.
    Gap,
    /// The server refuses the subscriber.
    Refused,
    /// Anything else: a comment, an id alone, an unknown event, or an event of another run.
    Other,
}

/// The parser of one stream.
#[derive(Debug)]
pub struct Blocks {
    run_id: u32,
    /// The beginning of an incomplete line.
    partial: Vec<u8>,
    /// The current block, according to its fields so far; `None` if it has none.
    block: Option<Block>,
    /// Whether `cursor` is needed, because the stream will be resumed.
    keeps_ids: bool,
    /// The id of the last complete block that has one. An `EventSource` would send it to resume.
    pub cursor: Vec<u8>,
    /// The id in the current block.
    id: Option<Vec<u8>>,
}

impl Blocks {
    pub fn new(run_id: u32, keeps_ids: bool) -> Self {
        Self { run_id, partial: Vec::new(), block: None, keeps_ids, cursor: Vec::new(), id: None }
    }

    /// Discards the incomplete block, because the connection has ended.
    pub fn disconnect(&mut self) {
        self.partial.clear();
        (self.block, self.id) = (None, None);
    }

    /// Removes the next complete block from `bytes`. `None` if there is no more: then all bytes are parsed.
    pub fn next(&mut self, bytes: &mut &[u8]) -> Option<Block> {
        while let Some(end) = memchr(b'\n', bytes) {
            let line = bytes.split_off(..=end).unwrap_or_default();
            let block = if self.partial.is_empty() {
                self.parse_line(line)
            } else {
                self.append_partial(line);
                let line = std::mem::take(&mut self.partial);
                self.parse_line(&line)
            };
            if block.is_some() {
                return block;
            }
        }
        self.append_partial(std::mem::take(bytes));
        None
    }

    /// Appends to the incomplete line what still fits.
    fn append_partial(&mut self, bytes: &[u8]) {
        self.partial.extend(bytes.iter().take(PARTIAL_LINE_BYTES - self.partial.len()));
    }

    /// Parses a complete line. Returns the block that it ends.
    fn parse_line(&mut self, line: &[u8]) -> Option<Block> {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() {
            if let Some(id) = self.id.take() {
                self.cursor = id;
            }
            return self.block.take();
        }
        if line.starts_with(b":") {
            // Servers send comments as heartbeats, with or without an empty line after them.
            return self.block.is_none().then_some(Block::Other);
        }
        let block = if let Some(data) = value(line, b"data:") {
            Stamp::read(self.run_id, data).map(Block::Event)
        } else if let Some(id) = value(line, b"id:") {
            self.id = self.keeps_ids.then(|| id.to_vec());
            None
        } else if let Some(name) = value(line, b"event:") {
            match name {
                b"broker.gap" => Some(Block::Gap),
                b"broker.refused" => Some(Block::Refused),
                _ => None,
            }
        } else {
            // This is `retry` or an unknown field, which begins no block. `retry` may have no empty line after it, and
            // a heartbeat that follows is a block of its own.
            return None;
        };
        // This line tells the kind of the block, or an earlier line has told it. If neither does, the kind is `Other`.
        self.block = block.or(self.block).or(Some(Block::Other));
        None
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

    #[test]
    fn an_empty_line_alone_is_no_block() {
        for text in [&b":\n"[..], b":\n\n", b"\n:\n\n", b":\r\n\r\n"] {
            assert_eq!(all(&mut Blocks::new(RUN, false), text), [Block::Other]);
        }
        assert_eq!(all(&mut Blocks::new(RUN, false), b"id: a\n: comment\ndata: x\n\n"), [Block::Other]);
        assert_eq!(all(&mut Blocks::new(RUN, false), b": a\nretry: 1\n: b\n"), [Block::Other; 2]);
    }
}
