//! How often a client publishes and subscribes: a second's worth is accepted at once, one more is refused.

use std::time::{Duration, Instant};

use serde_json::json;
use tidings::config::{ApiKeyConfig, Config};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{refused, subscribe_from};
use crate::harness::{Answer, FOR_THE_FALLBACK, Stream, TestServer, connect_from, until};

/// The headers of a request that the fast path serves, and of one that the fallback serves.
pub const FRONTS: [&[(&str, &str)]; 2] = [&[], &[FOR_THE_FALLBACK]];
const OWN: &str = "127.0.0.1";
const OTHER: &str = "127.0.0.2";
/// A request that publishes to topic `a`: its method, its path, its `Content-Type` and its body.
const PUBLISHES: [(&str, &str, &str, &str); 5] = [
    ("GET", "/publish?topic=a&content=x", "", ""),
    ("POST", "/publish?topic=a", "text/plain", "x"),
    ("PUT", "/publish", "application/x-www-form-urlencoded", "topic=a&content=x"),
    ("POST", "/publish", "application/json", r#"{"topic":"a","content":"x"}"#),
    ("POST", "/publish?topic=a", "application/json", r#"{"topic":["a","a"],"content":"x"}"#),
];

fn one_publish(config: &mut Config) {
    config.limits.publishes_per_second_per_ip = 1;
}

/// Checks a refusal by a rate of one a second.
#[track_caller]
pub fn rate_limited(answer: &Answer, limit: &str) {
    let problem = answer.problem(429, "rate_limited");
    assert_eq!(problem["limit"], limit, "{problem}");
    assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains("limit of 1 ")), "{problem}");
    assert_eq!(answer.header("retry-after"), Some("1"), "{answer:?}");
    assert_eq!(answer.header("ratelimit-policy"), Some(format!("\"{limit}\";q=1;w=1").as_str()), "{answer:?}");
    assert_eq!(answer.header("ratelimit"), Some(format!("\"{limit}\";r=0;t=1").as_str()), "{answer:?}");
}

/// Sends requests from `source` in one piece, so that hardly any time passes between them; the status of each answer.
pub async fn statuses(server: &TestServer, source: &str, requests: &[Vec<u8>]) -> Vec<u16> {
    let mut all = requests.concat();
    // Only the last one closes the connection.
    let close = b"Connection: close\r\n";
    let last = requests.last().map_or(0, Vec::len);
    let mut rest = all.len() - last;
    while let Some(at) = all[..rest].windows(close.len()).position(|window| window == close) {
        all.drain(at..at + close.len());
        rest -= close.len();
    }
    let mut socket = connect_from(source, server.address).await;
    socket.write_all(&all).await.expect("the requests are sent");
    let mut answers = String::new();
    socket.read_to_string(&mut answers).await.expect("answers");
    answers.split("HTTP/1.1 ").skip(1).map(|answer| answer[..3].parse().expect("a status")).collect()
}

async fn events(server: &TestServer, topic: &str) -> serde_json::Value {
    server.held(topic).await["events"].take()
}

#[tokio::test]
async fn publishes_of_one_address_are_limited() {
    // Goal: `publishes_per_second_per_ip`: the second publish at once is refused with all that its client needs to know, by
    // both fronts and in every form; nothing is published; another address is not affected; a second later it may again.
    for front in FRONTS {
        for (n, (method, path, content_type, body)) in (10..).zip(PUBLISHES) {
            let server = TestServer::with(one_publish);
            let source = format!("127.0.0.{n}");
            let content_type: &[_] = if body.is_empty() { &[] } else { &[("content-type", content_type)] };
            let headers = [front, content_type].concat();
            let request = server.request(method, path, &headers, body.as_bytes());
            let said = statuses(&server, &source, &[request.clone(), request.clone()]).await;
            assert_eq!(said, [200, 429], "{method} {path} {front:?}");
            assert_eq!(events(&server, "a").await, 1);
            let ask = async |source: &str| server.ask_bytes_from(source, &request).await;
            ask(OTHER).await.ok();
            until("a second to pass", async || ask(&source).await.status == 200).await;
            // Now it is used up again. On a slow machine a try may come too late to see that.
            until("a refusal", async || {
                let answer = ask(&source).await;
                if answer.status == 429 {
                    rate_limited(&answer, "publishes_per_second_per_ip");
                }
                answer.status == 429
            })
            .await;
        }
    }
}

#[tokio::test]
async fn without_a_rate_nothing_is_refused() {
    // The control: by default the same client may publish and subscribe as often as it likes.
    let server = TestServer::start();
    let publish = server.request("GET", "/publish?topic=a&content=x", &[], b"");
    assert_eq!(statuses(&server, OWN, &vec![publish; 50]).await, [200; 50]);
    for _ in 0..50 {
        assert_eq!(server.subscribe("topic=a").await.header("content-length"), None);
    }
}

