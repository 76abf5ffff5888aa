//! `GET|POST|PUT /publish`.

use serde_json::json;

use crate::harness::{TestServer, encoded};

mod bodies;
mod guards;
mod idempotency;
mod refusals;
mod sizes;
mod spelling;

#[tokio::test]
async fn get_post_and_put_publish() {
    // Every method that publishes does so, and the answer has exactly the promised members.
    let server = TestServer::start();
    let mut stream = server.subscribe("topic=news&envelope=json").await;
    for method in ["GET", "POST", "PUT"] {
        let answer = server.ask(method, &format!("/publish?topic=news&content={method}"), &[], b"").await;
        let block = stream.next().await.expect("an event");
        let expected = json!({"id": block.id, "topic": "news", "subscribers": 1, "durability": "disk"});
        assert_eq!(answer.ok(), expected);
        assert_eq!(answer.header("content-type"), Some("application/json"));
        assert_eq!(answer.header("cache-control"), Some("no-store"));
        assert_eq!(answer.header("idempotency-replayed"), None);
        let envelope: serde_json::Value = serde_json::from_str(&block.data).expect("JSON");
        assert_eq!(envelope["data"], method);
    }
}

#[tokio::test]
async fn an_answer_means_that_the_log_has_the_event() {
    // Every acknowledged event is there for the next subscriber.
    let server = TestServer::start();
    for n in 0..50 {
        let id = server.publish("news", &n.to_string()).await;
        let mut stream = server.subscribe("topic=news&last=1").await;
        let block = stream.next().await.expect("an event");
        assert_eq!((block.id, block.data), (id, n.to_string()));
    }
}

