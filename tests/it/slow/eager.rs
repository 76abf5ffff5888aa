//! Peers that send on a stream, where they have nothing to say.

use std::time::{Duration, Instant};

use tokio::{
    io::AsyncWriteExt as _,
    net::TcpStream,
    time::{sleep, timeout},
};

use super::SSE;
use crate::harness::{DEADLINE, Process, Stream, TestServer, until};

/// What a peer may send before it is cut.
const BOUND: usize = 64 << 10;
const PATH: &str = "/subscribe?topic=eager";

/// Goal: what a peer sends on its stream is ignored up to a bound; past it, it is cut, and nobody else.
#[tokio::test]
async fn an_over_eager_peer_is_ignored_up_to_a_bound_and_then_cut() {
    let server = TestServer::start();
    let mut quiet = server.subscribe("topic=eager").await;
    let mut eager = server.subscribe("topic=eager").await;
    // Once an event has come through, both are in the hub and what is sent counts there.
    let mut id = server.publish("eager", "one").await;
    assert_eq!((quiet.next().await.expect("an event").id, eager.next().await.expect("an event").id), (id.clone(), id));

    for piece in [1, 999, 9_000, BOUND - 10_000] {
        eager.socket.write_all(&vec![b'x'; piece]).await.expect("it is taken");
        id = server.publish("eager", "still there").await;
        assert_eq!(eager.next().await.expect("an event").id, id);
        assert_eq!(quiet.next().await.expect("an event").id, id);
    }
    server.until_subscribers("eager", 2).await;
    eager.socket.write_all(b"x").await.expect("it leaves");
    server.until_subscribers("eager", 1).await;
    assert!(eager.until_cut().await.is_empty());
    id = server.publish("eager", "after").await;
    assert_eq!(quiet.next().await.expect("an event").id, id);
}

/// Goal: a flood is cut as soon as it has passed the bound, however fast it comes, and does not hold up the others.
#[tokio::test]
async fn a_flood_is_cut_while_events_go_on() {
    let server = TestServer::with(|config| config.server.workers = 1);
    let mut quiet = server.subscribe("topic=eager").await;
    let mut floods = Vec::new();
    for _ in 0..8 {
        let mut socket = TcpStream::connect(server.address).await.expect("a connection");
        socket
            .write_all(format!("GET {PATH} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes())
            .await
            .expect("a request");
        floods.push(tokio::spawn(async move {
            let mut sent = 0;
            while socket.write_all(&[b'x'; 16 << 10]).await.is_ok() {
                sent += 16 << 10;
                assert!(sent < 1 << 30, "nobody stops it");
            }
        }));
    }
    for _ in 0..50 {
        let id = server.publish("eager", "calm").await;
        assert_eq!(quiet.next().await.expect("an event").id, id);
    }
    for flood in floods {
        timeout(DEADLINE, flood).await.expect("it is cut in time").expect("it is cut");
    }
    server.until_subscribers("eager", 1).await;
}

/// Goal: requests that a client pipelines behind its subscription neither count as subscribers nor keep the server
/// busy: their readiness, once seen, is not seen again and again.
#[tokio::test]
async fn pipelined_requests_do_not_keep_the_server_busy() {
    const STREAMS: u64 = 50;
    let server = Process::start(&[]).await;
    let request = format!("GET {PATH} HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n");
    let mut streams = Vec::new();
    for _ in 0..STREAMS {
        let mut socket = TcpStream::connect(server.address).await.expect("a connection");
        // `Stream::send` adds the request that counts.
        socket.write_all(request.as_bytes()).await.expect("a request");
        socket.write_all(request.repeat(20).as_bytes()).await.expect("more requests");
        streams.push(Stream::send(socket, PATH, SSE).await);
    }
    server.until_subscribers("eager", STREAMS).await;
    let client = reqwest::Client::new();
    let id = server.publish(&client, "eager", "one").await;
    for stream in &mut streams {
        stream.socket.write_all(request.repeat(20).as_bytes()).await.expect("yet more requests");
        let block = stream.next().await.expect("an event");
        assert_eq!((block.id, block.data.as_str()), (id.clone(), "one"));
    }
    server.until_subscribers("eager", STREAMS).await;
    // CPU time comes in ticks of 10 ms: enough work first that the measure is seen to move.
    until("CPU time that shows", async || {
        server.publish(&client, "elsewhere", "x").await;
        !server.cpu().is_zero()
    })
    .await;
    // The measurement itself: nothing happens for a second, and CPU time tells.
    let (before, begin) = (server.cpu(), Instant::now());
    sleep(Duration::from_secs(1)).await;
    let (used, quiet) = (server.cpu().saturating_sub(before), begin.elapsed());
    println!("{used:?} of CPU in {quiet:?} of quiet, {before:?} before");
    assert!(used < quiet / 10, "{used:?} of CPU in {quiet:?} in which nothing happened");
    let id = server.publish(&client, "eager", "two").await;
    for stream in &mut streams {
        assert_eq!(stream.next().await.expect("an event").id, id);
        assert_eq!(stream.pending(), 0);
    }
}
