//! Peers that are slow, gone, or say what they should not: each costs only itself.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use tidings::config::Size;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
    time::{interval, timeout},
};

use crate::harness::{DEADLINE, Stream, TestServer};

mod eager;
mod memory;

/// What the kernel holds for a reader that does not read, so that it is soon full; the kernel doubles it.
const RECEIVE_BUFFER: u32 = 4 << 10;
const SSE: &[(&str, &str)] = &[("accept", "text/event-stream")];

/// Subscribes with a small receive buffer.
pub async fn narrow(address: SocketAddr, query: &str, cursor: Option<&str>) -> Stream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(RECEIVE_BUFFER).expect("a receive buffer");
    let socket = socket.connect(address).await.expect("a connection");
    let headers: Vec<_> = SSE.iter().copied().chain(cursor.map(|id| ("last-event-id", id))).collect();
    Stream::send(socket, &format!("/subscribe?{query}"), &headers).await
}

fn seq(id: &str) -> u64 {
    id.rsplit_once('-').and_then(|(_, seq)| seq.parse().ok()).unwrap_or_else(|| panic!("{id} is no id"))
}

/// Content of `bytes` bytes that no other `n` has, in lines of about `line`.
pub fn content(n: usize, bytes: usize, line: usize) -> String {
    let mut content = String::with_capacity(bytes + 64);
    let mut line_ends = line;
    while content.len() < bytes {
        content.push_str(&format!("event {n} at {} ", content.len()));
        if content.len() > line_ends {
            content.push('\n');
            line_ends += line;
        }
    }
    content.truncate(bytes);
    content
}

/// Goal: a reader that takes nothing for `stream.write_timeout` is cut, and meanwhile costs the others nothing: they
/// get every event at once. It loses nothing either: it resumes.
#[tokio::test]
async fn a_peer_that_stops_reading_is_cut_and_nobody_else_feels_it() {
    let write_timeout = Duration::from_secs(1);
    let server = TestServer::with(|config| {
        config.stream.write_timeout = write_timeout;
        config.server.workers = 1;
        config.log.topic_bytes_max = Size::mib(128);
    });
    let mut stalled = narrow(server.address, "topic=big", None).await;
    let mut others = Vec::new();
    for _ in 0..4 {
        others.push(server.subscribe("topic=big").await);
    }
    server.until_subscribers("big", 5).await;
    let begin = Instant::now();
    let (mut ids, mut slowest, mut after_stall) = (Vec::new(), Duration::ZERO, 0);
    while begin.elapsed() < write_timeout / 2 || ids.len() < 16 {
        let text = content(ids.len(), 64 << 10, 1000);
        let published = Instant::now();
        ids.push(server.publish("big", &text).await);
        for other in &mut others {
            let block = other.next().await.expect("an event");
            assert_eq!((block.id, block.data), (ids[ids.len() - 1].clone(), text.clone()));
        }
        slowest = slowest.max(published.elapsed());
        after_stall += usize::from(ids.len() > 8);
    }
    // Half a MiB is more than the buffers between the server and the stalled one hold.
    println!("{} events while one reader stalled, the slowest in {slowest:?}", ids.len());
    assert!(after_stall >= 8 && slowest < write_timeout, "an event took {slowest:?} to reach those who read");

    server.until_subscribers("big", 4).await;
    let cut = begin.elapsed();
    assert!(cut >= write_timeout, "it was cut after {cut:?}, while it might yet have read");
    assert!(cut < write_timeout * 6, "it was cut only after {cut:?}");
    let mut got = stalled.until_cut().await.len();
    assert!(got < ids.len(), "it was cut with everything in its hands");
    let mut resumed = server.resume("topic=big", stalled.last_event_id()).await;
    for id in &ids[got..] {
        assert_eq!(resumed.next().await.expect("an event").id, *id);
        got += 1;
    }
    assert_eq!(got, ids.len());
}

/// Goal: `stream.write_timeout` is for peers that take *nothing*. One that reads slowly but steadily, less in that time
/// than the send buffer holds, is not cut and gets every event once.
#[tokio::test]
async fn a_reader_slower_than_its_buffers_is_not_cut() {
    let server = TestServer::with(|config| config.stream.write_timeout = Duration::from_millis(500));
    let mut slow = narrow(server.address, "topic=slow", None).await;
    let mut ids = Vec::new();
    for n in 0..12 {
        ids.push(server.publish("slow", &content(n, 32 << 10, 1000)).await);
    }
    // 60 KB/s: in half a second about a tenth of what the kernel holds for it. The ticks are its pace, not a wait.
    let mut pace = interval(Duration::from_millis(50));
    let mut events = 0;
    while events < ids.len() {
        pace.tick().await;
        let mut piece = [0; 3_000];
        let n = timeout(DEADLINE, slow.socket.read(&mut piece)).await.expect("bytes in time").expect("it is not reset");
        assert!(n > 0, "it was cut after {events} of {} events although it read all the time", ids.len());
        for block in slow.push(&piece[..n]) {
            assert_eq!((&block.id, block.data), (&ids[events], content(events, 32 << 10, 1000)));
            events += 1;
        }
    }
}

/// Goal: no piece is too small: one byte a read, far more in all than the buffers hold.
#[tokio::test]
async fn a_reader_of_single_bytes_gets_every_event_once() {
    let server = TestServer::start();
    let mut slow = narrow(server.address, "topic=bytes", None).await;
    let mut ids = Vec::new();
    for n in 0..12 {
        ids.push(server.publish("bytes", &content(n, 50_000, 60)).await);
    }
    let mut events = 0;
    while events < ids.len() {
        let mut byte = [0];
        timeout(DEADLINE, slow.socket.read_exact(&mut byte)).await.expect("a byte in time").expect("a byte");
        for block in slow.push(&byte) {
            assert_eq!((&block.id, block.data), (&ids[events], content(events, 50_000, 60)));
            events += 1;
        }
    }
}

