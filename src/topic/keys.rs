//! The idempotency keys of all topics: how many there are, and whose is the oldest.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    thread::yield_now,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use super::{TopicLimits, receipts::Answers};
use crate::{
    event::TopicName,
    log::{KeptReceipt, lock},
};

/// The idempotency keys of all topics.
///
/// Each topic has its keys to itself, under a lock of its own. Here is how many there are in sum, and for each topic when
/// its oldest key was used: the window is the same for all, so the first of these times is that of the key that expires
/// first, and that makes room when there are too many. A topic writes here when its oldest key changes, not for each key.
///
/// Locks are taken in this order: `restored`, a topic's, `oldest`.
pub struct Keys {
    window: Duration,
    /// `publish.idempotency_keys_max`.
    of_topic_max: usize,
    /// `limits.idempotency_keys_max`.
    max: i64,
    /// Not more than there are: a key is counted after it is kept, and not counted any more before it is dropped. For a
    /// moment it can be below zero, when two drop the same keys.
    count: AtomicI64,
    /// Topics that have kept a key so far: each has another number.
    begun: AtomicU64,
    oldest: Mutex<BTreeMap<Oldest, Weak<Mutex<Answers>>>>,
    /// From before this process, of topics that nobody has used since.
    restored: Mutex<HashMap<TopicName, Arc<Mutex<Answers>>>>,
    started: Instant,
}

/// When the oldest key of a topic was used, and the topic's number.
type Oldest = (Instant, u64);

/// Expired keys of a topic that are dropped before its publishers have their turn.
const STEP: usize = 256;

impl Keys {
    /// No keys yet.
    #[must_use]
    pub fn new(limits: &TopicLimits) -> Self {
        Self {
            window: limits.idempotency_window,
            of_topic_max: limits.idempotency_keys_max,
            max: i64::try_from(limits.idempotency_keys_of_all_max).unwrap_or(i64::MAX),
            count: AtomicI64::new(0),
            begun: AtomicU64::new(0),
            oldest: Mutex::default(),
            restored: Mutex::default(),
            started: Instant::now(),
        }
    }

    /// How many are remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        usize::try_from(self.count.load(Ordering::Acquire)).unwrap_or(0)
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes back what was given before this process, the oldest first; to be called before any topic starts.
    pub fn restore(&self, receipts: Vec<(TopicName, KeptReceipt)>) {
        let (now, now_wall) = (Instant::now(), SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default());
        let (mut restored, mut last) = (lock(&self.restored), None);
        for (topic, kept) in receipts {
            let age = now_wall.saturating_sub(Duration::from_millis(kept.time_ms));
            let Some(at) = now.checked_sub(age).filter(|at| !self.is_over(*at)) else { continue };
            // Many are of the same millisecond: they stay in order, over topics, too.
            let at = last.map_or(at, |last: Instant| at.max(last + Duration::from_nanos(1)));
            last = Some(at);
            let answers = restored.entry(topic).or_insert_with(|| self.begin());
            lock(answers).restore(at, kept, self);
        }
        drop(restored);
        self.make_room();
    }

    /// Drops the keys whose window is over. Those who use the topics wait for a few of them at most.
    pub fn drop_expired(&self) {
        while let Some((_, answers)) = self.first().filter(|(at, _)| self.is_over(*at)) {
            lock(&answers).drop_expired(STEP, self);
            // A mutex is not fair.
            yield_now();
        }
        if self.is_over(self.started) {
            let restored = std::mem::take(&mut *lock(&self.restored));
            for answers in restored.into_values() {
                lock(&answers).clear(self);
            }
        }
    }

    /// Forgets what is kept of a topic that has not been used in this process.
    pub fn forget(&self, topic: &TopicName) {
        if let Some(answers) = self.take_restored(topic) {
            lock(&answers).clear(self);
        }
    }

    /// What is kept of a topic from before this process, for the topic itself.
    pub(super) fn take_restored(&self, topic: &TopicName) -> Option<Arc<Mutex<Answers>>> {
        lock(&self.restored).remove(topic)
    }

    /// The answers of a topic that has given none yet.
    pub(super) fn begin(&self) -> Arc<Mutex<Answers>> {
        let number = self.begun.fetch_add(1, Ordering::Relaxed);
        Arc::new_cyclic(|this| Mutex::new(Answers::new(number, Weak::clone(this))))
    }

    pub(super) fn of_topic_max(&self) -> usize {
        self.of_topic_max
    }

    /// Whether the window of a key that was used then is over.
    pub(super) fn is_over(&self, at: Instant) -> bool {
        at.elapsed() >= self.window
    }

    /// A key is kept.
    pub(super) fn count_one(&self) {
        self.count.fetch_add(1, Ordering::AcqRel);
    }

    /// So many keys are about to be dropped.
    pub(super) fn uncount(&self, keys: usize) {
        self.count.fetch_sub(i64::try_from(keys).unwrap_or(i64::MAX), Ordering::AcqRel);
    }

    /// The oldest key of the topic with this number is another one: it was of the time `from`, and is of `to`.
    pub(super) fn note(&self, number: u64, from: Option<Instant>, to: Option<Instant>, answers: &Weak<Mutex<Answers>>) {
        let mut oldest = lock(&self.oldest);
        if let Some(from) = from {
            oldest.remove(&(from, number));
        }
        if let Some(to) = to {
            oldest.insert((to, number), Weak::clone(answers));
        }
    }

    /// Drops the oldest keys of all topics for as long as there are too many.
    pub(super) fn make_room(&self) {
        // The key is not counted any more before it is looked for, so two publishers never drop two keys for one.
        let one_less = |count: i64| (count > self.max).then(|| count - 1);
        while self.count.fetch_update(Ordering::AcqRel, Ordering::Acquire, one_less).is_ok() {
            if !self.drop_oldest() {
                // All have gone by themselves meanwhile, and have been counted as gone.
                self.count_one();
                break;
            }
        }
    }

    /// Drops the oldest key of all, which is not counted any more; false when there is none.
    fn drop_oldest(&self) -> bool {
        while let Some((at, answers)) = self.first() {
            if lock(&answers).drop_oldest_of(at, self) {
                return true;
            }
            // The topic has dropped it itself meanwhile.
        }
        false
    }

    /// The topic with the oldest key of all, and when that was used.
    fn first(&self) -> Option<(Instant, Arc<Mutex<Answers>>)> {
        let mut oldest = lock(&self.oldest);
        loop {
            let first = oldest.first_entry()?;
            if let Some(answers) = first.get().upgrade() {
                return Some((first.key().0, answers));
            }
            first.remove();
        }
    }
}

#[cfg(test)]
mod tests;
