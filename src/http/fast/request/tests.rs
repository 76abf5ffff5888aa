//! Which bytes are a simple request, which are for the fallback, and which are refused.

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
    (String::from_utf8_lossy(&raw.rewrite()).into_owned(), raw.missing_len())
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
        "transfer-encoding: CHUNKED",
        "Content-Encoding: gzip",
        "Expect: 100-continue",
        "Upgrade: h2c",
        "Connection: closed",
        "Connection: close, x",
        "Connection: keep-alive, upgrade",
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
        replaced("HTTP/1.1", "HTTP/1.0"),
        replaced("HTTP/1.1\r\nHost: x", "HTTP/1.0"),
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
    let without_length = |line: &str| with(line).replace("Content-Length: 3\r\n", "");
    for coding in
        ["", "identity", "xchunked", "gzip, chunked", "chunked, chunked", "chunked\r\nTransfer-Encoding: chunked"]
    {
        assert_eq!(parsed(&without_length(&format!("Transfer-Encoding: {coding}"))), "bad_request", "{coding}");
    }
    for request in [
        with("Host: y"),
        with("Host: x").replace("HTTP/1.1", "HTTP/1.0"),
        replaced("Host: x\r\n", ""),
        without_length("Transfer-Encoding: chunked").replace("HTTP/1.1", "HTTP/1.0"),
        without_length("A: b").replace("HTTP/1.1", "HTTP/1.0"),
        // The fallback would refuse these targets.
        replaced("/publish", "publish"),
        replaced("/publish", "http://"),
        replaced("/publish", ":"),
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
    let head =
        |name: &str, options: &str| format!("GET / HTTP/1.1\r\nHost: x\r\n{name}: h2c\r\nCONNECTION:{options}\r\n\r\n");
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
    // One byte arrives at a time. The end of the head must be found, whichever line ends it has. With those of LF alone
    // it is refused, at once.
    for (end, expected) in [("\r\n\r\n", None), ("\n\n", Some("bad_request")), ("\n\r\n", Some("bad_request"))] {
        let request = format!("GET /healthz HTTP/1.1\r\nHost: x{end}");
        for at in 1..=request.len() {
            let mut space = space();
            let parsed = parse(&request.as_bytes()[..at], &mut space, at - 1, REMOTE);
            let is_head = matches!(parsed, Ok(Parsed::PartialHead));
            assert_eq!(is_head, at < request.len(), "{at} of {request:?}");
            if at == request.len() {
                let refused = parsed.err();
                assert_eq!(refused.as_ref().map(|problem| problem.code().as_str()), expected, "{request:?}");
            }
        }
    }
}

#[test]
fn a_line_that_ends_with_lf_alone_is_refused() {
    for at in ["HTTP/1.1\r\n", "Host: x\r\n", "Content-Length: 3\r\n", "\r\n\r\n"] {
        let bare = at.strip_suffix("\r\n").map(|line| format!("{line}\n")).expect("a line");
        assert_eq!(parsed(&replaced(at, &bare)), "bad_request", "{at:?}");
    }
    // Before a request, and in a body, an LF is no line of the head.
    for request in [format!("\n\r\n\n{SIMPLE}"), replaced("abc", "a\nb")] {
        assert!(parsed(&request).starts_with("POST /publish topic=a a"), "{request:?}");
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
    assert!(parsed(&head(HEAD_BYTES_MAX)).starts_with("GET /subscribe"));
    assert_eq!(parsed(&head(HEAD_BYTES_MAX + 1)), "headers_too_large");
    let name = |bytes: usize| format!("GET / HTTP/1.1\r\nHost: x\r\nExpect: x\r\n{}: b\r\n\r\n", "n".repeat(bytes));
    assert_eq!(parsed(&name(NAME_BYTES_MAX)), "fallback");
    assert_eq!(parsed(&name(NAME_BYTES_MAX + 1)), "headers_too_large");
    let headers = |n: usize| format!("GET /subscribe HTTP/1.1\r\nHost: x\r\n{}\r\n", "a: b\r\n".repeat(n - 1));
    assert!(parsed(&headers(HEADERS_MAX)).starts_with("GET"));
    assert_eq!(parsed(&headers(HEADERS_MAX + 1)), "headers_too_large");
}
