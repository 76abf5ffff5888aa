//! Which hosts the server answers to: a page whose name is made to lead to the server (DNS rebinding) gets nothing.

use tidings::config::{Config, Origins};

use crate::harness::{Answer, READERS, Stream, TestServer};

/// Every route, with every method that it has.
const ROUTES: [(&str, &str); 10] = [
    ("GET", "/publish?topic=a&content=x"),
    ("POST", "/publish?topic=a&content=x"),
    ("PUT", "/publish?topic=a&content=x"),
    ("GET", "/subscribe?topic=a"),
    ("GET", "/topics/a"),
    ("DELETE", "/topics/a"),
    ("GET", "/"),
    ("GET", "/app.js"),
    ("OPTIONS", "/publish"),
    ("GET", "/nothing"),
];

fn broker(config: &mut Config) {
    config.server.hosts = vec!["broker.example".to_owned()];
}

/// The answer to a request with the lines `host`.
async fn ask(server: &TestServer, request: &str, host: &str, headers: &str) -> Answer {
    let head = format!("{request}\r\n{host}Connection: close\r\n{headers}Content-Length: 0\r\n\r\n");
    server.ask_bytes(head.as_bytes()).await
}

#[tokio::test]
async fn a_host_is_known_or_refused() {
    // Goal: the page's own name, names in the list, and every IP address are answered, in each spelling. Any other name
    // is refused, and what is no host is a bad request. Both readers of requests agree.
    let server = TestServer::with(broker);
    let address = server.address.to_string();
    for (host, expected) in [
        ("localhost", 200),
        ("localhost:8080", 200),
        ("localhost:", 200),
        ("LOCALHOST.", 200),
        ("127.0.0.1", 200),
        (&address, 200),
        ("127.8.9.1:1", 200),
        ("0.0.0.0:8080", 200),
        ("[::1]", 200),
        ("[::1]:8080", 200),
        ("[2001:db8::1]", 200),
        ("192.0.2.7:443", 200),
        ("broker.example", 200),
        ("Broker.EXAMPLE.:8443", 200),
        ("evil.example", 421),
        ("evil.example:8080", 421),
        ("sub.broker.example", 421),
        ("broker.example.evil.example", 421),
        ("localhost.evil.example", 421),
        ("evil.localhost", 421),
        ("127.0.0.1.evil.example", 421),
        ("localhostx", 421),
        // Numbers in forms that no browser sends: another reader may look them up as names.
        ("127.1", 421),
        ("2130706433", 421),
        ("0x7f.0.0.1", 421),
        ("", 400),
        (".", 400),
        (":8080", 400),
        ("localhost:99999", 400),
        ("localhost:x", 400),
        ("localhost:80:80", 400),
        ("localhost, evil.example", 400),
        ("localhost evil.example", 400),
        ("evil.example@localhost", 400),
        ("localhost/", 400),
        ("::1", 400),
        ("[::1", 400),
        ("[localhost]", 400),
        ("caf\u{e9}", 400),
    ] {
        for reader in READERS {
            let answer = ask(&server, "GET / HTTP/1.1", &format!("Host: {host}\r\n"), reader).await;
            match expected {
                200 => assert_eq!(answer.status, 200, "{answer:?}"),
                421 => drop(answer.problem(421, "misdirected")),
                _ => drop(answer.problem(400, "bad_request")),
            }
        }
    }
}

