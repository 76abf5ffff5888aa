//! The idempotency keys of all topics, for every engine: a retry gets the answer that the first publish got.
//!
//! A key is looked for, and the event takes its position, under one lock: of two publishes under one key at the same time
//! the second always finds the first. An engine tells how a publish under a key has ended before it answers it, so a key
//! whose publish has failed is unused by the time its publisher learns of that.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    thread::yield_now,
};

use futures_util::{
    FutureExt as _, TryFutureExt as _,
    future::{BoxFuture, Shared, ready},
};
use twox_hash::{XxHash3_64, XxHash3_128};

use super::{Append, AppendError, Appended, Draft, KeyLimits, Receipt, clock::millis, mutex::lock};
use crate::event::TopicName;

/// The idempotency keys of all topics.
pub(super) struct Keys(Mutex<AllKept>);

/// A key as a publish comes with it.
pub(super) struct Use {
    topic: TopicName,
    key: Arc<str>,
    fingerprint: u128,
}

/// A key that a publish under way has taken.
pub(super) struct Claim {
    pub(super) number: u64,
    pub(super) key: Arc<str>,
    pub(super) fingerprint: u128,
}

/// A key that was used, and what became of that.
pub(super) struct Kept {
    pub(super) topic: TopicName,
    pub(super) key: Arc<str>,
    /// When, in the log's own time.
    pub(super) used_ms: u64,
    /// Of the event that was published under it. `None` where a version before this one kept it: any retry is taken for
    /// the same.
    pub(super) fingerprint: Option<u128>,
    pub(super) outcome: Outcome,
}

pub(super) enum Outcome {
    /// Driven by the engine, because its publisher may go. A retry that overtakes the commit waits for the same one.
    UnderWay(Shared<BoxFuture<'static, Appended>>),
    Committed(Receipt),
}

/// Trees rather than hash tables: they give back their room by themselves, and never move all they have at once while
/// publishers wait for the lock.
struct AllKept {
    limits: KeyLimits,
    /// The number of the next key. They count in order of use, which within a topic is the order of positions.
    next: u64,
    by_age: BTreeMap<u64, Kept>,
    /// Topics without a key have no entry.
    topics: BTreeMap<TopicName, OfTopic>,
}

/// The numbers of a topic's keys.
#[derive(Default)]
struct OfTopic {
    by_key: BTreeMap<Arc<str>, u64>,
    by_age: BTreeSet<u64>,
}

/// The first number. Keys from before this process count down from here.
const FIRST: u64 = 1 << 63;
/// Keys that are removed before publishers have their turn.
const STEP: usize = 256;

impl Use {
    /// How `draft` uses a key, if it does.
    pub(super) fn of(draft: &Draft) -> Option<Self> {
        let key = Arc::clone(draft.key.as_ref()?);
        Some(Self { topic: draft.topic.clone(), key, fingerprint: fingerprint(draft) })
    }
}

impl Keys {
    pub(super) fn new(limits: KeyLimits) -> Self {
        Self(Mutex::new(AllKept { limits, next: FIRST, by_age: BTreeMap::new(), topics: BTreeMap::new() }))
    }

    /// How many are remembered.
    pub(super) fn len(&self) -> usize {
        lock(&self.0).by_age.len()
    }

    /// The answer to a publish whose key was used before; `None` when it is unused.
    pub(super) fn find(&self, used: &Use, now_ms: u64) -> Option<Append> {
        lock(&self.0).answer(used, now_ms)
    }

    /// Has the engine `append` unless the key was used before, and gives the answer to either. An append that is still
    /// under way when `append` returns is driven by the engine, which is to [`settle`](Self::settle) it.
    pub(super) fn append_once(&self, used: Use, now_ms: u64, append: impl FnOnce(Claim) -> Append) -> Append {
        let mut all = lock(&self.0);
        if let Some(answer) = all.answer(&used, now_ms) {
            return answer;
        }
        let number = all.next;
        all.next += 1;
        let Use { topic, key, fingerprint } = used;
        let (outcome, answer) = match append(Claim { number, key: Arc::clone(&key), fingerprint }) {
            Append::Left(appended) => match appended.into_inner() {
                Ok(receipt) => (Outcome::Committed(receipt), Append::Left(ready(Ok(receipt)))),
                Err(error) => return Append::Left(ready(Err(error))),
            },
            Append::Right(append) => {
                let append = append.shared();
                (Outcome::UnderWay(append.clone()), Append::Right(append.boxed()))
            }
        };
        all.insert(number, Kept { topic, key, used_ms: now_ms, fingerprint: Some(fingerprint), outcome });
        answer
    }

    /// Notes how the publish with this number has ended; to be called before anyone is told. The key of one that has
    /// failed is forgotten, and takes no room from one that answers a retry.
    pub(super) fn settle(&self, number: u64, appended: Appended) {
        let mut all = lock(&self.0);
        match appended {
            Ok(receipt) => {
                // It may have made room for others meanwhile.
                if let Some(kept) = all.by_age.get_mut(&number) {
                    kept.outcome = Outcome::Committed(receipt);
                }
            }
            Err(_) => all.remove(number),
        }
    }

