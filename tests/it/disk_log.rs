//! The disk engine by itself, opened and closed again on one directory: what only a second start shows.

use std::{
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{FutureExt as _, future::join_all};
use tidings::{
    config::{Config, LogConfig, Size},
    event::{EventId, TopicName},
    frame::GapReason,
    log::{AppendError, Draft, KeyLimits, Log as _, Start, disk::DiskLog},
};
use tokio::time::timeout;

use crate::harness::{DEADLINE, at_hand, blocking::Directory, until};

fn config(directory: &Directory) -> LogConfig {
    LogConfig { path: directory.0.clone(), ..LogConfig::default() }
}

/// None counts for any time.
const NO_RECEIPTS: KeyLimits = KeyLimits { window: Duration::ZERO, of_topic_max: 1, max: 1 };

fn open(directory: &Directory, configure: impl FnOnce(&mut LogConfig)) -> DiskLog {
    let mut config = config(directory);
    configure(&mut config);
    DiskLog::open(&config, KeyLimits::from(&Config::default())).expect("the log opens")
}

fn topic(name: &str) -> TopicName {
    TopicName::parse(name, 255).expect("a topic name")
}

fn draft(name: &str, content: &str) -> Draft {
    Draft {
        topic: topic(name),
        name: None,
        content: Bytes::copy_from_slice(content.as_bytes()),
        subscribers: 0,
        key: None,
    }
}

fn keyed(name: &str, key: &str) -> Draft {
    Draft { key: Some(key.into()), ..draft(name, "content") }
}

async fn append(log: &DiskLog, name: &str) -> EventId {
    log.append(draft(name, "content")).await.expect("a receipt").id
}

/// Publishes one event to each of `names`, all at once.
async fn fill(log: &DiskLog, names: &[String]) {
    for outcome in join_all(names.iter().map(|name| log.append(draft(name, "content")))).await {
        outcome.expect("a receipt");
    }
}

#[test]
fn a_directory_can_be_opened_again_while_other_processes_are_started() {
    // Goal: a child between its fork and its program, which has a copy of each descriptor, does not hold the lock.
    let directory = Directory::new();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    Command::new("true").status().expect("a process");
                }
            });
        }
        let opened = (0..50).map(|_| DiskLog::open(&config(&directory), NO_RECEIPTS).map(drop));
        let failed: Vec<_> = opened.filter_map(Result::err).collect();
        done.store(true, Ordering::Relaxed);
        assert!(failed.is_empty(), "{} of 50: {}", failed.len(), failed[0]);
    });
}

#[tokio::test]
async fn a_deletion_that_a_crash_interrupted_is_still_a_gap_after_two_restarts() {
    // Goal: what a deletion took is told as a gap, even when its rows are removed only by a later process.
    let directory = Directory::new();
    let log = open(&directory, |_| {});
    let first = append(&log, "t").await;
    let mut last = first;
    for _ in 0..5 {
        last = append(&log, "t").await;
    }
    log.close().await;
    drop(log);
    // A crash right after the commit of a deletion leaves the rows: this is that file.
    let file = rusqlite::Connection::open(directory.file()).expect("the file opens");
    file.execute("UPDATE topic SET deleted_to = ?1", [i64::try_from(last.seq + 1).expect("small")]).expect("an update");
    file.execute("UPDATE meta SET value = ?1 WHERE name = 'reserved'", [i64::try_from(last.seq + 1).expect("small")])
        .expect("an update");
    drop(file);
    for start in 1..=3 {
        let log = open(&directory, |_| {});
        let placed = at_hand(log.resolve_start(&[topic("t")], &Start::After(first), &[]));
        assert_eq!(placed.gap, Some(GapReason::Evicted), "start {start}");
        let placed = at_hand(log.resolve_start(&[topic("t")], &Start::After(last), &[]));
        assert_eq!(placed.gap, None, "start {start}: nothing is missing after the last one deleted");
        until("the deleted rows to be removed", async || directory.count("event") == 0).await;
        log.close().await;
    }
}

/// Topics that are empty, of which the longest empty are no longer remembered one by one.
const EMPTY_TOPICS: usize = 65_536;

