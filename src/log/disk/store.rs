//! The database file: opening it, reading it at the start, and what is written outside of batches.
//!
//! The key of an event is its position alone, so an append changes only the right edge of one B-tree. Which topic holds
//! which events is known in memory ([`crate::log::index`]). Every event row has a checksum, because SQLite has none for
//! the pages of its main file.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use rusqlite::{Connection, OpenFlags, Row, params};

use super::{
    batch::{Batch, TimeRange},
    column::{number, position},
    error::StoreError,
    format,
    salvage::{self, Range},
};
use crate::{
    event::{Epoch, TopicName},
    log::index::EVENT_OVERHEAD,
};

/// What the file knows about the log as a whole.
pub(super) struct Meta {
    /// The epoch of its positions.
    pub(super) epoch: Epoch,
    /// Ids up to this position may have been given.
    pub(super) reserved: u64,
    /// A topic without a row has had no event after this position.
    pub(super) forgotten_to: u64,
    /// Time of the newest event of such a topic; 0 when it is not known.
    pub(super) forgotten_ms: u64,
    /// Events of any topic may be missing up to this position: the machine stopped before they were on the disk.
    pub(super) hole_to: u64,
    /// Events of any topic may be missing up to this position: a start could not read them.
    pub(super) unreadable_to: u64,
    /// The highest position that is found anywhere in the file.
    pub(super) last_found: u64,
    /// The previous process closed the file: no id after `reserved` was given.
    pub(super) clean: bool,
    /// The machine stopped while the previous process ran, and the commits of that process did not wait for the disk.
    pub(super) lost_power: bool,
    /// Whether commits wait for the disk now.
    durable: bool,
}

/// A row of the table of events, without the content.
pub(super) struct EventRow {
    /// Position of the event.
    pub(super) seq: u64,
    /// Row id of its topic.
    pub(super) topic: i64,
    /// When it was published, in milliseconds since the Unix epoch.
    pub(super) time_ms: u64,
    /// Its share of the retention limits in bytes.
    pub(super) cost: u64,
}

/// A row of the table of topics.
pub(super) struct TopicRow {
    /// The row id.
    pub(super) id: i64,
    /// The topic.
    pub(super) name: TopicName,
    /// Position of the last event that was removed.
    pub(super) evicted_to: u64,
    /// Time of the newest event that was removed; 0 when it is not known.
    pub(super) evicted_ms: u64,
    /// Position of the last deletion; 0 when there was none.
    pub(super) deleted_to: u64,
    /// When that deletion was, in milliseconds since the Unix epoch.
    pub(super) deleted_ms: u64,
}

/// The connection that writes to the file. There is only one, on the writer's thread.
pub(super) struct Store {
    /// The connection.
    pub(super) connection: Connection,
    /// The directory of the file.
    directory: PathBuf,
    /// New topics get row ids above this.
    topic_id_floor: i64,
}

/// The cost of an event is at most so many times its content, plus [`COST_MAX`]: each line of the content adds a
/// prefix.
const EVENT_EXPANSION: u64 = 8;
/// The highest cost of an event without content: its names and overhead.
const COST_MAX: u64 = 4096;

