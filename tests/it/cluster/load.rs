//! Publishers that retry until they are acknowledged, and subscribers that move from server to server.

use std::{
    ops::Range,
    time::{Duration, Instant},
};

use fastrand::Rng;
use tokio::{sync::watch, task::JoinSet, time::timeout};

use super::{
    checker::{Held, Observed, Received, Sent, Stored},
    nodes::{Nodes, Targets},
};
use crate::harness::{
    DEADLINE, Stream,
    nats_cluster::{messages_of, stream_info},
};
use publisher::{Ack, Publisher};
use subscriber::Subscriber;

mod publisher;
mod subscriber;

/// What the load is like.
#[derive(Clone)]
pub struct Plan {
    pub publishers: usize,
    pub subscribers: usize,
    pub topics: usize,
    /// A publisher waits for up to so many milliseconds before its next event.
    pub pause_ms: u64,
    /// A subscriber stays at one server for so many milliseconds.
    pub stay_ms: Range<u64>,
    /// A control: a subscriber resumes one position too late.
    pub is_late: bool,
}

/// The load of the issue: 8 publishers, and 200 subscribers of 1 to 10 of 50 topics.
pub const PLAN: Plan =
    Plan { publishers: 8, subscribers: 200, topics: 50, pause_ms: 250, stay_ms: 200..8000, is_late: false };
/// What the last event of each topic ends with.
const END: &str = " the end";
/// How long the last events may take to reach all subscribers.
const END_DEADLINE: Duration = Duration::from_mins(1);

/// A load that runs.
pub struct Load {
    plan: Plan,
    targets: Targets,
    rng: Rng,
    /// Ends the publishers.
    stop: watch::Sender<bool>,
    /// Ends the subscribers that still wait for events.
    over: watch::Sender<bool>,
    publishers: JoinSet<Publisher>,
    subscribers: JoinSet<Subscriber>,
    acks: watch::Sender<Ack>,
}

/// What the load came to.
#[derive(Debug, Default)]
pub struct Figures {
    pub acknowledged: usize,
    /// Publishes that were tried again.
    pub retries: usize,
    pub deliveries: usize,
    pub connections: usize,
    /// The fewest connections that a subscriber has had.
    pub connections_min: usize,
}

impl Load {
    pub fn start(plan: &Plan, targets: Targets, mut rng: Rng) -> Self {
        let now = Instant::now();
        let acks = watch::Sender::new(Ack { begun: now, at: now, count: 0 });
        let (stop, over) = (watch::Sender::new(false), watch::Sender::new(false));
        let (mut publishers, mut subscribers) = (JoinSet::new(), JoinSet::new());
        for _ in 0..plan.subscribers {
            let subscriber = Subscriber::new(plan, &targets, rng.fork());
            subscribers.spawn(subscriber.run(over.subscribe()));
        }
        for n in 0..plan.publishers {
            let publisher = Publisher::new(&format!("p{n}"), plan, &targets, rng.fork(), acks.clone());
            publishers.spawn(publisher.run(stop.subscribe()));
        }
        Self { plan: plan.clone(), targets, rng, stop, over, publishers, subscribers, acks }
    }

    /// How long it took after `moment` until a publish that was begun later was acknowledged.
    pub async fn resumed_after(&self, moment: Instant, limit: Duration) -> Duration {
        let mut acks = self.acks.subscribe();
        let resumed = async { acks.wait_for(|ack| ack.begun >= moment).await.expect("the load runs").at };
        let resumed = timeout(limit, resumed).await;
        resumed.unwrap_or_else(|_| panic!("no publish was acknowledged within {limit:?}")).duration_since(moment)
    }

    /// Waits until so many events have been acknowledged.
    pub async fn until_acknowledged(&self, count: usize) {
        let mut acks = self.acks.subscribe();
        let reached = timeout(DEADLINE, acks.wait_for(|ack| ack.count >= count)).await;
        drop(reached.expect("they are acknowledged in time").expect("the load runs"));
    }

    /// Ends the load when every subscriber has everything, or nothing comes any more. `nats` has the stream.
    pub async fn finish(mut self, nodes: &Nodes, nats: &str) -> (Observed, Figures) {
        self.stop.send_replace(true);
        let mut publishers = self.publishers.join_all().await;
        let mut last = Publisher::new("last", &self.plan, &self.targets, self.rng.fork(), self.acks.clone());
        for topic in 0..self.plan.topics {
            last.publish(topic, END).await;
        }
        publishers.push(last);
        let all = async {
            let mut received = Vec::new();
            while let Some(subscriber) = self.subscribers.join_next().await {
                received.push(subscriber.expect("no panic"));
            }
            received
        };
        tokio::pin!(all);
        let received = if let Ok(received) = timeout(END_DEADLINE, &mut all).await {
            received
        } else {
            self.over.send_replace(true);
            all.await
        };
        let mut figures = Figures { connections_min: usize::MAX, ..Figures::default() };
        let mut observed = Observed { stored: stored(nats, &nodes.namespace).await, ..Observed::default() };
        for target in self.targets.iter() {
            observed.histories.push(history(*target, self.plan.topics).await);
        }
        for publisher in publishers {
            figures.acknowledged += publisher.sent.len();
            figures.retries += publisher.retries;
            observed.unexpected.extend(publisher.unexpected);
            observed.published.push(publisher.sent);
        }
        for subscriber in received {
            figures.deliveries += subscriber.received.seen.len();
            figures.connections += subscriber.connections;
            figures.connections_min = figures.connections_min.min(subscriber.connections);
            observed.received.push(subscriber.received);
        }
        (observed, figures)
    }
}

async fn stored(nats: &str, namespace: &str) -> Option<Stored> {
    let state = stream_info(nats, namespace).await?.state;
    let commands = messages_of(nats, namespace, &format!("{namespace}.c")).await?;
    let events = state.messages - commands;
    Some(Stored { first: state.first_sequence, last: state.last_sequence, events, commands })
}

/// What one server holds of all topics, up to their last events.
async fn history(target: std::net::SocketAddr, topics: usize) -> Vec<Held> {
    let query: Vec<String> = (0..topics).map(|topic| format!("topic=t{topic}")).collect();
    let path = format!("/subscribe?{}&since=all", query.join("&"));
    let mut held = Vec::new();
    let read = async {
        let mut stream = Stream::open(target, &path, &[("accept", "text/event-stream")]).await;
        let mut ends = 0;
        while ends < topics {
            let Some(block) = stream.next().await else { return };
            ends += usize::from(block.data.ends_with(END));
            held.push(Held { id: block.id, event: block.event, content: block.data });
        }
    };
    // What is missing then, the checker finds.
    timeout(END_DEADLINE, read).await.ok();
    held
}
