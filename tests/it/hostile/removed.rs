//! Files that are taken away from a broker that runs.

use std::{fs, path::Path};

use crate::harness::blocking::{Broker, Client, Directory};

/// Does something to the directory of a broker that has acknowledged an event.
fn disturb(change: impl Fn(&Path)) -> (Directory, Broker) {
    let directory = Directory::new();
    let inner = Directory(directory.0.join("log"));
    let broker = Broker::disk(&inner, &[]);
    std::mem::forget(inner);
    broker.client().must_publish("t", "before");
    change(&directory.0.join("log"));
    (directory, broker)
}

/// It has ended as over a lost disk, and says which file it misses.
fn assert_ended(broker: Broker, what: &str, words: &[&str]) {
    let (status, line) = broker.end();
    assert_eq!(status.code(), Some(74), "{what}: {line}");
    for word in words.iter().chain(&["the log has failed", "while it was in use"]) {
        assert!(line.contains(word), "{what}: {word:?} is not in {line:?}");
    }
}

fn replace(path: &Path) {
    let bytes = fs::read(path).expect("a file");
    fs::remove_file(path).expect("it is removed");
    fs::write(path, bytes).expect("it is written");
}

/// What is done, and what is said of it.
type Case = (&'static str, fn(&Path), [&'static str; 2]);

const CASES: [Case; 9] = [
    ("the directory is removed", |log| fs::remove_dir_all(log).expect("removed"), ["lock", "has been removed"]),
    ("it is renamed", |log| fs::rename(log, log.with_extension("old")).expect("renamed"), ["lock", "renamed"]),
    ("the lock is removed", |log| fs::remove_file(log.join("lock")).expect("removed"), ["/lock ", "removed"]),
    ("the lock is replaced", |log| replace(&log.join("lock")), ["/lock ", "has been replaced"]),
    (
        "the file is removed",
        |log| fs::remove_file(log.join("tidings.db")).expect("removed"),
        ["tidings.db ", "removed"],
    ),
    ("the file is replaced", |log| replace(&log.join("tidings.db")), ["tidings.db ", "has been replaced"]),
    ("its log is removed", |log| fs::remove_file(log.join("tidings.db-wal")).expect("removed"), ["-wal ", "removed"]),
    ("its log is replaced", |log| replace(&log.join("tidings.db-wal")), ["-wal ", "has been replaced"]),
    (
        "the mark is removed",
        |log| fs::remove_file(log.join("high-water")).expect("removed"),
        ["high-water ", "removed"],
    ),
];

#[test]
fn what_is_published_after_the_log_was_taken_away_is_not_acknowledged() {
    // Goal: whatever of it is removed, renamed or replaced: no publish says that an event is safe, and the process ends.
    for (what, change, words) in CASES {
        let (_directory, broker) = disturb(change);
        let answer = broker.client().publish("t", "after", None);
        if let Ok(answer) = answer {
            assert_ne!(answer.status, 200, "{what}: {}", answer.body);
        }
        assert_ended(broker, what, &words);
    }
}

#[test]
fn a_broker_at_rest_notices_that_its_log_was_taken_away() {
    // Goal: nobody needs to publish for it.
    for (what, change, words) in CASES {
        let (_directory, broker) = disturb(change);
        assert_ended(broker, what, &words);
    }
}

#[test]
fn a_broker_whose_log_is_only_looked_at_goes_on() {
    // Goal: the control; a backup that reads, links or adds files disturbs nothing, and neither does another name for the
    // directory.
    let (_directory, broker) = disturb(|log| {
        for name in ["lock", "tidings.db", "tidings.db-wal", "high-water"] {
            fs::copy(log.join(name), log.join(format!("copy-of-{name}"))).expect("copied");
            fs::hard_link(log.join(name), log.join(format!("link-to-{name}"))).expect("linked");
        }
        std::os::unix::fs::symlink(log, log.with_extension("alias")).expect("a link");
    });
    let mut client: Client = broker.client();
    let begun = std::time::Instant::now();
    let mut published = 0;
    while begun.elapsed() < std::time::Duration::from_millis(2200) {
        client.must_publish("t", "after");
        published += 1;
    }
    assert!(published > 0 && broker.stop().success());
}