#[tokio::test]
async fn topics_that_are_forgotten_and_come_back_lose_nothing() {
    // Goal: an event whose topic is forgotten and revived at the same moment is there after a restart.
    let directory = Directory::new();
    let configure = |config: &mut LogConfig| config.bytes_max = Size::kib(64);
    let log = open(&directory, configure);
    let names: Vec<String> = (0..EMPTY_TOPICS + 600).map(|n| n.to_string()).collect();
    // In a circle: each topic comes back a little after it was the longest empty one.
    for _ in 0..2 {
        for names in names.chunks(2000) {
            fill(&log, names).await;
            assert_eq!(directory.count("event WHERE topic NOT IN (SELECT id FROM topic)"), 0, "events of no topic");
        }
    }
    let held =
        |log: &DiskLog| names.iter().filter(|n| at_hand(log.held(&topic(n))).is_some_and(|h| h.events > 0)).count();
    let before = held(&log);
    assert!(before > 100, "{before}");
    log.close().await;
    drop(log);
    assert_eq!(held(&open(&directory, configure)), before);
}

#[tokio::test]
async fn a_forgotten_topic_that_comes_back_still_owns_up_to_its_gap_after_a_restart() {
    // Goal: what a topic lost before it was forgotten is a gap for ever.
    let directory = Directory::new();
    let configure = |config: &mut LogConfig| config.bytes_max = Size::kib(64);
    let log = open(&directory, configure);
    let first = append(&log, "t").await;
    append(&log, "t").await;
    let names: Vec<String> = (0..EMPTY_TOPICS + 1000).map(|n| n.to_string()).collect();
    for names in names.chunks(2000) {
        fill(&log, names).await;
    }
    until("its row to be removed", async || directory.count("topic WHERE name = 't'") == 0).await;
    append(&log, "t").await;
    assert_eq!(at_hand(log.resolve_start(&[topic("t")], &Start::After(first), &[])).gap, Some(GapReason::Evicted));
    log.close().await;
    drop(log);
    let log = open(&directory, configure);
    assert_eq!(
        at_hand(log.resolve_start(&[topic("t")], &Start::After(first), &[])).gap,
        Some(GapReason::Evicted),
        "after the restart"
    );
}

#[tokio::test]
async fn closing_does_not_wait_for_those_that_wait_for_room() {
    // Goal: the end of the process does not hang on an append that nobody polls any more.
    let directory = Directory::new();
    let log = open(&directory, |config| {
        config.queue_bytes_max = Size::kib(4);
        config.queue_wait = Duration::from_mins(10);
    });
    let appends: Vec<_> = (0..64).map(|_| log.append(draft("t", &"x".repeat(3000)))).collect();
    timeout(DEADLINE, log.close()).await.expect("closed in time");
    let mut taken = 0;
    for append in appends {
        match timeout(DEADLINE, append).await.expect("an answer in time") {
            Ok(_) => taken += 1,
            Err(error) => assert_eq!(error, AppendError::Unavailable),
        }
    }
    assert!(taken > 0, "the first was taken");
    drop(log);
    assert_eq!(at_hand(open(&directory, |_| {}).held(&topic("t"))).map(|held| held.events), Some(taken));
}

#[tokio::test]
async fn a_full_queue_refuses_and_keeps_nothing() {
    // Goal: an event refused for want of room in the queue is certainly not published, and each that was taken is.
    let directory = Directory::new();
    let log = open(&directory, |config| {
        config.queue_bytes_max = Size::kib(8);
        config.queue_wait = Duration::ZERO;
    });
    let appends = join_all((0..500).map(|_| log.append(draft("t", &"x".repeat(3000)))));
    let (mut taken, mut refused) = (0, 0);
    for outcome in appends.await {
        match outcome {
            Ok(_) => taken += 1,
            Err(error) => {
                assert_eq!(error, AppendError::QueueFull);
                refused += 1;
            }
        }
    }
    assert!(taken > 0 && refused > 0, "{taken} taken, {refused} refused");
    assert_eq!(at_hand(log.held(&topic("t"))).map(|held| held.events), Some(taken));
    log.close().await;
    drop(log);
    let log = open(&directory, |_| {});
    assert_eq!(at_hand(log.held(&topic("t"))).map(|held| held.events), Some(taken));
    append(&log, "t").await;
}

