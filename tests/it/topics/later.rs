//! Streams that begin before a deletion in the log but after it in time: they belong to the topic's next life.

use std::time::Duration;

use super::deletion::{delete, told};
use crate::harness::{TestServer, until};

#[tokio::test]
async fn a_new_stream_of_several_topics_keeps_the_reborn_one() {
    // History of `b` from before the deletion of `a` must not make a fresh subscriber lose `a`.
    let server = TestServer::start();
    server.publish("b", "b1").await;
    server.publish("a", "a1").await;
    delete(&server, "a").await;
    server.publish("a", "a2").await;
    for query in ["since=all", "since=1h", "last=10"] {
        let mut stream = server.subscribe(&format!("topic=a&topic=b&{query}")).await;
        if query == "since=1h" {
            assert_eq!(stream.next().await.expect("a notice").event, "broker.gap", "a1 is gone since then");
        }
        assert_eq!(told(&stream.take(2).await), [("message", "b1"), ("message", "a2")], "{query}");
        assert_eq!(stream.status, 200);
        let id = server.publish("a", "live").await;
        assert_eq!(stream.next().await.expect("an event").id, id, "{query}");
        delete(&server, "a").await;
        server.publish("a", "a2").await;
    }
}

#[tokio::test]
async fn a_cursor_of_no_use_keeps_the_reborn_topic() {
    // After a gap a stream begins with everything held, of all of its topics.
    let server = TestServer::start();
    server.publish("b", "b1").await;
    server.publish("a", "a1").await;
    delete(&server, "a").await;
    server.publish("a", "a2").await;
    let mut stream = server.resume("topic=a&topic=b", "rubbish").await;
    assert_eq!(stream.next().await.expect("a notice").event, "broker.gap");
    assert_eq!(told(&stream.take(2).await), [("message", "b1"), ("message", "a2")]);
}

#[tokio::test]
async fn after_gone_an_old_cursor_keeps_the_reborn_topic() {
    // The gap has told of what is missing; what is held of either topic follows.
    let server = TestServer::with(|config| config.stream.gone = Duration::ZERO);
    let first = server.publish("b", "b1").await;
    server.publish("b", "b2").await;
    server.publish("a", "a1").await;
    delete(&server, "a").await;
    server.publish("a", "a2").await;
    let mut stream = server.resume("topic=a&topic=b", &first).await;
    assert_eq!(stream.next().await.expect("a notice").event, "broker.gap");
    assert_eq!(told(&stream.take(2).await), [("message", "b2"), ("message", "a2")]);
}

#[tokio::test]
async fn a_subscriber_counts_for_as_long_as_it_is_served() {
    // A deletion frees the places of the streams that it ends as they end; those of the next life are their own.
    let server = TestServer::with(|config| config.limits.subscribers_per_topic_max = 2);
    for life in ["first", "second"] {
        let mut streams = [server.subscribe("topic=a").await, server.subscribe("topic=a").await];
        assert!(streams.iter().all(|stream| stream.status == 200), "{life}");
        server.ask("GET", "/subscribe?topic=a", &[], b"").await.problem(503, "too_many_subscribers");
        server.publish("a", life).await;
        delete(&server, "a").await;
        for stream in &mut streams {
            assert_eq!(told(&stream.all().await), [("message", life), ("broker.deleted", r#"{"topic":"a"}"#)]);
        }
        server.until_subscribers("a", 0).await;
    }
}

#[tokio::test]
async fn a_deletion_is_remembered_while_nobody_is_there() {
    // The topic has no subscriber and no event left, and still is not forgotten before `gone` is over.
    let server = TestServer::with(|config| config.limits.topics_max = 2);
    let seen = server.publish("a", "x").await;
    delete(&server, "a").await;
    drop(server.subscribe("topic=passing").await);
    // The registry has looked for idle topics when the other one's place is free.
    until("a round of the registry", async || server.get("/subscribe?topic=next", &[]).await.status == 200).await;
    assert_eq!(server.resume("topic=a", &seen).await.status, 204);
}
