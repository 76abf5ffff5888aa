//! The PROXY protocol, version 2: a trusted proxy says from which client it has got a connection.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use super::{KEY, trusting};
use crate::harness::{DEADLINE, READERS, Stream, TestServer, until};

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// A connection for a client, over TCP and IPv4.
const PROXY: [u8; 2] = [0x21, 0x11];
/// The most bytes after the first sixteen.
const REST_MAX: usize = 4096;

/// A preamble of this command and protocol.
fn preamble(kind: [u8; 2], rest: &[u8]) -> Vec<u8> {
    let length = u16::try_from(rest.len()).expect("a length");
    [SIGNATURE, &kind, &length.to_be_bytes(), rest].concat()
}

/// The addresses of a client and of the proxy, and their ports.
fn ipv4(client: [u8; 4]) -> Vec<u8> {
    [&client[..], &[10, 0, 0, 1], &4711_u16.to_be_bytes(), &80_u16.to_be_bytes()].concat()
}

fn client(address: [u8; 4]) -> Vec<u8> {
    preamble(PROXY, &ipv4(address))
}

fn ipv6(client: &str) -> Vec<u8> {
    let client: std::net::Ipv6Addr = client.parse().expect("an address");
    [&client.octets()[..], &[0; 16], &[18, 103, 0, 80]].concat()
}

/// A server with one subscriber allowed from each address.
fn one_each(is_trusting: bool) -> TestServer {
    TestServer::with(|config| {
        config.limits.connections_per_ip_max = 1;
        if is_trusting {
            trusting(config);
        }
    })
}

fn subscribe(topic: &str, headers: &str) -> Vec<u8> {
    format!("GET /subscribe?topic={topic} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{KEY}{headers}\r\n")
        .into_bytes()
}

/// Sends each part when the one before has been taken.
async fn send(server: &TestServer, parts: &[&[u8]]) -> TcpStream {
    let mut socket = TcpStream::connect(server.address).await.expect("a connection");
    socket.set_nodelay(true).expect("an option");
    for part in parts {
        if socket.write_all(part).await.is_err() {
            // The server has closed the connection, which the test sees when it reads.
            break;
        }
        tokio::task::yield_now().await;
    }
    socket
}

#[tokio::test]
async fn the_client_is_the_one_that_the_preamble_names() {
    // Goal: with one subscriber allowed from each address, the address in the preamble counts, however it arrives.
    let server = one_each(true);
    let first = [client([192, 0, 2, 1]), subscribe("first", "")].concat();
    let first = Stream::receive(send(&server, &[&first]).await).await;
    assert_eq!(first.status, 200);
    let tlv = [ipv4([192, 0, 2, 1]), vec![0x20, 0, 3, 1, 2, 3]].concat();
    let longest = [ipv4([192, 0, 2, 1]), vec![0; REST_MAX - 12]].concat();
    for (preamble, is_same) in [
        (client([192, 0, 2, 1]), true),
        (preamble(PROXY, &tlv), true),
        (preamble(PROXY, &longest), true),
        (preamble([0x21, 0x21], &ipv6("::ffff:192.0.2.1")), true),
        (preamble([0x21, 0x21], &ipv6("2001:db8::1")), false),
        (client([192, 0, 2, 2]), false),
        // The proxy's own connection, and one of an unknown protocol: they count for the proxy.
        (preamble([0x20, 0x00], &[]), false),
        (preamble([0x20, 0x11], &ipv4([192, 0, 2, 1])), false),
        (preamble([0x21, 0x00], &[]), false),
        (preamble([0x21, 0x31], &[0; 216]), false),
        // No preamble. Line breaks may come before a request.
        (Vec::new(), false),
        (b"\r\n".to_vec(), false),
        (b"\r\n\r\n".to_vec(), false),
    ] {
        for reader in READERS {
            let request = subscribe("other", reader);
            let bytes = [&preamble[..], &request].concat();
            let bytewise: Vec<&[u8]> = bytes.chunks(1).collect();
            let pieces: [&[&[u8]]; 3] = [&[&bytes], &[&preamble, &request], &bytewise];
            for parts in pieces {
                let mut stream = Stream::receive(send(&server, parts).await).await;
                assert_eq!(stream.status, if is_same { 429 } else { 200 }, "{:?}", preamble.escape_ascii().to_string());
                if is_same {
                    assert!(stream.rest().await.contains("too_many_connections_per_ip"));
                }
                drop(stream);
                server.until_subscribers("other", 0).await;
            }
        }
    }
}

#[tokio::test]
async fn the_headers_of_a_client_that_is_no_proxy_do_not_count() {
    // Goal: behind a proxy that does not read HTTP, the headers are the client's own. They count only if the client is a
    // trusted proxy, too.
    let server = one_each(true);
    let first = [client([192, 0, 2, 1]), subscribe("first", "")].concat();
    let first = Stream::receive(send(&server, &[&first]).await).await;
    assert_eq!(first.status, 200);
    for (peer, expected) in [([192, 0, 2, 2], 200), ([10, 0, 0, 2], 429)] {
        let request = [client(peer), subscribe("other", "X-Forwarded-For: 192.0.2.1\r\n")].concat();
        let stream = Stream::receive(send(&server, &[&request]).await).await;
        assert_eq!(stream.status, expected, "{peer:?}");
        drop(stream);
        server.until_subscribers("other", 0).await;
    }
}

