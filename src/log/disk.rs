//! Engine: SQLite, in one file, written by one thread; what was acknowledged survives the process, and the power.
//!
//! ```text
//!  append ─► bounded queue ─► writer: one transaction a batch ─► index, feed, acknowledgements
//!                             (what queued during the last fsync is the next batch)
//!  read ───► index: hot ─► page
//!                   cold ─► fetch: a reading connection, off the workers' threads ─► page
//! ```
//!
//! One thread alone writes and checkpoints, so no two ever contend, and a batch costs one fsync however many publishers
//! wait for it. Only after the commit does an event enter the index, the feed and the answers: nobody sees an event
//! that a crash could take back, and a position is never given to two events.

use std::{
    fs::{File, TryLockError},
    path::Path,
    sync::{Arc, Mutex, atomic::Ordering},
    thread::JoinHandle,
    time::Duration,
};

use futures_util::future::{BoxFuture, FutureExt as _};
use tokio::sync::Semaphore;

use super::{
    Append, AppendError, Draft, Durability, Feed, Held, KeyLimits, Log, ReadError, ReadFrom, Reading, Resolved, Start,
    Wall,
    clock::{self, Clock},
    keys,
    mutex::lock,
};
use crate::{
    config::{self, LogConfig},
    event::{Epoch, EventId, TopicName},
    later::{Later, now},
};

mod batch;
mod checkpoints;
mod column;
mod error;
mod expiry;
mod fetch;
mod filesystem;
mod format;
mod garbage;
mod high_water;
mod load;
mod presence;
mod queue;
mod reader;
mod receipts;
mod salvage;
mod shared;
mod store;
mod writer;

pub use error::{OpenError, StoreError};
use queue::{Queue, Work};
use shared::{READERS, Shared};

/// The log on disk.
pub struct DiskLog {
    shared: Arc<Shared>,
    queue: Arc<Queue>,
    writer: Mutex<Option<JoinHandle<()>>>,
    readers: Arc<Semaphore>,
    _lock: DirectoryLock,
}

/// Held for as long as the directory is ours.
struct DirectoryLock(File);

impl DiskLog {
    /// Opens the log in the directory `config.path`, which is made if need be. Takes a while when there is much in it,
    /// and says so.
    pub fn open(config: &LogConfig, keys: KeyLimits) -> Result<Self, OpenError> {
        Self::with_wall(config, keys, clock::system())
    }

    /// As [`open`](Self::open), by another clock.
    pub fn with_wall(config: &LogConfig, keys: KeyLimits, wall: Wall) -> Result<Self, OpenError> {
        let path = &config.path;
        let in_directory = |source| OpenError::Directory { path: path.clone(), source };
        filesystem::create_directory(path).map_err(in_directory)?;
        if let Some(kind) = filesystem::network_kind(path).map_err(in_directory)? {
            return Err(OpenError::Network { path: path.clone(), kind });
        }
        let directory_lock = DirectoryLock::take(path)?;
        let file = path.join("tidings.db");
        let (shared, writer) = load::load(&file, config, keys, Clock::new(wall))
            .map_err(|source| OpenError::Store { path: file.clone(), source })?;
        // The file's own name must survive a power cut, too.
        filesystem::sync_directory(path).map_err(in_directory)?;
        let (queue, jobs) = Queue::new(config.queue_bytes_max.to_usize(), config.queue_wait);
        let alarmed = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("log".to_owned()).spawn(move || {
            let _alarm = Alarm(Arc::clone(&alarmed));
            writer.run(&jobs);
        });
        Ok(Self {
            shared,
            queue: Arc::new(queue),
            writer: Mutex::new(Some(thread.map_err(in_directory)?)),
            readers: Arc::new(Semaphore::new(READERS)),
            _lock: directory_lock,
        })
    }

    /// A draft that uses a key. It does not wait for room in the name of its key: its publisher may go while it waits, so
    /// it takes the key when there is room, and only then.
    fn append_once(&self, draft: Draft, used: keys::Use) -> Append {
        let bytes = draft.content.len();
        if let Some(room) = self.queue.room_at_once(bytes) {
            return self.shared.append_once(&self.queue, draft, used, room);
        }
        if let Some(answer) = self.shared.keys.find(&used, self.shared.clock.now().at_ms) {
            return answer;
        }
        let (shared, queue) = (Arc::clone(&self.shared), Arc::clone(&self.queue));
        let append = async move {
            let room = queue.room(bytes).await?;
            shared.append_once(&queue, draft, used, room).await
        };
        Append::Right(append.boxed())
    }

