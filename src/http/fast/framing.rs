//! Where a request ends, and how the fallback gets it.

use std::ops::Range;

use crate::http::problem::{Code, Problem};

/// What stands in the place of `upgrade` in a head: as long, and nothing that a server knows.
const IGNORED: &[u8] = b"ignored";

/// A request for the fallback.
pub(super) struct Framed {
    /// Where its target is.
    target: Range<usize>,
    head: usize,
    /// The length of its body; `None` when only the fallback can find the end.
    body: Option<usize>,
    /// Where it asks for another protocol.
    upgrades: Vec<usize>,
}

impl Framed {
    /// The request that `bytes` begin with, which have been `parsed`: a head and a body of such lengths.
    pub(super) fn new(bytes: &[u8], parsed: &httparse::Request<'_, '_>, head: usize, body: Option<usize>) -> Self {
        let start = line_breaks(bytes) + parsed.method.unwrap_or_default().len() + 1;
        let target = start..start + parsed.path.unwrap_or_default().len();
        Self { target, head, body, upgrades: upgrades(bytes, parsed.headers) }
    }

    /// How many of `bytes` are of this request.
    pub(super) fn used(&self, bytes: &[u8]) -> usize {
        self.body.map_or(bytes.len(), |body| self.head.saturating_add(body).min(bytes.len()))
    }

    /// What has to come beside `used` bytes.
    pub(super) fn rest(&self, used: usize) -> Option<usize> {
        self.body.map(|body| self.head.saturating_add(body).saturating_sub(used))
    }

    /// The first `used` of `bytes` for the fallback. It takes a target in ASCII only, and `curl '…?topic=新闻'` sends it
    /// as it was typed. Another protocol is not to be had, and who asks for it is answered in this one (RFC 9110, section
    /// 7.8); the fallback would take what follows for that protocol, or end the connection.
    pub(super) fn bytes(&self, bytes: &[u8], used: usize) -> Vec<u8> {
        let mut all = bytes.get(..used).unwrap_or_default().to_vec();
        for at in &self.upgrades {
            all.get_mut(*at..at + IGNORED.len()).into_iter().for_each(|place| place.copy_from_slice(IGNORED));
        }
        let target = bytes.get(self.target.clone()).unwrap_or_default();
        if !target.iter().all(|byte| is_plain(*byte)) {
            all.splice(self.target.clone(), encoded(target));
        }
        all
    }
}

/// Where a head asks for another protocol: the name of each `Upgrade`, and `upgrade` among the options of a `Connection`.
fn upgrades(bytes: &[u8], headers: &[httparse::Header<'_>]) -> Vec<usize> {
    let place = |part: &[u8]| part.as_ptr().addr() - bytes.as_ptr().addr();
    let is_upgrade = |part: &&[u8]| part.eq_ignore_ascii_case(b"upgrade");
    let mut places = Vec::new();
    for header in headers {
        if is_upgrade(&header.name.as_bytes()) {
            places.push(place(header.name.as_bytes()));
        } else if header.name.eq_ignore_ascii_case("connection") {
            let options = header.value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
            places.extend(options.filter(is_upgrade).map(place));
        }
    }
    places
}

fn encoded(target: &[u8]) -> Vec<u8> {
    let mut all = Vec::with_capacity(3 * target.len());
    for byte in target {
        if is_plain(*byte) {
            all.push(*byte);
        } else {
            all.extend_from_slice(&[b'%', hex_digit(byte >> 4), hex_digit(byte & 15)]);
        }
    }
    all
}

/// How long a target is for the fallback.
pub(super) fn encoded_len(target: &str) -> usize {
    target.bytes().map(|byte| if is_plain(byte) { 1 } else { 3 }).sum()
}

fn hex_digit(nibble: u8) -> u8 {
    if nibble < 10 { b'0' + nibble } else { b'A' + nibble - 10 }
}

/// Whether the fallback takes this byte in a target: in a path it takes fewer than in a query.
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
        if is("transfer-encoding") {
            (is_coded, is_framed) = (true, false);
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
        let detail = "a request has either Content-Length or Transfer-Encoding";
        return Err(Problem::new(Code::BadRequest, detail));
    }
    Ok(is_framed.then(|| length.unwrap_or(0)))
}

/// Empty lines before a request are nothing (RFC 9112, section 2.2).
pub(super) fn line_breaks(bytes: &[u8]) -> usize {
    bytes.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count()
}
