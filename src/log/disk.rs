//! The engine that keeps the events in an SQLite file. A committed event survives a crash of the process, and with
//! `log.durability = "disk"` a power failure.
//!
//! ```text
//!  append ─► bounded queue ─► writer: one transaction per batch ─► index, feed, receipts
//!                             (the next batch: what was queued during the last fsync)
//!  read ───► index: hot ─► page
//!                   cold ─► fetch: a read connection, outside the workers' threads ─► page
//! ```
//!
//! Only one thread writes and checkpoints, so writes never contend for SQLite's lock. A batch costs one fsync, however
//! many publishers wait for it. An event enters the index, the feeds and the receipts only after the commit. So nobody
//! sees an event that a crash could undo, and no position is given to two events.
//!
//! # Words
//! Besides the words of [`Log`]:
//! - A position is *reserved* when the files say that it may have been given. Positions are reserved before they are
//!   given, many at once. For example, the first event has position 1, and reserves the positions up to 65,537. If the
//!   process is killed after event 70, the next start gives the position 65,538.
//! - *Last found* is the highest position in the database: 70 in the example.
//! - The *high-water mark* is a file beside the database with the last reserved position, and with the last committed
//!   one. A start compares both with the database, to notice a database that was restored from a backup.
//! - The log has *lost power* when the machine stopped under `log.durability = "os"`, before it closed the log. Then
//!   the newest events may be missing: the *hole*. Its begin is not known. It ends at the reserved position. So
//!   a subscriber with any cursor up to there is told of a gap.
//! - A *batch* is what one transaction writes: new events and deletions, and old rows to remove.
//! - *Garbage* is the rows of removed events and forgotten topics that are still in the file.
//! - A *receipt* is what a publisher gets. For a publish with an idempotency key, it is stored as a row, which has the
//!   same name. The row *expires* when it is older than `publish.idempotency_window`.
//! - A *portion* is the old rows that one batch removes: garbage and expired receipts.
//! - *Maintenance* is what the writer does once a second: it enforces retention, and removes all kinds of old rows.
//! - *Damage* is a part of the file that cannot be read, or is not what was written.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, atomic::Ordering, mpsc},
    thread::JoinHandle,
    time::Duration,
};

use futures_util::future::{BoxFuture, FutureExt as _};
use tokio::sync::Semaphore;

use super::{
    Append, AppendError, Draft, Durability, Feed, Held, KeyLimits, Log, LogStats, LogTimes, ReadError, ReadFrom,
    Reading, Resolved, Start, Wall,
    clock::{self, Clock},
    mutex::lock,
    queue::{Job, Queue},
};
use crate::{
    config::{self, LogConfig},
    event::{Epoch, EventId, TopicName},
    later::{Later, NotYet, known},
};

// Each file uses only files below it.
mod stopped;
mod load;
mod receipts;
mod writer;
mod expiry;
mod garbage;
mod checkpoints;
mod high_water;
mod presence;
mod fetch;
mod shared;
mod reader;
mod store;
mod transaction;
mod salvage;
mod format;
mod column;
mod directory;
mod error;
mod filesystem;

use directory::{DirectoryLock, directory_error};
pub use error::{OpenError, StoreError};
use shared::{READERS, Shared};
pub(in crate::log) use stopped::{StoppedLog, UsedKey, directory_of};

/// The log on disk.
pub struct DiskLog {
    shared: Arc<Shared>,
    queue: Arc<Queue<mpsc::Sender<Job>>>,
    /// `None` once [`stop`](Self::stop) has taken it.
    writer_thread: Mutex<Option<JoinHandle<()>>>,
    /// Limits the reads from the disk that run at once to [`READERS`].
    read_permits: Arc<Semaphore>,
    _lock: DirectoryLock,
}

impl DiskLog {
    /// Opens the log in the directory `config.path`, and creates the directory if it does not exist. Many events take
    /// some time to load. Meanwhile the progress is logged.
    pub fn open(config: &LogConfig, keys: KeyLimits) -> Result<Self, OpenError> {
        Self::with_wall(config, keys, clock::system())
    }

    /// Like [`open`](Self::open), but with another wall clock.
    pub fn with_wall(config: &LogConfig, keys: KeyLimits, wall: Wall) -> Result<Self, OpenError> {
        let path = &config.path;
        filesystem::create_directory(path).map_err(directory_error(path))?;
        if let Some(kind) = filesystem::network_kind(path).map_err(directory_error(path))? {
            return Err(OpenError::Network { path: path.clone(), kind });
        }
        let directory_lock = DirectoryLock::acquire(path)?;
        let file = path.join("tidings.db");
        let (shared, writer) = load::load(&file, config, keys, Clock::new(wall))
            .map_err(|source| OpenError::Store { path: file.clone(), source })?;
        // The directory entry of a new file must survive a power failure, too.
        filesystem::sync_directory(path).map_err(directory_error(path))?;
        let (sender, jobs) = mpsc::channel();
        let queue = Queue::new(config.queue_bytes_max.to_usize(), config.queue_wait, sender);
        let shared_with_writer = Arc::clone(&shared);
        let run = move || {
            // Without this report, the process would go on after a panic, and refuse every event.
            if catch_unwind(AssertUnwindSafe(|| writer.run(&jobs))).is_err() {
                let panicked = "the log's writer panicked";
                tracing::error!("{panicked}");
                shared_with_writer.failed.set(panicked.to_owned()).ok();
            }
        };
        let thread = std::thread::Builder::new().name("log".to_owned()).spawn(run).map_err(directory_error(path))?;
        Ok(Self {
            shared,
            queue: Arc::new(queue),
            writer_thread: Mutex::new(Some(thread)),
            read_permits: Arc::new(Semaphore::new(READERS)),
            _lock: directory_lock,
        })
    }

