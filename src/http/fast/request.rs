//! A request that is plain enough for the fast path.

use std::{mem::MaybeUninit, net::IpAddr};

use super::{
    bounds::{BYTES_MAX, HEAD_BYTES_MAX, HEADERS_MAX, TARGET_BYTES_MAX},
    framing::{Framed, body, encoded_len},
    unreadable::{too_long, unreadable, uri_too_long},
};
use crate::http::head::Head;
use crate::http::problem::Problem;

/// What some bytes are the beginning of.
pub(super) enum Look<T> {
    /// A whole plain request, and what was made of it; it took so many bytes.
    Plain(T, usize),
    /// A head that is not whole yet.
    Head,
    /// A plain request whose body is not whole yet.
    Body,
    /// A whole head for the fallback.
    Other(Framed),
    /// What cannot be a request.
    Bad(Problem),
}

/// A plain request.
pub(super) struct Request<'a> {
    method: &'a str,
    path: &'a str,
    query: &'a str,
    headers: &'a [httparse::Header<'a>],
    remote: Option<IpAddr>,
    pub(super) body: &'a [u8],
    /// The connection ends with the answer.
    pub(super) is_last: bool,
}

/// Looks at `bytes`, and hands the request to `take` if it is whole and plain. A head of which `looked` bytes were seen
/// before is not read again until it can be whole: a client that sends it byte by byte would have it read each time.
///
/// Plain is what cannot be understood in two ways. The fallback gets the same bytes for everything else, so a
/// request can be refused or framed differently nowhere: whatever has another transfer coding, another protocol, or an
/// early answer is left to it.
pub(super) fn look<T>(
    bytes: &[u8],
    looked: usize,
    remote: Option<IpAddr>,
    take: impl FnOnce(&Request<'_>) -> T,
) -> Look<T> {
    if looked > 0
        && bytes.len() < HEAD_BYTES_MAX
        && !ends_head(bytes.get(looked.saturating_sub(3)..).unwrap_or_default())
    {
        return Look::Head;
    }
    let mut headers = [const { MaybeUninit::uninit() }; HEADERS_MAX];
    let mut parsed = httparse::Request::new(&mut []);
    let head = match parsed.parse_with_uninit_headers(bytes, &mut headers) {
        Ok(httparse::Status::Complete(head)) if head <= HEAD_BYTES_MAX => head,
        Ok(httparse::Status::Partial) if bytes.len() < HEAD_BYTES_MAX => return Look::Head,
        Ok(_) => return Look::Bad(too_long(bytes)),
        Err(error) => return Look::Bad(unreadable(bytes, error)),
    };
    let (Some(method), Some(target), Some(version)) = (parsed.method, parsed.path, parsed.version) else {
        return Look::Bad(unreadable(bytes, httparse::Error::Token));
    };
    if target.len() > TARGET_BYTES_MAX / 3 && encoded_len(target) > TARGET_BYTES_MAX {
        return Look::Bad(uri_too_long());
    }
    let body = match body(method, parsed.headers) {
        Ok(body) => body,
        Err(problem) => return Look::Bad(problem),
    };
    let other = || Look::Other(Framed::new(bytes, &parsed, head, body));
    let Some(is_last) = is_last(parsed.headers).filter(|_| version == 1) else { return other() };
    let Some(length) = body else { return other() };
    let whole = head.saturating_add(length);
    // Not the target of a proxy or of the server as a whole; what follows a `#` is not sent by anybody who knows what it is
    // for.
    let is_plain = target.starts_with('/') && memchr::memchr(b'#', target.as_bytes()).is_none();
    if !is_plain || whole > BYTES_MAX {
        return other();
    }
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let Some(body) = bytes.get(head..whole) else { return Look::Body };
    let request = Request { method, path, query, headers: parsed.headers, remote, body, is_last };
    Look::Plain(take(&request), whole)
}

/// The request that `bytes` begin with, for the fallback; its head is whole.
pub(super) fn framed(bytes: &[u8]) -> Option<Framed> {
    let mut headers = [const { MaybeUninit::uninit() }; HEADERS_MAX];
    let mut parsed = httparse::Request::new(&mut []);
    let Ok(httparse::Status::Complete(head)) = parsed.parse_with_uninit_headers(bytes, &mut headers) else {
        return None;
    };
    let body = body(parsed.method?, parsed.headers).ok()?;
    Some(Framed::new(bytes, &parsed, head, body))
}

/// What a request asks for, once its head is whole.
pub(super) enum Line<'a> {
    Whole(&'a str, &'a str),
    More,
    Bad,
}

pub(super) fn line(bytes: &[u8]) -> Line<'_> {
    let mut headers = [const { MaybeUninit::uninit() }; HEADERS_MAX];
    let mut parsed = httparse::Request::new(&mut []);
    match parsed.parse_with_uninit_headers(bytes, &mut headers) {
        Ok(httparse::Status::Partial) => Line::More,
        Ok(_) => Line::Whole(parsed.method.unwrap_or_default(), parsed.path.unwrap_or_default()),
        Err(_) => Line::Bad,
    }
}