#[tokio::test]
async fn no_route_but_the_health_checks_answers_to_an_unknown_host() {
    // Goal: by DNS rebinding a page can neither read nor publish nor delete, whichever way. The health checks answer to
    // any host: load balancers call them by addresses and names of their own.
    let server = TestServer::with(|config| config.cors.origins = Origins::Any);
    server.publish("a", "kept").await;
    for reader in READERS {
        for (method, path) in ROUTES {
            // To the browser the page and the broker have the same origin.
            let page = "Origin: http://evil.example\r\nSec-Fetch-Site: same-origin\r\n\
                        Access-Control-Request-Method: POST\r\n";
            let headers = format!("{page}{reader}");
            let answer = ask(&server, &format!("{method} {path} HTTP/1.1"), "Host: evil.example\r\n", &headers).await;
            let problem = answer.problem(421, "misdirected");
            assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains("server.hosts")), "{problem}");
        }
        let head = ask(&server, "HEAD /subscribe?topic=a HTTP/1.1", "Host: evil.example\r\n", reader).await;
        assert_eq!((head.status, head.body.as_str()), (421, ""), "{head:?}");
        for path in ["/healthz", "/readyz"] {
            let answer = ask(&server, &format!("GET {path} HTTP/1.1"), "Host: evil.example\r\n", reader).await;
            assert_eq!(answer.status, 200, "{answer:?}");
        }
    }
    assert_eq!(server.held("a").await["events"], 1, "nothing was published or deleted");
    // The control: the same requests to a host that is known.
    for (method, path) in ROUTES.into_iter().filter(|(_, path)| path.starts_with("/publish")) {
        let answer = ask(&server, &format!("{method} {path} HTTP/1.1"), "Host: localhost\r\n", "").await;
        assert_ne!(answer.status, 421, "{answer:?}");
    }
    assert_eq!(server.held("a").await["events"], 4);
}

#[tokio::test]
async fn an_event_source_is_refused_for_good() {
    // Goal: an EventSource at an unknown host is not asked to come back, as it is for a limit.
    let server = TestServer::start();
    let request = b"GET /subscribe?topic=a HTTP/1.1\r\nHost: evil.example\r\nAccept: text/event-stream\r\n\r\n";
    let stream: Stream = server.send(request).await;
    assert_eq!(stream.status, 421);
}

#[tokio::test]
async fn a_request_names_its_host_once() {
    // Goal: a request that a proxy and this server could take for requests to two hosts is refused, as RFC 9112, section
    // 3.2 says. HTTP/1.0 has no `Host`, and no browser speaks it.
    let server = TestServer::start();
    for (version, host, expected) in [
        ("HTTP/1.1", "", 400),
        ("HTTP/1.1", "Host: localhost\r\nHost: localhost\r\n", 400),
        ("HTTP/1.1", "Host: evil.example\r\nhost: localhost\r\n", 400),
        ("HTTP/1.0", "", 200),
        ("HTTP/1.0", "Host: localhost\r\n", 200),
        ("HTTP/1.0", "Host: evil.example\r\n", 421),
        ("HTTP/1.0", "Host: localhost\r\nHost: localhost\r\n", 400),
    ] {
        for reader in READERS {
            for path in ["/", "/healthz"] {
                let answer = ask(&server, &format!("GET {path} {version}"), host, reader).await;
                let expected = if expected == 421 && path == "/healthz" { 200 } else { expected };
                assert_eq!(answer.status, expected, "{answer:?}");
            }
        }
    }
}

#[tokio::test]
async fn a_host_in_the_target_counts_instead_of_the_header() {
    // Goal: RFC 9112, section 3.2.2. A proxy may send the whole URL.
    let server = TestServer::with(broker);
    for (target, host, expected) in [
        ("http://broker.example", "evil.example", 200),
        ("http://LOCALHOST:80", "evil.example", 200),
        ("http://[::1]", "evil.example", 200),
        ("https://broker.example:443", "localhost", 200),
        ("http://evil.example", "localhost", 421),
        ("http://evil.example:80", "127.0.0.1", 421),
        ("http://localhost@evil.example", "localhost", 400),
    ] {
        for reader in READERS {
            let request = format!("GET {target}/topics/a HTTP/1.1");
            let answer = ask(&server, &request, &format!("Host: {host}\r\n"), reader).await;
            let expected = if expected == 200 { 404 } else { expected };
            assert_eq!(answer.status, expected, "{answer:?}");
        }
    }
    // A page's own origin is compared with that host, too.
    for (origin, expected) in [("http://broker.example", 200), ("http://localhost", 403)] {
        let request = "POST http://broker.example/publish?topic=a&content=x HTTP/1.1";
        let answer = ask(&server, request, "Host: localhost\r\n", &format!("Origin: {origin}\r\n")).await;
        assert_eq!(answer.status, expected, "{answer:?}");
    }
}
