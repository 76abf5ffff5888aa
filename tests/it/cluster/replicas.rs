//! Servers on a cluster of NATS: its leader dies, and the servers are restarted one after the other.

use std::time::{Duration, Instant};

use fastrand::Rng;

use super::{
    checker,
    load::{Load, PLAN, Plan},
    nodes::Nodes,
};
use crate::harness::{nats, nats_cluster::NatsCluster, tools::left_out};

/// How soon publishing goes on after the death of a leader, and how soon anything else does.
const LIMIT: Duration = Duration::from_secs(15);

/// Three servers on three servers of NATS; `None` without NATS, which is said.
async fn three() -> Option<(NatsCluster, Nodes)> {
    let program = nats::program().map_err(|missing| left_out(&missing)).ok()?;
    let nats = NatsCluster::start(program).await;
    let nodes = Nodes::start(&vec![nats.urls(); 3], &[("CLUSTER__REPLICAS", "3")]).await;
    Some((nats, nodes))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_three_replicas_publishing_goes_on_without_the_leader() {
    // Goal: the stream has three replicas. When its leader dies and stays dead, publishing goes on within 15 seconds. All
    // servers then send the whole history, and subscribers have missed nothing.
    let Some((nats, nodes)) = three().await else { return };
    let plan = Plan { subscribers: 30, topics: 10, ..PLAN };
    let load = Load::start(&plan, nodes.targets(), Rng::new());
    load.resumed_after(Instant::now(), LIMIT).await;
    let leader = nats.leader(&nodes.namespace).await;
    nats.server(leader).kill();
    let death = Instant::now();
    let took = load.resumed_after(death, LIMIT).await;
    println!("an event that was published after the death of the leader was acknowledged {took:?} after it");
    let (observed, figures) = load.finish(&nodes, &nats.urls()).await;
    println!("{figures:?}");
    checker::assert_none(&checker::faults(&observed));
    assert_ne!(nats.leader(&nodes.namespace).await, leader);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_leaves_no_gap() {
    // Goal: each server is stopped in order and started again, one after the other, under load. Every subscriber stays
    // until its server ends its stream, and goes on at another one. No publisher gets an answer but 200 and 503.
    let Some((nats, mut nodes)) = three().await else { return };
    let plan = Plan { stay_ms: 3_600_000..3_600_001, pause_ms: 100, ..PLAN };
    let load = Load::start(&plan, nodes.targets(), Rng::new());
    load.resumed_after(Instant::now(), LIMIT).await;
    let begin = Instant::now();
    for n in 0..nodes.len() {
        let ended = nodes.stop(n).await;
        assert!(ended.success(), "server {n} ended with {ended}");
        load.resumed_after(Instant::now(), LIMIT).await;
        nodes.restart(n).await;
        nodes.until_ready().await;
        load.resumed_after(Instant::now(), LIMIT).await;
    }
    println!("three restarts in {:?}", begin.elapsed());
    let (observed, figures) = load.finish(&nodes, &nats.urls()).await;
    println!("{figures:?}");
    checker::assert_none(&checker::faults(&observed));
    assert!(figures.connections_min >= 2, "every subscriber had to move: {figures:?}");
}
