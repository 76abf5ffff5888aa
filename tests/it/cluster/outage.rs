//! NATS stops, hangs, or is not there yet.

use std::collections::BTreeMap;

use super::{Cluster, held, is_ready, resume, until};
use crate::harness::{
    Process,
    nats::{Nats, program},
    tools::left_out,
};

/// A NATS that the test may stop; `None` without, which is said.
pub fn own_nats() -> Option<Nats> {
    program().map(Nats::start).map_err(|missing| left_out(&missing)).ok()
}

#[tokio::test]
async fn after_a_crash_of_nats_nothing_acknowledged_is_lost_and_publishing_goes_on() {
    // Goal: NATS is killed while events are published, and starts again on what it has stored. Every publish is retried
    // with its key until it is acknowledged. Then each event is there once, with the acknowledged id, on both nodes,
    // also for a subscriber that was connected all the time.
    let Some(nats) = own_nats() else { return };
    let cluster = Cluster::on(&nats);
    let nodes = [cluster.node().await, cluster.node().await];
    let mut stream = nodes[1].subscribe("topic=a").await;
    let mut acknowledged = BTreeMap::new();
    for n in 0..90 {
        let content = n.to_string();
        if n % 30 == 10 {
            nats.kill();
            let refused = cluster.publish_once(&nodes[0], &content, &content).await.expect("an answer");
            assert_eq!(refused.status(), 503);
            assert!(refused.headers().contains_key("retry-after"));
            assert!(!is_ready(&nodes[0]).await, "it says that it is not ready");
            nats.restart();
        }
        until("an acknowledgement", async || {
            let answer = cluster.publish_once(&nodes[n % 2], &content, &content).await.expect("an answer");
            if answer.status() != 200 {
                return false;
            }
            let body: serde_json::Value = answer.json().await.expect("JSON");
            acknowledged.insert(content.clone(), body["id"].as_str().expect("an id").to_owned());
            true
        })
        .await;
    }
    let expected: Vec<(String, String)> =
        (0..90).map(|n: usize| (acknowledged[&n.to_string()].clone(), n.to_string())).collect();
    for node in &nodes {
        assert_eq!(held(node, "89").await, expected);
        until("readiness", async || is_ready(node).await).await;
    }
    let received: Vec<_> = stream.take(90).await.into_iter().map(|block| (block.id, block.data)).collect();
    assert_eq!(received, expected);
}

#[tokio::test]
async fn an_answer_that_is_late_makes_no_second_event() {
    // Goal: NATS hangs until the server sends the event again on a new connection, and then gets both. It stores one.
    let Some(nats) = own_nats() else { return };
    let cluster = Cluster::on(&nats);
    // Long enough for the new connection, even on a busy machine.
    let mut node = Process::start(&cluster.settings(&[("TIDINGS__CLUSTER__ACK_TIMEOUT", "5s")])).await;
    let before = cluster.publish(&node, "a", "before").await;
    nats.signal("-STOP");
    let (address, client) = (node.url("/publish?topic=a"), cluster.client.clone());
    let publish = tokio::spawn(async move {
        let request = client.post(address).header("content-type", "text/plain").body("once");
        request.send().await.expect("an answer")
    });
    node.until_reported("the client connects anew").await;
    nats.signal("-CONT");
    let answer = publish.await.expect("no panic");
    assert_eq!(answer.status(), 200);
    let body: serde_json::Value = answer.json().await.expect("JSON");
    let once = body["id"].as_str().expect("an id").to_owned();
    let end = cluster.publish(&node, "a", "end").await;
    let expected = [(before, "before".to_owned()), (once, "once".to_owned()), (end, "end".to_owned())];
    assert_eq!(held(&node, "end").await, expected);
}

#[tokio::test]
async fn without_nats_the_server_starts_and_becomes_ready_later() {
    // Goal: a node that starts before NATS is alive, not ready, and refuses publishes. It does not call the ids of its
    // history a reset. When NATS is there, it goes on with that history.
    let Some(nats) = own_nats() else { return };
    let cluster = Cluster::on(&nats);
    let first = cluster.node().await;
    let id = cluster.publish(&first, "a", "before").await;
    let next = cluster.publish(&first, "a", "after").await;
    drop(first);
    nats.kill();
    let node = Process::start(&cluster.settings(&[])).await;
    assert_eq!(reqwest::get(node.url("/healthz")).await.expect("an answer").status(), 200);
    assert!(!is_ready(&node).await);
    assert_eq!(cluster.publish_once(&node, "k", "refused").await.expect("an answer").status(), 503);
    let block = resume(&node, "topic=a", &id).await.next().await.expect("a notice");
    assert!(block.event == "broker.refused" && block.id == id, "{block:?}");
    nats.restart();
    until("readiness", async || is_ready(&node).await).await;
    let block = resume(&node, "topic=a", &id).await.next().await.expect("an event");
    assert_eq!((block.id, block.data.as_str()), (next, "after"));
    assert_eq!(held(&node, "after").await.len(), 2, "the refused event is not published later");
}
