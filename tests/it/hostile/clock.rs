//! A wall clock that jumps, over restarts. What the engines keep while they run is in their conformance suite.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use tidings::{
    config::{Config, LogConfig},
    event::TopicName,
    log::{Draft, KeyLimits, Log as _, ReadFrom, Start, disk::DiskLog},
};

use crate::harness::{at_hand, blocking::Directory};

const BEGIN: u64 = 1_700_000_000_000;
const TEN_YEARS: u64 = 10 * 365 * 24 * 3_600_000;
const MINUTE: u64 = 60_000;
const DAY: u64 = 24 * 60 * MINUTE;

/// A log in a directory, and its wall clock.
struct Clocked {
    directory: Directory,
    ms: Arc<AtomicU64>,
}

impl Clocked {
    fn new() -> Self {
        Self { directory: Directory::new(), ms: Arc::new(AtomicU64::new(BEGIN)) }
    }

    fn at(&self, ms: u64) {
        self.ms.store(BEGIN + ms, Ordering::Relaxed);
    }

    fn open(&self) -> DiskLog {
        self.open_with(|_| {})
    }

    fn open_with(&self, configure: impl FnOnce(&mut LogConfig)) -> DiskLog {
        let ms = Arc::clone(&self.ms);
        let mut config = LogConfig { path: self.directory.0.clone(), ..LogConfig::default() };
        configure(&mut config);
        let wall = Arc::new(move || ms.load(Ordering::Relaxed));
        DiskLog::with_wall(&config, KeyLimits::from(&Config::default()), wall).expect("the log opens")
    }
}

fn topic(name: &str) -> TopicName {
    TopicName::parse(name, 255).expect("a topic name")
}

async fn append(log: &DiskLog, key: Option<&str>) -> u64 {
    append_to(log, "t", key).await
}

async fn append_to(log: &DiskLog, name: &str, key: Option<&str>) -> u64 {
    let (content, key) = (Bytes::from_static(b"content"), key.map(Into::into));
    let draft = Draft { topic: topic(name), name: None, content, subscribers: 0, key };
    log.append(draft).await.expect("a receipt").id.seq
}

/// Ends it; what is in the directory stays.
async fn close(log: DiskLog) {
    log.close().await;
}

fn held(log: &DiskLog) -> usize {
    at_hand(log.held(&topic("t"))).map_or(0, |held| held.events)
}

/// Where `since=` begins.
fn since(log: &DiskLog, ms: u64) -> u64 {
    at_hand(log.resolve_start(&[topic("t")], &Start::Since(BEGIN + ms), &[])).from.after
}

#[tokio::test]
async fn a_restart_after_a_jump_keeps_history_and_time() {
    // Goal: an event that is stamped ten years ahead neither makes the others ten years old at the next start, nor stamps
    // later events; `since=` is right again.
    let log = Clocked::new();
    let first = log.open();
    append(&first, None).await;
    log.at(TEN_YEARS);
    append(&first, None).await;
    close(first).await;
    for life in 1..=2 {
        log.at(2 * MINUTE);
        let next = log.open();
        assert_eq!(held(&next), 2, "start {life}: age_max is a day");
        assert_eq!(since(&next, 3 * MINUTE), next.watermark(), "nothing is from the future");
        close(next).await;
    }
    log.at(4 * MINUTE);
    let next = log.open();
    append(&next, None).await;
    log.at(5 * MINUTE);
    let seq = append(&next, None).await;
    let page =
        next.read(&[topic("t")], ReadFrom { after: seq - 2, removals_seen: 0 }, usize::MAX).await.expect("a page");
    let times: Vec<u64> = page.events.iter().map(|event| event.time_ms - BEGIN).collect();
    assert_eq!(times, [4 * MINUTE, 5 * MINUTE]);
    assert_eq!(since(&next, 4 * MINUTE + 1), seq - 1, "and not those of the jump");
    close(next).await;
    let next = log.open();
    assert_eq!((since(&next, 4 * MINUTE + 1), held(&next)), (seq - 1, 4), "the correction is known from the file, too");
    close(next).await;
    // The control: what is too old does go, those of the jump with the event that corrected them.
    log.at(DAY + 4 * MINUTE + 1);
    let next = log.open();
    assert_eq!(held(&next), 1);
    close(next).await;
    log.at(DAY + 6 * MINUTE);
    assert_eq!(held(&log.open()), 0);
}

