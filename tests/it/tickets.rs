//! `POST /tickets`, and `/subscribe?ticket=`.

use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use tidings::config::{Config, Origins, Size};

use crate::{
    auth::{seconds_from_now, token, with_keys},
    harness::{Answer, FOR_THE_FALLBACK, READERS, Stream, TestServer},
};

mod ends;

const JSON: (&str, &str) = ("content-type", "application/json");
const SSE: (&str, &str) = ("accept", "text/event-stream");
const INVALID: &str = "Bearer realm=\"tidings\", error=\"invalid_token\"";

/// The credential of `subject`, who may subscribe to `a/…`, `b` and `c`, and manage everything, until `exp`.
fn bearer_until(subject: &str, exp: u64) -> String {
    let rights = json!({"publish": ["**"], "subscribe": ["a/**", "a", "b", "c"], "manage": ["**"]});
    format!("Bearer {}", token(subject, &rights, exp))
}

fn bearer(subject: &str) -> String {
    bearer_until(subject, seconds_from_now(600))
}

/// Asks for a ticket.
async fn ask(server: &TestServer, credential: &str, body: &str, more: &[(&str, &str)]) -> Answer {
    let headers = [&[("authorization", credential), JSON], more].concat();
    server.ask("POST", "/tickets", &headers, body.as_bytes()).await
}

/// The ticket that an answer gives.
fn given(answer: &Answer) -> String {
    assert_eq!(answer.status, 201, "{answer:?}");
    let headers = ["cache-control", "x-content-type-options", "content-type"].map(|name| answer.header(name));
    assert_eq!(headers, [Some("no-store"), Some("nosniff"), Some("application/json")], "{answer:?}");
    answer.json()["ticket"].as_str().expect("a ticket").to_owned()
}

/// A ticket for the topics.
async fn take(server: &TestServer, credential: &str, topics: &[&str]) -> String {
    given(&ask(server, credential, &json!({"topics": topics}).to_string(), &[]).await)
}

/// What is added to a request for each of the two readers.
fn readers() -> [Vec<(&'static str, &'static str)>; 2] {
    [vec![], vec![FOR_THE_FALLBACK]]
}

async fn open(server: &TestServer, query: &str, more: &[(&str, &str)]) -> Stream {
    server.get(&format!("/subscribe?{query}"), more).await
}

async fn publish(server: &TestServer, topic: &str, content: &str) -> String {
    let path = format!("/publish?topic={topic}&content={content}");
    let answer = server.ask("POST", &path, &[("authorization", &bearer("publisher"))], b"").await.ok();
    answer["id"].as_str().expect("an id").to_owned()
}

