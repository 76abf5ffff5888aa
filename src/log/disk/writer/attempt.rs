//! Writes one batch. When old rows cannot be removed, the batch is written without the removal, so that publishes
//! succeed.

use std::{collections::HashSet, sync::atomic::Ordering};

use super::{
    super::{error::StoreError, garbage::Portion},
    Step, Writer,
};
use crate::{
    config::DiskDurability,
    event::TopicName,
    log::{AppendError, index::cost, mutex::lock},
};

/// How many positions are reserved in the file at once. Each reservation costs two more fsyncs.
const RESERVATION: u64 = 1 << 16;
/// Bytes that an event adds to the write-ahead log besides its cost, roughly.
const ROW_OVERHEAD: u64 = 128;
/// Bytes that every commit adds to the write-ahead log, however small it is: it writes whole pages.
const COMMIT_OVERHEAD: u64 = 8 << 10;

/// Which removals were left out of a batch so that its events could be written.
enum LeftOut {
    Nothing,
    /// All removals, because the disk was too full for them.
    NoSpace,
    /// The removals of rows, because one of the rows is on a damaged page.
    Damaged {
        /// The rows of events and topics.
        portion: Portion,
        /// There were expired receipts, too.
        expires: bool,
    },
}

impl Writer {
    /// Writes one batch and publishes it. `last_before` is the last position before the batch. An error means that the
    /// log has failed for good. A full disk is no error: the steps are refused.
    pub(super) fn batch(&mut self, steps: Vec<Step>, last_before: u64, is_maintenance: bool) -> Result<(), StoreError> {
        if is_maintenance {
            self.files.presence.check()?;
            self.expiry.find_expired(&self.files.store, &self.shared.clock)?;
        }
        if is_maintenance || self.is_retention_unfinished {
            self.enforce_retention();
        }
        // While the disk is full the server says that it is not ready, so perhaps nobody publishes. Only a write of its
        // own shows when there is space again.
        let probes = is_maintenance && self.shared.full.load(Ordering::Relaxed);
        if probes {
            self.files.store.truncate_wal()?;
        }
        let removes_garbage = is_maintenance || (self.garbage.has_full_portion() && !self.is_removal_postponed);
        let mut portion = if removes_garbage { self.garbage.take() } else { Portion::default() };
        if steps.is_empty() && portion.is_empty() && !probes && !self.expiry.has_expired() {
            return self.checkpoints.run_if_due(&self.files.store);
        }
        let (written, left_out) = self.write_or_reduce(&steps, &mut portion, probes);
        match written {
            Ok(()) => {
                self.shared.full.store(false, Ordering::Relaxed);
                self.is_removal_postponed =
                    matches!(left_out, LeftOut::NoSpace) || (self.is_removal_postponed && !is_maintenance);
                self.publish(steps);
                for (topic, _) in &portion.forgotten {
                    self.topics.remove(topic);
                }
                if let LeftOut::Damaged { portion, expires } = left_out {
                    self.remove_separately(portion, expires)?;
                }
                self.checkpoints.run_if_due(&self.files.store)
            }
            Err(error) if self.files.store.is_full(&error) => {
                self.files.store.overwrite_failed_batch()?;
                if !self.shared.full.swap(true, Ordering::Relaxed) {
                    tracing::error!("the disk is full: publishes are refused until there is space");
                }
                // Nothing of the batch was written, so its positions can be used again.
                self.last = last_before;
                self.postpone(portion);
                if let LeftOut::Damaged { portion, .. } = left_out {
                    self.garbage.put_back(portion);
                }
                self.refuse(steps, AppendError::DiskFull);
                Ok(())
            }
            Err(error) => {
                // The batch may be on the disk or not. A second try would prove nothing: after a failed fsync the
                // kernel drops the pages that it could not write.
                self.refuse(steps, AppendError::Unknown);
                Err(error)
            }
        }
    }

    /// Writes the steps, and removes the portion and expired receipts in the same transaction. When that fails, and the
    /// removal may be the reason, it writes the steps again without the removal: old rows must not make publishes fail.
    fn write_or_reduce(
        &mut self,
        steps: &[Step],
        portion: &mut Portion,
        probes: bool,
    ) -> (Result<(), StoreError>, LeftOut) {
        let removes = !portion.is_empty() || self.expiry.has_expired();
        match self.write(steps, portion, probes) {
            Err(error) if removes && error.is_damage() => {
                let damaged = portion.take_rows();
                let left_out = LeftOut::Damaged { portion: damaged, expires: self.expiry.has_expired() };
                self.expiry.set_has_expired(false);
                self.topics.clear();
                (self.write(steps, portion, probes), left_out)
            }
            Err(error) if removes && self.files.store.is_full(&error) => {
                if !self.is_removal_postponed {
                    tracing::warn!("the disk is too full to remove old rows from the log: they stay for now");
                }
                self.postpone(std::mem::take(portion));
                // It also probes, because without steps this would write nothing, and not show whether the disk is
                // full.
                (self.write(steps, portion, true), LeftOut::NoSpace)
            }
            written => (written, LeftOut::Nothing),
        }
    }

    /// Puts the removal off until the next maintenance. The failed transaction may have added rows of topics that do
    /// not exist now, so their ids are dropped.
    fn postpone(&mut self, portion: Portion) {
        self.is_removal_postponed = true;
        self.garbage.put_back(portion);
        self.expiry.set_has_expired(false);
        self.topics.clear();
    }