#[tokio::test]
async fn several_topics_each_get_the_event() {
    // Repeated topics, in the query, the body or both, are published to once each and answered as a list in order.
    let form = ("content-type", "application/x-www-form-urlencoded");
    let json = ("content-type", "application/json");
    let cases: &[(&str, (&str, &str), &str, &[&str])] = &[
        ("topic=a&topic=b&content=x", form, "", &["a", "b"]),
        ("topic=a&topic=b&topic=a", ("content-type", "text/plain"), "x", &["a", "b"]),
        ("topic=a&topic=a&content=x", form, "", &["a"]),
        ("", form, "topic=b&topic=a&content=x", &["b", "a"]),
        ("topic=c", form, "topic=b&content=x", &["c", "b"]),
        ("topic=c&content=x", form, "topic=b", &["c", "b"]),
        ("", json, r#"{"topic":["a","b","c","b"],"content":"x"}"#, &["a", "b", "c"]),
        ("topic=b", json, r#"{"topic":"a","content":"x"}"#, &["b", "a"]),
    ];
    for (query, header, body, topics) in cases {
        let server = TestServer::start();
        let answer = server.ask("POST", &format!("/publish?{query}"), &[*header], body.as_bytes()).await;
        let answered = answer.ok();
        let published = answered["published"].as_array().unwrap_or_else(|| panic!("a list: {answer:?}"));
        let names: Vec<_> = published.iter().map(|receipt| receipt["topic"].as_str().expect("a name")).collect();
        assert_eq!(names, *topics, "{answer:?}");
        for (topic, receipt) in topics.iter().zip(published) {
            let held = server.ask("GET", &format!("/topics/{topic}"), &[], b"").await.ok();
            assert_eq!((held["events"].as_u64(), &held["last_id"]), (Some(1), &receipt["id"]), "{answer:?}");
            assert_eq!((&receipt["subscribers"], &receipt["durability"]), (&json!(0), &json!("disk")));
        }
    }
}

#[tokio::test]
async fn a_list_of_one_topic_is_answered_as_one() {
    // The shape of the answer depends on how many topics were named, not on how they were spelled.
    let server = TestServer::start();
    let body = br#"{"topic":["a"],"content":"x"}"#;
    let answer = server.ask("POST", "/publish", &[("content-type", "application/json")], body).await.ok();
    assert_eq!((&answer["topic"], answer.get("published")), (&json!("a"), None));
}

#[tokio::test]
async fn an_answer_names_the_topic_whatever_it_is_called() {
    let server = TestServer::start();
    for (query, names) in [
        ("topic=%22a%5Cb%2F%22", vec!["\"a\\b/\""]),
        ("topic=%E2%80%A8%3C%2Fscript%3E", vec!["\u{2028}</script>"]),
        ("topic=sixteen-bytes-%C3%A9&topic=%22", vec!["sixteen-bytes-é", "\""]),
    ] {
        let answer = server.ask("POST", &format!("/publish?{query}&content=x"), &[], b"").await.ok();
        let receipts = answer["published"].as_array().cloned().unwrap_or_else(|| vec![answer.clone()]);
        let named: Vec<_> = receipts.iter().map(|receipt| receipt["topic"].as_str().expect("a name")).collect();
        assert_eq!(named, names, "{answer}");
        assert!(receipts.iter().all(|receipt| receipt.as_object().is_some_and(|object| object.len() == 4)), "{answer}");
    }
}

#[tokio::test]
async fn ids_grow_over_all_topics() {
    // One sequence for the whole log: that is what lets one id resume any set of topics.
    let server = TestServer::start();
    let mut last = 0;
    for n in 0..20 {
        let id = server.publish(&format!("topic-{}", n % 3), "x").await;
        let (epoch, seq) = id.split_once('-').expect("two parts");
        assert!(epoch.len() == 8 && epoch.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()), "{id}");
        let seq: u64 = seq.parse().expect("a number");
        assert_eq!(seq, last + 1);
        last = seq;
    }
}

#[tokio::test]
async fn the_number_of_subscribers_is_that_of_the_topic() {
    // A publisher learns who listens to its topic, and nobody of another topic is counted.
    let server = TestServer::start();
    let first = server.subscribe("topic=a").await;
    let _other = server.subscribe("topic=b").await;
    let _both = server.subscribe("topic=a&topic=b").await;
    assert_eq!(server.ask("GET", "/publish?topic=a&content=x", &[], b"").await.ok()["subscribers"], 2);
    drop(first);
    server.until_subscribers("a", 1).await;
    assert_eq!(server.ask("GET", "/publish?topic=a&content=x", &[], b"").await.ok()["subscribers"], 1);
}

#[tokio::test]
async fn an_event_name_reaches_the_subscriber() {
    // From wherever it is given; an empty one is none, as in the stream's own format.
    let server = TestServer::start();
    let mut stream = server.subscribe("topic=a").await;
    let cases = [
        ("topic=a&content=x&event=tick", "", "", "tick"),
        ("", "application/x-www-form-urlencoded", "topic=a&content=x&event=tock", "tock"),
        ("", "application/json", r#"{"topic":"a","content":"x","event":"订单: 1"}"#, "订单: 1"),
        ("topic=a&event=raw", "text/plain", "x", "raw"),
        ("topic=a&event=form", "application/x-www-form-urlencoded", "content=x", "form"),
        ("topic=a&content=x", "application/x-www-form-urlencoded", "event=query", "query"),
        ("topic=a&content=x&event=", "", "", "message"),
        ("", "application/json", r#"{"topic":"a","content":"x","event":""}"#, "message"),
        ("", "application/json", r#"{"topic":"a","content":"x","event":null}"#, "message"),
        ("topic=a&content=x&event=brokers", "", "", "brokers"),
    ];
    for (query, content_type, body, name) in cases {
        let headers = [("content-type", content_type)];
        let headers = if content_type.is_empty() { &headers[..0] } else { &headers };
        server.ask("POST", &format!("/publish?{query}"), headers, body.as_bytes()).await.ok();
        let block = stream.next().await.expect("an event");
        assert_eq!((block.event.as_str(), block.data.as_str()), (name, "x"), "{query} {body}");
    }
}

#[tokio::test]
async fn names_at_their_limits_are_taken() {
    // The longest topic and event name, in bytes and not in characters.
    let server = TestServer::start();
    for (topic, event) in [("t".repeat(255), "e".repeat(128)), ("订".repeat(85), "单".repeat(42) + "ab")] {
        let mut stream = server.subscribe(&format!("topic={}", encoded(&topic))).await;
        let path = format!("/publish?topic={}&event={}&content=x", encoded(&topic), encoded(&event));
        assert_eq!(server.ask("POST", &path, &[], b"").await.ok()["topic"], topic);
        assert_eq!(stream.next().await.expect("an event").event, event);
    }
}

#[tokio::test]
async fn get_can_be_turned_off() {
    // With `publish.allow_get = false` a GET publishes nothing, and no answer says that it might.
    let server = TestServer::with(|config| config.publish.allow_get = false);
    for method in ["GET", "DELETE"] {
        let answer = server.ask(method, "/publish?topic=a&content=x", &[], b"").await;
        answer.problem(405, "method_not_allowed");
        assert_eq!(answer.header("allow"), Some("POST, PUT"), "{method}");
    }
    server.ask("GET", "/topics/a", &[], b"").await.problem(404, "topic_unknown");
    server.ask("POST", "/publish?topic=a&content=x", &[], b"").await.ok();
    server.ask("PUT", "/publish?topic=a&content=x", &[], b"").await.ok();
}