    /// Takes back a key from before this process; to be called with the newest first, before any is used. A topic that has
    /// enough is passed over: a busy one must not cost the others their keys. False when there is no room for any more.
    pub(super) fn restore(&self, kept: Kept) -> bool {
        let mut all = lock(&self.0);
        if all.in_the_way(&kept.topic).is_none() {
            let oldest = all.by_age.first_key_value().map_or(FIRST, |(oldest, _)| *oldest);
            all.insert(oldest - 1, kept);
        }
        all.by_age.len() < all.limits.max
    }

    /// Forgets the keys of `topic` that were used before its deletion at this position.
    pub(super) fn forget(&self, topic: &TopicName, deleted_at: u64) {
        self.remove_in_steps(|all| {
            let oldest = all.topics.get(topic)?.by_age.first()?;
            // One that is under way has a later position than all that are committed, and than the deletion.
            let is_gone = |kept: &Kept| matches!(kept.outcome, Outcome::Committed(it) if it.id.seq < deleted_at);
            all.by_age.get(oldest).is_some_and(is_gone).then_some(*oldest)
        });
    }

    /// Forgets the keys whose window is over.
    pub(super) fn drop_expired(&self, now_ms: u64) {
        self.remove_in_steps(|all| {
            let (oldest, kept) = all.by_age.first_key_value()?;
            all.is_over(kept, now_ms).then_some(*oldest)
        });
    }

    /// Removes the keys that `next` gives, one after the other. Publishers wait for a few of them at most.
    fn remove_in_steps(&self, next: impl Fn(&AllKept) -> Option<u64>) {
        loop {
            let mut all = lock(&self.0);
            for _ in 0..STEP {
                let Some(number) = next(&all) else { return };
                all.remove(number);
            }
            drop(all);
            // A mutex is not fair.
            yield_now();
        }
    }
}

impl AllKept {
    fn is_over(&self, kept: &Kept, now_ms: u64) -> bool {
        now_ms.saturating_sub(kept.used_ms) >= millis(self.limits.window)
    }

    fn answer(&mut self, used: &Use, now_ms: u64) -> Option<Append> {
        let number = *self.topics.get(&used.topic)?.by_key.get(&used.key)?;
        let first = self.by_age.get(&number)?;
        if self.is_over(first, now_ms) {
            self.remove(number);
            return None;
        }
        if first.fingerprint.is_some_and(|fingerprint| fingerprint != used.fingerprint) {
            return Some(Append::Left(ready(Err(AppendError::KeyReused))));
        }
        let replayed = |receipt| Receipt { replayed: true, ..receipt };
        Some(match &first.outcome {
            Outcome::Committed(receipt) => Append::Left(ready(Ok(replayed(*receipt)))),
            Outcome::UnderWay(append) => Append::Right(append.clone().map_ok(replayed).boxed()),
        })
    }

    /// The key that has to make room for another one of `topic`, if one has: its own oldest, or that of all.
    fn in_the_way(&self, topic: &TopicName) -> Option<u64> {
        let of_topic = self.topics.get(topic).map(|of_topic| &of_topic.by_age);
        if let Some(of_topic) = of_topic.filter(|of_topic| of_topic.len() >= self.limits.of_topic_max) {
            return of_topic.first().copied();
        }
        let (oldest, _) = self.by_age.first_key_value().filter(|_| self.by_age.len() >= self.limits.max)?;
        Some(*oldest)
    }

    /// Keeps a key that is unused.
    fn insert(&mut self, number: u64, kept: Kept) {
        if let Some(oldest) = self.in_the_way(&kept.topic) {
            self.remove(oldest);
        }
        let of_topic = self.topics.entry(kept.topic.clone()).or_default();
        of_topic.by_key.insert(Arc::clone(&kept.key), number);
        of_topic.by_age.insert(number);
        self.by_age.insert(number, kept);
    }

    fn remove(&mut self, number: u64) {
        let Some(Kept { topic, key, .. }) = self.by_age.remove(&number) else { return };
        let Some(of_topic) = self.topics.get_mut(&topic) else { return };
        of_topic.by_key.remove(&key);
        of_topic.by_age.remove(&number);
        if of_topic.by_age.is_empty() {
            self.topics.remove(&topic);
        }
    }
}

/// Tells whether a retry carries the same event; not a defence against a publisher that cheats itself. It is kept on disk:
/// it must be the same in every release.
fn fingerprint(draft: &Draft) -> u128 {
    let seed = draft.name.as_ref().map_or(0, |name| XxHash3_64::oneshot(name.as_str().as_bytes()));
    XxHash3_128::oneshot_with_seed(seed, &draft.content)
}

#[cfg(test)]
mod tests;
