//! Where a request ends, and how the full HTTP server gets it.

use std::ops::Range;

use crate::http::problem::Problem;

/// A request for the full HTTP server.
pub(in crate::http::short) struct Framed {
    /// Where its target is.
    pub(super) target: Range<usize>,
    pub(super) head: usize,
    /// The length of its body; `None` when only the full server can find the end.
    pub(super) body: Option<usize>,
}

impl Framed {
    /// How many of `bytes` are of this request.
    pub(in crate::http::short) fn used(&self, bytes: &[u8]) -> usize {
        self.body.map_or(bytes.len(), |body| self.head.saturating_add(body).min(bytes.len()))
    }

    /// What has to come beside `used` bytes.
    pub(in crate::http::short) fn rest(&self, used: usize) -> Option<usize> {
        self.body.map(|body| self.head.saturating_add(body).saturating_sub(used))
    }

    /// The first `used` of `bytes` for the full server, which takes a target in ASCII only: `curl '…?topic=新闻'` sends
    /// it as it was typed.
    pub(in crate::http::short) fn bytes(&self, bytes: &[u8], used: usize) -> Vec<u8> {
        let part = |range: Range<usize>| bytes.get(range).unwrap_or_default();
        let target = part(self.target.clone());
        if target.iter().all(|byte| is_plain(*byte)) {
            return part(0..used).to_vec();
        }
        let mut all = part(0..self.target.start).to_vec();
        for byte in target {
            if is_plain(*byte) {
                all.push(*byte);
            } else {
                all.extend_from_slice(&[b'%', hex_digit(byte >> 4), hex_digit(byte & 15)]);
            }
        }
        all.extend_from_slice(part(self.target.end..used));
        all
    }
}

/// How long a target is for the full server.
pub(super) fn encoded_len(target: &str) -> usize {
    target.bytes().map(|byte| if is_plain(byte) { 1 } else { 3 }).sum()
}

fn hex_digit(nibble: u8) -> u8 {
    if nibble < 10 { b'0' + nibble } else { b'A' + nibble - 10 }
}

/// Whether the full HTTP server takes this byte in a target: in a path it takes fewer than in a query.
fn is_plain(byte: u8) -> bool {
    matches!(byte, b'!' | b'#'..=b';' | b'=' | b'?'..=b'_' | b'a'..=b'z' | b'|' | b'~')
}

/// The length of the body; `None` when it ends with the connection, or with its last chunk. Where two lengths could be
/// understood, somebody in between may have understood the other one.
pub(super) fn body(method: &str, headers: &[httparse::Header<'_>]) -> Result<Option<usize>, Problem> {
    let (mut length, mut is_coded, mut is_framed) = (None, false, method != "CONNECT");
    for header in headers {
        // By length first: every request's every header comes here.
        let is = |name: &str| header.name.len() == name.len() && header.name.eq_ignore_ascii_case(name);
        if is("transfer-encoding") || is("upgrade") {
            is_coded |= header.name.len() == "transfer-encoding".len();
            is_framed = false;
        } else if is("content-length") {
            let digits = !header.value.is_empty() && header.value.iter().all(u8::is_ascii_digit);
            let value = std::str::from_utf8(header.value).ok().filter(|_| digits).and_then(|text| text.parse().ok());
            let (Some(value), None) = (value, length) else {
                let detail = "Content-Length must be one number of bytes, given once";
                return Err(Problem::bad_request("bad_request", detail));
            };
            length = Some(value);
        }
    }
    if length.is_some() && is_coded {
        let detail = "a request has either Content-Length or Transfer-Encoding";
        return Err(Problem::bad_request("bad_request", detail));
    }
    Ok(is_framed.then(|| length.unwrap_or(0)))
}

/// Empty lines before a request are nothing (RFC 9112, section 2.2).
pub(super) fn line_breaks(bytes: &[u8]) -> usize {
    bytes.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count()
}
