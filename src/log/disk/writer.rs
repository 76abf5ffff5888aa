//! The writer's thread: collects jobs into batches, writes them, and publishes what is committed.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::Ordering,
        mpsc::{self, RecvTimeoutError},
    },
    time::{Duration, Instant},
};

use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::{
    checkpoints::Checkpoints,
    error::StoreError,
    expiry::Expiry,
    garbage::Garbage,
    high_water::HighWater,
    presence::Presence,
    queue::{Job, Work},
    shared::Shared,
    store::Store,
};
use crate::{
    event::{Event, EventId, TopicName},
    frame,
    log::{
        AppendError, Appended, Commit, Draft, Receipt,
        index::{Entry, Removal},
        keys::Claim,
        mutex::lock,
    },
};

mod attempt;
#[cfg(test)]
mod tests;

/// The files that the writer writes.
pub(super) struct Files {
    pub(super) store: Store,
    pub(super) high_water: HighWater,
    pub(super) presence: Presence,
}

/// The state of the writer's thread.
pub(super) struct Writer {
    files: Files,
    shared: Arc<Shared>,
    /// The last position that was given.
    last: u64,
    /// The files say that positions up to this one may have been given.
    reserved: u64,
    /// The row ids of topics.
    topics: HashMap<TopicName, i64>,
    /// The rows of removed events and topics, which are still in the file.
    garbage: Garbage,
    /// The disk was too full to remove rows. The next maintenance tries again.
    is_removal_postponed: bool,
    /// The index's last step did not meet all retention limits, so another step is needed.
    is_retention_unfinished: bool,
    expiry: Expiry,
    checkpoints: Checkpoints,
}

/// One event or deletion of a batch, with its position.
enum Step {
    Event { event: Arc<Event>, receipt: Receipt, claim: Option<Claim>, done: oneshot::Sender<Appended> },
    Delete { topic: TopicName, seq: u64, done: oneshot::Sender<Result<EventId, AppendError>> },
}

impl Step {
    fn topic(&self) -> &TopicName {
        match self {
            Self::Event { event, .. } => &event.topic,
            Self::Delete { topic, .. } => topic,
        }
    }
}

/// How many jobs one batch may have. The limits keep a batch short, because its first job waits until all are written.
const BATCH_JOBS_MAX: usize = 4096;
/// When a batch has this many bytes of content, no further job is added.
const BATCH_BYTES_MAX: usize = 4 << 20;
/// How often maintenance runs: it enforces retention by age, and removes garbage and expired receipts.
const MAINTENANCE_INTERVAL: Duration = Duration::from_secs(1);

impl Writer {
    /// A writer for an empty file. Receipts are removed after `receipts_for`.
    pub(super) fn new(files: Files, shared: Arc<Shared>, last: u64, receipts_for: Duration) -> Self {
        let expiry = Expiry::new(receipts_for, shared.clock.now());
        let (topics, garbage) = (HashMap::new(), Garbage::default());
        let checkpoints = Checkpoints::default();
        let (is_removal_postponed, is_retention_unfinished) = (false, false);
        Self {
            files,
            shared,
            last,
            reserved: last,
            topics,
            garbage,
            is_removal_postponed,
            is_retention_unfinished,
            expiry,
            checkpoints,
        }
    }

    /// Adds what the file contains: the row ids of its topics, and its garbage.
    pub(super) fn with_contents(self, topics: HashMap<TopicName, i64>, garbage: Garbage) -> Self {
        Self { topics, garbage, ..self }
    }

    /// Does the jobs in the queue until the queue is closed, and then closes the files. Ends early when the disk fails.
    pub(super) fn run(mut self, queue: &mpsc::Receiver<Job>) {
        let mut last_maintenance = Instant::now();
        loop {
            // Removals do not wait for the next job: each batch does a part of them, even a batch without jobs.
            let timeout = if self.has_removals_to_do() { Duration::ZERO } else { MAINTENANCE_INTERVAL };
            let first = match queue.recv_timeout(timeout) {
                Ok(job) => Some(job),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => break,
            };
            let last_before = self.last;
            // The jobs' space in the queue is released after the batch, at the end of this block.
            let (steps, _spaces) = self.collect_batch(first, queue);
            let is_maintenance = last_maintenance.elapsed() >= MAINTENANCE_INTERVAL;
            if is_maintenance {
                last_maintenance = Instant::now();
            }
            if let Err(error) = self.batch(steps, last_before, is_maintenance) {
                return self.shared.fail("cannot be written", &error);
            }
        }
        // Both lower `reserved` to the last position. The mark comes first: a database behind it would count as
        // restored.
        let ended = self.files.high_water.end(self.last).map_err(StoreError::from);
        if let Err(error) = ended.and_then(|()| self.files.store.end(self.last)) {
            tracing::error!(%error, "the log could not be closed cleanly; the next start repairs it");
        }
    }

