//! Helpers of the tests: they open logs, append events, and shorten answers.

use std::{
    cell::RefCell,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
    time::{Duration, Instant},
};

use tokio::runtime::{Builder, Runtime};

use super::{nats, tools};
use crate::{
    config::{ClusterConfig, Config, LogConfig, Size},
    event::{EventId, TopicName},
    frame::GapReason,
    log::{
        Arc, Batch, Bytes, Commit, Draft, Feed, Held, KeyLimits, Log, Page, ReadFrom, Start, StartPoint, Wall, clock,
        cluster::ClusterLog, disk::DiskLog, memory::MemoryLog,
    },
};

/// Opens a log with the given wall clock, or with the system's.
pub(super) type NewAt = fn(LogConfig, Option<Wall>) -> Arc<dyn Log>;

pub(super) type New = fn(LogConfig) -> Arc<dyn Log>;

/// Opens a log with high limits for events, and the given limits for keys.
pub(super) type NewKeyed = fn(KeyLimits) -> Arc<dyn Log>;

/// How long a test waits before it fails.
pub(super) const DEADLINE: Duration = Duration::from_secs(30);
/// How many topics without events stay known, so that their gaps are exact.
pub(super) const EMPTY_MAX: usize = 65_536;

thread_local!(static RUNTIME: Runtime = Builder::new_current_thread().enable_all().build().expect("a runtime"));

pub(super) fn wait<T>(future: impl Future<Output = T>) -> T {
    RUNTIME.with(|runtime| runtime.block_on(future))
}

pub(super) fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !condition() {
        assert!(begin.elapsed() < DEADLINE, "gave up waiting for {what}");
        std::thread::yield_now();
    }
}

/// Limits for events that no test reaches.
pub(super) fn roomy() -> LogConfig {
    let (topic_events_max, bytes_max) = (1 << 20, Size::mib(1 << 10));
    let (topic_bytes_max, age_max) = (bytes_max, Duration::ZERO);
    LogConfig { topic_events_max, topic_bytes_max, bytes_max, age_max, ..LogConfig::default() }
}

pub(super) fn names<const N: usize>(names: [&str; N]) -> [TopicName; N] {
    names.map(|name| TopicName::parse(name, 255).expect("a valid name"))
}

pub(super) fn draft(topic: &TopicName, content: &str) -> Draft {
    let content = Bytes::copy_from_slice(content.as_bytes());
    Draft { topic: topic.clone(), name: None, content, subscribers: 0, key: None }
}

/// Appends an event, and returns its position.
pub(super) fn append(log: &dyn Log, topic: &TopicName) -> u64 {
    let id = wait(log.append(draft(topic, "content"))).expect("it is taken").id;
    assert_eq!(id.epoch, log.epoch());
    id.seq
}

pub(super) fn append_all<'a>(log: &dyn Log, topics: impl IntoIterator<Item = &'a TopicName>) {
    let appends: Vec<_> = topics.into_iter().map(|topic| log.append(draft(topic, "content"))).collect();
    for append in appends {
        assert!(wait(append).expect("it is taken").id.seq > 0);
    }
}

/// A page of events after `from`.
pub(super) fn read(log: &dyn Log, topics: &[TopicName], from: ReadFrom, bytes_max: usize) -> Page {
    let page = wait(log.read(topics, from, bytes_max)).expect("it can be read");
    assert_eq!(page.epoch, log.epoch());
    page
}

/// A page without a limit, for a reader that knows of no removal.
pub(super) fn page(log: &dyn Log, topics: &[TopicName], after: u64) -> Page {
    read(log, topics, ReadFrom { after, removals_seen: 0 }, usize::MAX)
}

pub(super) fn seqs(page: &Page) -> Vec<u64> {
    page.events.iter().map(|event| event.seq).collect()
}

/// Positions of the next `n` commits of the feed.
pub(super) fn take(feed: &Feed, n: usize) -> Vec<u64> {
    let (mut taken, mut batch) = (Vec::new(), Batch::default());
    until("the feed", || {
        feed.take(&mut batch);
        assert_eq!(batch.dropped_to, 0);
        taken.extend(batch.commits.iter().map(Commit::seq));
        taken.len() >= n
    });
    taken
}

/// Where a subscription of `topics` begins, and the gap that is reported to it.
pub(super) fn place(log: &dyn Log, topics: &[TopicName], start: &Start) -> (u64, Option<GapReason>) {
    let start = resolve(log, topics, start, &[]);
    (start.from.after, start.gap)
}

