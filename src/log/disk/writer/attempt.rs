//! One batch: what is written in its transaction, and what is left out of it when not all can be written.

use std::{collections::HashSet, sync::atomic::Ordering};

use super::{
    super::{error::StoreError, garbage::Portion},
    Step, Writer,
};
use crate::{
    config::Durability,
    event::TopicName,
    log::{AppendError, index::cost, lock},
};

/// Positions that are promised to the file at once; each time costs one more fsync.
const RESERVATION: u64 = 1 << 16;
/// What the write-ahead log takes for a small event: its share of a page.
const ROW_OVERHEAD: u64 = 128;
/// What it takes for a commit, however small: the pages at the right edge, whole.
const COMMIT_OVERHEAD: u64 = 8 << 10;

/// What was left out of a batch so that the rest of it could be written.
enum LeftOut {
    Nothing,
    /// All that was to be removed: there is no room for it.
    NoRoom,
    /// This, and old receipts if there were some: a damaged page was met.
    Damaged {
        portion: Portion,
        expires: bool,
    },
}

impl Writer {
    /// Writes one batch. An error here is final; a full disk is not one.
    pub(super) fn batch(&mut self, steps: Vec<Step>, last_before: u64, is_maintenance: bool) -> Result<(), StoreError> {
        if is_maintenance {
            self.files.presence.check()?;
            self.expiry.find_expired(&self.files.store, &self.shared.clock)?;
        }
        if is_maintenance || self.behind {
            self.retain();
        }
        // While the disk is full nobody may be publishing, because we say that we are not ready: try ourselves.
        let probes = is_maintenance && self.shared.full.load(Ordering::Relaxed);
        if probes {
            self.files.store.truncate_wal()?;
        }
        let removes_garbage = is_maintenance || (self.garbage.has_full_portion() && !self.is_cramped);
        let mut portion = if removes_garbage { self.garbage.take() } else { Portion::default() };
        if steps.is_empty() && portion.is_empty() && !probes && !self.expiry.has_expired() {
            return self.checkpoints.run_if_due(&self.files.store);
        }
        let (written, left_out) = self.write_or_reduce(&steps, &mut portion, probes);
        match written {
            Ok(()) => {
                self.shared.full.store(false, Ordering::Relaxed);
                self.is_cramped = matches!(left_out, LeftOut::NoRoom) || (self.is_cramped && !is_maintenance);
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
                    tracing::error!("the disk is full: publishes are refused until there is room");
                }
                // Nothing of the batch exists, so its positions are free again.
                self.last = last_before;
                self.postpone(portion);
                if let LeftOut::Damaged { portion, .. } = left_out {
                    self.garbage.put_back(portion);
                }
                self.refuse(steps, AppendError::DiskFull);
                Ok(())
            }
            Err(error) => {
                // It may or may not have reached the disk, and asking again would prove nothing: after a failed fsync
                // the kernel forgets what it could not write.
                self.refuse(steps, AppendError::Unknown);
                Err(error)
            }
        }
    }

    /// Writes the steps, and removes the portion and old receipts with them. If that fails for a reason that may lie in
    /// the removal, writes the steps without it: what is published must not fail over what is no longer held.
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
                if !self.is_cramped {
                    tracing::warn!("the disk is too full to remove what is no longer held: it stays for now");
                }
                self.postpone(std::mem::take(portion));
                // Not only what is published: without any the disk may be full, too.
                (self.write(steps, portion, true), LeftOut::NoRoom)
            }
            written => (written, LeftOut::Nothing),
        }
    }

    /// Leaves what could not be removed for the next time that all is looked after. Rows that the same transaction made
    /// for topics are not there either.
    fn postpone(&mut self, portion: Portion) {
        self.is_cramped = true;
        self.garbage.put_back(portion);
        self.expiry.set_has_expired(false);
        self.topics.clear();
    }

    fn write(&mut self, steps: &[Step], portion: &Portion, probes: bool) -> Result<(), StoreError> {
        if self.last > self.reserved {
            let to = self.last + RESERVATION;
            // In this order: a database that is behind the mark is one that was restored.
            self.files.store.reserve(to, self.shared.durability == Durability::Disk)?;
            self.files.high_water.reserve(to)?;
            self.reserved = to;
        }
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
                Step::Forget { topic, seq, .. } => batch.mark_deleted(topic, *seq, self.shared.clock.now().wall_ms)?,
            }
        }
        let due = self.expiry.kept_range(&self.shared.clock);
        let here: HashSet<&TopicName> = if portion.forgotten.is_empty() && due.is_none() {
            HashSet::new()
        } else {
            steps.iter().map(Step::topic).collect()
        };
        // It may have come back to life since, or do so in this batch.
        let is_in_use =
            |topic: &TopicName| here.contains(topic) || lock(&self.shared.state).index.held(topic).is_some();
        portion.remove(&batch, is_in_use)?;
        let kept = |topic: &TopicName| is_in_use(topic) || self.garbage.has_topic(topic);
        let more = due.map(|times| batch.expire_receipts(times, kept)).transpose()?.unwrap_or_default();
        if probes {
            batch.probe()?;
        }
        batch.commit()?;
        self.expiry.set_has_expired(more);
        self.checkpoints.note_written(COMMIT_OVERHEAD);
        self.files.presence.check()?;
        if !steps.is_empty() {
            self.files.high_water.commit(self.last)?;
        }
        Ok(())
    }

    /// Removes what can be removed, each kind by itself, after a damaged page was met with all of it. What cannot be
    /// removed stays in the file: topics have lost it all the same, and to end over what is no longer held would be to
    /// end again after each start.
    fn remove_separately(&mut self, mut portion: Portion, expires: bool) -> Result<(), StoreError> {
        self.remove_readable(std::mem::take(&mut portion.seqs))?;
        if !self.try_remove(&portion)? {
            tracing::error!("topics that are forgotten, or what they had, are on damaged pages and stay in the file");
        }
        self.expiry.set_has_expired(expires);
        if !self.try_remove(&Portion::default())? {
            self.expiry.stop();
            tracing::error!("old idempotency keys are on damaged pages: they stay in the file until the next start");
        }
        Ok(())
    }

    /// Removes a portion, or old receipts if there are some; whether it met no damaged page.
    fn try_remove(&mut self, portion: &Portion) -> Result<bool, StoreError> {
        if portion.is_empty() && !self.expiry.has_expired() {
            return Ok(true);
        }
        match self.write(&[], portion, false) {
            Err(error) if error.is_damage() => Ok(false),
            Err(error) if self.files.store.is_full(&error) => {
                // Topics wait for the next start, receipts for the next look.
                self.expiry.set_has_expired(false);
                Ok(true)
            }
            written => written.map(|()| true),
        }
    }

    /// Removes what can be removed of `seqs`, of which some may be rows on damaged pages.
    fn remove_readable(&mut self, seqs: Vec<u64>) -> Result<(), StoreError> {
        let (mut rest, mut stuck) = (Vec::from([seqs]), 0_u64);
        while let Some(mut seqs) = rest.pop() {
            let batch = self.files.store.begin_batch()?;
            match batch.remove_events(&seqs).and_then(|()| batch.commit()) {
                Ok(()) => {}
                Err(error) if error.is_damage() && seqs.len() > 1 => {
                    rest.push(seqs.split_off(seqs.len() / 2));
                    rest.push(seqs);
                }
                Err(error) if error.is_damage() => stuck += 1,
                // They wait for the next start.
                Err(error) if self.files.store.is_full(&error) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        if stuck > 0 {
            tracing::error!(rows = stuck, "old events are on damaged pages and stay in the file");
        }
        Ok(())
    }
    fn refuse(&self, steps: Vec<Step>, error: AppendError) {
        for step in steps {
            // Whoever asked may have gone.
            match step {
                Step::Event { claim, done, .. } => {
                    if let Some(claim) = claim {
                        self.shared.keys.settle(claim.number, Err(error));
                    }
                    done.send(Err(error)).ok();
                }
                Step::Forget { done, .. } => drop(done.send(Err(error))),
            }
        }
    }
}
