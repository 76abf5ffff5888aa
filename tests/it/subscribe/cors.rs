//! Pages of other origins: what `cors.origins` lets them read.

use tidings::config::{Config, Origins};

use crate::harness::{Answer, TestServer};

const APP: &str = "https://app.example.com";
const OTHER: &str = "https://other.example.com:8443";

fn two(config: &mut Config) {
    config.cors.origins = Origins::Only(vec![APP.to_owned(), OTHER.to_owned()]);
}

async fn preflight(server: &TestServer, path: &str, origin: &str, method: &str) -> Answer {
    let headers = [
        ("origin", origin),
        ("access-control-request-method", method),
        ("access-control-request-headers", "authorization,content-type,idempotency-key,last-event-id"),
    ];
    server.ask("OPTIONS", path, &headers, b"").await
}

/// Whether a comma-separated header of `answer` names `item`.
fn names(answer: &Answer, header: &str, item: &str) -> bool {
    answer.header(header).is_some_and(|value| value.split(',').any(|part| part.trim().eq_ignore_ascii_case(item)))
}

#[tokio::test]
async fn listed_origins_may_read_with_credentials() {
    // Streams, answers and refusals alike, and caches are told that it depends on the origin.
    let server = TestServer::with(two);
    for origin in [APP, OTHER] {
        let headers = [("origin", origin), ("accept", "text/event-stream")];
        let stream = server.get("/subscribe?topic=a", &headers).await;
        assert_eq!(stream.status, 200);
        assert_eq!(stream.header("access-control-allow-origin"), Some(origin));
        assert_eq!(stream.header("access-control-allow-credentials"), Some("true"));
        assert!(stream.header("vary").is_some_and(|vary| vary.to_ascii_lowercase().contains("origin")));
        for (method, path, status) in [
            ("POST", "/publish?topic=a&content=x", 200),
            ("POST", "/publish?topic=a", 400),
            ("GET", "/subscribe", 400),
            ("GET", "/topics/a", 200),
            ("GET", "/topics/unknown", 404),
            ("PATCH", "/publish", 405),
            ("DELETE", "/topics/a", 204),
        ] {
            let answer = server.ask(method, path, &headers, b"").await;
            assert_eq!(answer.status, status, "{answer:?}");
            assert_eq!(answer.header("access-control-allow-origin"), Some(origin), "{answer:?}");
            assert_eq!(answer.header("access-control-allow-credentials"), Some("true"), "{answer:?}");
            assert!(names(&answer, "access-control-expose-headers", "idempotency-replayed"), "{answer:?}");
            assert!(names(&answer, "access-control-expose-headers", "last-event-id"), "{answer:?}");
            assert!(names(&answer, "access-control-expose-headers", "retry-after"), "{answer:?}");
            assert!(names(&answer, "access-control-expose-headers", "ratelimit"), "{answer:?}");
            assert!(names(&answer, "access-control-expose-headers", "ratelimit-policy"), "{answer:?}");
        }
    }
}

#[tokio::test]
async fn origins_that_are_not_listed_may_not_read() {
    // The stream is opened, for a client that is no browser needs no leave, but no browser shows it to the page.
    let server = TestServer::with(two);
    for origin in ["https://evil.example", "http://app.example.com", "https://app.example.com.evil.example", "null"] {
        let stream = server.get("/subscribe?topic=a", &[("origin", origin)]).await;
        assert_eq!(stream.status, 200);
        assert_eq!(stream.header("access-control-allow-origin"), None, "{origin}");
        let answer = preflight(&server, "/publish", origin, "POST").await;
        assert_eq!(answer.header("access-control-allow-origin"), None, "{answer:?}");
        let answer = server.ask("GET", "/topics/a", &[("origin", origin)], b"").await;
        assert_eq!(answer.header("access-control-allow-origin"), None, "{answer:?}");
    }
}

#[tokio::test]
async fn a_listed_origin_passes_its_preflight() {
    // For every method and the headers a page may set, with credentials, and remembered for a while.
    let server = TestServer::with(two);
    for (path, method) in [
        ("/publish", "POST"),
        ("/publish", "PUT"),
        ("/subscribe?topic=a", "GET"),
        ("/topics/a", "DELETE"),
        ("/topics/a", "GET"),
    ] {
        let answer = preflight(&server, path, APP, method).await;
        assert!(matches!(answer.status, 200 | 204), "{answer:?}");
        assert_eq!(answer.header("access-control-allow-origin"), Some(APP), "{answer:?}");
        assert_eq!(answer.header("access-control-allow-credentials"), Some("true"), "{answer:?}");
        assert!(names(&answer, "access-control-allow-methods", method), "{answer:?}");
        for header in ["authorization", "content-type", "idempotency-key", "last-event-id"] {
            assert!(names(&answer, "access-control-allow-headers", header), "{answer:?}");
        }
        assert_eq!(answer.header("access-control-max-age"), Some("3600"), "{answer:?}");
    }
    server.until_subscribers("a", 0).await;
}

#[tokio::test]
async fn a_star_is_everybody_without_credentials() {
    // `*` to the letter for every origin: a browser then sends no cookies, so no page acts in a user's name.
    let server = TestServer::with(|config| config.cors.origins = Origins::Any);
    for origin in [APP, "https://anyone.example", "null"] {
        let stream = server.get("/subscribe?topic=a", &[("origin", origin)]).await;
        assert_eq!((stream.status, stream.header("access-control-allow-origin")), (200, Some("*")));
        assert_eq!(stream.header("access-control-allow-credentials"), None);
        let answer = preflight(&server, "/publish", origin, "POST").await;
        assert!(matches!(answer.status, 200 | 204), "{answer:?}");
        assert_eq!(answer.header("access-control-allow-origin"), Some("*"), "{answer:?}");
        assert_eq!(answer.header("access-control-allow-credentials"), None, "{answer:?}");
        let answer = server.ask("POST", "/publish?topic=a&content=x", &[("origin", origin)], b"").await;
        answer.ok();
        assert_eq!(answer.header("access-control-allow-origin"), Some("*"), "{answer:?}");
    }
}

#[tokio::test]
async fn without_origins_there_is_no_preflight() {
    // By default OPTIONS is a method like any other that is not answered, and names no origin.
    let server = TestServer::start();
    let answer = preflight(&server, "/publish", APP, "POST").await;
    answer.problem(405, "method_not_allowed");
    assert_eq!(answer.header("access-control-allow-origin"), None);
}
