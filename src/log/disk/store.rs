//! The database file: opening it, reading it at the start, and what is written outside of batches.
//!
//! The key of an event is its position alone, so an append changes only the right edge of one B-tree. Which topic holds
//! which events is known in memory ([`crate::log::index`]). Every event row has a checksum, because SQLite has none for
//! the pages of its main file.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use rusqlite::{Connection, OpenFlags, TransactionBehavior, params};

use super::{
    column::{get_u64, to_column},
    error::{StoreError, unless_damaged},
    format,
    salvage::{self, Unreadable},
    transaction::{TimeRange, Transaction},
};
use crate::{
    config::EVENT_EXPANSION,
    event::{Epoch, TopicName},
    log::index::{EVENT_OVERHEAD, Entry, LogState, Missing},
};

/// What the file says about the log as a whole.
pub(super) struct Meta {
    /// The epoch of its positions.
    pub(super) epoch: Epoch,
    pub(super) stored: LogState,
    /// The highest position in the file.
    pub(super) last_found: u64,
    /// The previous process closed the file, and lowered `stored.reserved` to its last position.
    pub(super) was_closed: bool,
    /// The machine stopped while the previous process ran, and the commits of that process did not wait for the disk:
    /// events in the hole may be missing.
    pub(super) lost_power: bool,
}

/// A row of the table of topics.
pub(super) struct TopicRow {
    /// The row id.
    pub(super) id: i64,
    /// The topic.
    pub(super) name: TopicName,
    /// The events that were removed.
    pub(super) removed: Missing,
    /// Position of the last deletion; 0 when there was none.
    pub(super) deleted_to: u64,
    /// When that deletion was, in milliseconds since the Unix epoch.
    pub(super) deleted_ms: u64,
}

/// The connection that writes to the file. There is only one, on the writer's thread.
pub(super) struct Store {
    pub(super) connection: Connection,
    /// The directory of the file.
    directory: PathBuf,
    /// Whether commits wait for the disk: `log.durability`.
    durable: bool,
    /// New topics get row ids above this: events in the file may still have the id of a topic whose row was lost.
    pub(super) topic_id_floor: i64,
}

/// The highest cost of an event without content: its names and overhead.
const EMPTY_COST_MAX: u64 = 4096;

/// How long a statement waits for a lock that another process holds. After that the disk counts as failed. Publishes
/// are refused long before, when the queue is full for `log.queue_wait`.
const BUSY_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a checkpoint waits for another connection. This process reads one event at a time, which usually takes
/// less. Only another process, such as a backup, reads for longer.
const CHECKPOINT_BUSY_TIMEOUT: Duration = Duration::from_millis(20);

/// Opens a connection to the file, with the settings that all connections need.
pub(super) fn open(path: &Path, flags: OpenFlags) -> Result<Connection, StoreError> {
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    // With memory-mapped reads, an I/O error would be a signal that ends the process.
    connection.execute_batch(
        "PRAGMA mmap_size = 0; PRAGMA temp_store = MEMORY; PRAGMA trusted_schema = OFF; PRAGMA cell_size_check = ON;",
    )?;
    Ok(connection)
}

