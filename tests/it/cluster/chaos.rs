//! Faults at random, under load: servers of Tidings and of NATS are killed and paused, and the links between them are cut.
//! Nothing that was acknowledged is lost, nobody gets anything twice, and all servers have one order.

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    time::{Duration, Instant},
};

use fastrand::Rng;
use tokio::time::sleep;

use super::{
    checker,
    load::{Load, PLAN},
    nodes::Nodes,
};
use crate::harness::{
    link::{Link, Mode},
    nats,
    nats_cluster::{self, NatsCluster},
    tools::left_out,
};

/// What goes wrong with NATS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum NatsFault {
    /// `kill -9` of the leader of the stream. It starts again after publishing has gone on.
    KillLeader,
    /// `kill -9` of any server.
    Kill,
    /// The leader of the stream is stopped for longer than its timeouts, and goes on as if it were the leader.
    PauseLeader,
    /// The same with any server.
    Pause,
    /// `kill -9` of all three servers.
    KillAll,
}

/// What goes wrong with one server of Tidings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum NodeFault {
    /// `kill -9`.
    Kill,
    /// It is stopped for longer than its timeouts.
    Pause,
    /// Its connections to NATS are closed, and new ones refused.
    Cut,
    /// What it sends to NATS and gets from NATS is swallowed.
    Silence,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fault {
    Nats(NatsFault),
    Node(NodeFault),
}

/// Those of a short run: one of each kind.
const SHORT: [Fault; 6] = [
    Fault::Nats(NatsFault::KillLeader),
    Fault::Nats(NatsFault::PauseLeader),
    Fault::Nats(NatsFault::KillAll),
    Fault::Node(NodeFault::Kill),
    Fault::Node(NodeFault::Cut),
    Fault::Node(NodeFault::Silence),
];
const OTHERS: [Fault; 3] = [Fault::Nats(NatsFault::Kill), Fault::Nats(NatsFault::Pause), Fault::Node(NodeFault::Pause)];
/// How soon publishing goes on after the death of a leader.
const LEADER_LIMIT: Duration = Duration::from_secs(15);
/// How soon it goes on after any other fault.
const LIMIT: Duration = Duration::from_secs(45);

/// A cluster under load, and what has gone wrong with it so far.
struct Run {
    rng: Rng,
    begin: Instant,
    nats: NatsCluster,
    links: Vec<Link>,
    nodes: Nodes,
    load: Load,
    counts: BTreeMap<Fault, usize>,
    /// How soon publishing went on after the leader or all servers of NATS had stopped.
    resumed: BTreeMap<NatsFault, Vec<Duration>>,
}

impl Run {
    async fn start(program: std::path::PathBuf, seed: u64) -> Self {
        let nats = NatsCluster::start(program).await;
        let mut links = Vec::new();
        for _ in 0..3 {
            links.push(Link::to(&nats.ports()).await);
        }
        let urls: Vec<String> = links.iter().map(Link::urls).collect();
        let nodes = Nodes::start(&urls, &[("CLUSTER__REPLICAS", "3")]).await;
        let mut rng = Rng::with_seed(seed);
        let load = Load::start(&PLAN, nodes.targets(), rng.fork());
        let begin = Instant::now();
        load.resumed_after(begin, LIMIT).await;
        Self { rng, begin, nats, links, nodes, load, counts: BTreeMap::new(), resumed: BTreeMap::new() }
    }

    /// One fault, and sometimes one of another kind at the same time. Then publishing must go on.
    async fn round(&mut self, fault: Fault) {
        let (mut nats_fault, mut node_fault) = match fault {
            Fault::Nats(fault) => (Some(fault), None),
            Fault::Node(fault) => (None, Some(fault)),
        };
        // Not in the round that measures.
        if nats_fault != Some(NatsFault::KillLeader) && self.rng.u8(..4) == 0 {
            nats_fault = nats_fault.or(Some(NatsFault::Kill));
            node_fault = node_fault.or(Some(NodeFault::Kill));
        }
        println!("{:4} s: {nats_fault:?}, {node_fault:?}", self.begin.elapsed().as_secs());
        for fault in nats_fault.map(Fault::Nats).into_iter().chain(node_fault.map(Fault::Node)) {
            *self.counts.entry(fault).or_default() += 1;
        }
        let (mut nats_rng, mut node_rng) = (self.rng.fork(), self.rng.fork());
        let Self { nats, links, nodes, load, resumed, .. } = self;
        let namespace = nodes.namespace.clone();
        let on_nats = async {
            if let Some(fault) = nats_fault
                && let Some(took) = fail_nats(nats, &namespace, fault, load, &mut nats_rng).await
            {
                resumed.entry(fault).or_default().push(took);
            }
        };
        let on_node = async {
            if let Some(fault) = node_fault {
                fail_node(nodes, links, fault, &mut node_rng).await;
            }
        };
        tokio::join!(on_nats, on_node);
        self.load.resumed_after(Instant::now(), LIMIT).await;
        self.nodes.check();
        // Otherwise the next fault may come before this one is overcome everywhere.
        if self.rng.bool() {
            self.nodes.until_ready().await;
        }
    }
}

