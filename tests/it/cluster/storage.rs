//! NATS has no space, has an older copy of its stream, or keeps less than what a server has missed.

use async_nats::jetstream::{self, Context, stream};

use super::{Cluster, held, is_ready, resume, until};
use crate::harness::{
    Process,
    nats::{Nats, program},
    small_disk::SmallDisk,
    tools::left_out,
};

/// A NATS of its own with this limit of bytes on the disk; `None` without, which is said.
fn own_nats(disk_bytes_max: u64) -> Option<Nats> {
    let started = program().map(|program| Nats::start_with(program, disk_bytes_max, ""));
    started.map_err(|missing| left_out(&missing)).ok()
}

async fn jetstream(nats: &Nats) -> Context {
    jetstream::new(async_nats::connect(nats.url()).await.expect("a connection"))
}

#[tokio::test]
async fn without_space_in_nats_publishes_get_507_and_work_again_afterwards() {
    // Goal: another stream takes all the space that NATS may use. Publishes are refused, the history is served, and
    // nothing that was refused is there later. When there is space again, publishing goes on without a restart.
    let Some(nats) = own_nats(70_000_000) else { return };
    let cluster = Cluster::on(&nats);
    // So NATS reserves 64 MiB and 144 KiB for the stream.
    let small = [
        ("TIDINGS__PUBLISH__EVENT_BYTES_MAX", "1KiB"),
        ("TIDINGS__LOG__TOPIC_BYTES_MAX", "72KiB"),
        ("TIDINGS__LOG__BYTES_MAX", "72KiB"),
        ("TIDINGS__CLUSTER__WATCH_INTERVAL", "5s"),
    ];
    let node = Process::start(&cluster.settings(&small)).await;
    let mut stream = node.subscribe("topic=a").await;
    cluster.publish(&node, "a", "before").await;
    let context = jetstream(&nats).await;
    let config = stream::Config { name: "ballast".to_owned(), ..stream::Config::default() };
    let ballast = context.create_stream(config).await.expect("a stream");
    let mut messages = 0;
    while context.publish("ballast", vec![0; 1_000_000].into()).await.expect("it is sent").await.is_ok() {
        messages += 1;
        assert!(messages < 100, "NATS has no limit");
    }
    // The server believes from time to time that there may be space again, until a publish shows that there is none.
    until("that it is not ready", async || {
        let refused = cluster.publish_once(&node, "k", "refused").await.expect("an answer");
        assert_eq!(refused.status(), 507);
        let problem: serde_json::Value = refused.json().await.expect("JSON");
        assert_eq!(problem["code"], "disk_full", "{problem}");
        !is_ready(&node).await
    })
    .await;
    let mut replay = node.subscribe("topic=a&since=all").await;
    assert_eq!(replay.next().await.expect("an event").data, "before");
    ballast.purge().await.expect("it is emptied");
    cluster.publish(&node, "a", "after").await;
    assert!(is_ready(&node).await);
    let received: Vec<_> = stream.take(2).await.into_iter().map(|block| block.data).collect();
    assert_eq!(received, ["before", "after"]);
    assert_eq!(replay.next().await.expect("an event").data, "after");
}

#[tokio::test]
async fn on_a_full_disk_nats_answers_nothing_and_the_server_is_not_ready() {
    // Goal: NATS does not answer publishes that it cannot write, and says otherwise that it is well. The server says that
    // it is not ready. NATS writes again after a restart with more space; then nothing acknowledged is lost.
    let Some(nats) = own_nats(1_000_000_000_000_000) else { return };
    nats.kill();
    std::fs::remove_dir_all(nats.store()).expect("nothing is stored");
    let Some(disk) = SmallDisk::mount(nats.store(), "size=16m") else {
        return left_out("mounting a small file system needs root");
    };
    nats.restart();
    let cluster = Cluster::on(&nats);
    let node = Process::start(&cluster.settings(&[("TIDINGS__CLUSTER__ACK_TIMEOUT", "500ms")])).await;
    until("readiness", async || is_ready(&node).await).await;
    let (mut published, content) = (Vec::new(), "x".repeat(300_000));
    let refused = loop {
        let answer = cluster.publish_once(&node, &published.len().to_string(), &content).await.expect("an answer");
        if answer.status() != 200 {
            break answer;
        }
        let body: serde_json::Value = answer.json().await.expect("JSON");
        published.push(body["id"].as_str().expect("an id").to_owned());
        assert!(published.len() < 100, "16 MiB do not hold this");
    };
    assert_eq!(refused.status(), 503);
    assert!(published.len() > 10 && !is_ready(&node).await, "{}", published.len());
    nats.kill();
    disk.grow("64m");
    nats.restart();
    until("an acknowledgement", async || {
        cluster.publish_once(&node, "after", "after").await.expect("an answer").status() == 200
    })
    .await;
    assert!(is_ready(&node).await);
    let held: Vec<_> = held(&node, "after").await.into_iter().map(|(id, _)| id).collect();
    assert_eq!(held[..published.len()], published);
}

