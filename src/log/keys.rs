//! The idempotency keys of all topics, for every engine: a retry gets the receipt of the first publish.
//!
//! One lock covers the lookup of a key and the append of its event. So when two publishes have the same key at once,
//! the second one always finds the first. An engine calls [`Keys::settle`] before it answers the publisher. So when a
//! publisher learns that its publish failed, the key is already free for the retry.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
};

use futures_util::{
    FutureExt as _, TryFutureExt as _,
    future::{self, BoxFuture},
};
use twox_hash::{XxHash3_64, XxHash3_128};

use super::{Append, AppendError, Appended, Draft, KeyLimits, Receipt, clock::millis, mutex::lock, mutex::unlock_fair};
use crate::{
    event::{EventName, TopicName},
    later::{Known, NotYet, known},
};

/// The idempotency keys of all topics.
pub(super) struct Keys(Mutex<AllKeys>);

/// The key of a publish, before the key is looked up.
pub(super) struct KeyUse {
    topic: TopicName,
    key: Arc<str>,
    /// See [`fingerprint`].
    fingerprint: u128,
}

/// A key that was unused. The engine publishes its event.
pub(super) struct Claim {
    /// The number of the key, for [`Keys::settle`].
    pub(super) number: u64,
    pub(super) key: Arc<str>,
    pub(super) fingerprint: u128,
}

/// A key that was used, and the outcome of its publish.
pub(super) struct KeyEntry {
    pub(super) topic: TopicName,
    pub(super) key: Arc<str>,
    /// When its window ends, in monotonic time.
    pub(super) expires_mono_ms: u64,
    /// The fingerprint of its event; `None` when an older release of the server stored the key. Then every publish
    /// with the key counts as a retry.
    pub(super) fingerprint: Option<u128>,
    pub(super) outcome: Outcome,
}

/// The outcome of a publish, as far as it is known.
pub(super) enum Outcome {
    /// Not committed yet. A retry that comes now waits for the same future.
    Pending(future::Shared<BoxFuture<'static, Appended>>),
    /// This server's publish is not settled yet, but [`Keys::note`] has seen the first event with the key.
    Noted(Receipt),
    /// Committed, with this receipt.
    Committed(Receipt),
}

/// The keys of all topics, each with a number. The maps are trees: when a hash table grows, it copies all its entries,
/// and publishers would wait for the lock during the copy. Trees also free memory as they shrink.
struct AllKeys {
    limits: KeyLimits,
    /// The number of the next key. Keys are numbered in order of their first use. Within a topic, this is the order
    /// of the events' positions.
    next_number: u64,
    /// All keys by number, the oldest first.
    by_age: BTreeMap<u64, KeyEntry>,
    /// The keys of each topic that has any.
    topics: BTreeMap<TopicName, TopicKeys>,
}

/// The numbers of one topic's keys.
#[derive(Default)]
struct TopicKeys {
    /// The number of each key.
    by_key: BTreeMap<Arc<str>, u64>,
    /// All numbers, the oldest first.
    by_age: BTreeSet<u64>,
}

/// The number of the first key that is used in this process. Keys that were stored before get smaller numbers.
const FIRST: u64 = 1 << 63;
/// How many keys are removed under one lock, so that publishers do not wait long.
const REMOVED_PER_LOCK: usize = 256;

impl KeyUse {
    /// The key of `draft`, if it has one.
    pub(super) fn of(draft: &Draft) -> Option<Self> {
        let key = Arc::clone(draft.key.as_ref()?);
        Some(Self { topic: draft.topic.clone(), key, fingerprint: fingerprint(draft.name.as_ref(), &draft.content) })
    }

    /// The key of an event that another server may have published.
    pub(super) fn of_event(topic: TopicName, key: Arc<str>, fingerprint: u128) -> Self {
        Self { topic, key, fingerprint }
    }
}

impl Keys {
    pub(super) fn new(limits: KeyLimits) -> Self {
        Self(Mutex::new(AllKeys { limits, next_number: FIRST, by_age: BTreeMap::new(), topics: BTreeMap::new() }))
    }

    /// How many keys are remembered.
    pub(super) fn len(&self) -> usize {
        lock(&self.0).by_age.len()
    }

    /// All keys, the oldest first.
    pub(super) fn into_entries(self) -> impl Iterator<Item = KeyEntry> {
        self.0.into_inner().unwrap_or_else(PoisonError::into_inner).by_age.into_values()
    }

    /// The outcome of the first publish with this key; `None` when the key is unused.
    pub(super) fn find(&self, used: &KeyUse, mono_ms: u64) -> Option<Append> {
        lock(&self.0).answer(used, mono_ms)
    }