/// Goal: an event that the socket takes in many parts arrives whole, for one topic and for several, live and replayed.
#[tokio::test]
async fn large_events_arrive_whole_through_small_buffers() {
    let server = TestServer::start();
    let mut one = narrow(server.address, "topic=large", None).await;
    let mut several = narrow(server.address, "topic=large&topic=small&envelope=none", None).await;
    let mut wanted = Vec::new();
    for n in 0..4 {
        let (large, small) = (content(n, (1 << 20) - n, 5000), format!("between {n}"));
        wanted.push((server.publish("large", &large).await, large));
        wanted.push((server.publish("small", &small).await, small));
    }
    let mut replayed = narrow(server.address, "topic=large&topic=small&since=all", None).await;
    for (n, (id, text)) in wanted.into_iter().enumerate() {
        let streams =
            if n % 2 == 0 { vec![&mut one, &mut several, &mut replayed] } else { vec![&mut several, &mut replayed] };
        for stream in streams {
            let block = stream.next().await.expect("an event");
            assert_eq!(block.id, id);
            assert!(block.data == text, "event {n} came damaged, {} bytes of {}", block.data.len(), text.len());
        }
    }
}

/// Goal: a replay that is overtaken by eviction says so where it happens, and goes on with what is held.
#[tokio::test]
async fn a_slow_replay_overtaken_by_eviction_is_told_and_continues() {
    for query in ["topic=history&since=all", "topic=history&topic=other&since=all"] {
        let server = TestServer::with(|config| {
            config.log.topic_events_max = 100;
            config.publish.event_bytes_max = Size::kib(64);
        });
        let mut ids = Vec::new();
        for n in 0..100 {
            ids.push(server.publish("history", &content(n, 32 << 10, 1000)).await);
        }
        let mut slow = narrow(server.address, query, None).await;
        server.until_subscribers("history", 1).await;
        for n in 100..250 {
            ids.push(server.publish("history", &content(n, 32 << 10, 1000)).await);
        }
        let (mut last, mut gaps) = (0, 0);
        while last < ids.len() {
            let block = slow.next().await.expect("another event");
            if block.event == "broker.gap" {
                let gap: serde_json::Value = serde_json::from_str(&block.data).expect("JSON");
                assert_eq!(gap["reason"], "evicted", "{gap}");
                assert_eq!(gap["requested"], ids[last - 1], "what it had: {gap}");
                assert_eq!(gap["resumed_after"], block.id, "the cursor moves over the gap: {gap}");
                // It is told of what it misses, and of no more than that.
                assert_eq!(seq(&block.id), 150, "the newest 100 of 250 are held: {gap}");
                last = 150;
                gaps += 1;
                continue;
            }
            assert_eq!((&block.id, block.data), (&ids[last], content(last, 32 << 10, 1000)), "{query}");
            last += 1;
        }
        assert_eq!(gaps, 1, "{query}");
    }
}

/// How a peer may go.
#[derive(Clone, Copy, Debug)]
enum Leave {
    Close,
    Reset,
    /// It closes its sending side only.
    HalfClose,
}

/// Goal: the server notices at once that a peer has gone, without a publish or a heartbeat to trip over, and whether or
/// not it was stalled.
#[tokio::test]
async fn a_closed_peer_is_noticed_at_once() {
    let server = TestServer::start();
    for stalled in [false, true] {
        for leave in [Leave::Close, Leave::Reset, Leave::HalfClose] {
            let mut peer = narrow(server.address, "topic=leaving", None).await;
            server.until_subscribers("leaving", 1).await;
            let id = server.publish("leaving", "it is in the hub").await;
            assert_eq!(peer.next().await.expect("an event").id, id);
            if stalled {
                for n in 0..8 {
                    server.publish("leaving", &content(n, 64 << 10, 1000)).await;
                }
            }
            let begin = Instant::now();
            let mut left = None;
            match leave {
                Leave::Close => drop(peer),
                Leave::Reset => {
                    socket2::SockRef::from(&peer.socket).set_linger(Some(Duration::ZERO)).expect("a linger of zero");
                    drop(peer);
                }
                Leave::HalfClose => {
                    peer.socket.shutdown().await.expect("half a close");
                    left = Some(peer);
                }
            }
            server.until_subscribers("leaving", 0).await;
            let noticed = begin.elapsed();
            assert!(noticed < Duration::from_secs(3), "{leave:?}, stalled: {stalled}: noticed after {noticed:?}");
            if let Some(mut peer) = left {
                peer.until_cut().await;
            }
        }
    }
}

/// Goal: a peer that goes before it has read its first bytes, or within its request, leaves nothing behind.
#[tokio::test]
async fn a_peer_that_goes_before_its_stream_began_leaves_nothing_behind() {
    let server = TestServer::start();
    let request = "GET /subscribe?topic=early HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n";
    let cuts = (1..request.len()).step_by(7).chain([request.len(); 20]);
    for (cut, reset) in cuts.flat_map(|cut| [(cut, false), (cut, true)]) {
        let mut socket = TcpStream::connect(server.address).await.expect("a connection");
        socket.write_all(&request.as_bytes()[..cut]).await.expect("a part of a request");
        if reset {
            socket2::SockRef::from(&socket).set_linger(Some(Duration::ZERO)).expect("a linger of zero");
        }
    }
    // One that stays is counted alone once the others are forgotten.
    let mut stays = server.subscribe("topic=early").await;
    server.until_subscribers("early", 1).await;
    let id = server.publish("early", "hello").await;
    assert_eq!(stays.next().await.expect("an event").id, id);
}