#[tokio::test]
async fn a_stream_that_was_restored_from_a_copy_ends_the_processes() {
    // Goal: positions never get other events under the same ids. Each process ends with the code of a failed log, and
    // says why. The next one serves what the copy has, in a new epoch, and tells all earlier clients.
    let Some(nats) = own_nats(1_000_000_000_000_000) else { return };
    let cluster = Cluster::on(&nats);
    let mut nodes = [cluster.node().await, cluster.node().await];
    let kept = cluster.publish(&nodes[0], "a", "kept").await;
    nats.kill();
    nats.save();
    nats.restart();
    for n in 0..3 {
        until("an acknowledgement", async || {
            let lost = cluster.publish_once(&nodes[0], &n.to_string(), &format!("lost {n}")).await;
            lost.expect("an answer").status() == 200
        })
        .await;
    }
    let lost = cluster.publish(&nodes[1], "a", "lost").await;
    nats.kill();
    nats.put_back();
    nats.restart();
    for node in &mut nodes {
        assert_eq!(node.exit().await.code(), Some(74));
        let (_, errors) = node.last_words().await;
        assert!(errors.contains("not the one of before"), "{errors}");
        // The node that came first has given the stream a new epoch.
        assert!(errors.contains("its last position is") || errors.contains("it was made anew"), "{errors}");
    }
    let next = cluster.node().await;
    for id in [&kept, &lost] {
        let blocks = resume(&next, "topic=a", id).await.take(2).await;
        assert!(blocks[0].event == "broker.gap" && blocks[0].data.contains("reset"), "{blocks:?}");
        assert_eq!(blocks[1].data, "kept");
    }
    let id = cluster.publish(&next, "a", "new").await;
    let epoch = |id: &str| id.split('-').next().map(str::to_owned);
    assert_ne!(epoch(&id), epoch(&lost));
}

#[tokio::test]
async fn after_an_outage_that_is_longer_than_the_stream_keeps_subscribers_are_told() {
    // Goal: a node is paused while the other one publishes more than the stream keeps. Then its subscriber is told of the
    // gap, and goes on with what is left, in order, nothing twice.
    let Some(nats) = own_nats(1_000_000_000_000_000) else { return };
    let cluster = Cluster::on(&nats);
    // So the stream keeps some 80 MiB.
    let small = [("TIDINGS__LOG__TOPIC_BYTES_MAX", "8256KiB"), ("TIDINGS__LOG__BYTES_MAX", "8256KiB")];
    let (paused, other) =
        (Process::start(&cluster.settings(&small)).await, Process::start(&cluster.settings(&small)).await);
    let mut subscriber = paused.subscribe("topic=a").await;
    cluster.publish(&other, "a", "before").await;
    let before = subscriber.next().await.expect("an event");
    assert_eq!(before.data, "before");
    paused.signal("STOP").await;
    let content = "x".repeat(1_000_000);
    let mut published = Vec::new();
    for _ in 0..120 {
        published.push(cluster.publish(&other, "a", &content).await);
    }
    let streams = jetstream(&nats).await;
    let first = streams.get_stream(&cluster.namespace).await.expect("the stream").cached_info().state.first_sequence;
    assert!(first > 20, "the stream has removed events: {first}");
    paused.signal("CONT").await;
    published.push(cluster.publish(&other, "a", "end").await);
    let (mut received, mut gaps) = (Vec::new(), 0);
    while received.last() != published.last() {
        let block = subscriber.next().await.expect("an event");
        if block.event == "broker.gap" {
            assert!(block.data.contains("evicted"), "{}", block.data);
            gaps += 1;
        } else {
            received.push(block.id);
        }
    }
    assert!(gaps > 0 && received.len() < published.len(), "{gaps} gaps, {} events", received.len());
    let mut rest = published.iter();
    assert!(received.iter().all(|id| rest.any(|other| other == id)), "in order, nothing twice: {received:?}");
}
