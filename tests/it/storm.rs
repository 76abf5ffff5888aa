//! Subscribers that drop and resume at random while publishers run: each gets exactly the events of its topics.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use fastrand::Rng;
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinSet,
    time::timeout,
};

use crate::harness::{DEADLINE, QueryPair as _, TestServer, chunks::Chunks, parser::Parser};

pub mod checker;

use checker::{Seen, check};

const SEED: u64 = 0x7AD1_2026;
const SUBSCRIBERS: usize = 2_000;
const TOPICS: usize = 50;
const PUBLISHERS: usize = 8;
const PUBLISHES: usize = 80;
/// The last event of each topic; what its subscribers wait for.
const END: &str = "the end";

/// An event as its publisher knows it.
struct Record {
    seq: u64,
    topic: usize,
    content: String,
}

pub fn seq(id: &str) -> u64 {
    id.rsplit_once('-').and_then(|(_, seq)| seq.parse().ok()).unwrap_or_else(|| panic!("{id} is no id"))
}

/// Publishes, and takes (id, topic, content) from the answers.
async fn publisher(url: String, name: usize, mut rng: Rng) -> Vec<Record> {
    let client = reqwest::Client::new();
    let mut records = Vec::new();
    for n in 0..PUBLISHES {
        let topics: BTreeSet<usize> = (0..rng.usize(1..=3)).map(|_| rng.usize(..TOPICS)).collect();
        let lines = "\nand one more line".repeat(rng.usize(..3));
        let padding = "x".repeat(if rng.u8(..20) == 0 { rng.usize(..20_000) } else { rng.usize(..200) });
        let content = format!("{name}/{n}{lines} {padding}");
        records.extend(publish(&client, &url, topics.into_iter().collect(), content).await);
    }
    records
}

async fn publish(client: &reqwest::Client, url: &str, topics: Vec<usize>, content: String) -> Vec<Record> {
    let request = client.post(url).header("content-type", "text/plain").body(content.clone());
    let request = topics.iter().fold(request, |request, topic| request.query_pair("topic", &format!("t{topic}")));
    let answer: Value = request.send().await.expect("an answer").json().await.expect("JSON");
    let published = answer["published"].as_array().cloned().unwrap_or_else(|| vec![answer]);
    let record = |(topic, answer): (usize, Value)| {
        assert_eq!(answer["topic"], format!("t{topic}"), "{answer}");
        Record { seq: seq(answer["id"].as_str().expect("an id")), topic, content: content.clone() }
    };
    topics.into_iter().zip(published).map(record).collect()
}

/// A subscriber over all its connections.
struct Subscriber {
    address: SocketAddr,
    rng: Rng,
    topics: BTreeSet<usize>,
    /// It asks for all history rather than for what comes.
    since_all: bool,
    /// Its cursor, as an EventSource keeps it: it survives the connection.
    last_event_id: String,
    /// The first cursor it was given: with everything up to there it has nothing to do.
    joined: Option<u64>,
    seen: Vec<Seen>,
    ends: usize,
    drops: usize,
}

impl Subscriber {
    fn new(address: SocketAddr, mut rng: Rng) -> Self {
        let wanted = rng.usize(1..=10);
        let mut topics = BTreeSet::new();
        while topics.len() < wanted {
            topics.insert(rng.usize(..TOPICS));
        }
        let since_all = rng.bool();
        let joined = since_all.then_some(0);
        let last_event_id = String::new();
        Self { address, rng, topics, since_all, last_event_id, joined, seen: Vec::new(), ends: 0, drops: 0 }
    }

    async fn run(mut self) -> Self {
        while self.ends < self.topics.len() {
            self.connection().await;
        }
        self
    }

    fn request(&self) -> String {
        let topics: Vec<String> = self.topics.iter().map(|topic| format!("topic=t{topic}")).collect();
        let since = if self.since_all { "&since=all" } else { "" };
        let cursor = match self.last_event_id.as_str() {
            "" => String::new(),
            id => format!("Last-Event-ID: {id}\r\n"),
        };
        let accept = "Accept: text/event-stream";
        format!("GET /subscribe?{}{since} HTTP/1.1\r\nHost: localhost\r\n{accept}\r\n{cursor}\r\n", topics.join("&"))
    }

