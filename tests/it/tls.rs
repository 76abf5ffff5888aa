//! Streams and requests under TLS: the same as without.

use std::time::Duration;

use tidings::config::Size;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpSocket,
    time::timeout,
};
use tokio_rustls::rustls::{
    SupportedProtocolVersion,
    version::{TLS12, TLS13},
};

use crate::harness::{DEADLINE, Stream, TestServer};
use client::{Files, dial, server};

mod certificates;
pub mod client;
mod probes;
mod reload;
mod rights;
mod streams;

const VERSIONS: [&SupportedProtocolVersion; 2] = [&TLS13, &TLS12];
const SSE: &[(&str, &str)] = &[("accept", "text/event-stream")];

/// Goal: a subscriber gets events live, resumes where it was, as an `EventSource` and as lines of JSON, with both
/// versions of TLS.
#[tokio::test]
async fn a_stream_is_live_and_resumes() {
    let files = Files::new();
    for version in VERSIONS {
        let server = server(&files, version, |_| {}).await;
        let mut stream = server.subscribe("topic=t").await;
        let mut lines = server.get("/subscribe?topic=t", &[("accept", "application/x-ndjson")]).await;
        server.until_subscribers("t", 2).await;
        let mut ids = Vec::new();
        for n in 0..50 {
            ids.push(server.publish("t", &format!("event {n}")).await);
            let block = stream.next().await.expect("an event");
            assert_eq!((&block.id, block.data), (&ids[n], format!("event {n}")));
        }
        let last = format!("{}\",", ids[49]);
        while !String::from_utf8_lossy(&lines.body).contains(&last) {
            assert!(lines.read().await, "the stream goes on");
        }
        drop((stream, lines));
        server.until_subscribers("t", 0).await;
        let mut resumed = server.resume("topic=t", &ids[19]).await;
        let got: Vec<String> = resumed.take(30).await.into_iter().map(|block| block.id).collect();
        assert_eq!(got, ids[20..]);
    }
}

/// Goal: a slow reader gets every byte once and in order, also when the kernel accepts only parts of what was
/// encrypted.
#[tokio::test]
async fn a_slow_reader_gets_everything_in_order() {
    let files = Files::new();
    for version in VERSIONS {
        let server = server(&files, version, |config| {
            config.server.workers = 1;
            config.log.topic_bytes_max = Size::mib(64);
        })
        .await;
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_recv_buffer_size(4 << 10).expect("a receive buffer");
        let socket = socket.connect(server.address).await.expect("a connection");
        let mut slow = Stream::send(socket, "/subscribe?topic=t", SSE).await;
        server.until_subscribers("t", 1).await;
        // More than the buffers of the kernel and the bridge hold, in sizes around those of records.
        let sizes = [1, 100, 4000, 16_383, 16_384, 16_385, 40_000, 200_000];
        let mut sent = Vec::new();
        for n in 0..200 {
            let content = format!("{n} ").repeat(sizes[n % sizes.len()] / 2 + 1);
            sent.push((server.publish("t", &content).await, content));
        }
        for (id, content) in sent {
            let block = slow.next().await.expect("an event");
            assert_eq!(block.id, id);
            assert!(block.data == content, "{id}: {} bytes instead of {}", block.data.len(), content.len());
        }
    }
}

/// Goal: a reader that takes nothing is cut after `stream.write_timeout`, and costs the others nothing.
#[tokio::test]
async fn a_reader_that_takes_nothing_is_cut() {
    let files = Files::new();
    let server = server(&files, &TLS13, |config| {
        config.stream.write_timeout = Duration::from_secs(1);
        config.log.topic_bytes_max = Size::mib(64);
    })
    .await;
    let stalled = server.subscribe("topic=t").await;
    let mut other = server.subscribe("topic=t").await;
    server.until_subscribers("t", 2).await;
    let content = "x".repeat(256 << 10);
    // What the kernel and the bridge hold for a reader is less than this.
    for _ in 0..100 {
        let id = server.publish("t", &content).await;
        assert_eq!(other.next().await.expect("an event").id, id);
    }
    server.until_subscribers("t", 1).await;
    drop(stalled);
}

