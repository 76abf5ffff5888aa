//! Streams that an operator ends: they say so, and their clients are told to stop for a while.

use std::time::{Duration, Instant};

use tidings::config::Size;
use tokio::process::Command;

use super::{LINES, server, until_listed};
use crate::{
    harness::{Process, Stream, TestServer, process::program, until},
    slow::{content, narrow},
};

async fn end(server: &TestServer, id: &str) {
    let answer = server.ask("DELETE", &format!("/subscribers/{id}"), &[], b"").await;
    assert_eq!((answer.status, answer.body.as_str()), (204, ""), "{answer:?}");
}

/// Opens a stream, and returns it with its id, which is the only one that was not there before.
async fn open(server: &TestServer, query: &str, accept: (&str, &str), before: &mut Vec<String>) -> (Stream, String) {
    let stream = server.get(&format!("/subscribe?{query}"), &[accept]).await;
    let listed = until_listed(server, "a", before.len() + 1).await;
    let id = listed.iter().find(|id| !before.contains(id)).expect("a new one").clone();
    *before = listed;
    (stream, id)
}

/// The id to come back with, and what the notice says.
pub async fn last_id(stream: &mut Stream) -> String {
    if stream.header("content-type") == Some("application/x-ndjson") {
        let body = stream.rest().await;
        let line = body.lines().rfind(|line| !line.is_empty()).expect("a line");
        let notice: serde_json::Value = serde_json::from_str(line).expect("JSON");
        assert_eq!((notice["event"].as_str(), notice["data"]["code"].as_str()), (Some("broker.ended"), Some("ended")));
        return notice["id"].as_str().expect("an id").to_owned();
    }
    let blocks = stream.all().await;
    let notice = blocks.last().expect("a notice");
    assert!(notice.event == "broker.ended" && notice.data.contains(r#""code":"ended""#), "{blocks:?}");
    assert!(stream.retry().is_some());
    stream.last_event_id().to_owned()
}

#[tokio::test]
async fn a_subscriber_that_is_ended_stays_away_for_a_while_and_misses_nothing() {
    // Goal: a clean end that says so, in every format and with all marks; 204 for `stream.gone`; then it resumes. No
    // other stream notices.
    for workers in [1, 2] {
        let server = server(workers, |config| config.stream.gone = Duration::from_secs(3));
        let mut known = Vec::new();
        let sse = ("accept", "text/event-stream");
        let (mut other, _) = open(&server, "topic=a", sse, &mut known).await;
        let queries = ["topic=a", "topic=a&marks=id", "topic=a&marks=none&envelope=json", "topic=a&topic=b"];
        for (query, accept) in queries.map(|query| (query, sse)).into_iter().chain([("topic=a", LINES)]) {
            let (mut stream, id) = open(&server, query, accept, &mut known).await;
            let seen = server.publish("a", "seen").await;
            assert_eq!(other.take(1).await[0].id, seen);
            until("the event", async || String::from_utf8_lossy(&stream.body).contains(&seen) || !stream.read().await)
                .await;
            let ended = Instant::now();
            end(&server, &id).await;
            known.retain(|known| *known != id);
            server.ask("DELETE", &format!("/subscribers/{id}"), &[], b"").await.problem(404, "subscriber_unknown");
            until_listed(&server, "a", 1).await;
            let cursor = last_id(&mut stream).await;
            assert!(cursor.starts_with(&format!("{seen}.stop")), "{cursor}");
            assert!(cursor.bytes().all(|b| b.is_ascii_digit() || b.is_ascii_lowercase() || b"-.".contains(&b)));
            let missed = server.publish("a", "missed").await;
            assert_eq!(other.take(1).await[0].id, missed, "the other one goes on");
            for method in ["GET", "HEAD"] {
                let headers = [accept, ("last-event-id", cursor.as_str())];
                let answer = server.ask(method, &format!("/subscribe?{query}"), &headers, b"").await;
                assert_eq!((answer.status, answer.body.as_str()), (204, ""), "{answer:?}");
            }
            let path = format!("/subscribe?{query}&lastEventId={cursor}");
            assert_eq!(server.get(&path, &[accept]).await.status, 204, "also as a parameter");
            until("the end of `gone`", async || server.get(&path, &[accept]).await.status == 200).await;
            assert!(ended.elapsed() >= Duration::from_millis(2_900), "{:?}", ended.elapsed());
            let mut back = server.get(&path, &[accept]).await;
            until("what it missed", async || {
                String::from_utf8_lossy(&back.body).contains(&missed) || !back.read().await
            })
            .await;
            let text = String::from_utf8_lossy(&back.body).into_owned();
            assert!(text.contains(&missed) && !text.contains("broker.gap"), "{text}");
            drop(back);
            until_listed(&server, "a", 1).await;
        }
    }
}

#[tokio::test]
async fn without_gone_an_ended_client_may_come_back_at_once() {
    let server = TestServer::with(|config| config.stream.gone = Duration::ZERO);
    let (mut stream, id) = open(&server, "topic=a", ("accept", "text/event-stream"), &mut Vec::new()).await;
    end(&server, &id).await;
    let cursor = last_id(&mut stream).await;
    let missed = server.publish("a", "missed").await;
    let mut back = server.resume("topic=a", &cursor).await;
    assert_eq!(back.take(1).await[0].id, missed);
}

#[tokio::test]
async fn a_stop_that_is_too_long_is_not_believed() {
    // Goal: a clock that was set back, or a forged id, keeps nobody away for longer than `stream.gone`.
    let server = TestServer::start();
    let id = server.publish("a", "one").await;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_millis();
    for (until, status) in [(now + 30_000, 204), (now + 90_000, 200), (now - 1, 200)] {
        assert_eq!(server.resume("topic=a", &format!("{id}.stop{until}")).await.status, status, "{until} at {now}");
    }
    let mut broken = server.resume("topic=a", &format!("{id}.stop0{}", now + 30_000)).await;
    assert_eq!((broken.status, broken.take(1).await[0].event.as_str()), (200, "broker.gap"), "no id of ours");
}

#[tokio::test]
async fn an_ended_client_that_does_not_read_is_cut_in_time() {
    // Goal: a full socket does not keep an ended stream, and the others notice nothing.
    let write_timeout = Duration::from_secs(5);
    let server = server(1, |config| {
        config.stream.write_timeout = write_timeout;
        config.log.topic_bytes_max = Size::mib(128);
    });
    let stalled = narrow(server.address, "topic=a", None).await;
    let id = until_listed(&server, "a", 1).await.remove(0);
    let mut other = server.subscribe("topic=a").await;
    for n in 0..16 {
        let published = server.publish("a", &content(n, 64 << 10, 1000)).await;
        assert_eq!(other.take(1).await[0].id, published);
    }
    let ended = Instant::now();
    end(&server, &id).await;
    server.until_subscribers("a", 1).await;
    assert!(ended.elapsed() < write_timeout * 2, "{:?}", ended.elapsed());
    let last = server.publish("a", "last").await;
    assert_eq!(other.take(1).await[0].id, last);
    drop(stalled);
}

#[tokio::test]
async fn a_page_of_another_site_ends_nobody() {
    let server = TestServer::start();
    let (mut stream, id) = open(&server, "topic=a", ("accept", "text/event-stream"), &mut Vec::new()).await;
    for path in [format!("/subscribers/{id}"), "/subjects/s".to_owned()] {
        for headers in [("origin", "https://evil.example"), ("sec-fetch-site", "cross-site")] {
            server.ask("DELETE", &path, &[headers], b"").await.problem(403, "cross_site");
        }
    }
    let id = server.publish("a", "still here").await;
    assert_eq!(stream.take(1).await[0].id, id);
}

#[tokio::test]
async fn each_ending_and_deletion_has_one_audit_line() {
    // Goal: who and what, in one line that a client cannot forge; nothing of what is refused or only read.
    let mut command: Command = program();
    let mut server = Process::spawn(command.args(["--listen", "127.0.0.1:0"])).await;
    let client = reqwest::Client::new();
    let stream = server.subscribe("topic=a").await;
    server.publish(&client, "a", "x").await;
    let list = reqwest::get(server.url("/topics/a/subscribers")).await.expect("an answer");
    let list: serde_json::Value = list.json().await.expect("JSON");
    let id = list["subscribers"][0]["id"].as_str().expect("an id").to_owned();
    let paths = [
        (format!("/subscribers/{id}"), 204),
        (format!("/subscribers/{id}"), 404),
        ("/subjects/a%0Ab".to_owned(), 204),
        ("/topics/a".to_owned(), 204),
        ("/topics/unknown".to_owned(), 404),
    ];
    for (path, status) in paths {
        let answer = client.delete(server.url(&path)).send().await.expect("an answer");
        assert_eq!(answer.status(), status, "{path}");
    }
    drop(stream);
    server.signal("TERM").await;
    server.exit().await;
    let (_, log) = server.last_words().await;
    let lines: Vec<&str> = log.lines().filter(|line| line.contains("tidings::audit")).collect();
    let [subscriber, subject, topic] = lines[..] else { panic!("three lines: {log}") };
    for (line, action, what) in
        [(subscriber, "end_subscriber", id.as_str()), (subject, "end_subject", r"a\nb"), (topic, "delete_topic", "a")]
    {
        for part in [action, what, "anonymous", "127.0.0.1"] {
            assert!(line.contains(part), "{part} in {line}");
        }
    }
}
