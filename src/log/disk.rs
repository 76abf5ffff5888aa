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
    collections::HashMap,
    fs::{File, TryLockError},
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc,
    },
    thread::JoinHandle,
    time::Duration,
};

use futures_util::future::{BoxFuture, FutureExt as _};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch},
    time::timeout,
};

use super::{
    Append, AppendError, Draft, Durability, Feed, Feeds, FetchError, Held, KeptReceipt, Log, Page, Placement, Start,
    Wall,
    clock::{self, Clock},
    index::Index,
    lock,
};
use crate::{
    config::{self, LogConfig},
    event::{Epoch, TopicName},
};

mod batch;
mod error;
mod fetch;
mod filesystem;
mod format;
mod garbage;
mod high_water;
mod load;
mod presence;
mod reader;
mod salvage;
mod store;
mod writer;

pub use error::{OpenError, StoreError};
use reader::Reader;

use writer::{Job, Work};

/// The log on disk.
pub struct DiskLog {
    shared: Arc<Shared>,
    /// Room in the queue, in units of [`ROOM_UNIT`].
    room: Arc<Semaphore>,
    queue_wait: Duration,
    jobs: Mutex<Option<Arc<mpsc::Sender<Job>>>>,
    writer: Mutex<Option<JoinHandle<()>>>,
    readers: Arc<Semaphore>,
    /// Held for as long as the directory is ours.
    _lock: File,
}

/// What the writer and the readers share with the workers.
struct Shared {
    epoch: Epoch,
    durability: config::Durability,
    file: PathBuf,
    clock: Clock,
    watermark: AtomicU64,
    state: Mutex<State>,
    /// Set for good when the disk has failed; the process must end.
    failed: watch::Sender<Option<String>>,
    /// The last batch did not fit on the disk.
    full: AtomicBool,
    idle_readers: Mutex<Vec<Reader>>,
    /// Events that could not be read since the start.
    unreadable: AtomicU64,
}

struct State {
    index: Index,
    /// Time of the newest event.
    time_ms: u64,
    feeds: Feeds,
    /// Receipts from before the start that no topic has asked for yet.
    receipts: HashMap<TopicName, Vec<KeptReceipt>>,
}

/// What one unit of the queue's room stands for.
const ROOM_UNIT: usize = 1 << 10;
/// Reads of the disk under way at once, over all workers.
const READERS: usize = 4;

impl DiskLog {
    /// Opens the log in the directory `config.path`, which is made if need be. Takes a while when there is much in it,
    /// and says so.
    pub fn open(config: &LogConfig, receipts_for: Duration) -> Result<Self, OpenError> {
        Self::with_wall(config, receipts_for, clock::system())
    }