    /// Calls the engine's `append` if the key is unused, and returns its outcome. If the key was used before, returns
    /// the outcome of that publish.
    ///
    /// If `append` returns a future, the engine must complete the future even when nobody polls it. Before that, the
    /// engine must call [`settle`](Self::settle).
    pub(super) fn append_once(&self, used: KeyUse, mono_ms: u64, append: impl FnOnce(Claim) -> Append) -> Append {
        let mut all = lock(&self.0);
        if let Some(answer) = all.answer(&used, mono_ms) {
            return answer;
        }
        let number = all.next_number;
        all.next_number += 1;
        let KeyUse { topic, key, fingerprint } = used;
        let (outcome, answer) = match append(Claim { number, key: Arc::clone(&key), fingerprint }) {
            Known(appended) => match appended.into_inner() {
                Ok(receipt) => (Outcome::Committed(receipt), known(Ok(receipt))),
                Err(error) => return known(Err(error)),
            },
            NotYet(append) => {
                let append = append.shared();
                (Outcome::Pending(append.clone()), NotYet(append.boxed()))
            }
        };
        let expires_mono_ms = mono_ms.saturating_add(millis(all.limits.window));
        all.insert(number, KeyEntry { topic, key, expires_mono_ms, fingerprint: Some(fingerprint), outcome });
        answer
    }

    /// Notes the outcome of the publish whose key has this number, before the engine answers the publisher. The key of
    /// a failed publish is forgotten, so that it does not count towards the limits.
    pub(super) fn settle(&self, number: u64, appended: Appended) {
        let mut all = lock(&self.0);
        // The key may have been evicted since by newer ones.
        let Some(entry) = all.by_age.get_mut(&number) else { return };
        match (&entry.outcome, appended) {
            (Outcome::Noted(first), _) => entry.outcome = Outcome::Committed(*first),
            (_, Ok(receipt)) => entry.outcome = Outcome::Committed(receipt),
            (_, Err(_)) => all.remove(number),
        }
    }

    /// Notes the first event that is committed with this key, in order of position. If this server has claimed the key,
    /// the claim stays, and [`first`](Self::first) finds this event.
    pub(super) fn note(&self, used: KeyUse, receipt: Receipt, expires_mono_ms: u64) {
        let mut all = lock(&self.0);
        let KeyUse { topic, key, fingerprint } = used;
        let known = all.topics.get(&topic).and_then(|topic_keys| topic_keys.by_key.get(&key)).copied();
        if let Some(known) = known
            && let Some(entry) = all.by_age.get_mut(&known)
        {
            match entry.outcome {
                Outcome::Pending(_) => {
                    entry.outcome = Outcome::Noted(receipt);
                    (entry.fingerprint, entry.expires_mono_ms) = (Some(fingerprint), expires_mono_ms);
                    return;
                }
                Outcome::Noted(_) => return,
                // The server that has published this event had forgotten the key, because its window was over.
                Outcome::Committed(_) => all.remove(known),
            }
        }
        let number = all.next_number;
        all.next_number += 1;
        let (fingerprint, outcome) = (Some(fingerprint), Outcome::Committed(receipt));
        all.insert(number, KeyEntry { topic, key, expires_mono_ms, fingerprint, outcome });
    }

    /// The receipt and the fingerprint of the first event with the key of this number, if [`note`](Self::note) has seen
    /// it and the key is not forgotten.
    pub(super) fn first(&self, number: u64) -> Option<(Receipt, u128)> {
        let all = lock(&self.0);
        let entry = all.by_age.get(&number)?;
        let Outcome::Noted(receipt) = entry.outcome else { return None };
        Some((receipt, entry.fingerprint?))
    }

    /// Adds a key that was stored before this process started. The engine calls it with the newest key first, before
    /// any key is used. If the topic already has as many keys as its limit allows, the key is dropped, so that a busy
    /// topic does not displace the keys of others. Returns `false` when the limit for all topics is reached.
    pub(super) fn restore(&self, entry: KeyEntry) -> bool {
        let mut all = lock(&self.0);
        if all.next_to_evict(&entry.topic).is_none() {
            let oldest = all.oldest(None).map_or(FIRST, |(number, _)| number);
            all.insert(oldest - 1, entry);
        }
        all.by_age.len() < all.limits.max
    }

