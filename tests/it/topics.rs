//! `GET` and `DELETE /topics/{topic}`.

use serde_json::json;

use crate::harness::{TestServer, encoded};

pub mod deletion;
mod epochs;
mod later;

#[tokio::test]
async fn a_topic_tells_what_it_holds() {
    // Subscribers, the first and last id held, events and bytes; null where there is nothing.
    let server = TestServer::with(|config| config.log.topic_events_max = 2);
    let stream = server.subscribe("topic=a").await;
    let expected = json!({"topic": "a", "subscribers": 1, "first_id": null, "last_id": null, "events": 0, "bytes": 0});
    assert_eq!(server.ask("GET", "/topics/a", &[], b"").await.ok(), expected);
    let first = server.publish("a", "one").await;
    let one = server.ask("GET", "/topics/a", &[], b"").await.ok();
    let bytes = one["bytes"].as_u64().expect("a number");
    assert!(bytes > 3, "{one}");
    let expected =
        json!({"topic": "a", "subscribers": 1, "first_id": first, "last_id": first, "events": 1, "bytes": bytes});
    assert_eq!(one, expected);
    let second = server.publish("a", "two").await;
    let third = server.publish("a", "three").await;
    drop(stream);
    server.until_subscribers("a", 0).await;
    let two = server.ask("GET", "/topics/a", &[], b"").await.ok();
    assert_eq!((&two["first_id"], &two["last_id"], &two["events"]), (&json!(second), &json!(third), &json!(2)));
    assert!(two["bytes"].as_u64() > Some(bytes));
}

#[tokio::test]
async fn a_topic_nobody_used_is_unknown() {
    // 404 for both methods; asking makes no topic.
    let server = TestServer::start();
    for _ in 0..2 {
        server.ask("GET", "/topics/a", &[], b"").await.problem(404, "topic_unknown");
        server.ask("DELETE", "/topics/a", &[], b"").await.problem(404, "topic_unknown");
    }
}

#[tokio::test]
async fn bad_names_are_refused() {
    // As anywhere else; and the bare address is no topic.
    let server = TestServer::start();
    let long = format!("/topics/{}", "t".repeat(256));
    let cases = [
        (long.as_str(), 400, "bad_topic"),
        ("/topics/a%0Ab", 400, "bad_topic"),
        ("/topics/%00", 400, "bad_topic"),
        ("/topics/%ff", 400, "bad_utf8"),
        ("/topics/%zz", 400, "bad_encoding"),
        ("/topics/", 404, "not_found"),
        ("/topics", 404, "not_found"),
    ];
    for (path, status, code) in cases {
        server.ask("GET", path, &[], b"").await.problem(status, code);
        server.ask("DELETE", path, &[], b"").await.problem(status, code);
    }
}

/// Names with what paths, queries and forms treat as special.
const NAMES: [&str; 20] = [
    "plain",
    "with space",
    "a/b/c",
    "/leading",
    "trailing/",
    "a//b",
    "/",
    "100%",
    "%41",
    "%2F",
    "a+b",
    "a&b=c",
    "a?b#c",
    "a;b,c",
    "..",
    "./a",
    "订单/№ 7",
    "🦀",
    "\u{2028}\u{feff}",
    "\"quoted\" \\ <b>",
];

#[tokio::test]
async fn names_mean_the_same_everywhere() {
    // What is published under a name is found, read and deleted under it, and nothing under another one.
    let server = TestServer::start();
    for name in NAMES {
        server.publish(name, name).await;
    }
    for name in NAMES {
        let path = format!("/topics/{}", encoded(name));
        let topic = server.ask("GET", &path, &[], b"").await.ok();
        assert_eq!((&topic["topic"], &topic["events"]), (&json!(name), &json!(1)));
        let mut stream = server.subscribe(&format!("topic={}&since=all", encoded(name))).await;
        assert_eq!(stream.next().await.expect("an event").data, name);
        assert_eq!(server.ask("DELETE", &path, &[], b"").await.status, 204, "{name}");
        assert_eq!(stream.next().await.expect("a notice").data, json!({"topic": name}).to_string());
    }
    for name in NAMES {
        let topic = server.ask("GET", &format!("/topics/{}", encoded(name)), &[], b"").await.ok();
        assert_eq!(topic["events"], 0, "{name}");
    }
}

#[tokio::test]
async fn a_path_may_spell_a_name_as_it_is() {
    // A slash or a plus in a path needs no encoding (RFC 3986, section 3.3), wherever in the name it stands.
    let server = TestServer::start();
    let names =
        ["a/b", "a//b", "/leading", "trailing/", "a+b", "a:b@c", "topics/a", "/topics/a", "/topics//topics/a", "a"];
    for name in names {
        server.publish(name, name).await;
    }
    for name in names {
        let topic = server.ask("GET", &format!("/topics/{name}"), &[], b"").await.ok();
        assert_eq!(topic["topic"], name);
    }
    // Of a name that begins as the address does, too: nothing else is deleted in its place.
    assert_eq!(server.ask("DELETE", "/topics//topics/a", &[], b"").await.status, 204);
    assert_eq!(server.ask("GET", "/topics/a", &[], b"").await.ok()["events"], 1);
    assert_eq!(server.ask("GET", "/topics/%2Ftopics%2Fa", &[], b"").await.ok()["events"], 0);
}

#[tokio::test]
async fn case_and_normal_form_tell_names_apart() {
    // Names are bytes: two that merely look alike are two topics.
    let server = TestServer::start();
    let mut stream = server.subscribe("topic=news&since=all").await;
    for name in ["News", "NEWS", "news ", "n\u{e9}ws", "ne\u{301}ws", "\u{feff}news"] {
        server.publish(name, name).await;
    }
    server.publish("news", "this one").await;
    assert_eq!(stream.next().await.expect("an event").data, "this one");
}
