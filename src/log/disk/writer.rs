//! The writer's thread: what makes a batch, and what the world is told of it when it is committed.

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
        index::{Entry, Removed},
        keys::Claim,
        mutex::lock,
    },
};

mod attempt;
#[cfg(test)]
mod tests;

/// What the writer writes to.
pub(super) struct Files {
    pub(super) store: Store,
    pub(super) high_water: HighWater,
    pub(super) presence: Presence,
}

pub(super) struct Writer {
    files: Files,
    shared: Arc<Shared>,
    /// The last position given.
    last: u64,
    /// Positions that the file knows may have been given.
    reserved: u64,
    /// Row ids of topics.
    topics: HashMap<TopicName, i64>,
    garbage: Garbage,
    /// There was no room to remove what is no longer held: it waits for the next time that all is looked after.
    is_cramped: bool,
    /// Retention has more to do than a step of it does.
    behind: bool,
    expiry: Expiry,
    checkpoints: Checkpoints,
}

/// A step of a batch, with its position.
enum Step {
    Event { event: Arc<Event>, receipt: Receipt, claim: Option<Claim>, done: oneshot::Sender<Appended> },
    Forget { topic: TopicName, seq: u64, done: oneshot::Sender<Result<EventId, AppendError>> },
}

impl Step {
    fn topic(&self) -> &TopicName {
        match self {
            Self::Event { event, .. } => &event.topic,
            Self::Forget { topic, .. } => topic,
        }
    }
}

/// Jobs and bytes that make one transaction at most, so that the first of them need not wait long for the last.
const BATCH_JOBS_MAX: usize = 4096;
const BATCH_BYTES_MAX: usize = 4 << 20;
/// How often retention by age, garbage and old receipts are looked after.
const TEND: Duration = Duration::from_secs(1);

impl Writer {
    pub(super) fn new(files: Files, shared: Arc<Shared>, last: u64, receipts_for: Duration) -> Self {
        let expiry = Expiry::new(receipts_for, shared.clock.now());
        let (topics, garbage) = (HashMap::new(), Garbage::default());
        let checkpoints = Checkpoints::default();
        let (is_cramped, behind, reserved) = (false, false, last);
        Self { files, shared, last, reserved, topics, garbage, is_cramped, behind, expiry, checkpoints }
    }

    /// What is known of the file: the rows of its topics, and what in it is no longer held.
    pub(super) fn with(self, topics: HashMap<TopicName, i64>, garbage: Garbage) -> Self {
        Self { topics, garbage, ..self }
    }

    /// Works until the queue is closed, then closes the file; or until the disk fails.
    pub(super) fn run(mut self, queue: &mpsc::Receiver<Job>) {
        let mut tended = Instant::now();
        loop {
            // What is left to remove goes between the batches.
            let first = match queue.recv_timeout(if self.is_behind() { Duration::ZERO } else { TEND }) {
                Ok(job) => Some(job),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => break,
            };
            let begun = self.last;
            // The room is given back when the batch is through.
            let (steps, _rooms) = self.collect(first, queue);
            let tend = tended.elapsed() >= TEND;
            if tend {
                tended = Instant::now();
            }
            if let Err(error) = self.batch(steps, begun, tend) {
                return self.shared.fail("cannot be written", &error);
            }
        }
        // In this order, because it takes back what was reserved and not given.
        let ended = self.files.high_water.end(self.last).map_err(StoreError::from);
        if let Err(error) = ended.and_then(|()| self.files.store.end(self.last)) {
            tracing::error!(%error, "the log could not be closed in order; the next start repairs it");
        }
    }

    /// Whether there is something to do at once, whoever publishes.
    fn is_behind(&self) -> bool {
        self.behind || ((self.garbage.has_full_portion() || self.expiry.has_expired()) && !self.is_cramped)
    }

    /// What makes the next batch: all that has queued, up to a limit.
    fn collect(&mut self, first: Option<Job>, queue: &mpsc::Receiver<Job>) -> (Vec<Step>, Vec<OwnedSemaphorePermit>) {
        let (mut steps, mut rooms, mut bytes) = (Vec::new(), Vec::new(), 0);
        let mut next = first;
        while let Some(job) = next {
            rooms.push(job.room);
            steps.push(match job.work {
                Work::Append { draft, claim, done } => {
                    bytes += draft.content.len();
                    self.event(draft, claim, done)
                }
                Work::Forget { topic, done } => {
                    self.last += 1;
                    Step::Forget { topic, seq: self.last, done }
                }
            });
            let full = steps.len() >= BATCH_JOBS_MAX || bytes >= BATCH_BYTES_MAX;
            next = if full { None } else { queue.try_recv().ok() };
        }
        (steps, rooms)
    }

    fn event(&mut self, draft: Draft, claim: Option<Claim>, done: oneshot::Sender<Appended>) -> Step {
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

    /// A step of retention that no append has triggered, or could not finish.
    fn retain(&mut self) {
        let now = self.shared.clock.now();
        let garbage = &mut self.garbage;
        let mut state = lock(&self.shared.state);
        state.index.begin_step();
        state.index.observe(now.wall_ms);
        state.index.trim(now.at_ms, &mut |removed| garbage.note(removed));
        self.behind = state.index.is_behind();
    }

    /// Lets the world know of a batch that is committed.
    fn publish(&mut self, steps: Vec<Step>) {
        let mut guard = lock(&self.shared.state);
        let state = &mut *guard;
        state.index.begin_step();
        let garbage = &mut self.garbage;
        let mut note = |removed: Removed<'_>| garbage.note(removed);
        let now_ms = self.shared.clock.now().at_ms;
        let (mut answers, mut deletions) = (Vec::with_capacity(steps.len()), Vec::new());
        for step in steps {
            match step {
                Step::Event { event, receipt, claim, done } => {
                    state.index.push(&event.topic, Entry::hot(Arc::clone(&event), now_ms), &mut note);
                    state.feeds.push(Commit::Event(event));
                    answers.push((claim.map(|claim| claim.number), done, receipt));
                }
                Step::Forget { topic, seq, done } => {
                    state.index.forget(&topic, seq, now_ms);
                    state.feeds.push(Commit::Deleted(topic.clone(), seq));
                    deletions.push((topic, seq, done));
                }
            }
        }
        self.behind = state.index.is_behind();
        self.shared.watermark.store(state.index.watermark(), Ordering::Release);
        drop(guard);
        // Whoever asked has gone where an answer is not taken; what was done stands.
        for (key, done, receipt) in answers {
            if let Some(key) = key {
                self.shared.keys.settle(key, Ok(receipt));
            }
            done.send(Ok(receipt)).ok();
        }
        // After what was published before: its keys are settled by now.
        for (topic, seq, done) in deletions {
            self.shared.keys.forget(&topic, seq);
            done.send(Ok(EventId { epoch: self.shared.epoch, seq })).ok();
        }
    }
}
