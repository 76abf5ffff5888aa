//! What time does to a stream: heartbeats, and a polite end.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use super::data;
use crate::harness::{DEADLINE, TestServer};

#[tokio::test]
async fn a_heartbeat_moves_the_cursor() {
    // A quiet subscriber is told how far the log has come, so that its cursor does not age out of the history.
    let server = TestServer::with(|config| {
        config.stream.heartbeat = Duration::from_millis(50);
        config.log.topic_events_max = 2;
    });
    let mut quiet = server.subscribe("topic=quiet&marks=id").await;
    let mut last = String::new();
    for n in 0..5 {
        last = server.publish("busy", &n.to_string()).await;
    }
    while quiet.last_event_id() != last {
        assert!(quiet.read().await);
    }
    assert_eq!(quiet.pending(), 0, "a heartbeat dispatches nothing");
    drop(quiet);
    // Of `busy` nothing after that id is missing, and of `quiet` it sees what comes next.
    let mut stream = server.resume("topic=quiet&topic=busy", &last).await;
    server.publish("quiet", "next").await;
    let block = stream.next().await.expect("an event");
    assert_eq!((block.event.as_str(), block.data.as_str()), ("message", "next"));
}

#[tokio::test]
async fn a_heartbeat_is_a_comment_and_nothing_else() {
    // To the letter; one follows another for as long as the stream is idle, none sooner than it should. A blank line would
    // be an empty message to some clients.
    let server = TestServer::with(|config| config.stream.heartbeat = Duration::from_millis(200));
    for marks in ["event", "none"] {
        let begin = Instant::now();
        let mut stream = server.subscribe(&format!("topic=a&marks={marks}")).await;
        while !stream.body.ends_with(b"\n:\n:\n:\n") {
            assert!(stream.read().await);
        }
        assert!(begin.elapsed() >= Duration::from_millis(590), "{:?}", begin.elapsed());
        let sizes = &stream.chunks.as_ref().expect("it is chunked").sizes;
        assert_eq!(sizes[1..], [2, 2, 2], "one chunk each");
        assert_eq!((stream.opening.is_some(), stream.pending()), (marks == "event", 0));
    }
}

#[tokio::test]
async fn a_heartbeat_is_an_id_where_the_cursor_has_moved() {
    // With `marks=id`: an id that would say nothing new is a comment.
    let server = TestServer::with(|config| config.stream.heartbeat = Duration::from_millis(100));
    let mut stream = server.subscribe("topic=a&marks=id").await;
    for _ in 0..3 {
        let moved = server.publish("elsewhere", "x").await;
        let beat = format!("\nid: {moved}\n\n:\n:\n");
        while !stream.body.ends_with(beat.as_bytes()) {
            assert!(stream.read().await);
        }
        let own = server.publish("a", "x").await;
        let beat = format!("\nid: {own}\n\n:\n");
        while !stream.body.ends_with(beat.as_bytes()) {
            assert!(stream.read().await);
        }
        stream.next().await.expect("an event");
    }
}

#[tokio::test]
async fn a_busy_stream_needs_no_heartbeat() {
    // Events are signs of life: a stream that has them more often than `stream.heartbeat` gets nothing else.
    let server = TestServer::with(|config| config.stream.heartbeat = Duration::from_secs(2));
    let mut stream = server.subscribe("topic=a").await;
    let begin = Instant::now();
    let mut n = 0;
    while begin.elapsed() < Duration::from_secs(3) {
        server.publish("a", &n.to_string()).await;
        stream.next().await.expect("an event");
        n += 1;
    }
    let text = String::from_utf8(stream.body.clone()).expect("UTF-8");
    assert_eq!(text.matches("\n\n").count(), n + 1, "{text}");
}

#[tokio::test]
async fn a_stream_that_reaches_its_age_ends_politely() {
    // Every event that there is, then `retry:` and the id to resume with, then a clean end, within the jitter.
    let server = TestServer::with(|config| config.stream.lifetime_max = Duration::from_secs(2));
    let begin = Instant::now();
    let mut stream = server.subscribe("topic=a&marks=id").await;
    server.publish("a", "x").await;
    let last = server.publish("elsewhere", "y").await;
    assert_eq!(data(&stream.all().await), ["x"]);
    let lived = begin.elapsed();
    assert!(lived >= Duration::from_millis(1590), "{lived:?}");
    let retry = stream.retry().expect("a reconnection time");
    assert!((2400..=3600).contains(&retry), "{retry}");
    let text = String::from_utf8(stream.body.clone()).expect("UTF-8");
    assert!(text.ends_with(&format!("\n\nretry: {retry}\nid: {last}\n\n")), "{text}");
    server.until_subscribers("a", 0).await;
}

#[tokio::test]
async fn an_end_after_comments_says_when_to_come_back() {
    // A client of Go's (go-sse) takes comments before the end of a stream for a reason to stop for good, unless a field
    // follows them. After a blank line others would have an empty message.
    let server = TestServer::with(|config| {
        config.stream.heartbeat = Duration::from_millis(100);
        config.stream.lifetime_max = Duration::from_secs(1);
    });
    for marks in ["event", "none"] {
        let mut stream = server.subscribe(&format!("topic=a&marks={marks}")).await;
        assert_eq!(stream.all().await, []);
        let retry = stream.retry().expect("a reconnection time");
        assert!((2400..=3600).contains(&retry), "{retry}");
        let text = String::from_utf8(stream.body.clone()).expect("UTF-8");
        assert!(text.ends_with(&format!("\n:\n:\nretry: {retry}\n")), "{text}");
    }
}

#[tokio::test]
async fn a_client_resumes_over_many_ends_without_loss() {
    // Streams that end every 300 ms while publishers run: the client sees every event once, in order.
    let server = TestServer::with(|config| config.stream.lifetime_max = Duration::from_millis(300));
    let server = Arc::new(server);
    let stop = Arc::new(AtomicBool::new(false));
    let publisher = tokio::spawn({
        let (server, stop) = (Arc::clone(&server), Arc::clone(&stop));
        async move {
            let mut n = 0;
            while !stop.load(Ordering::Relaxed) {
                server.publish(["a", "b"][n % 2], &n.to_string()).await;
                n += 1;
            }
            n
        }
    });
    let (mut cursor, mut seen) = (None::<String>, Vec::new());
    for _ in 0..8 {
        let mut stream = match &cursor {
            None => server.subscribe("topic=a&topic=b&since=all").await,
            Some(id) => server.resume("topic=a&topic=b", id).await,
        };
        seen.extend(stream.all().await);
        cursor = Some(stream.last_event_id().to_owned());
    }
    stop.store(true, Ordering::Relaxed);
    let count = tokio::time::timeout(DEADLINE, publisher).await.expect("an end").expect("no panic");
    let mut stream = server.resume("topic=a&topic=b", &cursor.expect("an id")).await;
    seen.extend(stream.all().await);
    let expected: Vec<_> = (0..count).map(|n| n.to_string()).collect();
    assert_eq!(data(&seen), expected);
}
