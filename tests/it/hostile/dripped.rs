//! Requests that come byte by byte: no byte gives the request more time.

use std::time::Duration;

use tidings::config::Config;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::timeout,
};

use super::{
    bodies::{FULL, OWN},
    connections::{dribble, send_from},
};
use crate::harness::{DEADLINE, TestServer};

/// A request before the dripped one, on the same connection: none, one that the fast path serves, and one that the
/// fallback serves.
const BEFORE: [&str; 3] = [
    "",
    "GET /publish?topic=b&content=x HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "GET /publish?topic=b&content=x HTTP/1.1\r\nHost: localhost\r\nContent-Encoding: identity\r\n\r\n",
];

/// Sends `before` and awaits its answer, and then `begin`, and again and again `drop`; what the server says to that before
/// it ends the connection. `None` if it does not end it within `most`.
async fn drip(server: &TestServer, before: &str, begin: &str, drop: &str, most: Duration) -> Option<String> {
    let mut socket = send_from(OWN, server.address, before.as_bytes()).await;
    if !before.is_empty() {
        let mut answer = [0; 1024];
        let n = timeout(DEADLINE, socket.read(&mut answer)).await.expect("in time").expect("an answer");
        assert!(answer[..n].starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer[..n]));
    }
    socket.write_all(begin.as_bytes()).await.expect("the beginning is sent");
    dribble(&mut socket, drop.as_bytes(), most).await.1
}

/// Drips each of `cases`, a beginning and what is sent again and again, after each request of [`BEFORE`].
async fn each(configure: impl FnOnce(&mut Config), cases: &[(String, &str)], most: Duration) -> Vec<Option<String>> {
    let server = TestServer::with(configure);
    let drips = BEFORE.iter().flat_map(|before| cases.iter().map(move |case| (before, case)));
    let said = drips.map(|(before, (begin, drop))| drip(&server, before, begin, drop, most));
    let said = futures_util::future::join_all(said).await;
    server.ask("GET", "/topics/a", &[], b"").await.problem(404, "topic_unknown");
    said
}

/// Checks that with a short time each of `cases` ends with `code`, and, the control, that with a long one none ends.
async fn ends_in_time(time: fn(&mut Config) -> &mut Duration, cases: &[(String, &str)], code: &str) {
    let set = |to: Duration| move |config: &mut Config| *time(config) = to;
    for (said, n) in each(set(Duration::from_millis(300)), cases, DEADLINE).await.into_iter().zip(0..) {
        let (case, said) = (&cases[n % cases.len()], said.unwrap_or_else(|| panic!("{n}: it goes on")));
        assert!(said.starts_with("HTTP/1.1 408") && said.contains(code), "{case:?}: {said}");
    }
    let control = each(set(Duration::from_mins(1)), cases, Duration::from_millis(2500)).await;
    assert!(control.iter().all(Option::is_none), "the control: {control:?}");
}

#[tokio::test]
async fn a_dripped_head_ends_in_time() {
    // Goal: `server.head_timeout` is for the whole head, of the first request of a connection and of later ones, whichever
    // reader has served the one before.
    let line = "POST /publish?topic=a HTTP/1.1\r\n";
    let cases = [
        ("P".to_owned(), "x"),
        (format!("{line}Host: local"), "x"),
        (format!("{line}Host: localhost\r\n"), "A: b\r\n"),
        (format!("{line}{FULL}Host: local"), "x"),
    ];
    ends_in_time(|config| &mut config.server.head_timeout, &cases, "head_timeout").await;
}

#[tokio::test]
async fn a_dripped_body_ends_in_time() {
    // Goal: `publish.body_timeout` is for the whole body, on both fronts, with a length or in chunks, of the first request
    // of a connection and of later ones.
    let head = "POST /publish?topic=a HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\n";
    let cases = [
        (format!("{head}Content-Length: 1000\r\n\r\n"), "x"),
        (format!("{head}Content-Length: 100000\r\n\r\n"), "x"),
        (format!("{head}{FULL}Content-Length: 1000\r\n\r\n"), "x"),
        (format!("{head}Transfer-Encoding: chunked\r\n\r\n"), "1\r\nx\r\n"),
        (format!("{head}Transfer-Encoding: chunked\r\n\r\n3e8\r\n"), "x"),
        (format!("{head}{FULL}Transfer-Encoding: chunked\r\n\r\n"), "1\r\nx\r\n"),
    ];
    ends_in_time(|config| &mut config.publish.body_timeout, &cases, "body_timeout").await;
}
