//! `[limits]`: at each limit all is well, one past it there is a clear refusal.

use tidings::config::{Config, Size};

use crate::harness::{Stream, TestServer, connect_from, until};

mod authentications;
mod own;
mod permits;
mod rates;

/// Opens a stream from `ip`, an address of the loopback network.
async fn subscribe_from(server: &TestServer, ip: &str, query: &str) -> Stream {
    let socket = connect_from(ip, server.address).await;
    Stream::send(socket, &format!("/subscribe?{query}"), &[("accept", "text/event-stream")]).await
}

/// A refused subscription: an EventSource is told in the stream, everybody else by the status.
async fn refused(server: &TestServer, query: &str, status: u16, code: &str) {
    let path = format!("/subscribe?{query}");
    // Some clients forget their cursor at a block that has no id.
    let cursor = "k3f9x2ab-17";
    let headers = [("accept", "text/event-stream"), ("last-event-id", cursor)];
    let mut stream = server.get(&path, &headers).await;
    assert_eq!(stream.next().await.map(|block| block.id).as_deref(), Some(cursor));
    for query in ["", "&envelope=json"] {
        let mut stream = server.get(&format!("{path}{query}"), &[("accept", "text/event-stream")]).await;
        assert_eq!((stream.status, stream.header("content-type")), (200, Some("text/event-stream; charset=utf-8")));
        let blocks = stream.all().await;
        assert_eq!(blocks.len(), 1, "{blocks:?}");
        assert_eq!(blocks[0].event, "broker.refused");
        let told: serde_json::Value = serde_json::from_str(&blocks[0].data).expect("JSON");
        assert_eq!(told["code"], code, "{told}");
        assert!(told["message"].as_str().is_some_and(|message| !message.is_empty()), "{told}");
        // Four times the default, within a fifth; it came before the notice, and moved no cursor.
        let retry = stream.retry().expect("a reconnection time");
        assert_eq!(told["retry_ms"], retry, "{told}");
        assert!((9600..=14400).contains(&retry), "{retry}");
        assert!(stream.body.starts_with(format!("retry: {retry}\nevent: broker.refused\n").as_bytes()));
        assert_eq!((stream.last_event_id(), stream.header("last-event-id")), ("", None));
    }
    for accept in ["*/*", "application/x-ndjson", "application/x-ndjson, text/event-stream"] {
        let answer = server.ask("GET", &path, &[("accept", accept)], b"").await;
        answer.problem(status, code);
        let after: u64 = answer.header("retry-after").and_then(|after| after.parse().ok()).expect("Retry-After");
        assert!((10..=15).contains(&after), "{after}");
    }
    server.ask("GET", &path, &[], b"").await.problem(status, code);
}

#[tokio::test]
async fn subscribers_in_all_are_bounded() {
    // `connections_max`: the last place is given, the next subscriber is refused, whatever its topic and address.
    let server = TestServer::with(|config| config.limits.connections_max = 3);
    let mut streams = Vec::new();
    for n in 0..3 {
        streams.push(server.subscribe(&format!("topic=t{n}")).await);
    }
    refused(&server, "topic=new", 503, "too_many_connections").await;
    let mut stream = subscribe_from(&server, "127.0.0.9", "topic=new").await;
    assert_eq!(stream.next().await.expect("a notice").event, "broker.refused");
    // Those that are in feel nothing, and publishing is not subscribing.
    for (n, stream) in streams.iter_mut().enumerate() {
        server.publish(&format!("t{n}"), "x").await;
        assert_eq!(stream.next().await.expect("an event").data, "x");
    }
}

#[tokio::test]
async fn subscribers_of_one_address_are_bounded() {
    // `connections_per_ip_max`: 429, and another address has places of its own.
    let server = TestServer::with(|config| config.limits.connections_per_ip_max = 2);
    let streams = [server.subscribe("topic=a").await, server.subscribe("topic=b").await];
    refused(&server, "topic=c", 429, "too_many_connections_per_ip").await;
    let others =
        [subscribe_from(&server, "127.0.0.9", "topic=a").await, subscribe_from(&server, "127.0.0.9", "topic=a").await];
    server.publish("a", "x").await;
    for mut stream in others {
        assert_eq!(stream.next().await.expect("an event").data, "x");
    }
    drop(streams);
}

#[tokio::test]
async fn subscribers_of_one_topic_are_bounded() {
    // `subscribers_per_topic_max`: the topic is full, others are not, and a full one among several refuses them all.
    let server = TestServer::with(|config| config.limits.subscribers_per_topic_max = 2);
    let _streams = [server.subscribe("topic=a").await, server.subscribe("topic=a&topic=b").await];
    refused(&server, "topic=a", 503, "too_many_subscribers").await;
    refused(&server, "topic=b&topic=a", 503, "too_many_subscribers").await;
    assert_eq!(server.subscribe("topic=b").await.status, 200);
}

#[tokio::test]
async fn topics_are_bounded() {
    // `topics_max`: no subscriber starts one too many; those that live are served, and an event that nobody waits for needs
    // no live topic, with a key or without.
    let server = TestServer::with(|config| config.limits.topics_max = 2);
    let _streams = [server.subscribe("topic=a").await, server.subscribe("topic=b").await];
    refused(&server, "topic=c", 503, "too_many_topics").await;
    server.ask("GET", "/topics/c", &[], b"").await.problem(404, "topic_unknown");
    server.publish("a", "x").await;
    server.publish("d", "x").await;
    server.ask("POST", "/publish?topic=d&content=x", &[("idempotency-key", "k")], b"").await.ok();
    assert_eq!(server.ask("GET", "/topics/d", &[], b"").await.ok()["events"], 2);
    assert_eq!(server.subscribe("topic=a&topic=b").await.status, 200);
}

