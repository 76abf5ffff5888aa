//! Several processes on one NATS: the same ids, the same order, and nothing lost.

use async_nats::jetstream;
use reqwest::{Client, Response};
use serde_json::Value;

use crate::harness::{
    Process, Stream,
    nats::{self, Nats},
    process::program,
    tools::left_out,
    until,
};

mod chaos;
mod checker;
mod controls;
mod import;
mod load;
mod nodes;
mod outage;
mod peers;
mod replicas;
mod stale;
mod storage;
mod tls;

/// What the processes of one cluster have in common.
struct Cluster {
    url: String,
    namespace: String,
    client: Client,
}

impl Cluster {
    /// `None` without NATS, which is said.
    fn on_shared() -> Option<Self> {
        match nats::shared() {
            Ok(nats) => Some(Self::on(nats)),
            Err(missing) => {
                left_out(&missing);
                None
            }
        }
    }

    fn on(nats: &Nats) -> Self {
        Self { url: nats.url(), namespace: nats::namespace(), client: Client::new() }
    }

    fn settings<'a>(&'a self, others: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
        let own = [
            ("TIDINGS__LOG__ENGINE", "cluster"),
            ("TIDINGS__CLUSTER__SERVERS", self.url.as_str()),
            ("TIDINGS__CLUSTER__NAMESPACE", self.namespace.as_str()),
            ("TIDINGS__CLUSTER__WATCH_INTERVAL", "100ms"),
        ];
        own.iter().chain(others).copied().collect()
    }

    async fn node(&self) -> Process {
        Process::start(&self.settings(&[])).await
    }

    async fn publish(&self, node: &Process, topic: &str, content: &str) -> String {
        node.publish(&self.client, topic, content).await
    }

    /// Publishes with an idempotency key. The error is that of the connection.
    async fn publish_once(&self, node: &Process, key: &str, content: &str) -> reqwest::Result<Response> {
        let request = self.client.post(node.url("/publish?topic=a")).header("idempotency-key", key);
        request.header("content-type", "text/plain").body(content.to_owned()).send().await
    }

    async fn delete(&self, node: &Process, topic: &str) {
        let answer = self.client.delete(node.url(&format!("/topics/{topic}"))).send().await.expect("an answer");
        assert_eq!(answer.status(), 204);
    }
}

async fn resume(node: &Process, query: &str, id: &str) -> Stream {
    let headers = [("accept", "text/event-stream"), ("last-event-id", id)];
    Stream::open(node.address, &format!("/subscribe?{query}"), &headers).await
}

/// The id and the content of each event that is held of topic `a`, up to the one with the content `end`.
async fn held(node: &Process, end: &str) -> Vec<(String, String)> {
    let mut stream = node.subscribe("topic=a&since=all").await;
    let mut found = Vec::new();
    while found.last().is_none_or(|(_, content)| content != end) {
        let block = stream.next().await.expect("an event");
        assert_eq!(block.event, "message", "{block:?}");
        found.push((block.id, block.data));
    }
    found
}

async fn is_ready(node: &Process) -> bool {
    reqwest::get(node.url("/readyz")).await.is_ok_and(|answer| answer.status() == 200)
}

#[tokio::test]
async fn each_node_has_the_events_of_all_with_the_same_ids() {
    // Goal: what is published at either node reaches subscribers of both, in the same order, with the id of the receipt.
    let Some(cluster) = Cluster::on_shared() else { return };
    let nodes = [cluster.node().await, cluster.node().await];
    let mut streams = [nodes[0].subscribe("topic=a").await, nodes[1].subscribe("topic=a").await];
    let mut published = Vec::new();
    for n in 0..40 {
        let id = cluster.publish(&nodes[n % 2], "a", &n.to_string()).await;
        published.push((id, n.to_string()));
    }
    for stream in &mut streams {
        let blocks = stream.take(40).await;
        let received: Vec<_> = blocks.into_iter().map(|block| (block.id, block.data)).collect();
        assert_eq!(received, published);
    }
    assert!(nodes[0].banner.iter().any(|line| line.contains(&cluster.namespace)), "{:?}", nodes[0].banner);
}

#[tokio::test]
async fn a_subscriber_goes_on_at_the_other_node_without_a_gap() {
    // Goal: with the id that one node has just given, the other one sends exactly what came after it. It does not call
    // the id a reset, although it may not have read that far yet.
    let Some(cluster) = Cluster::on_shared() else { return };
    let nodes = [cluster.node().await, cluster.node().await];
    for n in 0..50 {
        let (here, there) = (&nodes[n % 2], &nodes[(n + 1) % 2]);
        let id = cluster.publish(here, "a", "before").await;
        let mut stream = resume(there, "topic=a", &id).await;
        let next = cluster.publish(here, "a", "after").await;
        let block = stream.next().await.expect("an event");
        assert_eq!((block.event.as_str(), block.id), ("message", next));
    }
    let ahead = format!("{}-{}", &cluster.publish(&nodes[0], "a", "last").await[..8], 1_000_000);
    let block = resume(&nodes[1], "topic=a", &ahead).await.next().await.expect("a notice");
    assert!(block.event == "broker.gap" && block.data.contains("reset"), "ahead of the stream itself: {block:?}");
}

#[tokio::test]
async fn a_deletion_ends_the_streams_of_both_nodes() {
    // Goal: the topic is gone everywhere, and can be used again at either node.
    let Some(cluster) = Cluster::on_shared() else { return };
    let nodes = [cluster.node().await, cluster.node().await];
    let mut streams = [nodes[0].subscribe("topic=a").await, nodes[1].subscribe("topic=a").await];
    cluster.publish(&nodes[1], "a", "before").await;
    cluster.delete(&nodes[0], "a").await;
    for stream in &mut streams {
        let blocks = stream.all().await;
        let told: Vec<_> = blocks.iter().map(|block| block.event.as_str()).collect();
        assert_eq!(told, ["message", "broker.deleted"]);
        assert_eq!(resume(&nodes[1], "topic=a", stream.last_event_id()).await.status, 204, "and says so later, too");
    }
    let id = cluster.publish(&nodes[1], "a", "again").await;
    assert_eq!(held(&nodes[0], "again").await, [(id, "again".to_owned())]);
}

