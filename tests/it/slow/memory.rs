//! What the server's memory does under peers that take nothing, and after they have gone.

use std::time::Duration;

use tokio::task::JoinSet;

use super::{content, narrow};
use crate::harness::{DEADLINE, Process, Stream};

const MIB: u64 = 1 << 20;

/// Goal: a stalled reader costs a cursor, not a queue: with hundreds of them and events far beyond what history keeps,
/// memory stays where it was; one that reads gets everything meanwhile; then they are cut.
#[tokio::test]
async fn stalled_readers_do_not_cost_memory() {
    const STALLED: u64 = 300;
    const EVENTS: usize = 200;
    let server = Process::start(&[
        ("TIDINGS__STREAM__WRITE_TIMEOUT", "10s"),
        ("TIDINGS__PUBLISH__EVENT_BYTES_MAX", "128KiB"),
        ("TIDINGS__LOG__TOPIC_BYTES_MAX", "4MiB"),
    ])
    .await;
    let client = reqwest::Client::new();
    let mut reader = server.subscribe("topic=big").await;
    let mut round = async |n: usize| {
        let text = content(n, 64 << 10, 1000);
        let id = server.publish(&client, "big", &text).await;
        assert_eq!(reader.next().await.expect("an event").id, id);
        reader.body.clear();
    };
    // History is full, and all memory that this needs has been asked for, before anybody stalls.
    for n in 0..EVENTS {
        round(n).await;
    }
    let before = server.resident();
    let mut stalled = Vec::new();
    for _ in 0..STALLED {
        stalled.push(narrow(server.address, "topic=big", None).await);
    }
    let mut peak = 0;
    for n in 0..EVENTS {
        round(n).await;
        peak = peak.max(server.resident());
    }
    assert_eq!(server.subscribers("big").await, STALLED + 1, "they were still there");
    let (grown, published) = (peak.saturating_sub(before), EVENTS as u64 * 64 / 1024);
    println!(
        "{} MiB before, {} MiB more at most while {published} MiB passed {STALLED} stalled readers",
        before / MIB,
        grown / MIB
    );
    // One queue alone would hold all that was published, 300 of them three hundred times that.
    assert!(grown < 10 * MIB, "memory grew by {} KiB", grown / 1024);
    server.until_subscribers("big", 1).await;
    drop(stalled);
}

/// Connects `n` subscribers, publishes to all, and lets them go.
async fn burst(server: &Process, client: &reqwest::Client, n: u64) {
    let mut opening = JoinSet::new();
    let address = server.address;
    for _ in 0..50 {
        opening.spawn(async move {
            let mut streams = Vec::new();
            for _ in 0..n / 50 {
                let query = "/subscribe?topic=burst&topic=another";
                streams.push(Stream::open(address, query, super::SSE).await);
            }
            streams
        });
    }
    let mut streams: Vec<Stream> = opening.join_all().await.into_iter().flatten().collect();
    server.until_subscribers("burst", n).await;
    let id = server.publish(client, "burst", &content(0, 2000, 80)).await;
    for stream in &mut streams {
        assert_eq!(stream.next().await.expect("an event").id, id);
    }
    drop(streams);
    server.until_subscribers("burst", 0).await;
}

/// Goal: memory comes back after a burst of connections: a second one finds all that it needs.
#[tokio::test]
async fn memory_returns_after_a_burst_of_connections() {
    const CONNECTIONS: u64 = 5_000;
    let server = Process::start(&[]).await;
    let client = reqwest::Client::builder().timeout(DEADLINE).pool_idle_timeout(Duration::from_secs(5)).build();
    let client = client.expect("a client");
    let start = server.resident();
    burst(&server, &client, CONNECTIONS).await;
    let once = server.resident();
    burst(&server, &client, CONNECTIONS).await;
    let twice = server.resident();
    println!("{} KiB at the start, {} KiB after a burst, {} KiB after two", start / 1024, once / 1024, twice / 1024);
    // A leak of the smallest kind, a few hundred bytes a connection, is more than this.
    assert!(twice < once + 2 * MIB, "{} KiB more after the second burst", (twice - once) / 1024);
}
