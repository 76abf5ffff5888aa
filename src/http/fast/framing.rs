//! Where a request ends, and how its bytes are rewritten for the fallback.

use std::ops::Range;

use crate::http::problem::{Code, Problem};

/// Replaces `upgrade` in a head: it has the same length, and no server knows it.
const IGNORED: &[u8] = b"ignored";

/// Where a request ends, and what has to be rewritten for the fallback.
pub(super) struct Framing {
    /// The position of the target.
    target: Range<usize>,
    head_len: usize,
    /// `None` if only the fallback can find the end of the body.
    body_len: Option<usize>,
    /// The positions at which the head asks for an upgrade to another protocol.
    upgrades: Vec<usize>,
}

impl Framing {
    /// The framing of the request that `bytes` begin with and that is `parsed`.
    pub(super) fn new(
        bytes: &[u8],
        parsed: &httparse::Request<'_, '_>,
        head_len: usize,
        body_len: Option<usize>,
    ) -> Self {
        let start = line_breaks(bytes) + parsed.method.unwrap_or_default().len() + 1;
        let target = start..start + parsed.path.unwrap_or_default().len();
        Self { target, head_len, body_len, upgrades: upgrades(bytes, parsed.headers) }
    }

    /// How many of `bytes` belong to the request.
    pub(super) fn received(&self, bytes: &[u8]) -> usize {
        match self.body_len {
            Some(body_len) => self.head_len.saturating_add(body_len).min(bytes.len()),
            None => bytes.len(),
        }
    }

    /// How many bytes are missing when `received` bytes have arrived; `None` if that is not known.
    pub(super) fn missing(&self, received: usize) -> Option<usize> {
        self.body_len.map(|body_len| self.head_len.saturating_add(body_len).saturating_sub(received))
    }

    /// Rewrites the first `len` of `bytes` for the fallback, which is stricter than the fast path:
    ///
    /// - It accepts a target only in ASCII, but `curl '…?topic=新闻'` sends the characters as they were typed. So the
    ///   target is percent-encoded.
    /// - For an upgrade, it would pass what follows to the other protocol, or close the connection. This server has no
    ///   other protocol, and may ignore the request for one (RFC 9110, section 7.8). So that request is hidden.
    pub(super) fn rewrite(&self, bytes: &[u8], len: usize) -> Vec<u8> {
        let mut rewritten = bytes.get(..len).unwrap_or_default().to_vec();
        for at in &self.upgrades {
            if let Some(upgrade) = rewritten.get_mut(*at..at + IGNORED.len()) {
                upgrade.copy_from_slice(IGNORED);
            }
        }
        let target = bytes.get(self.target.clone()).unwrap_or_default();
        if !target.iter().all(|byte| is_allowed(*byte)) {
            rewritten.splice(self.target.clone(), encode(target));
        }
        rewritten
    }
}

/// The positions at which a head asks for an upgrade: the names of the `Upgrade` headers, and the option `upgrade` in
/// `Connection` headers.
fn upgrades(bytes: &[u8], headers: &[httparse::Header<'_>]) -> Vec<usize> {
    let position = |part: &[u8]| part.as_ptr().addr() - bytes.as_ptr().addr();
    let is_upgrade = |part: &&[u8]| part.eq_ignore_ascii_case(b"upgrade");
    let mut positions = Vec::new();
    for header in headers {
        if is_upgrade(&header.name.as_bytes()) {
            positions.push(position(header.name.as_bytes()));
        } else if header.name.eq_ignore_ascii_case("connection") {
            let options = header.value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
            positions.extend(options.filter(is_upgrade).map(position));
        }
    }
    positions
}

/// Percent-encodes a target.
fn encode(target: &[u8]) -> Vec<u8> {
    let mut encoded = Vec::with_capacity(3 * target.len());
    for byte in target {
        if is_allowed(*byte) {
            encoded.push(*byte);
        } else {
            encoded.extend_from_slice(&[b'%', hex_digit(byte >> 4), hex_digit(byte & 15)]);
        }
    }
    encoded
}

/// The length of a target once it is percent-encoded.
pub(super) fn encoded_len(target: &str) -> usize {
    target.bytes().map(|byte| if is_allowed(byte) { 1 } else { 3 }).sum()
}

fn hex_digit(nibble: u8) -> u8 {
    if nibble < 10 { b'0' + nibble } else { b'A' + nibble - 10 }
}

/// Whether the fallback accepts this byte everywhere in a target. It allows fewer bytes in a path than in a query.
fn is_allowed(byte: u8) -> bool {
    matches!(byte, b'!' | b'#'..=b';' | b'=' | b'?'..=b'_' | b'a'..=b'z' | b'|' | b'~')
}

/// The length of the body; `None` if its end is the end of the connection, or of the last chunk.
///
/// A request with two contradictory lengths is refused. A proxy may have used the other length, and an attacker could
/// hide a second request in the difference (request smuggling).
pub(super) fn body_len(method: &str, headers: &[httparse::Header<'_>]) -> Result<Option<usize>, Problem> {
    let (mut length, mut is_coded) = (None, false);
    for header in headers {
        // The length is compared first because this runs for each header of each request.
        let is = |name: &str| header.name.len() == name.len() && header.name.eq_ignore_ascii_case(name);
        if is("transfer-encoding") {
            is_coded = true;
        } else if is("content-length") {
            let digits = !header.value.is_empty() && header.value.iter().all(u8::is_ascii_digit);
            let value = std::str::from_utf8(header.value).ok().filter(|_| digits).and_then(|text| text.parse().ok());
            let (Some(value), None) = (value, length) else {
                let detail = "Content-Length must be one number of bytes, given once";
                return Err(Problem::new(Code::BadRequest, detail));
            };
            length = Some(value);
        }
    }
    if length.is_some() && is_coded {
        let detail = "a request has either Content-Length or Transfer-Encoding, not both";
        return Err(Problem::new(Code::BadRequest, detail));
    }
    let is_known = !is_coded && method != "CONNECT";
    Ok(is_known.then(|| length.unwrap_or(0)))
}

/// How many bytes of empty lines are before the request. They are ignored (RFC 9112, section 2.2).
pub(super) fn line_breaks(bytes: &[u8]) -> usize {
    bytes.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count()
}
