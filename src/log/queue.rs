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

use super::{
    Append, AppendError, Draft, Receipt,
    keys::{Claim, KeyUse, Keys},
    mutex::lock,
};
use crate::{
    event::{EventId, TopicName},
    later::{Later, NotYet, known},
};

/// A job for the writer.
pub(super) struct Job {
    pub(super) work: Work,
    /// Its space in the queue, which is released when the job is done.
    pub(super) space: OwnedSemaphorePermit,
}

/// What a job does. The writer sends its outcome to `done`.
pub(super) enum Work {
    Append { draft: Draft, claim: Option<Claim>, done: Done<Receipt> },
    Delete { topic: TopicName, done: Done<EventId> },
}

/// The end of a channel that takes jobs. A writer that is a thread has another kind of channel than one that is a task.
pub(super) trait Jobs: Clone + Send + Sync + 'static {
    /// Returns `false` when the writer has ended.
    fn put(&self, job: Job) -> bool;
}

impl Jobs for std::sync::mpsc::Sender<Job> {
    fn put(&self, job: Job) -> bool {
        self.send(job).is_ok()
    }
}

impl Jobs for tokio::sync::mpsc::Sender<Job> {
    fn put(&self, job: Job) -> bool {
        // It has room for every job that can have space in the queue: see `jobs_max`.
        self.try_send(job).is_ok()
    }
}

/// How many jobs a queue of so many bytes can have.
pub(super) fn jobs_max(bytes_max: usize) -> usize {
    bytes_max / SPACE_UNIT
}

/// The state of an engine, as far as the queue needs it.
pub(super) trait KeyHolder: Send + Sync + 'static {
    fn keys(&self) -> &Keys;
    /// The monotonic time.
    fn mono_ms(&self) -> u64;
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
    /// All its space, in the same units.
    units: usize,
    /// `log.queue_wait`.
    wait: Duration,
    /// `None` once the log is closed.
    jobs: Mutex<Option<J>>,
    /// A job waited for space until the timeout, and no job has got space since.
    has_timed_out: AtomicBool,
}

impl<J: Jobs> Queue<J> {
    /// An empty queue, whose jobs go to `jobs`.
    pub(super) fn new(bytes_max: usize, wait: Duration, jobs: J) -> Self {
        let units = jobs_max(bytes_max);
        let space = Arc::new(Semaphore::new(units));
        Self { space, units, wait, jobs: Mutex::new(Some(jobs)), has_timed_out: AtomicBool::new(false) }
    }

    /// Stops accepting jobs. The writer ends when it has done the jobs in the queue.
    pub(super) fn close(&self) {
        lock(&self.jobs).take();
    }

    /// Bytes of the jobs that are in the queue or are being written, in whole units.
    pub(super) fn used_bytes(&self) -> usize {
        self.units.saturating_sub(self.space.available_permits()) * SPACE_UNIT
    }

    /// Whether a new job would probably be refused.
    pub(super) fn is_refusing(&self) -> bool {
        self.has_timed_out.load(Ordering::Relaxed) && self.space.available_permits() == 0
    }

    /// Queues the append of `draft`, unless its key was used before. Then returns the outcome of the first publish with
    /// the key.
    pub(super) fn append<S: KeyHolder>(self: &Arc<Self>, holder: &Arc<S>, draft: Draft) -> Append {
        let bytes = draft.content.len();
        let Some(used) = KeyUse::of(&draft) else {
            return self.reserve_and_put(bytes, |done| Work::Append { draft, claim: None, done });
        };
        // The key is claimed (noted as used) only once there is space in the queue. If the key were claimed before, a
        // publisher that disconnects during the wait would leave a key without an event.
        if let Some(space) = self.try_reserve(bytes) {
            return self.put_once(&**holder, draft, used, space);
        }
        // A retry does not wait for space.
        if let Some(answer) = holder.keys().find(&used, holder.mono_ms()) {
            return answer;
        }
        let (holder, queue) = (Arc::clone(holder), Arc::clone(self));
        let append = async move {
            let space = queue.reserve(bytes).await?;
            queue.put_once(&*holder, draft, used, space).await
        };
        NotYet(append.boxed())
    }

    /// Queues the deletion of `topic`.
    pub(super) fn delete(self: &Arc<Self>, topic: TopicName) -> Later<Result<EventId, AppendError>> {
        self.reserve_and_put(0, |done| Work::Delete { topic, done })
    }

    /// Queues a draft with a key, unless the key was used before.
    fn put_once(&self, holder: &impl KeyHolder, draft: Draft, used: KeyUse, space: OwnedSemaphorePermit) -> Append {
        holder.keys().append_once(used, holder.mono_ms(), |claim| {
            self.put(space, |done| Work::Append { draft, claim: Some(claim), done })
        })
    }

    /// Reserves space for `bytes`, unless other jobs wait for space or there is too little.
    fn try_reserve(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let space = Arc::clone(&self.space).try_acquire_many_owned(units(bytes)).ok()?;
        self.has_timed_out.store(false, Ordering::Relaxed);
        Some(space)
    }

    /// Reserves space for `bytes`, and waits for it up to `log.queue_wait`.
    async fn reserve(&self, bytes: usize) -> Result<OwnedSemaphorePermit, AppendError> {
        let waited = timeout(self.wait, Arc::clone(&self.space).acquire_many_owned(units(bytes))).await;
        self.has_timed_out.store(waited.is_err(), Ordering::Relaxed);
        waited.map_err(|_| AppendError::QueueFull)?.map_err(|_| AppendError::Unavailable)
    }

    /// Queues `work` at once, in space that was reserved, and returns its outcome. When the queue is closed, the
    /// outcome is an error.
    fn put<T: Send + 'static>(
        &self,
        space: OwnedSemaphorePermit,
        work: impl FnOnce(Done<T>) -> Work,
    ) -> Later<Result<T, AppendError>> {
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
    fn reserve_and_put<T: Send + 'static>(
        self: &Arc<Self>,
        bytes: usize,
        work: impl FnOnce(Done<T>) -> Work + Send + 'static,
    ) -> Later<Result<T, AppendError>> {
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