#[tokio::test]
async fn publishes_to_one_topic_are_limited() {
    // Goal: `publishes_per_second_per_topic`: from whichever address, and a publish of several topics is refused as a whole.
    for front in FRONTS {
        let server = TestServer::with(|config| config.limits.publishes_per_second_per_topic = 1);
        let publish = |query: &str| server.request("GET", &format!("/publish?{query}&content=x"), front, b"");
        let several = publish("topic=b&topic=a&topic=c");
        let said = statuses(&server, OWN, &[publish("topic=a"), publish("topic=b"), several.clone()]).await;
        assert_eq!(said, [200, 200, 429]);
        server.ask("GET", "/topics/c", &[], b"").await.problem(404, "topic_unknown");
        assert_eq!(statuses(&server, OTHER, &[publish("topic=c"), publish("topic=c")]).await, [200, 429]);
        until("a second to pass", async || statuses(&server, OTHER, std::slice::from_ref(&several)).await == [200])
            .await;
        assert_eq!(events(&server, "c").await, 2);
        until("a refusal", async || {
            let path = "/publish?topic=d&topic=a";
            let headers = [front, &[("content-type", "text/plain")]].concat();
            let answer = server.ask_bytes_from(OTHER, &server.request("POST", path, &headers, b"x")).await;
            if answer.status == 429 {
                rate_limited(&answer, "publishes_per_second_per_topic");
                assert!(answer.body.contains("the topic `a` has"), "{answer:?}");
            }
            answer.status == 429
        })
        .await;
    }
}

/// Two API keys: `service-one` may publish to all topics, `service-two` to all but `a`.
fn two_api_keys(config: &mut Config) {
    let one = "086979192a9eb5778177b2ff2c72b37d7c0e01201664c524db2b3778320b1e8d";
    let two = "02bc969c6593cd92362124e18bb20da0624297f5610a7687e064540536d602f3";
    let keys = [
        json!({"name": "one", "sha256": one, "publish": ["**"]}),
        json!({"name": "two", "sha256": two, "publish": ["b", "c"]}),
    ];
    config.auth.api_keys =
        keys.map(|key| serde_json::from_value::<ApiKeyConfig>(key).expect("an API key")).into_iter().collect();
}

const ONE: (&str, &str) = ("authorization", "Bearer service-one");
const TWO: (&str, &str) = ("authorization", "Bearer service-two");

#[tokio::test]
async fn publishes_with_one_key_are_limited() {
    // Goal: `publishes_per_second_per_key`: a key is refused from whichever address; other keys, and callers without one, are
    // not affected.
    for front in FRONTS {
        let server = TestServer::with(|config| {
            two_api_keys(config);
            config.limits.publishes_per_second_per_key = 1;
        });
        let publish = |caller: &[(&str, &str)]| {
            server.request("GET", "/publish?topic=b&content=x", &[front, caller].concat(), b"")
        };
        let requests = [&[ONE][..], &[ONE], &[TWO], &[TWO], &[], &[]].map(publish);
        assert_eq!(statuses(&server, OWN, &requests).await, [200, 429, 200, 429, 200, 200]);
        until("a refusal at another address", async || {
            server.ask_bytes(&publish(&[ONE])).await;
            let answer = server.ask_bytes_from(OTHER, &publish(&[ONE])).await;
            if answer.status == 429 {
                rate_limited(&answer, "publishes_per_second_per_key");
            }
            answer.status == 429
        })
        .await;
    }
}

