//! A chunked body (RFC 9112, section 7.1), written from its text and not from our encoder.

use std::io::{self, Read};

/// Takes the bytes of a body as they come, in whatever pieces, and gives what is in the chunks.
#[derive(Debug, Default)]
pub struct Chunks {
    /// Bytes of a chunk's head, or of the line end behind it.
    line: Vec<u8>,
    /// Bytes of the chunk that have yet to come.
    left: usize,
    /// The next line is the end of a chunk.
    behind: bool,
    /// The empty chunk and the line behind it have come: the body is whole.
    pub ended: bool,
    last: bool,
    /// How many bytes each whole chunk had.
    pub sizes: Vec<usize>,
}

impl Chunks {
    pub fn feed(&mut self, mut bytes: &[u8]) -> Vec<u8> {
        let mut body = Vec::new();
        while let Some((first, rest)) = bytes.split_first() {
            assert!(!self.ended, "bytes behind the last chunk: {:?}", String::from_utf8_lossy(bytes));
            if self.left > 0 {
                let (data, rest) = bytes.split_at(self.left.min(bytes.len()));
                body.extend_from_slice(data);
                self.left -= data.len();
                self.behind = self.left == 0;
                bytes = rest;
                continue;
            }
            self.line.push(*first);
            bytes = rest;
            if self.line.ends_with(b"\r\n") {
                self.end_of_line();
            }
        }
        body
    }

    /// Whether a chunk has come in part.
    pub fn is_within(&self) -> bool {
        self.left > 0 || self.behind || !self.line.is_empty()
    }

    fn end_of_line(&mut self) {
        let line = std::mem::take(&mut self.line);
        let line = std::str::from_utf8(&line[..line.len() - 2]).expect("a line in ASCII");
        if self.behind || self.last {
            assert_eq!(line, "", "behind a chunk");
            self.ended = self.last;
            self.behind = false;
            return;
        }
        self.left = usize::from_str_radix(line, 16).unwrap_or_else(|_| panic!("{line:?} is no chunk's size"));
        self.last = self.left == 0;
        self.sizes.extend(Some(self.left).filter(|size| *size > 0));
    }
}

/// Reads the body of a response, chunked or not.
pub struct Body<R> {
    from: R,
    chunks: Option<Chunks>,
    decoded: Vec<u8>,
}

impl<R: Read> Body<R> {
    pub fn new(from: R, head: &str) -> Self {
        let chunked = head.to_ascii_lowercase().contains("\r\ntransfer-encoding: chunked\r\n");
        Self { from, chunks: chunked.then(Chunks::default), decoded: Vec::new() }
    }
}

impl<R: Read> Read for Body<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(chunks) = &mut self.chunks else { return self.from.read(buffer) };
        let mut piece = vec![0; 16 << 10];
        while self.decoded.is_empty() && !chunks.ended {
            match self.from.read(&mut piece)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                n => self.decoded = chunks.feed(&piece[..n]),
            }
        }
        let n = self.decoded.len().min(buffer.len());
        buffer[..n].copy_from_slice(&self.decoded[..n]);
        self.decoded.drain(..n);
        Ok(n)
    }
}
