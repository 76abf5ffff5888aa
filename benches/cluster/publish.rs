//! Acknowledged publishes: through the bare client, through one node, and through three.
//!
//! Each publisher waits for its answer before it publishes again, so as many events are on their way as there are
//! publishers. A publisher of a node has a connection of its own. Those of the bare client share one, as in one process; in
//! another row they have one each, as processes of their own would. Every measurement has a stream of its own, with the
//! limits that a node gives it.

use std::{io, path::Path, time::Duration};

use crate::{
    bare::BareStream,
    figures::{median, shown_us},
    http,
    load::{End, Measured, run},
    nats::{Nats, namespace},
    node::{self, Node},
};

const LASTS: Duration = Duration::from_secs(2);
const IN_FLIGHT: [usize; 3] = [1, 64, 256];

/// How events are published.
#[derive(Clone, Copy)]
enum Way {
    /// The bare client over one connection; with ids, each message has the headers that a node gives it.
    Bare { has_ids: bool },
    /// The bare client with ids, and a connection for each publisher.
    BareEach,
    /// Nodes. With `to_first`, all publishers use the first one, and the others only follow.
    Nodes { n: usize, to_first: bool },
    /// A server with the memory engine: what HTTP and the load cost without NATS.
    Memory,
}

const WAYS: [(&str, Way); 7] = [
    ("bare client, with ids", Way::Bare { has_ids: true }),
    ("the same, a connection each", Way::BareEach),
    ("bare client, without ids", Way::Bare { has_ids: false }),
    ("one node", Way::Nodes { n: 1, to_first: true }),
    ("three nodes", Way::Nodes { n: 3, to_first: false }),
    ("one node, two more follow", Way::Nodes { n: 3, to_first: true }),
    ("memory engine, no NATS", Way::Memory),
];

/// One measurement.
struct Round {
    load: Measured,
    /// How many of the processes are those of NATS; the others are nodes.
    nats: usize,
}

pub async fn measure(directory: &Path, rounds: usize) -> io::Result<()> {
    println!("\n**publish**: {LASTS:?} each; CPU per acknowledged event");
    for replicas in [1, 3] {
        let nats = Nats::start(directory, replicas).await?;
        for in_flight in IN_FLIGHT {
            let ways: Vec<_> = WAYS.iter().filter(|(_, way)| replicas == 1 || !matches!(way, Way::Memory)).collect();
            let mut rows: Vec<Vec<Round>> = ways.iter().map(|_| Vec::new()).collect();
            for round in 0..rounds {
                for ((_, way), row) in ways.iter().zip(&mut rows) {
                    row.push(once(&nats, replicas, in_flight, *way, round).await?);
                }
            }
            print(replicas, in_flight, &ways, &rows);
        }
        nats.end().await?;
    }
    Ok(())
}

async fn once(nats: &Nats, replicas: usize, in_flight: usize, way: Way, round: usize) -> io::Result<Round> {
    let replicas = replicas.to_string();
    let settings = [("TIDINGS__CLUSTER__REPLICAS", replicas.as_str())];
    let (mut processes, end) = (nats.pids(), End::After(LASTS));
    let load = match way {
        Way::Bare { has_ids } => {
            let stream = BareStream::new(nats, round, &settings).await?;
            run((0..in_flight).map(|_| stream.publisher(has_ids)).collect(), end, &processes).await?
        }
        Way::BareEach => {
            let stream = BareStream::new(nats, round, &settings).await?;
            let mut publishers = Vec::new();
            for _ in 0..in_flight {
                publishers.push(stream.publisher_alone(nats, round).await?);
            }
            run(publishers, end, &processes).await?
        }
        Way::Nodes { n, to_first } => {
            let (name, mut nodes) = (namespace(), Vec::new());
            for at in 0..n {
                nodes.push(Node::start(&nats.url(round + at), &name, &settings).await?);
            }
            processes.extend(node::pids(&nodes));
            let addresses: Vec<_> = nodes.iter().map(|node| node.address).collect();
            let used = if to_first { addresses.get(..1) } else { addresses.get(..) };
            let load = run(http::publishers(used.unwrap_or_default(), in_flight).await?, end, &processes).await?;
            node::end(nodes).await?;
            load
        }
        Way::Memory => {
            let node = Node::start_alone().await?;
            processes.push(node.process.pid);
            let load = run(http::publishers(&[node.address], in_flight).await?, end, &processes).await?;
            node.process.end().await?;
            load
        }
    };
    Ok(Round { load, nats: nats.pids().len() })
}

fn print(replicas: usize, in_flight: usize, ways: &[&(&str, Way)], rows: &[Vec<Round>]) {
    println!("\nR{replicas}, {in_flight} in flight\n");
    println!("| | acknowledged/s | / bare | / a connection each | p50 | p99 | CPU of nodes | of NATS | of the load |");
    println!("|{}", "---|".repeat(9));
    let of = |row: &[Round], figure: &dyn Fn(&Round) -> f64| median(row.iter().map(figure));
    let rate = |row: &[Round]| of(row, &|round| round.load.rate);
    // The two that send the same messages.
    let bare: Vec<f64> = rows.iter().take(2).map(|row| rate(row)).collect();
    for ((name, _), row) in ways.iter().zip(rows) {
        let ratios: Vec<String> = bare.iter().map(|bare| format!("{:.2}", rate(row) / bare)).collect();
        let nodes = row.iter().map(|round| round.load.cpu_us.len() - round.nats).max().unwrap_or_default();
        let of_nodes: Vec<String> = (0..nodes)
            .map(|at| of(row, &|round| round.load.cpu_us.get(round.nats + at).copied().unwrap_or_default()))
            .map(|us| format!("{us:.1} µs"))
            .collect();
        println!(
            "| {name} | {:.0} | {} | {} | {} | {} | {:.1} µs | {:.1} µs |",
            rate(row),
            ratios.join(" | "),
            shown_us(of(row, &|round| round.load.p50_us)),
            shown_us(of(row, &|round| round.load.p99_us)),
            if of_nodes.is_empty() { "–".to_owned() } else { of_nodes.join(" + ") },
            of(row, &|round| round.load.cpu_us.iter().take(round.nats).sum()),
            of(row, &|round| round.load.load_us),
        );
    }
}
