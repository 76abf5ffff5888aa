//! The layout of the file: how the first version made its tables, and a step for each change since.
//!
//! A new file is made as the first version made it and taken through every step, as an old one is: there is one way to
//! the layout of today, and every new file tests it.

use rusqlite::Connection;

use super::error::StoreError;
use crate::event::Epoch;

/// "TIDI": tells our files from other SQLite databases.
const APPLICATION_ID: i32 = 0x5449_4449;
/// The first layout, of version 0.1.
const FIRST: i32 = 1;
/// The layout that this version reads and writes.
pub(super) const FORMAT: i32 = 3;

/// Tables of the first layout.
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

/// From the layout before to this one.
fn migration_to(to: i32) -> &'static str {
    match to {
        // When the newest of the events that a topic has lost was published; 0 where that is not known. `deleted_to`
        // in `meta` is the newest deletion of a topic that has no row any more, `unreadable_to` the last position that
        // a start could not read, of whichever topic.
        2 => {
            "ALTER TABLE topic ADD COLUMN evicted_ms INTEGER NOT NULL DEFAULT 0;
             INSERT INTO meta VALUES ('forgotten_ms', 0), ('deleted_to', 0), ('unreadable_to', 0);"
        }
        // The upper half of a receipt's fingerprint; null in those of before, which had one of another kind. And when a
        // topic was deleted, in milliseconds since the Unix epoch; 0 where that is not known.
        3 => {
            "ALTER TABLE receipt ADD COLUMN fingerprint_upper INTEGER;
             ALTER TABLE topic ADD COLUMN deleted_ms INTEGER NOT NULL DEFAULT 0;"
        }
        _ => "",
    }
}

/// Brings the file to the layout of today, all at once or not at all. A file without tables gets them.
pub(super) fn migrate_to_latest(connection: &mut Connection) -> Result<(), StoreError> {
    let found = find_format(connection)?;
    if found == Some(FORMAT) {
        return Ok(());
    }
    let transaction = connection.transaction()?;
    if found.is_none() {
        create(&transaction)?;
    }
    migrate(&transaction, found.unwrap_or(FIRST))?;
    transaction.commit()?;
    Ok(())
}

/// Refuses a file of another program, or of a later version, before anything is written to it.
pub(super) fn check(connection: &Connection) -> Result<(), StoreError> {
    find_format(connection).map(drop)
}

/// The layout that the file has; `None` when it has none yet.
fn find_format(connection: &Connection) -> Result<Option<i32>, StoreError> {
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

fn create(transaction: &Connection) -> Result<(), StoreError> {
    transaction.execute_batch(TABLES)?;
    let epoch = i64::try_from(Epoch::random().number()).unwrap_or_default();
    transaction.execute(
        "INSERT INTO meta VALUES ('epoch', ?1), ('reserved', 0), ('forgotten_to', 0), ('hole_to', 0),
         ('clean', 1), ('durable', 1), ('probe', 0)",
        [epoch],
    )?;
    transaction.execute("INSERT INTO boot VALUES ('')", [])?;
    Ok(transaction.pragma_update(None, "application_id", APPLICATION_ID)?)
}

fn migrate(transaction: &Connection, from: i32) -> Result<(), StoreError> {
    for to in from + 1..=FORMAT {
        transaction.execute_batch(migration_to(to))?;
    }
    Ok(transaction.pragma_update(None, "user_version", FORMAT)?)
}
