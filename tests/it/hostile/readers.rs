//! Subscribers that stop reading in the middle of large events: each costs a cursor, whatever it reads, and what all of them
//! are in the middle of is bounded.

use std::time::Duration;

use tidings::config::Size;
use tokio::{
    io::AsyncReadExt as _,
    join,
    net::TcpSocket,
    time::{interval, timeout},
};

use crate::harness::{DEADLINE, Process, Stream};

const READERS: usize = 100;
const MIB: u64 = 1 << 20;
/// Each byte is six in JSON.
const CONTROL: char = '\u{1}';
const SSE: (&str, &str) = ("accept", "text/event-stream");
const NDJSON: (&str, &str) = ("accept", "application/x-ndjson");
const ENCODINGS: [(&str, (&str, &str)); 3] = [("", SSE), ("&envelope=json", SSE), ("", NDJSON)];

/// Subscribes, and reads no further than the response's head.
async fn stall(server: &Process, query: &str, accept: (&str, &str)) -> Stream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(4 << 10).expect("a small receive buffer");
    let socket = socket.connect(server.address).await.expect("a connection");
    Stream::send(socket, &format!("/subscribe?{query}"), &[accept]).await
}

async fn publish(server: &Process, client: &reqwest::Client, topic: &str, content: &str) {
    let request = client.post(server.url(&format!("/publish?topic={topic}"))).header("content-type", "text/plain");
    assert_eq!(request.body(content.to_owned()).send().await.expect("an answer").status(), 200);
}

/// The most that the process has taken, looked at until it has not grown for a while.
async fn peak(server: &Process) -> u64 {
    let (mut peak, mut quiet) = (server.resident(), 0);
    let mut looks = interval(Duration::from_millis(20));
    while quiet < 25 {
        looks.tick().await;
        let now = server.resident();
        quiet = if now > peak { 0 } else { quiet + 1 };
        peak = peak.max(now);
    }
    peak
}

async fn server(engine: &str, settings: &[(&str, &str)]) -> Process {
    let all =
        [("TIDINGS__LOG__ENGINE", engine), ("TIDINGS__LOG__HOT_BYTES_MAX", "0B"), ("TIDINGS__SERVER__WORKERS", "2")];
    Process::start(&[&all, settings].concat()).await
}

/// Goal: 100 stalled readers of two events of a MiB add less than 30 MiB, in every format and engine, when the events
/// come live and when they have to be read from history.
#[tokio::test]
async fn stalled_readers_of_large_events_cost_cursors() {
    let client = reqwest::Client::new();
    let content = CONTROL.to_string().repeat(1 << 20);
    for engine in ["memory", "disk"] {
        let server = server(engine, &[("TIDINGS__LIMITS__CONNECTIONS_PER_IP_MAX", "1000")]).await;
        // What as many readers need that do read has been asked for before.
        for (query, accept) in ENCODINGS {
            publish(&server, &client, "first", &content).await;
            let mut readers = Vec::new();
            for _ in 0..READERS / 2 {
                readers.push(server.get(&format!("topic=first&last=1{query}"), accept).await);
            }
            for reader in &mut readers {
                while reader.body.len() < content.len() {
                    assert!(reader.read().await);
                }
            }
        }
        for (n, (query, accept)) in ENCODINGS.into_iter().enumerate() {
            let topic = format!("{engine}{n}");
            let before = peak(&server).await;
            let mut stalled = Vec::new();
            for _ in 0..READERS / 2 {
                stalled.push(stall(&server, &format!("topic={topic}{query}"), accept).await);
            }
            for _ in 0..2 {
                publish(&server, &client, &topic, &content).await;
            }
            for _ in 0..READERS / 2 {
                stalled.push(stall(&server, &format!("topic={topic}&since=all{query}"), accept).await);
            }
            let grown = peak(&server).await.saturating_sub(before);
            println!("{engine}, {accept:?} {query}: {READERS} stalled readers added {} KiB", grown >> 10);
            assert!(grown < 30 * MIB, "{engine}, {accept:?} {query}: {} MiB more", grown / MIB);
            assert_eq!(server.subscribers(&topic).await, READERS as u64, "they are still there");
        }
    }
}

