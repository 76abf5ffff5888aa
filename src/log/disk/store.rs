//! The file: what is read from it and written to it, and every SQL statement.
//!
//! Events are keyed by position alone, so that an append touches the right edge of one B-tree and nothing else; which
//! topic holds what is in memory ([`crate::log::index`]). Every row carries a checksum of its own, because SQLite has
//! none for the pages of its main file.

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

/// What the file says before its events.
pub(super) struct Meta {
    pub(super) epoch: Epoch,
    /// Positions up to here may have been given.
    pub(super) reserved: u64,
    /// Topics without a row have lost nothing after this position.
    pub(super) forgotten_to: u64,
    /// When the newest of those happened; 0 where that is not known.
    pub(super) forgotten_ms: u64,
    /// Any topic may have lost events up to here.
    pub(super) hole_to: u64,
    /// Any topic may have events up to here that a start could not read.
    pub(super) unreadable_to: u64,
    /// The last position that has left a trace.
    pub(super) last_found: u64,
    /// The process before this one ended in order: no position after `reserved` was given.
    pub(super) clean: bool,
    /// The machine has stopped under the process before this one, whose commits did not wait for the disk.
    pub(super) lost_power: bool,
    /// Whether commits wait for the disk now.
    durable: bool,
}

/// One row of the event table, without what it says.
pub(super) struct EventRow {
    pub(super) seq: u64,
    pub(super) topic: i64,
    pub(super) time_ms: u64,
    pub(super) cost: u64,
}

/// A topic's row.
pub(super) struct TopicRow {
    pub(super) id: i64,
    pub(super) name: TopicName,
    pub(super) evicted_to: u64,
    pub(super) evicted_ms: u64,
    pub(super) deleted_to: u64,
    /// When that was, in milliseconds since the Unix epoch.
    pub(super) deleted_ms: u64,
}

/// A connection to the file that writes; there is one, on the writer's thread.
pub(super) struct Store {
    pub(super) connection: Connection,
    directory: PathBuf,
    /// Rows of topics that are made have numbers above this.
    topic_id_floor: i64,
}

/// What a row of an event may cost more than its content: names, and the lines that the content is split into.
const EVENT_EXPANSION: u64 = 8;
const COST_MAX: u64 = 4096;

/// How long anything waits for another connection.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a checkpoint does. Reads of ours usually take less, each is of one event; who reads for longer is another
/// process.
const CHECKPOINT_BUSY_TIMEOUT: Duration = Duration::from_millis(20);

/// Opens the file, makes its tables when it is new, and refuses one that is not ours to read.
pub(super) fn open(path: &Path, flags: OpenFlags) -> Result<Connection, StoreError> {
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    // Memory-mapped reads would turn an I/O error into a signal that ends the process.
    connection.execute_batch(
        "PRAGMA mmap_size = 0; PRAGMA temp_store = MEMORY; PRAGMA trusted_schema = OFF; PRAGMA cell_size_check = ON;",
    )?;
    Ok(connection)
}