#[tokio::test]
async fn a_ticket_opens_one_stream_and_is_used_up() {
    // Goal: through both readers, taken and used: the first use gets the events, the second one 401.
    let server = TestServer::with(with_keys);
    for more in readers() {
        let answer = ask(&server, &bearer("ann"), r#"{"topics": ["a", "b"]}"#, &more).await;
        let ticket = given(&answer);
        let expires = answer.json()["expires"].as_str().expect("a time").to_owned();
        let left = humantime::parse_rfc3339(&expires).expect("RFC 3339").duration_since(SystemTime::now());
        assert!((25..=30).contains(&left.expect("later").as_secs()), "{expires}");
        assert_eq!(answer.json().as_object().expect("an object").len(), 2, "{answer:?}");
        let query = format!("topic=a&topic=b&ticket={ticket}");
        let mut stream = open(&server, &query, &[&[SSE], &*more].concat()).await;
        assert_eq!(stream.status, 200);
        let id = publish(&server, "b", "x").await;
        assert_eq!(stream.take(1).await[0].id, id);
        for accept in [None, Some(("accept", "*/*")), Some(("accept", "application/x-ndjson"))] {
            let headers: Vec<_> = accept.into_iter().chain(more.clone()).collect();
            let answer = server.ask("GET", &format!("/subscribe?{query}"), &headers, b"").await;
            answer.problem(401, "unauthorized");
            assert_eq!(answer.header("www-authenticate"), Some(INVALID));
            assert!(!answer.body.contains(&ticket), "{answer:?}");
        }
    }
}

#[tokio::test]
async fn an_event_source_with_a_spent_ticket_is_told_and_waits() {
    // Goal: 200, one block with the cursor that it sent, `retry` as for a refused subscriber, and the end; whatever the
    // ticket is. The cursor stays, so a new ticket resumes.
    let server = TestServer::with(|config| {
        with_keys(config);
        config.stream.retry = Duration::from_secs(10);
    });
    let id = publish(&server, "a", "x").await;
    let spent = take(&server, &bearer("ann"), &["a"]).await;
    drop(open(&server, &format!("topic=a&ticket={spent}"), &[SSE]).await);
    for more in readers() {
        for ticket in [spent.as_str(), &"0".repeat(48), "", "x"] {
            for (query, header) in [("", Some(id.as_str())), (&*format!("&lastEventId={id}"), None), ("", None)] {
                let headers = [Some(SSE), header.map(|id| ("last-event-id", id))];
                let headers: Vec<_> = headers.into_iter().flatten().chain(more.clone()).collect();
                let mut stream =
                    open(&server, &format!("topic=a&envelope=json&ticket={ticket}{query}"), &headers).await;
                assert_eq!(
                    (stream.status, stream.header("content-type")),
                    (200, Some("text/event-stream; charset=utf-8"))
                );
                assert!(stream.header("content-length").is_some() && stream.chunks.is_none(), "{:?}", stream.headers);
                let blocks = stream.all().await;
                assert_eq!(blocks.len(), 1, "{blocks:?}");
                let notice: Value = serde_json::from_str(&blocks[0].data).expect("JSON");
                assert_eq!(
                    (blocks[0].event.as_str(), &notice["code"]),
                    ("broker.unauthorized", &json!("unauthorized"))
                );
                let has_cursor = header.is_some() || !query.is_empty();
                assert_eq!(stream.last_event_id(), if has_cursor { id.as_str() } else { "" });
                let retry = stream.retry().expect("a time to wait");
                assert!((32_000..=48_000).contains(&retry), "four times as long, with jitter: {retry}");
            }
        }
        let fresh = take(&server, &bearer("ann"), &["a"]).await;
        let missed = publish(&server, "a", "missed").await;
        let query = format!("topic=a&ticket={fresh}&lastEventId={id}");
        let mut back = open(&server, &query, &[&[SSE], &*more].concat()).await;
        let blocks = back.take(1).await;
        assert!(blocks[0].event != "broker.gap" && blocks[0].data != "x", "{blocks:?}");
        drop(missed);
    }
}

#[tokio::test]
async fn a_ticket_is_for_its_topics_only_and_used_up_by_a_refusal() {
    let server = TestServer::with(with_keys);
    for more in readers() {
        for (query, status) in
            [("topic=a&topic=c", 403), ("topic=c", 403), ("topic=a&topic=", 400), ("since=x&topic=a", 400)]
        {
            let ticket = take(&server, &bearer("ann"), &["a", "b"]).await;
            let answer = server
                .ask("GET", &format!("/subscribe?{query}&ticket={ticket}"), &[&[SSE], &*more].concat(), b"")
                .await;
            if status == 403 {
                let problem = answer.problem(403, "forbidden");
                assert_eq!((&problem["topic"], &problem["right"]), (&json!("c"), &json!("subscribe")), "{problem}");
                assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains("the ticket")), "{problem}");
            } else {
                assert_eq!(answer.status, status, "{answer:?}");
            }
            let again = server.ask("GET", &format!("/subscribe?topic=a&ticket={ticket}"), &more, b"").await;
            again.problem(401, "unauthorized");
        }
        // Some of its topics are enough.
        let ticket = take(&server, &bearer("ann"), &["a", "b"]).await;
        assert_eq!(open(&server, &format!("topic=b&ticket={ticket}"), &[&[SSE], &*more].concat()).await.status, 200);
    }
}