/// How long a statement waits for a lock that another process holds. After that the disk counts as failed. Publishes are
/// refused long before, when the queue is full for `log.queue_wait`.
const BUSY_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a checkpoint waits for another connection. A read of this process is of one event, and usually takes less.
/// Only another process, such as a backup, reads for longer.
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
    /// Opens the file for writing, and creates or migrates its tables. `durable` tells whether a commit waits for the
    /// disk.
    pub(super) fn open(path: &Path, durable: bool) -> Result<Self, StoreError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = open(path, flags)?;
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
        let directory = path.parent().unwrap_or(Path::new(".")).to_owned();
        let mut store = Self { connection, directory, topic_id_floor: 0 };
        format::migrate_to_latest(&mut store.connection)?;
        store.set_durable(durable)?;
        Ok(store)
    }

    /// Sets whether a commit waits for the disk.
    fn set_durable(&self, durable: bool) -> Result<(), StoreError> {
        let level = if durable { "FULL" } else { "NORMAL" };
        Ok(self.connection.pragma_update(None, "synchronous", level)?)
    }

    /// Reads what the file knows about the log. Writes that the file is in use, during which boot of the machine, and
    /// whether commits wait for the disk.
    pub(super) fn begin(&mut self, boot: &str, durable: bool) -> Result<Meta, StoreError> {
        let value_of = |name: &str| -> Result<u64, StoreError> {
            let sql = "SELECT value FROM meta WHERE name = ?1";
            Ok(position(self.connection.query_row(sql, [name], |row| row.get(0))?))
        };
        let epoch =
            Epoch::from_number(value_of("epoch")?).ok_or_else(|| StoreError::Corrupt("its epoch".to_owned()))?;
        let before: String = self.connection.query_row("SELECT id FROM boot", [], |row| row.get(0))?;
        let reserved = value_of("reserved")?;
        let clean = value_of("clean")? != 0;
        let lost_power = !clean && value_of("durable")? == 0 && before != boot;
        let hole_to = if lost_power { reserved } else { value_of("hole_to")? };
        let (forgotten_to, unreadable_to) = (value_of("forgotten_to")?, value_of("unreadable_to")?);
        let (forgotten_ms, last_found) = (value_of("forgotten_ms")?, self.last_found()?);
        let meta = Meta {
            epoch,
            reserved,
            forgotten_to,
            forgotten_ms,
            hole_to,
            unreadable_to,
            last_found,
            clean,
            lost_power,
            durable,
        };
        self.set_durable(true)?;
        let transaction = self.connection.transaction()?;
        for (name, value) in [("clean", 0), ("durable", u64::from(durable)), ("hole_to", hole_to)] {
            transaction.execute("UPDATE meta SET value = ?2 WHERE name = ?1", params![name, number(value)])?;
        }
        transaction.execute("UPDATE boot SET id = ?1", [boot])?;
        transaction.commit()?;
        self.set_durable(durable)?;
        Ok(meta)
    }

    /// Begins a new epoch, which keeps the events. The next position is after `reserved`. The receipts are removed,
    /// because the ids in them are of the old epoch.
    pub(super) fn begin_epoch(&mut self, meta: &mut Meta, reserved: u64) -> Result<(), StoreError> {
        (meta.epoch, meta.reserved) = (Epoch::random(), reserved);
        self.set_durable(true)?;
        let transaction = self.connection.transaction()?;
        for (name, value) in [("epoch", meta.epoch.number()), ("reserved", reserved)] {
            transaction.execute("UPDATE meta SET value = ?2 WHERE name = ?1", params![name, number(value)])?;
        }
        transaction.execute("DELETE FROM receipt", [])?;
        transaction.commit()?;
        self.set_durable(meta.durable)
    }

    /// The highest position that is found anywhere in the file.
    fn last_found(&self) -> Result<u64, StoreError> {
        let of_topics = "SELECT coalesce(max(max(evicted_to, deleted_to)), 0) FROM topic";
        let of_topics = match self.connection.query_row(of_topics, [], |row| row.get(0)).map_err(StoreError::from) {
            // The table is damaged, and will be rebuilt.
            Err(error) if error.is_damage() => 0,
            last => position(last?),
        };
        let marks = "SELECT max(value) FROM meta WHERE name IN ('forgotten_to', 'deleted_to', 'unreadable_to')";
        let marks = position(self.connection.query_row(marks, [], |row| row.get(0))?);
        Ok(self.last()?.max(of_topics).max(marks))
    }

    /// Calls `each` with every readable row of a topic, and returns the row ids that cannot be read. A row with a
    /// position above `reserved` counts as unreadable.
    pub(super) fn topics(&self, reserved: u64, mut each: impl FnMut(TopicRow)) -> Result<Vec<Range>, StoreError> {
        let last = self.connection.query_row("SELECT coalesce(max(id), 0) FROM topic", [], |row| row.get(0));
        let last = match last.map_err(StoreError::from) {
            // The last row cannot be read, so there may be rows up to any id.
            Err(error) if error.is_damage() => u64::from(u32::MAX),
            last => position(last?),
        };
        let select =
            "SELECT id, name, evicted_to, deleted_to, evicted_ms, deleted_ms FROM topic WHERE id >= ?1 ORDER BY id";
        salvage::scan(&self.connection, select, last, |row| {
            let name: String = row.get(1)?;
            let name =
                TopicName::parse(&name, usize::MAX).map_err(|_| StoreError::Corrupt(format!("a topic {name:?}")))?;
            let (evicted_to, deleted_to) = (position(row.get(2)?), position(row.get(3)?));
            if evicted_to.max(deleted_to) > reserved {
                return Err(StoreError::Corrupt(format!("the marks of topic {name}")));
            }
            let (evicted_ms, deleted_ms) = (position(row.get(4)?), position(row.get(5)?));
            each(TopicRow { id: row.get(0)?, name, evicted_to, evicted_ms, deleted_to, deleted_ms });
            Ok(())
        })
    }

    /// Calls `each` with every readable row of an event, in order of position, and returns the positions that cannot be
    /// read. `last` is the last position.
    pub(super) fn events(&self, last: u64, mut each: impl FnMut(EventRow)) -> Result<Vec<Range>, StoreError> {
        let select = "SELECT seq, topic, time_ms, cost, length(content) FROM event WHERE seq >= ?1 ORDER BY seq";
        salvage::scan(&self.connection, select, last, |row| {
            let (seq, topic, bytes) = (position(row.get(0)?), row.get(1)?, position(row.get(4)?));
            let mut cost = position(row.get(3)?);
            // Retention counts it, so a wrong value could remove all other events.
            if !(bytes + EVENT_OVERHEAD..=bytes * EVENT_EXPANSION + COST_MAX).contains(&cost) {
                cost = bytes + EVENT_OVERHEAD;
            }
            each(EventRow { seq, topic, time_ms: position(row.get(2)?), cost });
            Ok(())
        })
    }

    /// Position of the last event; 0 when there is none. When the page of that row is damaged, this fails and the log
    /// cannot be opened: the next event could not be written to that page either.
    pub(super) fn last(&self) -> Result<u64, StoreError> {
        let last = self.connection.query_row("SELECT coalesce(max(seq), 0) FROM event", [], |row| row.get(0));
        Ok(position(last?))
    }

    /// Rebuilds the tables of topics and receipts if they are damaged. `topics` are the ids of the readable topics, and
    /// `lost` tells whether there are unreadable ones. Damaged events need no repair: reads skip them.
    pub(super) fn repair(&mut self, lost: bool, topics: impl Iterator<Item = i64>) -> Result<(), StoreError> {
        if !salvage::is_sound(&self.connection, "receipt")? {
            tracing::error!("the idempotency keys in the log are damaged: all of them are lost");
            salvage::recreate_receipts(&mut self.connection)?;
        }
        if lost || !salvage::is_sound(&self.connection, "topic")? {
            tracing::error!("the table of topics is damaged: topics that cannot be read are lost");
            salvage::rebuild_topics(&mut self.connection, &topics.collect::<Vec<_>>())?;
        }
        Ok(())
    }

    /// Writes that any topic may have unreadable events up to position `to`. `topics` is the largest topic id in the
    /// rows of events. New topics get higher ids, so that none gets the events of a topic whose row was lost.
    pub(super) fn note_damage(&mut self, to: u64, topics: i64) -> Result<(), StoreError> {
        self.topic_id_floor = topics;
        let sql = "UPDATE meta SET value = ?1 WHERE name = 'unreadable_to' AND value < ?1";
        self.connection.execute(sql, [number(to)])?;
        Ok(())
    }

    /// Whether there are receipts from outside this range of times.
    pub(super) fn has_receipts_outside(&self, (first_ms, last_ms): TimeRange) -> Result<bool, StoreError> {
        let sql = "SELECT EXISTS (SELECT 1 FROM receipt WHERE time_ms < ?1)
            OR EXISTS (SELECT 1 FROM receipt WHERE time_ms > ?2)";
        let mut select = self.connection.prepare_cached(sql)?;
        Ok(select.query_row([first_ms, last_ms].map(number), |row| row.get(0))?)
    }

    /// Whether the cause of `error` is a full disk.
    pub(super) fn is_full(&self, error: &StoreError) -> bool {
        error.is_full(&self.directory)
    }

    /// Makes sure that nothing remains of a batch that failed because the disk is full. When only the file of the
    /// shared memory could not grow, the batch is already in the write-ahead log, complete and synced, and the next
    /// start would find its events there. The next commit overwrites it in the log, so this commits a small change.
    pub(super) fn overwrite_failed_batch(&mut self) -> Result<(), StoreError> {
        let overwritten = self.begin_batch().and_then(|batch| batch.probe().and_then(|()| batch.commit()));
        match overwritten {
            Err(error) if self.is_full(&error) => Ok(()),
            overwritten => overwritten,
        }
    }

    /// Begins a batch.
    pub(super) fn begin_batch(&mut self) -> Result<Batch<'_>, StoreError> {
        let behavior = rusqlite::TransactionBehavior::Immediate;
        Ok(Batch {
            transaction: self.connection.transaction_with_behavior(behavior)?,
            topic_id_floor: self.topic_id_floor,
        })
    }

    /// Writes that ids up to `to` may be given. This waits for the disk even if commits do not (`durable`).
    pub(super) fn reserve(&mut self, to: u64, durable: bool) -> Result<(), StoreError> {
        self.set_durable(true)?;
        let reserved = self.connection.execute("UPDATE meta SET value = ?1 WHERE name = 'reserved'", [number(to)]);
        self.set_durable(durable)?;
        reserved?;
        Ok(())
    }

    /// Copies the write-ahead log into the database file, and returns whether all of it was copied. With `truncates` it
    /// waits for readers a little ([`CHECKPOINT_BUSY_TIMEOUT`]), and truncates the log.
    pub(super) fn checkpoint(&self, truncates: bool) -> Result<bool, StoreError> {
        let sql = if truncates { "PRAGMA wal_checkpoint(TRUNCATE)" } else { "PRAGMA wal_checkpoint(PASSIVE)" };
        // The row: whether it was blocked, the frames in the log, and how many of them are copied.
        let is_complete =
            |row: &Row<'_>| Ok(row.get::<_, i64>(0)? == 0 && row.get::<_, i64>(1)? == row.get::<_, i64>(2)?);
        self.connection.busy_timeout(CHECKPOINT_BUSY_TIMEOUT)?;
        let is_complete = self.connection.query_row(sql, [], is_complete);
        self.connection.busy_timeout(BUSY_TIMEOUT)?;
        Ok(is_complete?)
    }

    /// Copies all of the write-ahead log into the database file, and truncates the log. A full disk is no error.
    pub(super) fn truncate_wal(&self) -> Result<(), StoreError> {
        match self.checkpoint(true) {
            Err(error) if self.is_full(&error) => Ok(()),
            copied => copied.map(drop),
        }
    }

    /// Writes the last position and that the file was closed, so that the next start need not look for lost events.
    pub(super) fn end(&mut self, last: u64) -> Result<(), StoreError> {
        self.set_durable(true)?;
        let transaction = self.connection.transaction()?;
        transaction.execute("UPDATE meta SET value = ?1 WHERE name = 'reserved'", [number(last)])?;
        transaction.execute("UPDATE meta SET value = 1 WHERE name = 'clean'", [])?;
        transaction.commit()?;
        self.checkpoint(true).map(drop)
    }
}