/// What a connection answers to these bytes until the server closes it.
async fn answer(server: &TestServer, parts: &[&[u8]]) -> String {
    let mut socket = send(server, parts).await;
    let mut answer = Vec::new();
    // A reset is an end, too: not all bytes were read.
    timeout(DEADLINE, socket.read_to_end(&mut answer)).await.expect("an end in time").ok();
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn a_broken_preamble_ends_the_connection() {
    // Goal: the server closes a connection whose preamble is incomplete or wrong, and reads no more of it.
    let server = TestServer::with(trusting);
    let request = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    let whole = client([192, 0, 2, 1]);
    let with_kind = |kind| preamble(kind, &ipv4([192, 0, 2, 1]));
    let mut other_signature = whole.clone();
    other_signature[11] = b'\r';
    for broken in [
        other_signature,
        [b"\r\n\r\n\0", &request[..]].concat(),
        // Another version, another command, UDP, an unknown family.
        with_kind([0x11, 0x11]),
        with_kind([0x22, 0x11]),
        with_kind([0x21, 0x12]),
        with_kind([0x21, 0x41]),
        with_kind([0x21, 0x1f]),
        // Too short for its addresses.
        preamble(PROXY, &ipv4([192, 0, 2, 1])[..11]),
        preamble([0x21, 0x21], &ipv4([192, 0, 2, 1])),
        preamble(PROXY, &[]),
        preamble([0x21, 0x31], &[0; 215]),
        preamble(PROXY, &[ipv4([192, 0, 2, 1]), vec![0; REST_MAX - 11]].concat()),
        preamble(PROXY, &vec![0; 65_535]),
    ] {
        assert_eq!(answer(&server, &[&broken, request]).await, "", "{:?}", broken[12..].escape_ascii().to_string());
    }
    // The client leaves in the middle.
    for end in 1..whole.len() {
        let mut socket = send(&server, &[&whole[..end]]).await;
        socket.shutdown().await.expect("it is closed");
        let mut rest = Vec::new();
        timeout(DEADLINE, socket.read_to_end(&mut rest)).await.expect("an end in time").ok();
        assert!(rest.is_empty(), "{end}");
    }
    // The control.
    assert!(answer(&server, &[&whole, request]).await.starts_with("HTTP/1.1 200"));
    // Version 1 is not supported, so it is a bad request.
    let version_1 = b"PROXY TCP4 192.0.2.1 10.0.0.1 4711 80\r\n";
    assert!(answer(&server, &[version_1, request]).await.starts_with("HTTP/1.1 400"));
}

#[tokio::test]
async fn a_preamble_from_others_is_a_bad_request() {
    // Goal: a client cannot name an address for itself.
    let server = one_each(false);
    let bytes = [client([192, 0, 2, 1]), subscribe("a", "")].concat();
    for parts in [&[&bytes[..]][..], &bytes.chunks(1).collect::<Vec<_>>()] {
        let answer = answer(&server, parts).await;
        assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("bad_request"), "{answer}");
    }
}

#[tokio::test]
async fn a_preamble_must_arrive_within_head_timeout() {
    // Goal: a proxy, or a client that it lets through, cannot keep a connection open with a part of a preamble.
    let server = TestServer::with(|config| {
        trusting(config);
        config.server.head_timeout = Duration::from_millis(100);
    });
    let whole = client([192, 0, 2, 1]);
    for end in [0, 1, 4, 12, 20, whole.len()] {
        assert_eq!(answer(&server, &[&whole[..end]]).await, "", "{end}");
    }
}

#[tokio::test]
async fn connections_count_for_the_client_that_the_preamble_names() {
    // Goal: with one pending connection allowed from each address, a proxy may have many, and each of its clients one.
    let server = TestServer::with(|config| {
        trusting(config);
        config.server.workers = 1;
        config.limits.pending_connections_per_ip_max = 1;
    });
    let begun = b"GET /publish?topic=a&content=x HTTP/1.1\r\n";
    let rest = b"Host: localhost\r\nConnection: close\r\nAuthorization: Bearer abc\r\n\r\n";
    let mut busy = Vec::new();
    for n in 1..=5 {
        busy.push(send(&server, &[&client([192, 0, 2, n]), begun]).await);
    }
    for n in 1..=5 {
        let second = [&client([192, 0, 2, n])[..], begun, rest].concat();
        until("the client to be at its limit", async || {
            answer(&server, &[&second]).await.contains("too_many_pending_connections_per_ip")
        })
        .await;
    }
    for mut socket in busy {
        socket.write_all(rest).await.expect("it is sent");
        assert_eq!(Stream::receive(socket).await.status, 200);
    }
}

#[tokio::test]
async fn a_client_behind_a_proxy_on_this_machine_is_not_local() {
    // Goal: by default, everything is allowed on this machine. A connection that the proxy opens for a client elsewhere
    // gets nothing without a token, also if no header tells of the proxy.
    let server = TestServer::with(trusting);
    let request = b"GET /publish?topic=a&content=x HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    for (preamble, status) in [
        (client([192, 0, 2, 1]), 401),
        (preamble([0x21, 0x21], &ipv6("2001:db8::1")), 401),
        (preamble([0x20, 0x00], &[]), 200),
        (client([127, 0, 0, 1]), 200),
        (Vec::new(), 200),
    ] {
        let answer = answer(&server, &[&preamble, request]).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{answer}");
    }
}
