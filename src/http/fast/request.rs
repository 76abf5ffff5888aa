//! Parses requests, and tells which of them the fast path serves itself.
//!
//! The fast path serves only simple requests: those that every HTTP implementation understands in the same way. The
//! fallback gets the bytes of all others, such as those with another transfer coding, an upgrade, or
//! `Expect: 100-continue`. So both readers agree on what a request is and where it ends.

use std::{mem::MaybeUninit, net::IpAddr};

use super::{
    bounds::{BYTES_MAX, HEAD_BYTES_MAX, HEADERS_MAX, TARGET_BYTES_MAX},
    framing::{Framing, body_len, encoded_len},
    unreadable::{too_long, unreadable, uri_too_long},
};
use crate::http::head::Head;
use crate::http::problem::Problem;

/// What some bytes begin with.
pub(super) enum Parsed<T> {
    /// A complete simple request: the result of serving it, and its length in bytes.
    Served(T, usize),
    /// A part of a head.
    PartialHead,
    /// The head of a simple request, and a part of its body.
    PartialBody,
    /// A complete head of a request that is not simple.
    ForFallback(Framing),
    /// Bytes that must be refused.
    Refused(Problem),
}

/// A complete simple request.
pub(super) struct Request<'a> {
    method: &'a str,
    path: &'a str,
    query: &'a str,
    headers: &'a [httparse::Header<'a>],
    remote: Option<IpAddr>,
    pub(super) body: &'a [u8],
    /// The client asked to close the connection after the response.
    pub(super) is_last: bool,
}

/// Parses the request at the beginning of `bytes`, and passes it to `on_request` if it is complete and simple.
///
/// The first `searched` bytes were seen before, without the end of the head. The head is parsed again only when its end
/// may have arrived. Otherwise a client that sends byte by byte would have the head parsed for each byte.
pub(super) fn parse<T>(
    bytes: &[u8],
    searched: usize,
    remote: Option<IpAddr>,
    on_request: impl FnOnce(&Request<'_>) -> T,
) -> Parsed<T> {
    if searched > 0
        && bytes.len() < HEAD_BYTES_MAX
        && !may_end_head(bytes.get(searched.saturating_sub(3)..).unwrap_or_default())
    {
        return Parsed::PartialHead;
    }
    let mut headers = [const { MaybeUninit::uninit() }; HEADERS_MAX];
    let mut parsed = httparse::Request::new(&mut []);
    let head_len = match parsed.parse_with_uninit_headers(bytes, &mut headers) {
        Ok(httparse::Status::Complete(len)) if len <= HEAD_BYTES_MAX => len,
        Ok(httparse::Status::Partial) if bytes.len() < HEAD_BYTES_MAX => return Parsed::PartialHead,
        Ok(_) => return Parsed::Refused(too_long(bytes)),
        Err(error) => return Parsed::Refused(unreadable(bytes, error)),
    };
    let (Some(method), Some(target), Some(version)) = (parsed.method, parsed.path, parsed.version) else {
        return Parsed::Refused(unreadable(bytes, httparse::Error::Token));
    };
    if target.len() > TARGET_BYTES_MAX / 3 && encoded_len(target) > TARGET_BYTES_MAX {
        return Parsed::Refused(uri_too_long());
    }
    let body_len = match body_len(method, parsed.headers) {
        Ok(len) => len,
        Err(problem) => return Parsed::Refused(problem),
    };
    let for_fallback = || Parsed::ForFallback(Framing::new(bytes, &parsed, head_len, body_len));
    let Headers::Simple { is_last } = check_headers(parsed.headers) else { return for_fallback() };
    let (1, Some(body_len)) = (version, body_len) else { return for_fallback() };
    let len = head_len.saturating_add(body_len);
    // Other targets are those for a proxy (`http://…`), for the whole server (`*`), and those with a fragment, which a
    // correct client never sends.
    let has_simple_target = target.starts_with('/') && memchr::memchr(b'#', target.as_bytes()).is_none();
    if !has_simple_target || len > BYTES_MAX {
        return for_fallback();
    }
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let Some(body) = bytes.get(head_len..len) else { return Parsed::PartialBody };
    let request = Request { method, path, query, headers: parsed.headers, remote, body, is_last };
    Parsed::Served(on_request(&request), len)
}

/// Parses a head that is known to be complete, for the fallback.
pub(super) fn parse_framing(bytes: &[u8]) -> Option<Framing> {
    let mut headers = [const { MaybeUninit::uninit() }; HEADERS_MAX];
    let mut parsed = httparse::Request::new(&mut []);
    let Ok(httparse::Status::Complete(head_len)) = parsed.parse_with_uninit_headers(bytes, &mut headers) else {
        return None;
    };
    let body_len = body_len(parsed.method?, parsed.headers).ok()?;
    Some(Framing::new(bytes, &parsed, head_len, body_len))
}

/// The method and target of a request.
pub(super) enum Target<'a> {
    Complete(&'a str, &'a str),
    Partial,
    Malformed,
}

