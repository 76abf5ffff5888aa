//! Writes one batch: one transaction, which contains in this order:
//!
//! 1. the changes: new events and deletions from the queue;
//! 2. a portion of the old rows: garbage and expired receipts, which are removed;
//! 3. after a batch that did not fit on the disk, a probe: a small write that shows whether there is space again.
//!
//! Each part may be empty. For example, there are 50 publishes and 9000 rows of garbage. The batch has 50 changes and a
//! portion of 8192 rows. The next maintenance removes the other 808 rows.
//!
//! Old rows must not make publishes fail. So when the transaction fails and the portion may be the reason, the changes
//! are written again without the portion:
//!
//! | error | the changes | the portion |
//! |---|---|---|
//! | the disk is full | are written alone; if that fails, too, they are refused | waits for the next maintenance |
//! | a page is damaged | are written alone | is removed afterwards, except for rows on damaged pages |
//! | any other | are refused, because the log has failed | stays in the file |

use std::{collections::HashSet, mem, sync::atomic::Ordering};

use super::{
    super::{error::StoreError, garbage::Portion},
    Change, Writer,
};
use crate::{
    event::TopicName,
    log::{AppendError, index::cost, mutex::lock},
};

/// How many positions are reserved in the files at once. Each reservation costs two more fsyncs.
const RESERVATION: u64 = 1 << 16;
/// Bytes that an event adds to the write-ahead log besides its cost, roughly.
const ROW_OVERHEAD: u64 = 128;
/// Bytes that every commit adds to the write-ahead log, however small the commit is: it writes whole pages.
const COMMIT_OVERHEAD: u64 = 8 << 10;

/// What one transaction writes. See the top of this file.
#[derive(Default)]
struct Batch {
    changes: Vec<Change>,
    portion: Portion,
    /// Whether the batch has a probe.
    is_probe: bool,
}

impl Writer {
    /// Writes one batch and publishes its changes. Maintenance also removes garbage and expired receipts. An error
    /// means that the log has failed for good. A full disk is no error: the changes are refused.
    pub(super) fn write_batch(&mut self, changes: Vec<Change>, is_maintenance: bool) -> Result<(), StoreError> {
        if is_maintenance {
            self.presence.check()?;
            self.expiry.find_expired(&self.store, &self.shared.clock)?;
        }
        if is_maintenance || self.needs_retention_step {
            self.enforce_retention();
        }
        // While the disk is full, the server says that it is not ready, so perhaps nobody publishes. Then only a probe
        // shows when there is space again.
        let is_probe = is_maintenance && self.shared.full.load(Ordering::Relaxed);
        if is_probe {
            self.store.truncate_wal()?;
        }
        let portion = self.next_portion(is_maintenance);
        if changes.is_empty() && portion.is_empty() && !is_probe {
            return self.checkpoints.run_if_due(&self.store);
        }
        let batch = Batch { changes, portion, is_probe };
        match self.write(&batch) {
            Err(error) if self.store.is_full(&error) && !batch.portion.is_empty() => self.retry_on_full_disk(batch),
            Err(error) if error.is_damage() && !batch.portion.is_empty() => self.retry_after_damage(batch),
            written => self.finish(batch, written),
        }
    }

    /// What the next batch removes. Outside of maintenance, garbage waits until there is enough for a full portion.
    fn next_portion(&mut self, is_maintenance: bool) -> Portion {
        let removes_garbage = is_maintenance || (self.garbage.has_full_portion() && !self.is_removal_postponed);
        let garbage = if removes_garbage { self.garbage.take() } else { Portion::default() };
        Portion { kept_receipts: self.expiry.kept_times(), ..garbage }
    }

    /// Writes a batch without its portion, because the disk was too full for both.
    fn retry_on_full_disk(&mut self, mut batch: Batch) -> Result<(), StoreError> {
        if !self.is_removal_postponed {
            tracing::warn!("the disk is too full to remove old rows from the log: they stay for now");
        }
        self.postpone(mem::take(&mut batch.portion));
        // A batch without changes would write nothing now, and would not show whether the disk is full.
        batch.is_probe = true;
        let written = self.write(&batch);
        self.finish(batch, written)
    }

