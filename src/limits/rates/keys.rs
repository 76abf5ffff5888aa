//! What each key has used of a rate. The number of keys is limited.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use governor::{
    nanos::Nanos,
    state::{StateStore, keyed::ShrinkableKeyedStateStore},
};

/// The most keys of one rate. They need at most 10 MB. A key is forgotten when all of its rate is free again, about a
/// second after its last use. So a rate reaches this number only if so many clients or topics use the rate within a
/// second.
pub(super) const KEYS_MAX: usize = 1 << 18;
/// The keys are spread over this many maps, so that a thread rarely waits for another.
const SHARDS: usize = 64;
const SHARD_KEYS_MAX: usize = KEYS_MAX / SHARDS;
/// A map that is smaller than this is not shrunk.
const CAPACITY_MIN: usize = 64;

/// For each key, the time at which all of its rate is free again: the less the key has used, the earlier. The keys are
/// hashes, so a long name needs no more memory than a short one.
#[derive(Clone)]
pub(super) struct Keys(Arc<[Mutex<Shard>; SHARDS]>);

type Shard = HashMap<u64, Nanos>;

impl Keys {
    pub(super) fn new() -> Self {
        Self(Arc::new(std::array::from_fn(|_| Mutex::default())))
    }

    /// Makes all of the rate of `key` free earlier by `time`.
    pub(super) fn give_back(&self, key: u64, time: Nanos) {
        if let Some(free_at) = self.shard(key).get_mut(&key) {
            *free_at = free_at.saturating_sub(time);
        }
    }

    /// For how many keys there is memory.
    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.shards().map(|shard| shard.capacity()).sum()
    }

    fn shard(&self, key: u64) -> MutexGuard<'_, Shard> {
        let [first, ..] = &*self.0;
        let index = usize::try_from(key).unwrap_or_default() % SHARDS;
        // There are `SHARDS` of them, so the index always exists.
        lock(self.0.get(index).unwrap_or(first))
    }

    fn shards(&self) -> impl Iterator<Item = MutexGuard<'_, Shard>> {
        self.0.iter().map(lock)
    }
}

/// After a panic the map is still usable: each change of it is one call.
fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

impl StateStore for Keys {
    type Key = u64;

    fn measure_and_replace<T, F, E>(&self, key: &u64, decide: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let mut shard = self.shard(*key);
        if let Some(free_at) = shard.get_mut(key) {
            let (outcome, new) = decide(Some(*free_at))?;
            *free_at = new;
            return Ok(outcome);
        }
        let (outcome, free_at) = decide(None)?;
        if shard.len() >= SHARD_KEYS_MAX {
            forget_half(&mut shard);
        }
        shard.insert(*key, free_at);
        Ok(outcome)
    }
}

/// Forgets the half of the keys that have used least. So a client that invents keys cannot lock out others, and cannot
/// make the server forget a key that has reached its limit.
fn forget_half(shard: &mut Shard) {
    let mut times: Vec<Nanos> = shard.values().copied().collect();
    let (_, median, _) = times.select_nth_unstable(SHARD_KEYS_MAX / 2 - 1);
    shard.retain(|_, free_at| *free_at > *median);
}

impl ShrinkableKeyedStateStore<u64> for Keys {
    fn retain_recent(&self, drop_below: Nanos) {
        for mut shard in self.shards() {
            shard.retain(|_, free_at| *free_at > drop_below);
            // After an attack, the memory is freed, too.
            if shard.capacity() > CAPACITY_MIN && shard.len() < shard.capacity() / 8 {
                shard.shrink_to_fit();
            }
        }
    }

    fn len(&self) -> usize {
        self.shards().map(|shard| shard.len()).sum()
    }

    fn is_empty(&self) -> bool {
        self.shards().all(|shard| shard.is_empty())
    }
}
