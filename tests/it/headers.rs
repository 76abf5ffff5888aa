//! The headers that keep browsers and caches from harm are on every answer, whatever it is and whichever reader has read the request.

use std::{collections::BTreeSet, time::Duration};

use tidings::config::{Origins, Size};

use crate::harness::{READERS, TestServer};

const HOST: &str = "Host: localhost\r\n";

/// The head of an answer.
#[derive(Debug)]
struct Said {
    #[expect(dead_code, reason = "for messages")]
    request: String,
    status: u16,
    headers: Vec<(String, String)>,
}

impl Said {
    fn values(&self, name: &str) -> Vec<&str> {
        self.headers.iter().filter(|(other, _)| other == name).map(|(_, value)| value.as_str()).collect()
    }
}

async fn ask(server: &TestServer, request: &[u8]) -> Said {
    let stream = server.send(request).await;
    let request = String::from_utf8_lossy(&request[..request.len().min(200)]).into_owned();
    Said { request, status: stream.status, headers: stream.headers }
}

/// The addresses of the table under `## Routes`.
fn routes() -> BTreeSet<String> {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/api.md")).expect("docs/api.md");
    let table = page.split("\n## Routes\n").nth(1).and_then(|rest| rest.split("\n## ").next()).expect("a table");
    let cells = table.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    let addresses = cells.flat_map(|cell| cell.split(' ')).filter(|word| word.starts_with('/'));
    let path = |address: &str| address.split(['?', '[']).next().unwrap_or_default().to_owned();
    addresses.map(path).map(|path| path.replace("{topic}", "a").replace("{id}", "x")).collect()
}

fn check(answer: &Said) {
    assert_eq!(answer.values("x-content-type-options"), ["nosniff"], "{answer:?}");
    let media_type = answer.values("content-type").first().copied().unwrap_or_default();
    let is_document = ["text/html", "text/css", "text/javascript", "image/"].iter().any(|t| media_type.starts_with(t));
    let is_stream =
        answer.status == 200 && (media_type.starts_with("text/event-stream") || media_type.contains("ndjson"));
    let caches = match (is_document, is_stream) {
        (true, _) => "no-cache",
        (_, true) => "no-cache, no-transform",
        _ => "no-store",
    };
    assert_eq!(answer.values("cache-control"), [caches], "{answer:?}");
    for (name, value) in [
        ("cross-origin-opener-policy", "same-origin"),
        ("cross-origin-resource-policy", "same-origin"),
        ("referrer-policy", "no-referrer"),
    ] {
        let expected: &[&str] = if is_document { &[value] } else { &[] };
        assert_eq!(answer.values(name), expected, "{answer:?}");
    }
    let policies = answer.values("content-security-policy");
    assert_eq!(policies.len(), usize::from(is_document), "{answer:?}");
    for policy in policies {
        let parts: BTreeSet<&str> = policy.split("; ").collect();
        for part in ["default-src 'none'", "base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'"] {
            assert!(parts.contains(part), "{part} is not in {policy}");
        }
        assert!(!policy.contains("unsafe") && !policy.contains('*'), "{policy}");
    }
    for name in ["server", "x-powered-by"] {
        assert_eq!(answer.values(name), [""; 0], "{answer:?}");
    }
}

/// Sends a request to both readers, and checks both answers; the status.
async fn both(server: &TestServer, line: &str, lines: &str, body: &str) -> u16 {
    let mut statuses = Vec::new();
    for reader in READERS {
        let length = if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
        let head = format!("{line}\r\n{reader}{lines}{length}Connection: close\r\n\r\n");
        let answer = ask(server, (head + body).as_bytes()).await;
        check(&answer);
        statuses.push(answer.status);
    }
    // The second deletion of a topic finds none.
    assert!(statuses[0] == statuses[1] || line.starts_with("DELETE"), "{line}: {statuses:?}");
    statuses[0]
}

#[tokio::test]
async fn every_route_has_them_with_every_method() {
    // Goal: each route of docs/api.md and each file of the page answers with them, whatever the method.
    let server = TestServer::with(|config| config.cors.origins = Origins::Any);
    server.publish("a", "content").await;
    let mut paths = routes();
    assert!(paths.contains("/publish") && paths.contains("/topics/a"), "{paths:?}");
    let files = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/static")).expect("the page's files");
    paths.extend(files.map(|file| format!("/{}", file.expect("a file").file_name().to_string_lossy())));
    paths.insert("/nothing".to_owned());
    let preflight = format!("{HOST}Origin: https://a.example\r\nAccess-Control-Request-Method: PUT\r\n");
    for path in &paths {
        for method in ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"] {
            both(&server, &format!("{method} {path}?topic=b&content=c HTTP/1.1"), HOST, "").await;
        }
        assert_eq!(both(&server, &format!("OPTIONS {path} HTTP/1.1"), &preflight, "").await, 204);
    }
}