#[tokio::test]
async fn a_deletion_needs_no_room_for_a_topic() {
    // At `topics_max` what is held of a topic that is not live can be deleted, and its old cursors know of that.
    let server = TestServer::with(|config| config.limits.topics_max = 1);
    let seen = server.publish("b", "one").await;
    server.publish("b", "two").await;
    let stream = server.subscribe("topic=a").await;
    server.ask("GET", "/subscribe?topic=b", &[], b"").await.problem(503, "too_many_topics");
    assert_eq!(server.ask("DELETE", "/topics/b", &[], b"").await.status, 204);
    assert_eq!(server.held("b").await["events"], 0);
    drop(stream);
    let mut status = 0;
    until("room for a topic", async || {
        status = server.resume("topic=b", &seen).await.status;
        status != 200
    })
    .await;
    assert_eq!(status, 204, "within `stream.gone`");
}

#[tokio::test]
async fn idle_topics_make_room() {
    // With room for one topic, a second can be used once nobody needs the first.
    let server = TestServer::with(|config| config.limits.topics_max = 1);
    for n in 0..3 {
        let mut stream = None;
        until("room for a topic", async || {
            let other = server.get(&format!("/subscribe?topic=t{n}"), &[]).await;
            stream = (other.status == 200).then_some(other);
            stream.is_some()
        })
        .await;
        refused(&server, "topic=other", 503, "too_many_topics").await;
        drop(stream);
    }
    until("the last one to be retired", async || server.get("/topics/t2", &[]).await.status == 404).await;
}

#[tokio::test]
async fn a_retired_topic_keeps_its_history() {
    // Retiring frees the actor, not the events: a subscriber that comes back later finds them all.
    let server = TestServer::with(|config| config.limits.topics_max = 1);
    let stream = server.subscribe("topic=a").await;
    let first = server.publish("a", "one").await;
    server.publish("a", "two").await;
    drop(stream);
    until("the idle topic to be retired", async || server.subscribe("topic=b").await.status == 200).await;
    assert_eq!(server.ask("GET", "/topics/a", &[], b"").await.ok()["events"], 2);
    until("the other one to be retired", async || {
        let mut stream = server.resume("topic=a", &first).await;
        stream.next().await.is_some_and(|block| block.event == "message" && block.data == "two")
    })
    .await;
}

#[tokio::test]
async fn topics_of_one_request_are_bounded() {
    // `topics_per_request_max`, repetitions included, for subscribers and publishers, in the query and in a body.
    let server = TestServer::with(|config| config.limits.topics_per_request_max = 3);
    let json = [("content-type", "application/json")];
    assert_eq!(server.subscribe("topic=a&topic=b&topic=c").await.status, 200);
    server.ask("POST", "/publish?topic=a&topic=b&topic=c&content=x", &[], b"").await.ok();
    server.ask("POST", "/publish", &json, br#"{"topic":["a","b","c"],"content":"x"}"#).await.ok();
    let past = [
        ("GET", "/subscribe?topic=a&topic=b&topic=c&topic=d", &[][..], &b""[..]),
        ("GET", "/subscribe?topic=a&topic=a&topic=a&topic=a", &[("accept", "text/event-stream")], b""),
        ("POST", "/publish?topic=a&topic=b&topic=c&topic=d&content=x", &[], b""),
        ("POST", "/publish", &json, br#"{"topic":["a","b","c","d"],"content":"x"}"#),
        ("POST", "/publish?topic=a&topic=b", &json, br#"{"topic":["c","d"],"content":"x"}"#),
    ];
    for (method, path, headers, body) in past {
        let problem = server.ask(method, path, headers, body).await.problem(400, "too_many_topics_named");
        assert_eq!((&problem["limit"], &problem["given"]), (&3.into(), &4.into()));
        assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains("this one names 4")), "{problem}");
    }
}

#[tokio::test]
async fn names_are_bounded_in_bytes() {
    // `topic_bytes_max`, in UTF-8, wherever a topic is named; as large as a name may be configured, too.
    for max in [1, 6, 1024] {
        let server = TestServer::with(|config: &mut Config| config.limits.topic_bytes_max = Size::new(max as u64));
        let (at, past) = ("t".repeat(max), "t".repeat(max + 1));
        assert_eq!(server.subscribe(&format!("topic={at}")).await.status, 200);
        server.ask("POST", &format!("/publish?topic={at}&content=x"), &[], b"").await.ok();
        server.ask("GET", &format!("/topics/{at}"), &[], b"").await.ok();
        for (method, path) in [
            ("GET", format!("/subscribe?topic={past}")),
            ("POST", format!("/publish?topic={past}&content=x")),
            ("GET", format!("/topics/{past}")),
            ("DELETE", format!("/topics/{past}")),
        ] {
            server.ask(method, &path, &[], b"").await.problem(400, "bad_topic");
        }
    }
    let server = TestServer::with(|config| config.limits.topic_bytes_max = Size::new(6));
    server.publish("订单", "x").await;
    server.ask("POST", "/publish?topic=%E8%AE%A2%E5%8D%95s&content=x", &[], b"").await.problem(400, "bad_topic");
}
