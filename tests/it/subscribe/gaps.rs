//! `broker.gap`: what is missing is said, exactly when it is, and what is left follows.

use futures_util::future::join_all;
use serde_json::{Value, json};

use super::data;
use crate::harness::{Block, TestServer, encoded, until};

/// A server that keeps `n` events a topic.
fn keeps(n: usize) -> TestServer {
    TestServer::with(|config| config.log.topic_events_max = n)
}

/// The notice in `block`, which must be a gap.
#[track_caller]
fn gap(block: &Block) -> Value {
    assert_eq!(block.event, "broker.gap", "{block:?}");
    serde_json::from_str(&block.data).expect("JSON")
}

/// The id at `seq` in the history of `id`.
fn at(id: &str, seq: usize) -> String {
    format!("{}-{seq}", id.split('-').next().expect("an epoch"))
}

/// An id of another history than that of `id`.
fn elsewhere(id: &str, seq: usize) -> String {
    at(if id.starts_with("00000000") { "11111111" } else { "00000000" }, seq)
}

#[tokio::test]
async fn an_evicted_cursor_is_told_what_follows() {
    // requested, resumed_after and the block's own id are exact; all that is held follows, and nothing else.
    let server = keeps(3);
    let mut ids = Vec::new();
    for n in 1..=5 {
        ids.push(server.publish("a", &n.to_string()).await);
    }
    let mut stream = server.resume("topic=a", &ids[0]).await;
    let blocks = stream.take(4).await;
    let expected = json!({"reason": "evicted", "requested": ids[0], "resumed_after": ids[1]});
    assert_eq!((gap(&blocks[0]), &blocks[0].id), (expected, &ids[1]));
    assert_eq!(data(&blocks[1..]), ["3", "4", "5"]);
    // The stream goes on, and tells it once.
    server.publish("a", "6").await;
    assert_eq!(data(&stream.take(1).await), ["6"]);
    // The gap's id is a cursor without a gap: a client that drops right after it loses nothing and hears nothing twice.
    let mut stream = server.resume("topic=a", &ids[2]).await;
    assert_eq!(data(&stream.take(3).await), ["4", "5", "6"]);
}

#[tokio::test]
async fn other_topics_do_not_hide_what_they_hold() {
    // Events of a topic that has kept everything come from the cursor on, although another topic of the stream has not.
    let server = keeps(2);
    let first = server.publish("a", "a1").await;
    for (topic, content) in [("b", "b1"), ("a", "a2"), ("a", "a3"), ("b", "b2"), ("a", "a4")] {
        server.publish(topic, content).await;
    }
    let mut stream = server.resume("topic=a&topic=b", &first).await;
    let blocks = stream.take(5).await;
    let expected = json!({"reason": "evicted", "requested": first, "resumed_after": at(&first, 1)});
    assert_eq!(gap(&blocks[0]), expected);
    assert_eq!(data(&blocks[1..]), ["b1", "a3", "b2", "a4"]);
}

#[tokio::test]
async fn a_cursor_from_another_history_is_a_reset() {
    // From another epoch, or ahead of this log: nobody can tell what it has seen, so all that is held follows.
    let server = keeps(3);
    let mut last = String::new();
    for n in 1..=5 {
        last = server.publish("a", &n.to_string()).await;
    }
    let max = usize::MAX;
    for cursor in [elsewhere(&last, 3), elsewhere(&last, 0), at(&last, 6), at(&last, max), elsewhere(&last, max)] {
        let mut stream = server.resume("topic=a", &cursor).await;
        let blocks = stream.take(4).await;
        let expected = json!({"reason": "reset", "requested": cursor, "resumed_after": at(&last, 2)});
        assert_eq!((gap(&blocks[0]), &blocks[0].id), (expected, &at(&last, 2)));
        assert_eq!(data(&blocks[1..]), ["3", "4", "5"]);
    }
    // The cursor at the tail is as good as any.
    let mut stream = server.resume("topic=a", &last).await;
    server.publish("a", "6").await;
    assert_eq!(data(&stream.take(1).await), ["6"]);
}