pub(super) fn resolve(log: &dyn Log, topics: &[TopicName], start: &Start, deleted: &[TopicName]) -> StartPoint {
    let start = wait(log.resolve_start(topics, start, deleted)).expect("it can be read");
    assert_eq!(start.epoch, log.epoch());
    start
}

/// Deletes a topic, and returns the position of the deletion.
pub(super) fn delete(log: &dyn Log, topic: &TopicName) -> u64 {
    let id = wait(log.delete(topic)).expect("it is taken");
    assert_eq!(id.epoch, log.epoch());
    id.seq
}

pub(super) fn held(log: &dyn Log, topic: &TopicName) -> Option<Held> {
    wait(log.held(topic)).expect("it can be read")
}

/// Positions of the first and the last event held, and how many there are.
pub(super) fn extent(log: &dyn Log, topic: &TopicName) -> (Option<u64>, Option<u64>, usize) {
    let held = held(log, topic).unwrap_or_default();
    assert!([held.first, held.last].into_iter().flatten().all(|id| id.epoch == log.epoch()));
    (held.first.map(|id| id.seq), held.last.map(|id| id.seq), held.events)
}

pub(super) fn after(log: &dyn Log, seq: u64) -> Start {
    Start::After(EventId { epoch: log.epoch(), seq })
}

/// The cost in bytes of one event of `append`.
pub(super) fn cost(new: New, topic: &TopicName) -> u64 {
    let log = new(roomy());
    append(&*log, topic);
    held(&*log, topic).expect("an event").bytes
}

/// A clock that a test sets.
#[derive(Clone)]
pub(super) struct SetClock(Arc<AtomicU64>);

impl SetClock {
    pub(super) fn new() -> Self {
        Self(Arc::new(AtomicU64::new(1_700_000_000_000)))
    }

    pub(super) fn set(&self, ms: u64) {
        self.0.store(ms, Ordering::Relaxed);
    }

    pub(super) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    pub(super) fn wall(&self) -> Wall {
        let told = Arc::clone(&self.0);
        Arc::new(move || told.load(Ordering::Relaxed))
    }
}

/// A directory that is removed at the end of the test.
struct Directory(PathBuf);

impl Drop for Directory {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).ok();
    }
}

/// A directory for a log.
pub(super) fn directory() -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    thread_local!(static DIRECTORIES: RefCell<Vec<Directory>> = const { RefCell::new(Vec::new()) });
    let name = format!("conformance-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tmp").join(name);
    DIRECTORIES.with_borrow_mut(|all| all.push(Directory(path.clone())));
    path
}

/// Limits for keys that no test reaches.
pub(super) fn all_keys() -> KeyLimits {
    KeyLimits::from(&Config::default())
}

/// A log on disk, in a directory of its own.
pub(super) fn on_disk(mut config: LogConfig, keys: KeyLimits, wall: Option<Wall>) -> Arc<dyn Log> {
    config.path = directory();
    Arc::new(DiskLog::with_wall(&config, keys, wall.unwrap_or_else(clock::system)).expect("it opens"))
}

/// A log in memory.
pub(super) fn in_memory(config: LogConfig, keys: KeyLimits, wall: Option<Wall>) -> Arc<dyn Log> {
    Arc::new(MemoryLog::with_wall(config, keys, wall.unwrap_or_else(clock::system)))
}

/// A log in the cluster of one server of NATS, with a stream of its own.
#[expect(clippy::needless_pass_by_value, reason = "the other engines need the value")]
pub(super) fn in_cluster(config: LogConfig, keys: KeyLimits, _wall: Option<Wall>) -> Arc<dyn Log> {
    let servers = vec![nats::shared().expect("it is not left out").url()];
    let cluster = ClusterConfig { servers, namespace: nats::namespace(), ..ClusterConfig::default() };
    let log = ClusterLog::open(&cluster, &config, keys).expect("it opens");
    until("the stream to be read", || log.check().is_ok());
    Arc::new(log)
}

/// Whether the tests of `engine` are left out, which is said. All others need nothing.
pub(super) fn is_left_out(engine: &str) -> bool {
    if engine != "in_cluster" {
        return false;
    }
    nats::shared().map_err(|missing| tools::left_out(&missing)).is_err()
}
