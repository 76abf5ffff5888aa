//! The writer, batch by batch.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use bytes::Bytes;
use rusqlite::{Connection, params};
use tokio::sync::oneshot;

use super::{
    super::{ReceiptLimits, checkpoints, garbage::PORTION, load, store::number},
    *,
};
use crate::{
    config::{Config, LogConfig},
    log::clock::{self, Clock},
};

/// A writer without its thread, on a file of its own.
struct Opened {
    writer: Writer,
    file: PathBuf,
}

impl Opened {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("writer-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tmp").join(name);
        fs::create_dir_all(&path).expect("a directory");
        fs::write(path.join("lock"), "").expect("it is written");
        let (file, config) = (path.join("tidings.db"), LogConfig { path, ..LogConfig::default() });
        let opened = load::load(&file, &config, ReceiptLimits::from(&Config::default()), Clock::new(clock::system()));
        Self { writer: opened.expect("it opens").1, file }
    }

    /// Another process at the file.
    fn other(&self) -> Connection {
        Connection::open(&self.file).expect("the file opens")
    }

    fn count(&self, table: &str) -> i64 {
        let sql = format!("SELECT count(*) FROM {table}");
        self.other().query_row(&sql, [], |row| row.get(0)).expect("a count")
    }

    /// Puts the row of a topic into the file, with `count` receipts of `time_ms`.
    fn put_topic(&self, id: i64, name: &str, count: i64, time_ms: u64) {
        let other = self.other();
        let sql = "INSERT OR IGNORE INTO topic (id, name, deleted_to) VALUES (?1, ?2, ?1)";
        other.execute(sql, params![id, name]).expect("a row");
        let sql = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?1)
            INSERT INTO receipt SELECT ?2, ?3 || i, i, 0, 0, ?3, NULL FROM n";
        other.execute(sql, params![count, id, number(time_ms)]).expect("rows");
    }

    fn has_topic(&self, name: &str) -> bool {
        self.count(&format!("topic WHERE name = '{name}'")) > 0
    }

    fn batch(&mut self, steps: Vec<Step>, tend: bool) {
        let begun = self.writer.last - u64::try_from(steps.len()).expect("a few");
        self.writer.batch(steps, begun, tend).expect("it is written");
    }

    fn publish(&mut self, name: &str) {
        let (done, mut outcome) = oneshot::channel();
        let draft = Draft { topic: topic(name), name: None, content: Bytes::from_static(b"content"), key: None };
        let step = self.writer.event(draft, done);
        self.batch(vec![step], false);
        outcome.try_recv().expect("an outcome").expect("a receipt");
    }

    fn log_bytes(&self) -> u64 {
        fs::metadata(self.file.with_extension("db-wal")).expect("the write-ahead log").len()
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        fs::remove_dir_all(self.file.parent().expect("a directory")).ok();
    }
}

fn topic(name: &str) -> TopicName {
    TopicName::parse(name, 255).expect("a topic name")
}

#[test]
fn old_receipts_go_in_portions() {
    // Goal: a second in which nobody publishes removes them, too; never more than a portion in one transaction, and the
    // next portion does not wait for another second.
    let (mut opened, portion) = (Opened::new(), number(number_of(PORTION)));
    opened.put_topic(1, "t", 2 * portion + 10, 0);
    opened.put_topic(1, "t", 1, clock::system()());
    let mut left = Vec::new();
    for tend in [true, false, false, false] {
        opened.batch(Vec::new(), tend);
        left.push(opened.count("receipt"));
    }
    assert_eq!(left, [portion + 11, 11, 1, 1], "and the one that still counts stays");
}

#[test]
fn a_reader_that_stays_holds_up_no_publish() {
    // Goal: while a backup reads, the write-ahead log grows, and no batch waits for the end of it; when it has gone, the
    // log becomes small again.
    let mut opened = Opened::new();
    let other = opened.other();
    other.execute_batch("BEGIN; SELECT count(*) FROM event").expect("a read");
    opened.publish("t");
    opened.writer.checkpoints.wrote(4 * checkpoints::BYTES);
    let begun = Instant::now();
    for _ in 0..3 {
        opened.publish("t");
        assert!(!opened.writer.checkpoints.is_due(), "it has been tried, and is not again at once");
    }
    // Far above what they take; each would wait as long for the reader.
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert!(opened.log_bytes() > 0);
    other.execute_batch("COMMIT").expect("the end of the read");
    opened.writer.checkpoints.wrote(checkpoints::BYTES);
    opened.publish("t");
    assert_eq!(opened.log_bytes(), 0);
}

#[test]
fn the_row_of_a_forgotten_topic_goes_with_its_last_receipt() {
    // Goal: of those that are forgotten no row stays for ever; but one that holds an event, has a receipt that still
    // counts, or whose events have yet to be removed, keeps it.
    let mut opened = Opened::new();
    let now_ms = clock::system()();
    opened.publish("held");
    opened.put_topic(1, "held", 1, 0);
    opened.put_topic(102, "forgotten", 3, 0);
    opened.put_topic(103, "young", 1, 0);
    opened.put_topic(103, "young", 1, now_ms);
    opened.put_topic(104, "waiting", 1, 0);
    for seq in 0..2 * number_of(PORTION) {
        opened.writer.garbage.note(Removed::Event(&topic("waiting"), seq + 1000, 0));
    }
    opened.writer.garbage.note(Removed::Topic(&topic("waiting"), 1000, 0));
    opened.batch(Vec::new(), true);
    let rows = |opened: &Opened| ["held", "forgotten", "young", "waiting"].map(|name| opened.has_topic(name));
    assert_eq!(rows(&opened), [true, false, true, true]);
    assert_eq!(opened.count("meta WHERE name = 'deleted_to' AND value = 102"), 1, "its deletion is remembered");
    opened.batch(Vec::new(), true);
    assert_eq!(rows(&opened), [true, false, true, false]);
    opened.publish("held");
    assert_eq!(opened.count("event JOIN topic ON topic.id = topic WHERE topic.name = 'held'"), 2);
}

fn number_of(count: usize) -> u64 {
    u64::try_from(count).expect("a number")
}