#[tokio::test]
async fn an_unreadable_cursor_is_never_an_error() {
    // Garbage, long or not ASCII: a browser would stop for good at a 4xx. It is told back, up to a bound.
    let server = TestServer::start();
    let last = server.publish("a", "held").await;
    let long = "x".repeat(30_000);
    let epoch = last.split('-').next().expect("an epoch");
    let shaped =
        [format!("{epoch}-"), format!("{epoch}-01"), format!("{epoch}-1x"), format!("{epoch}-18446744073709551616")];
    let upper = last.to_uppercase();
    let mut cursors = vec!["-", "0", "garbage", "a b", "{\"id\":1}", "订单-1", "é", "\u{feff}", "<b>", &long, &upper];
    cursors.extend(shaped.iter().map(String::as_str));
    for cursor in cursors {
        let in_query = server.subscribe(&format!("topic=a&lastEventId={}", encoded(cursor))).await;
        let in_header = server.resume("topic=a", cursor).await;
        for mut stream in [in_query, in_header] {
            assert_eq!(stream.status, 200, "{cursor}");
            let blocks = stream.take(2).await;
            let gap = gap(&blocks[0]);
            assert_eq!(gap["reason"], "unreadable", "{gap}");
            let told = gap["requested"].as_str().expect("text");
            assert!(cursor.starts_with(told) && told.len() >= cursor.len().min(125), "{cursor}: {told}");
            assert!(told.len() <= 128, "{told}");
            assert_eq!(
                (gap["resumed_after"].as_str(), data(&blocks[1..])),
                (Some(at(&last, 0).as_str()), vec!["held"])
            );
        }
    }
}

#[tokio::test]
async fn a_cursor_of_broken_bytes_is_never_an_error() {
    // Not even one that is no UTF-8, or no percent-encoding: the page that made it would be locked out for good.
    let server = TestServer::start();
    server.publish("a", "held").await;
    for cursor in ["%ff%fe", "%", "100%", "%zz", "%E8%AE"] {
        let mut stream = server.subscribe(&format!("topic=a&lastEventId={cursor}")).await;
        assert_eq!(stream.status, 200, "{cursor}");
        let blocks = stream.take(2).await;
        assert_eq!(
            (gap(&blocks[0])["reason"].as_str(), data(&blocks[1..])),
            (Some("unreadable"), vec!["held"]),
            "{cursor}"
        );
    }
    let head = b"GET /subscribe?topic=a HTTP/1.1\r\nHost: localhost\r\nLast-Event-ID: \xff\xfe-1\r\n\r\n";
    let mut stream = server.send(head).await;
    assert_eq!(stream.status, 200);
    let blocks = stream.take(2).await;
    assert_eq!((gap(&blocks[0])["reason"].as_str(), data(&blocks[1..])), (Some("unreadable"), vec!["held"]));
}

#[tokio::test]
async fn a_client_may_prefer_to_fail() {
    // `on_gap=fail` is 410 with the reason, for an EventSource too: it asked for it. Without a gap it changes nothing.
    let server = keeps(2);
    let mut ids = Vec::new();
    for n in 1..=4 {
        ids.push(server.publish("a", &n.to_string()).await);
    }
    let (reset, ahead) = (elsewhere(&ids[0], 1), at(&ids[0], 99));
    for (cursor, reason) in
        [(ids[0].as_str(), "evicted"), (&reset, "reset"), (&ahead, "reset"), ("rubbish", "unreadable")]
    {
        for accept in ["text/event-stream", "application/x-ndjson", "*/*"] {
            let headers = [("last-event-id", cursor), ("accept", accept)];
            let answer = server.ask("GET", "/subscribe?topic=a&on_gap=fail", &headers, b"").await;
            assert_eq!(answer.problem(410, "gap")["reason"], reason, "{cursor}");
        }
    }
    server.until_subscribers("a", 0).await;
    let mut stream = server.resume("topic=a&on_gap=fail", &ids[1]).await;
    assert_eq!(data(&stream.take(2).await), ["3", "4"]);
    let mut stream = server.resume("topic=a&on_gap=event", &ids[0]).await;
    assert_eq!(stream.next().await.expect("a notice").event, "broker.gap");
}

#[tokio::test]
async fn what_was_not_asked_for_is_not_missing() {
    // `since=all` and `last` ask for what is held: nothing is reported, however much was removed before.
    let server = keeps(2);
    for n in 1..=5 {
        server.publish("a", &n.to_string()).await;
    }
    for query in ["topic=a&since=all", "topic=a&last=5"] {
        let mut stream = server.subscribe(query).await;
        assert_eq!(data(&stream.take(2).await), ["4", "5"], "{query}");
        server.publish("a", "4").await;
        server.publish("a", "5").await;
        assert_eq!(data(&stream.take(2).await), ["4", "5"], "{query}");
    }
}

/// A topic that keeps two events, as a plain model: what is held and the last that was removed.
#[derive(Default)]
struct Model {
    held: Vec<(usize, String)>,
    removed_to: usize,
}

