//! The limits that a token or an API key brings with it.

use std::time::Duration;

use serde_json::{Value, json};
use tidings::config::ApiKeyConfig;

use super::rates::{FRONTS, rate_limited, statuses};
use crate::{
    auth::{seconds_from_now, token, with_keys},
    cli::run,
    harness::{Stream, TestServer, process::program, until},
};

const OWN: &str = "127.0.0.1";
const SSE: (&str, &str) = ("accept", "text/event-stream");

/// A credential of `subject` that is valid for `seconds`, with these limits.
fn bearer(subject: &str, limits: &Value, seconds: u64) -> String {
    let mut tidings = json!({"publish": ["**"], "subscribe": ["**"], "manage": ["**"]});
    if !limits.is_null() {
        tidings["limits"] = limits.clone();
    }
    format!("Bearer {}", token(subject, &tidings, seconds_from_now(0) + seconds))
}

#[tokio::test]
async fn a_token_bounds_how_often_it_publishes() {
    // Goal: the second publish at once is refused as by the other rates, by both readers; another subject, and a token
    // without a limit, are not affected; nothing is published of what is refused.
    for front in FRONTS {
        let server = TestServer::with(with_keys);
        let one = json!({"publishes_per_second": 1});
        let [ann, bob, free] = [bearer("ann", &one, 60), bearer("bob", &one, 60), bearer("ann", &Value::Null, 60)];
        let publish = |credential: &str| {
            let headers = [front, &[("authorization", credential)]].concat();
            server.request("GET", "/publish?topic=a&content=x", &headers, b"")
        };
        let requests = [&ann, &ann, &bob, &bob, &free, &free].map(|credential| publish(credential));
        assert_eq!(statuses(&server, OWN, &requests).await, [200, 429, 200, 429, 200, 200], "{front:?}");
        let held = server.ask("GET", "/topics/a", &[("authorization", &free)], b"").await.ok();
        assert_eq!(held["events"], 4);
        until("a refusal", async || {
            server.ask_bytes(&publish(&ann)).await;
            let answer = server.ask_bytes(&publish(&ann)).await;
            if answer.status == 429 {
                rate_limited(&answer, "publishes_per_second");
            }
            answer.status == 429
        })
        .await;
        let several = server.request(
            "GET",
            "/publish?topic=a&topic=b&content=x",
            &[front, &[("authorization", ann.as_str())]].concat(),
            b"",
        );
        server.ask_bytes(&several).await.problem(400, "too_many_topics_named");
    }
}

#[tokio::test]
async fn an_api_key_has_limits_of_its_own() {
    // Goal: as a token: at the limit and one past it, for publishes and for streams.
    for front in FRONTS {
        let server = TestServer::with(|config| {
            with_keys(config);
            let digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
            let key = json!({
                "name": "service", "sha256": digest, "publish": ["**"], "subscribe": ["**"],
                "publishes_per_second": 2, "subscribers_max": 1,
            });
            config.auth.api_keys = vec![serde_json::from_value::<ApiKeyConfig>(key).expect("an API key")];
        });
        let headers = [front, &[("authorization", "Bearer abc")]].concat();
        let publish = server.request("GET", "/publish?topic=a&content=x", &headers, b"");
        assert_eq!(statuses(&server, OWN, &vec![publish; 3]).await, [200, 200, 429]);
        let _stream = server.get("/subscribe?topic=a", &[&headers[..], &[SSE]].concat()).await;
        server.ask("GET", "/subscribe?topic=a", &headers, b"").await.problem(429, "too_many_subscribers_of_token");
    }
}

/// Opens a stream, and waits for a place for it.
async fn place(server: &TestServer, front: &[(&str, &str)], credential: &str) -> Stream {
    let mut taken = None;
    until("a free place", async || {
        let stream = server.get("/subscribe?topic=a", &[front, &[("authorization", credential)]].concat()).await;
        taken = (stream.status == 200).then_some(stream);
        taken.is_some()
    })
    .await;
    taken.expect("a stream")
}

/// Checks that one more stream is refused.
async fn is_full(server: &TestServer, front: &[(&str, &str)], credential: &str) {
    let headers = [front, &[("authorization", credential)]].concat();
    let answer = server.ask("GET", "/subscribe?topic=a", &headers, b"").await;
    answer.problem(429, "too_many_subscribers_of_token");
    let after: u64 = answer.header("retry-after").and_then(|after| after.parse().ok()).expect("Retry-After");
    assert!((10..=15).contains(&after), "{after}");
    let mut refused = server.get("/subscribe?topic=a", &[&headers[..], &[SSE]].concat()).await;
    assert_eq!(refused.status, 200);
    let blocks = refused.all().await;
    assert_eq!((blocks.len(), blocks[0].event.as_str()), (1, "broker.refused"));
    assert!(blocks[0].data.contains("too_many_subscribers_of_token"), "{blocks:?}");
}

