//! What surrounds a block: on HTTP/1.1 a chunk (RFC 9112, section 7.1).

use std::ops::Range;

use bytes::Bytes;

/// How the blocks of a stream are framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Framing {
    /// HTTP/1.1: every block is a chunk, and an empty chunk ends the stream.
    Chunked,
    /// HTTP/1.0: nothing surrounds a block. The stream ends with its connection, so its client cannot tell an end from
    /// a failure.
    Close,
}

const CRLF: &[u8] = b"\r\n";
/// The longest head of a chunk: a length of 64 bits has up to sixteen hexadecimal digits.
const HEAD_MAX: usize = 16 + CRLF.len();

/// The head of a chunk of `len` bytes: the length in hexadecimal digits. The head begins at the returned index of
/// the array, and ends with the array.
fn chunk_head(mut len: usize) -> ([u8; HEAD_MAX], usize) {
    let mut head = *b"0000000000000000\r\n";
    let mut first = HEAD_MAX - CRLF.len();
    for digit in head.iter_mut().rev().skip(CRLF.len()) {
        *digit = b"0123456789abcdef".get(len & 0xf).copied().unwrap_or_default();
        first -= 1;
        len >>= 4;
        if len == 0 {
            break;
        }
    }
    (head, first)
}

/// A block of exactly `len` bytes, which `fill` writes, in `framing`. The memory is exactly as large as needed, because
/// an event keeps it.
pub(super) fn frame_of_len(framing: Framing, len: usize, fill: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
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
    debug_assert_eq!(out.len(), head.len() + len, "a chunk is as long as its head says");
    out.extend_from_slice(CRLF);
    out
}

/// A block of about `guess` bytes, which `fill` writes, in `framing`. The chunk's head, whose length is not known
/// before, gets space in front, so that a large block is not copied when its head is written.
pub(super) fn frame_of_about(framing: Framing, guess: usize, fill: impl FnOnce(&mut Vec<u8>)) -> Bytes {
    let mut out = Vec::with_capacity(HEAD_MAX + guess);
    out.extend_from_slice(&[0; HEAD_MAX]);
    fill(&mut out);
    let mut begin = HEAD_MAX;
    if framing == Framing::Chunked {
        let (head, first) = chunk_head(out.len() - HEAD_MAX);
        // The array fills the space in front. The chunk begins at `first`, after the unused part of the array.
        out.splice(..HEAD_MAX, head);
        out.extend_from_slice(CRLF);
        begin = first;
    }
    out.shrink_to_fit();
    Bytes::from(out).slice(begin..)
}

/// The bytes of a chunk that are its block.
pub(super) fn block_range(chunk: &[u8]) -> Range<usize> {
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
            let exact = frame_of_len(Framing::Chunked, len, |out| out.extend_from_slice(&fill));
            let guessed = frame_of_about(Framing::Chunked, 10, |out| out.extend_from_slice(&fill));
            assert_eq!((exact.len(), exact.capacity()), (expected.len() + len + 2, expected.len() + len + 2));
            assert!(exact.starts_with(expected.as_bytes()) && exact.ends_with(b"\r\n"), "{len}");
            assert_eq!(&*guessed, &*exact, "{len}");
            assert_eq!(block_range(&exact), expected.len()..expected.len() + len);
            assert_eq!(&*frame_of_about(Framing::Close, 10, |out| out.extend_from_slice(&fill)), &*fill);
        }
    }
}
