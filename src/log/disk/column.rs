//! Converts between numbers and columns of the database, and computes the checksum of an event's row.

use rusqlite::Row;

/// The checksum of an event's row, over all values of the event.
pub(super) fn checksum(seq: u64, topic: &str, time_ms: u64, name: Option<&str>, content: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    let name = name.unwrap_or_default().as_bytes();
    for part in [&seq.to_le_bytes(), &time_ms.to_le_bytes(), topic.as_bytes(), &[0], name, &[0], content] {
        hasher.update(part);
    }
    hasher.finalize()
}

/// `number` as the value of a column. SQLite's integers are signed, and no number of the log is that large.
pub(super) fn to_column(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// The number in a column of `row`; 0 for a negative value, which only damage can cause.
pub(super) fn get_u64(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    Ok(u64::try_from(row.get::<_, i64>(column)?).unwrap_or_default())
}
