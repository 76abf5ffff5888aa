//! What proxies say of a request: only `server.trusted_proxies` are believed.

mod haproxy;
mod preamble;

use serde_json::json;
use tidings::config::{Config, Size};
use tokio::{io::AsyncWriteExt as _, net::TcpStream};

use crate::harness::{Answer, READERS, Stream, TestServer, until};

/// The credential of a request that a proxy has forwarded: such a request has no rights of its own.
pub const KEY: &str = "Authorization: Bearer abc\r\n";

/// Gives [`KEY`] every right. It is the digest of `abc` in FIPS 180-2.
pub fn with_key(config: &mut Config) {
    let key = json!({
        "name": "proxied",
        "sha256": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
        "publish": ["**"],
        "subscribe": ["**"],
        "manage": ["**"],
    });
    config.auth.api_keys = vec![serde_json::from_value(key).expect("an API key")];
}

/// Trusts the test, and a network that it only names.
fn trusting(config: &mut Config) {
    with_key(config);
    config.server.trusted_proxies =
        ["127.0.0.1/32", "10.0.0.0/8"].map(|text| text.parse().expect("a network")).to_vec();
}

/// Subscribes to `topic`, as a client with these headers.
async fn subscribe(server: &TestServer, topic: &str, headers: &str) -> Stream {
    let head = format!("GET /subscribe?topic={topic} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n");
    let request = format!("{head}{KEY}{headers}\r\n");
    server.send(request.as_bytes()).await
}

#[tokio::test]
async fn the_client_of_a_trusted_proxy_counts_by_its_own_address() {
    // Goal: with one subscriber allowed from each address, the last address that is not a trusted proxy's is the client's,
    // whatever a client writes before it. Without trust, all that the headers say changes nothing.
    let one = |config: &mut Config| config.limits.connections_per_ip_max = 1;
    let trusted = TestServer::with(|config| {
        trusting(config);
        one(config);
    });
    let _first = subscribe(&trusted, "first", "X-Forwarded-For: 192.0.2.1\r\n").await;
    for (headers, is_same) in [
        ("X-Forwarded-For: 192.0.2.1\r\n", true),
        ("X-Forwarded-For: 203.0.113.9, 192.0.2.1\r\n", true),
        ("X-Forwarded-For: 203.0.113.9\r\nX-Forwarded-For: 192.0.2.1, 10.0.0.2\r\n", true),
        ("X-Forwarded-For: 10.0.0.9, 192.0.2.1:5000, 10.0.0.3, 10.0.0.2\r\n", true),
        ("Forwarded: for=203.0.113.9, for=\"192.0.2.1:80\";proto=https, for=10.0.0.2\r\n", true),
        ("X-Forwarded-For: 192.0.2.1, 203.0.113.9\r\n", false),
        ("Forwarded: for=192.0.2.1, for=203.0.113.9\r\n", false),
        ("X-Forwarded-For: 192.0.2.1, unknown\r\n", false),
        ("X-Real-IP: 192.0.2.1\r\n", false),
        ("", false),
    ] {
        for reader in READERS {
            let mut stream = subscribe(&trusted, "other", &format!("{headers}{reader}")).await;
            assert_eq!(stream.status, if is_same { 429 } else { 200 }, "{headers}");
            if is_same {
                assert!(stream.rest().await.contains("too_many_connections_per_ip"), "{headers}");
            }
            drop(stream);
            trusted.until_subscribers("other", 0).await;
        }
    }
    let untrusted = TestServer::with(|config| {
        with_key(config);
        one(config);
    });
    let _first = subscribe(&untrusted, "first", "X-Forwarded-For: 192.0.2.1\r\n").await;
    for headers in ["X-Forwarded-For: 192.0.2.2\r\n", "Forwarded: for=192.0.2.2\r\n", "X-Real-IP: 192.0.2.2\r\n"] {
        for reader in READERS {
            let stream = subscribe(&untrusted, "other", &format!("{headers}{reader}")).await;
            assert_eq!(stream.status, 429, "{headers}");
        }
    }
}

/// Publishes as the page of `origin` does in a browser that does not send `Sec-Fetch-Site`.
async fn publish(server: &TestServer, origin: &str, headers: &str) -> Answer {
    let request = format!(
        "POST /publish?topic=a&content=x HTTP/1.1\r\nConnection: close\r\nOrigin: {origin}\r\n{KEY}{headers}\
         Content-Length: 0\r\n\r\n"
    );
    server.ask_bytes(request.as_bytes()).await
}