#[tokio::test]
async fn a_token_bounds_its_streams_and_every_end_frees_a_place() {
    // Goal: the last place is given, the next stream is refused, from whichever token of the subject; another subject, and a
    // token without a limit, are not affected. A place is free again when the client leaves, when an operator ends the
    // stream, when the topic is deleted, and when the token expires.
    for front in FRONTS {
        let server = TestServer::with(with_keys);
        let two = json!({"subscribers_max": 2});
        let [ann, again, bob] = [bearer("ann", &two, 60), bearer("ann", &two, 90), bearer("bob", &two, 60)];
        let free = bearer("ann", &Value::Null, 60);
        let first = place(&server, front, &ann).await;
        let mut second = place(&server, front, &again).await;
        is_full(&server, front, &ann).await;
        is_full(&server, front, &again).await;
        let mut others = Vec::new();
        for credential in [&bob, &bob, &free, &free, &free] {
            let stream = server.get("/subscribe?topic=a", &[front, &[("authorization", credential)]].concat()).await;
            assert_eq!(stream.status, 200);
            others.push(stream);
        }
        drop(first);
        let mut third = place(&server, front, &ann).await;
        is_full(&server, front, &ann).await;
        let manage = [("authorization", free.as_str())];
        assert_eq!(server.ask("DELETE", "/subjects/ann", &manage, b"").await.status, 204);
        second.until_cut().await;
        third.until_cut().await;
        let mut places = [place(&server, front, &ann).await, place(&server, front, &ann).await];
        is_full(&server, front, &ann).await;
        assert_eq!(server.ask("DELETE", "/topics/a", &manage, b"").await.status, 204);
        for stream in &mut places {
            stream.until_cut().await;
        }
        let one = json!({"subscribers_max": 1});
        // With the leeway of five seconds it is valid for two seconds more.
        let short = token("dan", &json!({"subscribe": ["**"], "limits": one}), seconds_from_now(0) - 3);
        let mut expires = place(&server, front, &format!("Bearer {short}")).await;
        let lasting = bearer("dan", &one, 60);
        is_full(&server, front, &lasting).await;
        tokio::time::timeout(Duration::from_secs(20), expires.until_cut()).await.expect("it ends");
        drop(place(&server, front, &lasting).await);
    }
}

#[tokio::test]
async fn a_refusal_of_another_limit_frees_the_place() {
    // Goal: a stream that is refused after it has got its place gives it back.
    let server = TestServer::with(|config| {
        with_keys(config);
        config.limits.subscribers_per_topic_max = 1;
    });
    let ann = bearer("ann", &json!({"subscribers_max": 2}), 60);
    let _stream = place(&server, &[], &ann).await;
    for _ in 0..5 {
        let headers = [("authorization", ann.as_str())];
        server.ask("GET", "/subscribe?topic=a", &headers, b"").await.problem(503, "too_many_subscribers");
    }
}

#[tokio::test]
async fn the_program_makes_tokens_with_limits_and_shows_them() {
    // Goal: `token new` makes a token with limits that the server applies, and `token show` prints them. A limit that no
    // server would accept is refused when the token is made.
    let key = "[{ id = \"k\", algorithm = \"HS256\", secret = \"a secret of thirty-two bytes....\" }]";
    let ask =
        async |arguments: &[&str]| run(program().arg("token").args(arguments).env("TIDINGS__AUTH__KEYS", key)).await;
    let limits = ["--publishes-per-second", "1", "--subscribers-max", "2"];
    let (code, token, said) = ask(&[&["new", "--subject", "ann", "--publish", "**"][..], &limits].concat()).await;
    assert_eq!(code, 0, "{said}");
    let (code, shown, said) = ask(&["show", token.trim()]).await;
    assert_eq!(code, 0, "{said}");
    let shown: Value = serde_json::from_str(&shown).expect("JSON");
    assert_eq!(shown["claims"]["tidings"]["limits"], json!({"publishes_per_second": 1, "subscribers_max": 2}));
    let server = TestServer::with(with_keys);
    let bearer = format!("Bearer {}", token.trim());
    let publish = server.request("GET", "/publish?topic=a&content=x", &[("authorization", &bearer)], b"");
    assert_eq!(statuses(&server, OWN, &vec![publish; 2]).await, [200, 429]);
    let (code, token, _) = ask(&["new", "--subject", "ann"]).await;
    let (_, shown, _) = ask(&["show", token.trim()]).await;
    assert!(code == 0 && !shown.contains("limits"), "the control: {shown}");
    for bad in ["0", "-1", "1.5", "10000001", "x"] {
        for name in ["--publishes-per-second", "--subscribers-max"] {
            let (code, _, said) = ask(&["new", &format!("{name}={bad}")]).await;
            assert!(code == 2 && said.contains(name), "{said}");
        }
    }
}