#[tokio::test]
async fn every_kind_of_answer_has_them() {
    // Goal: so do refusals, of whatever kind, and answers without a body.
    let server = TestServer::with(|config| {
        config.publish.event_bytes_max = Size::new(1000);
        config.limits.subscribers_per_topic_max = 2;
        config.server.head_timeout = Duration::from_secs(1);
    });
    // The other topics have at most as many: one stream for each reader.
    let _crowd = [server.subscribe("topic=crowded").await, server.subscribe("topic=crowded").await];
    server.publish("deleted", "content").await;
    let long = "x".repeat(2000);
    let events = format!("{HOST}Accept: text/event-stream\r\n");
    let json = format!("{HOST}Content-Type: application/json\r\n");
    let mut seen = BTreeSet::new();
    for (line, lines, body) in [
        ("POST /publish?topic=a HTTP/1.1", HOST, "content"),
        ("GET /subscribe?topic=a HTTP/1.1", &events, ""),
        ("GET /subscribe?topic=b HTTP/1.0", "", ""),
        ("GET /subscribe?topic=crowded HTTP/1.1", &events, ""),
        ("GET /subscribe?topic=crowded HTTP/1.1", HOST, ""),
        ("DELETE /topics/deleted HTTP/1.1", HOST, ""),
        ("GET /subscribe?topic=deleted HTTP/1.1", &events, ""),
        ("POST /publish HTTP/1.1", &json, "{"),
        ("POST /publish?topic=a HTTP/1.1", &format!("{HOST}Sec-Fetch-Site: cross-site\r\n"), "content"),
        ("POST /publish?topic=a HTTP/1.1", &format!("{HOST}Authorization: Bearer x\r\n"), "content"),
        ("GET /topics/unknown HTTP/1.1", HOST, ""),
        ("GET /subscribe?topic=a&on_gap=fail&lastEventId=x-1 HTTP/1.1", HOST, ""),
        ("POST /publish?topic=a HTTP/1.1", HOST, &long),
        ("GET / HTTP/1.1", "Host: other.example\r\n", ""),
        ("POST /publish?topic=a HTTP/1.1", &format!("{HOST}Content-Type: multipart/form-data\r\n"), "content"),
        // What is refused before its meaning is known.
        ("GET / HTTP/1.1", "", ""),
        ("GET / HTTP/1.1", &format!("{HOST}{HOST}"), ""),
        ("GET / HTTP/1.1", &format!("{HOST}Transfer-Encoding: xchunked\r\n"), ""),
        ("GET / HTTP/1.0", "Transfer-Encoding: chunked\r\n", ""),
        ("GET / HTTP/1.1", &format!("{HOST}Content-Length: 1\r\n"), "xy"),
        ("GET / HTTP/3", HOST, ""),
        (&format!("GET /?{} HTTP/1.1", "x".repeat(66_000)), HOST, ""),
        ("GET / HTTP/1.1", &format!("{HOST}{}", "A: b\r\n".repeat(96)), ""),
    ] {
        seen.insert(both(&server, line, lines, body).await);
    }
    let slow = ask(&server, b"GET / HTTP/1.1\r\n").await;
    check(&slow);
    seen.insert(slow.status);
    let all = BTreeSet::from([200, 204, 400, 401, 403, 404, 408, 410, 413, 414, 415, 421, 431, 503]);
    assert_eq!(seen, all);
}

#[tokio::test]
async fn a_connection_above_the_limit_has_them() {
    // Goal: so do the answers to connections that are rejected: the problem, and the health check.
    let server = TestServer::with(|config| {
        config.server.workers = 1;
        config.limits.pending_connections_max = 1;
    });
    // The only place is taken by a client that has not sent its body yet.
    let request = format!("POST /publish?topic=a HTTP/1.1\r\n{HOST}Expect: 100-continue\r\nContent-Length: 9\r\n\r\n");
    let taken = server.send(request.as_bytes()).await;
    assert_eq!(taken.status, 100);
    for (path, status) in [("/", 503), ("/healthz", 200)] {
        let answer = ask(&server, format!("GET {path} HTTP/1.1\r\n{HOST}\r\n").as_bytes()).await;
        assert_eq!(answer.status, status);
        check(&answer);
    }
}

#[test]
fn an_answer_without_them_is_noticed() {
    // The control of all others.
    let said = |headers: &[(&str, &str)]| {
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        std::panic::catch_unwind(|| check(&Said { request: String::new(), status: 200, headers }))
    };
    let (caches, sniffing) = (("cache-control", "no-store"), ("x-content-type-options", "nosniff"));
    assert!(said(&[caches, sniffing]).is_ok());
    for headers in [&[caches][..], &[sniffing], &[caches, sniffing, sniffing], &[caches, sniffing, ("server", "x")]] {
        assert!(said(headers).is_err(), "{headers:?}");
    }
    assert!(said(&[("cache-control", "no-cache"), sniffing, ("content-type", "text/html")]).is_err());
}