#[tokio::test]
async fn a_gap_is_reported_exactly_when_an_event_is_missing() {
    // Every cursor with every set of topics, against a model: a gap if and only if an event of these topics after the
    // cursor was removed, and then or otherwise exactly the events held after it.
    const TOPICS: [&str; 4] = ["a", "b", "c", "never"];
    let server = TestServer::with(|config| {
        config.log.topic_events_max = 2;
        // Every stream ends by itself, so that what does not come can be seen not to.
        config.stream.lifetime_max = std::time::Duration::from_millis(1500);
    });
    let mut models: [Model; 4] = Default::default();
    let mut last = String::new();
    for (seq, topic) in [0, 1, 0, 0, 2, 1, 0, 1, 2, 0].into_iter().enumerate().map(|(at, topic)| (at + 1, topic)) {
        last = server.publish(TOPICS[topic], &format!("{}{seq}", TOPICS[topic])).await;
        let model = &mut models[topic];
        model.held.push((seq, format!("{}{seq}", TOPICS[topic])));
        if model.held.len() > 2 {
            model.removed_to = model.held.remove(0).0;
        }
    }
    let cases = (1..16_usize).flat_map(|set| (0..=10).map(move |cursor| (set, cursor)));
    let checks = cases.map(async |(set, cursor)| {
        let chosen: Vec<usize> = (0..4).filter(|n| set & 1 << n != 0).collect();
        let query = chosen.iter().map(|n| format!("topic={}", TOPICS[*n])).collect::<Vec<_>>().join("&");
        let blocks = server.resume(&query, &at(&last, cursor)).await.all().await;
        let missing = chosen.iter().any(|n| models[*n].removed_to > cursor);
        let gaps = blocks.iter().filter(|block| block.event == "broker.gap").count();
        assert_eq!(gaps, usize::from(missing), "{query} after {cursor}: {blocks:?}");
        let mut held: Vec<_> = chosen.iter().flat_map(|n| &models[*n].held).filter(|(seq, _)| *seq > cursor).collect();
        held.sort();
        let expected: Vec<_> = held.iter().map(|(_, content)| content.as_str()).collect();
        assert_eq!(data(&blocks[gaps..]), expected, "{query} after {cursor}");
        if missing {
            let resumed = held.first().map_or(10, |(seq, _)| seq - 1);
            let notice =
                json!({"reason": "evicted", "requested": at(&last, cursor), "resumed_after": at(&last, resumed)});
            assert_eq!(gap(&blocks[0]), notice, "{query} after {cursor}");
        }
    });
    join_all(checks).await;
}

#[tokio::test]
async fn old_age_is_a_gap_too() {
    // `log.age_max` removes without any publish, and the cursor before what it removed is told.
    let server = TestServer::with(|config| config.log.age_max = std::time::Duration::from_millis(300));
    let before = server.publish("other", "x").await;
    let last = server.publish("a", "short-lived").await;
    until("the event to be removed", async || server.ask("GET", "/topics/a", &[], b"").await.ok()["events"] == 0).await;
    let mut stream = server.resume("topic=a", &before).await;
    let notice = json!({"reason": "evicted", "requested": before, "resumed_after": last});
    assert_eq!(gap(&stream.next().await.expect("a notice")), notice);
    // It had seen the last of them: nothing is missing.
    let mut stream = server.resume("topic=a", &last).await;
    server.publish("a", "next").await;
    assert_eq!(data(&stream.take(1).await), ["next"]);
}

#[tokio::test]
async fn since_a_time_tells_of_what_is_gone_after_it() {
    // A stream that asks for all since a time is told when some of it is gone, and with `on_gap=fail` refused; one that
    // asks for what is held, or for a time after the last one removed, is not.
    let server = keeps(2);
    for n in 1..=3 {
        server.publish("a", &n.to_string()).await;
    }
    let last = server.publish("b", "b1").await;
    let mut stream = server.subscribe("topic=a&since=1h").await;
    let blocks = stream.take(3).await;
    let notice = json!({"reason": "evicted", "requested": "1h", "resumed_after": at(&last, 1)});
    assert_eq!((gap(&blocks[0]), data(&blocks[1..])), (notice, vec!["2", "3"]));
    let status = async |query: &str| server.subscribe(&format!("{query}&on_gap=fail")).await.status;
    assert_eq!(status("topic=a&since=1h").await, 410);
    assert_eq!(status("topic=b&topic=a&since=1h").await, 410);
    for held in ["topic=a&since=all", "topic=a&last=10", "topic=b&since=1h", "topic=a&since=4102444800"] {
        assert_eq!(status(held).await, 200, "{held}");
    }
    let mut stream = server.subscribe("topic=a&since=all").await;
    assert_eq!(data(&stream.take(2).await), ["2", "3"]);
}
