//! The state of the log that the workers' threads, the writer's thread and the reads from the disk share.

use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64},
    },
};

use tokio::sync::{OwnedSemaphorePermit, SetOnce};

use super::{
    queue::{Queue, Work},
    reader::Reader,
};
use crate::{
    config,
    event::Epoch,
    log::{
        Append, Draft,
        clock::Clock,
        feed::Feeds,
        index::Index,
        keys::{self, Keys},
    },
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

impl Shared {
    /// Queues a draft with a key, and returns its outcome. If the key was used before, returns the outcome of the first
    /// publish with the key instead.
    pub(super) fn put_once(
        &self,
        queue: &Queue,
        draft: Draft,
        used: keys::KeyUse,
        space: OwnedSemaphorePermit,
    ) -> Append {
        self.keys.append_once(used, self.clock.read().mono_ms, |claim| {
            queue.put(space, |done| Work::Append { draft, claim: Some(claim), done })
        })
    }
}
