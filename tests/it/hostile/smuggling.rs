//! Requests whose end two servers could see in different places, so that a request hidden in the first one gets past a
//! proxy (request smuggling). They go to both readers of requests, directly and behind real proxies.

mod probes;
mod proxy;

use std::{fmt::Write as _, net::SocketAddr};

use tidings::config::Config;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use super::bodies::FULL;
use crate::harness::{DEADLINE, TestServer};
use probes::{Meaning, Probe, probes};
use proxy::{Kind, Proxy};

/// What a connection gives to `request` before it ends.
async fn ask(address: SocketAddr, request: &[u8]) -> Vec<u8> {
    let mut socket = TcpStream::connect(address).await.expect("a connection");
    socket.write_all(request).await.expect("the request is sent");
    let mut bytes = Vec::new();
    timeout(DEADLINE, socket.read_to_end(&mut bytes)).await.expect("an end in time").expect("a clean end");
    bytes
}

/// The status and the code of each answer to `request`.
async fn answers(address: SocketAddr, request: &[u8]) -> Vec<(u16, String)> {
    let bytes = ask(address, request).await;
    let text = String::from_utf8_lossy(&bytes);
    let mut answers = Vec::new();
    let mut rest = &*text;
    while let Some((head, after)) = rest.split_once("\r\n\r\n") {
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
        let head = head.to_ascii_lowercase();
        let length = head.split("content-length: ").nth(1).and_then(|rest| rest.lines().next()?.parse().ok());
        let (body, next) = after.split_at(length.unwrap_or(0));
        let code = body.split("\"code\":\"").nth(1).and_then(|rest| rest.split('"').next()).unwrap_or_default();
        answers.push((status, code.to_owned()));
        rest = next;
    }
    assert_eq!(rest, "", "whole answers");
    answers
}

fn expected(probe: &Probe) -> Vec<(u16, &'static str)> {
    match probe.meaning {
        Meaning::Refused(code) => vec![(400, code)],
        Meaning::Last(status) => vec![status],
        Meaning::Next(statuses) => [statuses, &[(200, "")]].concat(),
    }
}

/// How many events a topic holds.
async fn held(server: &TestServer, topic: &str) -> u64 {
    let answer = server.ask("GET", &format!("/topics/{topic}"), &[], b"").await;
    if answer.status == 404 { 0 } else { answer.ok()["events"].as_u64().expect("a number") }
}

#[tokio::test]
async fn an_ambiguous_request_is_refused_and_nothing_after_it_is_read() {
    // Goal: each probe has its exact answer at both readers. After a refusal, and after a request whose end only one
    // reader has found, the connection ends, so the request behind it is never served.
    let server = TestServer::start();
    for (front, lines) in [("fast", ""), ("full", FULL)] {
        for (n, probe) in probes().iter().enumerate() {
            let (topic, hidden) = (format!("{front}-{n}"), format!("{front}-{n}-hidden"));
            let said = answers(server.address, &probe.bytes(&topic, &hidden, lines)).await;
            let said: Vec<_> = said.iter().map(|(status, code)| (*status, &**code)).collect();
            assert_eq!(said, expected(probe), "{} ({front})", probe.name);
            let is_served = matches!(probe.meaning, Meaning::Next(_));
            assert_eq!(held(&server, &hidden).await, u64::from(is_served), "{} ({front})", probe.name);
        }
    }
}

/// Sends each probe through a proxy that keeps its connections to the server, and an honest request behind it. Then the
/// proxy and the server must have seen the same requests.
async fn both_see_the_same_requests(kind: Kind) {
    let server = TestServer::with(|config: &mut Config| config.limits.topics_max = 10_000);
    let Some(proxy) = Proxy::start(kind, server.address).await else { return };
    let mut topics = Vec::new();
    for (front, lines) in [("fast", ""), ("full", FULL)] {
        for (n, probe) in probes().iter().enumerate() {
            let (topic, hidden) = (format!("{front}-{n}"), format!("{front}-{n}-hidden"));
            // What the proxy itself says of it is not compared: it has its own rules, and its own HTTP/0.9 and HTTP/2.
            ask(proxy.address, &probe.bytes(&topic, &hidden, lines)).await;
            // An answer too many would be taken for the answer to this one.
            let honest = format!("{front}-{n}-honest");
            let request = probes::hidden(&honest);
            assert_eq!(answers(proxy.address, request.as_bytes()).await, [(200, String::new())], "{}", probe.name);
            topics.extend([topic, hidden, honest].map(|topic| (topic, probe.name, front)));
        }
    }
    let mut log = proxy.stop();
    let mut differences = String::new();
    let (mut all, mut hidden) = (0, 0);
    for (topic, name, front) in topics {
        let forwarded = log.remove(&topic).unwrap_or(0);
        let published = held(&server, &topic).await;
        all += published;
        hidden += if topic.ends_with("hidden") { published } else { 0 };
        if forwarded != published {
            let _ = write!(differences, "\n{name} ({front}): {topic}: forwarded {forwarded}, published {published}");
        }
    }
    println!("{kind:?}: {all} requests were forwarded, {hidden} of them behind another one");
    assert_eq!(differences, "");
    assert!(log.is_empty(), "in the proxy's log alone: {log:?}");
    assert!(hidden > 0, "the control: a request behind a plain one is served");
}

#[tokio::test]
async fn nginx_and_the_server_see_the_same_requests() {
    both_see_the_same_requests(Kind::Nginx).await;
}

#[tokio::test]
async fn haproxy_and_the_server_see_the_same_requests() {
    both_see_the_same_requests(Kind::HaProxy).await;
}
