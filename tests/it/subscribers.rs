//! `GET /topics/{topic}/subscribers`, `/subscribers/{id}`, `DELETE /subjects/{name}`.

use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use crate::harness::{Stream, TestServer};

pub mod ending;
mod rights;

const LINES: (&str, &str) = ("accept", "application/x-ndjson");

fn server(workers: usize, configure: impl FnOnce(&mut tidings::config::Config)) -> TestServer {
    TestServer::with(|config| {
        config.server.workers = workers;
        configure(config);
    })
}

/// The subscribers of a topic: the page at `query`.
async fn page(server: &TestServer, topic: &str, query: &str) -> Value {
    server.ask("GET", &format!("/topics/{topic}/subscribers{query}"), &[], b"").await.ok()
}

/// The ids on a page.
fn ids(page: &Value) -> Vec<String> {
    let subscribers = page["subscribers"].as_array().expect("a list");
    subscribers.iter().map(|subscriber| subscriber["id"].as_str().expect("an id").to_owned()).collect()
}

/// Waits until the hubs have `n` subscribers of the topic, and returns their ids.
async fn until_listed(server: &TestServer, topic: &str, n: usize) -> Vec<String> {
    let mut listed = Vec::new();
    crate::harness::until(&format!("{n} subscribers of {topic} in the list"), async || {
        listed = ids(&page(server, topic, "?limit=1000").await);
        listed.len() == n
    })
    .await;
    listed
}

#[tokio::test]
async fn a_topic_lists_its_subscribers_in_pages() {
    // Goal: of all workers and formats, sorted by id, each once, with the time and the cursor of each.
    for workers in [1, 3] {
        let server = server(workers, |_| {});
        let begin = SystemTime::now() - Duration::from_millis(1);
        let mut streams: Vec<Stream> = Vec::new();
        for n in 0..30 {
            let query = if n % 2 == 0 { "/subscribe?topic=a" } else { "/subscribe?topic=a&topic=b" };
            let accept = if n % 3 == 0 { LINES } else { ("accept", "text/event-stream") };
            streams.push(server.get(query, &[accept]).await);
        }
        let other = server.subscribe("topic=b").await;
        let all = until_listed(&server, "a", 30).await;
        assert!(all.is_sorted_by(|a, b| a < b), "{all:?}");
        let id = server.publish("a", "one").await;
        for stream in &mut streams {
            while !String::from_utf8_lossy(&stream.body).contains(&id) {
                assert!(stream.read().await);
            }
        }
        let whole = page(&server, "a", "").await;
        assert_eq!((ids(&whole), &whole["next"]), (all.clone(), &Value::Null), "nothing follows");
        for subscriber in whole["subscribers"].as_array().expect("a list") {
            assert_eq!(subscriber["cursor"], json!(id));
            let since = humantime::parse_rfc3339(subscriber["since"].as_str().expect("a time")).expect("RFC 3339");
            assert!((begin..=SystemTime::now()).contains(&since), "{subscriber}");
        }
        for limit in [1, 7, 29, 30] {
            let (mut pages, mut query) = (Vec::new(), format!("?limit={limit}"));
            loop {
                let page = page(&server, "a", &query).await;
                assert!(ids(&page).len() <= limit);
                pages.extend(ids(&page));
                let Some(next) = page["next"].as_str() else { break };
                query = format!("?limit={limit}&after={next}");
            }
            assert_eq!(pages, all, "in pages of {limit}");
        }
        let one = server.ask("GET", &format!("/subscribers/{}", all[0]), &[], b"").await.ok();
        assert_eq!((&one["id"], &one["cursor"], &one["topics"][0]), (&json!(all[0]), &json!(id), &json!("a")));
        drop((streams, other));
        until_listed(&server, "a", 0).await;
    }
}

#[tokio::test]
async fn what_a_list_cannot_be_asked_is_refused() {
    // Goal: the limit of a page at its bounds and past them, ids that are none, topics that nobody used.
    let server = TestServer::start();
    server.publish("a", "x").await;
    for limit in [1, 1000] {
        assert_eq!(page(&server, "a", &format!("?limit={limit}")).await, json!({"subscribers": []}));
    }
    for query in ["?limit=0", "?limit=1001", "?limit=x", "?limit=", "?after=x", "?after="] {
        let path = format!("/topics/a/subscribers{query}");
        server.ask("GET", &path, &[], b"").await.problem(400, "bad_parameter");
    }
    server.ask("GET", "/topics/a/subscribers?limit=1&limit=2", &[], b"").await.problem(400, "repeated");
    server.ask("GET", "/topics/b/subscribers", &[], b"").await.problem(404, "topic_unknown");
    for id in ["x", "0000-00000000-00000000", "ffff-00000000-00000000", "0000-ffffffff-00000000"] {
        for method in ["GET", "DELETE"] {
            let path = format!("/subscribers/{id}");
            server.ask(method, &path, &[], b"").await.problem(404, "subscriber_unknown");
        }
    }
    server.ask("GET", "/subscribers/%ff", &[], b"").await.problem(400, "bad_utf8");
    for path in ["/subscribers", "/subscribers/", "/subjects", "/subjects/"] {
        server.ask("DELETE", path, &[], b"").await.problem(404, "not_found");
    }
    let allowed = [
        ("DELETE", "/topics/a/subscribers", "GET"),
        ("PUT", "/subscribers/0000-00000000-00000000", "GET, DELETE"),
        ("GET", "/subjects/s", "DELETE"),
    ];
    for (method, path, allow) in allowed {
        let answer = server.ask(method, path, &[], b"").await;
        answer.problem(405, "method_not_allowed");
        assert_eq!(answer.header("allow"), Some(allow), "{answer:?}");
    }
    assert_eq!(server.ask("GET", "/topics/a", &[], b"").await.ok()["events"], 1, "nothing was deleted");
}

#[tokio::test]
async fn a_topic_whose_name_ends_like_the_route_is_reached_with_an_encoded_slash() {
    // Goal: no topic is out of reach, and the path is divided before it is decoded.
    let server = TestServer::start();
    server.publish("a/subscribers", "x").await;
    server.publish("a", "y").await;
    assert_eq!(server.held("a%2Fsubscribers").await["topic"], "a/subscribers");
    assert_eq!(page(&server, "a", "").await, json!({"subscribers": []}));
    assert_eq!(page(&server, "a%2Fsubscribers", "").await, json!({"subscribers": []}));
    assert_eq!(page(&server, "a/subscribers", "").await, json!({"subscribers": []}));
    let answer = server.ask("DELETE", "/topics/a%2Fsubscribers", &[], b"").await;
    assert_eq!(answer.status, 204, "{answer:?}");
    assert_eq!(server.held("a").await["events"], 1);
}
