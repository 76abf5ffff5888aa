//! The budget of bytes for requests that are being received: what counts, and what is past it.

use std::time::Duration;

use futures_util::{FutureExt as _, future::select_all};
use tidings::{
    config::{Config, Size},
    limits::UNCOUNTED_MAX,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use super::{
    bodies::{FULL, OWN, head},
    connections::{problem, send_from},
};
use crate::harness::{DEADLINE, Stream, TestServer, until};

const OTHER: &str = "127.0.0.2";

/// A publish whose length is not told.
fn chunked_head() -> String {
    let head = "POST /publish?topic=a HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\nConnection: close\r\n";
    format!("{head}Transfer-Encoding: chunked\r\n\r\n")
}

/// So many bytes may be under way from each address, and in all.
fn narrow(per_ip: u64, all: u64) -> impl FnOnce(&mut Config) {
    move |config: &mut Config| {
        // Where a question whether there is room takes it for a moment, that is between two turns of the only worker.
        config.server.workers = 1;
        config.limits.request_bytes_in_flight_per_ip_max = Size::new(per_ip);
        config.limits.request_bytes_in_flight_max = Size::new(all);
    }
}

/// A publish whose body lacks its last byte.
async fn begun(source: &str, server: &TestServer, length: usize) -> TcpStream {
    send_from(source, server.address, &[head(FULL, length), vec![b'x'; length - 1]].concat()).await
}

/// Waits until the server has no room for a body of `length` bytes. Only its head is sent: the body would take room from
/// those who are to take it.
async fn until_full(source: &str, server: &TestServer, length: usize) {
    until("the room to be taken", async || {
        let asking = send_from(source, server.address, &head(FULL, length)).await;
        timeout(Duration::from_millis(100), asking.readable()).await.is_ok()
    })
    .await;
}

/// Sends the rest of a body that was admitted; it must be published.
async fn finish(mut socket: TcpStream, rest: usize) {
    socket.write_all(&vec![b'x'; rest]).await.expect("it is taken");
    assert_eq!(Stream::receive(socket).await.status, 200);
}

/// The answer to a request that is refused for its bytes: at once, with the connection's end, and in words.
async fn refused(socket: TcpStream, status: u16, code: &str) {
    let answer = Stream::receive(socket).await;
    assert_eq!(answer.status, status);
    assert_eq!((answer.header("connection"), answer.header("retry-after")), (Some("close"), Some("1")));
    assert_eq!(problem(answer).await["code"], code);
}

/// Goal: at the limit a body is admitted, one byte past it it is refused, and what was taken comes back.
#[tokio::test]
async fn bodies_are_admitted_up_to_the_limit_of_their_address_and_of_all() {
    for (all, second, code, status) in
        [(1 << 20, OWN, "too_many_request_bytes_per_ip", 429), (80_000, OTHER, "too_many_request_bytes", 503)]
    {
        let server = TestServer::with(narrow(80_000, all));
        for round in 0..3 {
            let first = begun(OWN, &server, 40_000).await;
            until_full(second, &server, 40_001).await;
            // One that says how long it is is refused before it is sent; one that does not, when it has become too much.
            refused(send_from(second, server.address, &head(FULL, 40_001)).await, status, code).await;
            let chunked = format!("{}9c41\r\n{}", chunked_head(), "x".repeat(40_001));
            refused(send_from(second, server.address, chunked.as_bytes()).await, status, code).await;
            let at_the_limit = begun(second, &server, 40_000).await;
            until_full(second, &server, UNCOUNTED_MAX + 1).await;
            // A small one is not counted.
            finish(send_from(second, server.address, &head(FULL, 100)).await, 100).await;
            finish(first, 1).await;
            finish(at_the_limit, 1).await;
            let events = server.held("a").await["events"].clone();
            assert_eq!(events, 3 * (round + 1), "what was refused was not published");
        }
    }
}

/// Goal: a body in chunks says nothing of its length: it is stopped where it would pass the limit.
#[tokio::test]
async fn a_body_in_chunks_is_bounded_while_it_comes() {
    let chunk = format!("{:x}\r\n{}\r\n", 20_000, "x".repeat(20_000));
    let request = |chunks: usize| format!("{}{}0\r\n\r\n", chunked_head(), chunk.repeat(chunks));
    let server = TestServer::with(narrow(100_000, 1 << 20));
    server.ask_bytes(request(3).as_bytes()).await.ok();
    let answer = server.ask_bytes(request(10).as_bytes()).await;
    answer.problem(429, "too_many_request_bytes_per_ip");
    assert_eq!((answer.header("connection"), answer.header("retry-after")), (Some("close"), Some("1")));
    // The control: with room for it the same body is taken.
    TestServer::start().ask_bytes(request(10).as_bytes()).await.ok();
}

/// Goal: a small request that comes in pieces takes memory of its own, and that is counted, too.
#[tokio::test]
async fn small_requests_in_pieces_are_bounded_in_sum() {
    let piece = [head("", 30_000), vec![b'x'; 20_000]].concat();
    for (limit, is_refused) in [(50_000, true), (1 << 20, false)] {
        let server = TestServer::with(|config| {
            narrow(limit, 1 << 20)(config);
            // The pieces stay in the fast path's memory for a second; then the other server has them.
            config.publish.body_timeout = Duration::from_mins(1);
        });
        let mut held = Vec::new();
        for _ in 0..3 {
            held.push(send_from(OWN, server.address, &piece).await);
        }
        if is_refused {
            // Whichever of the three came last.
            let (_, over, _) = select_all(held.iter().map(|socket| socket.readable().boxed())).await;
            refused(held.swap_remove(over), 429, "too_many_request_bytes_per_ip").await;
            continue;
        }
        for socket in held {
            finish(socket, 10_000).await;
        }
    }
}

/// Goal: what a publish keeps while it waits for the log is counted, however small the request was.
#[tokio::test]
async fn publishes_that_wait_for_the_log_are_bounded_in_sum() {
    for (limit, most) in [(100_000, 4), (1 << 20, 30)] {
        let server = TestServer::with(|config| {
            narrow(limit, 1 << 20)(config);
            config.publish.event_bytes_max = Size::kib(24);
            // Nothing fits: each waits for room until it is refused for the queue's sake.
            config.log.queue_bytes_max = Size::new(1);
            config.log.queue_wait = Duration::from_secs(2);
        });
        let request = [head("", 24 << 10), vec![b'x'; 24 << 10]].concat();
        let mut sockets = Vec::new();
        for _ in 0..30 {
            sockets.push(send_from(OWN, server.address, &request).await);
        }
        let mut waited = 0;
        for socket in sockets {
            let answer = Stream::receive(socket).await;
            match answer.status {
                429 => {}
                _ => waited += 1,
            }
        }
        println!("{waited} of 30 waited for the log");
        assert!(waited <= most && waited > 0, "{waited} waited with {limit} bytes");
        assert!(limit < 1 << 20 || waited == 30, "the control: {waited} waited");
    }
}

/// Goal: what a head promises is not taken from others before it comes: neither a publish nor a question of life is refused
/// beside a hundred of them from the same address.
#[tokio::test]
async fn bodies_that_are_only_promised_take_nothing_from_others() {
    let server = TestServer::with(|config| config.publish.body_timeout = Duration::from_mins(1));
    let mut promised = Vec::new();
    for n in 0..100 {
        let head = "POST /publish HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 5000000\r\n";
        // Some ask first; the others begin at once, and stop.
        let (head, beginning) =
            if n % 2 == 0 { (format!("{head}Expect: 100-continue\r\n"), "") } else { (head.to_owned(), "{\"") };
        let mut socket = send_from(OWN, server.address, format!("{head}\r\n{beginning}").as_bytes()).await;
        if n % 2 == 0 {
            let mut interim = [0; 25];
            timeout(DEADLINE, socket.read_exact(&mut interim)).await.expect("in time").expect("an answer");
        }
        promised.push(socket);
    }
    for _ in 0..3 {
        server.ask_bytes(format!("{}3\r\nabc\r\n0\r\n\r\n", chunked_head()).as_bytes()).await.ok();
        assert_eq!(server.ask("GET", "/healthz", &[], b"").await.status, 200);
        finish(send_from(OWN, server.address, &head(FULL, 1 << 20)).await, 1 << 20).await;
    }
    let mut byte = [0];
    for socket in promised {
        let read = socket.try_read(&mut byte).map_err(|error| error.kind());
        assert_eq!(read, Err(std::io::ErrorKind::WouldBlock), "none of them was refused");
    }
}

/// Goal: the largest body fits the smallest budget that the configuration allows for it, told beforehand or in chunks of
/// whatever size.
#[tokio::test]
async fn the_largest_body_fits_the_smallest_budget() {
    let server = TestServer::with(|config| {
        config.publish.event_bytes_max = Size::mib(2);
        narrow((12 << 20) + (64 << 10), 32 << 20)(config);
    });
    let longest = (12 << 20) + (64 << 10);
    let content = format!("{{\"topic\":\"a\",\"content\":\"x\"}}{}", " ".repeat(longest - 27));
    server.ask("POST", "/publish", &[("content-type", "application/json")], content.as_bytes()).await.ok();
    for chunk in [10_000, 65_536, 7 << 20] {
        let body: String = content
            .as_bytes()
            .chunks(chunk)
            .map(|chunk| format!("{:x}\r\n{}\r\n", chunk.len(), String::from_utf8_lossy(chunk)))
            .collect();
        let head =
            "POST /publish HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n";
        let request = format!("{head}Transfer-Encoding: chunked\r\n\r\n{body}0\r\n\r\n");
        server.ask_bytes(request.as_bytes()).await.ok();
    }
}
