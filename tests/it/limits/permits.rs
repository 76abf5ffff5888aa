//! A place that was given is given back, however the client leaves and whatever it was refused.

use std::time::Duration;

use tidings::config::Config;

use crate::harness::{Stream, TestServer, until};

/// One place of each kind.
fn one_place(config: &mut Config) {
    config.limits.connections_max = 1;
    config.limits.connections_per_ip_max = 1;
    config.limits.subscribers_per_topic_max = 1;
}

/// Waits for the place to be free, and takes it: without it being free that would not end well.
async fn place(server: &TestServer, query: &str) -> Stream {
    let mut taken = None;
    until("a free place", async || {
        let stream = server.get(&format!("/subscribe?{query}"), &[]).await;
        taken = (stream.status == 200).then_some(stream);
        taken.is_some()
    })
    .await;
    taken.expect("a stream")
}

#[tokio::test]
async fn a_client_that_leaves_makes_room() {
    // By closing, by half-closing, or with bytes unread: each time the one place is free again.
    let server = TestServer::with(one_place);
    for round in 0..4 {
        let mut stream = place(&server, "topic=a").await;
        server.ask("GET", "/subscribe?topic=a", &[], b"").await.problem(429, "too_many_connections_per_ip");
        match round {
            0 => drop(stream),
            1 => {
                server.publish("a", "unread").await;
                drop(stream);
            }
            2 => {
                tokio::io::AsyncWriteExt::shutdown(&mut stream.socket).await.expect("half a close");
                assert!(stream.until_cut().await.is_empty());
            }
            _ => {
                stream.socket.set_zero_linger().expect("a reset");
                drop(stream);
            }
        }
    }
    drop(place(&server, "topic=a").await);
}

#[tokio::test]
async fn a_stream_that_the_server_ends_makes_room() {
    // By deletion, by age.
    let server = TestServer::with(one_place);
    for _ in 0..3 {
        let mut stream = place(&server, "topic=a").await;
        assert_eq!(server.ask("DELETE", "/topics/a", &[], b"").await.status, 204);
        assert_eq!(stream.all().await.len(), 1);
    }
    drop(place(&server, "topic=a").await);
    let server = TestServer::with(|config| {
        one_place(config);
        config.stream.lifetime_max = Duration::from_millis(100);
    });
    for _ in 0..3 {
        assert!(place(&server, "topic=a").await.all().await.is_empty());
    }
}

#[tokio::test]
async fn a_refusal_takes_no_place() {
    // 400, 410, 204, HEAD and a topic that is full: after many of each the places are as free as before.
    let server = TestServer::with(|config| {
        config.limits.connections_max = 2;
        config.limits.subscribers_per_topic_max = 1;
    });
    let old = server.publish("gone", "x").await;
    assert_eq!(server.ask("DELETE", "/topics/gone", &[], b"").await.status, 204);
    let _full = server.subscribe("topic=full").await;
    for _ in 0..5 {
        for accept in ["text/event-stream", "*/*"] {
            for (method, query, cursor, status) in [
                ("GET", "topic=", "", 400),
                ("GET", "topic=a&since=rubbish", "", 400),
                ("GET", "topic=a&on_gap=fail", "rubbish", 410),
                ("GET", "topic=gone", old.as_str(), 204),
                ("HEAD", "topic=a", "", 200),
                ("GET", "topic=a&topic=full", "", if accept == "*/*" { 503 } else { 200 }),
            ] {
                let headers = [("accept", accept), ("last-event-id", cursor)];
                let answer = server.ask(method, &format!("/subscribe?{query}"), &headers, b"").await;
                assert_eq!(answer.status, status, "{answer:?}");
                // Nobody waits: the place in `a` that came before the refusal by `full` is back as well.
                server.until_subscribers("a", 0).await;
            }
        }
    }
    let stream = server.get("/subscribe?topic=a", &[]).await;
    assert_eq!(stream.status, 200);
}

#[tokio::test]
async fn many_that_come_and_go_leave_nothing_behind() {
    // Hundreds of streams in waves, each at the limit, some gone before their first bytes were read.
    let server = TestServer::with(|config| config.limits.connections_max = 50);
    for _ in 0..6 {
        let mut streams = Vec::new();
        for n in 0..50 {
            streams.push(place(&server, &format!("topic=t{}&topic=all", n % 7)).await);
        }
        server.ask("GET", "/subscribe?topic=all", &[], b"").await.problem(503, "too_many_connections");
        server.until_subscribers("all", 50).await;
        drop(streams);
    }
    server.until_subscribers("all", 0).await;
    for n in 0..7 {
        server.until_subscribers(&format!("t{n}"), 0).await;
    }
}
