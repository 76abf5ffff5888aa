//! The state of the log that the workers' threads, the writer's thread and the reads from the disk share.

use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64},
        mpsc,
    },
};

use tokio::sync::{OwnedSemaphorePermit, SetOnce};

use super::reader::Reader;
use crate::{
    config,
    event::{Epoch, EventId, TopicName},
    log::{
        Append, Draft, Receipt,
        clock::Clock,
        feed::Feeds,
        index::Index,
        keys::{self, Claim, Keys},
        queue::{self, Done, Queue},
    },
};

/// What a job does. The writer sends its outcome to `done`.
pub(super) enum Work {
    Append { draft: Draft, claim: Option<Claim>, done: Done<Receipt> },
    Delete { topic: TopicName, done: Done<EventId> },
}

/// A job for the writer.
pub(super) type Job = queue::Job<Work>;

/// Takes the jobs for the writer's thread.
pub(super) type Jobs = mpsc::Sender<Job>;

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
        queue: &Queue<Jobs>,
        draft: Draft,
        used: keys::KeyUse,
        space: OwnedSemaphorePermit,
    ) -> Append {
        self.keys.append_once(used, self.clock.read().mono_ms, |claim| {
            queue.put(space, |done| Work::Append { draft, claim: Some(claim), done })
        })
    }
}