#[tokio::test]
async fn what_is_gone_since_a_time_is_known_after_a_restart() {
    // Goal: the time of the last event removed outlives the process, also that of a deleted topic, and beside one stamped
    // in a jump. Where the file does not have it, as one of 0.1, the next event that is held says how old it was at least:
    // the gap may then be told for a little longer, never for less.
    let log = Clocked::new();
    let few = |config: &mut LogConfig| config.topic_events_max = 1;
    let first = log.open_with(few);
    for (name, ms) in [("t", MINUTE), ("t", TEN_YEARS), ("t", 3 * MINUTE), ("d", 5 * MINUTE), ("t", 7 * MINUTE)] {
        log.at(ms);
        append_to(&first, name, None).await;
    }
    first.delete(&topic("d")).await.expect("it is taken");
    crate::harness::until("the rows to go", async || log.directory.count("event") == 1).await;
    close(first).await;
    let start = |ms| Start::Since(BEGIN + ms);
    let gap = |log: &DiskLog, name: &str, ms| at_hand(log.resolve_start(&[topic(name)], &start(ms), &[])).gap.is_some();
    log.at(8 * MINUTE);
    for (start, unknown) in [false, false, true].into_iter().enumerate() {
        let next = log.open_with(few);
        assert!(gap(&next, "t", 3 * MINUTE) && gap(&next, "d", 5 * MINUTE), "at that time");
        assert_eq!((gap(&next, "t", 3 * MINUTE + 1), gap(&next, "d", 5 * MINUTE + 1)), (unknown, unknown), "after it");
        assert!(!gap(&next, "t", 7 * MINUTE + 1) && !gap(&next, "d", 8 * MINUTE + 1) && !gap(&next, "other", 0));
        close(next).await;
        if start == 1 {
            let file = rusqlite::Connection::open(log.directory.file()).expect("the file opens");
            file.execute("UPDATE topic SET evicted_ms = 0", []).expect("an update");
        }
    }
}

#[tokio::test]
async fn receipts_go_after_a_jump_that_stays() {
    // Goal: where the clock is set once, as on a machine without a battery for it, no receipt stays in the file for as
    // long as the process runs: neither those from before, nor those since. Ahead as back.
    for (from, to) in [(0, TEN_YEARS), (TEN_YEARS, 0)] {
        let log = Clocked::new();
        log.at(from);
        let (ms, begun) = (Arc::clone(&log.ms), Instant::now());
        let runs = move || ms.load(Ordering::Relaxed) + u64::try_from(begun.elapsed().as_millis()).expect("a number");
        let config = LogConfig { path: log.directory.0.clone(), ..LogConfig::default() };
        let limits = KeyLimits { window: Duration::from_secs(1), of_topic_max: 9, max: 9 };
        let opened = DiskLog::with_wall(&config, limits, Arc::new(runs)).expect("the log opens");
        append(&opened, Some("before")).await;
        log.at(to);
        append(&opened, Some("since")).await;
        crate::harness::until("the receipts to go", async || log.directory.count("receipt") == 0).await;
        close(opened).await;
    }
}

#[tokio::test]
async fn a_jump_does_not_forget_receipts_nor_keep_them_for_ever() {
    // Goal: a retry after a jump and a restart is still a retry; a key of the time to come is not kept for ten years.
    let log = Clocked::new();
    let first = log.open();
    append(&first, Some("before")).await;
    log.at(TEN_YEARS);
    append(&first, Some("ahead")).await;
    assert_eq!(log.directory.count("receipt"), 2);
    let begun = Instant::now();
    crate::harness::until("the writer to look after them", async || {
        append(&first, None).await;
        begun.elapsed() > Duration::from_millis(2500)
    })
    .await;
    log.at(MINUTE);
    append(&first, None).await;
    close(first).await;
    let next = log.open();
    assert_eq!(next.keys(), 1);
    assert_eq!(append(&next, Some("before")).await, 1, "it answers the retry");
    crate::harness::until("the one of the time to come to go", async || {
        append(&next, None).await;
        log.directory.count("receipt") == 1
    })
    .await;
    close(next).await;
    // The control: the window does end.
    log.at(7 * MINUTE);
    assert_eq!(log.open().keys(), 0);
}
