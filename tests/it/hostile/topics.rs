//! One client that names as many topics as it can.

use std::time::Instant;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use super::connections::send_from;
use crate::harness::{DEADLINE, Process, Stream};

/// How many topics there are, unless `TIDINGS_TOPICS` says so, and how many events are kept.
const TOPICS: usize = 250_000;
const KEPT: usize = 2_000;
/// More topics than the log remembers: those of the events that are kept, and the 65,536 that were forgotten last. So all
/// memory that topics need has been asked for after so many.
const WARM_UP: usize = 100_000;
/// Topics of one request.
const BATCH: usize = 100;
/// Requests that are sent before the answers to them are read.
const PIPELINED: usize = 100;
const MIB: u64 = 1 << 20;
const CLIENT: &str = "127.0.0.2";

/// Publishes one event to each of these topics, `batch` topics a request.
async fn publish(socket: &mut TcpStream, numbers: std::ops::Range<usize>, batch: usize) {
    let numbers: Vec<usize> = numbers.collect();
    for requests in numbers.chunks(batch).collect::<Vec<_>>().chunks(PIPELINED) {
        let request = |topics: &&[usize]| {
            let topics: String = topics.iter().map(|n| format!("topic=topic-number-{n}&")).collect();
            format!("GET /publish?{topics}content=x HTTP/1.1\r\nHost: localhost\r\n\r\n")
        };
        let bytes: String = requests.iter().map(request).collect();
        let (mut reader, mut writer) = socket.split();
        let send = async { writer.write_all(bytes.as_bytes()).await.expect("they are sent") };
        let receive = async {
            let (mut answers, mut buffer, mut answered) = (String::new(), vec![0; 64 << 10], 0);
            while answered < requests.len() {
                let n = timeout(DEADLINE, reader.read(&mut buffer)).await.expect("in time").expect("an answer");
                assert!(n > 0, "the connection ended");
                answers.push_str(&String::from_utf8_lossy(&buffer[..n]));
                // Each body ends like this, and nothing else of an answer does.
                answered = answers.matches("}\n").count();
            }
            assert_eq!(answers.matches("HTTP/1.1 200 OK").count(), requests.len(), "{answers:.500}");
        };
        tokio::join!(send, receive);
    }
}

/// Goal: events to ever new topics, in requests of one topic and of many, take no more memory than the events that are kept
/// and a bounded number of forgotten topics; and a stream of another topic goes on.
#[tokio::test]
async fn ever_new_topics_of_one_publisher_take_bounded_memory() {
    let topics: usize = std::env::var("TIDINGS_TOPICS").map_or(TOPICS, |number| number.parse().expect("a number"));
    for engine in ["memory", "disk"] {
        let server = Process::start(&[
            ("TIDINGS__LOG__ENGINE", engine),
            ("TIDINGS__LOG__EVENTS_MAX", &KEPT.to_string()),
            ("TIDINGS__LOG__DURABILITY", "os"),
            ("TIDINGS__SERVER__WORKERS", "2"),
        ])
        .await;
        let client = reqwest::Client::new();
        let mut honest = server.subscribe("topic=honest").await;
        let mut socket = send_from(CLIENT, server.address, b"").await;
        let (begin, start) = (Instant::now(), server.resident());
        publish(&mut socket, 0..WARM_UP, BATCH).await;
        let full = server.resident();
        let mut peak = full;
        for part in 0..10 {
            let end_of = |part: usize| WARM_UP + (topics - WARM_UP) * part / 10;
            let (from, to) = (end_of(part), end_of(part + 1));
            publish(&mut socket, from..from + 1000, 1).await;
            publish(&mut socket, from + 1000..to, BATCH).await;
            peak = peak.max(server.resident());
            let id = server.publish(&client, "honest", "x").await;
            assert_eq!(honest.next().await.expect("an event").id, id);
        }
        println!(
            "{engine}: {topics} topics in {:?}; {} MiB at the start, {} MiB after {WARM_UP}, {} MiB at most",
            begin.elapsed(),
            start / MIB,
            full / MIB,
            peak / MIB
        );
        // The table of topics may double once more: it grows also where topics have left.
        let (warm, bound) = (full - start, (full - start) * 3 / 4 + 4 * MIB);
        assert!(peak < full + bound, "{} KiB after {} KiB", peak / 1024, full / 1024);
        // The control: if none were forgotten, they would take more.
        assert!((topics - WARM_UP) as u64 * warm / WARM_UP as u64 > bound, "{warm} bytes for {WARM_UP}");
        // The oldest have gone, and the newest are there.
        for (number, status) in [(0, 404), (topics - 1, 200)] {
            let answer = reqwest::get(server.url(&format!("/topics/topic-number-{number}"))).await;
            assert_eq!(answer.expect("an answer").status(), status, "{number}");
        }
    }
}

/// Goal: one client that subscribes to ever new topics is refused at `limits.topics_per_ip_max`, in words, through both
/// readers; clients of other addresses subscribe to new topics as before, until `limits.topics_max`.
#[tokio::test]
async fn ever_new_topics_of_one_subscriber_are_refused() {
    const PER_IP: usize = 1000;
    let server = Process::start(&[
        ("TIDINGS__LIMITS__TOPICS_PER_IP_MAX", "1000"),
        ("TIDINGS__LIMITS__TOPICS_MAX", "1002"),
        ("TIDINGS__SERVER__WORKERS", "2"),
    ])
    .await;
    let client = reqwest::Client::new();
    let mut honest = server.subscribe("topic=honest").await;
    let subscribe = async |from: &str, topics: std::ops::Range<usize>, line: &str| {
        let query: String = topics.map(|n| format!("topic=new-{n}&")).collect();
        let request = format!("GET /subscribe?{query} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{line}\r\n");
        Stream::receive(send_from(from, server.address, request.as_bytes()).await).await
    };
    let mut streams = Vec::new();
    for n in 0..PER_IP / 100 {
        let stream = subscribe(CLIENT, n * 100..(n + 1) * 100, "").await;
        assert_eq!(stream.status, 200);
        streams.push(stream);
    }
    for line in crate::harness::READERS {
        let mut refused = subscribe(CLIENT, PER_IP..PER_IP + 1, line).await;
        assert_eq!(refused.status, 429);
        assert!(refused.header("retry-after").is_some());
        assert!(refused.rest().await.contains("too_many_topics_per_ip"));
    }
    // A topic that is there already is not a new one.
    assert_eq!(subscribe(CLIENT, 0..1, "").await.status, 200);
    streams.push(subscribe("127.0.0.3", PER_IP..PER_IP + 1, "").await);
    assert_eq!(streams.last().map(|stream| stream.status), Some(200));
    for line in crate::harness::READERS {
        let mut refused = subscribe("127.0.0.3", PER_IP + 1..PER_IP + 2, line).await;
        assert_eq!(refused.status, 503);
        assert!(refused.rest().await.contains("too_many_topics\""));
    }
    let id = server.publish(&client, "honest", "x").await;
    assert_eq!(honest.next().await.expect("an event").id, id);
}
