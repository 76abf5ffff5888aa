//! A deletion ends the topic's streams, and those that come back are told to stop.

use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Block, Stream, TestServer, until};

pub async fn delete(server: &TestServer, topic: &str) {
    let answer = server.ask("DELETE", &format!("/topics/{topic}"), &[], b"").await;
    assert_eq!((answer.status, answer.body.as_str()), (204, ""), "{answer:?}");
}

/// Event type and data of each block.
pub fn told(blocks: &[Block]) -> Vec<(&str, &str)> {
    blocks.iter().map(|block| (block.event.as_str(), block.data.as_str())).collect()
}

const DELETED_A: (&str, &str) = ("broker.deleted", r#"{"topic":"a"}"#);

/// The status of a reconnect with `id`, as the client of `headers` makes it.
async fn status(server: &TestServer, query: &str, id: &str) -> u16 {
    server.resume(query, id).await.status
}

#[tokio::test]
async fn a_deletion_ends_every_stream_of_the_topic() {
    // Everything published before is delivered, then the notice, then a clean end: in all formats, on all workers.
    let server = TestServer::start();
    let (mut plain, mut envelope, mut lines) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..5 {
        plain.push(server.subscribe("topic=a").await);
        envelope.push(server.subscribe("topic=a&envelope=json").await);
        lines.push(server.get("/subscribe?topic=a", &[("accept", "application/x-ndjson")]).await);
    }
    let mut last = String::new();
    for n in 0..100 {
        last = server.publish("a", &n.to_string()).await;
    }
    delete(&server, "a").await;
    let contents: Vec<_> = (0..100).map(|n| n.to_string()).collect();
    for mut stream in plain {
        let blocks = stream.all().await;
        let mut expected: Vec<_> = contents.iter().map(|content| ("message", content.as_str())).collect();
        expected.push(DELETED_A);
        assert_eq!(told(&blocks), expected);
        // The notice leaves the cursor below the deletion: that is how a reconnect is recognised.
        assert_eq!(stream.last_event_id(), last);
    }
    for mut stream in envelope {
        let blocks = stream.all().await;
        let (notice, events) = blocks.split_last().expect("blocks");
        let data = |block: &Block| serde_json::from_str::<Value>(&block.data).expect("JSON")["data"].clone();
        assert_eq!(events.iter().map(data).collect::<Vec<_>>(), contents);
        assert_eq!(told(std::slice::from_ref(notice)), [DELETED_A]);
    }
    for mut stream in lines {
        let body = stream.rest().await;
        let lines: Vec<Value> = body
            .lines()
            .filter(|line| !line.is_empty())
            .map(|line| serde_json::from_str(line).expect("JSON"))
            .collect();
        let (notice, events) = lines.split_last().expect("lines");
        assert_eq!(events.iter().map(|event| event["data"].clone()).collect::<Vec<_>>(), contents);
        assert_eq!(*notice, json!({"id": null, "event": "broker.deleted", "data": {"topic": "a"}}));
    }
    server.until_subscribers("a", 0).await;
}

#[tokio::test]
async fn a_stream_of_several_topics_goes_on_with_the_next_life_of_a_deleted_one() {
    // It is told which and when, in the order of the log, and ends when all of them are deleted and none lives again.
    for query in ["", "&envelope=json"] {
        let server = TestServer::start();
        let mut stream = server.subscribe(&format!("topic=a&topic=b&topic=c{query}")).await;
        server.publish("a", "a1").await;
        server.publish("b", "b1").await;
        delete(&server, "a").await;
        server.publish("b", "b2").await;
        server.publish("a", "a2").await;
        delete(&server, "b").await;
        delete(&server, "c").await;
        server.publish("a", "a3").await;
        delete(&server, "a").await;
        let blocks = stream.all().await;
        let data = |block: &Block| match query {
            "" => block.data.clone(),
            _ if block.event == "broker.deleted" => block.data.clone(),
            _ => serde_json::from_str::<Value>(&block.data).expect("JSON")["data"].as_str().expect("data").to_owned(),
        };
        let data: Vec<_> = blocks.iter().map(data).collect();
        let [a, b, c] = ["a", "b", "c"].map(|topic| json!({"topic": topic}).to_string());
        assert_eq!(data, ["a1", "b1", &a, "b2", "a2", &b, &c, "a3", &a]);
        for topic in ["a", "b", "c"] {
            server.until_subscribers(topic, 0).await;
        }
        assert_eq!(status(&server, "topic=a&topic=b&topic=c", &blocks[0].id).await, 204);
    }
}

#[tokio::test]
async fn a_stream_of_several_topics_is_counted_in_a_deleted_one() {
    // It is still a subscriber of the topic: of its next life.
    let server = TestServer::with(|config| config.limits.subscribers_per_topic_max = 1);
    let mut stream = server.subscribe("topic=a&topic=b").await;
    delete(&server, "a").await;
    assert_eq!(told(&stream.take(1).await), [DELETED_A]);
    assert_eq!(server.held("a").await["subscribers"], 1);
    server.ask("GET", "/subscribe?topic=a", &[], b"").await.problem(503, "too_many_subscribers");
    let answer = server.ask("GET", "/publish?topic=a&content=next", &[], b"").await.ok();
    assert_eq!(answer["subscribers"], 1);
    assert_eq!(told(&stream.take(1).await), [("message", "next")]);
    drop(stream);
    server.until_subscribers("a", 0).await;
}

#[tokio::test]
async fn a_reconnect_with_an_old_cursor_is_told_to_stop() {
    // 204 is what makes an EventSource close; from an event seen, from before the first, and for every kind of client.
    let server = TestServer::start();
    let before = server.publish("elsewhere", "x").await;
    let first = server.publish("a", "one").await;
    let last = server.publish("a", "two").await;
    delete(&server, "a").await;
    for cursor in [&before, &first, &last] {
        for accept in ["text/event-stream", "application/x-ndjson", "*/*"] {
            let headers = [("accept", accept), ("last-event-id", cursor.as_str())];
            let answer = server.ask("GET", "/subscribe?topic=a", &headers, b"").await;
            assert_eq!((answer.status, answer.body.as_str()), (204, ""), "{answer:?}");
        }
        assert_eq!(server.subscribe(&format!("topic=a&lastEventId={cursor}")).await.status, 204);
    }
    server.until_subscribers("a", 0).await;
}

#[tokio::test]
async fn a_reconnect_of_several_topics_is_told_and_goes_on() {
    // Of a deletion first, then all that is held, next lives included; with all of its topics deleted, and none of them
    // alive again, it is a 204.
    let server = TestServer::start();
    let first = server.publish("b", "b1").await;
    server.publish("a", "a1").await;
    delete(&server, "a").await;
    server.publish("b", "b2").await;
    let mut early = server.resume("topic=a&topic=b", &first).await;
    server.publish("a", "a2").await;
    let mut late = server.resume("topic=a&topic=b", &first).await;
    for stream in [&mut early, &mut late] {
        assert_eq!(stream.status, 200);
        assert_eq!(told(&stream.take(3).await), [DELETED_A, ("message", "b2"), ("message", "a2")]);
    }
    delete(&server, "b").await;
    assert_eq!(status(&server, "topic=a&topic=b", &first).await, 200, "a lives");
    delete(&server, "a").await;
    assert_eq!(status(&server, "topic=a&topic=b", &first).await, 204);
    assert_eq!(status(&server, "topic=a&topic=b&topic=c", &first).await, 200, "c was not deleted");
    for mut stream in [early, late] {
        assert_eq!(told(&stream.all().await), [("broker.deleted", r#"{"topic":"b"}"#), DELETED_A]);
    }
}

#[tokio::test]
async fn a_reconnect_after_a_notice_misses_nothing_of_the_next_life() {
    // Cut right behind the notice, or behind an event after it: the next life is complete, over both streams.
    let server = TestServer::start();
    let mut stream = server.subscribe("topic=a&topic=b").await;
    let last = server.publish("a", "a1").await;
    delete(&server, "a").await;
    assert_eq!(told(&stream.take(2).await), [("message", "a1"), DELETED_A]);
    assert_eq!(stream.last_event_id(), last);
    server.publish("a", "a2").await;
    let mut back = server.resume("topic=a&topic=b", &last).await;
    assert_eq!(told(&back.take(2).await), [DELETED_A, ("message", "a2")]);
    assert_eq!(told(&stream.take(1).await), [("message", "a2")]);
    let cursor = stream.last_event_id().to_owned();
    drop(stream);
    server.publish("a", "a3").await;
    let mut back = server.resume("topic=a&topic=b", &cursor).await;
    assert_eq!(told(&back.take(1).await), [("message", "a3")]);
}

#[tokio::test]
async fn the_next_life_of_a_topic_is_open_to_new_subscribers() {
    // Without a cursor, or with one from after the deletion: only the clients of the old life are told to stop.
    let server = TestServer::start();
    let old = server.publish("a", "old").await;
    delete(&server, "a").await;
    let mut fresh = server.subscribe("topic=a").await;
    let mut all = server.subscribe("topic=a&since=all").await;
    assert_eq!((fresh.status, all.status), (200, 200));
    let new = server.publish("a", "new").await;
    let later = server.publish("a", "later").await;
    for stream in [&mut fresh, &mut all, &mut server.resume("topic=a", &new).await] {
        let blocks = stream.take(1).await;
        let expected = if blocks[0].id == later { "later" } else { "new" };
        assert_eq!(told(&blocks), [("message", expected)]);
    }
    assert_eq!(status(&server, "topic=a", &old).await, 204);
    let joined = server.subscribe("topic=a").await;
    assert_eq!(status(&server, "topic=a", joined.header("last-event-id").expect("an id")).await, 200);
    let topic = server.ask("GET", "/topics/a", &[], b"").await.ok();
    assert_eq!((&topic["first_id"], &topic["events"]), (&json!(new), &json!(2)));
}

#[tokio::test]
async fn what_was_deleted_is_not_replayed() {
    // No way to begin a stream brings back an event of the life before.
    let server = TestServer::start();
    server.publish("a", "secret").await;
    delete(&server, "a").await;
    server.publish("a", "new").await;
    for query in ["topic=a&since=all", "topic=a&last=10"] {
        let mut stream = server.subscribe(query).await;
        if query.contains("since=1h") || query.contains("since=0") {
            // Since a time means all that there was since then, and some of it is gone.
            assert_eq!(stream.next().await.expect("a notice").event, "broker.gap", "{query}");
        }
        assert_eq!(told(&stream.take(1).await), [("message", "new")], "{query}");
    }
    for query in ["topic=a&since=1h", "topic=a&since=0"] {
        let mut stream = server.subscribe(query).await;
        assert_eq!(stream.next().await.expect("a notice").event, "broker.gap", "{query}: it is gone since then");
        assert_eq!(told(&stream.take(1).await), [("message", "new")], "{query}");
    }
    for cursor in ["rubbish", "00000000-1"] {
        let mut stream = server.resume("topic=a", cursor).await;
        assert_eq!(stream.next().await.expect("a notice").event, "broker.gap");
        assert_eq!(told(&stream.take(1).await), [("message", "new")], "{cursor}");
    }
}

#[tokio::test]
async fn after_a_while_an_old_cursor_is_a_gap() {
    // Once `stream.gone` is over a client that comes back is a subscriber like any other, and told what it missed.
    let server = TestServer::with(|config| config.stream.gone = Duration::from_secs(2));
    let seen = server.publish("a", "one").await;
    server.publish("a", "two").await;
    delete(&server, "a").await;
    assert_eq!(status(&server, "topic=a", &seen).await, 204);
    let mut back: Option<Stream> = None;
    until("the end of `gone`", async || {
        let stream = server.resume("topic=a", &seen).await;
        assert!(matches!(stream.status, 200 | 204));
        back = (stream.status == 200).then_some(stream);
        back.is_some()
    })
    .await;
    let mut stream = back.expect("a stream");
    let notice: Value = serde_json::from_str(&stream.next().await.expect("a notice").data).expect("JSON");
    assert_eq!((&notice["reason"], &notice["requested"]), (&json!("evicted"), &json!(seen)));
    server.publish("a", "new").await;
    assert_eq!(told(&stream.take(1).await), [("message", "new")]);
}

#[tokio::test]
async fn without_gone_nobody_is_told_to_stop() {
    // `stream.gone = 0s` ends the streams and forgets the history, and no more.
    let server = TestServer::with(|config| config.stream.gone = Duration::ZERO);
    let seen = server.publish("elsewhere", "x").await;
    let mut stream = server.subscribe("topic=a").await;
    server.publish("a", "one").await;
    delete(&server, "a").await;
    assert_eq!(told(&stream.all().await), [("message", "one"), DELETED_A]);
    let mut stream = server.resume("topic=a", &seen).await;
    assert_eq!(stream.status, 200);
    assert_eq!(stream.next().await.expect("a notice").event, "broker.gap");
}

#[tokio::test]
async fn a_deletion_during_publishes_cuts_cleanly() {
    // Whatever the moment: each stream gets a prefix of the events without a hole, the notice, and the end.
    let server = TestServer::start();
    for round in 0..10 {
        let topic = format!("t{round}");
        let mut streams = Vec::new();
        for _ in 0..4 {
            streams.push(server.subscribe(&format!("topic={topic}")).await);
        }
        let publishes = async {
            for n in 0..30 {
                server.publish(&topic, &n.to_string()).await;
            }
        };
        let deletion = async {
            until("some events", async || streams[0].read().await && streams[0].pending() > 5).await;
            delete(&server, &topic).await;
        };
        tokio::join!(publishes, deletion);
        for mut stream in streams {
            let blocks = stream.all().await;
            let (notice, events) = blocks.split_last().expect("blocks");
            assert_eq!(notice.event, "broker.deleted");
            let contents: Vec<_> = events.iter().map(|block| block.data.clone()).collect();
            assert_eq!(contents, (0..events.len()).map(|n| n.to_string()).collect::<Vec<_>>());
            assert_eq!(status(&server, &format!("topic={topic}"), stream.last_event_id()).await, 204);
        }
    }
}
