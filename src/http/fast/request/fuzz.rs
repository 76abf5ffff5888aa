//! A request means the same to the fast path and to actix-web, or the fast path does not serve it.

use std::net::Ipv4Addr;

use actix_http::{
    HttpMessage as _, Request as ActixRequest, ServiceConfig,
    h1::{Codec, Message},
    header::HeaderValue,
};
use bytes::{Bytes, BytesMut};
use proptest::{collection::vec, prelude::*, sample::Index, test_runner::TestRunner};
use tokio_util::codec::Decoder as _;

use super::*;
use crate::fuzz;

const METHODS: [&str; 10] = ["GET", "GET", "POST", "POST", "PUT", "DELETE", "HEAD", "CONNECT", "get", "PO ST"];
const VERSIONS: [&str; 8] = ["1.1", "1.1", "1.1", "1.1", "1.1", "1.0", "1.2", "2.0"];
const TARGETS: &[&str] = &[
    "/",
    "/publish",
    "/topics/a",
    "?",
    "topic=a",
    "&content=",
    "=",
    "é",
    "新闻",
    "%20",
    "%",
    "%zz",
    "+",
    "#",
    "*",
    "//",
    "http://",
    "https://x:1",
    "@",
    "\"",
    "<",
    ">",
    "|",
    "\\",
    "^",
    "`",
    "{",
    "}",
    "[",
    "]",
    "(",
    "'",
    ";",
    "~",
    ".",
    "..",
    " ",
    "\t",
    ":",
    "a:80",
    "\u{7f}",
];
const LINES: &[&str] = &[
    "Host: x\r\n",
    "Host: x\r\n",
    "Host: x\r\n",
    "host:x\r\n",
    "Host:\r\n",
    "Host: é\r\n",
    "Content-Length: 3\r\n",
    "Content-Length: 3\r\n",
    "Content-Length: 0\r\n",
    "content-length:03 \r\n",
    "Content-Length: +3\r\n",
    "Content-Length: 99999999999999999999\r\n",
    "Content-Length: 40000\r\n",
    "Transfer-Encoding: chunked\r\n",
    "transfer-encoding:\tCHUNKED\r\n",
    "Transfer-Encoding: gzip\r\n",
    "Connection: close\r\n",
    "connection: Close \r\n",
    "Connection: keep-alive\r\n",
    "Connection: upgrade\r\n",
    "Connection: close, upgrade\r\n",
    "Upgrade: h2c\r\n",
    "Expect: 100-continue\r\n",
    "Content-Encoding: gzip\r\n",
    "Content-Type: text/plain\r\n",
    "Accept: */*\r\n",
    "A: b\r\n",
    "A:\r\n",
    "A: é\r\n",
    "A : b\r\n",
    " folded\r\n",
    ":\r\n",
    "A: b\n",
    "A: b\r",
    "\r\n",
    "\n",
    "\r",
    ":",
    "Content-Length",
    "Host",
    "A-B",
    "\t",
    " ",
    "\0",
];
const BODIES: &[&str] =
    &["abc", "abc", "", "3\r\nabc\r\n0\r\n\r\n", "GET / HTTP/1.1\r\nHost: y\r\n\r\n", "\r\n", "0", "\n"];

/// Requests, most of them with a first line that can be read.
fn request() -> impl Strategy<Value = Vec<u8>> {
    let lines = prop_oneof![
        3 => vec(prop::sample::select(LINES), 0..5).prop_map(|lines| lines.concat().into_bytes()),
        1 => fuzz::bytes(LINES),
    ];
    let target = prop_oneof![
        2 => prop::sample::select(vec!["/publish?topic=a", "/", "/topics/a", "*"]).prop_map(|target| target.as_bytes().to_vec()),
        2 => fuzz::bytes(TARGETS).prop_map(|target| [b"/", &*target].concat()),
        1 => fuzz::bytes(TARGETS),
    ];
    let method = prop::sample::select(&METHODS[..]);
    let version = prop::sample::select(&VERSIONS[..]);
    (method, target, version, lines, fuzz::bytes(BODIES)).prop_map(|(method, target, version, lines, body)| {
        let version = format!(" HTTP/{version}\r\nHost: x\r\n");
        // Without the host that every request has, half of the requests are refused.
        let version = if lines.first() == Some(&b'H') { version.trim_end_matches("Host: x\r\n") } else { &version };
        [method.as_bytes(), b" ", &target, version.as_bytes(), &lines, b"\r\n", &body].concat()
    })
}

/// What actix-web reads at the beginning of `bytes`: the request, its body, and what follows it. `None` if the request
/// is not complete.
fn read_by_actix(config: &ServiceConfig, bytes: &[u8]) -> Result<Option<(ActixRequest, Bytes, Vec<u8>)>, String> {
    let (mut codec, mut bytes) = (Codec::new(config.clone()), BytesMut::from(bytes));
    let Some(Message::Item(request)) = codec.decode(&mut bytes).map_err(|error| error.to_string())? else {
        return Ok(None);
    };
    let mut body = BytesMut::new();
    if codec.message_type() != actix_http::h1::MessageType::None {
        loop {
            match codec.decode(&mut bytes).map_err(|error| error.to_string())? {
                Some(Message::Chunk(Some(chunk))) => body.extend_from_slice(&chunk),
                Some(Message::Chunk(None)) => break,
                Some(Message::Item(_)) | None => return Ok(None),
            }
        }
    }
    Ok(Some((request, body.freeze(), bytes.to_vec())))
}

