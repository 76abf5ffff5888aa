//! The broker's inner parts one by one, through the crate's own interface: `cargo bench --bench micro`.
//!
//! They tell where a change of the whole comes from; what counts is the whole, `cargo bench --bench compare`.

#![expect(clippy::expect_used, reason = "a bench that fails says where; nobody serves from here")]

use std::{
    fs, io,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use divan::{Bencher, black_box, counter::ItemsCount};
use futures_util::future::join_all;
use tidings::{
    config::{LogConfig, Size, StreamConfig},
    event::{Epoch, EventId, TopicName},
    frame::{self, Encoding, Format, Framing, Marks},
    hub::{Peer, Streams, Subscription, UnsentBytes},
    log::{Batch, Commit, Draft, Feed, KeyLimits, Log, ReadFrom, Start, disk::DiskLog, memory::MemoryLog},
};
use tokio::runtime::{Builder, Runtime};

const EVENT_BYTES: usize = 100;
const PEERS: u64 = 1_000;
const EVENTS: u64 = 10_000;
const LINES: Encoding = Encoding { format: Format::Lines, framing: Framing::Chunked };
/// What a visit reads of the log at once.
const PAGE_BYTES: usize = 256 << 10;
const NO_KEYS: KeyLimits = KeyLimits { window: Duration::ZERO, of_topic_max: 1, max: 1 };

fn main() {
    divan::main();
}

fn topic() -> TopicName {
    TopicName::parse("bench", 255).expect("a name")
}

fn draft(topic: &TopicName) -> Draft {
    Draft {
        topic: topic.clone(),
        name: None,
        content: Bytes::from_static(&[b'x'; EVENT_BYTES]),
        subscribers: 0,
        key: None,
    }
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("a runtime")
}

fn roomy() -> LogConfig {
    LogConfig { topic_events_max: 1_000_000, topic_bytes_max: Size::mib(256), ..LogConfig::default() }
}

fn encode(bencher: Bencher<'_, '_>, content: &Bytes) {
    let id = EventId { epoch: Epoch::random(), seq: 123_456 };
    bencher.with_inputs(topic).bench_local_values(|topic| frame::encode(id, 1, topic, None, black_box(content)));
}

#[divan::bench]
fn encode_plain_100_bytes(bencher: Bencher<'_, '_>) {
    encode(bencher, &Bytes::from(vec![b'x'; 100]));
}

#[divan::bench]
fn encode_plain_10_kb_in_lines(bencher: Bencher<'_, '_>) {
    encode(bencher, &Bytes::from([vec![b'x'; 99], vec![b'\n']].concat().repeat(100)));
}

#[divan::bench]
fn encode_ndjson_100_bytes(bencher: Bencher<'_, '_>) {
    let epoch = Epoch::random();
    let event = frame::encode(EventId { epoch, seq: 1 }, 1_700_000_000_000, topic(), None, &[b'x'; 100]);
    bencher.bench_local(|| frame::event(LINES, epoch, Arc::clone(black_box(&event))));
}

#[divan::bench]
fn append_memory(bencher: Bencher<'_, '_>) {
    let (log, topic, runtime) = (MemoryLog::new(LogConfig::default(), NO_KEYS), topic(), runtime());
    bencher.counter(1_usize).bench_local(|| runtime.block_on(log.append(draft(&topic))));
}

/// With so many at once; the writer has one fsync for what has queued.
#[divan::bench(args = [1, 256], max_time = 3)]
fn append_disk(bencher: Bencher<'_, '_>, in_flight: usize) {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("micro-{}-{in_flight}", std::process::id()));
    let log = DiskLog::open(&LogConfig { path: path.clone(), ..roomy() }, NO_KEYS);
    let (log, topic, runtime) = (log.expect("a log"), topic(), runtime());
    bencher.counter(ItemsCount::new(in_flight)).bench_local(|| {
        runtime.block_on(join_all((0..in_flight).map(|_| log.append(draft(&topic)))));
    });
    // Within the runtime, of which it takes a thread.
    runtime.block_on(async { log.close().await });
    drop(log);
    fs::remove_dir_all(path).expect("it goes");
}

#[divan::bench]
fn feed_push_and_take_1000(bencher: Bencher<'_, '_>) {
    let (log, topic, runtime) = (MemoryLog::new(roomy(), NO_KEYS), topic(), runtime());
    let source = log.feed();
    for _ in 0..1_000 {
        runtime.block_on(log.append(draft(&topic))).expect("it is taken");
    }
    let (mut taken, feed, mut batch) = (Batch::default(), Feed::default(), Batch::default());
    source.take(&mut taken);
    let commits: Vec<Commit> = taken.commits;
    bencher.counter(ItemsCount::new(commits.len())).bench_local(|| {
        for commit in &commits {
            feed.push(commit.clone());
        }
        feed.take(&mut batch);
    });
}

/// From the first event to the last, page by page, as a subscriber that catches up.
#[divan::bench]
fn cursor_walk_10000(bencher: Bencher<'_, '_>) {
    let (log, topic, runtime) = (MemoryLog::new(roomy(), NO_KEYS), topic(), runtime());
    for _ in 0..EVENTS {
        runtime.block_on(log.append(draft(&topic))).expect("it is taken");
    }
    let topics = [topic];
    bencher.counter(ItemsCount::new(EVENTS)).bench_local(|| {
        let mut from = ReadFrom { after: 0, removals_seen: 0 };
        while from.after < EVENTS {
            from.after = black_box(runtime.block_on(log.read(&topics, from, PAGE_BYTES))).expect("a page").to;
        }
    });
}

/// Takes everything and keeps nothing.
struct Sink;

impl io::Read for Sink {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::ErrorKind::WouldBlock.into())
    }
}

impl io::Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(black_box(bytes).len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Peer for Sink {
    fn finish(&mut self) {}

    fn watch_writable(&mut self, _: usize) -> io::Result<()> {
        Ok(())
    }
}

/// One event to everybody: what the hub costs without the system's writes.
#[divan::bench]
fn fanout_one_event_to_1000(bencher: Bencher<'_, '_>) {
    let (topic, runtime) = (topic(), runtime());
    let log: Arc<dyn Log> = Arc::new(MemoryLog::new(LogConfig::default(), NO_KEYS));
    let (feed, mut batch) = (log.feed(), Batch::default());
    let mut fanout =
        Streams::new(Arc::clone(&log), StreamConfig::default(), Arc::new(UnsentBytes::new(0)), Instant::now());
    let start =
        runtime.block_on(log.resolve_start(std::slice::from_ref(&topic), &Start::Live, &[])).expect("it can be read");
    for _ in 0..PEERS {
        let subscription = Subscription {
            topics: [topic.clone()].into_iter().collect(),
            encoding: Encoding { format: Format::Plain, framing: Framing::Chunked },
            marks: Marks::Event,
            start,
            ends_at: None,
            right: None,
            guards: Box::new(()),
        };
        fanout.adopt(Sink, subscription, |_, _| Ok(())).expect("it is taken");
    }
    bencher.counter(ItemsCount::new(PEERS)).bench_local(|| {
        runtime.block_on(log.append(draft(&topic))).expect("it is taken");
        feed.take(&mut batch);
        fanout.apply(&mut batch, Instant::now());
        while fanout.has_work() {
            fanout.step();
        }
    });
    assert_eq!(u64::try_from(fanout.len()).ok(), Some(PEERS), "nobody was cut");
}
