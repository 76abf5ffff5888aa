//! What a topic answered under which idempotency key: the last so many keys, for so long.

use std::{
    collections::{HashMap, VecDeque, hash_map::DefaultHasher},
    hash::{Hash as _, Hasher as _},
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use futures_util::{
    FutureExt as _,
    future::{Shared, ready},
};

use crate::{
    event::EventName,
    log::{Append, Appended, Draft, KeptReceipt},
};

/// The answers kept.
pub(super) struct Receipts {
    window: Duration,
    keys_max: usize,
    /// The topic was deleted here: events before it are gone, and their keys count as unused.
    deleted_to: u64,
    kept: HashMap<Arc<str>, Kept>,
    /// The keys, oldest first.
    keys: VecDeque<(Instant, Arc<str>)>,
}

/// One answer. It may still be on its way: a retry that overtakes the commit waits for the same one.
pub(super) struct Kept {
    /// Of the event; see [`fingerprint`].
    pub(super) fingerprint: u64,
    pub(super) subscribers: usize,
    pub(super) receipt: Shared<Append>,
}

impl Receipts {
    pub(super) fn new(window: Duration, keys_max: usize) -> Self {
        Self { window, keys_max, deleted_to: 0, kept: HashMap::new(), keys: VecDeque::new() }
    }

    /// The topic was deleted at this position.
    pub(super) fn forget_to(&mut self, deleted_to: u64) {
        self.deleted_to = deleted_to;
    }

    /// The answer given to `key` before. One that failed, or whose event has been deleted since, is forgotten: the retry
    /// counts as the first.
    pub(super) fn find(&mut self, key: &str) -> Option<&Kept> {
        while self.keys.front().is_some_and(|(at, _)| at.elapsed() >= self.window) {
            self.drop_oldest();
        }
        // Asked, not only looked at: when its publisher has gone, nobody has asked it yet.
        let outcome = self.kept.get(key).and_then(|kept| kept.receipt.clone().now_or_never());
        let is_gone = |outcome: Appended| outcome.map_or(true, |receipt| receipt.id.seq < self.deleted_to);
        if outcome.is_some_and(is_gone) {
            self.kept.remove(key);
            self.keys.retain(|(_, other)| **other != *key);
        }
        self.kept.get(key)
    }

    /// Keeps the answer to `key`, which has none; the oldest one makes room.
    pub(super) fn keep(&mut self, key: Arc<str>, answer: Kept) {
        self.insert(Instant::now(), key, answer);
    }

    fn insert(&mut self, at: Instant, key: Arc<str>, answer: Kept) {
        while self.keys.len() >= self.keys_max {
            self.drop_oldest();
        }
        self.keys.push_back((at, Arc::clone(&key)));
        self.kept.insert(key, answer);
    }

    /// Takes back an answer that was given before this process; to be called by age, before any other.
    pub(super) fn restore(&mut self, kept: KeptReceipt) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let age = now.saturating_sub(Duration::from_millis(kept.time_ms));
        let Some(at) = Instant::now().checked_sub(age) else { return };
        let receipt = Append::Left(ready(Ok(kept.receipt))).shared();
        let answer = Kept { fingerprint: kept.fingerprint, subscribers: kept.subscribers, receipt };
        self.insert(at, kept.key, answer);
    }

    fn drop_oldest(&mut self) {
        if let Some((_, key)) = self.keys.pop_front() {
            self.kept.remove(&key);
        }
    }
}

/// Tells whether a retry carries the same event; not a defence against a publisher that cheats itself.
pub(super) fn fingerprint(draft: &Draft) -> u64 {
    let mut hasher = DefaultHasher::new();
    draft.name.as_ref().map(EventName::as_str).hash(&mut hasher);
    draft.content.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::AppendError;

    fn kept(append: Append) -> Kept {
        Kept { fingerprint: 0, subscribers: 0, receipt: append.shared() }
    }

    #[test]
    fn an_append_that_failed_unseen_is_forgotten() {
        // Goal: its publisher has gone and nobody has polled it; the retry counts as the first. One under way is kept.
        let mut receipts = Receipts::new(Duration::from_mins(1), 9);
        receipts.keep("failed".into(), kept(Append::Right(async { Err(AppendError::DiskFull) }.boxed())));
        receipts.keep("under way".into(), kept(Append::Right(std::future::pending().boxed())));
        assert!(receipts.find("failed").is_none());
        assert!(receipts.find("under way").is_some());
    }
}