/// Goal: at a drain, a stream ends cleanly: after the last chunk comes the end of TLS (`close_notify`), so that the
/// client knows that nothing was cut off.
#[tokio::test]
async fn a_drain_ends_streams_cleanly() {
    let files = Files::new();
    let mut server = TestServer::with(|config| files.configure(config));
    let mut tls = dial(server.address, files.authority.client(&VERSIONS, None)).await.expect("a handshake");
    let request = "GET /subscribe?topic=t HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n";
    tls.write_all(request.as_bytes()).await.expect("it is sent");
    let mut received = vec![0; 4096];
    let n = tls.read(&mut received).await.expect("a head");
    received.truncate(n);
    server.begin_shutdown();
    // Without `close_notify`, this would be the error `UnexpectedEof`.
    timeout(DEADLINE, tls.read_to_end(&mut received)).await.expect("an end in time").expect("a clean end");
    assert!(received.ends_with(b"0\r\n\r\n"), "{}", String::from_utf8_lossy(&received));
}

/// Goal: a history far larger than any buffer is replayed completely.
#[tokio::test]
async fn a_large_history_is_replayed() {
    let files = Files::new();
    let server = server(&files, &TLS13, |config| config.log.topic_bytes_max = Size::mib(64)).await;
    let mut ids = Vec::new();
    for n in 0..400 {
        ids.push(server.publish("t", &format!("{n:9} ").repeat(2000)).await);
    }
    let mut stream = server.subscribe("topic=t&since=all").await;
    let got: Vec<String> = stream.take(ids.len()).await.into_iter().map(|block| block.id).collect();
    assert_eq!(got, ids);
}

/// Goal: pipelined requests, and those that only the fallback serves, are answered one after the other on one connection.
#[tokio::test]
async fn requests_of_both_readers_share_a_connection() {
    let files = Files::new();
    let server = server(&files, &TLS13, |_| {}).await;
    let publish = |content: &str| {
        let length = content.len();
        let head = "POST /publish?topic=t HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\nContent-Length";
        format!("{head}: {length}\r\n\r\n{content}")
    };
    let chunked = "POST /publish?topic=t HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\n\
                   Transfer-Encoding: chunked\r\n\r\n3\r\ntwo\r\n0\r\n\r\n";
    let long = "x".repeat(100_000);
    let requests = [&*publish("one"), &publish(&long), &publish("three"), chunked].concat();
    let mut socket = tokio::net::TcpStream::connect(server.address).await.expect("a connection");
    socket.write_all(requests.as_bytes()).await.expect("they are sent");
    // The server closes the connection after a chunked request.
    let mut answers = String::new();
    timeout(DEADLINE, socket.read_to_string(&mut answers)).await.expect("an end in time").expect("a clean end");
    assert_eq!(answers.matches("HTTP/1.1 200 OK").count(), 4, "{answers}");
    let mut stream = server.subscribe("topic=t&since=all").await;
    let data: Vec<String> = stream.take(4).await.into_iter().map(|block| block.data).collect();
    assert_eq!(data, ["one", &long, "three", "two"]);
}

/// Goal: a client that closes its side of TLS, but not the socket, is no subscriber any more.
#[tokio::test]
async fn a_subscriber_that_closes_only_tls_has_left() {
    let files = Files::new();
    let server = TestServer::with(|config| files.configure(config));
    let mut tls = dial(server.address, files.authority.client(&VERSIONS, None)).await.expect("a handshake");
    tls.write_all(b"GET /subscribe?topic=t HTTP/1.1\r\nHost: localhost\r\n\r\n").await.expect("it is sent");
    assert!(tls.read(&mut [0; 4096]).await.expect("a head") > 0);
    let (socket, session) = tls.get_mut();
    session.send_close_notify();
    let mut notice = Vec::new();
    session.write_tls(&mut notice).expect("it is encrypted");
    socket.write_all(&notice).await.expect("it is sent");
    // The server closes the connection; the socket of the client was never shut down.
    while timeout(DEADLINE, socket.read(&mut [0; 4096])).await.expect("an end in time").is_ok_and(|n| n > 0) {}
}
