//! `GET /subscribe`.

use std::collections::HashSet;

use crate::harness::{Block, Stream, TestServer};

mod cors;
mod cursors;
mod ends;
mod formats;
mod gaps;
mod lifetime;
mod origins;

/// The data of each block.
fn data(blocks: &[Block]) -> Vec<&str> {
    blocks.iter().map(|block| block.data.as_str()).collect()
}

/// Reads until the body holds `n` blank lines, and gives it.
async fn blocks_of_text(stream: &mut Stream, n: usize) -> String {
    loop {
        let text = String::from_utf8(stream.body.clone()).expect("UTF-8");
        if text.matches("\n\n").count() >= n {
            return text;
        }
        assert!(stream.read().await, "the stream ended: {text}");
    }
}

#[tokio::test]
async fn a_stream_begins_as_promised() {
    // Status, headers and first bytes, to the letter: what proxies, browsers and clients rely on.
    let server = TestServer::start();
    let last = server.publish("elsewhere", "x").await;
    let mut stream = server.subscribe("topic=a").await;
    assert_eq!(stream.status, 200);
    let headers = [
        ("content-type", Some("text/event-stream; charset=utf-8")),
        ("cache-control", Some("no-cache, no-transform")),
        ("x-accel-buffering", Some("no")),
        ("x-content-type-options", Some("nosniff")),
        ("connection", Some("close")),
        ("content-length", None),
        ("transfer-encoding", Some("chunked")),
        ("content-encoding", None),
        ("last-event-id", Some(last.as_str())),
    ];
    for (name, value) in headers {
        assert_eq!(stream.header(name), value, "{name}: {:?}", stream.headers);
    }
    let text = blocks_of_text(&mut stream, 1).await;
    let retry = stream.retry().expect("a reconnection time");
    let data = format!("{{\"cursor\":\"{last}\",\"topics\":[\"a\"],\"heartbeat_ms\":15000}}");
    let opening = |marks: &str| match marks {
        "" | "event" => format!("event: broker.open\ndata: {data}\nid: {last}\n\n"),
        "id" => format!("id: {last}\n\n"),
        _ => String::new(),
    };
    assert_eq!(text, format!(": tidings\nretry: {retry}\n{}", opening("")));
    assert_eq!((stream.pending(), stream.last_event_id()), (0, last.as_str()));
    for marks in ["event", "id", "none"] {
        let stream = server.subscribe(&format!("topic=a&marks={marks}")).await;
        let text = String::from_utf8(stream.body.clone()).expect("UTF-8");
        let (_, rest) =
            text.strip_prefix(": tidings\nretry: ").and_then(|rest| rest.split_once('\n')).expect("a retry");
        assert_eq!(rest, opening(marks), "{marks}");
    }
}

#[tokio::test]
async fn a_stream_of_an_older_client_is_not_chunked() {
    // HTTP/1.0 knows no chunks: the same blocks, as they are, up to the end of the connection.
    let server = TestServer::start();
    let mut stream = server.send(b"GET /subscribe?topic=a HTTP/1.0\r\nAccept: text/event-stream\r\n\r\n").await;
    assert_eq!((stream.status, stream.header("transfer-encoding")), (200, None));
    assert!(stream.body.starts_with(b": tidings\nretry: "), "{:?}", stream.body);
    for content in ["one", "two\nlines"] {
        let id = server.publish("a", content).await;
        let block = stream.next().await.expect("an event");
        assert_eq!((block.id, block.data.as_str()), (id, content));
    }
    assert_eq!(server.ask("DELETE", "/topics/a", &[], b"").await.status, 204);
    assert_eq!(stream.all().await.last().expect("an event").event, "broker.deleted");
}

#[tokio::test]
async fn every_block_is_a_chunk() {
    // A client that hands on what is in a chunk has every event at once, and one that was cut can tell it from an end.
    let server = TestServer::start();
    for query in ["topic=a", "topic=a&envelope=json", "topic=a&topic=b"] {
        let mut stream = server.subscribe(query).await;
        for content in ["", "x", "two\nlines", &"long ".repeat(100_000)] {
            server.publish("a", content).await;
            stream.next().await.expect("an event");
        }
        let chunks = stream.chunks.as_ref().expect("it is chunked");
        assert_eq!((chunks.sizes.len(), chunks.ended), (5, false), "{query}: the opening, and each event");
    }
}

#[tokio::test]
async fn the_first_bytes_come_at_once() {
    // On a server where nothing was ever published, too: a client that drops at once resumes from where it joined.
    let server = TestServer::start();
    let mut stream = server.subscribe("topic=a").await;
    blocks_of_text(&mut stream, 1).await;
    let joined = stream.last_event_id().to_owned();
    assert!(joined.ends_with("-0"), "{joined}");
    drop(stream);
    server.publish("a", "missed").await;
    let mut stream = server.resume("topic=a", &joined).await;
    let block = stream.next().await.expect("an event");
    assert_eq!((block.event.as_str(), block.data.as_str()), ("message", "missed"));
}

#[tokio::test]
async fn reconnection_times_are_jittered() {
    // Each within a fifth of `stream.retry`, and not all the same: clients cut together must not return together.
    let server = TestServer::start();
    let mut retries = HashSet::new();
    for _ in 0..40 {
        let mut stream = server.subscribe("topic=a").await;
        blocks_of_text(&mut stream, 1).await;
        let retry = stream.retry().expect("a reconnection time");
        assert!((2400..=3600).contains(&retry), "{retry}");
        retries.insert(retry);
    }
    assert!(retries.len() > 20, "{retries:?}");
    let spread = retries.iter().max().zip(retries.iter().min()).map(|(most, least)| most - least);
    assert!(spread > Some(600), "{retries:?}");
}

