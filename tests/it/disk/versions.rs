//! Directories of earlier versions.

use rusqlite::{Connection, params};

use super::{contents, gap, subscribe};
use crate::harness::blocking::{Broker, Directory};

/// The file as version 0.1 made it.
const FIRST: &str = "
PRAGMA journal_mode = WAL;
CREATE TABLE meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE boot (id TEXT NOT NULL) STRICT;
CREATE TABLE topic (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE,
    evicted_to INTEGER NOT NULL DEFAULT 0, deleted_to INTEGER NOT NULL DEFAULT 0) STRICT;
CREATE TABLE event (
    seq INTEGER PRIMARY KEY, topic INTEGER NOT NULL, time_ms INTEGER NOT NULL, cost INTEGER NOT NULL,
    checksum INTEGER NOT NULL, name TEXT, content BLOB NOT NULL) STRICT;
CREATE TABLE receipt (
    topic INTEGER NOT NULL, key TEXT NOT NULL, seq INTEGER NOT NULL, fingerprint INTEGER NOT NULL,
    subscribers INTEGER NOT NULL, time_ms INTEGER NOT NULL, PRIMARY KEY (topic, key)) STRICT, WITHOUT ROWID;
CREATE INDEX receipt_age ON receipt (time_ms);
INSERT INTO meta VALUES ('epoch', 123456789), ('reserved', 7), ('forgotten_to', 2), ('hole_to', 0),
    ('clean', 1), ('durable', 1), ('probe', 0);
INSERT INTO boot VALUES ('');
INSERT INTO topic VALUES (1, 't', 3, 0), (2, 'deleted', 5, 6);
PRAGMA application_id = 0x54494449;
PRAGMA user_version = 1;
";

fn checksum(seq: u64, topic: &str, time_ms: u64, content: &str) -> u32 {
    let (seq, time) = (seq.to_le_bytes(), time_ms.to_le_bytes());
    let parts: [&[u8]; 6] = [&seq, &time, topic.as_bytes(), &[0], &[0], content.as_bytes()];
    let mut hasher = crc32fast::Hasher::new();
    parts.iter().for_each(|part| hasher.update(part));
    hasher.finalize()
}

/// A directory of version 0.1 with the events 4 and 7 of topic `t`, of which 3 has been evicted, and a deleted topic.
pub fn first_version(directory: &Directory) {
    let file = Connection::open(directory.file()).expect("the file opens");
    file.execute_batch(FIRST).expect("its tables");
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a time").as_millis();
    let now = u64::try_from(now).expect("a time") - 1000;
    for (seq, content) in [(4_i64, "four"), (7, "seven")] {
        let sql = "INSERT INTO event VALUES (?1, 1, ?2, 300, ?3, NULL, ?4)";
        let row = params![seq, now.cast_signed(), checksum(seq.cast_unsigned(), "t", now, content), content.as_bytes()];
        file.execute(sql, row).expect("an event");
    }
}

#[test]
fn a_directory_of_the_first_version_opens_as_it_is() {
    // Goal: history, epoch, gaps and deletions of 0.1 go on; the layout is today's from then on, and opens again.
    let directory = Directory::new();
    first_version(&directory);
    let layout = |directory: &Directory| {
        let file = Connection::open(directory.file()).expect("the file opens");
        let of_table = "SELECT m.name || '.' || c.name || ' ' || c.type || ' ' || c.pk || ' ' || c.[notnull]
            FROM sqlite_schema m, pragma_table_info(m.name) c ORDER BY 1";
        let meta = "SELECT name FROM meta ORDER BY 1";
        let text = |sql| -> Vec<String> {
            let mut rows = file.prepare(sql).expect("a query");
            rows.query_map([], |row| row.get(0)).expect("rows").map(|row| row.expect("a text")).collect()
        };
        [text(of_table), text(meta), text("SELECT 'version ' || user_version FROM pragma_user_version")]
    };
    let broker = Broker::disk(&directory, &[]);
    let lines = subscribe(&broker, "topic=t&since=all", None);
    assert_eq!(contents(&lines), ["four", "seven"]);
    let id = |seq: u64| format!("{}-{seq}", lines[0].id.split_once('-').expect("an id").0);
    assert!(lines[0].id.starts_with("0021i3v9-"), "123456789 in base 36: {}", lines[0].id);
    assert_eq!((&lines[0].id, &lines[1].id), (&id(4), &id(7)));
    assert_eq!(gap(&subscribe(&broker, "topic=t", Some(&id(2)))), Some(("evicted".to_owned(), 3)));
    assert_eq!(gap(&subscribe(&broker, "topic=deleted", Some(&id(4)))).expect("a gap").0, "evicted");
    assert_eq!(gap(&subscribe(&broker, "topic=deleted", Some(&id(5)))), None);
    assert!(broker.stop().success());
    let new = Directory::new();
    assert!(Broker::disk(&new, &[]).stop().success());
    assert_eq!(layout(&directory), layout(&new));
    assert!(directory.0.join("high-water").is_file());
    let broker = Broker::disk(&directory, &[]);
    assert_eq!(contents(&subscribe(&broker, "topic=t&since=all", None)), ["four", "seven"]);
}
