//! Writes one batch. When old rows cannot be removed, the batch is written without their removal, so that publishes
//! succeed.

use std::{collections::HashSet, sync::atomic::Ordering};

use super::{
    super::{error::StoreError, garbage::Portion},
    Change, Writer,
};
use crate::{
    event::TopicName,
    log::{AppendError, index::cost, mutex::lock},
};

/// How many positions are reserved in the file at once. Each reservation costs two more fsyncs.
const RESERVATION: u64 = 1 << 16;
/// Bytes that an event adds to the write-ahead log besides its cost, roughly.
const ROW_OVERHEAD: u64 = 128;
/// Bytes that every commit adds to the write-ahead log, however small it is: it writes whole pages.
const COMMIT_OVERHEAD: u64 = 8 << 10;

impl Writer {
    /// Writes one batch and publishes it. Maintenance also removes garbage and expired receipts. An error means that
    /// the log has failed for good. A full disk is no error: the changes are refused.
    pub(super) fn write_batch(&mut self, changes: Vec<Change>, is_maintenance: bool) -> Result<(), StoreError> {
        if is_maintenance {
            self.presence.check()?;
            self.expiry.find_expired(&self.store, &self.shared.clock)?;
        }
        if is_maintenance || self.needs_retention_step {
            self.enforce_retention();
        }
        // While the disk is full the server says that it is not ready, so perhaps nobody publishes. Then only a
        // probe shows when there is space again.
        let is_probe = is_maintenance && self.shared.full.load(Ordering::Relaxed);
        if is_probe {
            self.store.truncate_wal()?;
        }
        let removes_garbage = is_maintenance || (self.garbage.has_full_portion() && !self.is_removal_postponed);
        let mut portion = if removes_garbage { self.garbage.take() } else { Portion::default() };
        portion.kept_receipts = self.expiry.kept_times();
        if changes.is_empty() && portion.is_empty() && !is_probe {
            return self.checkpoints.run_if_due(&self.store);
        }
        self.write_or_refuse(changes, portion, is_probe)
    }

    /// Writes the changes and publishes them, and removes the portion in the same transaction. When the transaction
    /// fails, and the removal may be the reason, the changes are written again without the removal: old rows must not
    /// make publishes fail.
    fn write_or_refuse(&mut self, changes: Vec<Change>, portion: Portion, is_probe: bool) -> Result<(), StoreError> {
        match self.write(&changes, &portion, is_probe) {
            Err(error) if error.is_damage() && !portion.is_empty() => self.write_apart(changes, portion, is_probe),
            Err(error) if self.store.is_full(&error) && !portion.is_empty() => {
                if !self.is_removal_postponed {
                    tracing::warn!("the disk is too full to remove old rows from the log: they stay for now");
                }
                self.postpone(portion);
                // The second try is a probe, too: without changes, it would write nothing otherwise, and would not show
                // whether the disk is full.
                let portion = Portion::default();
                let written = self.write(&changes, &portion, true);
                self.answer(changes, portion, written)
            }
            written => self.answer(changes, portion, written),
        }
    }

    /// Writes the changes first, and then removes the portion, because one transaction for both met a damaged page.
    /// Perhaps only a row to remove is on that page.
    fn write_apart(&mut self, changes: Vec<Change>, mut portion: Portion, is_probe: bool) -> Result<(), StoreError> {
        let removals = portion.take_removals();
        // The first transaction was rolled back.
        self.topics.clear();
        let written = self.write(&changes, &portion, is_probe);
        if written.is_ok() {
            self.answer(changes, portion, written)?;
            return self.remove_separately(removals);
        }
        self.garbage.put_back(removals);
        self.answer(changes, portion, written)
    }

    /// Answers the changes, which were to be committed together with the portion, according to `written`: publishes
    /// them or refuses them.
    fn answer(
        &mut self,
        changes: Vec<Change>,
        portion: Portion,
        written: Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        match written {
            Ok(()) => self.publish_written(changes, &portion),
            Err(error) if self.store.is_full(&error) => self.refuse_as_full(changes, portion),
            Err(error) => {
                // The batch may be on the disk or not. A second try would prove nothing: after a failed fsync the
                // kernel drops the pages that it could not write.
                self.refuse(changes, AppendError::Unknown);
                Err(error)
            }
        }
    }