#[tokio::test]
async fn head_answers_as_get_without_subscribing() {
    // The same head, no body, nobody counted, and the end of the connection.
    let server = TestServer::with(|config| config.limits.connections_max = 1);
    let get = server.subscribe("topic=a").await;
    // Which transfer coding a body has is not said where there is none (RFC 9110, section 9.3.2).
    let same = |name: &&(String, String)| !["date", "last-event-id", "transfer-encoding"].contains(&name.0.as_str());
    let mut expected: Vec<_> = get.headers.iter().filter(same).cloned().collect();
    expected.sort();
    for _ in 0..3 {
        let head = server.ask("HEAD", "/subscribe?topic=a", &[("accept", "text/event-stream")], b"").await;
        let mut headers: Vec<_> = head.headers.iter().filter(same).cloned().collect();
        headers.sort();
        assert_eq!((head.status, headers, head.body.as_str()), (200, expected.clone(), ""));
    }
    let lines = server.ask("HEAD", "/subscribe?topic=a", &[("accept", "application/x-ndjson")], b"").await;
    assert_eq!(lines.header("content-type"), Some("application/x-ndjson"));
    assert_eq!(server.ask("HEAD", "/subscribe", &[], b"").await.status, 400);
    server.until_subscribers("a", 1).await;
}

#[tokio::test]
async fn bad_parameters_are_refused() {
    // 400 with a code, before anything is subscribed; on the first request only a programmer can have got them wrong.
    let server = TestServer::start();
    let long = format!("topic={}", "t".repeat(256));
    let many = vec!["topic=a"; 129].join("&");
    let cases = [
        ("", "topic_missing"),
        ("topics=a", "unknown_parameter"),
        ("topic=", "bad_topic"),
        ("topic=a&topic=", "bad_topic"),
        ("topic=a%0Ab", "bad_topic"),
        (long.as_str(), "bad_topic"),
        (many.as_str(), "too_many_topics_named"),
        ("topic=%ff", "bad_utf8"),
        ("topic=%4", "bad_encoding"),
        ("topic=a&since=", "bad_parameter"),
        ("topic=a&since=yesterday", "bad_parameter"),
        ("topic=a&since=10", ""),
        ("topic=a&since=-10", "bad_parameter"),
        ("topic=a&since=10+parsecs", "bad_parameter"),
        ("topic=a&since=99999999999999999999", "bad_parameter"),
        ("topic=a&since=18446744073709551615", "bad_parameter"),
        ("topic=a&since=2026-13-45T00:00:00Z", "bad_parameter"),
        ("topic=a&last=", "bad_parameter"),
        ("topic=a&last=-1", "bad_parameter"),
        ("topic=a&last=1.5", "bad_parameter"),
        ("topic=a&last=all", "bad_parameter"),
        ("topic=a&last=99999999999999999999", "bad_parameter"),
        ("topic=a&last=1&since=all", "bad_parameter"),
        ("topic=a&last=1&last=2", "repeated"),
        ("topic=a&since=all&since=all", "repeated"),
        ("topic=a&envelope=xml", "bad_parameter"),
        ("topic=a&envelope=", "bad_parameter"),
        ("topic=a&envelope=json&envelope=json", "repeated"),
        ("topic=a&on_gap=ignore", "bad_parameter"),
        ("topic=a&on_gap=fail&on_gap=event", "repeated"),
    ];
    for (query, code) in cases {
        if code.is_empty() {
            assert_eq!(server.subscribe(query).await.status, 200, "{query}");
            continue;
        }
        for accept in ["text/event-stream", "application/x-ndjson", "*/*"] {
            server.ask("GET", &format!("/subscribe?{query}"), &[("accept", accept)], b"").await.problem(400, code);
        }
    }
    server.until_subscribers("a", 0).await;
}

#[tokio::test]
async fn fifty_topics_are_one_stream_in_order() {
    // A subscriber of one topic and one of fifty see the events of theirs, all of them, in the order of the log.
    let server = TestServer::start();
    let topics: Vec<_> = (0..50).map(|n| format!("topic=t{n}")).collect();
    let mut fifty = server.subscribe(&topics.join("&")).await;
    let mut one = server.subscribe("topic=t7").await;
    let mut published = Vec::new();
    for n in 0..200 {
        // Every topic, and some that nobody asked for, in a scattered order.
        let topic = n * 37 % 60;
        let id = server.publish(&format!("t{topic}"), &n.to_string()).await;
        published.push((topic, id, n.to_string()));
    }
    let seen = |wanted: &dyn Fn(i32) -> bool| -> Vec<_> {
        published.iter().filter(|(topic, ..)| wanted(*topic)).map(|(_, id, n)| (id.clone(), n.clone())).collect()
    };
    for (stream, expected) in [(&mut fifty, seen(&|topic| topic < 50)), (&mut one, seen(&|topic| topic == 7))] {
        let blocks = stream.take(expected.len()).await;
        let blocks: Vec<_> = blocks.into_iter().map(|block| (block.id, block.data)).collect();
        assert_eq!(blocks, expected);
        assert_eq!(stream.pending(), 0);
    }
}

#[tokio::test]
async fn a_topic_named_twice_is_subscribed_once() {
    // No event comes twice, and the subscriber counts once.
    let server = TestServer::start();
    let mut stream = server.subscribe("topic=a&topic=b&topic=a").await;
    assert_eq!(server.ask("GET", "/publish?topic=a&content=1", &[], b"").await.ok()["subscribers"], 1);
    server.publish("b", "2").await;
    server.publish("a", "3").await;
    assert_eq!(data(&stream.take(3).await), ["1", "2", "3"]);
}
