//! What the workers, the writer and the readers share.

use std::{
    path::PathBuf,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64},
    },
};

use tokio::sync::{OwnedSemaphorePermit, watch};

use super::{
    error::StoreError,
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

/// What the writer and the readers share with the workers.
pub(super) struct Shared {
    pub(super) epoch: Epoch,
    pub(super) durability: config::DiskDurability,
    pub(super) file: PathBuf,
    pub(super) clock: Clock,
    pub(super) watermark: AtomicU64,
    pub(super) state: Mutex<State>,
    pub(super) keys: Keys,
    /// Set for good when the disk has failed; the process must end.
    pub(super) failed: watch::Sender<Option<String>>,
    /// The last batch did not fit on the disk.
    pub(super) full: AtomicBool,
    pub(super) idle_readers: Mutex<Vec<Reader>>,
    /// Events that could not be read since the start.
    pub(super) unreadable: AtomicU64,
}

pub(super) struct State {
    pub(super) index: Index,
    /// Time of the newest event.
    pub(super) time_ms: u64,
    pub(super) feeds: Feeds,
}

/// Reads of the disk under way at once, over all workers.
pub(super) const READERS: usize = 4;

impl Shared {
    pub(super) fn append_once(
        &self,
        queue: &Queue,
        draft: Draft,
        used: keys::Use,
        room: OwnedSemaphorePermit,
    ) -> Append {
        self.keys.append_once(used, self.clock.now().at_ms, |claim| {
            queue.put(room, |done| Work::Append { draft, claim: Some(claim), done })
        })
    }

    /// Says that the disk has failed. The first report counts.
    pub(super) fn fail(&self, what: &str, error: &StoreError) {
        self.failed.send_if_modified(|failed| {
            let first = failed.is_none();
            if first {
                *failed = Some(format!("{}: {what}: {error}", self.file.display()));
            }
            first
        });
    }
}
