//! Bodies that never end, that are many, or that are made to be dear.

use std::time::Duration;

use tidings::config::Size;
use tokio::{io::AsyncWriteExt as _, net::TcpStream, task::JoinSet, time::timeout};

use super::connections::send_from;
use crate::harness::{Process, Stream, TestServer};

const MIB: u64 = 1 << 20;
pub const OWN: &str = "127.0.0.1";

/// A publish that the fallback reads, and the fast path does not.
pub const FULL: &str = "Content-Encoding: identity\r\n";

pub fn head(extra: &str, length: usize) -> Vec<u8> {
    let head = "POST /publish?topic=a HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\n";
    format!("{head}{extra}Content-Length: {length}\r\n\r\n").into_bytes()
}

/// How much the server's memory grows while 40 clients send 5 MiB each of a JSON body that does not end; and how many of
/// them are refused.
async fn grown_by_unfinished_bodies(settings: &[(&str, &str)]) -> (u64, usize) {
    const CLIENTS: usize = 40;
    const SENT: usize = 5 << 20;
    let server = Process::start(settings).await;
    let before = server.resident();
    let mut sending = JoinSet::new();
    let address = server.address;
    for _ in 0..CLIENTS {
        sending.spawn(async move {
            let mut socket = TcpStream::connect(address).await.expect("a connection");
            let head = "POST /publish HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n";
            let request = format!("{head}Content-Length: {}\r\n\r\n{{\"content\":\"{}", SENT + 100, "x".repeat(SENT));
            // One that is refused may be cut while it still sends.
            socket.write_all(request.as_bytes()).await.ok();
            socket
        });
    }
    let mut refused = 0;
    let mut held = Vec::new();
    for socket in sending.join_all().await {
        let mut byte = [0];
        // A client that is not refused is not answered: the body goes on.
        if timeout(Duration::from_millis(50), socket.peek(&mut byte)).await.is_ok() {
            refused += 1;
        }
        held.push(socket);
    }
    let grown = server.resident().saturating_sub(before);
    println!("{refused} of {CLIENTS} were refused, memory grew by {} MiB", grown / MIB);
    (grown, refused)
}

/// Goal: however many bodies are under way, they take no more memory than their budget.
#[tokio::test]
async fn unfinished_bodies_are_bounded_in_sum() {
    let patient = ("TIDINGS__PUBLISH__BODY_TIMEOUT", "1m");
    let (grown, refused) = grown_by_unfinished_bodies(&[
        patient,
        ("TIDINGS__LIMITS__REQUEST_BYTES_IN_FLIGHT_MAX", "16MiB"),
        ("TIDINGS__LIMITS__REQUEST_BYTES_IN_FLIGHT_PER_IP_MAX", "16MiB"),
    ])
    .await;
    assert_eq!(refused, 37, "16 MiB hold three of them");
    // The rest is what 40 connections cost of themselves, their buffers included.
    assert!(grown < 40 * MIB, "memory grew by {} MiB", grown / MIB);
    // The control: without the budget the same load takes what it sends.
    let (grown, refused) = grown_by_unfinished_bodies(&[
        patient,
        ("TIDINGS__LIMITS__REQUEST_BYTES_IN_FLIGHT_MAX", "1GiB"),
        ("TIDINGS__LIMITS__REQUEST_BYTES_IN_FLIGHT_PER_IP_MAX", "1GiB"),
    ])
    .await;
    assert_eq!(refused, 0);
    assert!(grown > 150 * MIB, "the control: memory grew by {} MiB only", grown / MIB);
}

/// The most memory that a server has occupied so far.
fn peak(server: &Process) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.id())).expect("its status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("its peak");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024
}

/// How far a publish drives the peak.
async fn driven_by(server: &Process, content_type: &str, body: String) -> u64 {
    let before = peak(server);
    let request = reqwest::Client::new().post(server.url("/publish?topic=a")).header("content-type", content_type);
    let answer = request.body(body).send().await.expect("an answer");
    let status = answer.status();
    let text = answer.text().await.expect("text");
    assert!(
        status == 200
            || text.contains("content_missing")
            || text.contains("repeated")
            || text.contains("too_many_topics_named"),
        "{text}"
    );
    peak(server).saturating_sub(before)
}