#[tokio::test]
async fn a_ticket_counts_before_other_credentials_and_head_does_not_use_it_up() {
    let server = TestServer::with(|config| {
        with_keys(config);
        config.auth.query_token = true;
        "session".clone_into(&mut config.auth.cookie);
    });
    for more in readers() {
        let ticket = take(&server, &bearer("ann"), &["a"]).await;
        let path = format!("/subscribe?topic=a&ticket={ticket}");
        for _ in 0..2 {
            let answer = server.ask("HEAD", &path, &[&[SSE], &*more].concat(), b"").await;
            assert_eq!(answer.status, 200, "{answer:?}");
        }
        let other = [("authorization", "Bearer x"), ("cookie", "session=x"), SSE];
        let stream = server.get(&format!("{path}&access_token=x"), &[&other, &*more].concat()).await;
        assert_eq!(stream.status, 200, "the other credentials are not looked at");
        assert_eq!(server.ask("HEAD", &path, &more, b"").await.status, 401);
        // A good token does not help a ticket that is used up.
        let good = bearer("ann");
        let answer = server.ask("GET", &path, &[&[("authorization", good.as_str())], &*more].concat(), b"").await;
        answer.problem(401, "unauthorized");
        let twice = format!("/subscribe?topic=a&ticket={ticket}&ticket={ticket}");
        server.ask("GET", &twice, &more, b"").await.problem(400, "repeated");
        // Elsewhere, a ticket is no credential.
        let ticket = take(&server, &bearer("ann"), &["a"]).await;
        for (method, path) in [("POST", "/publish?topic=a&content=x&"), ("POST", "/tickets?"), ("GET", "/topics/a?")] {
            let headers = [&[JSON], &*more].concat();
            let answer = server.ask(method, &format!("{path}ticket={ticket}&access_token="), &headers, b"").await;
            answer.problem(401, "unauthorized");
        }
    }
}

