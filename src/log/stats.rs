//! What an engine tells for metrics.

use crate::metrics::{Counter, Histogram};

/// What a log holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogStats {
    /// Events.
    pub events: usize,
    /// Their bytes, with the overhead of the index.
    pub bytes: u64,
    /// Bytes of the events in memory.
    pub hot_bytes: u64,
    /// Topics that it knows.
    pub topics: usize,
    /// Position of the last event or deletion.
    pub position: u64,
    /// How often events were removed since the log was opened.
    pub removals: u64,
    /// How many events could not be read since the server started.
    pub unreadable: u64,
    /// Idempotency keys.
    pub keys: usize,
    /// Bytes of content that wait to be committed.
    pub queue_bytes: usize,
}

/// How long an engine takes to commit. Only the thread that commits writes here.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct LogTimes {
    /// From the moment when a batch was collected until it was committed.
    pub commit: Histogram,
    /// The events of the batches.
    pub events: Counter,
}
