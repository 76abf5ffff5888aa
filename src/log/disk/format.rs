//! The format of the database file: its first tables, and a migration for each later change.
//!
//! A new file gets the tables of the first version and then every migration, like an old file. So there is one way to
//! the latest format, and every new file tests it.

use rusqlite::Connection;

use super::{column::to_column, error::StoreError};
use crate::event::Epoch;

/// "TIDI": distinguishes the files of Tidings from other SQLite databases.
const APPLICATION_ID: i32 = 0x5449_4449;
/// The first format, of version 0.1.
const FIRST: i32 = 1;
/// The format that this version reads and writes.
const FORMAT: i32 = 3;

/// The tables of the first format.
const TABLES: &str = "
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
";

/// The SQL that makes each later format from the one before.
const MIGRATIONS: [&str; 2] = [
    // To format 2. `evicted_ms` is the time of the newest removed event of a topic, 0 when this time is not known. In
    // `meta`, `forgotten_ms` is the same for all topics without a row, `deleted_to` is the position of the newest
    // deletion of a topic without a row, and `unreadable_to` is the last position that a start could not read.
    "ALTER TABLE topic ADD COLUMN evicted_ms INTEGER NOT NULL DEFAULT 0;
     INSERT INTO meta VALUES ('forgotten_ms', 0), ('deleted_to', 0), ('unreadable_to', 0);",
    // To format 3. `fingerprint_upper` is the upper half of a receipt's fingerprint; null in older receipts, whose
    // fingerprint is of another kind. `deleted_ms` is the wall-clock time of a topic's deletion, 0 when it is unknown.
    "ALTER TABLE receipt ADD COLUMN fingerprint_upper INTEGER;
     ALTER TABLE topic ADD COLUMN deleted_ms INTEGER NOT NULL DEFAULT 0;",
];

/// Migrates the file to the latest format in one transaction. An empty file gets its tables first.
pub(super) fn migrate(connection: &mut Connection) -> Result<(), StoreError> {
    let found = check(connection)?;
    if found == Some(FORMAT) {
        return Ok(());
    }
    let transaction = connection.transaction()?;
    if found.is_none() {
        create(&transaction)?;
    }
    for (format, sql) in (FIRST + 1..).zip(MIGRATIONS) {
        if format > found.unwrap_or(FIRST) {
            transaction.execute_batch(sql)?;
        }
    }
    transaction.pragma_update(None, "user_version", FORMAT)?;
    Ok(transaction.commit()?)
}

/// Fails unless the file has the latest format. This does not write.
pub(super) fn require_latest(connection: &Connection) -> Result<(), StoreError> {
    match check(connection)? {
        Some(FORMAT) => Ok(()),
        Some(found) => Err(StoreError::Older { found, needed: FORMAT }),
        None => Err(StoreError::Foreign),
    }
}

/// Returns the format of the file; `None` when the file is empty. Refuses a file of another program, or of a later
/// version. This does not write.
pub(super) fn check(connection: &Connection) -> Result<Option<i32>, StoreError> {
    let application: i32 = connection.query_row("PRAGMA application_id", [], |row| row.get(0))?;
    let format: i32 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    let objects: i64 = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    match (application, format, objects) {
        (0, 0, 0) => Ok(None),
        (APPLICATION_ID, FIRST..=FORMAT, _) => Ok(Some(format)),
        (APPLICATION_ID, found, _) => Err(StoreError::Newer { found, known: FORMAT }),
        _ => Err(StoreError::Foreign),
    }
}

/// Creates the tables of the first format, with a new epoch. In `meta`:
/// - `reserved` is the last reserved position;
/// - `forgotten_to` is the position of the last removed event of all topics without a row;
/// - `hole_to` is the end of the hole, 0 without one;
/// - `clean` is 1 when the file was closed, `durable` is 1 when commits wait for the disk;
/// - `probe` gives a commit something to write.
///
/// The table `boot` names the machine's boot of the last start.
fn create(transaction: &Connection) -> Result<(), StoreError> {
    transaction.execute_batch(TABLES)?;
    transaction.execute(
        "INSERT INTO meta VALUES ('epoch', ?1), ('reserved', 0), ('forgotten_to', 0), ('hole_to', 0),
         ('clean', 1), ('durable', 1), ('probe', 0)",
        [to_column(Epoch::random().number())],
    )?;
    transaction.execute("INSERT INTO boot VALUES ('')", [])?;
    Ok(transaction.pragma_update(None, "application_id", APPLICATION_ID)?)
}
