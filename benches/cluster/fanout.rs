//! Deliveries per CPU-second of one, two and three nodes.
//!
//! The subscribers are spread over the nodes. Each node has one worker; all nodes are on core 0, and the load and NATS are
//! where there is room. Only the CPU time of the nodes counts.

use std::{
    io,
    net::SocketAddr,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};

use crate::{
    EVENT_BYTES, TOPICS,
    figures::median,
    http::{self, Subscriber},
    load::{End, Publish as _, run},
    nats::{Nats, namespace},
    node::{self, Node},
    process::{DEADLINE, GLANCE, cpu_us},
};

const SUBSCRIBERS: usize = 3000;
/// Events to all of [`SUBSCRIBERS`].
const EVENTS: usize = 60;
/// Events to one subscriber each.
const SINGLE_EVENTS: usize = 32_000;

pub async fn measure(directory: &Path, rounds: usize) -> io::Result<()> {
    let cores = if node::is_pinned() { "nodes on core 0" } else { "NOT pinned to cores" };
    println!("\n**fanout**: {cores}");
    let nats = Nats::start(directory, 1).await?;
    let many = format!("{SUBSCRIBERS} subscribers of one topic; each event reaches all before the next");
    let single = format!("{TOPICS} topics with one subscriber each, {TOPICS} publishers");
    for (is_single, what) in [(false, many), (true, single)] {
        println!("\n{what}\n\n| nodes | CPU of the nodes per delivery | deliveries per CPU-second | / one node |");
        println!("|{}", "---|".repeat(4));
        let mut rows = [const { Vec::new() }; 3];
        for _ in 0..rounds {
            for (n, row) in (1..).zip(&mut rows) {
                row.push(once(&nats, n, is_single).await?);
            }
        }
        let medians = rows.map(median);
        for (n, us) in (1..).zip(medians) {
            println!("| {n} | {us:.2} µs | {:.0} | {:.2} |", 1e6 / us, medians.first().unwrap_or(&us) / us);
        }
    }
    nats.end().await
}

/// CPU in microseconds per delivery.
async fn once(nats: &Nats, n: usize, is_single: bool) -> io::Result<f64> {
    let (name, mut nodes) = (namespace(), Vec::new());
    for _ in 0..n {
        nodes.push(Node::start_pinned(&nats.url(0), &name, &[("TIDINGS__SERVER__WORKERS", "1")]).await?);
    }
    let addresses: Vec<SocketAddr> = nodes.iter().map(|node| node.address).collect();
    let (subscribers, events, each) =
        if is_single { (TOPICS, SINGLE_EVENTS, 1) } else { (SUBSCRIBERS, EVENTS, SUBSCRIBERS) };
    let (content, mut readers) = (Arc::new(AtomicUsize::new(0)), JoinSet::new());
    for (at, address) in (0..subscribers).zip(addresses.iter().cycle()) {
        let topic = if is_single { format!("t{at}") } else { "t0".to_owned() };
        readers.spawn(read(Subscriber::connect(*address, &topic).await?, Arc::clone(&content)));
    }
    let until = async |deliveries: usize| {
        let reached = async {
            while content.load(Ordering::Relaxed) < deliveries * EVENT_BYTES {
                sleep(GLANCE).await;
            }
        };
        timeout(DEADLINE, reached).await.map_err(|_| io::Error::other("an event is missing"))
    };
    let pids = node::pids(&nodes);
    let before = cpu_us(&pids);
    if is_single {
        run(http::publishers(&addresses, TOPICS).await?, End::Events(events), &[]).await?;
    } else {
        let mut publishers = http::publishers(&addresses, n).await?;
        for event in 0..events {
            let Some(publisher) = publishers.get_mut(event % n) else { continue };
            publisher.publish(0).await?;
            until((event + 1) * each).await?;
        }
    }
    until(events * each).await?;
    let used = cpu_us(&pids) - before;
    readers.shutdown().await;
    node::end(nodes).await?;
    Ok(used / (events * each) as f64)
}

/// Counts the bytes of content of a stream.
async fn read(mut subscriber: Subscriber, content: Arc<AtomicUsize>) -> io::Result<()> {
    loop {
        content.fetch_add(subscriber.take_content().await?, Ordering::Relaxed);
    }
}