    /// Commits one transaction: the steps, the removal of the portion and of expired receipts, and with `probes` a
    /// small change.
    fn write(&mut self, steps: &[Step], portion: &Portion, probes: bool) -> Result<(), StoreError> {
        self.reserve_positions()?;
        let batch = self.files.store.begin_batch()?;
        for step in steps {
            match step {
                Step::Event { event, receipt, claim, .. } => {
                    let topic = match self.topics.get(&event.topic) {
                        Some(id) => *id,
                        None => batch.topic_id(&event.topic)?,
                    };
                    self.topics.insert(event.topic.clone(), topic);
                    let cost = cost(event);
                    self.checkpoints.note_written(cost + ROW_OVERHEAD);
                    batch.insert_event(topic, event, cost)?;
                    if let Some(claim) = claim {
                        batch.insert_receipt(topic, claim, receipt, event.time_ms)?;
                    }
                }
                Step::Delete { topic, seq, .. } => batch.mark_deleted(topic, *seq, self.shared.clock.now().wall_ms)?,
            }
        }
        let kept_range = self.expiry.kept_range(&self.shared.clock);
        let mut topics_of_steps = HashSet::new();
        if !portion.forgotten.is_empty() || kept_range.is_some() {
            topics_of_steps.extend(steps.iter().map(Step::topic));
        }
        // A topic that the index had forgotten may have been used again since, or be used in this batch.
        let is_in_use =
            |topic: &TopicName| topics_of_steps.contains(topic) || lock(&self.shared.state).index.held(topic).is_some();
        portion.remove(&batch, is_in_use)?;
        let is_needed = |topic: &TopicName| is_in_use(topic) || self.garbage.has_topic(topic);
        let has_more_expired = match kept_range {
            Some(kept_range) => batch.expire_receipts(kept_range, is_needed)?,
            None => false,
        };
        if probes {
            batch.probe()?;
        }
        batch.commit()?;
        self.expiry.set_has_expired(has_more_expired);
        self.checkpoints.note_written(COMMIT_OVERHEAD);
        self.files.presence.check()?;
        if !steps.is_empty() {
            self.files.high_water.commit(self.last)?;
        }
        Ok(())
    }

    /// Reserves more positions in the file when the steps use ones that are not reserved.
    fn reserve_positions(&mut self) -> Result<(), StoreError> {
        if self.last <= self.reserved {
            return Ok(());
        }
        let to = self.last + RESERVATION;
        // The database first: one that is behind the high-water mark counts as restored from a backup.
        self.files.store.reserve(to, self.shared.durability == DiskDurability::Disk)?;
        self.files.high_water.reserve(to)?;
        self.reserved = to;
        Ok(())
    }

    /// Removes each kind of rows in its own transactions, after a removal of all together met a damaged page. Rows that
    /// cannot be removed stay in the file. They are no longer served in any case, and if the process ended because of
    /// them, it would end again after each start.
    fn remove_separately(&mut self, mut portion: Portion, expires: bool) -> Result<(), StoreError> {
        self.remove_readable(std::mem::take(&mut portion.seqs))?;
        if !self.try_remove(&portion)? {
            tracing::error!("rows of removed topics are on damaged pages and stay in the file");
        }
        self.expiry.set_has_expired(expires);
        if !self.try_remove(&Portion::default())? {
            self.expiry.stop();
            tracing::error!("old idempotency keys are on damaged pages: they stay in the file until the next start");
        }
        Ok(())
    }

    /// Removes the portion and expired receipts. Returns `false` when one of the rows is on a damaged page.
    fn try_remove(&mut self, portion: &Portion) -> Result<bool, StoreError> {
        if portion.is_empty() && !self.expiry.has_expired() {
            return Ok(true);
        }
        match self.write(&[], portion, false) {
            Err(error) if error.is_damage() => Ok(false),
            Err(error) if self.files.store.is_full(&error) => {
                // The topics are removed after the next start, the receipts with the next maintenance.
                self.expiry.set_has_expired(false);
                Ok(true)
            }
            written => written.map(|()| true),
        }
    }

    /// Removes the events at `seqs`, except for those on damaged pages. It halves the list until it has found them.
    fn remove_readable(&mut self, seqs: Vec<u64>) -> Result<(), StoreError> {
        let (mut lists, mut unremovable) = (Vec::from([seqs]), 0_u64);
        while let Some(mut seqs) = lists.pop() {
            let batch = self.files.store.begin_batch()?;
            match batch.remove_events(&seqs).and_then(|()| batch.commit()) {
                Ok(()) => {}
                Err(error) if error.is_damage() && seqs.len() > 1 => {
                    lists.push(seqs.split_off(seqs.len() / 2));
                    lists.push(seqs);
                }
                Err(error) if error.is_damage() => unremovable += 1,
                // They are removed after the next start.
                Err(error) if self.files.store.is_full(&error) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        if unremovable > 0 {
            tracing::error!(rows = unremovable, "old events are on damaged pages and stay in the file");
        }
        Ok(())
    }
    /// Answers all steps with `error`.
    // Sending fails when the publisher no longer waits for the answer.
    fn refuse(&self, steps: Vec<Step>, error: AppendError) {
        for step in steps {
            match step {
                Step::Event { claim, done, .. } => {
                    if let Some(claim) = claim {
                        self.shared.keys.settle(claim.number, Err(error));
                    }
                    done.send(Err(error)).ok();
                }
                Step::Delete { done, .. } => drop(done.send(Err(error))),
            }
        }
    }
}
