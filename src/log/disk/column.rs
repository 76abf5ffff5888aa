//! Converts between values and columns of the database, and computes the checksum of a row.

/// The checksum of an event's row, over all values of the event.
pub(super) fn checksum(seq: u64, topic: &str, time_ms: u64, name: Option<&str>, content: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    for part in [
        &seq.to_le_bytes(),
        &time_ms.to_le_bytes(),
        topic.as_bytes(),
        &[0],
        name.unwrap_or_default().as_bytes(),
        &[0],
        content,
    ] {
        hasher.update(part);
    }
    hasher.finalize()
}

/// A number as a column value. SQLite's integers are signed, and no number of the log is that large.
pub(super) fn number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// The number in a column; 0 for a negative value, which only damage can cause.
pub(super) fn position(value: i64) -> u64 {
    u64::try_from(value).unwrap_or_default()
}