    /// Writes a batch without its removals, and then removes these rows. The transaction for both met a damaged page,
    /// and perhaps only a row to remove is on that page.
    fn retry_after_damage(&mut self, mut batch: Batch) -> Result<(), StoreError> {
        let removals = batch.portion.take_removals();
        // The first transaction was rolled back, and the rows of topics that it added with it.
        self.topics.clear();
        let written = self.write(&batch);
        if written.is_err() {
            self.garbage.put_back(removals);
            return self.finish(batch, written);
        }
        self.finish(batch, written)?;
        self.remove_separately(removals)
    }

    /// Publishes the changes of a batch if it was `written`. Otherwise refuses them.
    fn finish(&mut self, batch: Batch, written: Result<(), StoreError>) -> Result<(), StoreError> {
        match written {
            Ok(()) => self.publish_written(batch),
            Err(error) if self.store.is_full(&error) => self.refuse_as_full(batch),
            Err(error) => {
                // The batch may be on the disk or not. A second try would prove nothing: after a failed fsync the
                // kernel drops the pages that it could not write.
                self.refuse(batch.changes, AppendError::Unknown);
                Err(error)
            }
        }
    }

    /// Publishes the changes of a batch that is committed.
    fn publish_written(&mut self, batch: Batch) -> Result<(), StoreError> {
        self.shared.full.store(false, Ordering::Relaxed);
        if !batch.portion.is_empty() {
            self.is_removal_postponed = false;
        }
        self.publish(batch.changes);
        for (topic, _) in &batch.portion.topics {
            self.topics.remove(topic);
        }
        self.checkpoints.run_if_due(&self.store)
    }

    /// Refuses the changes of a batch because the disk is full, and keeps its portion for later.
    fn refuse_as_full(&mut self, batch: Batch) -> Result<(), StoreError> {
        self.store.overwrite_failed_batch()?;
        if !self.shared.full.swap(true, Ordering::Relaxed) {
            tracing::error!("the disk is full: publishes are refused until there is space");
        }
        // Nothing of the batch was written, so its positions can be used again.
        self.last = self.shared.watermark.load(Ordering::Acquire);
        self.postpone(batch.portion);
        self.refuse(batch.changes, AppendError::DiskFull);
        Ok(())
    }

    /// Postpones the removal of a portion, whose transaction has failed, until the next maintenance.
    fn postpone(&mut self, portion: Portion) {
        self.is_removal_postponed = true;
        self.garbage.put_back(portion);
        self.expiry.forget_expired();
        self.topics.clear();
    }

    /// Writes and commits one batch.
    fn write(&mut self, batch: &Batch) -> Result<(), StoreError> {
        self.reserve_positions()?;
        let transaction = self.store.begin_transaction()?;
        let mut topics_of_batch = HashSet::new();
        for change in &batch.changes {
            match change {
                Change::Event { event, receipt, claim, .. } => {
                    topics_of_batch.insert(&event.topic);
                    let topic_id = match self.topics.get(&event.topic) {
                        Some(id) => *id,
                        None => transaction.topic_id(&event.topic)?,
                    };
                    self.topics.insert(event.topic.clone(), topic_id);
                    let cost = cost(event);
                    self.checkpoints.note_written(cost + ROW_OVERHEAD);
                    transaction.insert_event(topic_id, event, cost)?;
                    if let Some(claim) = claim {
                        transaction.insert_receipt(topic_id, claim, receipt, event.time_ms)?;
                    }
                }
                Change::Deletion { topic, seq, .. } => {
                    topics_of_batch.insert(topic);
                    transaction.mark_deleted(topic, *seq, self.shared.clock.read().wall_ms)?;
                }
            }
        }
        // The index had forgotten the topics of the portion. Meanwhile a topic may be in use again: this batch writes
        // to it, or an earlier batch did, and then the index knows it. Such a topic keeps its row.
        let is_in_use =
            |topic: &TopicName| topics_of_batch.contains(topic) || lock(&self.shared.state).index.held(topic).is_some();
        batch.portion.remove_garbage(&transaction, is_in_use)?;
        if let Some(kept_times) = batch.portion.kept_receipts {
            let keeps_row = |topic: &TopicName| is_in_use(topic) || self.garbage.has_topic(topic);
            let has_more = transaction.expire_receipts(kept_times, keeps_row)?;
            if !has_more {
                self.expiry.forget_expired();
            }
        }
        if batch.is_probe {
            transaction.probe()?;
        }
        transaction.commit()?;
        self.checkpoints.note_written(COMMIT_OVERHEAD);
        self.presence.check()?;
        if !batch.changes.is_empty() {
            self.high_water.commit(self.last)?;
        }
        Ok(())
    }

