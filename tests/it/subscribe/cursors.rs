//! Where a stream begins: cursors, `since`, `last`.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;

use super::data;
use crate::harness::{TestServer, encoded, until};

/// The spellings of the cursor parameter.
const SPELLINGS: [&str; 4] = ["lastEventId", "last_event_id", "lastEventID", "Last-Event-ID"];

#[tokio::test]
async fn every_spelling_of_the_cursor_resumes() {
    // In the query as browsers, the polyfill, Mercure and Symfony spell it, and in the header whatever its case.
    let server = TestServer::start();
    let first = server.publish("a", "one").await;
    server.publish("a", "two").await;
    server.publish("a", "three").await;
    for name in SPELLINGS {
        let mut stream = server.subscribe(&format!("topic=a&{name}={first}")).await;
        assert_eq!(data(&stream.take(2).await), ["two", "three"], "{name}");
    }
    for name in ["Last-Event-ID", "last-event-id", "LAST-EVENT-ID"] {
        let mut stream = server.get("/subscribe?topic=a", &[(name, &first)]).await;
        assert_eq!(data(&stream.take(2).await), ["two", "three"], "{name}");
    }
}

#[tokio::test]
async fn the_header_wins() {
    // A browser's own reconnect sends the header and keeps the query of its first request, `since` and `last` included.
    let server = TestServer::start();
    let first = server.publish("a", "one").await;
    let second = server.publish("a", "two").await;
    server.publish("a", "three").await;
    let old = SPELLINGS.iter().map(|name| format!("topic=a&{name}={first}"));
    let others = ["topic=a&since=all", "topic=a&last=3", "topic=a&since=rubbish", "topic=a&lastEventId=rubbish"];
    for query in old.chain(others.map(str::to_owned)) {
        let mut stream = server.resume(&query, &second).await;
        let block = stream.next().await.expect("an event");
        assert_eq!((block.event.as_str(), block.data.as_str()), ("message", "three"), "{query}");
    }
}

#[tokio::test]
async fn the_cursor_in_the_query_beats_since_and_last() {
    // So does the polyfill's own reconnect.
    let server = TestServer::start();
    server.publish("a", "one").await;
    let second = server.publish("a", "two").await;
    server.publish("a", "three").await;
    for other in ["since=all", "last=3"] {
        let mut stream = server.subscribe(&format!("topic=a&{other}&lastEventId={second}")).await;
        assert_eq!(data(&stream.take(1).await), ["three"], "{other}");
    }
}

#[tokio::test]
async fn an_empty_cursor_is_none() {
    // A client that has no id yet may send it empty: live only, and no gap.
    let server = TestServer::start();
    server.publish("a", "old").await;
    for (query, headers) in [("&lastEventId=", &[][..]), ("", &[("last-event-id", "")])] {
        let mut stream = server.get(&format!("/subscribe?topic=a{query}"), headers).await;
        server.publish("a", "new").await;
        assert_eq!(data(&stream.take(1).await), ["new"]);
    }
}

#[tokio::test]
async fn an_empty_spelling_hides_no_other() {
    // A client may send an empty header, or one parameter of several empty, and have its cursor elsewhere.
    let server = TestServer::start();
    let first = server.publish("a", "one").await;
    server.publish("a", "two").await;
    server.publish("a", "three").await;
    let (empty, other) = (("last-event-id", ""), ("last-event-id", "rubbish"));
    for (query, headers) in [
        (format!("&lastEventId={first}"), vec![empty]),
        (format!("&lastEventId=&last_event_id={first}"), vec![]),
        (format!("&lastEventId=&lastEventId={first}"), vec![empty]),
        (format!("&lastEventId=&last_event_id=&Last-Event-ID={first}"), vec![empty, empty]),
        (String::new(), vec![empty, ("last-event-id", &*first)]),
        // The control: what is not empty wins, in the same order.
        ("&lastEventId=rubbish".to_owned(), vec![("last-event-id", &*first)]),
        (format!("&lastEventId={first}&last_event_id=rubbish"), vec![empty]),
    ] {
        for full in [false, true] {
            let mut headers = headers.clone();
            headers.extend(full.then_some(("content-encoding", "identity")));
            let mut stream = server.get(&format!("/subscribe?topic=a{query}"), &headers).await;
            assert_eq!(data(&stream.take(2).await), ["two", "three"], "{query} {headers:?}");
        }
    }
    let mut stream = server.get(&format!("/subscribe?topic=a&lastEventId={first}"), &[other]).await;
    assert_eq!(stream.next().await.expect("a gap").event, "broker.gap", "the header still wins");
}

#[tokio::test]
async fn one_id_resumes_any_set_of_topics() {
    // The id of an event of one topic is a cursor into all of them.
    let server = TestServer::start();
    let mut ids = Vec::new();
    for n in 0..9 {
        ids.push(server.publish(["a", "b", "c"][n % 3], &n.to_string()).await);
    }
    let cases = [
        ("topic=a&topic=b&topic=c", &["5", "6", "7", "8"][..]),
        ("topic=a", &["6"]),
        ("topic=b&topic=c", &["5", "7", "8"]),
        ("topic=c&topic=new", &["5", "8"]),
    ];
    for (query, expected) in cases {
        let mut stream = server.resume(query, &ids[4]).await;
        let blocks = stream.take(expected.len()).await;
        assert_eq!(data(&blocks), expected, "{query}");
        assert!(blocks.iter().all(|block| block.event == "message"));
    }
}