/// Goal: what a body is made of does not multiply what it costs: neither a list of zeros, nor one of empty topics, nor a
/// form of a million names.
#[tokio::test]
async fn a_body_costs_its_length_whatever_it_is_made_of() {
    let settings = [
        ("TIDINGS__LOG__ENGINE", "memory"),
        ("TIDINGS__PUBLISH__EVENT_BYTES_MAX", "4MiB"),
        ("TIDINGS__LOG__TOPIC_BYTES_MAX", "64MiB"),
    ];
    let server = Process::start(&settings).await;
    // The size of the largest body there may be has been asked for before.
    driven_by(&server, "text/plain", "x".repeat(4 << 20)).await;
    let json = "application/json";
    for (content_type, body) in [
        (json, format!("{{\"content\":[{}0]}}", "0,".repeat(1 << 20))),
        (json, format!("{{\"content\":[{}{{}}]}}", "{},".repeat(600_000))),
        (json, format!("{{\"content\":\"x\",\"topic\":[{}\"t\"]}}", "\"t\",".repeat(500_000))),
        ("application/x-www-form-urlencoded", "a&".repeat(1 << 20)),
        ("application/x-www-form-urlencoded", "topic=t&content=x&".repeat(100_000)),
    ] {
        let length = body.len() as u64;
        let beginning = body[..30].to_owned();
        let grown = driven_by(&server, content_type, body).await;
        println!("{beginning}…: {} KiB for {} KiB", grown / 1024, length / 1024);
        // The body, its content, and the copies that the log makes of it.
        assert!(grown < 6 * length, "{beginning}…: {grown} bytes for {length}");
    }
    // The control: a tree of it is seen by the same measure, in this process.
    let zeros = format!("[{}0]", "0,".repeat(1 << 20));
    let tree: serde_json::Value = serde_json::from_str(&zeros).expect("JSON");
    let nodes = tree.as_array().expect("a list").len() as u64;
    assert!(nodes * size_of::<serde_json::Value>() as u64 > 6 * zeros.len() as u64, "a tree would not pass");
}

/// Goal: after a body that was refused the next request's beginning is not known: the connection says that it ends, the
/// client can read why, and nothing that follows is taken for a request or swallowed in silence.
#[tokio::test]
async fn a_refused_chunked_body_ends_the_connection_aloud() {
    let server = TestServer::start();
    let refused = "POST /publish?topic=a HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/x\r\n";
    let next = "POST /publish?topic=next HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\nx";
    for rest in ["3\r\nabc\r\n0\r\n\r\n", "3\r\nabc\r\n", "3\r\nab", "", "no length\r\n", "3\r\nabcdef\r\n"] {
        let request = format!("{refused}Transfer-Encoding: chunked\r\n\r\n{rest}");
        let request = if rest.ends_with("0\r\n\r\n") { request + next } else { request };
        let answer = server.ask_bytes(request.as_bytes()).await;
        answer.problem(415, "unsupported_media_type");
        assert_eq!(answer.header("connection"), Some("close"), "after {rest:?}: {answer:?}");
    }
    server.ask("GET", "/topics/next", &[], b"").await.problem(404, "topic_unknown");
    // The control: after a refusal that has read its body, the next request is answered on the same connection.
    let refused =
        "POST /publish?topic= HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\nContent-Length: 3\r\n\r\nabc";
    let last = next.replace("Host: localhost", "Host: localhost\r\nConnection: close");
    let answer = server.ask_bytes(format!("{refused}{last}").as_bytes()).await;
    assert_eq!((answer.status, answer.header("connection")), (400, None), "{answer:?}");
    server.ask("GET", "/topics/next", &[], b"").await.ok();
}

/// Goal: a publish that is refused before its body was read says that the connection ends: a client that goes on with the
/// next request knows that it is not answered.
#[tokio::test]
async fn a_publish_refused_before_its_body_ends_the_connection_aloud() {
    let server = TestServer::with(|config| config.publish.event_bytes_max = Size::kib(1));
    let json = "Content-Type: application/json\r\n";
    for (line, headers, status) in [
        ("POST /publish?topic=a", "Content-Type: multipart/x\r\n", 415),
        ("POST /publish?topic=a", "Content-Type: text/plain\r\nOrigin: https://evil.example\r\n", 403),
        ("POST /publish?topics=a", json, 400),
        ("DELETE /publish?topic=a", json, 405),
        ("POST /publish?topic=a", json, 413),
    ] {
        for framing in ["Content-Length: 100000\r\n", "Transfer-Encoding: chunked\r\n"] {
            if status == 413 && framing.starts_with('T') {
                continue;
            }
            let request = format!("{line} HTTP/1.1\r\nHost: localhost\r\n{headers}{framing}\r\n");
            let answer = Stream::receive(send_from(OWN, server.address, request.as_bytes()).await).await;
            assert_eq!((answer.status, answer.header("connection")), (status, Some("close")), "{request}");
        }
        // The control: with its body read, or none, the connection is kept, except by what is wrong with the head alone.
        let request = format!("{line} HTTP/1.1\r\nHost: localhost\r\n{headers}Content-Length: 0\r\n\r\n");
        let answer = Stream::receive(send_from(OWN, server.address, request.as_bytes()).await).await;
        assert_eq!(answer.header("connection"), None, "{request}");
    }
}