    /// One connection, cut after a number of bytes that has nothing to do with where heads, blocks or lines end.
    async fn connection(&mut self) {
        let mut left = match self.rng.u8(..10) {
            0 => self.rng.usize(..700),
            1..4 => self.rng.usize(..5_000),
            _ => self.rng.usize(..80_000),
        };
        let mut socket = TcpStream::connect(self.address).await.expect("a connection");
        socket.write_all(self.request().as_bytes()).await.expect("the request is sent");
        let (mut head, mut body) = (Vec::new(), None::<(Chunks, Parser)>);
        let mut buffer = [0; 8 << 10];
        while left > 0 && self.ends < self.topics.len() {
            let window = left.min(buffer.len());
            let n = timeout(DEADLINE, socket.read(&mut buffer[..window])).await.expect("bytes in time").expect("bytes");
            assert!(n > 0, "the server ended a stream");
            left -= n;
            let Some((chunks, parser)) = &mut body else {
                head.extend_from_slice(&buffer[..n]);
                if let Some(end) = head.windows(4).position(|window| window == b"\r\n\r\n") {
                    assert!(head.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&head));
                    let (chunks, parser) = body.insert((Chunks::default(), Parser::default()));
                    self.take(&chunks.feed(&head[end + 4..]), parser);
                }
                continue;
            };
            self.take(&chunks.feed(&buffer[..n]), parser);
        }
        self.drops += 1;
        if self.rng.bool() {
            // Closed with this, a socket is reset.
            socket2::SockRef::from(&socket).set_linger(Some(Duration::ZERO)).expect("a linger of zero");
        }
    }

    fn take(&mut self, mut bytes: &[u8], parser: &mut Parser) {
        while !bytes.is_empty() {
            // Byte by byte up to its first cursor, or an event behind that in the same bytes would pass for it.
            let (now, later) = bytes.split_at(if self.joined.is_none() { 1 } else { bytes.len() });
            bytes = later;
            for block in parser.feed(now) {
                if block.event == "broker.open" {
                    continue;
                }
                assert_eq!(block.event, "message", "{}", block.data);
                self.ends += usize::from(block.data == END);
                self.seen.push(Seen { seq: seq(&block.id), content: block.data });
            }
            if !parser.last_event_id.is_empty() {
                self.last_event_id.clone_from(&parser.last_event_id);
                self.joined.get_or_insert_with(|| seq(&parser.last_event_id));
            }
        }
    }

    /// Compares what it got with what was published.
    fn check(&self, records: &[Record]) {
        let joined = self.joined.expect("it has been given a cursor");
        let wanted = records.iter().filter(|record| self.topics.contains(&record.topic) && record.seq > joined);
        let wanted: Vec<Seen> =
            wanted.map(|record| Seen { seq: record.seq, content: record.content.clone() }).collect();
        if let Err(fault) = check(&wanted, &self.seen) {
            panic!("seed {SEED:#x}, topics {:?}, joined after {joined}: {fault:?}", self.topics);
        }
    }
}

/// Goal: nobody misses an event or gets one twice or out of order, however often and wherever connections break.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_subscriber_gets_exactly_its_events_through_drops_and_resumes() {
    println!("seed {SEED:#x}");
    let begin = Instant::now();
    let mut rng = Rng::with_seed(SEED);
    let server = TestServer::start();
    let mut subscribers = JoinSet::new();
    for _ in 0..SUBSCRIBERS {
        subscribers.spawn(Subscriber::new(server.address, rng.fork()).run());
    }
    let url = server.url("/publish");
    let mut publishers = JoinSet::new();
    for name in 0..PUBLISHERS {
        publishers.spawn(publisher(url.clone(), name, rng.fork()));
    }
    let mut records: Vec<Record> = publishers.join_all().await.into_iter().flatten().collect();
    let (published, took) = (records.len(), begin.elapsed());
    records.extend(publish(&reqwest::Client::new(), &url, (0..TOPICS).collect(), END.to_owned()).await);
    records.sort_unstable_by_key(|record| record.seq);
    assert!(records.windows(2).all(|pair| pair[0].seq < pair[1].seq), "an id was given twice");

    let records = Arc::new(records);
    let (mut deliveries, mut drops) = (0, 0);
    while let Some(subscriber) = subscribers.join_next().await {
        let subscriber = subscriber.expect("a subscriber gets through");
        subscriber.check(&records);
        deliveries += subscriber.seen.len();
        drops += subscriber.drops;
    }
    println!("{published} events in {took:?}, {deliveries} deliveries over {drops} connections, {:?}", begin.elapsed());
    assert!(drops > 3 * SUBSCRIBERS, "only {drops} drops: this was no storm");
}