    /// As [`open`](Self::open), by another clock.
    pub fn with_wall(config: &LogConfig, receipts_for: Duration, wall: Wall) -> Result<Self, OpenError> {
        let path = &config.path;
        let in_directory = |source| OpenError::Directory { path: path.clone(), source };
        filesystem::create_directory(path).map_err(in_directory)?;
        if let Some(kind) = filesystem::network(path).map_err(in_directory)? {
            return Err(OpenError::Network { path: path.clone(), kind });
        }
        let lock_file = File::create(path.join("lock")).map_err(in_directory)?;
        lock_file.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => OpenError::InUse { path: path.clone() },
            TryLockError::Error(source) => in_directory(source),
        })?;
        let file = path.join("tidings.db");
        let (shared, writer) = load::load(&file, config, receipts_for, Clock::new(wall))
            .map_err(|source| OpenError::Store { path: file.clone(), source })?;
        // The file's own name must survive a power cut, too.
        filesystem::sync_directory(path).map_err(in_directory)?;
        let (jobs, queue) = mpsc::channel();
        let alarmed = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("log".to_owned()).spawn(move || {
            let _alarm = Alarm(Arc::clone(&alarmed));
            writer.run(&queue);
        });
        Ok(Self {
            shared,
            room: Arc::new(Semaphore::new(config.queue_bytes_max.to_usize() / ROOM_UNIT)),
            queue_wait: config.queue_wait,
            jobs: Mutex::new(Some(Arc::new(jobs))),
            writer: Mutex::new(Some(thread.map_err(in_directory)?)),
            readers: Arc::new(Semaphore::new(READERS)),
            _lock: lock_file,
        })
    }

    /// Closes the queue; the writer ends when it has written what is in it.
    fn stop(&self) -> Option<JoinHandle<()>> {
        lock(&self.jobs).take();
        lock(&self.writer).take()
    }

    /// Queues `work`, waiting a while for room, and gives its outcome.
    fn queue<T: Send + 'static>(
        &self,
        bytes: usize,
        work: impl FnOnce(oneshot::Sender<Result<T, AppendError>>) -> Work + Send + 'static,
    ) -> BoxFuture<'static, Result<T, AppendError>> {
        let (done, outcome) = oneshot::channel();
        let units = u32::try_from(1 + bytes / ROOM_UNIT).unwrap_or(u32::MAX);
        let Some(jobs) = lock(&self.jobs).as_ref().map(Arc::downgrade) else {
            return std::future::ready(Err(AppendError::Unavailable)).boxed();
        };
        // Weak: the writer ends when the log lets go of the queue, not when the last of those who wait for room does.
        let send = move |room: OwnedSemaphorePermit| {
            let jobs = jobs.upgrade().ok_or(AppendError::Unavailable)?;
            jobs.send(Job { work: work(done), room }).map_err(|_| AppendError::Unavailable)
        };
        // A writer that ends without an answer has failed in the middle of it.
        let outcome = outcome.map(|outcome| outcome.unwrap_or(Err(AppendError::Unknown)));
        if let Ok(room) = Arc::clone(&self.room).try_acquire_many_owned(units) {
            // At once, not when it is polled: the order of the calls is the order of the log.
            let queued = send(room);
            return async move { queued.and(outcome.await) }.boxed();
        }
        let (room, wait) = (Arc::clone(&self.room), self.queue_wait);
        let queued = async move {
            let room = timeout(wait, room.acquire_many_owned(units)).await;
            send(room.map_err(|_| AppendError::QueueFull)?.map_err(|_| AppendError::Unavailable)?)?;
            outcome.await
        };
        queued.boxed()
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
            config::Durability::Disk => Durability::Disk,
            config::Durability::Os => Durability::Os,
        }
    }

    fn watermark(&self) -> u64 {
        self.shared.watermark.load(Ordering::Acquire)
    }

    fn append(&self, draft: Draft) -> Append {
        Append::Right(self.queue(draft.content.len(), |done| Work::Append { draft, done }))
    }

    fn forget(&self, topic: &TopicName) -> BoxFuture<'static, Result<u64, AppendError>> {
        let topic = topic.clone();
        self.queue(0, |done| Work::Forget { topic, done })
    }

    fn read(&self, topics: &[TopicName], after: u64, told_to: u64, bytes_max: usize) -> Page {
        lock(&self.shared.state).index.read(topics, after, told_to, bytes_max)
    }

    fn fetch(
        &self,
        topics: Vec<TopicName>,
        after: u64,
        told_to: u64,
        bytes_max: usize,
    ) -> BoxFuture<'static, Result<Page, FetchError>> {
        let (shared, readers) = (Arc::clone(&self.shared), Arc::clone(&self.readers));
        async move {
            let turn = readers.acquire_owned().await.map_err(|_| FetchError)?;
            let plan = move |shared: &Shared| lock(&shared.state).index.plan(&topics, after, told_to, bytes_max);
            let fetch = move || {
                // Whoever asked may go meanwhile; the turn is over when the read is.
                let _turn = turn;
                shared.fetch(plan)
            };
            let fetched = tokio::task::spawn_blocking(fetch).await;
            fetched.unwrap_or(Err(FetchError))
        }
        .boxed()
    }

    fn close(&self) -> BoxFuture<'static, ()> {
        let writer = self.stop();
        tokio::task::spawn_blocking(move || join(writer)).map(drop).boxed()
    }

    fn place(&self, topics: &[TopicName], start: &Start) -> Placement {
        lock(&self.shared.state).index.place(topics, start)
    }

    fn held(&self, topic: &TopicName) -> Option<Held> {
        lock(&self.shared.state).index.held(topic)
    }

    fn receipts(&self, topic: &TopicName) -> Vec<KeptReceipt> {
        lock(&self.shared.state).receipts.remove(topic).unwrap_or_default()
    }

    fn feed(&self) -> Arc<Feed> {
        lock(&self.shared.state).feeds.open()
    }

    /// The writer does it, between batches.
    fn tend(&self) {}

    fn unreadable(&self) -> u64 {
        self.shared.unreadable.load(Ordering::Relaxed)
    }

    fn check(&self) -> Result<(), AppendError> {
        if self.shared.failed.borrow().is_some() {
            return Err(AppendError::Unavailable);
        }
        if self.shared.full.load(Ordering::Relaxed) { Err(AppendError::DiskFull) } else { Ok(()) }
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

impl Shared {
    /// Says that the disk has failed. The first report counts.
    fn fail(&self, what: &str, error: &StoreError) {
        self.failed.send_if_modified(|failed| {
            let first = failed.is_none();
            if first {
                *failed = Some(format!("{}: {what}: {error}", self.file.display()));
            }
            first
        });
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
