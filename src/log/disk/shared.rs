//! The state of the log that the workers' threads, the writer's thread and the reads from the disk share.

use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64},
    },
};

use tokio::sync::SetOnce;

use super::reader::Reader;
use crate::{
    config,
    event::Epoch,
    log::{LogTimes, clock::Clock, feed::Feeds, index::Index, keys::Keys, queue::KeyHolder},
};

/// The shared state of the log.
pub(super) struct Shared {
    pub(super) epoch: Epoch,
    pub(super) durability: config::DiskDurability,
    /// The path of the SQLite file.
    pub(super) file: PathBuf,
    pub(super) clock: Clock,
    /// A copy of the index's watermark, which can be read without the lock.
    pub(super) watermark: AtomicU64,
    pub(super) state: Mutex<State>,
    pub(super) keys: Keys,
    /// The reason, once the log has failed for good. The process must then end.
    pub(super) failed: Arc<SetOnce<String>>,
    /// The last batch did not fit on the disk.
    pub(super) full: AtomicBool,
    /// The read connections that no read uses now.
    pub(super) idle_readers: Mutex<Vec<Reader>>,
    /// How long the writer's thread takes.
    pub(super) times: LogTimes,
    /// How many events could not be read since the server started.
    pub(super) unreadable: AtomicU64,
}

/// The part of the state that is locked as a whole.
pub(super) struct State {
    pub(super) index: Index,
    pub(super) feeds: Feeds,
}

/// How many reads from the disk may run at once, for all workers together.
pub(super) const READERS: usize = 4;

impl KeyHolder for Shared {
    fn keys(&self) -> &Keys {
        &self.keys
    }

    fn mono_ms(&self) -> u64 {
        self.clock.read().mono_ms
    }
}
