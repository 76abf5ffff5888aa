//! Reads single events from the database file, while the writer writes to it.

use std::{path::Path, sync::Arc};

use rusqlite::{Connection, OpenFlags};

use super::{
    column::{checksum, get_u64, to_column},
    error::StoreError,
    store::open,
};
use crate::{
    event::{Epoch, Event, EventId, EventName, TopicName},
    frame,
};

/// A read-only connection.
pub(super) struct Reader {
    connection: Connection,
}

impl Reader {
    /// Opens a connection to the file at `path`.
    pub(super) fn open(path: &Path) -> Result<Self, StoreError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = open(path, flags)?;
        // SQLite opens the write-ahead log with the first read. If that fails, it fails here.
        connection.query_row("SELECT count(*) FROM boot", [], |_| Ok(()))?;
        Ok(Self { connection })
    }

    /// Reads the event at `seq`, and checks its checksum. A missing row counts as damage.
    pub(super) fn event(&self, epoch: Epoch, seq: u64, topic: &TopicName) -> Result<Arc<Event>, StoreError> {
        let damage = |what: &str| StoreError::Corrupt(format!("the event at position {seq} {what}"));
        let sql = "SELECT time_ms, checksum, name, content FROM event WHERE seq = ?1";
        let mut select = self.connection.prepare_cached(sql)?;
        let mut rows = select.query([to_column(seq)])?;
        let row = rows.next()?.ok_or_else(|| damage("is missing"))?;
        let time_ms = get_u64(row, 0)?;
        let name: Option<String> = row.get(2)?;
        let content: Vec<u8> = row.get(3)?;
        if row.get::<_, u32>(1)? != checksum(seq, topic.as_str(), time_ms, name.as_deref(), &content) {
            return Err(damage("does not match its checksum"));
        }
        let name = name.map(|name| EventName::parse(&name)).transpose();
        let name = name.map_err(|error| StoreError::Corrupt(format!("the event at position {seq}: {error}")))?;
        Ok(frame::encode(EventId { epoch, seq }, time_ms, topic.clone(), name, &content))
    }
}
