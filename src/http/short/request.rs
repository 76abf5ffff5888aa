//! A request that is plain enough for the short way.

use std::{mem::MaybeUninit, net::IpAddr};

use crate::http::head::Head;

/// The longest request, head and body. Longer ones are few, and each is worth a buffer of its own.
pub(super) const BYTES_MAX: usize = 32 << 10;
/// Headers of a request; a browser sends some fifteen.
const HEADERS_MAX: usize = 48;

/// What some bytes are the beginning of.
pub(super) enum Look<T> {
    /// A whole plain request, and what was made of it; it took so many bytes.
    Plain(T, usize),
    /// A plain request so far.
    More,
    /// Anything else: for the full HTTP server.
    Other,
}

/// A plain request.
pub(super) struct Request<'a> {
    method: &'a str,
    query: &'a str,
    headers: &'a [httparse::Header<'a>],
    remote: Option<IpAddr>,
    pub(super) route: Route,
    pub(super) body: &'a [u8],
    /// The connection ends with the answer.
    pub(super) is_last: bool,
}

/// The routes that come by the thousand.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Route {
    Publish,
    Subscribe,
}

/// Looks at `bytes`, and hands the request to `take` if it is whole and plain.
///
/// Plain is what cannot be understood in two ways. The full HTTP server gets the same bytes for everything else, so a
/// request can be refused or framed differently nowhere: whatever asks for more than one length, another transfer
/// coding, another protocol, an early answer, or permission for another origin is left to it.
pub(super) fn look<T>(bytes: &[u8], remote: Option<IpAddr>, take: impl FnOnce(&Request<'_>) -> T) -> Look<T> {
    let mut headers = [const { MaybeUninit::uninit() }; HEADERS_MAX];
    let mut parsed = httparse::Request::new(&mut []);
    let head = match parsed.parse_with_uninit_headers(bytes, &mut headers) {
        Ok(httparse::Status::Complete(head)) => head,
        Ok(httparse::Status::Partial) if bytes.len() < BYTES_MAX => return Look::More,
        _ => return Look::Other,
    };
    let (Some(method), Some(target), Some(1)) = (parsed.method, parsed.path, parsed.version) else {
        return Look::Other;
    };
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let route = match (method, path) {
        ("GET" | "POST" | "PUT", "/publish") => Route::Publish,
        ("GET", "/subscribe") => Route::Subscribe,
        _ => return Look::Other,
    };
    let Some(Framing { length, is_last }) = framing(parsed.headers) else { return Look::Other };
    let whole = head.saturating_add(length);
    // No body belongs to a subscription.
    if whole > BYTES_MAX || !query.bytes().all(is_query) || (route == Route::Subscribe && length > 0) {
        return Look::Other;
    }
    let Some(body) = bytes.get(head..whole) else { return Look::More };
    let request = Request { method, query, headers: parsed.headers, remote, route, body, is_last };
    Look::Plain(take(&request), whole)
}

/// What the full HTTP server takes in a query (RFC 3986, section 3.4, and a few that everybody sends).
fn is_query(byte: u8) -> bool {
    matches!(byte, b'!' | b'$'..=b';' | b'=' | b'?'..=b'~')
}

/// What the headers say of the message itself.
struct Framing {
    /// Of the body.
    length: usize,
    is_last: bool,
}

/// Reads the headers, if they are plain.
fn framing(headers: &[httparse::Header<'_>]) -> Option<Framing> {
    let (mut hosts, mut length, mut is_last) = (0, None, false);
    for header in headers {
        let is = |name: &str| header.name.eq_ignore_ascii_case(name);
        match header.name.len() {
            4 if is("host") => hosts += 1,
            6 if is("origin") || is("expect") => return None,
            7 if is("upgrade") => return None,
            10 if is("connection") => match header.value.to_ascii_lowercase().as_slice() {
                b"keep-alive" => {}
                b"close" => is_last = true,
                _ => return None,
            },
            14 if is("content-length") => {
                let digits = !header.value.is_empty() && header.value.iter().all(u8::is_ascii_digit);
                if !digits || length.is_some() {
                    return None;
                }
                length = Some(std::str::from_utf8(header.value).ok()?.parse().ok()?);
            }
            16 if is("content-encoding") => return None,
            17 if is("transfer-encoding") => return None,
            _ => {}
        }
    }
    (hosts == 1).then(|| Framing { length: length.unwrap_or(0), is_last })
}

impl Head for Request<'_> {
    fn method(&self) -> &str {
        self.method
    }

    fn query(&self) -> &str {
        self.query
    }

    fn takes_chunks(&self) -> bool {
        // Another version is left to the full server.
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

    const PLAIN: &str = "POST /publish?topic=a HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc";

    fn seen(bytes: &str) -> String {
        let look = look(bytes.as_bytes(), None, |request| {
            format!("{} {} {}", request.method, request.query, String::from_utf8_lossy(request.body))
        });
        match look {
            Look::Plain(seen, used) => format!("{seen} {used}"),
            Look::More => "more".to_owned(),
            Look::Other => "other".to_owned(),
        }
    }

    #[test]
    fn a_plain_request_is_seen_when_it_is_whole_and_not_before() {
        for end in 0..PLAIN.len() {
            assert_eq!(seen(PLAIN.get(..end).expect("ASCII")), "more", "{end}");
        }
        let expected = format!("POST topic=a abc {}", PLAIN.len());
        assert_eq!(seen(PLAIN), expected);
        assert_eq!(seen(&format!("{PLAIN}GET /next")), expected, "what follows is the next one's");
        assert_eq!(
            seen("GET /subscribe?topic=a HTTP/1.1\r\nhOST: x\r\nconnection: Keep-Alive\r\n\r\n"),
            "GET topic=a  68"
        );
    }

    #[test]
    fn whatever_could_be_understood_in_two_ways_is_left_to_the_full_server() {
        let with = |line: &str| PLAIN.replace("Host: x\r\n", &format!("Host: x\r\n{line}\r\n"));
        for line in [
            "Content-Length: 3",
            "Content-Length: 4",
            "Transfer-Encoding: chunked",
            "transfer-encoding: identity",
            "Content-Encoding: gzip",
            "Expect: 100-continue",
            "Upgrade: h2c",
            "Connection: closed",
            "Connection: close, x",
            "Connection: keep-alive, upgrade",
            "Origin: https://elsewhere.example",
            "Host: y",
            "no colon",
            "Sp ace: x",
        ] {
            assert_eq!(seen(&with(line)), "other", "{line}");
        }
        let replaced = |from: &str, to: &str| PLAIN.replace(from, to);
        for request in [
            replaced("Host: x\r\n", ""),
            replaced("3\r\n", "+3\r\n"),
            replaced("3\r\n", "3,3\r\n"),
            replaced("3\r\n", "\r\n"),
            replaced("3\r\n", "99999999999999999999\r\n"),
            replaced("HTTP/1.1", "HTTP/1.0"),
            replaced("POST", "DELETE"),
            replaced("POST", "post"),
            replaced("/publish", "/Publish"),
            replaced("/publish", "/publish/"),
            replaced("/publish", "//publish"),
            replaced("/publish", "/%70ublish"),
            replaced("/publish", "http://x/publish"),
            replaced("topic=a", "topic=a#b"),
            replaced("topic=a", "topic=<a>"),
            replaced("topic=a", "topic=\"a\""),
            replaced("topic=a", "topic=é"),
            replaced("POST /publish", "POST /subscribe"),
            replaced("POST /publish", "GET /subscribe"),
            "GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(),
            "\u{16}\u{3}\u{1}".to_owned(),
        ] {
            assert_eq!(seen(&request), "other", "{request}");
        }
    }

    #[test]
    fn what_does_not_fit_is_left_to_the_full_server() {
        let sized = |length: usize| {
            let head = format!("POST /publish HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n");
            head + &"x".repeat(length)
        };
        let fits = BYTES_MAX - sized(10_000).len() + 10_000;
        assert_eq!(sized(fits).len(), BYTES_MAX);
        assert!(seen(&sized(fits)).ends_with(&format!("x {BYTES_MAX}")));
        assert_eq!(seen(&sized(fits + 1)), "other");
        let head = |bytes: usize| format!("GET /subscribe?{} ", "x".repeat(bytes - 16));
        assert_eq!((seen(&head(BYTES_MAX - 1)).as_str(), seen(&head(BYTES_MAX)).as_str()), ("more", "other"));
        let headers = |n: usize| format!("GET /subscribe HTTP/1.1\r\nHost: x\r\n{}\r\n", "a: b\r\n".repeat(n - 1));
        assert!(seen(&headers(HEADERS_MAX)).starts_with("GET"));
        assert_eq!(seen(&headers(HEADERS_MAX + 1)), "other");
    }
}
