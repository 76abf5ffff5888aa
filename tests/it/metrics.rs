//! `GET /metrics`: each metric moves with what it counts.

use std::{collections::BTreeMap, fs, time::Duration};

use tidings::config::{Anonymous, Config, Engine, Size};

use crate::{
    auth::{seconds_from_now, token, with_keys},
    harness::{Stream, TestServer, until},
};

const SSE: (&str, &str) = ("accept", "text/event-stream");
const OPENMETRICS: (&str, &str) =
    ("accept", "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.1");

/// The samples of a scrape, each under its name and labels.
struct Scrape(BTreeMap<String, f64>);

impl Scrape {
    async fn of(server: &TestServer) -> Self {
        let answer = server.ask("GET", "/metrics", &[], b"").await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let samples = answer.body.lines().filter(|line| !line.starts_with('#')).map(|line| {
            let (name, value) = line.rsplit_once(' ').expect("a sample");
            (name.to_owned(), value.parse().expect("a number"))
        });
        let samples: Vec<_> = samples.collect();
        let found = Self(samples.iter().cloned().collect());
        assert_eq!(found.0.len(), samples.len(), "each sample is there once");
        found
    }

    fn get(&self, name: &str) -> f64 {
        self.0.get(name).copied().unwrap_or_default()
    }
}

/// How much some samples have changed since the scrape `before`.
async fn changes(server: &TestServer, before: &Scrape, names: &[&str]) -> Vec<f64> {
    let now = Scrape::of(server).await;
    names.iter().map(|name| now.get(name) - before.get(name)).collect()
}

/// Waits until the samples have changed by so much since `before`.
async fn until_changed(server: &TestServer, before: &Scrape, expected: &[(&str, f64)]) {
    let (names, values): (Vec<_>, Vec<_>) = expected.iter().copied().unzip();
    until(&format!("{expected:?}"), async || changes(server, before, &names).await == values).await;
}

async fn subscribe(server: &TestServer, query: &str) -> Stream {
    server.get(&format!("/subscribe?{query}"), &[SSE]).await
}

#[tokio::test]
async fn publishes_and_deliveries_are_counted() {
    // Goal: events, bytes, requests and times move by what was done, on whichever worker; a retry is no new event.
    let server = TestServer::start();
    let before = Scrape::of(&server).await;
    let mut streams = [subscribe(&server, "topic=a").await, subscribe(&server, "topic=a&topic=b&envelope=json").await];
    for content in ["one", "three"] {
        server.publish("a", content).await;
    }
    for _ in 0..2 {
        let headers = [("idempotency-key", "k"), ("content-type", "text/plain")];
        assert_eq!(server.ask("POST", "/publish?topic=a", &headers, b"once").await.status, 200);
    }
    let mut bytes = 0;
    for stream in &mut streams {
        bytes += stream.take(3).await.len();
    }
    assert_eq!(bytes, 6);
    let expected = [
        ("tidings_events_published_total", 3.0),
        ("tidings_published_bytes_total", 12.0),
        ("tidings_publish_latency_seconds_count", 4.0),
        ("tidings_publish_latency_seconds_bucket{le=\"+Inf\"}", 4.0),
        ("tidings_http_requests_total{route=\"/publish\",status=\"200\"}", 4.0),
        ("tidings_http_requests_total{route=\"/subscribe\",status=\"200\"}", 2.0),
        ("tidings_streams_opened_total", 2.0),
        ("tidings_streams_open", 2.0),
        ("tidings_subscribers", 2.0),
        ("tidings_topics_live", 2.0),
        ("tidings_events_delivered_total", 6.0),
        ("tidings_delivery_latency_seconds_count", 6.0),
        ("tidings_events_replayed_total", 0.0),
        ("tidings_log_events", 3.0),
        ("tidings_log_topics", 1.0),
        ("tidings_log_keys", 1.0),
        ("tidings_committed_events_total", 3.0),
    ];
    until_changed(&server, &before, &expected).await;
    let now = Scrape::of(&server).await;
    for grown in [
        "tidings_publish_latency_seconds_sum",
        "tidings_delivered_bytes_total",
        "tidings_log_bytes",
        "tidings_log_hot_bytes",
        "tidings_log_position",
        "tidings_commit_latency_seconds_count",
        "process_cpu_seconds_total",
    ] {
        assert!(now.get(grown) >= before.get(grown) && now.get(grown) > 0.0, "{grown}");
    }
    assert!(now.get("tidings_delivered_bytes_total") > 6.0 * 10.0);
}

