//! Connections that say nothing, say it slowly, or are too many.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use tidings::config::Config;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{interval, timeout},
};

use crate::harness::{DEADLINE, Stream, TestServer, connect_from, until};

pub const OWN: &str = "127.0.0.1";
const OTHER: &str = "127.0.0.2";
pub const HEALTH: &[u8] = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n";
const LAST_HEALTH: &[u8] = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
pub const LAST_PUBLISH: &[u8] =
    b"GET /publish?topic=a&content=x HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
/// The beginning of a request: its connection is not silent.
pub const HALF: &[u8] = b"GET /publish?to";

/// A connection from `source`, an address of this machine, on which `bytes` have been sent.
pub async fn send_from(source: &str, server: SocketAddr, bytes: &[u8]) -> TcpStream {
    let mut socket = connect_from(source, server).await;
    socket.write_all(bytes).await.expect("the bytes are sent");
    socket
}

/// The document of an answer whose head has been read.
pub async fn problem(mut answer: Stream) -> serde_json::Value {
    let body = answer.rest().await;
    serde_json::from_str(&body).unwrap_or_else(|error| panic!("{error}: {body}"))
}

/// What comes until the server ends the connection.
pub async fn end(socket: &mut TcpStream) -> String {
    let mut rest = Vec::new();
    let read = timeout(DEADLINE, socket.read_to_end(&mut rest)).await.expect("an end in time");
    // A reset is an end, too.
    read.ok();
    String::from_utf8_lossy(&rest).into_owned()
}

/// Whether a connection that is kept answers now.
async fn answers(socket: &mut TcpStream) -> bool {
    socket.write_all(LAST_HEALTH).await.is_ok() && end(socket).await.starts_with("HTTP/1.1 200")
}

pub fn places(all: usize, per_ip: usize) -> impl FnOnce(&mut Config) {
    move |config: &mut Config| {
        // The silent ones of one worker make room for those that it accepts.
        config.server.workers = 1;
        config.server.head_timeout = Duration::from_mins(1);
        config.limits.pending_connections_max = all;
        config.limits.pending_connections_per_ip_max = per_ip;
    }
}

/// Waits until the server has accepted all that are connected: a newcomer has been answered.
async fn accepted(server: &TestServer) {
    let mut newcomer = send_from("127.0.0.3", server.address, LAST_HEALTH).await;
    assert!(end(&mut newcomer).await.starts_with("HTTP/1.1 200"));
}

