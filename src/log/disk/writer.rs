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

use tokio::sync::OwnedSemaphorePermit;

use super::{
    checkpoints::Checkpoints,
    error::StoreError,
    expiry::Expiry,
    garbage::Garbage,
    high_water::HighWater,
    presence::Presence,
    shared::{Shared, State},
    store::Store,
};
use crate::{
    event::{Event, EventId, TopicName},
    frame,
    log::{
        Commit, Receipt,
        index::Entry,
        keys::Claim,
        mutex::lock,
        queue::{Done, Job, Work},
    },
};

mod batch;
#[cfg(test)]
mod tests;

/// The state of the writer's thread.
pub(super) struct Writer {
    pub(super) store: Store,
    pub(super) high_water: HighWater,
    pub(super) presence: Presence,
    pub(super) shared: Arc<Shared>,
    /// The last position that was given. After a start, the last reserved position.
    pub(super) last: u64,
    /// The time of the last event.
    pub(super) time_ms: u64,
    /// The last reserved position.
    pub(super) reserved: u64,
    /// A cache of the row ids of topics. It is cleared when a batch cannot be committed: then the rows that the batch
    /// added do not exist.
    pub(super) topics: HashMap<TopicName, i64>,
    pub(super) garbage: Garbage,
    /// The disk was too full to remove rows. The next maintenance tries again.
    pub(super) is_removal_postponed: bool,
    /// What [`Index::needs_step`](crate::log::index::Index::needs_step) returned after the last step.
    pub(super) needs_retention_step: bool,
    pub(super) expiry: Expiry,
    pub(super) checkpoints: Checkpoints,
}

/// One event or deletion of a batch, with its position. The answer is sent to `done`.
enum Change {
    Event { event: Arc<Event>, receipt: Receipt, claim: Option<Claim>, done: Done<Receipt> },
    Deletion { topic: TopicName, seq: u64, done: Done<EventId> },
}

/// How many jobs one batch may have. Both limits keep a batch short, because the first job of a batch waits until all
/// its jobs are written.
const BATCH_JOBS_MAX: usize = 4096;
/// When a batch has this many bytes of content, no further job is added.
const BATCH_BYTES_MAX: usize = 4 << 20;
/// How often maintenance runs.
const MAINTENANCE_INTERVAL: Duration = Duration::from_secs(1);

impl Writer {
    /// Does the jobs in the queue until the queue is closed, and then closes the files. Ends early when the disk fails.
    pub(super) fn run(mut self, queue: &mpsc::Receiver<Job>) {
        let mut last_maintenance = Instant::now();
        loop {
            // Removals do not wait for the next job. Each batch does a part of the removals, even a batch without jobs.
            let timeout = if self.has_removals_to_do() { Duration::ZERO } else { MAINTENANCE_INTERVAL };
            let first = match queue.recv_timeout(timeout) {
                Ok(job) => Some(job),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => break,
            };
            // The jobs' space in the queue is released after the batch, at the end of this block.
            let (changes, _spaces) = self.collect_batch(first, queue);
            let is_maintenance = last_maintenance.elapsed() >= MAINTENANCE_INTERVAL;
            if is_maintenance {
                last_maintenance = Instant::now();
            }
            let events = changes.iter().filter(|change| matches!(change, Change::Event { .. })).count();
            let (has_changes, begun) = (!changes.is_empty(), Instant::now());
            let written = self.write_batch(changes, is_maintenance);
            // A batch that does not fit on the disk is refused, which is no error.
            if has_changes && written.is_ok() && !self.shared.full.load(Ordering::Relaxed) {
                self.shared.times.commit.add(begun.elapsed(), 1);
                self.shared.times.events.add(u64::try_from(events).unwrap_or_default());
            }
            if let Err(error) = written {
                let reason = format!("{}: cannot be written: {error}", self.shared.file.display());
                self.shared.failed.set(reason).ok();
                return;
            }
        }
        // In both files, `reserved` becomes the last position. The high-water file comes first: a database with a lower
        // `reserved` than this file counts as restored from a backup.
        let ended = self.high_water.end(self.last).map_err(StoreError::from);
        if let Err(error) = ended.and_then(|()| self.store.end(self.last)) {
            tracing::error!(%error, "the log could not be closed cleanly; the next start repairs it");
        }
    }