#[tokio::test]
async fn without_a_cursor_a_stream_is_live_only() {
    // What was published before is not sent unless it is asked for.
    let server = TestServer::start();
    server.publish("a", "old").await;
    for query in ["topic=a", "topic=a&last=0"] {
        let mut stream = server.subscribe(query).await;
        server.publish("a", "new").await;
        assert_eq!(data(&stream.take(1).await), ["new"], "{query}");
    }
}

#[tokio::test]
async fn last_counts_over_all_topics_together() {
    // The newest N events of the topics asked for, in order; more than there are is all.
    let server = TestServer::start();
    for (topic, content) in [("a", "a1"), ("b", "b1"), ("c", "c1"), ("a", "a2"), ("c", "c2"), ("b", "b2"), ("a", "a3")]
    {
        server.publish(topic, content).await;
    }
    let cases = [
        ("topic=a&topic=b&last=3", &["a2", "b2", "a3"][..]),
        ("topic=a&last=2", &["a2", "a3"]),
        ("topic=b&last=1", &["b2"]),
        ("topic=a&topic=b&last=100", &["a1", "b1", "a2", "b2", "a3"]),
        ("topic=a&topic=b&topic=c&last=4", &["a2", "c2", "b2", "a3"]),
        ("topic=empty&topic=b&last=2", &["b1", "b2"]),
        ("topic=a&last=10000", &["a1", "a2", "a3"]),
    ];
    for (query, expected) in cases {
        let mut stream = server.subscribe(query).await;
        assert_eq!(data(&stream.take(expected.len()).await), expected, "{query}");
    }
}

/// The time of the last event of topic `a`, in milliseconds since 1970, and as text.
async fn time_of_last(server: &TestServer) -> (u64, String) {
    let block = server.subscribe("topic=a&last=1&envelope=json").await.next().await.expect("an event");
    let envelope: Value = serde_json::from_str(&block.data).expect("JSON");
    let text = envelope["time"].as_str().expect("a time").to_owned();
    let time = humantime::parse_rfc3339(&text).expect("RFC 3339");
    (u64::try_from(time.duration_since(UNIX_EPOCH).expect("after 1970").as_millis()).expect("a time"), text)
}

/// The time `ms` on a clock that is so many seconds before UTC, and says so.
fn elsewhere(ms: u64, seconds: i64, offset: &str) -> String {
    let time = UNIX_EPOCH + Duration::from_millis(ms.checked_add_signed(seconds * 1000).expect("a time"));
    let local = humantime::format_rfc3339_millis(time).to_string();
    format!("{}{offset}", local.trim_end_matches('Z'))
}

fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    u64::try_from(now.as_millis()).expect("a time")
}

#[tokio::test]
async fn since_takes_every_kind_of_time() {
    // `all`, a duration, RFC 3339 to the millisecond and with an offset, Unix seconds: the first event at or after it.
    let server = TestServer::start();
    server.publish("a", "old").await;
    let (old, _) = time_of_last(&server).await;
    until("three seconds to pass", async || now_ms() > old + 3000).await;
    server.publish("a", "new").await;
    let (new, text) = time_of_last(&server).await;
    let day = text.split('T').next().expect("a date");
    let offset = |text: &str| encoded(&text.replace('Z', "+00:00"));
    let cases = [
        ("all".to_owned(), &["old", "new"][..]),
        ("10m".to_owned(), &["old", "new"]),
        ("2h".to_owned(), &["old", "new"]),
        ("1h+30m".to_owned(), &["old", "new"]),
        ("90s".to_owned(), &["old", "new"]),
        ("100000y".to_owned(), &["old", "new"]),
        ("0".to_owned(), &["old", "new"]),
        ((old / 1000).to_string(), &["old", "new"]),
        ((new / 1000).to_string(), &["new"]),
        (text.clone(), &["new"]),
        (encoded(&text), &["new"]),
        (format!("{day}T00:00:00Z"), &["old", "new"]),
        (offset(&text), &["new"]),
        // The same moment on other clocks; in a query a plus that is not encoded is a blank.
        (encoded(&elsewhere(new, 7200, "+02:00")), &["new"]),
        (elsewhere(new, 7200, "+02:00"), &["new"]),
        (encoded(&elsewhere(new, -19_800, "-05:30")), &["new"]),
        (text.to_lowercase(), &["new"]),
    ];
    for (since, expected) in cases {
        let mut stream = server.subscribe(&format!("topic=a&since={since}")).await;
        assert_eq!(stream.status, 200, "{since}");
        assert_eq!(data(&stream.take(expected.len()).await), expected, "{since}");
    }
    // In the future, and a moment ago: live only.
    for since in [(new / 1000 + 3600).to_string(), "9999-12-31T23:59:59Z".to_owned(), "0s".to_owned()] {
        // An event of this very millisecond would count as one of now.
        let (last, _) = time_of_last(&server).await;
        until("the next millisecond", async || now_ms() > last).await;
        let mut stream = server.subscribe(&format!("topic=a&since={since}")).await;
        let id = server.publish("a", "live").await;
        assert_eq!(stream.next().await.expect("an event").id, id, "{since}");
    }
}

#[tokio::test]
async fn a_duration_ends_where_it_says() {
    // An event older than the duration stays out.
    let server = TestServer::start();
    server.publish("a", "old").await;
    let (old, _) = time_of_last(&server).await;
    until("the first event to be old enough", async || now_ms() > old + 4000).await;
    server.publish("a", "new").await;
    let mut stream = server.subscribe("topic=a&since=3500ms").await;
    assert_eq!(data(&stream.take(1).await), ["new"]);
}