/// Parses the method and target of a request once its head is complete.
pub(super) fn parse_target(bytes: &[u8]) -> Target<'_> {
    let mut headers = [const { MaybeUninit::uninit() }; HEADERS_MAX];
    let mut parsed = httparse::Request::new(&mut []);
    match parsed.parse_with_uninit_headers(bytes, &mut headers) {
        Ok(httparse::Status::Partial) => Target::Partial,
        Ok(_) => Target::Complete(parsed.method.unwrap_or_default(), parsed.path.unwrap_or_default()),
        Err(_) => Target::Malformed,
    }
}

/// Whether `bytes` contain an empty line, which ends a head.
fn may_end_head(bytes: &[u8]) -> bool {
    memchr::memchr_iter(b'\n', bytes).any(|at| {
        let next_line = bytes.get(at + 1..).unwrap_or_default();
        next_line.starts_with(b"\n") || next_line.starts_with(b"\r\n")
    })
}

/// Whether the headers are those of a simple request.
enum Headers {
    /// They are. With `is_last`, the client asked to close the connection after the response.
    Simple { is_last: bool },
    /// They are not: only the fallback can serve the request.
    Other,
}

fn check_headers(headers: &[httparse::Header<'_>]) -> Headers {
    let (mut hosts, mut is_last) = (0, false);
    for header in headers {
        let is = |name: &str| header.name.eq_ignore_ascii_case(name);
        // The length is compared first because this runs for each header of each request.
        match header.name.len() {
            4 if is("host") => hosts += 1,
            6 if is("expect") => return Headers::Other,
            7 if is("upgrade") => return Headers::Other,
            10 if is("connection") => match header.value.to_ascii_lowercase().as_slice() {
                b"keep-alive" => {}
                b"close" => is_last = true,
                _ => return Headers::Other,
            },
            16 if is("content-encoding") => return Headers::Other,
            17 if is("transfer-encoding") => return Headers::Other,
            _ => {}
        }
    }
    if hosts == 1 { Headers::Simple { is_last } } else { Headers::Other }
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

    fn takes_chunks(&self) -> bool {
        // The fast path serves HTTP/1.1 only.
        true
    }

    fn remote(&self) -> Option<IpAddr> {
        self.remote
    }

    fn values<'a>(&'a self, name: &'static str) -> impl Iterator<Item = &'a [u8]> {
        self.headers.iter().filter(|header| header.name.eq_ignore_ascii_case(name)).map(|header| header.value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::problem::Code;

    const SIMPLE: &str = "POST /publish?topic=a HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc";

    fn parsed(bytes: &str) -> String {
        let parsed = parse(bytes.as_bytes(), 0, None, |request| {
            format!("{} {} {} {}", request.method, request.path, request.query, String::from_utf8_lossy(request.body))
        });
        match parsed {
            Parsed::Served(seen, len) => format!("{seen} {len}"),
            Parsed::PartialHead | Parsed::PartialBody => "more".to_owned(),
            Parsed::ForFallback(_) => "fallback".to_owned(),
            Parsed::Refused(problem) => problem.code().as_str().to_owned(),
        }
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
        let Parsed::Refused(problem) = parse(b"\x16\x03\x01\x02\xfc\xff", 0, None, |_| ()) else {
            panic!("it is refused")
        };
        assert_eq!(problem.code(), Code::BadRequest, "a TLS handshake");
        let broken = [b"GET /publish?topic=", &b"\xff\xfe"[..], b" HTTP/1.1\r\n\r\n"].concat();
        let Parsed::Refused(problem) = parse(&broken, 0, None, |_| ()) else { panic!("it is refused") };
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
        let Parsed::ForFallback(framing) = parse(request.as_bytes(), 0, None, |_| ()) else {
            panic!("it is not simple")
        };
        let len = framing.received(request.as_bytes());
        let encoded = framing.rewrite(request.as_bytes(), len);
        let expected = "\r\nGET /topics/%C3%A9?%22x%22=%20 HTTP/1.1\r\nHost: é\r\nExpect: x\r\n\r\n";
        assert_eq!((String::from_utf8_lossy(&encoded).as_ref(), framing.missing(len)), (expected, Some(0)));
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
            let Parsed::ForFallback(framing) = parse(request.as_bytes(), 0, None, |_| ()) else {
                panic!("it is not simple")
            };
            let bytes = framing.rewrite(request.as_bytes(), framing.received(request.as_bytes()));
            assert_eq!(String::from_utf8_lossy(&bytes), head("ignored", expected));
            assert_eq!(framing.missing(request.len()), Some(0), "the end of the request is known");
        }
    }

    #[test]
    fn a_head_in_pieces_is_parsed_again_only_when_it_may_be_complete() {
        // One byte arrives at a time. The end of the head must be found, whichever line ends it has.
        for end in ["\r\n\r\n", "\n\n", "\n\r\n"] {
            let request = format!("GET /healthz HTTP/1.1\r\nHost: x{end}");
            for at in 1..=request.len() {
                let is_head = matches!(parse(&request.as_bytes()[..at], at - 1, None, |_| ()), Parsed::PartialHead);
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
