//! Deletions at the worst moment, and again and again.

use std::cell::Cell;

use futures_util::future::join_all;
use serde_json::json;
use tokio::net::TcpSocket;

use crate::{
    harness::{Stream, TestServer},
    topics::deletion::delete,
};

/// Clients that subscribe again and again while their topic is deleted.
const RACERS: usize = 8;

/// Subscribes many before, while and after `topic` is deleted; gives those whose streams go on. The others have been told,
/// and ended.
async fn race(server: &TestServer, topic: &str) -> Vec<Stream> {
    server.publish(topic, "before").await;
    let (query, is_deleted) = (format!("topic={topic}"), Cell::new(false));
    let subscribe = async |_| {
        let mut streams = vec![server.subscribe(&query).await];
        while !is_deleted.get() {
            streams.push(server.subscribe(&query).await);
        }
        streams.push(server.subscribe(&query).await);
        streams
    };
    let deletion = async {
        delete(server, topic).await;
        is_deleted.set(true);
    };
    let first = server.subscribe(&query).await;
    let (mut streams, ()) = tokio::join!(join_all((0..RACERS).map(subscribe)), deletion);
    streams.push(vec![first]);
    // A stream that goes on gets this; for the others the notice comes first, and the end.
    server.publish(topic, "after").await;
    let mut live = Vec::new();
    for mut stream in streams.into_iter().flatten() {
        match stream.next().await.expect("an event or a notice") {
            block if block.data == "after" => live.push(stream),
            block if block.event == "broker.refused" => {}
            block => {
                assert_eq!((&*block.event, block.data), ("broker.deleted", json!({"topic": topic}).to_string()));
                assert_eq!(stream.next().await, None, "its end");
            }
        }
    }
    live
}

/// What the topic says of its subscribers once those that have ended have left.
async fn counted(server: &TestServer, topic: &str, at_most: usize) -> usize {
    let counted = async || server.held(topic).await["subscribers"].as_u64().expect("a number");
    let at_most = u64::try_from(at_most).expect("a number");
    crate::harness::until("those that have ended to leave", async || counted().await <= at_most).await;
    usize::try_from(counted().await).expect("a number")
}

#[tokio::test]
async fn subscribers_that_come_during_a_deletion_are_counted() {
    // Goal: however the moments fall, the topic counts each stream that it serves, and no other.
    let server = TestServer::start();
    for round in 0..20 {
        let topic = format!("t{round}");
        let live = race(&server, &topic).await;
        assert_eq!(counted(&server, &topic, live.len()).await, live.len(), "round {round}");
        assert!(live.len() >= RACERS, "those that came after the deletion");
        drop(live);
        server.until_subscribers(&topic, 0).await;
    }
}

#[tokio::test]
async fn a_deletion_does_not_lift_the_limit_of_a_topic() {
    // Goal: `subscribers_per_topic_max` holds over deletions: the streams that go on count against it.
    const MAX: usize = 8;
    let server = TestServer::with(|config| config.limits.subscribers_per_topic_max = MAX);
    for round in 0..30 {
        let topic = format!("t{round}");
        let mut streams = race(&server, &topic).await;
        counted(&server, &topic, streams.len()).await;
        let query = format!("topic={topic}");
        streams.extend(join_all((0..MAX).map(|_| server.subscribe(&query))).await);
        let last = server.publish(&topic, "last").await;
        let mut live = 0;
        for stream in &mut streams {
            live += usize::from(stream.next().await.expect("an event or a refusal").id == last);
        }
        assert_eq!(live, MAX, "round {round}");
    }
}

#[tokio::test]
async fn a_stream_too_few_would_show() {
    // The control: the count is of the streams that there are now, so one that leaves makes a difference.
    let server = TestServer::start();
    let mut streams = [server.subscribe("topic=a").await, server.subscribe("topic=a").await].into_iter();
    assert_eq!(counted(&server, "a", 2).await, 2);
    drop(streams.next());
    assert_eq!(counted(&server, "a", 1).await, 1);
}

/// How often a topic is deleted and lives again.
const LIVES: usize = 300;

/// Publishes to `topic` and deletes it, again and again.
async fn live_and_die(server: &TestServer, topic: &str) {
    for n in 0..LIVES {
        server.publish(topic, &n.to_string()).await;
        delete(server, topic).await;
    }
}

/// Reads up to the event with `id`: how many notices of a deletion, and how many events of `topic`, came before.
async fn notices_and_events(stream: &mut Stream, id: &str) -> (usize, usize) {
    let (mut notices, mut events) = (0, 0);
    loop {
        let block = stream.next().await.expect("an event");
        match &*block.event {
            "broker.deleted" => notices += 1,
            _ if block.id == id => return (notices, events),
            _ => events += usize::from(block.data.len() < 10),
        }
    }
}

#[tokio::test]
async fn a_stalled_reader_is_owed_one_notice_however_often_a_topic_was_deleted() {
    // Goal: deletions wait for it in the log, one a topic, and not with its connection. It then has what the last life holds.
    let server = TestServer::start();
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(64 << 10).expect("a small buffer");
    let socket = socket.connect(server.address).await.expect("a connection");
    let mut stalled = Stream::send(socket, "/subscribe?topic=a&topic=b", &[("accept", "text/event-stream")]).await;
    // More than the system takes for it: it stands still somewhere in there.
    for _ in 0..12 {
        server.publish("b", &"x".repeat(1 << 20)).await;
    }
    live_and_die(&server, "a").await;
    let held = server.publish("a", "the last life").await;
    assert_eq!(notices_and_events(&mut stalled, &held).await, (1, 0));
}

#[tokio::test]
async fn a_reader_that_keeps_up_has_every_notice() {
    // The control: the notices are counted as they come; a reader that takes them at once has one for each deletion.
    let server = TestServer::start();
    let mut stream = server.subscribe("topic=a&topic=b").await;
    for n in 0..3 {
        let id = server.publish("a", &n.to_string()).await;
        assert_eq!(notices_and_events(&mut stream, &id).await, (usize::from(n > 0), 0));
        delete(&server, "a").await;
    }
    let end = server.publish("b", "end").await;
    assert_eq!(notices_and_events(&mut stream, &end).await, (1, 0));
}
