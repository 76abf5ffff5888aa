//! Both readers of requests, the fast path and the fallback, bring a request to the same answer: random requests go to two
//! servers that are alike, to one as they are, and to the other so that the fallback reads each.
//!
//! How many: `TIDINGS_FRONT_REQUESTS`.

mod ask;
mod request;

use std::time::Duration;

use tidings::config::{Config, Engine, Origins, Size};

use crate::harness::{FALLBACK_LINE, TestServer};
use ask::Client;
use request::{Request, TOPICS};

fn requests() -> usize {
    let told = std::env::var("TIDINGS_FRONT_REQUESTS").ok();
    told.map_or(10_000, |text| text.parse().expect("TIDINGS_FRONT_REQUESTS is a number"))
}

fn server(origins: &Origins) -> TestServer {
    TestServer::with(|config: &mut Config| {
        config.server.workers = 1;
        config.log.engine = Engine::Memory;
        // Jittered times, of which some are four times as long, must have the same number of digits: the length of an
        // answer tells it.
        config.stream.retry = Duration::from_secs(5);
        config.log.topic_events_max = 5;
        config.publish.event_bytes_max = Size::new(1000);
        config.limits.topics_per_request_max = 2;
        config.limits.topic_bytes_max = Size::new(40);
        config.cors.origins = origins.clone();
        config.server.hosts = vec!["broker.example".to_owned()];
        config.server.trusted_proxies = vec!["127.0.0.0/8".parse().expect("a network")];
    })
}

/// Sends as many random requests to both servers; both must say the same, and hold the same at the end.
fn compare(origins: &Origins, seed: u64, count: usize) {
    let servers = [server(origins), server(origins)];
    let mut clients = [Client::new(servers[0].address, ""), Client::new(servers[1].address, FALLBACK_LINE)];
    let mut random = fastrand::Rng::with_seed(seed);
    for n in 0..count {
        let request = Request::random(&mut random);
        let said = clients.each_mut().map(|client| client.ask(&request));
        assert_eq!(said[0], said[1], "request {n} of seed {seed}: the fast path, the fallback\n{}", request.text(""));
    }
    for topic in TOPICS {
        let [one, other] = clients.each_mut().map(|client| client.held(topic));
        assert_eq!(one, other, "what a topic holds after seed {seed}");
    }
}

#[test]
fn both_fronts_bring_a_request_to_the_same_answer() {
    let app = "https://app.example.com".to_owned();
    let all = [Origins::default(), Origins::Any, Origins::Only(vec![app])];
    let seed = fastrand::u64(..);
    std::thread::scope(|scope| {
        for (n, origins) in (0..).zip(&all) {
            scope.spawn(move || compare(origins, seed + n, requests().div_ceil(3)));
        }
    });
}

#[test]
fn a_difference_is_seen() {
    // The control: the same requests to two servers of which one tells pages of other origins more.
    let servers = [server(&Origins::default()), server(&Origins::Any)];
    let mut clients = servers.each_ref().map(|server| Client::new(server.address, ""));
    let mut random = fastrand::Rng::with_seed(1);
    let differ = (0..1000).any(|_| {
        let request = Request::random(&mut random);
        let [one, other] = clients.each_mut().map(|client| client.ask(&request));
        one != other
    });
    assert!(differ);
}