impl Store {
    /// Opens the file for writing, and creates or migrates its tables. `durable` tells whether commits wait for the
    /// disk.
    pub(super) fn open(path: &Path, durable: bool) -> Result<Self, StoreError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut connection = open(path, flags)?;
        format::check(&connection)?;
        let mode: String = connection.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))?;
        if mode != "wal" {
            return Err(StoreError::NoWal(mode));
        }
        // Creation and migration always wait for the disk. `set_durable` sets the level for the commits after that.
        connection.execute_batch(
            "PRAGMA synchronous = FULL; PRAGMA fullfsync = ON; PRAGMA checkpoint_fullfsync = ON;
             PRAGMA wal_autocheckpoint = 0; PRAGMA journal_size_limit = 67108864; PRAGMA cache_size = -16384;
             PRAGMA locking_mode = NORMAL;",
        )?;
        format::migrate(&mut connection)?;
        let directory = path.parent().unwrap_or(Path::new(".")).to_owned();
        let store = Self { connection, directory, durable, topic_id_floor: 0 };
        store.set_durable(durable)?;
        Ok(store)
    }

    /// Sets whether a commit waits for the disk.
    fn set_durable(&self, durable: bool) -> Result<(), StoreError> {
        let level = if durable { "FULL" } else { "NORMAL" };
        Ok(self.connection.pragma_update(None, "synchronous", level)?)
    }

    /// Commits what `write` does, and waits for the disk even if other commits do not.
    fn commit_durably(&mut self, write: impl FnOnce(&Connection) -> rusqlite::Result<()>) -> Result<(), StoreError> {
        self.set_durable(true)?;
        let committed = self.connection.transaction().and_then(|transaction| {
            write(&transaction)?;
            transaction.commit()
        });
        self.set_durable(self.durable)?;
        Ok(committed?)
    }

    /// Opens the file of a log that no server uses, to read it. Nothing is written to the file.
    pub(super) fn open_read_only(path: &Path) -> Result<Self, StoreError> {
        let connection = open(path, OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
        format::require_latest(&connection)?;
        let directory = path.parent().unwrap_or(Path::new(".")).to_owned();
        Ok(Self { connection, directory, durable: true, topic_id_floor: 0 })
    }

    /// Reads what the file says about the log. Then writes that the file is in use, whether commits wait for the disk,
    /// and the id of the machine's boot.
    pub(super) fn begin(&mut self, boot: &str) -> Result<Meta, StoreError> {
        let meta = self.read_meta(boot)?;
        let (durable, hole_to) = (u64::from(self.durable), meta.stored.hole_to);
        self.commit_durably(|connection| {
            set_meta(connection, &[("clean", 0), ("durable", durable), ("hole_to", hole_to)])?;
            connection.execute("UPDATE boot SET id = ?1", [boot]).map(drop)
        })?;
        Ok(meta)
    }

    /// Reads what the file says about the log. `boot` is the id of the machine's boot.
    pub(super) fn read_meta(&self, boot: &str) -> Result<Meta, StoreError> {
        let value_of = |name: &str| {
            let sql = "SELECT value FROM meta WHERE name = ?1";
            self.connection.query_row(sql, [name], |row| get_u64(row, 0))
        };
        let epoch =
            Epoch::from_number(value_of("epoch")?).ok_or_else(|| StoreError::Corrupt("its epoch".to_owned()))?;
        let last_boot: String = self.connection.query_row("SELECT id FROM boot", [], |row| row.get(0))?;
        let reserved = value_of("reserved")?;
        let was_closed = value_of("clean")? != 0;
        let lost_power = !was_closed && value_of("durable")? == 0 && last_boot != boot;
        let hole_to = if lost_power { reserved } else { value_of("hole_to")? };
        let stored = LogState {
            reserved,
            forgotten_to: value_of("forgotten_to")?,
            forgotten_ms: value_of("forgotten_ms")?,
            hole_to,
            unreadable_to: value_of("unreadable_to")?,
        };
        Ok(Meta { epoch, stored, last_found: self.last_found()?, was_closed, lost_power })
    }

    /// Begins a new epoch, which keeps the events. The next position is after `reserved`. The receipts are removed,
    /// because the ids in them are of the old epoch.
    pub(super) fn begin_epoch(&mut self, meta: &mut Meta, reserved: u64) -> Result<(), StoreError> {
        (meta.epoch, meta.stored.reserved) = (Epoch::random(), reserved);
        let epoch = meta.epoch.number();
        self.commit_durably(|connection| {
            set_meta(connection, &[("epoch", epoch), ("reserved", reserved)])?;
            connection.execute("DELETE FROM receipt", []).map(drop)
        })
    }

    /// The highest position in the file.
    fn last_found(&self) -> Result<u64, StoreError> {
        let of_topics = "SELECT coalesce(max(max(evicted_to, deleted_to)), 0) FROM topic";
        // A table of topics that is damaged will be rebuilt.
        let of_topics = unless_damaged(self.query_u64(of_topics))?.unwrap_or_default();
        let marks = "SELECT max(value) FROM meta WHERE name IN ('forgotten_to', 'deleted_to', 'unreadable_to')";
        Ok(self.last_event()?.max(of_topics).max(self.query_u64(marks)?))
    }

    fn query_u64(&self, sql: &str) -> rusqlite::Result<u64> {
        self.connection.query_row(sql, [], |row| get_u64(row, 0))
    }

    /// Calls `each` with every readable row of a topic, and returns the row ids that cannot be read. A row with a
    /// position above `reserved` counts as unreadable.
    pub(super) fn topics(&self, reserved: u64, mut each: impl FnMut(TopicRow)) -> Result<Vec<Unreadable>, StoreError> {
        // When the last row cannot be read, the largest id is unknown. No log has had more than `u32::MAX` topics.
        let last = unless_damaged(self.query_u64("SELECT coalesce(max(id), 0) FROM topic"))?;
        let select =
            "SELECT id, name, evicted_to, deleted_to, evicted_ms, deleted_ms FROM topic WHERE id >= ?1 ORDER BY id";
        salvage::scan(&self.connection, select, last.unwrap_or(u32::MAX.into()), |row| {
            let name: String = row.get(1)?;
            let name =
                TopicName::parse(&name, usize::MAX).map_err(|_| StoreError::Corrupt(format!("a topic {name:?}")))?;
            let (evicted_to, deleted_to) = (get_u64(row, 2)?, get_u64(row, 3)?);
            if evicted_to.max(deleted_to) > reserved {
                return Err(StoreError::Corrupt(format!("the marks of topic {name}")));
            }
            let removed = Missing { to: evicted_to, newest_ms: get_u64(row, 4)?, removal: 0 };
            each(TopicRow { id: row.get(0)?, name, removed, deleted_to, deleted_ms: get_u64(row, 5)? });
            Ok(())
        })
    }

    /// Calls `each` with the topic's row id and the cold entry of every readable event, in order of position, and
    /// returns the positions that cannot be read. `last` is the last position. The entries have no monotonic time yet.
    pub(super) fn events(&self, last: u64, mut each: impl FnMut(i64, Entry)) -> Result<Vec<Unreadable>, StoreError> {
        let select = "SELECT seq, topic, time_ms, cost, length(content) FROM event WHERE seq >= ?1 ORDER BY seq";
        salvage::scan(&self.connection, select, last, |row| {
            let (mut cost, content) = (get_u64(row, 3)?, get_u64(row, 4)?);
            // Retention counts the cost, so a damaged value could remove all other events.
            let possible_costs = content + EVENT_OVERHEAD..=content * EVENT_EXPANSION + EMPTY_COST_MAX;
            if !possible_costs.contains(&cost) {
                cost = content + EVENT_OVERHEAD;
            }
            let (seq, time_ms) = (get_u64(row, 0)?, get_u64(row, 2)?);
            each(row.get(1)?, Entry { seq, mono_ms: 0, time_ms, bytes: cost, event: None });
            Ok(())
        })
    }

    /// Position of the last event; 0 when there is none. When the page of that row is damaged, this fails and the log
    /// cannot be opened: the next event could not be written to that page either.
    pub(super) fn last_event(&self) -> Result<u64, StoreError> {
        Ok(self.query_u64("SELECT coalesce(max(seq), 0) FROM event")?)
    }

    /// Rebuilds the tables of topics and receipts if they are damaged. `topics` are the ids of the readable topics;
    /// `has_lost_topics` tells whether there are unreadable ones. Damaged events need no repair: reads skip them.
    pub(super) fn repair(
        &mut self,
        has_lost_topics: bool,
        topics: impl Iterator<Item = i64>,
    ) -> Result<(), StoreError> {
        if !salvage::is_sound(&self.connection, "receipt")? {
            tracing::error!("the idempotency keys in the log are damaged: all of them are lost");
            salvage::recreate_receipts(&mut self.connection)?;
        }
        if has_lost_topics || !salvage::is_sound(&self.connection, "topic")? {
            tracing::error!("the table of topics is damaged: topics that cannot be read are lost");
            salvage::rebuild_topics(&mut self.connection, &topics.collect::<Vec<_>>())?;
        }
        Ok(())
    }

    /// Writes that any topic may have unreadable events up to position `to`.
    pub(super) fn note_unreadable(&self, to: u64) -> Result<(), StoreError> {
        let sql = "UPDATE meta SET value = ?1 WHERE name = 'unreadable_to' AND value < ?1";
        self.connection.execute(sql, [to_column(to)])?;
        Ok(())
    }

    /// Whether there are receipts from outside this range of times.
    pub(super) fn has_receipts_outside(&self, times: TimeRange) -> Result<bool, StoreError> {
        let sql = "SELECT EXISTS (SELECT 1 FROM receipt WHERE time_ms < ?1)
            OR EXISTS (SELECT 1 FROM receipt WHERE time_ms > ?2)";
        let mut select = self.connection.prepare_cached(sql)?;
        Ok(select.query_row([times.first_ms, times.last_ms].map(to_column), |row| row.get(0))?)
    }

    /// Whether the cause of `error` is a full disk.
    pub(super) fn is_full(&self, error: &StoreError) -> bool {
        error.is_full(&self.directory)
    }

    /// Makes sure that the next start does not find the events of a batch whose commit failed because the disk is full.
    ///
    /// A commit has two steps. It writes the batch to the write-ahead log (WAL), and syncs the WAL. Then it extends the
    /// file of the shared memory. If only the second step failed, the WAL has the complete batch, and the next start
    /// would find that batch. The next commit writes to the same place in the WAL, so this commits a small change.
    pub(super) fn overwrite_failed_batch(&mut self) -> Result<(), StoreError> {
        let overwritten = self.begin_transaction().and_then(|transaction| {
            transaction.probe()?;
            transaction.commit()
        });
        match overwritten {
            // This commit, too, may fail at the second step. By then it has overwritten the batch in the WAL.
            Err(error) if self.is_full(&error) => Ok(()),
            overwritten => overwritten,
        }
    }

    /// Begins the transaction of a batch.
    pub(super) fn begin_transaction(&mut self) -> Result<Transaction<'_>, StoreError> {
        let inner = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        Ok(Transaction { inner, topic_id_floor: self.topic_id_floor })
    }

    /// Reserves the positions up to `to`. This waits for the disk even if other commits do not.
    pub(super) fn reserve(&mut self, to: u64) -> Result<(), StoreError> {
        self.commit_durably(|connection| set_meta(connection, &[("reserved", to)]))
    }

    /// Copies the write-ahead log (WAL) into the database file, and returns whether all of it was copied. With
    /// `truncates` it waits for readers a little ([`CHECKPOINT_BUSY_TIMEOUT`]), and truncates the WAL.
    pub(super) fn checkpoint(&self, truncates: bool) -> Result<bool, StoreError> {
        let sql = if truncates { "PRAGMA wal_checkpoint(TRUNCATE)" } else { "PRAGMA wal_checkpoint(PASSIVE)" };
        self.connection.busy_timeout(CHECKPOINT_BUSY_TIMEOUT)?;
        let copied = self.connection.query_row(sql, [], |row| {
            let (blocked, frames, copied): (i64, i64, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
            Ok(blocked == 0 && frames == copied)
        });
        self.connection.busy_timeout(BUSY_TIMEOUT)?;
        Ok(copied?)
    }

    /// Copies all of the WAL into the database file, and truncates the WAL. A full disk is no error.
    pub(super) fn truncate_wal(&self) -> Result<(), StoreError> {
        match self.checkpoint(true) {
            Err(error) if self.is_full(&error) => Ok(()),
            copied => copied.map(drop),
        }
    }

    /// Lowers the last reserved position to `last`, and writes that the file was closed.
    pub(super) fn end(&mut self, last: u64) -> Result<(), StoreError> {
        self.commit_durably(|connection| set_meta(connection, &[("reserved", last), ("clean", 1)]))?;
        self.checkpoint(true).map(drop)
    }
}

/// Sets values of the log as a whole.
fn set_meta(connection: &Connection, values: &[(&str, u64)]) -> rusqlite::Result<()> {
    for (name, value) in values {
        connection.execute("UPDATE meta SET value = ?2 WHERE name = ?1", params![name, to_column(*value)])?;
    }
    Ok(())
}
