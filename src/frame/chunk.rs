//! What is around a block on HTTP/1.1: the chunk (RFC 9112, section 7.1).

use std::ops::Range;

use bytes::Bytes;

/// How a client knows that the stream has ended, and was not cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Framing {
    /// HTTP/1.1: every block is a chunk, and an empty chunk is the end.
    Chunked,
    /// HTTP/1.0: it does not know. The stream ends with its connection.
    Close,
}

const CRLF: &[u8] = b"\r\n";
/// The longest head of a chunk: sixteen digits are as many as a length may have.
const HEAD_MAX: usize = 16 + CRLF.len();

/// The head of a chunk of `len` bytes: its size in hexadecimal digits, at the end of what is given, and where it begins.
fn chunk_head(len: usize) -> ([u8; HEAD_MAX], usize) {
    let mut head = *b"0000000000000000\r\n";
    let (mut rest, mut first) = (len, HEAD_MAX - CRLF.len());
    for place in head.iter_mut().rev().skip(CRLF.len()) {
        let digit = b"0123456789abcdef".get(rest & 0xf);
        *place = digit.copied().unwrap_or_default();
        first -= 1;
        rest >>= 4;
        if rest == 0 {
            break;
        }
    }
    (head, first)
}

/// What `fill` writes, `len` bytes, in `framing`. Exactly as much memory: whatever is too much would be held with every
/// event.
pub(super) fn framed(framing: Framing, len: usize, fill: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    if framing == Framing::Close {
        let mut out = Vec::with_capacity(len);
        fill(&mut out);
        return out;
    }
    let (head, first) = chunk_head(len);
    let head = head.get(first..).unwrap_or_default();
    let mut out = Vec::with_capacity(head.len() + len + CRLF.len());
    out.extend_from_slice(head);
    fill(&mut out);
    debug_assert_eq!(out.len(), head.len() + len, "a chunk is as long as it says");
    out.extend_from_slice(CRLF);
    out
}

/// What `fill` writes, some `guess` bytes, in `framing`. It is written where it stays: a large event would be held twice.
pub(super) fn made(framing: Framing, guess: usize, fill: impl FnOnce(&mut Vec<u8>)) -> Bytes {
    let mut out = Vec::with_capacity(HEAD_MAX + guess);
    out.extend_from_slice(&[0; HEAD_MAX]);
    fill(&mut out);
    let mut begin = HEAD_MAX;
    if framing == Framing::Chunked {
        let (head, first) = chunk_head(out.len() - HEAD_MAX);
        out.splice(..HEAD_MAX, head);
        out.extend_from_slice(CRLF);
        begin = first;
    }
    out.shrink_to_fit();
    Bytes::from(out).slice(begin..)
}

/// Where the block is in a chunk.
pub(super) fn block(chunk: &[u8]) -> Range<usize> {
    let head = chunk.iter().take(HEAD_MAX).position(|b| *b == b'\n').map_or(0, |at| at + 1);
    head..chunk.len().saturating_sub(CRLF.len()).max(head)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_says_how_long_it_is() {
        for len in [0, 1, 9, 10, 15, 16, 255, 256, 4_095, 4_096, 65_535, 65_536, 1 << 20, (1 << 24) - 1] {
            let (fill, expected) = (vec![b'x'; len], format!("{len:x}\r\n"));
            let exact = framed(Framing::Chunked, len, |out| out.extend_from_slice(&fill));
            let guessed = made(Framing::Chunked, 10, |out| out.extend_from_slice(&fill));
            assert_eq!((exact.len(), exact.capacity()), (expected.len() + len + 2, expected.len() + len + 2));
            assert!(exact.starts_with(expected.as_bytes()) && exact.ends_with(b"\r\n"), "{len}");
            assert_eq!(&*guessed, &*exact, "{len}");
            assert_eq!(block(&exact), expected.len()..expected.len() + len);
            assert_eq!(&*made(Framing::Close, 10, |out| out.extend_from_slice(&fill)), &*fill);
        }
    }
}