#[tokio::test]
async fn a_ticket_is_given_for_what_the_token_may_and_only_for_a_token() {
    // Also where callers without a token may do everything: a ticket stands for a token.
    for server in [TestServer::with(with_keys), TestServer::start()] {
        for more in readers() {
            let headers = [&[JSON], &*more].concat();
            let answer = server.ask("POST", "/tickets", &headers, br#"{"topics": ["a"]}"#).await;
            answer.problem(401, "unauthorized");
            assert_eq!(answer.header("www-authenticate"), Some("Bearer realm=\"tidings\""));
            ask(&server, "Bearer x", r#"{"topics": ["a"]}"#, &more).await.problem(401, "unauthorized");
        }
    }
    let server = TestServer::with(with_keys);
    for more in readers() {
        let problem = ask(&server, &bearer("ann"), r#"{"topics": ["a", "d"]}"#, &more).await.problem(403, "forbidden");
        assert_eq!((&problem["topic"], &problem["right"]), (&json!("d"), &json!("subscribe")));
        ask(&server, "Bearer abc", r#"{"topics": ["a"]}"#, &more).await.problem(403, "forbidden");
        ask(&server, &bearer("ann"), r#"{"topics": ["a/1", "a"]}"#, &more).await.json();
    }
}

#[tokio::test]
async fn what_is_no_request_for_a_ticket_is_refused() {
    let server = TestServer::with(|config| {
        with_keys(config);
        config.limits.topics_per_request_max = 2;
        config.limits.topic_bytes_max = Size::new(10);
    });
    let ann = bearer("ann");
    // Two topics of ten bytes, each of which may be written as an escape of six.
    let body_max = 2 * (10 * 6 + 8) + 1024;
    let sized = |length: usize| format!("{{\"topics\": [\"a\"]{}}}", " ".repeat(length - 17));
    for more in readers() {
        for body in [
            "",
            "{",
            "null",
            "[]",
            "{}",
            "\"a\"",
            r#"["a"]"#,
            r#"{"topics": "a"}"#,
            r#"{"topics": null}"#,
            r#"{"topics": [1]}"#,
            r#"{"topics": [["a"]]}"#,
            r#"{"topics": {"a": 1}}"#,
            r#"{"topics": ["a"], "x": 1}"#,
            r#"{"topic": ["a"]}"#,
            r#"{"topics": ["a"], "topics": ["b"]}"#,
            r#"{"topics": ["a"]} x"#,
            r#"{"topics": ["\ud800"]}"#,
        ] {
            let problem = ask(&server, &ann, body, &more).await.problem(400, "bad_json");
            assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains("topics")), "{problem}");
        }
        ask(&server, &ann, r#"{"topics": []}"#, &more).await.problem(400, "topic_missing");
        ask(&server, &ann, r#"{"topics": [""]}"#, &more).await.problem(400, "bad_topic");
        ask(&server, &ann, r#"{"topics": ["a\n"]}"#, &more).await.problem(400, "bad_topic");
        given(&ask(&server, &ann, r#"{"topics": ["a/34567890"]}"#, &more).await);
        ask(&server, &ann, r#"{"topics": ["a/345678901"]}"#, &more).await.problem(400, "bad_topic");
        given(&ask(&server, &ann, r#"{"topics": ["a", "b"]}"#, &more).await);
        let problem =
            ask(&server, &ann, r#"{"topics": ["a", "b", "c"]}"#, &more).await.problem(400, "too_many_topics_named");
        assert_eq!((&problem["limit"], &problem["given"]), (&json!(2), &json!(3)));
        given(&ask(&server, &ann, &sized(body_max), &more).await);
        let problem = ask(&server, &ann, &sized(body_max + 1), &more).await.problem(413, "too_large");
        assert_eq!(problem["limit"], json!(body_max));
        let not_utf8 = [("authorization", ann.as_str()), JSON];
        let body = b"{\"topics\": [\"\xff\"]}";
        server.ask("POST", "/tickets", &[&not_utf8, &*more].concat(), body).await.problem(400, "bad_utf8");
        for media_type in [
            None,
            Some("text/plain"),
            Some("application/x-www-form-urlencoded"),
            Some("application/json; charset=latin1"),
        ] {
            let headers = [Some(("authorization", ann.as_str())), media_type.map(|value| ("content-type", value))];
            let headers: Vec<_> = headers.into_iter().flatten().chain(more.clone()).collect();
            let answer = server.ask("POST", "/tickets", &headers, br#"{"topics": ["a"]}"#).await;
            answer.problem(415, "unsupported_media_type");
        }
        let utf8 = [("authorization", ann.as_str()), ("content-type", "Application/JSON; charset=UTF-8")];
        given(&server.ask("POST", "/tickets", &[&utf8, &*more].concat(), br#"{"topics": ["a"]}"#).await);
        for method in ["GET", "HEAD", "PUT", "DELETE", "OPTIONS"] {
            let answer = server.ask(method, "/tickets", &more, b"").await;
            assert_eq!((answer.status, answer.header("allow")), (405, Some("POST")), "{answer:?}");
        }
    }
}

#[tokio::test]
async fn a_body_in_chunks_gets_a_ticket_too() {
    let server = TestServer::with(with_keys);
    let ann = bearer("ann");
    for reader in READERS {
        let head = format!(
            "POST /tickets HTTP/1.1\r\nHost: localhost\r\nAuthorization: {ann}\r\nContent-Type: application/json\r\n\
             {reader}Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
        );
        let request = format!("{head}c\r\n{{\"topics\": [\r\n5\r\n\"a\"]}}\r\n0\r\n\r\n");
        given(&server.ask_bytes(request.as_bytes()).await);
        let long = format!("{head}40000\r\n{}\r\n0\r\n\r\n", " ".repeat(0x40000));
        server.ask_bytes(long.as_bytes()).await.problem(413, "too_large");
    }
}

#[tokio::test]
async fn only_a_page_that_may_use_the_broker_gets_a_ticket() {
    // A cookie is sent by the browser for every page, so the page must say where it is from; another page is refused, and
    // one of a listed origin can read its ticket, after a preflight.
    let cookie = format!("session={}", bearer("ann").trim_start_matches("Bearer "));
    let configure = |origins: Vec<String>| {
        move |config: &mut Config| {
            with_keys(config);
            "session".clone_into(&mut config.auth.cookie);
            config.cors.origins = Origins::Only(origins);
        }
    };
    let body = br#"{"topics": ["a"]}"#;
    let closed = TestServer::with(configure(Vec::new()));
    let listed = "https://app.example";
    let server = TestServer::with(configure(vec![listed.to_owned()]));
    let ann = bearer("ann");
    for more in readers() {
        let ask = async |server: &TestServer, headers: &[(&str, &str)]| {
            server.ask("POST", "/tickets", &[headers, &[JSON], &*more].concat(), body).await
        };
        ask(&server, &[("cookie", &cookie)]).await.problem(403, "cross_site");
        ask(&server, &[("cookie", &cookie), ("origin", "https://evil.example")]).await.problem(403, "cross_site");
        ask(&closed, &[("authorization", &ann), ("origin", listed)]).await.problem(403, "cross_site");
        given(&ask(&server, &[("cookie", &cookie), ("sec-fetch-site", "same-origin")]).await);
        let answer = ask(&server, &[("cookie", &cookie), ("origin", listed), ("sec-fetch-site", "cross-site")]).await;
        given(&answer);
        assert_eq!(answer.header("access-control-allow-origin"), Some(listed));
        assert_eq!(answer.header("access-control-allow-credentials"), Some("true"));
        let asks = [
            ("origin", listed),
            ("access-control-request-method", "POST"),
            ("access-control-request-headers", "authorization,content-type"),
        ];
        let preflight = server.ask("OPTIONS", "/tickets", &[&asks, &*more].concat(), b"").await;
        assert_eq!(preflight.status, 204, "{preflight:?}");
        assert_eq!(preflight.header("access-control-allow-headers"), Some("authorization,content-type"));
        // What an EventSource of the page is told can be read by the page.
        let stream = open(&server, "topic=a&ticket=spent", &[&[SSE, ("origin", listed)], &*more].concat()).await;
        assert_eq!((stream.status, stream.header("access-control-allow-origin")), (200, Some(listed)));
    }
}

#[tokio::test]
async fn the_room_for_tickets_is_bounded_and_one_identity_takes_nothing_from_another() {
    // Goal: each limit at its last ticket and one past it; the tickets that were given stay good.
    let server = TestServer::with(|config| {
        with_keys(config);
        config.auth.tickets_max = 5;
        config.auth.tickets_per_key_max = 3;
    });
    let (ann, bob, eve) = (bearer("ann"), bearer("bob"), bearer("eve"));
    let first = take(&server, &ann, &["a", "b"]).await;
    take(&server, &ann, &["a"]).await;
    for more in readers() {
        let problem = ask(&server, &ann, r#"{"topics": ["a"]}"#, &more).await;
        assert!(problem.header("retry-after").is_some(), "{problem:?}");
        assert_eq!(problem.problem(429, "too_many_tickets_per_key")["limit"], json!(3));
        let problem = ask(&server, &bob, r#"{"topics": ["a", "a/1", "b", "c"]}"#, &more).await;
        assert_eq!(problem.problem(400, "too_many_topics_named")["limit"], json!(3), "there is never room for it");
    }
    let bobs = take(&server, &bob, &["a", "b"]).await;
    for more in readers() {
        let problem = ask(&server, &eve, r#"{"topics": ["a"]}"#, &more).await;
        assert!(problem.header("retry-after").is_some(), "{problem:?}");
        assert_eq!(problem.problem(503, "too_many_tickets")["limit"], json!(5));
    }
    for ticket in [first, bobs] {
        assert_eq!(open(&server, &format!("topic=b&ticket={ticket}"), &[SSE]).await.status, 200);
    }
    take(&server, &eve, &["a", "b", "c"]).await;
}

#[tokio::test]
async fn taking_a_ticket_counts_as_subscribing() {
    // Goal: the rate of an address bounds how often it takes tickets. The stream that a ticket opens does not count again:
    // at one subscription a second it could never be opened.
    let server = TestServer::with(|config| {
        with_keys(config);
        config.limits.subscribes_per_second_per_ip = 1;
    });
    let ticket = take(&server, &bearer("ann"), &["a"]).await;
    assert_eq!(open(&server, &format!("topic=a&ticket={ticket}"), &[SSE]).await.status, 200);
    let answer = ask(&server, &bearer("ann"), r#"{"topics": ["a"]}"#, &[]).await;
    assert_eq!(answer.problem(429, "rate_limited")["limit"], "subscribes_per_second_per_ip");
}