#[tokio::test]
async fn a_key_holds_at_both_nodes() {
    // Goal: of two publishes with one key, at two nodes at once, one is an event and the other one its retry. Another
    // event with the key is refused at either node, also after a restart of the node.
    let Some(cluster) = Cluster::on_shared() else { return };
    let nodes = [cluster.node().await, cluster.node().await];
    let mut ids = Vec::new();
    for n in 0..50 {
        let key = n.to_string();
        let answers = tokio::join!(
            cluster.publish_once(&nodes[0], &key, "content"),
            cluster.publish_once(&nodes[1], &key, "content")
        );
        let (mut replayed, mut of_key) = (0, Vec::new());
        for answer in [answers.0, answers.1] {
            let answer = answer.expect("an answer");
            assert_eq!(answer.status(), 200);
            replayed += usize::from(answer.headers().contains_key("idempotency-replayed"));
            let body: Value = answer.json().await.expect("JSON");
            of_key.push(body["id"].as_str().expect("an id").to_owned());
        }
        assert!(replayed == 1 && of_key[0] == of_key[1], "{replayed} of {of_key:?}");
        ids.push(of_key.remove(0));
    }
    let answers = tokio::join!(
        cluster.publish_once(&nodes[0], "contested", "one"),
        cluster.publish_once(&nodes[1], "contested", "other")
    );
    let mut statuses = [answers.0, answers.1].map(|answer| answer.expect("an answer").status().as_u16());
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 409]);
    let third = cluster.node().await;
    for node in nodes.iter().chain([&third]) {
        assert_eq!(cluster.publish_once(node, "7", "another").await.expect("an answer").status(), 409);
        let again = cluster.publish_once(node, "7", "content").await.expect("an answer");
        assert!(again.headers().contains_key("idempotency-replayed"));
    }
    cluster.publish(&third, "a", "end").await;
    let found: Vec<_> = held(&third, "end").await.into_iter().map(|(id, _)| id).collect();
    assert_eq!((found.len(), &found[..50]), (52, &ids[..]), "each key has one event, and there is no other one");
}

#[tokio::test]
async fn events_that_are_not_in_memory_come_from_nats() {
    // Goal: a node that keeps no event in memory sends the same.
    let Some(cluster) = Cluster::on_shared() else { return };
    let node = Process::start(&cluster.settings(&[("TIDINGS__LOG__HOT_BYTES_MAX", "0B")])).await;
    let mut published = Vec::new();
    for content in ["one", "two\nlines", "", "é 事件"] {
        published.push((cluster.publish(&node, "a", content).await, content.to_owned()));
    }
    let id = cluster.publish(&node, "a", "end").await;
    published.push((id, "end".to_owned()));
    assert_eq!(held(&node, "end").await, published);
}

#[tokio::test]
async fn a_stream_with_other_limits_is_refused_and_the_difference_said() {
    // Goal: a node does not start with a stream that does not fit its configuration.
    let Some(cluster) = Cluster::on_shared() else { return };
    let _first = cluster.node().await;
    let settings = cluster.settings(&[("TIDINGS__LOG__EVENTS_MAX", "1000"), ("TIDINGS__CLUSTER__STORAGE", "memory")]);
    let second = program().args(["--listen", "127.0.0.1:0"]).envs(settings).output().await.expect("it runs");
    let errors = String::from_utf8_lossy(&second.stderr);
    assert_eq!(second.status.code(), Some(1), "{errors}");
    for said in [cluster.namespace.as_str(), "max_msgs is 2065536", "needs 67536", "storage is File", "needs Memory"] {
        assert!(errors.contains(said), "{said}: {errors}");
    }
}

#[tokio::test]
async fn an_event_that_nats_does_not_take_is_refused_with_the_limit() {
    // Goal: NATS takes messages of 1 MiB, and the envelope needs a part of it.
    let Some(cluster) = Cluster::on_shared() else { return };
    let node = cluster.node().await;
    let publish = |bytes: usize| {
        let request = cluster.client.post(node.url("/publish?topic=a")).header("content-type", "text/plain");
        request.body("x".repeat(bytes)).send()
    };
    let refused = publish(1 << 20).await.expect("an answer");
    assert_eq!(refused.status(), 413);
    let problem: Value = refused.json().await.expect("JSON");
    let limit = usize::try_from(problem["limit"].as_u64().expect("a limit")).expect("a size");
    assert_eq!(publish(limit).await.expect("an answer").status(), 200);
}

#[tokio::test]
async fn a_stream_that_is_made_anew_ends_the_process() {
    // Goal: positions never get other events: the process ends with the code of a failed log, and says why.
    let Some(cluster) = Cluster::on_shared() else { return };
    let mut node = cluster.node().await;
    cluster.publish(&node, "a", "lost").await;
    let nats = async_nats::connect(&cluster.url).await.expect("a connection");
    jetstream::new(nats).delete_stream(&cluster.namespace).await.expect("it is deleted");
    assert_eq!(node.exit().await.code(), Some(74));
    let (_, errors) = node.last_words().await;
    assert!(errors.contains("not the one of before"), "{errors}");
    // The next process makes a new stream, with a new epoch.
    let next = cluster.node().await;
    cluster.publish(&next, "a", "new").await;
}
