//! Every threat of the table in docs/security.md, with the exact answer. Requests go through both readers. What has a group
//! of tests of its own is here in short.

use std::time::Duration;

use serde_json::json;
use tidings::config::{Config, Origins, Size};

use crate::{
    auth::{seconds_from_now, token, with_keys},
    harness::{Answer, FOR_THE_FALLBACK, TestServer},
};

mod amounts;
mod program;

type Headers<'a> = &'a [(&'a str, &'a str)];

const TEXT: (&str, &str) = ("content-type", "text/plain");
const SSE: (&str, &str) = ("accept", "text/event-stream");

/// The answers of both readers.
async fn both(server: &TestServer, method: &str, path: &str, headers: Headers<'_>, body: &[u8]) -> [Answer; 2] {
    let for_the_fallback = [headers, &[FOR_THE_FALLBACK]].concat();
    [server.ask(method, path, headers, body).await, server.ask(method, path, &for_the_fallback, body).await]
}

/// Checks that both readers refuse a request, and gives the second answer.
async fn refused(
    server: &TestServer,
    (method, path, headers, body): (&str, &str, Headers<'_>, &[u8]),
    status: u16,
    code: &str,
) -> Answer {
    let [fast, fallback] = both(server, method, path, headers, body).await;
    fast.problem(status, code);
    fallback.problem(status, code);
    fallback
}

/// Checks that both readers serve a request: the control of a refusal.
async fn served(server: &TestServer, method: &str, path: &str, headers: Headers<'_>) {
    for answer in both(server, method, path, headers, b"").await {
        assert!(matches!(answer.status, 200 | 204), "{answer:?}");
    }
}

fn authorization(token: &str) -> String {
    format!("Bearer {token}")
}

/// Fields and events that a publisher tries to add to a stream.
#[tokio::test]
async fn a_publisher_cannot_add_a_field_or_an_event() {
    let server = TestServer::start();
    for event in ["a%0Aid:1", "a%0Did:1", "a%00", "a%C2%85b", "a%7F", "broker.open", "%0A"] {
        let path = format!("/publish?topic=a&content=x&event={event}");
        refused(&server, ("POST", &path, &[], b""), 400, "bad_event").await;
    }
    for topic in ["a%0Aid:1", "a%0D", "a%00", ""] {
        let path = format!("/publish?topic={topic}&content=x");
        refused(&server, ("POST", &path, &[], b""), 400, "bad_topic").await;
    }
    served(&server, "POST", "/publish?topic=a&content=x&event=fine", &[]).await;
    for text in ["one\rid: 1\r\nevent: x\n\ndata: y", "id: 1\n\nretry: 1", "\u{2028}\n", " two", ""] {
        for reader in [&[TEXT][..], &[TEXT, FOR_THE_FALLBACK]] {
            let mut stream = server.subscribe("topic=text").await;
            let published = server.ask("POST", "/publish?topic=text", reader, text.as_bytes()).await.ok();
            let block = stream.next().await.expect("an event");
            // The standard's parser makes one LF of each line end.
            let expected = text.replace("\r\n", "\n").replace('\r', "\n");
            assert_eq!((block.event.as_str(), block.data), ("message", expected));
            assert_eq!(published["id"], block.id, "the broker's own id");
        }
    }
}

/// Cursors that nobody was given.
#[tokio::test]
async fn a_made_up_cursor_is_a_gap_and_no_error() {
    let server = TestServer::start();
    server.publish("a", "held").await;
    for cursor in ["nonsense", "k3f9x2ab-17", "99999999999999999999999999", "é", "a-b-c"] {
        for reader in [&[][..], &[FOR_THE_FALLBACK]] {
            let mut stream =
                server.get("/subscribe?topic=a", &[&[SSE, ("last-event-id", cursor)], reader].concat()).await;
            assert_eq!(stream.status, 200, "{cursor}");
            assert_eq!(stream.next().await.map(|block| block.event).as_deref(), Some("broker.gap"), "{cursor}");
            assert_eq!(stream.next().await.map(|block| block.data).as_deref(), Some("held"), "{cursor}");
        }
    }
}

/// Bytes that are not UTF-8.
#[tokio::test]
async fn what_is_not_utf8_is_refused() {
    let server = TestServer::start();
    for request in [
        ("POST", "/publish?topic=a", &[TEXT][..], &b"\xff"[..]),
        ("POST", "/publish?topic=a&content=%FF", &[], b""),
        ("POST", "/publish?topic=%FF&content=x", &[], b""),
        ("GET", "/topics/%FF", &[], b""),
        ("GET", "/subscribe?topic=%FF", &[], b""),
    ] {
        refused(&server, request, 400, "bad_utf8").await;
    }
    server.ask("GET", "/topics/a", &[], b"").await.problem(404, "topic_unknown");
}

/// Scripts in the page and in answers.
#[tokio::test]
async fn nothing_of_others_runs_in_the_page() {
    let server = TestServer::start();
    let policy = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; \
                  base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
    for answer in both(&server, "GET", "/", &[], b"").await {
        assert_eq!((answer.status, answer.header("content-security-policy")), (200, Some(policy)));
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
        assert_eq!(answer.header("referrer-policy"), Some("no-referrer"));
        assert!(!answer.body.contains("<script>") && !answer.body.contains(" onclick"), "{}", answer.body);
    }
    for answer in both(&server, "GET", "/topics/%3Cscript%3E", &[], b"").await {
        answer.problem(404, "topic_unknown");
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
    }
}

/// Pages of other sites that write, and names that lead to the broker by DNS rebinding.
#[tokio::test]
async fn a_page_of_another_site_writes_nothing() {
    let server = TestServer::start();
    let publish = "/publish?topic=a&content=x";
    for headers in [
        &[("sec-fetch-site", "cross-site")][..],
        &[("origin", "https://evil.example")],
        &[("origin", "null")],
        &[("origin", "https://evil.example"), ("cookie", "token=x")],
    ] {
        for (method, path) in [("GET", publish), ("POST", publish), ("DELETE", "/topics/a")] {
            refused(&server, (method, path, headers, b""), 403, "cross_site").await;
        }
    }
    for (method, path) in [("GET", publish), ("GET", "/subscribe?topic=a"), ("GET", "/topics/a"), ("GET", "/")] {
        for reader in crate::harness::READERS {
            let request =
                format!("{method} {path} HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n{reader}\r\n");
            server.ask_bytes(request.as_bytes()).await.problem(421, "misdirected");
        }
    }
    // The control: what is no page of another site may publish, by GET, too.
    served(&server, "GET", publish, &[]).await;
    let server = TestServer::with(|config| config.publish.allow_get = false);
    let answer = refused(&server, ("GET", publish, &[], b""), 405, "method_not_allowed").await;
    assert_eq!(answer.header("allow"), Some("POST, PUT"));
}

/// Pages of other sites that read.
#[tokio::test]
async fn only_listed_origins_read() {
    let listed = "https://app.example.com";
    let only = |config: &mut Config| config.cors.origins = Origins::Only(vec![listed.to_owned()]);
    for (server, origin, allowed, credentials) in [
        (TestServer::start(), listed, None, None),
        (TestServer::with(only), listed, Some(listed), Some("true")),
        (TestServer::with(only), "https://evil.example", None, None),
        (TestServer::with(only), "null", None, None),
        (TestServer::with(|config| config.cors.origins = Origins::Any), "https://evil.example", Some("*"), None),
    ] {
        server.publish("a", "x").await;
        for answer in both(&server, "GET", "/topics/a", &[("origin", origin)], b"").await {
            assert_eq!(answer.status, 200);
            assert_eq!(answer.header("access-control-allow-origin"), allowed, "{origin}: {answer:?}");
            assert_eq!(answer.header("access-control-allow-credentials"), credentials, "{origin}: {answer:?}");
        }
    }
}

/// Tokens that say themselves how to verify them, and claims of another type than they should have.
#[tokio::test]
async fn a_forged_token_is_refused() {
    let server = TestServer::with(with_keys);
    let rights = json!({"publish": ["**"]});
    let good = token("ann", &rights, seconds_from_now(60));
    let [header, payload, signature] = good.split('.').collect::<Vec<_>>()[..] else { panic!("three parts: {good}") };
    // `{"alg":"none"}`, with the claims of a good token and no signature.
    let unsigned = format!("eyJhbGciOiJub25lIn0.{payload}.");
    let borrowed = format!("eyJhbGciOiJub25lIn0.{payload}.{signature}");
    let cut = format!("{header}.{payload}.{}", &signature[1..]);
    let of_another_type = token("ann", &json!({"publish": "**"}), seconds_from_now(60));
    let expired = token("ann", &rights, seconds_from_now(0) - 6);
    let long = "x".repeat(20_000);
    for bad in [&unsigned, &borrowed, &cut, &of_another_type, &expired, &long, "", "a.b.c"] {
        let authorization = authorization(bad);
        let request =
            ("POST", "/publish?topic=a&content=x", &[("authorization", authorization.as_str())][..], &b""[..]);
        let answer = refused(&server, request, 401, "unauthorized").await;
        let challenge = "Bearer realm=\"tidings\", error=\"invalid_token\"";
        assert_eq!(answer.header("www-authenticate"), Some(challenge), "{answer:?}");
        assert!(bad.is_empty() || !answer.body.contains(bad), "the answer does not repeat it");
    }
    served(&server, "POST", "/publish?topic=a&content=x", &[("authorization", &authorization(&good))]).await;
}

/// A stream whose token expires.
#[tokio::test]
async fn a_stream_does_not_outlive_its_token() {
    let server = TestServer::with(with_keys);
    // It is still valid for what is left of the leeway of 5 s.
    let authorization = authorization(&token("ann", &json!({"subscribe": ["a"]}), seconds_from_now(0) - 3));
    let mut streams = Vec::new();
    for reader in [&[][..], &[FOR_THE_FALLBACK]] {
        let headers = [&[SSE, ("authorization", &authorization)], reader].concat();
        streams.push(server.get("/subscribe?topic=a", &headers).await);
    }
    for mut stream in streams {
        let blocks = stream.all().await;
        assert_eq!(blocks.iter().map(|block| block.event.as_str()).collect::<Vec<_>>(), ["broker.unauthorized"]);
    }
}

/// Tokens in addresses.
#[tokio::test]
async fn a_token_in_the_address_counts_only_when_configured() {
    let token = token("ann", &json!({"publish": ["**"]}), seconds_from_now(60));
    let path = format!("/publish?topic=a&content=x&access_token={token}");
    let [off, on] = [false, true].map(|query_token| {
        TestServer::with(move |config| {
            with_keys(config);
            config.auth.query_token = query_token;
        })
    });
    for answer in both(&off, "POST", &path, &[], b"").await {
        answer.problem(401, "unauthorized");
        assert!(!answer.body.contains(&token), "the answer does not repeat it");
    }
    served(&on, "POST", &path, &[]).await;
}

/// Names and lists that try to get around a right.
#[tokio::test]
async fn a_right_counts_for_the_decoded_name_and_for_each_topic() {
    let server = TestServer::with(with_keys);
    let rights = json!({"publish": ["a/*"], "subscribe": ["a/*"]});
    let authorization = authorization(&token("ann", &rights, seconds_from_now(60)));
    let headers = [("authorization", authorization.as_str())];
    for query in ["topic=b", "topic=a", "topic=a/b/c", "topic=a%2Fb%2Fc", "topic=A/b", "topic=a/b&topic=b"] {
        let path = format!("/publish?{query}&content=x");
        refused(&server, ("POST", &path, &headers, b""), 403, "forbidden").await;
        let path = format!("/subscribe?{query}");
        refused(&server, ("GET", &path, &headers, b""), 403, "forbidden").await;
    }
    for query in ["topic=a/b", "topic=a%2Fb", "topic=%61/b"] {
        served(&server, "POST", &format!("/publish?{query}&content=x"), &headers).await;
    }
    refused(&server, ("POST", "/publish?topic=a/b%00&content=x", &headers, b""), 400, "bad_topic").await;
}

/// Answers that tell a guesser how near it is.
#[tokio::test]
async fn a_wrong_key_is_told_nothing_of_the_right_one() {
    let server = TestServer::with(with_keys);
    let mut told = Vec::new();
    // The API key is `abc`. The first two differ from it early and late.
    for guess in ["xbc", "abx", "abcd", "a"] {
        let authorization = authorization(guess);
        let headers = [("authorization", authorization.as_str())];
        let request = ("POST", "/publish?topic=orders/1&content=x", &headers[..], &b""[..]);
        told.push(refused(&server, request, 401, "unauthorized").await.body);
    }
    assert!(told.iter().all(|body| *body == told[0]), "{told:?}");
    served(&server, "POST", "/publish?topic=orders/1&content=x", &[("authorization", "Bearer abc")]).await;
}

/// Bodies and heads that are too large.
#[tokio::test]
async fn what_is_too_large_is_refused() {
    let server = TestServer::with(|config| config.publish.event_bytes_max = Size::new(1000));
    let answer = refused(&server, ("POST", "/publish?topic=a", &[TEXT], &[b'x'; 1001]), 413, "too_large").await;
    assert_eq!(answer.json()["limit"], 1000);
    for reader in [&[TEXT][..], &[TEXT, FOR_THE_FALLBACK]] {
        server.ask("POST", "/publish?topic=a", reader, &[b'x'; 1000]).await.ok();
    }
    let chunked = format!(
        "POST /publish?topic=a HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\nTransfer-Encoding: \
         chunked\r\n\r\n3e9\r\n{}\r\n0\r\n\r\n",
        "x".repeat(1001)
    );
    server.ask_bytes(chunked.as_bytes()).await.problem(413, "too_large");
    let long = "x".repeat(140_000);
    refused(&server, ("GET", &format!("/publish?topic=a&content={long}"), &[], b""), 414, "uri_too_long").await;
    refused(&server, ("GET", "/topics/a", &[("a", &long)], b""), 431, "headers_too_large").await;
    let compressed = [TEXT, ("content-encoding", "gzip")];
    server.ask("POST", "/publish?topic=a", &compressed, b"x").await.problem(415, "unsupported_media_type");
}

/// Heads and bodies that come too slowly.
#[tokio::test]
async fn what_is_too_slow_is_refused() {
    let server = TestServer::with(|config| {
        config.server.head_timeout = Duration::from_millis(300);
        config.publish.body_timeout = Duration::from_millis(300);
    });
    server.ask_bytes(b"GET /publish?topic=a").await.problem(408, "head_timeout");
    for reader in crate::harness::READERS {
        let head = "POST /publish?topic=a HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\nContent-Length: 9";
        server.ask_bytes(format!("{head}\r\n{reader}\r\nx").as_bytes()).await.problem(408, "body_timeout");
    }
    server.ask("GET", "/topics/a", &[], b"").await.problem(404, "topic_unknown");
}

/// Other protocols, and compression, which could tell secrets by its length.
#[tokio::test]
async fn neither_http2_nor_compression_is_to_be_had() {
    let server = TestServer::start();
    server.publish("a", &"x".repeat(2000)).await;
    server.ask_bytes(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.problem(400, "bad_request");
    let upgrade = [("connection", "upgrade, http2-settings"), ("upgrade", "h2c"), ("http2-settings", "AAMAAABkAAQ")];
    for headers in [&upgrade[..], &[("accept-encoding", "gzip, deflate, br, zstd")]] {
        for answer in both(&server, "GET", "/topics/a", headers, b"").await {
            assert_eq!((answer.status, answer.header("content-encoding")), (200, None), "{answer:?}");
        }
        let stream = server.get("/subscribe?topic=a", &[&[SSE], headers].concat()).await;
        assert_eq!((stream.status, stream.header("content-encoding")), (200, None));
    }
}

/// Caches that would give an answer to another client.
#[tokio::test]
async fn nothing_is_kept_by_a_cache() {
    let server = TestServer::start();
    for (path, headers, caches, buffering) in [
        ("/publish?topic=a&content=x", &[][..], "no-store", None),
        ("/topics/a", &[], "no-store", None),
        ("/nothing", &[], "no-store", None),
        ("/subscribe?topic=a", &[SSE], "no-cache, no-transform", Some("no")),
        ("/", &[], "no-cache", None),
    ] {
        for reader in [&[][..], &[FOR_THE_FALLBACK]] {
            let answer = server.get(path, &[headers, reader].concat()).await;
            assert_eq!(answer.header("cache-control"), Some(caches), "{path}");
            assert_eq!(answer.header("x-accel-buffering"), buffering, "{path}");
        }
    }
}

/// What a stranger can learn.
#[tokio::test]
async fn health_checks_tell_nothing_and_nothing_else_is_open() {
    let server = TestServer::with(with_keys);
    for answer in both(&server, "GET", "/healthz", &[], b"").await {
        assert_eq!((answer.status, answer.body.as_str()), (200, "ok\n"));
    }
    for path in ["/debug/pprof", "/actuator", "/server-status", "/.env", "/topics/../healthz"] {
        for answer in both(&server, "GET", path, &[], b"").await {
            assert!(matches!(answer.status, 401 | 404), "{answer:?}");
        }
    }
    refused(&server, ("GET", "/topics/a", &[], b""), 401, "unauthorized").await;
}