#[tokio::test]
async fn a_replay_is_counted_apart() {
    // Goal: what a subscriber gets from the log is delivered, too, but says nothing of how late events are.
    let server = TestServer::start();
    for n in 0..5 {
        server.publish("a", &n.to_string()).await;
    }
    let before = Scrape::of(&server).await;
    let mut stream = subscribe(&server, "topic=a&since=all").await;
    stream.take(5).await;
    let expected = [
        ("tidings_events_delivered_total", 5.0),
        ("tidings_events_replayed_total", 5.0),
        ("tidings_delivery_latency_seconds_count", 0.0),
    ];
    until_changed(&server, &before, &expected).await;
}

#[tokio::test]
async fn gaps_are_counted_by_their_reason() {
    // Goal: a gap counts when a stream begins with it, and when an open stream meets it.
    let server = TestServer::with(|config| {
        config.log.engine = Engine::Memory;
        config.log.topic_events_max = 2;
        config.publish.event_bytes_max = Size::mib(16);
    });
    let first = server.publish("a", "0").await;
    for n in 1..5 {
        server.publish("a", &n.to_string()).await;
    }
    let before = Scrape::of(&server).await;
    for id in [first.as_str(), "unreadable", "aaaaaaaa-7"] {
        assert_eq!(server.resume("topic=a", id).await.next().await.expect("a notice").event, "broker.gap");
    }
    let mut expected = vec![
        ("tidings_gaps_total{reason=\"evicted\"}", 1.0),
        ("tidings_gaps_total{reason=\"unreadable\"}", 1.0),
        ("tidings_gaps_total{reason=\"reset\"}", 1.0),
    ];
    until_changed(&server, &before, &expected).await;
    // This subscriber does not read, so its socket is full after the first event, and retention removes the others.
    let mut slow = subscribe(&server, "topic=b").await;
    let content = "x".repeat(12 << 20);
    for _ in 0..4 {
        let headers = [("content-type", "text/plain")];
        assert_eq!(server.ask("POST", "/publish?topic=b", &headers, content.as_bytes()).await.status, 200);
    }
    let blocks = slow.take(3).await;
    assert_eq!(blocks[1].event, "broker.gap", "after the event that was partly sent");
    expected[0].1 = 2.0;
    until_changed(&server, &before, &expected).await;
}

#[tokio::test]
async fn an_event_that_is_sent_in_parts_counts_once() {
    // Goal: the socket accepts a large event in many pieces. All its bytes count, and it is one event.
    let server = TestServer::with(|config| config.publish.event_bytes_max = Size::mib(16));
    let before = Scrape::of(&server).await;
    let mut stream = subscribe(&server, "topic=a").await;
    let content = "x".repeat(8 << 20);
    let headers = [("content-type", "text/plain")];
    assert_eq!(server.ask("POST", "/publish?topic=a", &headers, content.as_bytes()).await.status, 200);
    assert_eq!(stream.take(1).await[0].data.len(), content.len());
    until_changed(&server, &before, &[("tidings_events_delivered_total", 1.0)]).await;
    let bytes = changes(&server, &before, &["tidings_delivered_bytes_total"]).await[0];
    let length = f64::from(u32::try_from(content.len()).expect("a length"));
    assert!((bytes - length).abs() < 200.0, "{bytes}");
}

