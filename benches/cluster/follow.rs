//! What it costs that a node follows the whole stream: CPU per event of each node, and of NATS.
//!
//! The bare client publishes, and nobody subscribes. With one event on its way at a time, each event wakes every node up;
//! with many, nodes and NATS handle several at once.

use std::{io, path::Path, time::Duration};

use tokio::time::sleep;

use crate::{
    bare::BareStream,
    figures::median,
    load::{End, run},
    nats::Nats,
    node::{self, Node},
    process::cpu_us,
};

const NODES_MAX: usize = 3;
/// Events on their way, and how many there are.
const LOADS: [(usize, usize); 2] = [(1, 10_000), (64, 128_000)];
/// A process that uses less than this in [`CALM`] has nothing left to do.
const CALM_US: f64 = 20_000.0;
const CALM: Duration = Duration::from_millis(500);

pub async fn measure(directory: &Path, rounds: usize) -> io::Result<()> {
    println!("\n**follow**: CPU per event\n\n| | nodes that follow | CPU of each node | of NATS |\n|---|---|---|---|");
    for replicas in [1, 3] {
        let nats = Nats::start(directory, replicas).await?;
        for load in LOADS {
            for n in 0..=NODES_MAX {
                let mut rows = Vec::new();
                for round in 0..rounds {
                    rows.push(once(&nats, replicas, n, round, load).await?);
                }
                let of_nodes = median(rows.iter().map(|(of_nodes, _)| *of_nodes));
                let of_nats = median(rows.iter().map(|(_, of_nats)| *of_nats));
                println!("| R{replicas}, {} in flight | {n} | {of_nodes:.1} µs | {of_nats:.1} µs |", load.0);
            }
        }
        nats.end().await?;
    }
    Ok(())
}

/// CPU in microseconds per event of each of `n` nodes, and of NATS.
async fn once(
    nats: &Nats,
    replicas: usize,
    n: usize,
    round: usize,
    (in_flight, events): (usize, usize),
) -> io::Result<(f64, f64)> {
    let replicas = replicas.to_string();
    let settings = [("TIDINGS__CLUSTER__REPLICAS", replicas.as_str())];
    let stream = BareStream::new(nats, round, &settings).await?;
    let mut nodes = Vec::new();
    for at in 0..n {
        nodes.push(Node::start(&nats.url(round + at), &stream.name, &settings).await?);
    }
    let (of_nodes, of_nats) = (node::pids(&nodes), nats.pids());
    let before = (calm(&of_nodes).await, calm(&of_nats).await);
    run((0..in_flight).map(|_| stream.publisher(true)).collect(), End::Events(events), &[]).await?;
    let after = (calm(&of_nodes).await, calm(&of_nats).await);
    node::end(nodes).await?;
    let events = events as f64;
    Ok(((after.0 - before.0) / events / n.max(1) as f64, (after.1 - before.1) / events))
}

/// Waits until the processes have nothing to do, and says how much CPU time they have used until then.
pub async fn calm(pids: &[u32]) -> f64 {
    loop {
        let before = cpu_us(pids);
        sleep(CALM).await;
        if cpu_us(pids) - before <= CALM_US * pids.len() as f64 {
            return before;
        }
    }
}
