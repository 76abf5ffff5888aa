//! `Idempotency-Key`: a publisher that is not sure tries again, and nothing is published twice.

use std::{collections::HashSet, time::Duration};

use futures_util::future::join_all;

use tidings::config::Engine;

use crate::{
    harness::{Answer, TestServer, until},
    topics::deletion::delete,
};

/// Publishes `content` to `topic` under `key`.
async fn publish(server: &TestServer, topic: &str, key: &str, content: &str) -> Answer {
    let headers = [("idempotency-key", key), ("content-type", "text/plain")];
    server.ask("POST", &format!("/publish?topic={topic}"), &headers, content.as_bytes()).await
}

fn replayed(answer: &Answer) -> bool {
    answer.ok();
    answer.header("idempotency-replayed").is_some_and(|value| value == "true")
}

/// The ids of all that is held of `topic`, read as a subscriber reads it.
async fn held(server: &TestServer, topic: &str) -> Vec<String> {
    let end = server.publish(topic, "the end").await;
    let mut stream = server.subscribe(&format!("topic={topic}&since=all")).await;
    let mut ids = Vec::new();
    loop {
        let block = stream.next().await.expect("an event");
        if block.id == end {
            return ids;
        }
        ids.push(block.id);
    }
}

#[tokio::test]
async fn a_retry_gets_the_first_answer_and_publishes_nothing() {
    // The same body, id and subscriber count included, although the world has moved on since.
    let server = TestServer::start();
    let stream = server.subscribe("topic=a").await;
    let first = publish(&server, "a", "k1", "hello").await;
    assert!(!replayed(&first), "{first:?}");
    drop(stream);
    server.until_subscribers("a", 0).await;
    let other = server.publish("a", "another").await;
    for _ in 0..3 {
        let again = publish(&server, "a", "k1", "hello").await;
        assert!(replayed(&again), "{again:?}");
        assert_eq!(again.ok(), first.ok());
    }
    assert_eq!(held(&server, "a").await, [first.ok()["id"].as_str().expect("an id").to_owned(), other]);
}

#[tokio::test]
async fn a_key_for_another_event_is_a_conflict() {
    // Other content or another event name under a used key is a mistake that must not pass for a retry.
    let server = TestServer::start();
    publish(&server, "a", "k1", "hello").await.ok();
    publish(&server, "a", "k1", "hello!").await.problem(409, "idempotency_key_reused");
    publish(&server, "a&event=tick", "k1", "hello").await.problem(409, "idempotency_key_reused");
    assert!(replayed(&publish(&server, "a", "k1", "hello").await));
    assert_eq!(held(&server, "a").await.len(), 1);
}

#[tokio::test]
async fn keys_belong_to_their_topic() {
    // The same key in another topic is another event; over several topics a retry is recognised as a whole.
    let server = TestServer::start();
    assert!(!replayed(&publish(&server, "a", "k1", "hello").await));
    assert!(!replayed(&publish(&server, "b", "k1", "hello").await));
    let first = publish(&server, "c&topic=d", "k2", "hello").await;
    let again = publish(&server, "c&topic=d", "k2", "hello").await;
    assert!(!replayed(&first) && replayed(&again));
    assert_eq!(first.ok(), again.ok());
    // One of these topics has it, the other not: the answer is not a replay, and only what was missing is published.
    let partly = publish(&server, "d&topic=e", "k2", "hello").await;
    assert!(!replayed(&partly));
    assert_eq!(partly.ok()["published"][0], first.ok()["published"][1]);
    assert_eq!(held(&server, "d").await.len(), 1);
}

#[tokio::test]
async fn without_a_key_equal_events_are_two() {
    // Nothing is recognised that was not asked to be.
    let server = TestServer::start();
    server.publish("a", "hello").await;
    server.publish("a", "hello").await;
    assert_eq!(held(&server, "a").await.len(), 2);
}

#[tokio::test]
async fn a_key_is_forgotten_after_the_window() {
    // Within `publish.idempotency_window` it is a replay, after it a new event; nothing in between.
    let server = TestServer::with(|config| config.publish.idempotency_window = Duration::from_secs(2));
    let first = publish(&server, "a", "k1", "hello").await.ok();
    assert_eq!(publish(&server, "a", "k1", "hello").await.ok()["id"], first["id"]);
    let mut second = None;
    until("the window's end", async || {
        let answer = publish(&server, "a", "k1", "hello").await;
        second = (!replayed(&answer)).then(|| answer.ok());
        second.is_some()
    })
    .await;
    let ids = [&first["id"], &second.expect("a second event")["id"]].map(|id| id.as_str().expect("an id").to_owned());
    assert_eq!(held(&server, "a").await, ids);
}

#[tokio::test]
async fn a_key_outlives_its_topics_actor() {
    // Once the topic has no subscriber any more and is retired, the retry is still recognised.
    let server = TestServer::with(|config| config.limits.topics_max = 1);
    let stream = server.subscribe("topic=a").await;
    let first = publish(&server, "a", "k1", "hello").await.ok();
    drop(stream);
    until("the topic to be retired", async || server.get("/subscribe?topic=next", &[]).await.status == 200).await;
    let again = publish(&server, "a", "k1", "hello").await;
    assert!(replayed(&again));
    assert_eq!(again.ok(), first);
}

