//! Requests whose end is not known, and clients that go on sending when they have been answered.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream as BareStream,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::timeout,
};

use super::connections::{LAST_PUBLISH, end, places, send_from};
use crate::harness::{DEADLINE, Stream, TestServer, until};

const OWN: &str = "127.0.0.1";
const HEALTH: &str = "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n";

/// Goal: a request whose end only its body knows is answered, and its connection ended, however much follows it: the
/// server neither waits for what it has no use for nor spins over it.
#[tokio::test]
async fn what_follows_a_request_without_a_length_does_not_hold_its_connection() {
    let server = TestServer::start();
    let chunked =
        "POST /publish?topic=a HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
    for behind in [0, 20, 8000] {
        let socket = send_from(OWN, server.address, chunked.as_bytes()).await;
        let (mut reading, mut writing) = socket.into_split();
        let rest = HEALTH.repeat(behind);
        let sending = tokio::spawn(async move {
            // What it sends after the end may be refused.
            writing.write_all(rest.as_bytes()).await.ok();
            writing
        });
        let mut said = Vec::new();
        timeout(DEADLINE, reading.read_to_end(&mut said)).await.expect("an end in time").ok();
        let said = String::from_utf8_lossy(&said);
        assert!(said.starts_with("HTTP/1.1 200"), "{behind}: {said}");
        assert!(said.contains("\r\nconnection: close\r\n"), "{behind}: {said}");
        assert_eq!(said.matches("HTTP/1.1").count(), 1, "what follows is no request: {said}");
        drop(sending.await);
    }
}

/// Goal: what comes behind a request for a stream whose end only its body knows is not carried out.
#[tokio::test]
async fn what_follows_a_request_for_a_stream_is_no_request() {
    let server = TestServer::start();
    let publish = "GET /publish?topic=a&content=x HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let [chunked, plain] = ["Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "\r\n"].map(|end| {
        let head = "GET /subscribe?topic=a HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n";
        format!("{head}{end}{publish}")
    });
    for request in [chunked, plain] {
        let socket = send_from(OWN, server.address, request.as_bytes()).await;
        let mut stream = Stream::receive(socket).await;
        let id = server.publish("a", "y").await;
        let event = stream.next().await.expect("an event");
        assert_eq!((event.id, event.data.as_str()), (id, "y"), "{request}");
    }
}

/// Goal: a stream is no pending connection, even if the end of its request is not known: the server keeps no task for it.
#[tokio::test]
async fn a_stream_without_a_known_request_end_is_not_pending() {
    let server = TestServer::with(places(1, 100));
    let mut streams = Vec::new();
    for rest in ["0\r\n\r\n", &format!("0\r\n\r\n{HEALTH}"), "3\r\nabc\r\n"] {
        let head = "GET /subscribe?topic=a HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n";
        let request = format!("{head}Transfer-Encoding: chunked\r\n\r\n{rest}");
        streams.push(Stream::receive(send_from(OWN, server.address, request.as_bytes()).await).await);
        until(&format!("the place of {rest:?} to be free"), async || {
            end(&mut send_from(OWN, server.address, LAST_PUBLISH).await).await.starts_with("HTTP/1.1 200")
        })
        .await;
    }
}

/// Goal: a client that would rather speak another protocol is answered in this one, and keeps its connection.
#[tokio::test]
async fn another_protocol_is_not_to_be_had_and_costs_nothing() {
    let server = TestServer::start();
    for upgrade in [
        "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n",
        "Connection: keep-alive, upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n",
        "connection:upgrade\r\n",
    ] {
        let request = |last: &str| {
            let line = "POST /publish?topic=a HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\nContent-Length: 3\r\n";
            format!("{line}{upgrade}{last}\r\nabc")
        };
        let all = request("").repeat(2) + &request("Connection: close\r\n");
        let mut socket = send_from(OWN, server.address, all.as_bytes()).await;
        let mut said = String::new();
        timeout(DEADLINE, socket.read_to_string(&mut said)).await.expect("an end in time").expect("answers");
        assert_eq!(said.matches("HTTP/1.1 200").count(), 3, "{upgrade}: {said}");
        assert!(!said.to_lowercase().contains("upgrade"), "{said}");
    }
}

/// Goal: clients that have been refused and go on sending, as fast as they can, neither keep their connection nor hold up
/// the others of their worker.
#[test]
fn who_sends_without_end_after_a_refusal_is_cut() {
    let server = TestServer::with(|config| config.server.workers = 1);
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut socket = BareStream::connect(server.address).expect("a connection");
                socket.write_all(b"no request\r\n\r\n").expect("it is sent");
                let piece = vec![b'x'; 256 << 10];
                let begin = Instant::now();
                while socket.write_all(&piece).is_ok() && !ended.load(Ordering::Relaxed) {
                    if begin.elapsed() > DEADLINE {
                        ended.store(true, Ordering::Relaxed);
                        panic!("it still takes what is sent");
                    }
                }
            });
        }
        let mut socket = BareStream::connect(server.address).expect("a connection");
        socket.set_read_timeout(Some(Duration::from_secs(10))).expect("an option");
        let mut answer = [0; 12];
        for _ in 0..20 {
            socket.write_all(HEALTH.as_bytes()).expect("it is sent");
            let mut whole = Vec::new();
            while !whole.ends_with(b"ok\n") {
                let n = socket.read(&mut answer).expect("an answer beside those that send");
                whole.extend_from_slice(&answer[..n]);
            }
        }
    });
}
