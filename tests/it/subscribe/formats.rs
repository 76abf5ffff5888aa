//! `envelope=json` and NDJSON.

use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Stream, TestServer};

const NDJSON: [(&str, &str); 1] = [("accept", "application/x-ndjson")];

/// The next line that is not a heartbeat, as JSON.
async fn line(stream: &mut Stream, taken: &mut usize) -> Value {
    loop {
        let end = stream.body[*taken..].iter().position(|b| *b == b'\n');
        if let Some(end) = end {
            let line = stream.body[*taken..*taken + end].to_vec();
            *taken += end + 1;
            if line.is_empty() {
                continue;
            }
            return serde_json::from_slice(&line).expect("a line of JSON");
        }
        assert!(stream.read().await, "the stream ended");
    }
}

/// Takes `time` out of an event and checks its form; it is the one member that a test cannot know.
#[track_caller]
fn without_time(mut event: Value) -> Value {
    let time = event.as_object_mut().and_then(|event| event.remove("time")).expect("a time");
    let time = time.as_str().expect("text");
    assert!(humantime::parse_rfc3339(time).is_ok() && time.len() == "2026-11-21T01:24:43.123Z".len(), "{time}");
    event
}

const CONTENTS: [&str; 5] = ["plain", "", "a\r\nb\rc\nd", "\u{2028}\0\u{feff} 订 \"\\", "{\"a\":1}"];

#[tokio::test]
async fn an_envelope_says_which_topic_spoke() {
    // id, topic, event, time and the content to the last byte; the event's name and id still are the stream's own.
    let server = TestServer::start();
    let mut stream = server.subscribe("topic=a&topic=b&envelope=json").await;
    for (n, content) in CONTENTS.iter().enumerate() {
        let (topic, name) = if n % 2 == 0 { ("a", None) } else { ("b", Some("tick")) };
        let body = json!({"topic": topic, "event": name, "content": content}).to_string();
        let headers = [("content-type", "application/json")];
        let id = server.ask("POST", "/publish", &headers, body.as_bytes()).await.ok()["id"].clone();
        let block = stream.next().await.expect("an event");
        assert_eq!((block.event.as_str(), json!(block.id)), (name.unwrap_or("message"), id.clone()));
        let envelope: Value = serde_json::from_str(&block.data).expect("JSON");
        let members: Vec<_> = envelope.as_object().expect("an object").keys().cloned().collect();
        assert_eq!(members, ["id", "topic", "event", "time", "data"]);
        assert_eq!(without_time(envelope), json!({"id": id, "topic": topic, "event": name, "data": content}));
    }
}

#[tokio::test]
async fn formats_do_not_mix() {
    // Subscribers of one topic in all three formats each get theirs; `envelope=none` is plain.
    let server = TestServer::start();
    let mut plain = server.subscribe("topic=a&envelope=none").await;
    let mut envelope = server.subscribe("topic=a&envelope=json").await;
    let mut lines = server.get("/subscribe?topic=a", &NDJSON).await;
    let mut taken = 0;
    for n in 0..10 {
        let content = format!("event {n}");
        server.publish("a", &content).await;
        assert_eq!(plain.next().await.expect("an event").data, content);
        let enveloped: Value = serde_json::from_str(&envelope.next().await.expect("an event").data).expect("JSON");
        assert_eq!(enveloped["data"], content);
        assert_eq!(line(&mut lines, &mut taken).await, enveloped);
    }
}

#[tokio::test]
async fn ndjson_is_one_object_a_line() {
    // The same stream for services and `jq`: the same members, the same cursors, a blank line at once, whatever the marks.
    let server = TestServer::start();
    let before = server.publish("elsewhere", "x").await;
    let mut stream = server.get("/subscribe?topic=a&topic=b", &NDJSON).await;
    assert_eq!((stream.status, stream.header("content-type")), (200, Some("application/x-ndjson")));
    assert_eq!(stream.header("last-event-id"), Some(before.as_str()));
    assert_eq!(stream.header("cache-control"), Some("no-cache, no-transform"));
    let mut taken = 0;
    for content in CONTENTS {
        let id = server.publish("b", content).await;
        let event = without_time(line(&mut stream, &mut taken).await);
        assert_eq!(event, json!({"id": id, "topic": "b", "event": null, "data": content}));
    }
    assert!(stream.body.starts_with(b"\n{"));
    for (headers, query) in [
        (vec![("accept", "application/x-ndjson"), ("last-event-id", before.as_str())], "topic=b"),
        (vec![("accept", "text/html, Application/X-NDJSON; q=0.9")], "topic=b&since=all"),
        (vec![("accept", "text/html"), ("accept", "application/x-ndjson")], "topic=b&last=5"),
    ] {
        let mut stream = server.get(&format!("/subscribe?{query}"), &headers).await;
        let mut taken = 0;
        for content in CONTENTS {
            assert_eq!(line(&mut stream, &mut taken).await["data"], content, "{query}");
        }
    }
}

#[tokio::test]
async fn the_weights_of_accept_count() {
    // What is wanted more is given; who refuses event streams is not told of a refusal in one.
    let server = TestServer::with(|config| config.limits.subscribers_per_topic_max = 1);
    let _full = server.subscribe("topic=full").await;
    for (accept, media_type, status) in [
        ("application/x-ndjson;q=0.5, text/event-stream", "text/event-stream; charset=utf-8", 200),
        ("application/x-ndjson, text/event-stream;q=0.5", "application/x-ndjson", 503),
        ("application/x-ndjson;q=0.5, */*", "text/event-stream; charset=utf-8", 503),
        ("text/event-stream;q=0.1", "text/event-stream; charset=utf-8", 200),
        ("text/event-stream;q=0", "text/event-stream; charset=utf-8", 503),
        ("text/event-stream;q=0, */*", "application/x-ndjson", 503),
    ] {
        let headers = [("accept", accept)];
        let stream = server.get("/subscribe?topic=a", &headers).await;
        assert_eq!((stream.status, stream.header("content-type")), (200, Some(media_type)), "{accept}");
        assert_eq!(server.ask("GET", "/subscribe?topic=full", &headers, b"").await.status, status, "{accept}");
        drop(stream);
        server.until_subscribers("a", 0).await;
    }
}

#[tokio::test]
async fn ndjson_tells_of_gaps() {
    // A line like any other, with the notice as an object.
    let server = TestServer::with(|config| config.log.topic_events_max = 1);
    let first = server.publish("a", "one").await;
    let second = server.publish("a", "two").await;
    server.publish("a", "three").await;
    let mut stream = server.get("/subscribe?topic=a", &[NDJSON[0], ("last-event-id", &first)]).await;
    let mut taken = 0;
    let notice = json!({"reason": "evicted", "requested": first, "resumed_after": second});
    let expected = json!({"id": second, "event": "broker.gap", "data": notice});
    assert_eq!(line(&mut stream, &mut taken).await, expected);
    assert_eq!(line(&mut stream, &mut taken).await["data"], "three");
}

#[tokio::test]
async fn ndjson_heartbeats_are_blank_lines() {
    // One every `stream.heartbeat`, nothing else, and events still come whole between them.
    let server = TestServer::with(|config| config.stream.heartbeat = Duration::from_millis(50));
    let mut stream = server.get("/subscribe?topic=a", &NDJSON).await;
    while stream.body.len() < 4 {
        assert!(stream.read().await);
    }
    assert!(stream.body.iter().all(|b| *b == b'\n'), "{:?}", stream.body);
    server.publish("a", "x").await;
    assert_eq!(line(&mut stream, &mut 0).await["data"], "x");
}