#[tokio::test]
async fn what_several_topics_did_not_refuse_is_named() {
    // Of several topics those that took the event are named, so that a retry need not guess.
    let server = TestServer::start();
    publish(&server, "b", "k1", "other").await.ok();
    let partly = publish(&server, "a&topic=b&topic=c", "k1", "hello").await;
    let problem = partly.problem(409, "idempotency_key_reused");
    let named: Vec<_> = problem["published"].as_array().expect("a list").iter().map(|it| &it["topic"]).collect();
    assert_eq!(named, ["a", "c"], "{problem}");
    assert!(replayed(&publish(&server, "a&topic=c", "k1", "hello").await));
}

#[tokio::test]
async fn as_many_keys_are_remembered_as_configured() {
    // `publish.idempotency_keys_max` keys, no fewer.
    for keys_max in [1, 2, 5] {
        let server = TestServer::with(|config| config.publish.idempotency_keys_max = keys_max);
        for n in 0..keys_max {
            assert!(!replayed(&publish(&server, "a", &format!("k{n}"), "hello").await));
        }
        for n in 0..keys_max {
            let again = publish(&server, "a", &format!("k{n}"), "hello").await;
            assert!(replayed(&again), "key {n} of {keys_max} was forgotten");
        }
        assert_eq!(held(&server, "a").await.len(), keys_max);
    }
}

#[tokio::test]
async fn past_the_most_keys_the_oldest_is_forgotten() {
    // Memory is bounded: one key more than `publish.idempotency_keys_max` costs the oldest, and no other.
    let server = TestServer::with(|config| config.publish.idempotency_keys_max = 3);
    for n in 0..4 {
        assert!(!replayed(&publish(&server, "a", &format!("k{n}"), "hello").await));
    }
    for n in [3, 2, 1] {
        assert!(replayed(&publish(&server, "a", &format!("k{n}"), "hello").await), "key {n}");
    }
    assert!(!replayed(&publish(&server, "a", "k0", "hello").await), "key 0 should have been forgotten");
}

#[tokio::test]
async fn concurrent_retries_publish_once() {
    // Many at the same time under one key: exactly one event, one first answer, the same id for all.
    let server = TestServer::start();
    for round in 0..5 {
        let key = format!("k{round}");
        let answers = join_all((0..40).map(|_| publish(&server, "a", &key, "hello"))).await;
        let firsts = answers.iter().filter(|answer| !replayed(answer)).count();
        let ids: HashSet<_> = answers.iter().map(|answer| answer.ok()["id"].to_string()).collect();
        assert_eq!((firsts, ids.len()), (1, 1));
    }
    assert_eq!(held(&server, "a").await.len(), 5);
}

#[tokio::test]
async fn the_key_has_a_form() {
    // 1 to 128 printable ASCII characters, the longest included.
    let server = TestServer::start();
    assert!(!replayed(&publish(&server, "a", &"k".repeat(128), "hello").await));
    assert!(replayed(&publish(&server, "a", &"k".repeat(128), "hello").await));
    publish(&server, "a", &"k".repeat(129), "hello").await.problem(400, "bad_idempotency_key");
    publish(&server, "a", "", "hello").await.problem(400, "bad_idempotency_key");
    publish(&server, "a", "caf\u{e9}", "hello").await.problem(400, "bad_idempotency_key");
    assert_eq!(held(&server, "a").await.len(), 1);
}

#[tokio::test]
async fn a_refused_publish_leaves_its_key_unused() {
    // A key that came with bad input may be used again once the input is right.
    let server = TestServer::start();
    publish(&server, "a&event=broker.x", "k1", "hello").await.problem(400, "bad_event");
    assert!(!replayed(&publish(&server, "a", "k1", "hello").await));
}

#[tokio::test]
async fn a_deletion_forgets_the_keys_of_what_it_deletes() {
    // The event is gone, so its key must not answer for it: the retry publishes anew, and is replayed from then on.
    for engine in [Engine::Memory, Engine::Disk] {
        let server = TestServer::with(|config| config.log.engine = engine);
        let first = publish(&server, "a", "k1", "hello").await.ok();
        delete(&server, "a").await;
        let again = publish(&server, "a", "k1", "hello").await;
        assert!(!replayed(&again), "{engine:?}: {again:?}");
        assert_ne!(again.ok()["id"], first["id"]);
        assert!(replayed(&publish(&server, "a", "k1", "hello").await));
        publish(&server, "a", "k1", "other").await.problem(409, "idempotency_key_reused");
        delete(&server, "a").await;
        // With another event, too: the key is unused.
        assert!(!replayed(&publish(&server, "a", "k1", "other").await));
        assert_eq!(held(&server, "a").await.len(), 1);
    }
}

#[tokio::test]
async fn a_deletion_forgets_the_keys_of_what_is_under_way() {
    // However the moments fall, what a retry after the deletion answers is there.
    for engine in [Engine::Memory, Engine::Disk] {
        let server = TestServer::with(|config| config.log.engine = engine);
        server.publish("a", "known").await;
        for round in 0..50 {
            let key = format!("k{round}");
            let deletion = async {
                delete(&server, "a").await;
                publish(&server, "a", &key, "hello").await.ok()
            };
            let (_, retry) = tokio::join!(publish(&server, "a", &key, "hello"), deletion);
            let topic = server.held("a").await;
            assert_eq!((&topic["events"], &topic["last_id"]), (&1.into(), &retry["id"]), "{engine:?}, round {round}");
        }
    }
}