#[tokio::test]
async fn the_page_works_behind_a_trusted_proxy_that_changes_the_host() {
    // Goal: the host and the scheme that a trusted proxy gives decide which host is known, and which page is the
    // broker's own. From others they change nothing.
    let hosts = |config: &mut Config| config.server.hosts = vec!["broker.example".to_owned(), "upstream".to_owned()];
    let trusted = TestServer::with(|config| {
        trusting(config);
        hosts(config);
    });
    let untrusted = TestServer::with(|config| {
        with_key(config);
        hosts(config);
    });
    let own = "https://broker.example";
    for (origin, headers, with_trust, without) in [
        (own, "Host: upstream\r\n", 403, 403),
        (own, "Host: upstream\r\nX-Forwarded-Host: broker.example\r\n", 200, 403),
        (own, "Host: upstream\r\nX-Forwarded-Host: broker.example:443\r\nX-Forwarded-Proto: https\r\n", 200, 403),
        (own, "Host: upstream\r\nX-Forwarded-Host: broker.example\r\nX-Forwarded-Proto: http\r\n", 403, 403),
        (own, "Host: upstream\r\nForwarded: for=192.0.2.1;host=broker.example;proto=https\r\n", 200, 403),
        (own, "Host: upstream\r\nForwarded: for=192.0.2.1;host=\"broker.example:8443\"\r\n", 403, 403),
        (own, "Host: broker.example\r\nX-Forwarded-Proto: https\r\n", 200, 200),
        ("http://broker.example", "Host: broker.example\r\nX-Forwarded-Proto: https\r\n", 403, 200),
        // What a client has sent before counts less than what the proxy appends.
        (own, "Host: upstream\r\nX-Forwarded-Host: evil.example, broker.example\r\n", 200, 403),
        ("http://evil.example", "Host: upstream\r\nX-Forwarded-Host: evil.example\r\n", 421, 403),
        ("http://evil.example", "Host: localhost\r\nForwarded: host=evil.example\r\n", 421, 403),
        ("http://evil.example", "Host: evil.example\r\nX-Forwarded-Host: upstream\r\n", 403, 421),
        // What cannot be read, or contradicts itself.
        (own, "Host: upstream\r\nX-Forwarded-Host: u@broker.example\r\n", 400, 403),
        (own, "Host: broker.example\r\nX-Forwarded-Proto: gopher\r\n", 400, 200),
        (own, "Host: broker.example\r\nForwarded: for=\"192.0.2.1\r\n", 400, 200),
        (own, "Host: broker.example\r\nForwarded: for=192.0.2.1\r\nX-Forwarded-For: 192.0.2.2\r\n", 400, 200),
        (own, "Host: broker.example\r\nForwarded: for=192.0.2.1\r\nX-Forwarded-For: 192.0.2.1\r\n", 200, 200),
    ] {
        for reader in READERS {
            let headers = format!("{headers}{reader}");
            for (server, expected) in [(&trusted, with_trust), (&untrusted, without)] {
                let answer = publish(server, origin, &headers).await;
                assert_eq!(answer.status, expected, "{answer:?}");
            }
        }
    }
}

#[tokio::test]
async fn the_clients_of_a_trusted_proxy_do_not_share_its_limits() {
    // Goal: with one connection and one large body allowed from each address, a trusted proxy has many connections, and
    // each of its clients has a body under way.
    const BODY: usize = 100_000;
    let narrow = |config: &mut Config| {
        config.server.workers = 1;
        config.limits.pending_connections_per_ip_max = 3;
        config.limits.request_bytes_in_flight_per_ip_max = Size::new(150_000);
    };
    let head = |client: &str| {
        format!(
            "POST /publish?topic=a HTTP/1.1\r\nHost: localhost\r\nX-Forwarded-For: {client}\r\n{KEY}\
             Content-Type: text/plain\r\nConnection: close\r\nContent-Length: {BODY}\r\n\r\n"
        )
    };
    let trusted = TestServer::with(|config| {
        trusting(config);
        narrow(config);
    });
    // Connections that are not idle, so none can be closed for another.
    let mut busy = Vec::new();
    for n in 1..=5 {
        let mut socket = TcpStream::connect(trusted.address).await.expect("a connection");
        socket.write_all(head(&format!("192.0.2.{n}")).as_bytes()).await.expect("it is sent");
        socket.write_all(&vec![b'x'; BODY - 1]).await.expect("it is sent");
        busy.push(socket);
    }
    for n in 1..=5 {
        let request = [head(&format!("192.0.2.{n}")).as_bytes(), &vec![b'x'; BODY]].concat();
        until("a client to be at its own limit", async || {
            let answer = trusted.ask_bytes(&request).await;
            answer.status == 429 && answer.body.contains("too_many_request_bytes_per_ip")
        })
        .await;
    }
    for mut socket in busy {
        socket.write_all(b"x").await.expect("it is sent");
        assert_eq!(Stream::receive(socket).await.status, 200);
    }
    // The control: without trust, all of them are one client.
    let untrusted = TestServer::with(|config| {
        with_key(config);
        narrow(config);
    });
    let mut first = TcpStream::connect(untrusted.address).await.expect("a connection");
    first.write_all(head("192.0.2.1").as_bytes()).await.expect("it is sent");
    first.write_all(&vec![b'x'; BODY - 1]).await.expect("it is sent");
    let request = [head("192.0.2.2").as_bytes(), &vec![b'x'; BODY]].concat();
    until("another client to be at the same limit", async || {
        let answer = untrusted.ask_bytes(&request).await;
        answer.status == 429 && answer.body.contains("too_many_request_bytes_per_ip")
    })
    .await;
}
