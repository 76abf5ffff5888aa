//! The start of a node on a stream of a million events, its memory then, and what it costs when nothing happens.

use std::{io, path::Path, time::Duration};

use tokio::time::sleep;

use crate::{
    TOPICS,
    bare::BareStream,
    figures::median,
    follow::calm,
    http,
    load::{End, run},
    nats::Nats,
    node::{Node, Settings},
    process::{cpu_us, memory_mib},
};

const EVENTS: usize = 1_000_000;
const PUBLISHERS: usize = 500;
const IDLE: Duration = Duration::from_secs(10);

/// One start.
struct Start {
    took: Duration,
    cpu_us: f64,
    nats_cpu_us: f64,
    resident_mib: f64,
    peak_mib: f64,
    /// CPU time in a second of idleness.
    idle_us: f64,
}

pub async fn measure(directory: &Path, rounds: usize) -> io::Result<()> {
    let limits = [
        ("TIDINGS__LOG__EVENTS_MAX", "1000000"),
        ("TIDINGS__LOG__TOPIC_EVENTS_MAX", "1000000"),
        ("TIDINGS__LOG__TOPIC_BYTES_MAX", "1GiB"),
        ("TIDINGS__LOG__BYTES_MAX", "4GiB"),
    ];
    let nats = Nats::start(directory, 1).await?;
    let stream = BareStream::new(&nats, 0, &limits).await?;
    let publishers = (0..PUBLISHERS).map(|_| stream.publisher(true)).collect();
    let filled = run(publishers, End::Events(EVENTS), &nats.pids()).await?;
    println!("\n**open**: a stream of {EVENTS} events over {TOPICS} topics, filled with {:.0} events/s\n", filled.rate);
    println!("| node | ready after | CPU | CPU of NATS | resident | peak | idle |\n|{}", "---|".repeat(7));
    for (name, hot_bytes_max) in [("as by default", "64MiB"), ("with few hot events", "1MiB")] {
        let mut starts = Vec::new();
        for _ in 0..rounds {
            let mut settings = limits.to_vec();
            settings.push(("TIDINGS__LOG__HOT_BYTES_MAX", hot_bytes_max));
            starts.push(once(&nats, &stream.name, &settings).await?);
        }
        let of = |figure: fn(&Start) -> f64| median(starts.iter().map(figure));
        println!(
            "| {name} | {:.2} s | {:.2} s | {:.2} s | {:.0} MiB | {:.0} MiB | {:.2} % of a core |",
            of(|start| start.took.as_secs_f64()),
            of(|start| start.cpu_us) / 1e6,
            of(|start| start.nats_cpu_us) / 1e6,
            of(|start| start.resident_mib),
            of(|start| start.peak_mib),
            of(|start| start.idle_us) / 1e4,
        );
    }
    let resident: f64 = nats.pids().iter().map(|pid| memory_mib(*pid, "VmRSS")).sum();
    println!("\nresident memory of NATS: {resident:.0} MiB");
    nats.end().await
}

async fn once(nats: &Nats, name: &str, settings: Settings<'_>) -> io::Result<Start> {
    let nats_before = calm(&nats.pids()).await;
    let node = Node::start(&nats.url(0), name, settings).await?;
    let pid = node.process.pid;
    let (cpu, nats_cpu_us) = (cpu_us(&[pid]), cpu_us(&nats.pids()) - nats_before);
    let mut held = 0;
    for topic in 0..TOPICS {
        held += http::events_of(node.address, &format!("t{topic}")).await?;
    }
    if held != EVENTS {
        return Err(io::Error::other(format!("the node has {held} events")));
    }
    calm(&[pid]).await;
    let (resident_mib, peak_mib) = (memory_mib(pid, "VmRSS"), memory_mib(pid, "VmHWM"));
    let before = cpu_us(&[pid]);
    sleep(IDLE).await;
    let idle_us = (cpu_us(&[pid]) - before) / IDLE.as_secs_f64();
    let took = node.started_in;
    node.process.end().await?;
    Ok(Start { took, cpu_us: cpu, nats_cpu_us, resident_mib, peak_mib, idle_us })
}