    /// Whether there is so much to remove that the writer does not wait for the next job.
    fn has_removals_to_do(&self) -> bool {
        self.needs_retention_step
            || ((self.garbage.has_full_portion() || self.expiry.has_expired()) && !self.is_removal_postponed)
    }

    /// Collects the jobs in the queue into a batch, up to its limits. Returns its changes, and the jobs' space in the
    /// queue.
    fn collect_batch(
        &mut self,
        first: Option<Job>,
        queue: &mpsc::Receiver<Job>,
    ) -> (Vec<Change>, Vec<OwnedSemaphorePermit>) {
        let (mut changes, mut spaces, mut bytes) = (Vec::new(), Vec::new(), 0);
        let mut next = first;
        while let Some(Job { work, space }) = next {
            spaces.push(space);
            if let Work::Append { draft, .. } = &work {
                bytes += draft.content.len();
            }
            changes.push(self.place(work));
            let is_full = changes.len() >= BATCH_JOBS_MAX || bytes >= BATCH_BYTES_MAX;
            next = if is_full { None } else { queue.try_recv().ok() };
        }
        (changes, spaces)
    }

    /// Gives the next position to an event or deletion, and its time to an event.
    fn place(&mut self, work: Work) -> Change {
        self.last += 1;
        match work {
            Work::Delete { topic, done } => Change::Deletion { topic, seq: self.last, done },
            Work::Append { draft, claim, done } => {
                let id = EventId { epoch: self.shared.epoch, seq: self.last };
                self.time_ms = self.shared.clock.read().stamp(self.time_ms);
                let receipt = Receipt { id, subscribers: draft.subscribers, replayed: false };
                let event = frame::encode(id, self.time_ms, draft.topic, draft.name, &draft.content);
                Change::Event { event, receipt, claim, done }
            }
        }
    }

    /// Does one step of retention, for events that become too old without an append, or that the last append left in
    /// the index because its step was full.
    fn enforce_retention(&mut self) {
        let now = self.shared.clock.read();
        let mut state = lock(&self.shared.state);
        self.needs_retention_step = state.index.enforce_retention(now, &mut |removal| self.garbage.note(removal));
    }

    /// Publishes a committed batch: updates the index, feeds the hubs, and then answers the publishers.
    fn publish(&mut self, changes: Vec<Change>) {
        let mono_ms = self.shared.clock.read().mono_ms;
        let (mut receipts, mut deletions) = (Vec::with_capacity(changes.len()), Vec::new());
        let mut state = lock(&self.shared.state);
        let State { index, feeds } = &mut *state;
        index.begin_step();
        for change in changes {
            match change {
                Change::Event { event, receipt, claim, done } => {
                    let entry = Entry::hot(Arc::clone(&event), mono_ms);
                    index.push(&event.topic, entry, &mut |removal| self.garbage.note(removal));
                    feeds.push(Commit::Event(event));
                    receipts.push((claim.map(|claim| claim.number), receipt, done));
                }
                Change::Deletion { topic, seq, done } => {
                    index.delete(&topic, seq, mono_ms);
                    feeds.push(Commit::Deleted(topic.clone(), seq));
                    deletions.push((topic, seq, done));
                }
            }
        }
        self.needs_retention_step = index.needs_step();
        self.shared.watermark.store(index.watermark(), Ordering::Release);
        drop(state);
        // Sending fails when the publisher no longer waits for the answer. Its event is published in any case.
        for (key, receipt, done) in receipts {
            if let Some(key) = key {
                self.shared.keys.settle(key, Ok(receipt));
            }
            done.send(Ok(receipt)).ok();
        }
        // After the receipts: a deletion only forgets keys that are settled.
        for (topic, seq, done) in deletions {
            self.shared.keys.forget(&topic, seq);
            done.send(Ok(EventId { epoch: self.shared.epoch, seq })).ok();
        }
    }
}