/// Whether a head may end in these bytes.
fn ends_head(bytes: &[u8]) -> bool {
    memchr::memchr_iter(b'\n', bytes).any(|at| {
        let rest = bytes.get(at + 1..).unwrap_or_default();
        rest.starts_with(b"\n") || rest.starts_with(b"\r\n")
    })
}

/// Whether the connection ends with the answer, if the headers are plain.
fn is_last(headers: &[httparse::Header<'_>]) -> Option<bool> {
    let (mut hosts, mut is_last) = (0, false);
    for header in headers {
        let is = |name: &str| header.name.eq_ignore_ascii_case(name);
        match header.name.len() {
            4 if is("host") => hosts += 1,
            6 if is("expect") => return None,
            7 if is("upgrade") => return None,
            10 if is("connection") => match header.value.to_ascii_lowercase().as_slice() {
                b"keep-alive" => {}
                b"close" => is_last = true,
                _ => return None,
            },
            16 if is("content-encoding") => return None,
            17 if is("transfer-encoding") => return None,
            _ => {}
        }
    }
    (hosts == 1).then_some(is_last)
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
        // Another version is left to the fallback.
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

    const PLAIN: &str = "POST /publish?topic=a HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc";

    fn seen(bytes: &str) -> String {
        let look = look(bytes.as_bytes(), 0, None, |request| {
            format!("{} {} {} {}", request.method, request.path, request.query, String::from_utf8_lossy(request.body))
        });
        match look {
            Look::Plain(seen, used) => format!("{seen} {used}"),
            Look::Head | Look::Body => "more".to_owned(),
            Look::Other(_) => "other".to_owned(),
            Look::Bad(problem) => problem.code().as_str().to_owned(),
        }
    }

    /// The plain request with one more line in its head.
    fn with(line: &str) -> String {
        replaced("Host: x\r\n", &format!("Host: x\r\n{line}\r\n"))
    }

    fn replaced(from: &str, to: &str) -> String {
        PLAIN.replace(from, to)
    }

    #[test]
    fn a_plain_request_is_seen_when_it_is_whole_and_not_before() {
        for end in 0..PLAIN.len() {
            assert_eq!(seen(PLAIN.get(..end).expect("ASCII")), "more", "{end}");
        }
        let expected = format!("POST /publish topic=a abc {}", PLAIN.len());
        assert_eq!(seen(PLAIN), expected);
        assert_eq!(seen(&format!("{PLAIN}GET /next")), expected, "what follows is the next one's");
        assert_eq!(
            seen("GET /subscribe?topic=a HTTP/1.1\r\nhOST: x\r\nconnection: Keep-Alive\r\n\r\n"),
            "GET /subscribe topic=a  68"
        );
    }

    #[test]
    fn whatever_could_be_understood_in_two_ways_is_left_to_the_fallback() {
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
            assert_eq!(seen(&request), "other", "{line}");
        }
        for request in [
            replaced("Host: x\r\n", ""),
            replaced("HTTP/1.1", "HTTP/1.0"),
            replaced("/publish", "http://x/publish"),
            replaced("/publish?topic=a", "*"),
            replaced("topic=a", "topic=a#b"),
            replaced("POST", "CONNECT").replace("Content-Length: 3\r\n", ""),
        ] {
            assert_eq!(seen(&request), "other", "{request}");
        }
    }

    #[test]
    fn what_cannot_be_understood_is_refused() {
        for line in ["Content-Length: 3", "Content-Length: 4", "Transfer-Encoding: chunked", "no colon", "Sp ace: x"] {
            assert_eq!(seen(&with(line)), "bad_request", "{line}");
        }
        for request in [
            replaced("3\r\n", "+3\r\n"),
            replaced("3\r\n", "3,3\r\n"),
            replaced("3\r\n", "\r\n"),
            replaced("3\r\n", "99999999999999999999\r\n"),
            replaced("HTTP/1.1", "HTTP/2.0"),
            "\u{16}\u{3}\u{1}".to_owned(),
        ] {
            assert_eq!(seen(&request), "bad_request", "{request}");
        }
        let Look::Bad(problem) = look(b"\x16\x03\x01\x02\xfc\xff", 0, None, |_| ()) else { panic!("it is refused") };
        assert_eq!(problem.code(), Code::BadRequest, "the beginning of TLS");
        let broken = [b"GET /publish?topic=", &b"\xff\xfe"[..], b" HTTP/1.1\r\n\r\n"].concat();
        let Look::Bad(problem) = look(&broken, 0, None, |_| ()) else { panic!("it is refused") };
        assert_eq!(problem.code(), Code::BadUtf8);
        assert!(problem.detail().contains("--data-urlencode"), "{problem}");
    }

    #[test]
    fn a_target_that_is_not_ascii_is_taken_as_it_is_and_encoded_for_the_fallback() {
        for query in ["topic=新闻", "topic=<a>", "topic=\"a\"", "topic={a}`\\^"] {
            let request = PLAIN.replace("topic=a", query);
            assert_eq!(seen(&request), format!("POST /publish {query} abc {}", request.len()));
        }
        let request = "\r\nGET /topics/é?\"x\"=%20 HTTP/1.1\r\nHost: é\r\nExpect: x\r\n\r\nGET /next";
        let Look::Other(framed) = look(request.as_bytes(), 0, None, |_| ()) else { panic!("it is another's") };
        let used = framed.used(request.as_bytes());
        let encoded = framed.bytes(request.as_bytes(), used);
        let expected = "\r\nGET /topics/%C3%A9?%22x%22=%20 HTTP/1.1\r\nHost: é\r\nExpect: x\r\n\r\n";
        assert_eq!((String::from_utf8_lossy(&encoded).as_ref(), framed.rest(used)), (expected, Some(0)));
    }

    #[test]
    fn another_protocol_is_not_asked_for_of_the_fallback() {
        let head = |name: &str, options: &str| format!("GET / HTTP/1.1\r\n{name}: h2c\r\nCONNECTION:{options}\r\n\r\n");
        for (options, expected) in [
            ("Upgrade, HTTP2-Settings", "ignored, HTTP2-Settings"),
            (" keep-alive ,upgrade", " keep-alive ,ignored"),
            ("UPGRADE,upgrades,\tupgrade\t,close", "ignored,upgrades,\tignored\t,close"),
            ("not upgrade", "not upgrade"),
        ] {
            let request = head("uPgrade", options);
            let Look::Other(framed) = look(request.as_bytes(), 0, None, |_| ()) else { panic!("it is another's") };
            let bytes = framed.bytes(request.as_bytes(), framed.used(request.as_bytes()));
            assert_eq!(String::from_utf8_lossy(&bytes), head("ignored", expected));
            assert_eq!(framed.rest(request.len()), Some(0), "its end is known");
        }
    }

    #[test]
    fn a_head_in_pieces_is_read_again_only_when_it_can_be_whole() {
        // The last byte of each piece is the only new one: a head is never missed, whatever it ends with.
        for end in ["\r\n\r\n", "\n\n", "\n\r\n"] {
            let request = format!("GET /healthz HTTP/1.1\r\nHost: x{end}");
            for at in 1..=request.len() {
                let is_head = matches!(look(&request.as_bytes()[..at], at - 1, None, |_| ()), Look::Head);
                assert_eq!(is_head, at < request.len(), "{at} of {request:?}");
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_left_to_the_fallback() {
        let sized = |length: usize| {
            let head = format!("POST /publish HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n");
            head + &"x".repeat(length)
        };
        let fits = BYTES_MAX - sized(10_000).len() + 10_000;
        assert_eq!(sized(fits).len(), BYTES_MAX);
        assert!(seen(&sized(fits)).ends_with(&format!("x {BYTES_MAX}")));
        assert_eq!(seen(&sized(fits + 1)), "other");
        let line = |bytes: usize| format!("GET /subscribe?{} ", "x".repeat(bytes - 16));
        assert_eq!(seen(&line(HEAD_BYTES_MAX - 1)), "more");
        assert_eq!(seen(&line(HEAD_BYTES_MAX)), "uri_too_long");
        let target = |bytes: usize, c: &str| {
            let padding = bytes - "/healthz?".len();
            let encoded = if c.is_ascii() { 1 } else { 3 * c.len() };
            let query = c.repeat(padding / encoded) + &"y".repeat(padding % encoded);
            format!("GET /healthz?{query} HTTP/1.1\r\nHost: x\r\nExpect: x\r\n\r\n")
        };
        for c in ["x", "é", "订"] {
            assert_eq!(seen(&target(TARGET_BYTES_MAX, c)), "other");
            assert_eq!(seen(&target(TARGET_BYTES_MAX + 1, c)), "uri_too_long");
        }
        let head = |bytes: usize| {
            let head = "GET /subscribe HTTP/1.1\r\nHost: x\r\nA: ";
            format!("{head}{}\r\n\r\n", "x".repeat(bytes - head.len() - 4))
        };
        assert_eq!(seen(&head(HEAD_BYTES_MAX)), "other");
        assert_eq!(seen(&head(HEAD_BYTES_MAX + 1)), "headers_too_large");
        let headers = |n: usize| format!("GET /subscribe HTTP/1.1\r\nHost: x\r\n{}\r\n", "a: b\r\n".repeat(n - 1));
        assert!(seen(&headers(HEADERS_MAX)).starts_with("GET"));
        assert_eq!(seen(&headers(HEADERS_MAX + 1)), "headers_too_large");
    }
}