    /// Closes the queue; the writer ends when it has written what is in it.
    fn stop(&self) -> Option<JoinHandle<()>> {
        self.queue.close();
        lock(&self.writer).take()
    }
}

impl DirectoryLock {
    fn take(path: &Path) -> Result<Self, OpenError> {
        let in_directory = |source| OpenError::Directory { path: path.to_owned(), source };
        let file = File::create(path.join("lock")).map_err(in_directory)?;
        match file.try_lock() {
            Ok(()) => Ok(Self(file)),
            Err(TryLockError::WouldBlock) => Err(OpenError::InUse { path: path.to_owned() }),
            Err(TryLockError::Error(source)) => Err(in_directory(source)),
        }
    }
}

impl Drop for DirectoryLock {
    /// To close the file would not do: a process that is just being started from this one has a copy of the descriptor
    /// until it executes its program, and the lock would live as long.
    fn drop(&mut self) {
        self.0.unlock().ok();
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
        let bytes = draft.content.len();
        match keys::Use::of(&draft) {
            None => self.queue.put_in_turn(bytes, |done| Work::Append { draft, claim: None, done }),
            Some(used) => self.append_once(draft, used),
        }
    }

    fn forget(&self, topic: &TopicName) -> Later<Result<EventId, AppendError>> {
        let topic = topic.clone();
        self.queue.put_in_turn(0, |done| Work::Forget { topic, done })
    }

    fn resolve_start(&self, topics: &[TopicName], start: &Start, deleted: &[TopicName]) -> Resolved {
        now(Ok(lock(&self.shared.state).index.resolve_start(topics, start, deleted)))
    }

    fn read(&self, topics: &[TopicName], from: ReadFrom, bytes_max: usize) -> Reading {
        if let Some(page) = lock(&self.shared.state).index.read(topics, from, bytes_max) {
            return now(Ok(page));
        }
        let (shared, readers, topics) = (Arc::clone(&self.shared), Arc::clone(&self.readers), topics.to_vec());
        let page = async move {
            let turn = readers.acquire_owned().await.map_err(|_| ReadError)?;
            let plan = move |shared: &Shared| lock(&shared.state).index.plan(&topics, from, bytes_max);
            let fetch = move || {
                // Whoever asked may go meanwhile; the turn is over when the read is.
                let _turn = turn;
                shared.fetch(plan)
            };
            let fetched = tokio::task::spawn_blocking(fetch).await;
            fetched.unwrap_or(Err(ReadError))
        };
        Later::Right(page.boxed())
    }

    fn close(&self) -> BoxFuture<'static, ()> {
        let writer = self.stop();
        tokio::task::spawn_blocking(move || join(writer)).map(drop).boxed()
    }

    fn held(&self, topic: &TopicName) -> Later<Result<Option<Held>, ReadError>> {
        now(Ok(lock(&self.shared.state).index.held(topic)))
    }

    fn deletion(&self, topic: &TopicName) -> Option<(EventId, Duration)> {
        lock(&self.shared.state).index.deletion(topic, self.shared.clock.now().at_ms)
    }

    fn feed(&self) -> Arc<Feed> {
        lock(&self.shared.state).feeds.open()
    }

    fn keys(&self) -> usize {
        self.shared.keys.len()
    }

    /// The writer removes events, between batches.
    fn enforce_retention(&self) {
        self.shared.keys.drop_expired(self.shared.clock.now().at_ms);
    }

    fn unreadable(&self) -> u64 {
        self.shared.unreadable.load(Ordering::Relaxed)
    }

    fn check(&self) -> Result<(), AppendError> {
        if self.shared.failed.borrow().is_some() {
            return Err(AppendError::Unavailable);
        }
        if self.shared.full.load(Ordering::Relaxed) {
            return Err(AppendError::DiskFull);
        }
        if self.queue.is_refusing() { Err(AppendError::QueueFull) } else { Ok(()) }
    }

    fn failed(&self) -> BoxFuture<'static, String> {
        let mut failed = self.shared.failed.subscribe();
        async move {
            let failure = failed.wait_for(Option::is_some).await.map(|failure| failure.clone());
            match failure {
                Ok(failure) => failure.unwrap_or_default(),
                // Closed in order.
                Err(_) => std::future::pending().await,
            }
        }
        .boxed()
    }
}

/// Says that the writer has panicked, when it has: without it the process would refuse every event for ever.
struct Alarm(Arc<Shared>);

impl Drop for Alarm {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.failed.send_replace(Some("the log's writer panicked".to_owned()));
        }
    }
}

fn join(writer: Option<JoinHandle<()>>) {
    if writer.is_some_and(|writer| writer.join().is_err()) {
        tracing::error!("the log's writer panicked");
    }
}