#[tokio::test]
async fn refusals_and_ends_are_counted_by_their_reason() {
    // Goal: the names are those of the problem documents and of the log lines; a stream that is refused with status 200
    // counts as refused; what the reader refuses before there is a route counts, too.
    let server = TestServer::with(|config| {
        config.limits.connections_per_ip_max = 1;
        config.limits.publishes_per_second_per_ip = 3;
        config.stream.gone = Duration::ZERO;
    });
    let before = Scrape::of(&server).await;
    let mut stream = subscribe(&server, "topic=a").await;
    let refused = subscribe(&server, "topic=a").await.all().await;
    assert_eq!(refused.last().map(|block| block.event.as_str()), Some("broker.refused"));
    server.ask("GET", "/subscribe", &[], b"").await.problem(400, "topic_missing");
    server.ask("GET", "/nothing", &[], b"").await.problem(404, "not_found");
    assert_eq!(server.ask_bytes(b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n").await.status, 400);
    let mut limited = 0;
    while limited == 0 {
        limited = usize::from(server.ask("POST", "/publish?topic=a&content=x", &[], b"").await.status == 429);
    }
    let mut expected = vec![
        ("tidings_http_problems_total{code=\"too_many_connections_per_ip\"}", 1.0),
        ("tidings_http_problems_total{code=\"topic_missing\"}", 1.0),
        ("tidings_http_problems_total{code=\"not_found\"}", 1.0),
        ("tidings_http_problems_total{code=\"bad_request\"}", 1.0),
        ("tidings_http_problems_total{code=\"rate_limited\"}", 1.0),
        ("tidings_streams_refused_total{code=\"too_many_connections_per_ip\"}", 1.0),
        ("tidings_streams_refused_total{code=\"topic_missing\"}", 1.0),
        ("tidings_streams_refused_total{code=\"not_found\"}", 0.0),
        ("tidings_http_requests_total{route=\"other\",status=\"404\"}", 1.0),
        ("tidings_http_requests_total{route=\"/publish\",status=\"429\"}", 1.0),
    ];
    until_changed(&server, &before, &expected).await;
    assert_eq!(server.ask("DELETE", "/topics/a", &[], b"").await.status, 204);
    stream.all().await;
    expected.push(("tidings_streams_ended_total{reason=\"deleted\"}", 1.0));
    expected.push(("tidings_streams_open", 0.0));
    until_changed(&server, &before, &expected).await;
    let removed = Scrape::of(&server).await;
    assert!(removed.get("tidings_log_removals_total") > 0.0);
    drop(subscribe(&server, "topic=b").await);
    expected.push(("tidings_streams_ended_total{reason=\"peer_gone\"}", 1.0));
    until_changed(&server, &before, &expected).await;
}

#[tokio::test]
async fn both_formats_have_the_same_metrics() {
    // Goal: the newer format for those who name it in `Accept`, otherwise the one that everybody reads. No line is
    // malformed, and every sample belongs to the metric that was begun last.
    let server = TestServer::with(|config| config.log.engine = Engine::Memory);
    let new = server.ask("GET", "/metrics", &[OPENMETRICS], b"").await;
    let old = server.ask("GET", "/metrics", &[("accept", "text/plain;version=0.0.4")], b"").await;
    let media_types = [&new, &old].map(|answer| answer.header("content-type").expect("a type").to_owned());
    assert!(media_types[0].starts_with("application/openmetrics-text; version=1.0.0"), "{media_types:?}");
    assert!(media_types[1].starts_with("text/plain; version=0.0.4"), "{media_types:?}");
    assert!(new.body.ends_with("\n# EOF\n") && !old.body.contains("# EOF"));
    for answer in [&new, &old] {
        let (mut family, mut families) = (String::new(), Vec::new());
        for line in answer.body.lines().filter(|line| *line != "# EOF") {
            if let Some(help) = line.strip_prefix("# HELP ") {
                family = help.split_once(' ').expect("a text").0.to_owned();
                assert!(!families.contains(&family), "{family} twice");
                families.push(family.clone());
            } else if let Some(kind) = line.strip_prefix("# TYPE ") {
                assert!(kind.starts_with(&format!("{family} ")), "{line}");
            } else {
                assert!(line.starts_with(&family), "{line} is not of {family}");
                let value = line.rsplit_once(' ').expect("a value").1;
                assert!(value.parse::<f64>().is_ok(), "{line}");
            }
        }
        assert!(families.len() > 30 && families.iter().any(|family| family == "process_open_fds"), "{families:?}");
    }
    assert_eq!(server.ask("HEAD", "/metrics", &[], b"").await.status, 200);
    server.ask("POST", "/metrics", &[], b"").await.problem(405, "method_not_allowed");
}

#[tokio::test]
async fn only_those_who_may_manage_all_topics_see_the_metrics() {
    // Goal: neither a caller without a credential nor one with a right to some topics.
    let server = TestServer::with(|config: &mut Config| {
        with_keys(config);
        config.auth.anonymous = Anonymous::All;
    });
    server.ask("GET", "/metrics", &[], b"").await.problem(401, "unauthorized");
    for (manage, status) in [("a/**", 403), ("**", 200)] {
        let rights = serde_json::json!({"publish": ["**"], "subscribe": ["**"], "manage": [manage]});
        let bearer = format!("Bearer {}", token("ann", &rights, seconds_from_now(60)));
        assert_eq!(server.ask("GET", "/metrics", &[("authorization", &bearer)], b"").await.status, status);
    }
}

#[tokio::test]
async fn the_metrics_of_the_process_are_those_of_the_system() {
    // Goal: descriptors and memory are what `/proc` says of this process.
    let server = TestServer::start();
    let scrape = Scrape::of(&server).await;
    let open = fs::read_dir("/proc/self/fd").expect("Linux").count();
    let open = f64::from(u32::try_from(open).expect("a number"));
    assert!((scrape.get("process_open_fds") - open).abs() < 200.0, "{} {open}", scrape.get("process_open_fds"));
    for name in [
        "process_resident_memory_bytes",
        "process_virtual_memory_bytes",
        "process_threads",
        "process_start_time_seconds",
        "process_max_fds",
    ] {
        assert!(scrape.get(name) > 1.0, "{name}");
    }
    let build = format!("tidings_build_info{{version=\"{}\"}}", env!("CARGO_PKG_VERSION"));
    assert!(scrape.0.contains_key(&build), "{build}");
}