    /// Forgets the keys of `topic` that were used before its deletion at this position. The engine must have settled the
    /// publishes from before the deletion, or noted their events.
    pub(super) fn forget(&self, topic: &TopicName, deleted_at: u64) {
        let mut next = 0;
        loop {
            let mut all = lock(&self.0);
            let Some(topic_keys) = all.topics.get(topic) else { return };
            let numbers: Vec<u64> = topic_keys.by_age.range(next..).copied().take(REMOVED_PER_LOCK).collect();
            let Some(last) = numbers.last() else { return };
            next = last + 1;
            for number in numbers {
                let is_before = all.by_age.get(&number).is_some_and(|entry| match entry.outcome {
                    Outcome::Committed(receipt) | Outcome::Noted(receipt) => receipt.id.seq < deleted_at,
                    // A publish that is still pending comes after the deletion.
                    Outcome::Pending(_) => false,
                });
                if is_before {
                    all.remove(number);
                }
            }
            unlock_fair(all);
        }
    }

    /// Forgets the keys whose window is over.
    pub(super) fn drop_expired(&self, mono_ms: u64) {
        loop {
            let mut all = lock(&self.0);
            for _ in 0..REMOVED_PER_LOCK {
                let Some((number, _)) = all.oldest(None).filter(|(_, entry)| entry.is_expired(mono_ms)) else { return };
                all.remove(number);
            }
            unlock_fair(all);
        }
    }
}

impl KeyEntry {
    /// Whether the key was used too long ago to answer a retry.
    fn is_expired(&self, mono_ms: u64) -> bool {
        mono_ms >= self.expires_mono_ms
    }
}

impl AllKeys {
    /// The outcome of the first publish with this key; `None` when the key is unused. Removes the key if it has
    /// expired.
    fn answer(&mut self, used: &KeyUse, mono_ms: u64) -> Option<Append> {
        let number = *self.topics.get(&used.topic)?.by_key.get(&used.key)?;
        let first = self.by_age.get(&number)?;
        if first.is_expired(mono_ms) {
            self.remove(number);
            return None;
        }
        if first.fingerprint.is_some_and(|fingerprint| fingerprint != used.fingerprint) {
            return Some(known(Err(AppendError::KeyReused)));
        }
        let replayed = |receipt| Receipt { replayed: true, ..receipt };
        Some(match &first.outcome {
            Outcome::Committed(receipt) | Outcome::Noted(receipt) => known(Ok(replayed(*receipt))),
            Outcome::Pending(append) => NotYet(append.clone().map_ok(replayed).boxed()),
        })
    }

    /// The oldest key of `topic`, or of all topics, and its number.
    fn oldest(&self, topic: Option<&TopicName>) -> Option<(u64, &KeyEntry)> {
        let Some(topic) = topic else {
            return self.by_age.first_key_value().map(|(number, entry)| (*number, entry));
        };
        let number = *self.topics.get(topic)?.by_age.first()?;
        Some((number, self.by_age.get(&number)?))
    }

    /// The key that must be evicted before `topic` can have another one: the oldest of the topic when the topic is at
    /// its limit, the oldest of all when all topics together are. `None` when no limit is reached.
    fn next_to_evict(&self, topic: &TopicName) -> Option<u64> {
        let is_topic_full =
            self.topics.get(topic).is_some_and(|topic_keys| topic_keys.by_age.len() >= self.limits.of_topic_max);
        if !is_topic_full && self.by_age.len() < self.limits.max {
            return None;
        }
        self.oldest(is_topic_full.then_some(topic)).map(|(number, _)| number)
    }

    /// Adds a key that is unused, and evicts another one when a limit is reached.
    fn insert(&mut self, number: u64, entry: KeyEntry) {
        if let Some(oldest) = self.next_to_evict(&entry.topic) {
            self.remove(oldest);
        }
        let topic_keys = self.topics.entry(entry.topic.clone()).or_default();
        topic_keys.by_key.insert(Arc::clone(&entry.key), number);
        topic_keys.by_age.insert(number);
        self.by_age.insert(number, entry);
    }

    fn remove(&mut self, number: u64) {
        let Some(KeyEntry { topic, key, .. }) = self.by_age.remove(&number) else { return };
        let Some(topic_keys) = self.topics.get_mut(&topic) else { return };
        topic_keys.by_key.remove(&key);
        topic_keys.by_age.remove(&number);
        if topic_keys.by_age.is_empty() {
            self.topics.remove(&topic);
        }
    }
}

/// A hash of an event's name and content, to detect a key that is reused for another event. It is not
/// cryptographic: a publisher that constructs a collision harms only itself. It is stored on disk, so it must be the
/// same in every release.
pub(super) fn fingerprint(name: Option<&EventName>, content: &[u8]) -> u128 {
    let seed = name.map_or(0, |name| XxHash3_64::oneshot(name.as_str().as_bytes()));
    XxHash3_128::oneshot_with_seed(seed, content)
}

#[cfg(test)]
mod tests;
