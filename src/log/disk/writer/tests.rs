//! The writer, batch by batch.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::FutureExt as _;
use rusqlite::{Connection, params};
use tokio::sync::oneshot;

use super::{
    super::{checkpoints, column::to_column, load, transaction::PORTION},
    *,
};
use crate::{
    config::{Config, LogConfig},
    log::{
        Append, AppendError, Draft, KeyLimits,
        clock::{self, Clock},
        index::Removal,
        keys::KeyUse,
    },
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
        let file = path.join("tidings.db");
        Self { writer: load(&file), file }
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
        other.execute(sql, params![count, id, to_column(time_ms)]).expect("rows");
    }

    fn has_topic(&self, name: &str) -> bool {
        self.count(&format!("topic WHERE name = '{name}'")) > 0
    }

    fn batch(&mut self, changes: Vec<Change>, is_maintenance: bool) {
        self.writer.write_batch(changes, is_maintenance).expect("it is written");
    }

    fn publish(&mut self, name: &str) {
        assert_eq!(self.try_publish(name, "content", false), Ok(()));
    }

    fn try_publish(&mut self, name: &str, content: &str, is_maintenance: bool) -> Result<(), AppendError> {
        let (done, mut outcome) = oneshot::channel();
        let content = Bytes::copy_from_slice(content.as_bytes());
        let draft = Draft { topic: topic(name), name: None, content, subscribers: 0, key: None };
        let change = self.writer.place(Work::Append { draft, claim: None, done });
        self.batch(vec![change], is_maintenance);
        outcome.try_recv().expect("an outcome").map(drop)
    }

    /// As [`publish`](Self::publish), under a key that is unused.
    fn publish_once(&mut self, name: &str, content: &str, key: &str) -> Result<(), AppendError> {
        let (done, outcome) = oneshot::channel();
        let content = Bytes::copy_from_slice(content.as_bytes());
        let draft = Draft { topic: topic(name), name: None, content, subscribers: 0, key: Some(key.into()) };
        let (used, mut claimed) = (KeyUse::of(&draft).expect("it has a key"), None);
        let append = self.writer.shared.keys.append_once(used, 0, |claim| {
            claimed = Some(claim);
            Append::Right(outcome.map(|outcome| outcome.expect("an outcome")).boxed())
        });
        let claim = Some(claimed.expect("the key is unused"));
        let change = self.writer.place(Work::Append { draft, claim, done });
        self.batch(vec![change], false);
        append.now_or_never().expect("an outcome").map(drop)
    }

    /// Overwrites the page of the file that has the first receipt of the topic with this number.
    fn destroy_receipt(&self, topic: i64) {
        let other = self.other();
        // The index of the receipts' times does not have this, so it is on no page of that.
        let mark = i64::from_be_bytes(*b"FIRSTONE");
        let sql = "UPDATE receipt SET fingerprint = ?2 WHERE (topic, key) IN
            (SELECT topic, key FROM receipt WHERE topic = ?1 ORDER BY key LIMIT 1)";
        assert_eq!(other.execute(sql, [topic, mark]), Ok(1));
        other.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).expect("all is in the file");
        let mut bytes = fs::read(&self.file).expect("the file");
        let page = bytes.chunks_mut(4096).find(|page| page.windows(8).any(|window| window == b"FIRSTONE"));
        page.expect("its page").fill(0x5A);
        fs::write(&self.file, bytes).expect("it is written");
    }

    /// From now on the disk has room for 50 pages more, which no removal from `table` fits in.
    fn fill_disk(&self, table: &str) {
        let sql = format!(
            "CREATE TABLE taken (bytes BLOB) STRICT; CREATE TRIGGER costs_{table} BEFORE DELETE ON {table}
             BEGIN INSERT INTO taken VALUES (zeroblob(1000000)); END"
        );
        self.other().execute_batch(&sql).expect("a trigger");
        let connection = &self.writer.store.connection;
        let pages: i64 = connection.query_row("PRAGMA page_count", [], |row| row.get(0)).expect("a count");
        connection.pragma_update(None, "max_page_count", pages + 50).expect("a limit");
    }

    /// There is room again.
    fn empty_disk(&self, table: &str) {
        self.other().execute_batch(&format!("DROP TRIGGER costs_{table}")).expect("it goes");
        self.writer.store.connection.pragma_update(None, "max_page_count", 1_000_000).expect("a limit");
    }

    fn is_full(&self) -> bool {
        self.writer.shared.full.load(Ordering::Relaxed)
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

/// The writer of a process that starts.
fn load(file: &Path) -> Writer {
    let path = file.parent().expect("a directory").to_owned();
    let (config, limits) = (LogConfig { path, ..LogConfig::default() }, KeyLimits::from(&Config::default()));
    load::load(file, &config, limits, Clock::new(clock::system())).expect("it opens").1
}

fn topic(name: &str) -> TopicName {
    TopicName::parse(name, 255).expect("a topic name")
}

#[test]
fn expired_receipts_are_removed_in_portions() {
    // Goal: expired receipts are also removed while nobody publishes. A transaction removes at most a portion, and the
    // next portion does not wait for the next maintenance.
    let (mut opened, portion) = (Opened::new(), to_column(number_of(PORTION)));
    opened.put_topic(1, "t", 2 * portion + 10, 0);
    opened.put_topic(1, "t", 1, clock::system()());
    let mut left = Vec::new();
    for is_maintenance in [true, false, false, false] {
        opened.batch(Vec::new(), is_maintenance);
        left.push(opened.count("receipt"));
    }
    assert_eq!(left, [portion + 11, 11, 1, 1], "and the one that still counts stays");
}

#[test]
fn a_long_reader_delays_no_publish() {
    // Goal: while a backup reads, the write-ahead log grows, and no batch waits for the end of the backup. After its
    // end, the log becomes small again.
    let mut opened = Opened::new();
    let other = opened.other();
    other.execute_batch("BEGIN; SELECT count(*) FROM event").expect("a read");
    opened.publish("t");
    opened.writer.checkpoints.note_written(4 * checkpoints::BYTES);
    let begun = Instant::now();
    for _ in 0..3 {
        opened.publish("t");
        assert!(!opened.writer.checkpoints.is_due(), "it has been tried, and is not again at once");
    }
    // Three batches take far less. A batch that waited for the reader would take longer than this.
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert!(opened.log_bytes() > 0);
    other.execute_batch("COMMIT").expect("the end of the read");
    opened.writer.checkpoints.note_written(checkpoints::BYTES);
    opened.publish("t");
    assert_eq!(opened.log_bytes(), 0);
}

#[test]
fn the_row_of_a_forgotten_topic_is_removed_with_its_last_receipt() {
    // Goal: no row of a forgotten topic stays for ever. A topic keeps its row while it has an event, a receipt that has
    // not expired, or events that are still to be removed.
    let mut opened = Opened::new();
    let now_ms = clock::system()();
    opened.publish("held");
    opened.put_topic(1, "held", 1, 0);
    opened.put_topic(102, "forgotten", 3, 0);
    opened.put_topic(103, "young", 1, 0);
    opened.put_topic(103, "young", 1, now_ms);
    opened.put_topic(104, "waiting", 1, 0);
    for seq in 1..2 * number_of(PORTION) {
        opened.writer.garbage.note(Removal::Event { topic: &topic("waiting"), seq: seq + 1000, time_ms: 0 });
    }
    opened.writer.garbage.note(Removal::Topic { topic: &topic("waiting"), removed_to: 1000, removed_ms: 0 });
    opened.batch(Vec::new(), true);
    let rows = |opened: &Opened| ["held", "forgotten", "young", "waiting"].map(|name| opened.has_topic(name));
    assert_eq!(rows(&opened), [true, false, true, true]);
    assert_eq!(opened.count("meta WHERE name = 'deleted_to' AND value = 102"), 1, "its deletion is remembered");
    opened.batch(Vec::new(), true);
    assert_eq!(rows(&opened), [true, false, true, false]);
    opened.publish("held");
    assert_eq!(opened.count("event JOIN topic ON topic.id = topic WHERE topic.name = 'held'"), 2);
}

#[test]
fn a_disk_that_is_too_full_to_remove_rows_accepts_publishes() {
    // Goal: while the disk has no space to remove expired receipts or rows of events, publishes that fit are accepted,
    // and the disk does not count as full. Maintenance, not each batch, tries the removal again, which succeeds when
    // there is space.
    for table in ["receipt", "event"] {
        let (mut opened, portion) = (Opened::new(), number_of(PORTION));
        opened.publish("t");
        if table == "receipt" {
            opened.put_topic(9, "old", to_column(portion) + 10, 0);
        } else {
            for seq in 0..portion + 10 {
                opened.writer.garbage.note(Removal::Event { topic: &topic("t"), seq: seq + 1, time_ms: 0 });
            }
        }
        let before = opened.count(table);
        opened.fill_disk(table);
        for is_maintenance in [true, false, true, false, false] {
            assert_eq!(opened.try_publish("t", "content", is_maintenance), Ok(()), "{table} {is_maintenance}");
            assert!(!opened.is_full() && !opened.writer.has_removals_to_do(), "{table} {is_maintenance}");
            opened.batch(Vec::new(), is_maintenance);
            assert!(!opened.is_full() && !opened.writer.has_removals_to_do(), "{table} {is_maintenance}");
        }
        // The control: nothing could be removed.
        assert!(opened.count(table) >= before, "{table}");
        opened.empty_disk(table);
        opened.batch(Vec::new(), true);
        opened.batch(Vec::new(), false);
        assert!(opened.count(table) < before, "{table}");
    }
}

#[test]
fn a_probe_finds_space_also_when_nothing_can_be_removed() {
    // Goal: while nobody publishes, maintenance tries a small write, and not only a removal, which needs more space.
    let (mut opened, portion) = (Opened::new(), to_column(number_of(PORTION)));
    opened.put_topic(9, "old", portion + 10, 0);
    opened.fill_disk("receipt");
    assert_eq!(opened.try_publish("t", &"x".repeat(1_000_000), false), Err(AppendError::DiskFull));
    assert!(opened.is_full());
    opened.batch(Vec::new(), true);
    assert!(!opened.is_full());
    assert_eq!(opened.try_publish("t", "content", false), Ok(()));
    // The control: a publish that does not fit is refused, also in a batch with a removal.
    assert_eq!(opened.try_publish("t", &"x".repeat(1_000_000), true), Err(AppendError::DiskFull));
    assert!(opened.is_full());
}

#[test]
fn a_key_whose_publish_was_refused_is_forgotten() {
    // Goal: the key is forgotten in memory and in the file. The control is a key whose publish was accepted.
    let mut opened = Opened::new();
    assert_eq!(opened.publish_once("t", "content", "taken"), Ok(()));
    opened.fill_disk("receipt");
    assert_eq!(opened.publish_once("t", &"x".repeat(1_000_000), "refused"), Err(AppendError::DiskFull));
    assert_eq!((opened.writer.shared.keys.len(), opened.count("receipt")), (1, 1));
    opened.empty_disk("receipt");
    assert_eq!(opened.publish_once("t", "content", "refused"), Ok(()));
    assert_eq!((opened.writer.shared.keys.len(), opened.count("receipt")), (2, 2));
}

#[test]
fn a_damaged_page_of_expired_receipts_does_not_stop_the_log() {
    // Goal: the log goes on with and without publishes, and with and without other rows to remove. These are removed,
    // and the receipts are at the next start. The control is a file without damage.
    for (damaged, garbage) in [(true, true), (true, false), (false, true)] {
        let mut opened = Opened::new();
        opened.publish("t");
        opened.publish("t");
        opened.put_topic(9, "old", 1000, 0);
        if damaged {
            opened.destroy_receipt(9);
        }
        if garbage {
            opened.writer.garbage.note(Removal::Event { topic: &topic("t"), seq: 1, time_ms: 0 });
            opened.writer.garbage.note(Removal::Topic { topic: &topic("old"), removed_to: 9, removed_ms: 0 });
        }
        opened.batch(Vec::new(), true);
        let events = 2 - i64::from(garbage);
        let has_removals = opened.writer.has_removals_to_do();
        assert_eq!((opened.count("event"), opened.has_topic("old"), has_removals), (events, damaged, false));
        for is_maintenance in [false, true] {
            assert_eq!(opened.try_publish("t", "content", is_maintenance), Ok(()));
        }
        // The next start begins a new table.
        opened.writer = load(&opened.file);
        opened.batch(Vec::new(), true);
        assert_eq!((opened.count("receipt"), opened.count("event")), (0, events + 2));
    }
}

fn number_of(count: usize) -> u64 {
    u64::try_from(count).expect("a number")
}
