//! What a topic answered under which idempotency key: the last so many keys, for so long.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use futures_util::{
    FutureExt as _,
    future::{Shared, ready},
};
use twox_hash::{XxHash3_64, XxHash3_128};

use crate::log::{Append, Appended, Draft, KeptReceipt};

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
    /// Of the event; see [`fingerprint`]. Without one, any retry is taken for the same.
    pub(super) fingerprint: Option<u128>,
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

/// Tells whether a retry carries the same event; not a defence against a publisher that cheats itself. It is kept on disk:
/// it must be the same in every release.
pub(super) fn fingerprint(draft: &Draft) -> u128 {
    let seed = draft.name.as_ref().map_or(0, |name| XxHash3_64::oneshot(name.as_str().as_bytes()));
    XxHash3_128::oneshot_with_seed(seed, &draft.content)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        event::{EventName, TopicName},
        log::AppendError,
    };

    fn kept(append: Append) -> Kept {
        Kept { fingerprint: None, subscribers: 0, receipt: append.shared() }
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

    #[test]
    fn a_fingerprint_is_the_same_in_every_release() {
        // Goal: those on disk stay what they are. The values are from the reference implementation of XXH3.
        let draft = |name: Option<&str>, content: &'static str| Draft {
            topic: TopicName::parse("any", 255).expect("a name"),
            name: name.map(|name| EventName::parse(name).expect("a name")),
            content: content.into(),
            key: None,
        };
        assert_eq!(fingerprint(&draft(None, "")), 0x99aa_06d3_0147_98d8_6001_c324_468d_497f);
        assert_eq!(fingerprint(&draft(None, "content")), 0x917e_1274_274f_c195_b27a_2d23_88d9_568c);
        assert_eq!(fingerprint(&draft(Some("tick"), "content")), 0x3c3d_aa1c_95c1_53aa_96b1_a6c3_0198_b861);
    }
}