    /// Publishes the changes, which are committed together with the portion.
    fn publish_written(&mut self, changes: Vec<Change>, portion: &Portion) -> Result<(), StoreError> {
        self.shared.full.store(false, Ordering::Relaxed);
        if !portion.is_empty() {
            self.is_removal_postponed = false;
        }
        self.publish(changes);
        for (topic, _) in &portion.topics {
            self.topics.remove(topic);
        }
        self.checkpoints.run_if_due(&self.store)
    }

    /// Refuses the changes because the disk is full, and keeps what was to be removed for later.
    fn refuse_as_full(&mut self, changes: Vec<Change>, portion: Portion) -> Result<(), StoreError> {
        self.store.overwrite_failed_batch()?;
        if !self.shared.full.swap(true, Ordering::Relaxed) {
            tracing::error!("the disk is full: publishes are refused until there is space");
        }
        // Nothing of the batch was written, so its positions can be used again.
        self.last = self.shared.watermark.load(Ordering::Acquire);
        self.postpone(portion);
        self.refuse(changes, AppendError::DiskFull);
        Ok(())
    }

    /// Postpones the removal of a portion, whose transaction has failed, until the next maintenance.
    fn postpone(&mut self, portion: Portion) {
        self.is_removal_postponed = true;
        self.garbage.put_back(portion);
        self.expiry.forget_expired();
        self.topics.clear();
    }

    /// Commits one transaction: the changes, the portion, and as a probe a small change that needs space.
    fn write(&mut self, changes: &[Change], portion: &Portion, is_probe: bool) -> Result<(), StoreError> {
        self.reserve_positions()?;
        let transaction = self.store.begin_transaction()?;
        let mut topics_of_batch = HashSet::new();
        for change in changes {
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
        // The portion may remove the row of a topic that the index has forgotten, but that is in use again: this batch
        // writes to it, or an earlier one did. Such a topic keeps its row. `held` returns `Some` for every topic that
        // the index knows.
        let is_known =
            |topic: &TopicName| topics_of_batch.contains(topic) || lock(&self.shared.state).index.held(topic).is_some();
        portion.remove_garbage(&transaction, is_known)?;
        if let Some(kept_times) = portion.kept_receipts {
            let is_needed = |topic: &TopicName| is_known(topic) || self.garbage.has_topic(topic);
            let has_more = transaction.expire_receipts(kept_times, is_needed)?;
            if !has_more {
                self.expiry.forget_expired();
            }
        }
        if is_probe {
            transaction.probe()?;
        }
        transaction.commit()?;
        self.checkpoints.note_written(COMMIT_OVERHEAD);
        self.presence.check()?;
        if !changes.is_empty() {
            self.high_water.commit(self.last)?;
        }
        Ok(())
    }

    /// Reserves more positions in the files when the changes use ones that are not reserved.
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

    /// Removes each kind of rows in transactions of its own. It is called after one transaction for all kinds met a
    /// damaged page.
    ///
    /// Rows that cannot be removed stay in the file. They are no longer served in any case, and if the process ended
    /// because of them, it would end again after each start.
    fn remove_separately(&mut self, portion: Portion) -> Result<(), StoreError> {
        let Portion { events, topics, kept_receipts, .. } = portion;
        let unremovable = self.remove_readable(&events)?;
        if unremovable > 0 {
            tracing::error!(rows = unremovable, "old events are on damaged pages and stay in the file");
        }
        if !self.try_remove(&Portion { topics, ..Portion::default() })? {
            tracing::error!("rows of removed topics are on damaged pages and stay in the file");
        }
        if !self.try_remove(&Portion { kept_receipts, ..Portion::default() })? {
            self.expiry.stop();
            tracing::error!("old idempotency keys are on damaged pages: they stay in the file until the next start");
        }
        Ok(())
    }

    /// Removes a portion without changes. Returns `false` when one of the rows is on a damaged page.
    fn try_remove(&mut self, portion: &Portion) -> Result<bool, StoreError> {
        match self.write(&[], portion, false) {
            Err(error) if error.is_damage() => Ok(false),
            Err(error) if self.store.is_full(&error) => {
                // The topics are removed after the next start, the receipts with the next maintenance.
                self.expiry.forget_expired();
                Ok(true)
            }
            written => written.map(|()| true),
        }
    }

    /// Removes the events at `seqs`, except for those on damaged pages, and returns how many of these there are. It
    /// halves the list until it has found them.
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
