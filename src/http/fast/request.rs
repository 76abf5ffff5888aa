//! Parses requests, and tells which of them the fast path serves itself.
//!
//! The fast path serves only simple requests: those that every HTTP implementation understands in the same way. All
//! others go to the fallback, such as those with a transfer coding, an upgrade, or `Expect: 100-continue`. So both
//! readers agree on what a request is and where it ends.

use std::{mem::MaybeUninit, net::IpAddr};

use actix_http::Uri;

use super::{
    bounds::{BYTES_MAX, HEAD_BYTES_MAX, HEADERS_MAX, NAME_BYTES_MAX, TARGET_BYTES_MAX},
    raw_request::{RawRequest, encode, encoded_len},
    unreadable::{head_too_long, line_breaks, target_too_long, unreadable},
};
use crate::http::head::SentHead;
use crate::http::problem::{Code, Problem};
use crate::transport::ClientCertificate;

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod tests;

/// Memory for the headers of a request. The caller of [`parse`] provides it, because the result refers to it.
pub(super) type HeaderSpace<'a> = [MaybeUninit<httparse::Header<'a>>; HEADERS_MAX];

/// What some bytes begin with.
pub(super) enum Parsed<'a> {
    /// A part of a head.
    PartialHead,
    /// The head of a simple request, and a part of its body.
    PartialBody(RawRequest<'a>),
    /// A complete simple request, and its length in bytes.
    Simple(Request<'a>, usize),
    /// The complete head of a request that is not simple, or that has a body and is longer than [`BYTES_MAX`].
    ForFallback(RawRequest<'a>),
}

/// A complete simple request.
pub(super) struct Request<'a> {
    method: &'a str,
    path: &'a str,
    query: &'a str,
    headers: &'a [httparse::Header<'a>],
    peer: IpAddr,
    /// The client's certificate. [`parse`] does not know it, and leaves it out.
    pub(super) certificate: Option<&'a ClientCertificate>,
    pub(super) body: &'a [u8],
    /// The client asked to close the connection after the response.
    pub(super) is_last: bool,
}

/// Parses the request at the beginning of `bytes`.
///
/// The first `searched` bytes were seen before, without the end of the head. The head is parsed again only when its end
/// may have arrived. Otherwise a client that sends byte by byte would have the head parsed for each byte.
///
/// # Errors
/// When the bytes must be refused.
pub(super) fn parse<'a>(
    bytes: &'a [u8],
    space: &'a mut HeaderSpace<'a>,
    searched: usize,
    peer: IpAddr,
) -> Result<Parsed<'a>, Problem> {
    // The empty line may have begun in the last 3 of the searched bytes: `\r\n\r`.
    let unsearched = bytes.get(searched.saturating_sub(3)..).unwrap_or_default();
    if searched > 0 && bytes.len() < HEAD_BYTES_MAX && !may_end_head(unsearched) {
        return Ok(Parsed::PartialHead);
    }
    let mut parsed = httparse::Request::new(&mut []);
    let head_len = match parsed.parse_with_uninit_headers(bytes, space) {
        Ok(httparse::Status::Complete(len)) if len <= HEAD_BYTES_MAX => len,
        Ok(httparse::Status::Partial) if bytes.len() < HEAD_BYTES_MAX => return Ok(Parsed::PartialHead),
        Ok(_) => return Err(head_too_long(bytes)),
        Err(error) => return Err(unreadable(bytes, error)),
    };
    let (Some(method), Some(target), Some(minor_version)) = (parsed.method, parsed.path, parsed.version) else {
        return Err(unreadable(bytes, httparse::Error::Token));
    };
    // Encoding makes a target at most three times as long. So `encoded_len` is called only for long ones.
    if target.len() > TARGET_BYTES_MAX / 3 && encoded_len(target) > TARGET_BYTES_MAX {
        return Err(target_too_long());
    }
    let headers: &[_] = parsed.headers;
    if let Some(head) = bytes.get(..head_len) {
        refuse_bare_line_feed(head)?;
    }
    let Framing { body_len, is_simple, is_last } = framing(method, minor_version, headers)?;
    let len = body_len.map(|body_len| head_len.saturating_add(body_len));
    let raw = RawRequest { bytes, target, headers, len };
    // Other targets are those for a proxy (`http://…`), for the whole server (`*`), and those with a fragment, which a
    // correct client never sends.
    let has_simple_target = target.starts_with('/') && memchr::memchr(b'#', target.as_bytes()).is_none();
    if !has_simple_target && Uri::try_from(encode(target)).is_err() {
        // The fallback would refuse the target, too, but without a problem document.
        return Err(Problem::new(Code::BadRequest, "the target of the request is neither a path nor a URL"));
    }
    let is_simple = is_simple && has_simple_target && minor_version == 1;
    let len = match len {
        // The fallback needs several times the memory of a head. So the fast path serves a request without a body
        // itself, even if the head is long.
        Some(len) if is_simple && (len <= BYTES_MAX || len == head_len) => len,
        _ => return Ok(Parsed::ForFallback(raw)),
    };
    let Some(body) = bytes.get(head_len..len) else { return Ok(Parsed::PartialBody(raw)) };
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    Ok(Parsed::Simple(Request { method, path, query, headers, peer, certificate: None, body, is_last }, len))
}