    /// Closes the queue, and returns the writer's thread, which ends when it has done the jobs in the queue.
    fn stop(&self) -> Option<JoinHandle<()>> {
        self.queue.close();
        lock(&self.writer_thread).take()
    }
}

impl Drop for DiskLog {
    fn drop(&mut self) {
        join(self.stop());
    }
}

impl Log for DiskLog {
    fn epoch(&self) -> Epoch {
        self.shared.epoch
    }

    fn durability(&self) -> Durability {
        match self.shared.durability {
            config::DiskDurability::Disk => Durability::Disk,
            config::DiskDurability::Os => Durability::Os,
        }
    }

    fn watermark(&self) -> u64 {
        self.shared.watermark.load(Ordering::Acquire)
    }

    fn append(&self, draft: Draft) -> Append {
        self.queue.append(&self.shared, draft)
    }

    fn delete(&self, topic: &TopicName) -> Later<Result<EventId, AppendError>> {
        self.queue.delete(topic.clone())
    }

    fn resolve_start(&self, topics: &[TopicName], start: &Start, deleted: &[TopicName]) -> Resolved {
        known(Ok(lock(&self.shared.state).index.resolve_start(topics, start, deleted)))
    }

    fn read(&self, topics: &[TopicName], from: ReadFrom, bytes_max: usize) -> Reading {
        if let Some(page) = lock(&self.shared.state).index.read(topics, from, bytes_max) {
            return known(Ok(page));
        }
        let (shared, permits, topics) = (Arc::clone(&self.shared), Arc::clone(&self.read_permits), topics.to_vec());
        let page = async move {
            let permit = permits.acquire_owned().await.map_err(|_| ReadError)?;
            let fetch = move || {
                // The permit is released when the read ends, even if the caller has dropped the future before.
                let _permit = permit;
                shared.fetch(&topics, from, bytes_max).map_err(|error| {
                    // The cause may pass, such as a lack of memory. The stream ends, and its client reconnects and
                    // asks again.
                    tracing::error!(%error, "the log cannot be read: a stream ends");
                    ReadError
                })
            };
            tokio::task::spawn_blocking(fetch).await.unwrap_or(Err(ReadError))
        };
        NotYet(page.boxed())
    }

    fn close(&self) -> BoxFuture<'static, ()> {
        let writer_thread = self.stop();
        tokio::task::spawn_blocking(move || join(writer_thread)).map(drop).boxed()
    }

    fn held(&self, topic: &TopicName) -> Later<Result<Option<Held>, ReadError>> {
        known(Ok(lock(&self.shared.state).index.held(topic)))
    }

    fn deletion(&self, topic: &TopicName) -> Option<(EventId, Duration)> {
        lock(&self.shared.state).index.deletion(topic, self.shared.clock.read().mono_ms)
    }

    fn feed(&self) -> Arc<Feed> {
        lock(&self.shared.state).feeds.open()
    }

    fn keys(&self) -> usize {
        self.shared.keys.len()
    }

    /// Removes only keys. The writer's thread removes events by itself.
    fn enforce_retention(&self) {
        self.shared.keys.drop_expired(self.shared.clock.read().mono_ms);
    }

    fn stats(&self) -> LogStats {
        LogStats {
            unreadable: self.shared.unreadable.load(Ordering::Relaxed),
            keys: self.shared.keys.len(),
            queue_bytes: self.queue.used_bytes(),
            ..lock(&self.shared.state).index.stats()
        }
    }

    fn times(&self) -> Option<&LogTimes> {
        Some(&self.shared.times)
    }

    fn check(&self) -> Result<(), AppendError> {
        if self.shared.failed.initialized() {
            return Err(AppendError::Unavailable);
        }
        if self.shared.full.load(Ordering::Relaxed) {
            return Err(AppendError::DiskFull);
        }
        if self.queue.is_refusing() { Err(AppendError::QueueFull) } else { Ok(()) }
    }

    fn failed(&self) -> BoxFuture<'static, String> {
        let failed = Arc::clone(&self.shared.failed);
        async move { failed.wait().await.clone() }.boxed()
    }
}

/// Waits for the end of the writer's thread, which reports its own panic.
fn join(writer_thread: Option<JoinHandle<()>>) {
    if let Some(thread) = writer_thread {
        thread.join().ok();
    }
}
