//! The time from a publish to a subscriber.
//!
//! It begins just before the publisher's first byte is written, and ends when the subscriber has read the last byte of the
//! event. Publisher and subscriber are in this process and have a connection each. One event is on its way at a time: the
//! next one follows when the subscriber has it and the publisher has its answer. Servers of NATS and nodes are used in
//! turn: the publisher has the first, the subscriber the second, if there are several.
//!
//! - `core NATS`: publish and subscribe without a stream. Nothing is stored.
//! - `JetStream`: publish to a stream, and a consumer of it as a node has one. This is the least that a node could do.
//! - nodes: `POST /publish` and `GET /subscribe`, at one node or at two.

use std::{
    io,
    path::Path,
    time::{Duration, Instant},
};

use async_nats::jetstream::{
    self,
    consumer::{AckPolicy, DeliverPolicy, pull},
};
use bytes::Bytes;
use futures_util::StreamExt as _;
use tokio::time::{sleep, timeout};

use crate::{
    EVENT_BYTES, bare,
    figures::{median, percentile_us, shown_us},
    http::{Publisher, Subscriber},
    nats::{Nats, namespace},
    node::{self, Node},
    process::{DEADLINE, GLANCE},
};

const EVENTS: usize = 2000;
/// The first events, which are not counted.
const WARM_UP: usize = 200;
const WAYS: [&str; 4] = ["core NATS", "JetStream", "one node", "from one node to another"];

pub async fn measure(directory: &Path, rounds: usize) -> io::Result<()> {
    println!("\n**latency**: {EVENTS} events, one after the other; from before the send to the receipt");
    for replicas in [1, 3] {
        let nats = Nats::start(directory, replicas).await?;
        let mut rows: Vec<Vec<(f64, f64)>> = WAYS.iter().map(|_| Vec::new()).collect();
        for _ in 0..rounds {
            let times = [
                core(&nats).await?,
                through_stream(&nats, replicas).await?,
                through_nodes(&nats, replicas, 1).await?,
                through_nodes(&nats, replicas, 2).await?,
            ];
            for (row, mut times) in rows.iter_mut().zip(times) {
                times.drain(..WARM_UP);
                times.sort_unstable();
                row.push((percentile_us(&times, 50), percentile_us(&times, 99)));
            }
        }
        nats.end().await?;
        print(replicas, &rows);
    }
    Ok(())
}

fn print(replicas: usize, rows: &[Vec<(f64, f64)>]) {
    println!("\nR{replicas}\n\n| | p50 | / core NATS | / JetStream | p99 | / core NATS | / JetStream |");
    println!("|{}", "---|".repeat(7));
    let medians: Vec<(f64, f64)> = rows
        .iter()
        .map(|row| (median(row.iter().map(|(p50, _)| *p50)), median(row.iter().map(|(_, p99)| *p99))))
        .collect();
    let (core, stream) = (medians.first().copied().unwrap_or_default(), medians.get(1).copied().unwrap_or_default());
    for (name, (p50, p99)) in WAYS.iter().zip(&medians) {
        println!(
            "| {name} | {} | {:.1} | {:.1} | {} | {:.1} | {:.1} |",
            shown_us(*p50),
            p50 / core.0,
            p50 / stream.0,
            shown_us(*p99),
            p99 / core.1,
            p99 / stream.1
        );
    }
}

fn content() -> Bytes {
    "x".repeat(EVENT_BYTES).into()
}

async fn core(nats: &Nats) -> io::Result<Vec<Duration>> {
    let (publisher, reader) = (bare::client(nats, 0).await?, bare::client(nats, 1).await?);
    let mut messages = reader.subscribe("latency").await.map_err(io::Error::other)?;
    reader.flush().await.map_err(io::Error::other)?;
    // The other servers of a cluster hear of the subscription in their own time.
    let is_heard = async {
        loop {
            publisher.publish("latency", content()).await.map_err(io::Error::other)?;
            if timeout(GLANCE * 10, messages.next()).await.is_ok() {
                return io::Result::Ok(());
            }
        }
    };
    timeout(DEADLINE, is_heard).await.map_err(io::Error::other)??;
    let mut times = Vec::with_capacity(EVENTS);
    for _ in 0..EVENTS {
        let sent = Instant::now();
        publisher.publish("latency", content()).await.map_err(io::Error::other)?;
        messages.next().await.ok_or(io::ErrorKind::UnexpectedEof)?;
        times.push(sent.elapsed());
    }
    Ok(times)
}

async fn through_stream(nats: &Nats, replicas: usize) -> io::Result<Vec<Duration>> {
    let publisher = jetstream::new(bare::client(nats, 0).await?);
    let reader = jetstream::new(bare::client(nats, 1).await?);
    let name = namespace();
    let config = jetstream::stream::Config {
        name: name.clone(),
        subjects: vec![format!("{name}.>")],
        num_replicas: replicas,
        ..jetstream::stream::Config::default()
    };
    // A new cluster has no leader yet.
    let created = async {
        while publisher.create_stream(config.clone()).await.is_err() {
            sleep(GLANCE).await;
        }
    };
    timeout(DEADLINE, created).await.map_err(io::Error::other)?;
    let stream = reader.get_stream(&name).await.map_err(io::Error::other)?;
    let consumer = stream.create_consumer(pull::Config {
        deliver_policy: DeliverPolicy::All,
        ack_policy: AckPolicy::None,
        num_replicas: 1,
        memory_storage: true,
        ..pull::Config::default()
    });
    let consumer = consumer.await.map_err(io::Error::other)?;
    let mut messages = consumer.messages().await.map_err(io::Error::other)?;
    let (subject, mut times) = (format!("{name}.latency"), Vec::with_capacity(EVENTS));
    for _ in 0..EVENTS {
        let sent = Instant::now();
        let answer = publisher.publish(subject.clone(), content()).await.map_err(io::Error::other)?;
        messages.next().await.ok_or(io::ErrorKind::UnexpectedEof)?.map_err(io::Error::other)?;
        times.push(sent.elapsed());
        answer.await.map_err(io::Error::other)?;
    }
    Ok(times)
}

/// Publishes at the first of `n` nodes, and subscribes at the last.
async fn through_nodes(nats: &Nats, replicas: usize, n: usize) -> io::Result<Vec<Duration>> {
    let (name, replicas, mut nodes) = (namespace(), replicas.to_string(), Vec::new());
    for at in 0..n {
        let settings = [("TIDINGS__CLUSTER__REPLICAS", replicas.as_str())];
        nodes.push(Node::start(&nats.url(at), &name, &settings).await?);
    }
    let (Some(first), Some(last)) = (nodes.first(), nodes.last()) else { return Ok(Vec::new()) };
    let mut publisher = Publisher::connect(first.address).await?;
    let mut subscriber = Subscriber::connect(last.address, "latency").await?;
    let mut times = Vec::with_capacity(EVENTS);
    for _ in 0..EVENTS {
        let sent = Instant::now();
        publisher.send("latency").await?;
        subscriber.take_event().await?;
        times.push(sent.elapsed());
        publisher.take_answer().await?;
    }
    node::end(nodes).await?;
    Ok(times)
}