/// Whether `bytes` contain an empty line. An empty line ends the head, unless it comes before the head.
fn may_end_head(bytes: &[u8]) -> bool {
    memchr::memchr_iter(b'\n', bytes).any(|at| {
        let next_line = bytes.get(at + 1..).unwrap_or_default();
        next_line.starts_with(b"\n") || next_line.starts_with(b"\r\n")
    })
}

/// Refuses a head in which a line ends with LF alone. A proxy may have taken the LF for a part of a value, and so have
/// seen fewer headers, or another length (request smuggling). Empty lines before the request are not part of the head.
fn refuse_bare_line_feed(head: &[u8]) -> Result<(), Problem> {
    let head = head.get(line_breaks(head)..).unwrap_or_default();
    let is_bare = |at: usize| !head.get(..at).unwrap_or_default().ends_with(b"\r");
    if memchr::memchr_iter(b'\n', head).any(is_bare) {
        let detail = "a line of the head ends with LF alone; end each line with CRLF";
        return Err(Problem::new(Code::BadRequest, detail));
    }
    Ok(())
}

/// What the headers say about the end of the request and about the connection.
struct Framing {
    /// `None` with a transfer coding or the method CONNECT: then only the fallback can find the end.
    body_len: Option<usize>,
    /// Whether the headers are those of a simple request.
    is_simple: bool,
    /// The client asked to close the connection after the response.
    is_last: bool,
}

/// Reads the headers.
///
/// A request is refused if a proxy could have read another end of the request, or another host, than this server. In
/// the bytes between the two ends, an attacker could hide a second request from the proxy (request smuggling). With
/// another host, the attacker could get around a rule of the proxy.
fn framing(method: &str, minor_version: u8, headers: &[httparse::Header<'_>]) -> Result<Framing, Problem> {
    let bad = |detail: &str| Err(Problem::new(Code::BadRequest, detail));
    let (mut hosts, mut length, mut has_coding) = (0, None, false);
    let (mut is_simple, mut is_last) = (true, false);
    for header in headers {
        let is = |name: &str| header.name.eq_ignore_ascii_case(name);
        // The length is compared first because this runs for each header of each request.
        match header.name.len() {
            4 if is("host") => hosts += 1,
            6 if is("expect") => is_simple = false,
            7 if is("upgrade") => is_simple = false,
            10 if is("connection") && header.value.eq_ignore_ascii_case(b"close") => is_last = true,
            10 if is("connection") && header.value.eq_ignore_ascii_case(b"keep-alive") => {}
            10 if is("connection") => is_simple = false,
            14 if is("content-length") => {
                let (Some(value), None) = (content_length(header.value), length) else {
                    return bad("Content-Length must be one number of bytes, given once");
                };
                length = Some(value);
            }
            16 if is("content-encoding") => is_simple = false,
            17 if is("transfer-encoding") => {
                // HTTP/1.0 has no transfer codings (RFC 9112, section 6.1).
                if has_coding || minor_version == 0 || !header.value.eq_ignore_ascii_case(b"chunked") {
                    return bad("Transfer-Encoding must be `chunked`, given once, in HTTP/1.1");
                }
                has_coding = true;
            }
            len if len > NAME_BYTES_MAX => {
                let detail = format!("the name of a header is longer than {NAME_BYTES_MAX} bytes");
                return Err(Problem::new(Code::HeadersTooLarge, detail).with("limit", NAME_BYTES_MAX));
            }
            _ => {}
        }
    }
    if has_coding && length.is_some() {
        return bad("a request has either Content-Length or Transfer-Encoding, not both");
    }
    // In HTTP/1.0 a body without a length ends with the connection (RFC 1945, section 7.2.2). A proxy may read it so,
    // but this server would take the length for 0, and the body for the next request.
    if minor_version == 0 && method == "POST" && length.is_none() {
        return bad("a POST of HTTP/1.0 must have a Content-Length");
    }
    // HTTP/1.0 requires no host (RFC 9112, section 3.2).
    if hosts > 1 || (hosts == 0 && minor_version == 1) {
        return bad("a request must have one Host header");
    }
    let is_length_known = !has_coding && method != "CONNECT";
    let body_len = is_length_known.then(|| length.unwrap_or(0));
    Ok(Framing { body_len, is_simple, is_last })
}

/// The value of `Content-Length`. Only digits are allowed: `str::parse` would accept a sign, too.
fn content_length(value: &[u8]) -> Option<usize> {
    if !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(value).ok()?.parse().ok()
}

impl SentHead for Request<'_> {
    fn method(&self) -> &str {
        self.method
    }

    fn path(&self) -> &str {
        self.path
    }

    fn query(&self) -> &str {
        self.query
    }

    fn target_authority(&self) -> Option<&str> {
        // A request with such a target is not simple.
        None
    }

    fn is_http_1_1(&self) -> bool {
        // The fast path serves HTTP/1.1 only.
        true
    }

    fn peer(&self) -> Option<IpAddr> {
        Some(self.peer)
    }

    fn certificate(&self) -> Option<&ClientCertificate> {
        self.certificate
    }

    fn names(&self) -> impl Iterator<Item = &str> {
        self.headers.iter().map(|header| header.name)
    }

    fn values<'a>(&'a self, name: &'static str) -> impl Iterator<Item = &'a [u8]> {
        self.headers.iter().filter(|header| header.name.eq_ignore_ascii_case(name)).map(|header| header.value)
    }
}
