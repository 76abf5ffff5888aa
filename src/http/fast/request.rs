//! Parses requests, and tells which of them the fast path serves itself.
//!
//! The fast path serves only simple requests: those that every HTTP implementation understands in the same way. The
//! fallback gets the bytes of all others, such as those with a transfer coding, an upgrade, or `Expect: 100-continue`.
//! So both readers agree on what a request is and where it ends.

use std::{mem::MaybeUninit, net::IpAddr};

use super::{
    bounds::{BYTES_MAX, HEAD_BYTES_MAX, HEADERS_MAX, TARGET_BYTES_MAX},
    raw_request::{RawRequest, encoded_len},
    unreadable::{head_too_long, target_too_long, unreadable},
};
use crate::http::head::Head;
use crate::http::problem::{Code, Problem};

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
    /// The complete head of a request that is not simple, or is longer than [`BYTES_MAX`].
    ForFallback(RawRequest<'a>),
}

/// A complete simple request.
pub(super) struct Request<'a> {
    method: &'a str,
    path: &'a str,
    query: &'a str,
    headers: &'a [httparse::Header<'a>],
    remote: IpAddr,
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
    remote: IpAddr,
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
    let Framing { body_len, is_simple, is_last } = framing(method, headers)?;
    let len = body_len.map(|body_len| head_len.saturating_add(body_len));
    let raw = RawRequest { bytes, target, headers, len };
    // Other targets are those for a proxy (`http://…`), for the whole server (`*`), and those with a fragment, which a
    // correct client never sends.
    let has_simple_target = target.starts_with('/') && memchr::memchr(b'#', target.as_bytes()).is_none();
    let is_simple = is_simple && has_simple_target && minor_version == 1;
    let Some(len) = len.filter(|len| is_simple && *len <= BYTES_MAX) else { return Ok(Parsed::ForFallback(raw)) };
    let Some(body) = bytes.get(head_len..len) else { return Ok(Parsed::PartialBody(raw)) };
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    Ok(Parsed::Simple(Request { method, path, query, headers, remote, body, is_last }, len))
}

/// Whether `bytes` contain an empty line. It ends the head, unless it comes before the head.
fn may_end_head(bytes: &[u8]) -> bool {
    memchr::memchr_iter(b'\n', bytes).any(|at| {
        let next_line = bytes.get(at + 1..).unwrap_or_default();
        next_line.starts_with(b"\n") || next_line.starts_with(b"\r\n")
    })
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
/// A request with two contradictory lengths is refused. A proxy may have used the other length, and an attacker could
/// hide a second request in the difference (request smuggling).
fn framing(method: &str, headers: &[httparse::Header<'_>]) -> Result<Framing, Problem> {
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
                    let detail = "Content-Length must be one number of bytes, given once";
                    return Err(Problem::new(Code::BadRequest, detail));
                };
                length = Some(value);
            }
            16 if is("content-encoding") => is_simple = false,
            17 if is("transfer-encoding") => has_coding = true,
            _ => {}
        }
    }
    if has_coding && length.is_some() {
        let detail = "a request has either Content-Length or Transfer-Encoding, not both";
        return Err(Problem::new(Code::BadRequest, detail));
    }
    let is_known = !has_coding && method != "CONNECT";
    let body_len = is_known.then(|| length.unwrap_or(0));
    Ok(Framing { body_len, is_simple: is_simple && hosts == 1, is_last })
}

/// The value of `Content-Length`. Only digits are allowed: `str::parse` would accept a sign, too.
fn content_length(value: &[u8]) -> Option<usize> {
    if !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(value).ok()?.parse().ok()
}