impl Store {
    /// Opens the file for writing. `durable` is whether a commit waits for the disk.
    pub(super) fn open(path: &Path, durable: bool) -> Result<Self, StoreError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = open(path, flags)?;
        format::check(&connection)?;
        let mode: String = connection.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))?;
        if mode != "wal" {
            return Err(StoreError::NoWal(mode));
        }
        // FULL even when commits do not wait: set per transaction from here on.
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

    fn set_durable(&self, durable: bool) -> Result<(), StoreError> {
        let level = if durable { "FULL" } else { "NORMAL" };
        Ok(self.connection.pragma_update(None, "synchronous", level)?)
    }

    /// Reads what the file says of itself, and notes that it is in use, on which boot of the machine, and whether
    /// commits wait for the disk.
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

    /// Begins a new history with the events of this one; the next position is after `reserved`. The receipts stay behind:
    /// the answers in them have ids of the old one.
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

    /// The last position that has left a trace.
    fn last_found(&self) -> Result<u64, StoreError> {
        let of_topics = "SELECT coalesce(max(max(evicted_to, deleted_to)), 0) FROM topic";
        let of_topics = match self.connection.query_row(of_topics, [], |row| row.get(0)).map_err(StoreError::from) {
            // It will be repaired.
            Err(error) if error.is_damage() => 0,
            last => position(last?),
        };
        let marks = "SELECT max(value) FROM meta WHERE name IN ('forgotten_to', 'deleted_to', 'unreadable_to')";
        let marks = position(self.connection.query_row(marks, [], |row| row.get(0))?);
        Ok(self.last()?.max(of_topics).max(marks))
    }

    /// Every topic that has a row, as far as it can be read; what cannot. No position is above `reserved`.
    pub(super) fn topics(&self, reserved: u64, mut each: impl FnMut(TopicRow)) -> Result<Vec<Range>, StoreError> {
        let last = self.connection.query_row("SELECT coalesce(max(id), 0) FROM topic", [], |row| row.get(0));
        let last = match last.map_err(StoreError::from) {
            // Not even the end of it: up to where there may be rows is not known.
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

    /// Every event, by position, without its content, as far as it can be read; what cannot. A file of which the last
    /// event cannot be read cannot be written either, and is refused.
    pub(super) fn events(&self, last: u64, mut each: impl FnMut(EventRow)) -> Result<Vec<Range>, StoreError> {
        let select = "SELECT seq, topic, time_ms, cost, length(content) FROM event WHERE seq >= ?1 ORDER BY seq";
        salvage::scan(&self.connection, select, last, |row| {
            let (seq, topic, bytes) = (position(row.get(0)?), row.get(1)?, position(row.get(4)?));
            let mut cost = position(row.get(3)?);
            // Retention goes by it: nonsense there would drive out everything else.
            if !(bytes + EVENT_OVERHEAD..=bytes * EVENT_EXPANSION + COST_MAX).contains(&cost) {
                cost = bytes + EVENT_OVERHEAD;
            }
            each(EventRow { seq, topic, time_ms: position(row.get(2)?), cost });
            Ok(())
        })
    }

    /// The last event's position; 0 when there is none. A file that cannot tell cannot be written either: that is where
    /// the next one goes.
    pub(super) fn last(&self) -> Result<u64, StoreError> {
        let last = self.connection.query_row("SELECT coalesce(max(seq), 0) FROM event", [], |row| row.get(0));
        Ok(position(last?))
    }

    /// Makes the tables of topics and receipts sound again, when they are not; `topics` are the rows of those that can
    /// be read, `lost` is whether some cannot. Nothing else needs to be repaired: events are passed over.
    pub(super) fn repair(&mut self, lost: bool, topics: impl Iterator<Item = i64>) -> Result<(), StoreError> {
        if !salvage::is_sound(&self.connection, "receipt")? {
            tracing::error!("the idempotency keys in the log are damaged and are forgotten");
            salvage::recreate_receipts(&mut self.connection)?;
        }
        if lost || !salvage::is_sound(&self.connection, "topic")? {
            tracing::error!("the table of topics is damaged: those that cannot be read are lost");
            salvage::rebuild_topics(&mut self.connection, &topics.collect::<Vec<_>>())?;
        }
        Ok(())
    }

    /// Notes that any topic may have events up to `to` that cannot be read, and that `topics` is the largest number of a
    /// topic's row that an event has: a new topic must not take over the events of one whose row is lost.
    pub(super) fn note_damage(&mut self, to: u64, topics: i64) -> Result<(), StoreError> {
        self.topic_id_floor = topics;
        let sql = "UPDATE meta SET value = ?1 WHERE name = 'unreadable_to' AND value < ?1";
        self.connection.execute(sql, [number(to)])?;
        Ok(())
    }

    /// Whether there are receipts of a time outside of these.
    pub(super) fn has_receipts_outside(&self, (first_ms, last_ms): TimeRange) -> Result<bool, StoreError> {
        let sql = "SELECT EXISTS (SELECT 1 FROM receipt WHERE time_ms < ?1)
            OR EXISTS (SELECT 1 FROM receipt WHERE time_ms > ?2)";
        let mut select = self.connection.prepare_cached(sql)?;
        Ok(select.query_row([first_ms, last_ms].map(number), |row| row.get(0))?)
    }

    pub(super) fn is_full(&self, error: &StoreError) -> bool {
        error.is_full(&self.directory)
    }

    /// Makes sure that nothing of a batch that failed counts. Where there is no room for the memory that connections
    /// share, its events are in the write-ahead log by then, whole and synced, and a start would find them there. What is
    /// written next takes their place, so something is.
    pub(super) fn overwrite_failed_batch(&mut self) -> Result<(), StoreError> {
        let forgotten = self.begin_batch().and_then(|batch| batch.probe().and_then(|()| batch.commit()));
        match forgotten {
            Err(error) if self.is_full(&error) => Ok(()),
            forgotten => forgotten,
        }
    }

    /// Starts a batch. Until [`Batch::commit`] nothing of it counts.
    pub(super) fn begin_batch(&mut self) -> Result<Batch<'_>, StoreError> {
        let behavior = rusqlite::TransactionBehavior::Immediate;
        Ok(Batch {
            transaction: self.connection.transaction_with_behavior(behavior)?,
            topic_id_floor: self.topic_id_floor,
        })
    }

    /// Promises on disk, whatever the durability of commits, that positions up to `to` may be given.
    pub(super) fn reserve(&mut self, to: u64, durable: bool) -> Result<(), StoreError> {
        self.set_durable(true)?;
        let reserved = self.connection.execute("UPDATE meta SET value = ?1 WHERE name = 'reserved'", [number(to)]);
        self.set_durable(durable)?;
        reserved?;
        Ok(())
    }

    /// Moves the write-ahead log into the file, as far as readers allow; `all` waits for them, but hardly, and makes the
    /// log small. Whether all was moved.
    pub(super) fn checkpoint(&self, all: bool) -> Result<bool, StoreError> {
        let sql = if all { "PRAGMA wal_checkpoint(TRUNCATE)" } else { "PRAGMA wal_checkpoint(PASSIVE)" };
        let moved = |row: &Row<'_>| Ok(row.get::<_, i64>(0)? == 0 && row.get::<_, i64>(1)? == row.get::<_, i64>(2)?);
        self.connection.busy_timeout(CHECKPOINT_BUSY_TIMEOUT)?;
        let moved = self.connection.query_row(sql, [], moved);
        self.connection.busy_timeout(BUSY_TIMEOUT)?;
        Ok(moved?)
    }

    /// Moves all of the write-ahead log into the file, unless that has no room: the log starts anew, in the room that it
    /// has.
    pub(super) fn truncate_wal(&self) -> Result<(), StoreError> {
        match self.checkpoint(true) {
            Err(error) if error.is_full(&self.directory) => Ok(()),
            moved => moved.map(drop),
        }
    }

    /// Notes the last position and that nothing is lost.
    pub(super) fn end(&mut self, last: u64) -> Result<(), StoreError> {
        self.set_durable(true)?;
        let transaction = self.connection.transaction()?;
        transaction.execute("UPDATE meta SET value = ?1 WHERE name = 'reserved'", [number(last)])?;
        transaction.execute("UPDATE meta SET value = 1 WHERE name = 'clean'", [])?;
        transaction.commit()?;
        self.checkpoint(true).map(drop)
    }
}
