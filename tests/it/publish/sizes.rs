//! How large, and how slow, a publish may be.

use std::time::Duration;

use tidings::config::Size;
use tokio::{io::AsyncWriteExt as _, net::TcpStream};

use super::bodies::chunked;
use crate::harness::{Stream, TestServer};

const MAX: usize = 1024;
/// What a form or a JSON body may have besides its content, which may take six bytes a byte.
const ENCODED_MAX: usize = 6 * MAX + (64 << 10);

const FORM: &str = "application/x-www-form-urlencoded";
const JSON: &str = "application/json";
const TEXT: &str = "text/plain";

fn small() -> TestServer {
    TestServer::with(|config| config.publish.event_bytes_max = Size::kib(1))
}

#[tokio::test]
async fn the_largest_event_is_taken_and_one_byte_more_is_not() {
    // At the limit and one past it, for every way to send content; what counts is the content, not its spelling.
    let server = small();
    for (size, fits) in [(MAX, true), (MAX + 1, false)] {
        let x = "x".repeat(size);
        let wide = format!("{}{}", "订".repeat(341), "x".repeat(size - 341 * 3));
        let cases = [
            (format!("&content={x}"), "", String::new()),
            (String::new(), "", x.clone()),
            (String::new(), TEXT, x.clone()),
            (String::new(), TEXT, wide.clone()),
            (String::new(), "application/octet-stream", x.clone()),
            (String::new(), FORM, format!("content={x}")),
            (String::new(), FORM, format!("content={}", "%41".repeat(size))),
            (String::new(), JSON, format!(r#"{{"content":"{x}"}}"#)),
            (String::new(), JSON, format!(r#"{{"content":"{wide}"}}"#)),
            (String::new(), JSON, format!(r#"{{"content":"{}"}}"#, "\\u0041".repeat(size))),
            (String::new(), JSON, format!(r#"{{  "content" : [ "{}" ]  }}"#, "x".repeat(size - 4))),
        ];
        for (query, content_type, body) in cases {
            let headers = [("content-type", content_type)];
            let headers = if content_type.is_empty() { &headers[..0] } else { &headers };
            let answer = server.ask("POST", &format!("/publish?topic=a{query}"), headers, body.as_bytes()).await;
            if fits {
                answer.ok();
            } else {
                assert_eq!(answer.problem(413, "too_large")["limit"], MAX, "{answer:?}");
            }
        }
    }
}

#[tokio::test]
async fn a_form_or_json_body_has_a_limit_of_its_own() {
    // Padding around the content is bounded, too, and the answer names that limit.
    let server = small();
    for (size, fits) in [(ENCODED_MAX, true), (ENCODED_MAX + 1, false)] {
        for (content_type, start, end) in [(FORM, "content=x&more=", ""), (JSON, r#"{"content":"x","more":""#, "\"}")] {
            let body = format!("{start}{}{end}", "m".repeat(size - start.len() - end.len()));
            let headers = [("content-type", content_type)];
            let answer = server.ask("POST", "/publish?topic=a", &headers, body.as_bytes()).await;
            let in_chunks = server.ask_bytes(&chunked(content_type, &[body.as_bytes()])).await;
            for answer in [answer, in_chunks] {
                if fits {
                    answer.ok();
                } else {
                    assert_eq!(answer.problem(413, "too_large")["limit"], ENCODED_MAX, "{answer:?}");
                }
            }
        }
    }
}

#[tokio::test]
async fn chunked_bodies_are_bounded() {
    // Without a Content-Length the limit is found while the body comes.
    let server = small();
    let half = "x".repeat(MAX / 2);
    let half = half.as_bytes();
    server.ask_bytes(&chunked(TEXT, &[half, half])).await.ok();
    let answer = server.ask_bytes(&chunked(TEXT, &[half, half, b"x"])).await;
    assert_eq!(answer.problem(413, "too_large")["limit"], MAX);
    assert_eq!(server.ask("GET", "/topics/a", &[], b"").await.ok()["events"], 1);
}

#[tokio::test]
async fn a_body_far_too_large_still_gets_its_answer() {
    // The refusal must not be lost in a connection reset because the client is still sending.
    let server = small();
    let body = "x".repeat(8 << 20);
    for _ in 0..5 {
        let response = reqwest::Client::new()
            .post(server.url("/publish?topic=a"))
            .header("content-type", TEXT)
            .body(body.clone())
            .send()
            .await
            .expect("an answer");
        assert_eq!(response.status(), 413);
        assert_eq!(response.json::<serde_json::Value>().await.expect("JSON")["limit"], MAX);
    }
}

#[tokio::test]
async fn a_refusal_does_not_wait_for_the_body() {
    // What is announced too large is refused at once, not after it has come.
    let server = small();
    let head = "POST /publish?topic=a HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: text/plain\r\n\
                Content-Length: 8000000\r\n\r\n";
    let answer = server.ask_bytes(head.as_bytes()).await;
    assert_eq!(answer.problem(413, "too_large")["limit"], MAX);
}

const UNFINISHED: &str =
    "POST /publish?topic=a HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: text/plain\r\n";

#[tokio::test]
async fn a_body_that_never_finishes_is_given_up() {
    // A sender that dribbles gets 408 after `publish.body_timeout`, the connection ends, and nothing is published.
    let server = TestServer::with(|config| config.publish.body_timeout = Duration::from_millis(200));
    for rest in ["Content-Length: 10\r\n\r\nhello", "Content-Length: 10\r\n\r\n"] {
        let answer = server.ask_bytes(format!("{UNFINISHED}{rest}").as_bytes()).await;
        answer.problem(408, "body_timeout");
    }
    server.ask("GET", "/topics/a", &[], b"").await.problem(404, "topic_unknown");
}

#[tokio::test]
async fn a_chunked_body_that_never_finishes_does_not_hold_its_connection() {
    // As above; a chunk that never ends must not keep the connection for ever once its sender has been answered.
    let server = TestServer::with(|config| config.publish.body_timeout = Duration::from_millis(200));
    let request = format!("{UNFINISHED}Transfer-Encoding: chunked\r\n\r\n5\r\nhel");
    server.ask_bytes(request.as_bytes()).await.problem(408, "body_timeout");
}

#[tokio::test]
async fn a_body_that_breaks_off_publishes_nothing() {
    // Half a body is no event, whichever way the connection ends.
    let server = TestServer::start();
    let head = "POST /publish?topic=a HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\n";
    for rest in ["Content-Length: 10\r\n\r\nhello", "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"] {
        let mut socket = TcpStream::connect(server.address).await.expect("a connection");
        socket.write_all(format!("{head}{rest}").as_bytes()).await.expect("the request is sent");
        socket.shutdown().await.expect("half a close");
        drop(socket);
    }
    let first = server.publish("b", "the first event").await;
    assert!(first.ends_with("-1"), "half a body was published before {first}");
}

#[tokio::test]
async fn a_connection_serves_many_publishes() {
    // Keep-alive holds over publishes, refusals with bodies read, and a subscription at the end.
    let server = TestServer::start();
    let mut socket = TcpStream::connect(server.address).await.expect("a connection");
    for (content, status) in [("one", 200), ("\u{1}two", 200), ("three", 200)] {
        let head = "POST /publish?topic=a HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\n";
        let request = format!("{head}Content-Length: {}\r\n\r\n{content}", content.len());
        socket.write_all(request.as_bytes()).await.expect("the request is sent");
        let mut answer = Stream::receive(socket).await;
        assert_eq!(answer.status, status);
        let length: usize = answer.header("content-length").and_then(|length| length.parse().ok()).expect("a length");
        while answer.body.len() < length {
            answer.read().await;
        }
        socket = answer.socket;
    }
    let mut stream = Stream::send(socket, "/subscribe?topic=a&since=all", &[("accept", "text/event-stream")]).await;
    let contents: Vec<_> = stream.take(3).await.into_iter().map(|block| block.data).collect();
    assert_eq!(contents, ["one", "\u{1}two", "three"]);
}