impl Head for Request<'_> {
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

    fn remote(&self) -> Option<IpAddr> {
        Some(self.remote)
    }

    fn values<'a>(&'a self, name: &'static str) -> impl Iterator<Item = &'a [u8]> {
        self.headers.iter().filter(|header| header.name.eq_ignore_ascii_case(name)).map(|header| header.value)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const REMOTE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
    const SIMPLE: &str = "POST /publish?topic=a HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc";

    fn space<'a>() -> HeaderSpace<'a> {
        [const { MaybeUninit::uninit() }; HEADERS_MAX]
    }

    fn parsed(bytes: &str) -> String {
        match parse(bytes.as_bytes(), &mut space(), 0, REMOTE) {
            Ok(Parsed::Simple(Request { method, path, query, body, .. }, len)) => {
                format!("{method} {path} {query} {} {len}", String::from_utf8_lossy(body))
            }
            Ok(Parsed::PartialHead | Parsed::PartialBody(_)) => "more".to_owned(),
            Ok(Parsed::ForFallback(_)) => "fallback".to_owned(),
            Err(problem) => problem.code().as_str().to_owned(),
        }
    }

    fn refusal(bytes: &[u8]) -> Problem {
        parse(bytes, &mut space(), 0, REMOTE).err().expect("it is refused")
    }

    /// What the fallback gets of a request, and how many bytes are missing.
    fn for_fallback(request: &str) -> (String, Option<usize>) {
        let mut space = space();
        let Ok(Parsed::ForFallback(raw)) = parse(request.as_bytes(), &mut space, 0, REMOTE) else {
            panic!("it is not simple")
        };
        (String::from_utf8_lossy(&raw.rewrite()).into_owned(), raw.missing())
    }

    /// The simple request with one more line in its head.
    fn with(line: &str) -> String {
        replaced("Host: x\r\n", &format!("Host: x\r\n{line}\r\n"))
    }

    fn replaced(from: &str, to: &str) -> String {
        SIMPLE.replace(from, to)
    }

    #[test]
    fn a_simple_request_is_served_once_it_is_complete() {
        for end in 0..SIMPLE.len() {
            assert_eq!(parsed(SIMPLE.get(..end).expect("ASCII")), "more", "{end}");
        }
        let expected = format!("POST /publish topic=a abc {}", SIMPLE.len());
        assert_eq!(parsed(SIMPLE), expected);
        assert_eq!(parsed(&format!("{SIMPLE}GET /next")), expected, "the bytes after it belong to the next request");
        assert_eq!(
            parsed("GET /subscribe?topic=a HTTP/1.1\r\nhOST: x\r\nconnection: Keep-Alive\r\n\r\n"),
            "GET /subscribe topic=a  68"
        );
    }

    #[test]
    fn an_ambiguous_request_goes_to_the_fallback() {
        for line in [
            "Transfer-Encoding: chunked",
            "transfer-encoding: identity",
            "Content-Encoding: gzip",
            "Expect: 100-continue",
            "Upgrade: h2c",
            "Connection: closed",
            "Connection: close, x",
            "Connection: keep-alive, upgrade",
            "Host: y",
        ] {
            let request = with(line);
            let request = if line.contains("ncoding: ") && !line.starts_with("Content") {
                request.replace("Content-Length: 3\r\n", "")
            } else {
                request
            };
            assert_eq!(parsed(&request), "fallback", "{line}");
        }
        for request in [
            replaced("Host: x\r\n", ""),
            replaced("HTTP/1.1", "HTTP/1.0"),
            replaced("/publish", "http://x/publish"),
            replaced("/publish?topic=a", "*"),
            replaced("topic=a", "topic=a#b"),
            replaced("POST", "CONNECT").replace("Content-Length: 3\r\n", ""),
        ] {
            assert_eq!(parsed(&request), "fallback", "{request}");
        }
    }

    #[test]
    fn a_malformed_request_is_refused() {
        for line in ["Content-Length: 3", "Content-Length: 4", "Transfer-Encoding: chunked", "no colon", "Sp ace: x"] {
            assert_eq!(parsed(&with(line)), "bad_request", "{line}");
        }
        for request in [
            replaced("3\r\n", "+3\r\n"),
            replaced("3\r\n", "3,3\r\n"),
            replaced("3\r\n", "\r\n"),
            replaced("3\r\n", "99999999999999999999\r\n"),
            replaced("HTTP/1.1", "HTTP/2.0"),
            "\u{16}\u{3}\u{1}".to_owned(),
        ] {
            assert_eq!(parsed(&request), "bad_request", "{request}");
        }
        assert_eq!(refusal(b"\x16\x03\x01\x02\xfc\xff").code(), Code::BadRequest, "a TLS handshake");
        let broken = [b"GET /publish?topic=", &b"\xff\xfe"[..], b" HTTP/1.1\r\n\r\n"].concat();
        let problem = refusal(&broken);
        assert_eq!(problem.code(), Code::BadUtf8);
        assert!(problem.detail().contains("--data-urlencode"), "{problem}");
    }

    #[test]
    fn a_target_that_is_not_ascii_is_accepted_and_encoded_for_the_fallback() {
        for query in ["topic=新闻", "topic=<a>", "topic=\"a\"", "topic={a}`\\^"] {
            let request = SIMPLE.replace("topic=a", query);
            assert_eq!(parsed(&request), format!("POST /publish {query} abc {}", request.len()));
        }
        let request = "\r\nGET /topics/é?\"x\"=%20 HTTP/1.1\r\nHost: é\r\nExpect: x\r\n\r\nGET /next";
        let expected = "\r\nGET /topics/%C3%A9?%22x%22=%20 HTTP/1.1\r\nHost: é\r\nExpect: x\r\n\r\n";
        assert_eq!(for_fallback(request), (expected.to_owned(), Some(0)));
    }

    #[test]
    fn an_upgrade_is_hidden_from_the_fallback() {
        let head = |name: &str, options: &str| format!("GET / HTTP/1.1\r\n{name}: h2c\r\nCONNECTION:{options}\r\n\r\n");
        for (options, expected) in [
            ("Upgrade, HTTP2-Settings", "ignored, HTTP2-Settings"),
            (" keep-alive ,upgrade", " keep-alive ,ignored"),
            ("UPGRADE,upgrades,\tupgrade\t,close", "ignored,upgrades,\tignored\t,close"),
            ("not upgrade", "not upgrade"),
        ] {
            let request = head("uPgrade", options);
            assert_eq!(for_fallback(&request), (head("ignored", expected), Some(0)));
        }
    }

    #[test]
    fn a_head_in_pieces_is_parsed_again_only_when_it_may_be_complete() {
        // One byte arrives at a time. The end of the head must be found, whichever line ends it has.
        for end in ["\r\n\r\n", "\n\n", "\n\r\n"] {
            let request = format!("GET /healthz HTTP/1.1\r\nHost: x{end}");
            for at in 1..=request.len() {
                let mut space = space();
                let parsed = parse(&request.as_bytes()[..at], &mut space, at - 1, REMOTE);
                let is_head = matches!(parsed, Ok(Parsed::PartialHead));
                assert_eq!(is_head, at < request.len(), "{at} of {request:?}");
            }
        }
    }

    #[test]
    fn a_request_that_is_too_long_goes_to_the_fallback_or_is_refused() {
        let sized = |length: usize| {
            let head = format!("POST /publish HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n");
            head + &"x".repeat(length)
        };
        let fits = BYTES_MAX - sized(10_000).len() + 10_000;
        assert_eq!(sized(fits).len(), BYTES_MAX);
        assert!(parsed(&sized(fits)).ends_with(&format!("x {BYTES_MAX}")));
        assert_eq!(parsed(&sized(fits + 1)), "fallback");
        let line = |bytes: usize| format!("GET /subscribe?{} ", "x".repeat(bytes - 16));
        assert_eq!(parsed(&line(HEAD_BYTES_MAX - 1)), "more");
        assert_eq!(parsed(&line(HEAD_BYTES_MAX)), "uri_too_long");
        let target = |bytes: usize, c: &str| {
            let padding = bytes - "/healthz?".len();
            let encoded = if c.is_ascii() { 1 } else { 3 * c.len() };
            let query = c.repeat(padding / encoded) + &"y".repeat(padding % encoded);
            format!("GET /healthz?{query} HTTP/1.1\r\nHost: x\r\nExpect: x\r\n\r\n")
        };
        for c in ["x", "é", "订"] {
            assert_eq!(parsed(&target(TARGET_BYTES_MAX, c)), "fallback");
            assert_eq!(parsed(&target(TARGET_BYTES_MAX + 1, c)), "uri_too_long");
        }
        let head = |bytes: usize| {
            let head = "GET /subscribe HTTP/1.1\r\nHost: x\r\nA: ";
            format!("{head}{}\r\n\r\n", "x".repeat(bytes - head.len() - 4))
        };
        assert_eq!(parsed(&head(HEAD_BYTES_MAX)), "fallback");
        assert_eq!(parsed(&head(HEAD_BYTES_MAX + 1)), "headers_too_large");
        let headers = |n: usize| format!("GET /subscribe HTTP/1.1\r\nHost: x\r\n{}\r\n", "a: b\r\n".repeat(n - 1));
        assert!(parsed(&headers(HEADERS_MAX)).starts_with("GET"));
        assert_eq!(parsed(&headers(HEADERS_MAX + 1)), "headers_too_large");
    }
}
