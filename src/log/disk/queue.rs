//! The way to the writer: a queue that is bounded in bytes, and room in it.
//!
//! What has been queued has its place in the log's order, and is driven by the writer's thread. What waits for room has
//! nothing yet, and is driven by the future that waits: when it is dropped, the next one in line has the room.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    time::Duration,
};

use futures_util::future::{BoxFuture, Either, FutureExt as _, Ready, ready};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, oneshot},
    time::timeout,
};

use crate::event::{EventId, TopicName};
use crate::log::{AppendError, Appended, Draft, keys::Claim, mutex::lock};

/// Something for the writer to do, and the room in the queue that it takes until it is done.
pub(super) struct Job {
    pub(super) work: Work,
    pub(super) room: OwnedSemaphorePermit,
}

pub(super) enum Work {
    Append { draft: Draft, claim: Option<Claim>, done: oneshot::Sender<Appended> },
    Forget { topic: TopicName, done: oneshot::Sender<Result<EventId, AppendError>> },
}

/// What one unit of room stands for.
const ROOM_UNIT: usize = 1 << 10;

/// Where the writer tells the outcome of a job.
pub(super) type Done<T> = oneshot::Sender<Result<T, AppendError>>;

/// How a job ends, as [`Append`](crate::log::Append).
pub(super) type Outcome<T> = Either<Ready<Result<T, AppendError>>, BoxFuture<'static, Result<T, AppendError>>>;

pub(super) struct Queue {
    /// In units of [`ROOM_UNIT`]. Those who wait are served in order, so nothing that comes later overtakes them.
    room: Arc<Semaphore>,
    /// `log.queue_wait`.
    wait: Duration,
    /// `None` once the log is closed.
    jobs: Mutex<Option<Arc<mpsc::Sender<Job>>>>,
    /// Something was refused for want of room, and nothing has been given room since.
    refused: AtomicBool,
}

impl Queue {
    pub(super) fn new(bytes_max: usize, wait: Duration) -> (Self, mpsc::Receiver<Job>) {
        let (jobs, queue) = mpsc::channel();
        let room = Arc::new(Semaphore::new(bytes_max / ROOM_UNIT));
        (Self { room, wait, jobs: Mutex::new(Some(Arc::new(jobs))), refused: AtomicBool::new(false) }, queue)
    }

    /// Takes nothing any more; the writer ends when it has written what is in it.
    pub(super) fn close(&self) {
        lock(&self.jobs).take();
    }

    /// Whether what comes now would be refused, as far as is known.
    pub(super) fn is_refusing(&self) -> bool {
        self.refused.load(Ordering::Relaxed) && self.room.available_permits() == 0
    }

    /// Room for `bytes`, if there is some and nobody waits for it.
    pub(super) fn room_at_once(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let room = Arc::clone(&self.room).try_acquire_many_owned(units(bytes)).ok()?;
        if self.refused.load(Ordering::Relaxed) {
            self.refused.store(false, Ordering::Relaxed);
        }
        Some(room)
    }

    /// Waits for room for `bytes`, as long as may be.
    pub(super) async fn room(&self, bytes: usize) -> Result<OwnedSemaphorePermit, AppendError> {
        let waited = timeout(self.wait, Arc::clone(&self.room).acquire_many_owned(units(bytes))).await;
        self.refused.store(waited.is_err(), Ordering::Relaxed);
        waited.map_err(|_| AppendError::QueueFull)?.map_err(|_| AppendError::Unavailable)
    }

    /// Queues `work`, now, and gives its outcome; at once when nothing is taken any more.
    pub(super) fn put<T: Send + 'static>(
        &self,
        room: OwnedSemaphorePermit,
        work: impl FnOnce(Done<T>) -> Work,
    ) -> Outcome<T> {
        let (done, outcome) = oneshot::channel();
        let jobs = lock(&self.jobs).clone();
        let queued = jobs.and_then(|jobs| jobs.send(Job { work: work(done), room }).ok());
        if queued.is_none() {
            return Outcome::Left(ready(Err(AppendError::Unavailable)));
        }
        // A writer that ends without an answer has failed in the middle of it.
        Outcome::Right(outcome.map(|outcome| outcome.unwrap_or(Err(AppendError::Unknown))).boxed())
    }

    /// Queues `work`, after a wait for room if there is none, and gives its outcome.
    pub(super) fn put_in_turn<T: Send + 'static>(
        self: &Arc<Self>,
        bytes: usize,
        work: impl FnOnce(Done<T>) -> Work + Send + 'static,
    ) -> Outcome<T> {
        if let Some(room) = self.room_at_once(bytes) {
            // At once, not when it is polled: the order of the calls is the order of the log.
            return self.put(room, work);
        }
        let queue = Arc::clone(self);
        let outcome = async move {
            let room = queue.room(bytes).await?;
            queue.put(room, work).await
        };
        Outcome::Right(outcome.boxed())
    }
}

fn units(bytes: usize) -> u32 {
    u32::try_from(1 + bytes / ROOM_UNIT).unwrap_or(u32::MAX)
}