fn same(config: &ServiceConfig, bytes: &[u8], simple: &Request<'_>, len: usize) -> Result<(), TestCaseError> {
    // The fallback accepts a target only in ASCII.
    let start = simple.path.as_ptr().addr() - bytes.as_ptr().addr();
    let target_len = bytes[start..].iter().position(|b| *b == b' ').expect("the end of the target");
    let target = std::str::from_utf8(&bytes[start..start + target_len]).expect("it was read");
    let raw = RawRequest { bytes, target, headers: simple.headers, len: Some(len) };
    let read = read_by_actix(config, &[&*raw.rewrite(), b"rest"].concat());
    let Ok(Some((request, body, rest))) = read else {
        return Err(TestCaseError::fail(format!("actix-web does not read it: {:?}", read.err())));
    };
    let encoded = |text: &str| String::from_utf8(encode(text)).expect("ASCII");
    prop_assert_eq!(request.method().as_str(), simple.method);
    prop_assert_eq!(request.uri().path(), encoded(simple.path));
    prop_assert_eq!(request.uri().query().unwrap_or_default(), encoded(simple.query));
    prop_assert_eq!(&*body, simple.body);
    prop_assert_eq!(rest, b"rest");
    let is_last = request.head().connection_type() == actix_http::ConnectionType::Close;
    prop_assert_eq!(is_last, simple.is_last);
    for header in simple.headers {
        let name = header.name.to_ascii_lowercase();
        let of_actix: Vec<_> = request.headers().get_all(&*name).map(HeaderValue::as_bytes).collect();
        let ours = simple.headers.iter().filter(|other| other.name.eq_ignore_ascii_case(&name));
        let ours: Vec<_> = ours.map(|header| header.value).collect();
        prop_assert_eq!(of_actix, ours, "{}", name);
    }
    prop_assert_eq!(request.headers().len(), simple.headers.len());
    Ok(())
}

/// Both read `bytes` in the same way, or the fast path does not serve them.
fn check(config: &ServiceConfig, bytes: &[u8]) -> Result<(), TestCaseError> {
    let mut space = [const { MaybeUninit::uninit() }; HEADERS_MAX];
    let first = |bytes: &[u8]| Codec::new(config.clone()).decode(&mut BytesMut::from(bytes));
    match parse(bytes, &mut space, 0, IpAddr::V4(Ipv4Addr::LOCALHOST)) {
        Ok(Parsed::Simple(request, len)) => same(config, bytes, &request, len)?,
        // actix-web must be able to read what goes to the fallback: it refuses without a problem document.
        Ok(Parsed::ForFallback(raw) | Parsed::PartialBody(raw)) => {
            let read = first(&raw.rewrite());
            prop_assert!(matches!(read, Ok(Some(Message::Item(_)))), "what goes to the fallback: {:?}", read.err());
        }
        Ok(Parsed::PartialHead) => {
            prop_assert!(!matches!(first(bytes), Ok(Some(_))), "only actix-web sees a whole head");
        }
        Err(_) => {}
    }
    Ok(())
}

/// Runs `test` where actix-web can run.
fn with_actix(test: impl FnOnce(&ServiceConfig)) {
    actix_rt::System::new().block_on(async { test(&ServiceConfig::default()) });
}

#[test]
fn the_fast_path_and_actix_web_read_the_same() {
    with_actix(|config| {
        let check = |(bytes, cut): (Vec<u8>, Index)| {
            // A part of a request, too: it never means something else than a part.
            for bytes in [&*bytes, &bytes[..cut.index(bytes.len())]] {
                let named = |error| TestCaseError::fail(format!("{error}: \"{}\"", bytes.escape_ascii()));
                check(config, bytes).map_err(named)?;
            }
            Ok(())
        };
        let mut runner = TestRunner::new(ProptestConfig::with_source_file(file!()));
        runner.run(&(request(), any::<Index>()), check).unwrap_or_else(|error| panic!("{error}"));
    });
}

#[test]
fn a_difference_is_seen() {
    // The control: a request whose end or method the fast path takes for another one.
    let bytes = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabcd";
    let mut space = [const { MaybeUninit::uninit() }; HEADERS_MAX];
    let Ok(Parsed::Simple(mut request, len)) = parse(bytes, &mut space, 0, IpAddr::V4(Ipv4Addr::LOCALHOST)) else {
        panic!("it is simple")
    };
    with_actix(|config| {
        assert!(same(config, bytes, &request, len).is_ok());
        assert!(same(config, bytes, &request, len + 1).is_err());
        request.method = "PUT";
        assert!(same(config, bytes, &request, len).is_err());
        (request.method, request.body) = ("POST", b"ab");
        assert!(same(config, bytes, &request, len).is_err());
    });
}