#[tokio::test]
async fn a_key_is_not_taken_by_those_that_wait_for_room() {
    // Goal: one that goes while it waits leaves nothing under its key; of two that wait with the same key one publishes,
    // and the other gets its receipt, as does a retry that needs no room.
    let directory = Directory::new();
    let log = open(&directory, |config| config.queue_bytes_max = Size::kib(4));
    append(&log, "t").await;
    let stalled = rusqlite::Connection::open(directory.file()).expect("the file opens");
    stalled.execute_batch("BEGIN IMMEDIATE").expect("the write lock");
    let begun = log.append(keyed("t", "begun"));
    // With room for one unit more than its content, it fills the queue. The writer releases the space of the first
    // append after its receipt: until then this one waits for it, in front of those that follow.
    let mut full = log.append(draft("t", &"x".repeat(2 << 10)));
    assert!((&mut full).now_or_never().is_none());
    let mut gone = log.append(keyed("t", "gone"));
    assert!((&mut gone).now_or_never().is_none() && log.keys() == 1, "it waits, and has no key");
    let mut waiting = [log.append(keyed("t", "waiting")), log.append(keyed("t", "waiting"))];
    assert!(waiting.iter_mut().all(|append| append.now_or_never().is_none()));
    drop(gone);
    let retry = log.append(keyed("t", "begun"));
    stalled.execute_batch("ROLLBACK").expect("it gives the lock back");
    let (begun, retry) = (begun.await.expect("a receipt"), retry.await.expect("a receipt"));
    assert_eq!((begun.id, retry.replayed), (retry.id, true));
    full.await.expect("a receipt");
    let [first, second] = join_all(waiting).await.try_into().expect("two");
    let (first, second) = (first.expect("a receipt"), second.expect("a receipt"));
    assert_eq!((first.id, first.replayed, second.replayed), (second.id, false, true));
    assert!(!log.append(keyed("t", "gone")).await.expect("a receipt").replayed);
    assert_eq!(at_hand(log.held(&topic("t"))).map(|held| held.events), Some(5));
    log.close().await;
    assert_eq!(log.append(keyed("t", "closed")).await, Err(AppendError::Unavailable));
    assert_eq!(log.keys(), 3, "one that was refused has no key");
}

#[tokio::test]
async fn receipts_of_a_forgotten_topic_do_not_become_anothers() {
    // Goal: no topic ever answers a publish with the receipt of another topic.
    let directory = Directory::new();
    let configure = |config: &mut LogConfig| config.bytes_max = Size::kib(64);
    let log = open(&directory, configure);
    let names: Vec<String> = (0..EMPTY_TOPICS + 1000).map(|n| n.to_string()).collect();
    for names in names.chunks(2000) {
        let appends: Vec<_> = names.iter().map(|name| log.append(keyed(name, "key"))).collect();
        for append in appends {
            append.await.expect("a receipt");
        }
    }
    append(&log, "other").await;
    log.close().await;
    drop(log);
    let log = open(&directory, configure);
    assert_eq!(log.keys(), names.len(), "each topic has its receipt within its window");
    assert!(!log.append(keyed("other", "key")).await.expect("a receipt").replayed, "and the other one has none");
    for name in [&names[0], &names[EMPTY_TOPICS], &names[names.len() - 1]] {
        assert!(log.append(keyed(name, "key")).await.expect("a receipt").replayed, "{name}");
    }
}

#[tokio::test]
async fn old_receipts_go_when_nobody_publishes() {
    // Goal: they are removed in a quiet hour, too; keyed publishes that come further apart than the writer looks after the
    // file do not pile up.
    let directory = Directory::new();
    let log = DiskLog::open(&config(&directory), NO_RECEIPTS).expect("the log opens");
    for key in ["one", "two"] {
        log.append(keyed("t", key)).await.expect("a receipt");
        until("the receipt to be removed", async || directory.count("receipt") == 0).await;
    }
}
