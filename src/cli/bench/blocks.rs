//! Parses an event stream (HTML standard, section 9.2.6), and keeps only what the checks need.
//!
//! The bytes arrive in arbitrary pieces. A complete line is parsed in place. If a line is split between pieces, only
//! its beginning is copied: the rest of a line is never needed. Lines end with LF or CRLF.

use memchr::memchr;

use super::stamp::Stamp;

/// How much of a split line is kept: enough for `data: ` and a stamp, or for `id: ` and an id.
const PARTIAL_LINE_BYTES: usize = 96;

/// The kind of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Block {
    /// An event of this run.
    Event(Stamp),
    /// The broker reports that requested events are missing.
    Gap,
    /// The broker refuses the subscriber.
    Refused,
    /// A comment, a heartbeat, or an event of another run.
    Other,
}

/// The parser of one stream.
#[derive(Debug)]
pub struct Blocks {
    run: u32,
    /// The beginning of an incomplete line.
    partial: [u8; PARTIAL_LINE_BYTES],
    partial_len: usize,
    /// The kind of the current block, according to its lines so far.
    block: Block,
    /// `None` if the stream will not be resumed.
    ids: Option<Box<Ids>>,
}

/// The event ids of a stream.
#[derive(Debug, Default)]
struct Ids {
    /// The id that the last complete block has set: the cursor.
    last: Vec<u8>,
    /// The id in the current block.
    next: Vec<u8>,
    /// The current block has an id.
    has_next: bool,
}

impl Blocks {
    pub fn new(run: u32, keeps_ids: bool) -> Self {
        let ids = keeps_ids.then(Box::default);
        Self { run, partial: [0; PARTIAL_LINE_BYTES], partial_len: 0, block: Block::Other, ids }
    }

    /// The last event id, which an `EventSource` would send to resume.
    pub fn cursor(&self) -> &[u8] {
        self.ids.as_ref().map_or(&[], |ids| &ids.last)
    }

    /// Discards the incomplete block, because the connection has ended.
    pub fn disconnect(&mut self) {
        (self.partial_len, self.block) = (0, Block::Other);
        if let Some(ids) = &mut self.ids {
            ids.has_next = false;
        }
    }

    /// Parses more bytes, and passes each complete block to `on_block`.
    pub fn feed(&mut self, mut bytes: &[u8], mut on_block: impl FnMut(Block)) {
        while let Some((line, rest)) = memchr(b'\n', bytes).and_then(|end| bytes.split_at_checked(end)) {
            bytes = rest.split_first().map_or(&[], |(_, rest)| rest);
            let is_end = if self.partial_len == 0 {
                self.parse_line(line)
            } else {
                self.append_partial(line);
                let (partial, len) = (self.partial, std::mem::take(&mut self.partial_len));
                self.parse_line(partial.get(..len).unwrap_or_default())
            };
            if is_end {
                on_block(std::mem::replace(&mut self.block, Block::Other));
            }
        }
        self.append_partial(bytes);
    }

    /// Appends to the incomplete line what still fits.
    fn append_partial(&mut self, bytes: &[u8]) {
        for (to, from) in self.partial.iter_mut().skip(self.partial_len).zip(bytes) {
            *to = *from;
            self.partial_len += 1;
        }
    }

    /// Parses a complete line. Returns whether it ends the block.
    fn parse_line(&mut self, line: &[u8]) -> bool {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        match line {
            [] => {
                self.commit_id();
                return true;
            }
            // A comment between blocks is a heartbeat. It counts as a block, even without an empty line after it.
            [b':', ..] if self.block == Block::Other => return true,
            [b'd', b'a', b't', b'a', b':', value @ ..] => {
                if let Some(stamp) = Stamp::read(self.run, trim_blank(value)) {
                    self.block = Block::Event(stamp);
                }
            }
            [b'i', b'd', b':', value @ ..] => {
                if let Some(ids) = &mut self.ids {
                    ids.next.clear();
                    ids.next.extend_from_slice(trim_blank(value));
                    ids.has_next = true;
                }
            }
            [b'e', b'v', b'e', b'n', b't', b':', value @ ..] => match trim_blank(value) {
                b"broker.gap" => self.block = Block::Gap,
                b"broker.refused" => self.block = Block::Refused,
                _ => {}
            },
            _ => {}
        }
        false
    }

    /// Makes the id of the current block the cursor.
    fn commit_id(&mut self) {
        if let Some(ids) = &mut self.ids
            && std::mem::take(&mut ids.has_next)
        {
            let Ids { last, next, .. } = &mut **ids;
            std::mem::swap(last, next);
        }
    }
}

/// Removes the one blank that may follow the colon of a field.
fn trim_blank(value: &[u8]) -> &[u8] {
    value.strip_prefix(b" ").unwrap_or(value)
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

    #[test]
    fn blocks_are_the_same_however_the_bytes_are_cut() {
        for end in ["\n", "\r\n"] {
            let (bytes, blocks) = stream(end);
            for piece in [1, 2, 3, 7, 64, 97, 4_096, bytes.len()] {
                let (mut parser, mut found) = (Blocks::new(RUN, true), Vec::new());
                bytes.chunks(piece).for_each(|piece| parser.feed(piece, |block| found.push(block)));
                assert_eq!(found, blocks, "in pieces of {piece}");
                assert_eq!(parser.cursor(), b"c");
            }
        }
    }

    #[test]
    fn the_cursor_moves_with_whole_blocks() {
        let mut parser = Blocks::new(RUN, true);
        parser.feed(b"id: a\ndata: x\n\nid: b\ndata: y\n", |_| {});
        assert_eq!(parser.cursor(), b"a", "the second event has not been dispatched");
        parser.disconnect();
        parser.feed(b"\n", |_| {});
        assert_eq!(parser.cursor(), b"a", "an empty line of the next connection does not complete the block");
        parser.feed(b"id: c\n\n", |_| {});
        assert_eq!(parser.cursor(), b"c", "a block without data moves the cursor, too");
        let mut parser = Blocks::new(RUN, false);
        parser.feed(b"id: a\ndata: x\n\n", |_| {});
        assert_eq!(parser.cursor(), b"", "ids are not kept");
    }
}