    /// Reserves more positions in the files if a change of the batch has a position that is not reserved.
    fn reserve_positions(&mut self) -> Result<(), StoreError> {
        if self.last <= self.reserved {
            return Ok(());
        }
        let to = self.last + RESERVATION;
        // The database first: one that is behind the high-water mark counts as restored from a backup.
        self.store.reserve(to)?;
        self.high_water.reserve(to)?;
        self.reserved = to;
        Ok(())
    }

    /// Removes each kind of rows in transactions of its own, after one transaction for all kinds met a damaged page.
    ///
    /// Rows that cannot be removed stay in the file, where no reader gets them. They do not make the log fail: it would
    /// fail again after each start.
    fn remove_separately(&mut self, removals: Portion) -> Result<(), StoreError> {
        let Portion { events, topics, kept_receipts, .. } = removals;
        let unremovable = self.remove_readable(&events)?;
        if unremovable > 0 {
            tracing::error!(rows = unremovable, "old events are on damaged pages and stay in the file");
        }
        if !self.try_remove(Portion { topics, ..Portion::default() })? {
            tracing::error!("rows of removed topics are on damaged pages and stay in the file");
        }
        if !self.try_remove(Portion { kept_receipts, ..Portion::default() })? {
            self.expiry.stop();
            tracing::error!("old idempotency keys are on damaged pages: they stay in the file until the next start");
        }
        Ok(())
    }

    /// Removes a portion without changes. Returns `false` when one of the rows is on a damaged page.
    fn try_remove(&mut self, portion: Portion) -> Result<bool, StoreError> {
        match self.write(&Batch { portion, ..Batch::default() }) {
            Ok(()) => Ok(true),
            Err(error) if error.is_damage() => Ok(false),
            Err(error) if self.store.is_full(&error) => {
                // The topics are removed after the next start, the receipts with the next maintenance.
                self.expiry.forget_expired();
                Ok(true)
            }
            Err(error) => Err(error),
        }
    }

    /// Removes the events at `seqs`, except for those on damaged pages, and returns how many events are on damaged
    /// pages. While a transaction meets damage, its list is halved.
    fn remove_readable(&mut self, seqs: &[u64]) -> Result<u64, StoreError> {
        let transaction = self.store.begin_transaction()?;
        match transaction.remove_events(seqs).and_then(|()| transaction.commit()) {
            Ok(()) => Ok(0),
            Err(error) if error.is_damage() && seqs.len() > 1 => {
                let (first, second) = seqs.split_at(seqs.len() / 2);
                Ok(self.remove_readable(first)? + self.remove_readable(second)?)
            }
            Err(error) if error.is_damage() => Ok(1),
            // The events are removed after the next start.
            Err(error) if self.store.is_full(&error) => Ok(0),
            Err(error) => Err(error),
        }
    }

    /// Answers all changes with `error`.
    fn refuse(&self, changes: Vec<Change>, error: AppendError) {
        // Sending fails when the publisher no longer waits for the answer.
        for change in changes {
            match change {
                Change::Event { claim, done, .. } => {
                    if let Some(claim) = claim {
                        self.shared.keys.settle(claim.number, Err(error));
                    }
                    done.send(Err(error)).ok();
                }
                Change::Deletion { done, .. } => drop(done.send(Err(error))),
            }
        }
    }
}
