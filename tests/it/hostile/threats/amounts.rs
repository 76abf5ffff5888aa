//! Threats by number: more topics, streams, bytes and requests than a client may have.

use std::time::Duration;

use tidings::config::{Config, Size};

use super::{TEXT, refused};
use crate::{
    harness::{FOR_THE_FALLBACK, READERS, Stream, TestServer, until},
    hostile::connections::{OWN, problem, send_from},
};

type Limit = fn(&mut Config) -> &mut usize;

/// Too many topics, streams and connections.
#[tokio::test]
async fn topics_and_streams_are_counted() {
    let server = TestServer::with(|config| {
        config.limits.topics_per_ip_max = 2;
        config.limits.topics_per_request_max = 3;
        config.limits.topic_bytes_max = Size::new(4);
    });
    let _streams = [server.subscribe("topic=a").await, server.subscribe("topic=b").await];
    let answer = refused(&server, ("GET", "/subscribe?topic=c", &[], b""), 429, "too_many_topics_per_ip").await;
    assert!(answer.header("retry-after").is_some(), "{answer:?}");
    let path = "/subscribe?topic=a&topic=b&topic=c&topic=d";
    refused(&server, ("GET", path, &[], b""), 400, "too_many_topics_named").await;
    refused(&server, ("POST", "/publish?topic=abcde&content=x", &[], b""), 400, "bad_topic").await;
    let server = TestServer::with(|config| config.limits.topics_max = 1);
    let _stream = server.subscribe("topic=a").await;
    refused(&server, ("GET", "/subscribe?topic=b", &[], b""), 503, "too_many_topics").await;
    let limits: [(Limit, u16, &str); 2] = [
        (|config| &mut config.limits.connections_max, 503, "too_many_connections"),
        (|config| &mut config.limits.connections_per_ip_max, 429, "too_many_connections_per_ip"),
    ];
    for (limit, status, code) in limits {
        let server = TestServer::with(|config| *limit(config) = 1);
        let _stream = server.subscribe("topic=a").await;
        let answer = refused(&server, ("GET", "/subscribe?topic=a", &[], b""), status, code).await;
        assert!(answer.header("retry-after").is_some(), "{answer:?}");
    }
}

/// Publishes and subscriptions that come too often.
#[tokio::test]
async fn a_rate_is_told_and_refused() {
    let server = TestServer::with(|config| {
        config.limits.publishes_per_second_per_ip = 1;
        config.limits.subscribes_per_second_per_ip = 1;
    });
    let (mut refused, mut taken) = (Vec::new(), 0);
    for path in ["/publish?topic=a&content=x", "/subscribe?topic=a"] {
        for reader in [&[][..], &[FOR_THE_FALLBACK]].repeat(5) {
            let answer = server.get(path, reader).await;
            match answer.status {
                200 => taken += 1,
                status => refused.push((path, status, answer)),
            }
        }
    }
    for path in ["/publish", "/subscribe"] {
        assert!(refused.iter().any(|(refused, ..)| refused.starts_with(path)), "{path}");
    }
    assert!(taken >= 2, "the control: {taken}");
    for (path, status, answer) in refused {
        assert_eq!((status, answer.header("retry-after")), (429, Some("1")), "{path}");
        for name in ["ratelimit", "ratelimit-policy"] {
            assert!(answer.header(name).is_some_and(|value| value.contains("_per_second_per_ip")), "{path}");
        }
    }
}

/// Requests that together need more memory than all may have.
#[tokio::test]
async fn the_bytes_of_requests_are_counted() {
    for (all, per_ip, status, code) in
        [(80_000, 80_000, 429, "too_many_request_bytes_per_ip"), (80_000, 1 << 20, 503, "too_many_request_bytes")]
    {
        let server = TestServer::with(|config| {
            config.limits.request_bytes_in_flight_max = Size::new(all);
            config.limits.request_bytes_in_flight_per_ip_max = Size::new(per_ip);
            // On a busy machine this test takes longer than the default. The first body must not time out meanwhile.
            config.publish.body_timeout = Duration::from_mins(10);
        });
        // The last byte is missing, so that the server keeps the others.
        let unfinished = |length: usize, line: &str| {
            let head =
                "POST /publish?topic=a HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\nContent-Length";
            [format!("{head}: {length}\r\n{line}\r\n").as_bytes(), &vec![b'x'; length - 1]].concat()
        };
        let content = vec![b'x'; 50_000];
        let mut first = send_from(OWN, server.address, &unfinished(40_000, "")).await;
        until("the first body to be counted", async || {
            if server.ask("POST", "/publish?topic=a", &[TEXT], &content).await.status == status {
                return true;
            }
            // The other one was counted before the first one, which was perhaps refused for it.
            first = send_from(OWN, server.address, &unfinished(40_000, "")).await;
            false
        })
        .await;
        for reader in READERS {
            let socket = send_from(OWN, server.address, &unfinished(50_000, reader)).await;
            let answer = Stream::receive(socket).await;
            assert_eq!((answer.status, answer.header("retry-after")), (status, Some("1")));
            assert_eq!(problem(answer).await["code"], code);
        }
        // The control: the bytes of the first were taken, and when it has gone, there is room.
        drop(first);
        for reader in [&[TEXT][..], &[TEXT, FOR_THE_FALLBACK]] {
            until("room", async || server.ask("POST", "/publish?topic=a", reader, &content).await.status == 200).await;
        }
    }
}