/// Goal: at the limit the connection that has been silent longest gives way, be it new or between two requests; those that
/// have begun to ask do not.
#[tokio::test]
async fn the_oldest_silent_connection_gives_way() {
    for (all, per_ip) in [(4, 100), (100, 4)] {
        let server = TestServer::with(places(all, per_ip));
        let mut busy = send_from(OWN, server.address, HALF).await;
        let mut between = send_from(OWN, server.address, HEALTH).await;
        assert_eq!(Stream::receive(between).await.body, b"ok\n");
        between = send_from(OWN, server.address, HEALTH).await;
        let mut answer = [0; 1024];
        assert!(between.read(&mut answer).await.expect("an answer") > 0);
        let mut new = send_from(OWN, server.address, b"").await;
        let mut newest = send_from(OWN, server.address, b"").await;
        // Each newcomer takes the place of the next in turn.
        let mut newcomers = Vec::new();
        for oldest in [&mut between, &mut new] {
            newcomers.push(send_from(OWN, server.address, HALF).await);
            assert_eq!(end(oldest).await, "", "it ends without a word");
        }
        assert!(answers(&mut newest).await, "it has been silent for a shorter time");
        busy.write_all(b"pic=a&content=x HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            .await
            .expect("it is taken");
        assert!(end(&mut busy).await.starts_with("HTTP/1.1 200"), "it has been asking");
    }
}

/// Goal: when none is silent, one past the limit is refused and closed; a question whether the server is alive is answered.
#[tokio::test]
async fn one_past_the_limit_is_turned_away_unless_it_asks_for_life() {
    for (all, per_ip, code, status) in
        [(3, 100, "too_many_pending_connections", 503), (100, 3, "too_many_pending_connections_per_ip", 429)]
    {
        let server = TestServer::with(places(all, per_ip));
        let mut busy = Vec::new();
        for n in 0..3 {
            // The control: up to the limit each is served.
            assert!(
                end(&mut send_from(OWN, server.address, LAST_PUBLISH).await).await.starts_with("HTTP/1.1 200"),
                "{n}"
            );
            busy.push(send_from(OWN, server.address, HALF).await);
        }
        until_full(&server).await;
        for request in [LAST_PUBLISH, b""] {
            let answer = Stream::receive(send_from(OWN, server.address, request).await).await;
            assert_eq!((answer.status, answer.header("connection")), (status, Some("close")));
            assert_eq!(
                (answer.header("retry-after"), answer.header("content-type")),
                (Some("1"), Some("application/problem+json"))
            );
            assert_eq!(problem(answer).await["code"], code);
        }
        let alive = end(&mut send_from(OWN, server.address, HEALTH).await).await;
        assert!(alive.starts_with("HTTP/1.1 200") && alive.ends_with("\r\n\r\nok\n"), "{alive}");
        let head = String::from_utf8_lossy(HEALTH).replace("GET", "HEAD");
        let alive = end(&mut send_from(OWN, server.address, head.as_bytes()).await).await;
        assert!(alive.starts_with("HTTP/1.1 200") && alive.ends_with("\r\n\r\n"), "{alive}");
        if per_ip == 3 {
            // Another address has places of its own.
            assert!(end(&mut send_from(OTHER, server.address, LAST_PUBLISH).await).await.starts_with("HTTP/1.1 200"));
        }
        // A place that is given back is there for the next one.
        drop(busy.pop());
        until("a place", async || {
            end(&mut send_from(OWN, server.address, LAST_PUBLISH).await).await.starts_with("HTTP/1.1 200")
        })
        .await;
    }
}

/// A server with as many connections as it may have, and those; none of them is silent.
async fn full() -> (TestServer, Vec<TcpStream>) {
    let server = TestServer::with(places(3, 100));
    let mut busy = Vec::new();
    for _ in 0..3 {
        busy.push(send_from(OWN, server.address, HALF).await);
    }
    until_full(&server).await;
    (server, busy)
}

async fn until_full(server: &TestServer) {
    until("the limit to be reached", async || {
        !end(&mut send_from(OWN, server.address, LAST_PUBLISH).await).await.starts_with("HTTP/1.1 200")
    })
    .await;
}

/// Goal: a supervisor's question is answered past the limit, however many others are being turned away.
#[tokio::test]
async fn a_question_for_life_is_answered_beside_a_crowd_that_is_turned_away() {
    let (server, _busy) = full().await;
    for _ in 0..10 {
        let mut crowd = Vec::new();
        for _ in 0..150 {
            crowd.push(send_from(OTHER, server.address, b"").await);
        }
        // It is late with its question, and others come meanwhile.
        let mut late = send_from(OWN, server.address, b"GET /heal").await;
        for _ in 0..30 {
            crowd.push(send_from(OTHER, server.address, b"").await);
        }
        late.write_all(b"thz HTTP/1.1\r\nHost: localhost\r\n\r\n").await.expect("it is taken");
        for mut asking in [late, send_from(OWN, server.address, HEALTH).await] {
            let alive = end(&mut asking).await;
            assert!(alive.starts_with("HTTP/1.1 200"), "{alive}");
        }
        // The control: the crowd is answered, too, and not with that.
        for mut silent in crowd {
            let answer = end(&mut silent).await;
            assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
        }
    }
}

/// Goal: of those that are turned away only so many are kept waiting, whether they say nothing or have been answered.
#[tokio::test]
async fn who_is_turned_away_gives_way_to_the_next() {
    let (server, _busy) = full().await;
    for request in [b"", HEALTH, LAST_PUBLISH] {
        let mut crowd = Vec::new();
        for _ in 0..100 {
            let mut socket = send_from(OTHER, server.address, request).await;
            if !request.is_empty() {
                assert!(timeout(DEADLINE, socket.read(&mut [0; 1024])).await.expect("in time").expect("an answer") > 0);
            }
            crowd.push(socket);
        }
        // Its answer says that all the others have been accepted.
        end(&mut send_from(OWN, server.address, LAST_PUBLISH).await).await;
        // A socket that the server has let go of is reset by the first byte. All are let go of after 250 ms: a machine that
        // takes longer for a crowd than this sees nothing here.
        let mut gone = 0;
        for socket in &mut crowd[..30] {
            socket.write_all(b"x").await.ok();
            gone += usize::from(socket.write_all(b"x").await.is_err());
        }
        assert_eq!(gone, 30, "{}", String::from_utf8_lossy(request));
    }
}

/// Goal: a subscriber holds no place of this kind, whichever server has read its request: two places serve fifty of them.
#[tokio::test]
async fn a_subscriber_leaves_its_place_to_the_next_connection() {
    let server = TestServer::with(places(2, 2));
    let mut streams = Vec::new();
    for n in 0..50 {
        let full = if n % 2 == 0 { "Content-Encoding: identity\r\n" } else { "" };
        let request =
            format!("GET /subscribe?topic=a HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n{full}\r\n");
        streams.push(Stream::receive(send_from(OWN, server.address, request.as_bytes()).await).await);
        assert_eq!(streams[n].status, 200);
    }
    let id = server.publish("a", "x").await;
    for stream in &mut streams {
        assert_eq!(stream.next().await.expect("an event").id, id);
    }
    accepted(&server).await;
}

/// Sends `bytes` again and again until the server ends the connection; how long that took, and what it said.
pub async fn dribble(socket: &mut TcpStream, bytes: &[u8], most: Duration) -> (Duration, Option<String>) {
    let (begin, mut pace) = (Instant::now(), interval(Duration::from_millis(100)));
    let mut said = Vec::new();
    while begin.elapsed() < most {
        socket.write_all(bytes).await.ok();
        pace.tick().await;
        let mut buffer = [0; 1024];
        match socket.try_read(&mut buffer) {
            Ok(n @ 1..) => said.extend_from_slice(&buffer[..n]),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            _ => return (begin.elapsed(), Some(String::from_utf8_lossy(&said).into_owned())),
        }
    }
    (begin.elapsed(), None)
}

/// With the default `keep_alive`: that of a connection which has not asked anything yet is another time.
fn hasty_at_first(config: &mut Config) {
    config.server.head_timeout = Duration::from_millis(500);
}

fn hasty(config: &mut Config) {
    hasty_at_first(config);
    config.server.keep_alive = Duration::from_secs(1);
}

/// Goal: neither silence, nor line breaks, nor a head that comes byte by byte holds a connection beyond its time, be it for
/// the first request or a later one, whichever server answered before.
#[tokio::test]
async fn a_connection_that_asks_nothing_ends_in_time() {
    let publish = b"GET /publish?topic=a&content=x HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let slow = |config: &mut Config| config.server.head_timeout = Duration::from_mins(1);
    // The second round is the control: with a long time the same connection lives on.
    for is_hasty in [true, false] {
        let [first, later] = if is_hasty {
            [TestServer::with(hasty_at_first), TestServer::with(hasty)]
        } else {
            [TestServer::with(slow), TestServer::with(slow)]
        };
        for (before, bytes, refusal) in [
            (&b""[..], &b""[..], ""),
            (b"", b"\r\n", ""),
            (b"", b"G", "HTTP/1.1 408"),
            (b"", b"GET / HTTP/1.1\r\nA: b", "HTTP/1.1 408"),
            (publish, b"\n", ""),
            (publish, b"G", "HTTP/1.1 408"),
            (HEALTH, b"\r\n", ""),
            (HEALTH, b"G", "HTTP/1.1 408"),
        ] {
            let server = if before.is_empty() { &first } else { &later };
            let mut socket = send_from(OWN, server.address, before).await;
            if !before.is_empty() {
                let mut answer = [0; 1024];
                assert!(timeout(DEADLINE, socket.read(&mut answer)).await.expect("in time").expect("an answer") > 0);
            }
            let most = if is_hasty { DEADLINE } else { Duration::from_millis(2500) };
            let (took, said) = dribble(&mut socket, bytes, most).await;
            let case = format!("{:?} after {:?}", String::from_utf8_lossy(bytes), String::from_utf8_lossy(before));
            if is_hasty {
                let said = said.unwrap_or_else(|| panic!("{case}: it lives after {took:?}"));
                assert!(if refusal.is_empty() { said.is_empty() } else { said.starts_with(refusal) }, "{case}: {said}");
                assert!(refusal.is_empty() || said.contains("\"code\":\"head_timeout\""), "{case}: {said}");
            } else {
                assert_eq!(said, None, "{case}: the control");
            }
        }
    }
}

/// Goal: what cannot be a request is answered in words, and so that the client can read them.
#[tokio::test]
async fn what_is_no_request_is_refused_in_words() {
    let server = TestServer::start();
    let long = "x".repeat(140_000);
    let many = "A: b\r\n".repeat(97);
    for (request, status, code) in [
        ("hello\r\n\r\n".to_owned(), 400, "bad_request"),
        ("GET / HTTP/3.0\r\n\r\n".to_owned(), 400, "bad_request"),
        ("GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1, 1\r\n\r\nx".to_owned(), 400, "bad_request"),
        (
            "GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned(),
            400,
            "bad_request",
        ),
        (format!("GET /publish?content={long} HTTP/1.1\r\nHost: localhost\r\n\r\n"), 414, "uri_too_long"),
        (format!("GET / HTTP/1.1\r\nHost: localhost\r\nA: {long}\r\n\r\n"), 431, "headers_too_large"),
        (format!("GET / HTTP/1.1\r\n{many}\r\n"), 431, "headers_too_large"),
    ] {
        let answer = server.ask_bytes(request.as_bytes()).await;
        answer.problem(status, code);
        assert_eq!(answer.header("connection"), Some("close"), "{answer:?}");
    }
    // The control: as long as a head may be, it is read.
    let head = "GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nA: ";
    let longest = format!("{head}{}\r\n\r\n", "x".repeat((128 << 10) - head.len() - 4));
    assert_eq!(server.ask_bytes(longest.as_bytes()).await.status, 200);
}
