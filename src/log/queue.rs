//! The queue of jobs for an engine's writer, bounded in bytes.
//!
//! A job first reserves space in the queue, and is then queued. The order in the queue is the order of the log. The
//! writer does every queued job, even if nobody waits for the outcome. A job that waits for space is not queued yet:
//! when its future is dropped, the job is never done, and the next waiting job gets the space.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::FutureExt as _;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, oneshot},
    time::timeout,
};

use super::{AppendError, mutex::lock};
use crate::later::{Later, NotYet, known};

/// A job for the writer. What it does is up to the engine.
pub(super) struct Job<W> {
    pub(super) work: W,
    /// Its space in the queue, which is released when the job is done.
    pub(super) space: OwnedSemaphorePermit,
}

/// The end of a channel that takes jobs. A writer that is a thread has another kind of channel than one that is a task.
pub(super) trait Jobs<W>: Clone {
    /// Returns `false` when the writer has ended.
    fn put(&self, job: Job<W>) -> bool;
}

impl<W> Jobs<W> for std::sync::mpsc::Sender<Job<W>> {
    fn put(&self, job: Job<W>) -> bool {
        self.send(job).is_ok()
    }
}

impl<W> Jobs<W> for tokio::sync::mpsc::UnboundedSender<Job<W>> {
    fn put(&self, job: Job<W>) -> bool {
        self.send(job).is_ok()
    }
}

/// The queue's space is reserved in units of so many bytes.
const SPACE_UNIT: usize = 1 << 10;

/// Where the outcome of a job is sent.
pub(super) type Done<T> = oneshot::Sender<Result<T, AppendError>>;

/// The queue. The channel `J` takes its jobs.
pub(super) struct Queue<J> {
    /// The free space, in units of [`SPACE_UNIT`]. The semaphore is fair, so waiting jobs get space in order of
    /// arrival.
    space: Arc<Semaphore>,
    /// `log.queue_wait`.
    wait: Duration,
    /// `None` once the log is closed.
    jobs: Mutex<Option<J>>,
    /// A job waited for space until the timeout, and no job has got space since.
    has_timed_out: AtomicBool,
}

impl<J> Queue<J> {
    /// An empty queue, whose jobs go to `jobs`.
    pub(super) fn new(bytes_max: usize, wait: Duration, jobs: J) -> Self {
        let space = Arc::new(Semaphore::new(bytes_max / SPACE_UNIT));
        Self { space, wait, jobs: Mutex::new(Some(jobs)), has_timed_out: AtomicBool::new(false) }
    }

    /// Stops accepting jobs. The writer ends when it has done the jobs in the queue.
    pub(super) fn close(&self) {
        lock(&self.jobs).take();
    }

    /// Whether a new job would probably be refused.
    pub(super) fn is_refusing(&self) -> bool {
        self.has_timed_out.load(Ordering::Relaxed) && self.space.available_permits() == 0
    }

    /// Reserves space for `bytes`, unless other jobs wait for space or there is too little.
    pub(super) fn try_reserve(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let space = Arc::clone(&self.space).try_acquire_many_owned(units(bytes)).ok()?;
        self.has_timed_out.store(false, Ordering::Relaxed);
        Some(space)
    }

    /// Reserves space for `bytes`, and waits for it up to `log.queue_wait`.
    pub(super) async fn reserve(&self, bytes: usize) -> Result<OwnedSemaphorePermit, AppendError> {
        let waited = timeout(self.wait, Arc::clone(&self.space).acquire_many_owned(units(bytes))).await;
        self.has_timed_out.store(waited.is_err(), Ordering::Relaxed);
        waited.map_err(|_| AppendError::QueueFull)?.map_err(|_| AppendError::Unavailable)
    }

    /// Queues `work` at once, in space that was reserved, and returns its outcome. When the queue is closed, the
    /// outcome is an error.
    pub(super) fn put<W, T: Send + 'static>(
        &self,
        space: OwnedSemaphorePermit,
        work: impl FnOnce(Done<T>) -> W,
    ) -> Later<Result<T, AppendError>>
    where
        J: Jobs<W>,
    {
        let (done, outcome) = oneshot::channel();
        let jobs = lock(&self.jobs).clone();
        let is_queued = jobs.is_some_and(|jobs| jobs.put(Job { work: work(done), space }));
        if !is_queued {
            return known(Err(AppendError::Unavailable));
        }
        // No answer means that the writer has ended. The job may be done or not.
        NotYet(outcome.map(|outcome| outcome.unwrap_or(Err(AppendError::Unknown))).boxed())
    }

    /// Reserves space for `bytes`, queues `work`, and returns its outcome.
    pub(super) fn reserve_and_put<W, T: Send + 'static>(
        self: &Arc<Self>,
        bytes: usize,
        work: impl FnOnce(Done<T>) -> W + Send + 'static,
    ) -> Later<Result<T, AppendError>>
    where
        J: Jobs<W> + Send + Sync + 'static,
    {
        if let Some(space) = self.try_reserve(bytes) {
            // The job is queued now, not when the future is polled, so that the order of the calls is the order of the
            // log.
            return self.put(space, work);
        }
        let queue = Arc::clone(self);
        let outcome = async move {
            let space = queue.reserve(bytes).await?;
            queue.put(space, work).await
        };
        NotYet(outcome.boxed())
    }
}

/// The space for a job with `bytes` of content, in units. A job without content needs one unit, so that the number of
/// jobs is bounded, too.
fn units(bytes: usize) -> u32 {
    u32::try_from(1 + bytes / SPACE_UNIT).unwrap_or(u32::MAX)
}