#[tokio::test]
async fn a_caller_without_the_right_uses_nothing_of_a_topic() {
    // Goal: who may not publish to a topic cannot use up its rate, and so keep others from it.
    for front in FRONTS {
        let server = TestServer::with(|config| {
            two_api_keys(config);
            config.limits.publishes_per_second_per_topic = 1;
        });
        let json = [("content-type", "application/json")];
        for (method, query, body) in [
            ("GET", "topic=a&content=x", ""),
            ("GET", "topic=c&topic=a&content=x", ""),
            ("POST", "content=x", r#"{"topic":"a"}"#),
            ("POST", "topic=a&content=x", r#"{"topic":"b"}"#),
        ] {
            let headers = [front, &[TWO], if body.is_empty() { &[] } else { &json }].concat();
            let request = server.request(method, &format!("/publish?{query}"), &headers, body.as_bytes());
            server.ask_bytes(&request).await.problem(403, "forbidden");
        }
        let publish = |topic| {
            let path = format!("/publish?topic={topic}&content=x");
            server.request("GET", &path, &[front, &[ONE]].concat(), b"")
        };
        assert_eq!(statuses(&server, OWN, &["a", "b", "a"].map(publish)).await, [200, 200, 429]);
    }
}

#[tokio::test]
async fn a_publish_counts_once_for_each_of_its_topics() {
    // Goal: as many topics as a second allows are accepted; then not one more is; and a publish that could never be accepted
    // is told so at once.
    for front in FRONTS {
        let server = TestServer::with(|config| config.limits.publishes_per_second_per_ip = 3);
        let json = [front, &[("content-type", "application/json")]].concat();
        let in_body = server.request("POST", "/publish?topic=a", &json, br#"{"topic":["a","b","c"],"content":"x"}"#);
        let one_more = server.request("GET", "/publish?topic=d&content=x", front, b"");
        assert_eq!(statuses(&server, "127.0.0.11", &[in_body, one_more.clone()]).await, [200, 429]);
        let in_query = server.request("GET", "/publish?topic=a&topic=b&topic=c&topic=a&content=x", front, b"");
        assert_eq!(statuses(&server, "127.0.0.12", &[in_query, one_more]).await, [200, 429]);
        server.ask("GET", "/topics/d", &[], b"").await.problem(404, "topic_unknown");
        for (path, body) in [
            ("/publish?topic=a&topic=b&topic=c&topic=d", "{\"content\":\"x\"}"),
            ("/publish", r#"{"topic":["a","b","c","d"],"content":"x"}"#),
        ] {
            let answer =
                server.ask_bytes_from("127.0.0.13", &server.request("POST", path, &json, body.as_bytes())).await;
            let problem = answer.problem(400, "too_many_topics_named");
            assert_eq!((&problem["limit"], &problem["given"]), (&3.into(), &4.into()), "{problem}");
            assert_eq!(answer.header("retry-after"), None, "it would not help");
        }
        assert_eq!(events(&server, "a").await, 2);
    }
}

#[tokio::test]
async fn a_refusal_does_not_wait_for_the_body() {
    // Goal: a publish past the rate of its address, or of a topic that its query names, is refused before its body has come.
    let limits: [(fn(&mut Config), &str); 2] = [
        (one_publish, "publishes_per_second_per_ip"),
        (|config| config.limits.publishes_per_second_per_topic = 1, "publishes_per_second_per_topic"),
    ];
    for (configure, limit) in limits {
        for extra in ["Content-Length: 100000\r\n", "Transfer-Encoding: chunked\r\n"] {
            let server = TestServer::with(|config| {
                configure(config);
                config.publish.body_timeout = Duration::from_millis(300);
            });
            until("a refusal", async || {
                server.ask("GET", "/publish?topic=a&content=x", &[], b"").await;
                let head = "POST /publish?topic=a HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\n";
                let mut socket = connect_from(OWN, server.address).await;
                socket.write_all(format!("{head}{extra}\r\n").as_bytes()).await.expect("the head is sent");
                // One that is not refused waits for its body, and gets a 408.
                let stream = Stream::receive(socket).await;
                assert_eq!(stream.header("connection"), Some("close"));
                let answer = Answer::read(stream, head.as_bytes()).await;
                if answer.status == 429 {
                    rate_limited(&answer, limit);
                }
                answer.status == 429
            })
            .await;
        }
    }
}

#[tokio::test]
async fn a_refused_publish_does_not_use_its_key() {
    // Goal: the `Idempotency-Key` of a publish that a rate refuses is free: the retry is published, also with other content.
    for front in FRONTS {
        let server = TestServer::with(one_publish);
        let publish = |key, content: &str| {
            let path = format!("/publish?topic=a&content={content}");
            server.request("GET", &path, &[front, &[("idempotency-key", key)]].concat(), b"")
        };
        let said = statuses(&server, OWN, &[publish("k1", "one"), publish("k2", "two")]).await;
        assert_eq!(said, [200, 429]);
        until("a second to pass", async || {
            let answer = server.ask_bytes(&publish("k2", "three")).await;
            assert!(matches!(answer.status, 200 | 429), "{answer:?}");
            assert_eq!(answer.header("idempotency-replayed"), None, "{answer:?}");
            answer.status == 200
        })
        .await;
        assert_eq!(events(&server, "a").await, 2);
    }
}

#[tokio::test]
async fn subscriptions_of_one_address_are_limited() {
    // Goal: `subscribes_per_second_per_ip`: an EventSource is told in a stream, and comes back later; everybody else by the
    // status. Another address, HEAD and publishes are not affected.
    for front in FRONTS {
        let server = TestServer::with(|config| config.limits.subscribes_per_second_per_ip = 1);
        let event_source = [front, &[("accept", "text/event-stream")]].concat();
        let path = "/subscribe?topic=a&topic=b";
        // Those that are accepted go on for ever, and each uses up the second.
        until("a refusal", async || {
            let _stream = server.get(path, &event_source).await;
            let mut refused = server.get(path, &event_source).await;
            assert_eq!(refused.status, 200);
            if refused.header("content-length").is_none() {
                return false;
            }
            let block = refused.next().await.expect("a notice");
            assert_eq!(block.event, "broker.refused");
            let told: serde_json::Value = serde_json::from_str(&block.data).expect("JSON");
            assert_eq!(told["code"], "rate_limited");
            assert!(told["retry_ms"].as_u64().is_some_and(|retry| (9600..=14400).contains(&retry)), "{told}");
            assert_eq!(refused.next().await, None);
            true
        })
        .await;
        until("a refusal", async || {
            let _stream = server.get(path, &event_source).await;
            let request = server.request("GET", path, &[front, &[("accept", "application/x-ndjson")]].concat(), b"");
            let stream = server.send(&request).await;
            if stream.status == 200 {
                return false;
            }
            rate_limited(&Answer::read(stream, &request).await, "subscribes_per_second_per_ip");
            for _ in 0..3 {
                assert_eq!(server.ask("HEAD", path, front, b"").await.status, 200);
                server.ask("GET", "/publish?topic=a&content=x", front, b"").await.ok();
            }
            true
        })
        .await;
        let mut other = subscribe_from(&server, OTHER, "topic=a&since=all").await;
        assert_eq!(other.next().await.expect("an event").data, "x");
    }
}

#[tokio::test]
async fn the_retry_of_a_refused_subscriber_is_not_before_its_wait() {
    // Goal: with a short `stream.retry` an EventSource still comes back only when the rate has room.
    let server = TestServer::with(|config| {
        config.limits.subscribes_per_second_per_ip = 1;
        config.stream.retry = Duration::from_millis(100);
    });
    // Four times `stream.retry`, with jitter, is less than half a second.
    until("a wait of more than half a second", async || {
        let _stream = server.subscribe("topic=a").await;
        let mut refused = server.subscribe("topic=a").await;
        if refused.header("content-length").is_none() {
            return false;
        }
        let told: serde_json::Value =
            serde_json::from_str(&refused.next().await.expect("a notice").data).expect("JSON");
        assert_eq!(told["code"], "rate_limited");
        told["retry_ms"].as_u64().is_some_and(|retry| (500..=1000).contains(&retry))
    })
    .await;
}

#[tokio::test]
async fn a_rate_is_one_for_all_workers() {
    // Goal: the kernel gives each connection to some worker; together they accept no more than one would.
    let server = TestServer::with(|config| {
        one_publish(config);
        config.server.workers = 4;
    });
    let begin = Instant::now();
    let mut accepted = 0;
    for _ in 0..40 {
        let answer = server.ask("GET", "/publish?topic=a&content=x", &[], b"").await;
        accepted += u64::from(answer.status == 200);
    }
    let seconds = begin.elapsed().as_secs();
    assert!((1..=1 + seconds + 1).contains(&accepted), "{accepted} in {seconds} s");
}

#[tokio::test]
async fn topics_that_one_address_starts_are_limited() {
    // Goal: `topics_per_ip_max`: an address that has started as many live topics as it may starts no other, but others do,
    // and it may join theirs; when one of its own is no longer used, there is room again.
    let server = TestServer::with(|config| config.limits.topics_per_ip_max = 2);
    let mut streams = vec![server.subscribe("topic=a&topic=b").await];
    refused(&server, "topic=c", 429, "too_many_topics_per_ip").await;
    refused(&server, "topic=a&topic=c", 429, "too_many_topics_per_ip").await;
    server.ask("GET", "/topics/c", &[], b"").await.problem(404, "topic_unknown");
    for front in FRONTS {
        server.ask("GET", "/subscribe?topic=c", front, b"").await.problem(429, "too_many_topics_per_ip");
    }
    streams.push(subscribe_from(&server, OTHER, "topic=c").await);
    assert_eq!(streams[1].header("content-length"), None, "it was accepted");
    streams.push(server.subscribe("topic=a&topic=b&topic=c").await);
    server.publish("c", "x").await;
    for stream in &mut streams[1..] {
        assert_eq!(stream.next().await.expect("an event").data, "x");
    }
    drop(streams);
    until("room for a topic", async || server.get("/subscribe?topic=d&topic=e", &[]).await.status == 200).await;
}