    /// Whether there is enough to remove that the writer does not wait for the next job.
    fn has_removals_to_do(&self) -> bool {
        self.is_retention_unfinished
            || ((self.garbage.has_full_portion() || self.expiry.has_expired()) && !self.is_removal_postponed)
    }

    /// Collects the jobs in the queue into a batch, up to its limits. Returns its steps, and the jobs' space in the
    /// queue.
    fn collect_batch(
        &mut self,
        first: Option<Job>,
        queue: &mpsc::Receiver<Job>,
    ) -> (Vec<Step>, Vec<OwnedSemaphorePermit>) {
        let (mut steps, mut spaces, mut bytes) = (Vec::new(), Vec::new(), 0);
        let mut next = first;
        while let Some(job) = next {
            spaces.push(job.space);
            steps.push(match job.work {
                Work::Append { draft, claim, done } => {
                    bytes += draft.content.len();
                    self.encode(draft, claim, done)
                }
                Work::Delete { topic, done } => {
                    self.last += 1;
                    Step::Delete { topic, seq: self.last, done }
                }
            });
            let is_full = steps.len() >= BATCH_JOBS_MAX || bytes >= BATCH_BYTES_MAX;
            next = if is_full { None } else { queue.try_recv().ok() };
        }
        (steps, spaces)
    }

    /// Gives `draft` its position and time, and encodes its event.
    fn encode(&mut self, draft: Draft, claim: Option<Claim>, done: oneshot::Sender<Appended>) -> Step {
        self.last += 1;
        let id = EventId { epoch: self.shared.epoch, seq: self.last };
        let time_ms = {
            let mut state = lock(&self.shared.state);
            state.time_ms = self.shared.clock.now().stamp(state.time_ms);
            state.time_ms
        };
        let receipt = Receipt { id, subscribers: draft.subscribers, replayed: false };
        let event = frame::encode(id, time_ms, draft.topic, draft.name, &draft.content);
        Step::Event { event, receipt, claim, done }
    }

    /// Does one step of retention. It is needed without appends, or when the step of the last append did not finish.
    fn enforce_retention(&mut self) {
        let now = self.shared.clock.now();
        let garbage = &mut self.garbage;
        let mut state = lock(&self.shared.state);
        self.is_retention_unfinished = state.index.enforce_retention(now, &mut |removal| garbage.note(removal));
    }

    /// Publishes a committed batch: updates the index, feeds the hubs, and then answers the publishers.
    fn publish(&mut self, steps: Vec<Step>) {
        let mut guard = lock(&self.shared.state);
        let state = &mut *guard;
        state.index.begin_step();
        let garbage = &mut self.garbage;
        let mut note = |removal: Removal<'_>| garbage.note(removal);
        let mono_ms = self.shared.clock.now().mono_ms;
        let (mut answers, mut deletions) = (Vec::with_capacity(steps.len()), Vec::new());
        for step in steps {
            match step {
                Step::Event { event, receipt, claim, done } => {
                    state.index.push(&event.topic, Entry::hot(Arc::clone(&event), mono_ms), &mut note);
                    state.feeds.push(Commit::Event(event));
                    answers.push((claim.map(|claim| claim.number), done, receipt));
                }
                Step::Delete { topic, seq, done } => {
                    state.index.delete(&topic, seq, mono_ms);
                    state.feeds.push(Commit::Deleted(topic.clone(), seq));
                    deletions.push((topic, seq, done));
                }
            }
        }
        self.is_retention_unfinished = state.index.is_behind();
        self.shared.watermark.store(state.index.watermark(), Ordering::Release);
        drop(guard);
        // Sending fails when the publisher no longer waits for the answer. The event is published all the same.
        for (key, done, receipt) in answers {
            if let Some(key) = key {
                self.shared.keys.settle(key, Ok(receipt));
            }
            done.send(Ok(receipt)).ok();
        }
        // After the answers: a deletion only forgets keys that are settled.
        for (topic, seq, done) in deletions {
            self.shared.keys.forget(&topic, seq);
            done.send(Ok(EventId { epoch: self.shared.epoch, seq })).ok();
        }
    }
}