/// What stalled readers add that are each in the middle of another event, which history has let go of.
async fn of_their_own(unsent_bytes_max: Size) -> u64 {
    let client = reqwest::Client::new();
    let settings =
        [("TIDINGS__STREAM__UNSENT_BYTES_MAX", &*unsent_bytes_max.to_string()), ("TIDINGS__LOG__BYTES_MAX", "16MiB")];
    let server = server("memory", &settings).await;
    let content = "x".repeat(1 << 20);
    for _ in 0..40 {
        publish(&server, &client, "other", &content).await;
    }
    let before = peak(&server).await;
    let mut stalled = Vec::new();
    for n in 0..READERS {
        stalled.push(stall(&server, &format!("topic=own{n}"), SSE).await);
        publish(&server, &client, &format!("own{n}"), &content).await;
    }
    peak(&server).await.saturating_sub(before)
}

/// Goal: `stream.unsent_bytes_max` bounds what readers hold of events that history has let go of.
#[tokio::test]
async fn what_stalled_readers_are_in_the_middle_of_is_bounded() {
    let bounded = of_their_own(Size::mib(8)).await;
    assert!(bounded < 30 * MIB, "{} MiB more", bounded / MIB);
    // The control: with room for all of them they do hold them.
    let unbounded = of_their_own(Size::mib(1024)).await;
    assert!(unbounded > 60 * MIB, "{} MiB more, so the measurement shows nothing", unbounded / MIB);
    println!("{} KiB within 8 MiB, {} KiB without a bound", bounded >> 10, unbounded >> 10);
}

/// Reads `wanted` bytes of a stream with four events of a MiB, a piece at a time; whether the server still serves it.
async fn read_slowly(server: &Process, wanted: usize) -> bool {
    let client = reqwest::Client::new();
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(16 << 10).expect("a receive buffer");
    let socket = socket.connect(server.address).await.expect("a connection");
    let mut stream = Stream::send(socket, "/subscribe?topic=slow", &[SSE]).await;
    for _ in 0..4 {
        publish(server, &client, "slow", &"x".repeat(1 << 20)).await;
    }
    // 16 KiB a second: the window opens in steps, each smaller than what is first in the kernel's send queue.
    let (mut pace, mut piece, mut taken) = (interval(Duration::from_millis(250)), [0; 4 << 10], 0);
    while taken < wanted {
        pace.tick().await;
        match timeout(DEADLINE, stream.socket.read(&mut piece)).await.expect("bytes in time") {
            Ok(n @ 1..) => taken += n,
            _ => break,
        }
    }
    server.subscribers("slow").await == 1
}

/// Goal: a reader that takes bytes all the time is not cut, however slow it is, and wherever the bytes are; the kernel's own
/// count of what a peer takes (`TCP_USER_TIMEOUT`) would cut it after 3 s.
#[tokio::test]
async fn a_slow_reader_is_not_cut_while_it_takes_bytes() {
    // Less than one of the events: on disk the rest of it is read again whenever it is to be sent.
    let unsent = ("TIDINGS__STREAM__UNSENT_BYTES_MAX", "1MiB");
    let reads = async |engine, write_timeout, wanted| {
        let server = server(engine, &[("TIDINGS__STREAM__WRITE_TIMEOUT", write_timeout), unsent]).await;
        read_slowly(&server, wanted).await
    };
    assert_eq!(join!(reads("memory", "3s", 160 << 10), reads("disk", "3s", 160 << 10)), (true, true));
    // The control: the same reader is cut where the time is shorter than its steps are apart.
    assert_eq!(join!(reads("memory", "100ms", 40 << 10), reads("disk", "100ms", 40 << 10)), (false, false));
}