/// Something goes wrong with NATS. How soon publishing went on, if the leader had stopped.
async fn fail_nats(
    nats: &NatsCluster,
    namespace: &str,
    fault: NatsFault,
    load: &Load,
    rng: &mut Rng,
) -> Option<Duration> {
    let n = match fault {
        NatsFault::KillLeader | NatsFault::PauseLeader => nats.leader(namespace).await,
        _ => rng.usize(..nats_cluster::SERVERS),
    };
    let (server, mut resumed) = (nats.server(n), None);
    match fault {
        NatsFault::KillLeader => {
            server.kill();
            resumed = Some(load.resumed_after(Instant::now(), LEADER_LIMIT).await);
            server.restart();
        }
        NatsFault::Kill => {
            server.kill();
            lasts(rng, 500..4000).await;
            server.restart();
        }
        NatsFault::PauseLeader | NatsFault::Pause => {
            server.signal("-STOP");
            let begin = Instant::now();
            // A follower becomes a candidate after 4 to 9 seconds.
            let (took, ()) = tokio::join!(load.resumed_after(begin, LIMIT), lasts(rng, 10_000..14_000));
            server.signal("-CONT");
            resumed = Some(took).filter(|_| fault == NatsFault::PauseLeader);
        }
        NatsFault::KillAll => {
            (0..nats_cluster::SERVERS).for_each(|n| nats.server(n).kill());
            let begin = Instant::now();
            lasts(rng, 0..2000).await;
            (0..nats_cluster::SERVERS).for_each(|n| nats.server(n).restart());
            resumed = Some(load.resumed_after(begin, LIMIT).await);
        }
    }
    resumed
}

/// Something goes wrong with a server of Tidings.
async fn fail_node(nodes: &mut Nodes, links: &[Link], fault: NodeFault, rng: &mut Rng) {
    let n = rng.usize(..nodes.len());
    match fault {
        NodeFault::Kill => {
            nodes.kill(n).await;
            lasts(rng, 0..2000).await;
            nodes.restart(n).await;
        }
        NodeFault::Pause => {
            nodes.signal(n, "STOP").await;
            lasts(rng, 5000..9000).await;
            nodes.signal(n, "CONT").await;
        }
        NodeFault::Cut => {
            links[n].set(Mode::Cut);
            lasts(rng, 500..8000).await;
            links[n].set(Mode::Open);
        }
        NodeFault::Silence => {
            links[n].set(Mode::Silent);
            lasts(rng, 4000..12_000).await;
            links[n].set(Mode::Open);
        }
    }
}

/// How long a fault lasts; nothing is waited for.
async fn lasts(rng: &mut Rng, millis: std::ops::Range<u64>) {
    sleep(Duration::from_millis(rng.u64(millis))).await;
}

/// `n` faults, each kind as often as the others, in a random order.
fn deck(n: usize, rng: &mut Rng) -> Vec<Fault> {
    let mut faults = Vec::new();
    while faults.len() < n {
        let mut kinds = SHORT.to_vec();
        if n > SHORT.len() {
            kinds.extend(OTHERS);
        }
        rng.shuffle(&mut kinds);
        faults.extend(kinds);
    }
    faults.truncate(n);
    faults
}

fn number(name: &str) -> Option<u64> {
    env::var(name).ok().map(|value| value.parse().unwrap_or_else(|_| panic!("{name} is no number")))
}

fn in_seconds(mut times: Vec<Duration>) -> String {
    times.sort_unstable();
    let [median, longest] = [times.len() / 2, times.len() - 1].map(|n| times[n].as_secs_f64());
    format!("{} times, p50 {median:.1} s, longest {longest:.1} s", times.len())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_or_told_twice_whatever_fails() {
    // Goal: three servers of Tidings and three of NATS, 8 publishers that retry until they are acknowledged, and 200
    // subscribers that move from server to server. After faults of all kinds, every promise was kept.
    let program = match nats::program() {
        Ok(program) => program,
        Err(missing) => return left_out(&missing),
    };
    let seed = number("TIDINGS_CHAOS_SEED").unwrap_or_else(|| fastrand::u64(..));
    let wanted = number("TIDINGS_CHAOS_FAULTS").unwrap_or(6);
    println!("TIDINGS_CHAOS_SEED={seed} TIDINGS_CHAOS_FAULTS={wanted}");
    let mut run = Run::start(program, seed).await;
    for fault in deck(usize::try_from(wanted).expect("a small number"), &mut run.rng) {
        run.round(fault).await;
    }
    run.nodes.until_ready().await;
    let (observed, figures) = run.load.finish(&run.nodes, &run.nats.urls()).await;
    println!("{} faults in {:?}: {:?}", run.counts.values().sum::<usize>(), run.begin.elapsed(), run.counts);
    println!("{figures:?}");
    for (fault, times) in run.resumed {
        println!("publishing went on after {fault:?}: {}", in_seconds(times));
    }
    run.nodes.check();
    checker::assert_none(&checker::faults(&observed));
    let topics: BTreeSet<usize> = observed.published.iter().flatten().map(|sent| sent.topic).collect();
    assert_eq!(topics.len(), PLAN.topics, "there was load");
    assert!(figures.connections > 3 * PLAN.subscribers && figures.deliveries > figures.acknowledged, "{figures:?}");
}
