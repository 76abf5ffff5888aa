//! What a topic answered under which idempotency key: the last so many keys, for so long.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, Weak},
    time::Instant,
};

use futures_util::{
    FutureExt as _,
    future::{Shared, ready},
};
use twox_hash::{XxHash3_64, XxHash3_128};

use super::keys::Keys;
use crate::{
    event::TopicName,
    log::{Append, Appended, Draft, KeptReceipt, lock},
};

/// A topic's own way to its answers.
pub(super) struct Receipts {
    keys: Arc<Keys>,
    /// The topic was deleted here: events before it are gone, and their keys count as unused.
    deleted_to: u64,
    /// `None` until there is one.
    answers: Option<Arc<Mutex<Answers>>>,
}

/// The answers of one topic, where the keys of all topics are found, too.
pub(super) struct Answers {
    /// No other topic has it.
    number: u64,
    this: Weak<Mutex<Self>>,
    kept: HashMap<Arc<str>, Kept>,
    /// The keys, oldest first.
    by_age: VecDeque<(Instant, Arc<str>)>,
    /// When the oldest key was used, as [`Keys`] has it.
    noted: Option<Instant>,
}

/// One answer. It may still be on its way: a retry that overtakes the commit waits for the same one.
#[derive(Clone)]
pub(super) struct Kept {
    /// Of the event; see [`fingerprint`]. Without one, any retry is taken for the same.
    pub(super) fingerprint: Option<u128>,
    pub(super) subscribers: usize,
    pub(super) receipt: Shared<Append>,
}

impl Receipts {
    /// Of a topic that starts, with what is kept of it from before this process.
    pub(super) fn open(topic: &TopicName, keys: &Arc<Keys>) -> Self {
        Self { keys: Arc::clone(keys), deleted_to: 0, answers: keys.take_restored(topic) }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.answers.is_none()
    }

    /// The topic was deleted at this position.
    pub(super) fn forget_to(&mut self, deleted_to: u64) {
        self.deleted_to = deleted_to;
    }

    /// The answer given to `key` before. One that failed, or whose event has been deleted since, is forgotten: the retry
    /// counts as the first.
    pub(super) fn find(&self, key: &str) -> Option<Kept> {
        let mut answers = lock(self.answers.as_ref()?);
        answers.drop_expired(usize::MAX, &self.keys);
        let is_gone = |outcome: Appended| outcome.map_or(true, |receipt| receipt.id.seq < self.deleted_to);
        answers.forget_if(is_gone, key, &self.keys);
        answers.kept.get(key).cloned()
    }

    /// Keeps the answer to `key`, which has none; the oldest one makes room, of the topic's or of all.
    pub(super) fn keep(&mut self, key: Arc<str>, answer: Kept) {
        let answers = self.answers.get_or_insert_with(|| self.keys.begin());
        lock(answers).insert(Instant::now(), key, answer, &self.keys);
        self.keys.make_room();
    }

    /// Waits until `receipt`, which is kept under `key`, is known, and forgets the key if it has failed: a key that
    /// answers nothing must not take the room of one that does. Not for the publisher to await, who may go.
    pub(super) fn settle(&self, key: Arc<str>, receipt: Shared<Append>) -> impl Future<Output = ()> + use<> {
        let (answers, keys) = (self.answers.as_ref().map(Arc::downgrade), Arc::clone(&self.keys));
        async move {
            if receipt.await.is_err()
                && let Some(answers) = answers.and_then(|answers| answers.upgrade())
            {
                lock(&answers).forget_if(|outcome| outcome.is_err(), &key, &keys);
            }
        }
    }
}

impl Drop for Receipts {
    fn drop(&mut self) {
        if let Some(answers) = &self.answers {
            lock(answers).clear(&self.keys);
        }
    }
}

impl Answers {
    pub(super) fn new(number: u64, this: Weak<Mutex<Self>>) -> Self {
        Self { number, this, kept: HashMap::new(), by_age: VecDeque::new(), noted: None }
    }

    /// Takes back an answer that was given before this process, at a time that is now this.
    pub(super) fn restore(&mut self, at: Instant, kept: KeptReceipt, keys: &Keys) {
        let receipt = Append::Left(ready(Ok(kept.receipt))).shared();
        let answer = Kept { fingerprint: kept.fingerprint, subscribers: kept.subscribers, receipt };
        self.insert(at, kept.key, answer, keys);
    }

    pub(super) fn insert(&mut self, at: Instant, key: Arc<str>, answer: Kept, keys: &Keys) {
        while self.by_age.len() >= keys.of_topic_max() {
            keys.uncount(1);
            self.pop();
        }
        self.by_age.push_back((at, Arc::clone(&key)));
        self.kept.insert(key, answer);
        self.note(keys);
        keys.count_one();
    }

    /// Drops keys whose window is over, so many at most.
    pub(super) fn drop_expired(&mut self, most: usize, keys: &Keys) {
        for _ in 0..most {
            if !self.by_age.front().is_some_and(|(at, _)| keys.is_over(*at)) {
                break;
            }
            keys.uncount(1);
            self.pop();
        }
        self.note(keys);
    }

    /// Drops the oldest key, which is not counted any more; false when none of that time is noted.
    pub(super) fn drop_oldest_of(&mut self, at: Instant, keys: &Keys) -> bool {
        let is_noted = self.noted == Some(at);
        if is_noted {
            self.pop();
            self.note(keys);
        }
        is_noted
    }

    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.by_age.capacity().max(self.kept.capacity())
    }

    pub(super) fn clear(&mut self, keys: &Keys) {
        keys.uncount(self.by_age.len());
        self.by_age = VecDeque::new();
        self.kept = HashMap::new();
        self.note(keys);
    }

    /// Forgets `key` if its outcome is known, and one of these.
    fn forget_if(&mut self, is_gone: impl FnOnce(Appended) -> bool, key: &str, keys: &Keys) {
        // Asked, not only looked at: when its publisher has gone, nobody has asked it yet.
        let outcome = self.kept.get(key).and_then(|kept| kept.receipt.clone().now_or_never());
        if outcome.is_some_and(is_gone) {
            self.forget(key, keys);
        }
    }

    fn forget(&mut self, key: &str, keys: &Keys) {
        keys.uncount(1);
        let Some((key, _)) = self.kept.remove_entry(key) else { return };
        // Not by the text, which is far away for each of them; from the newest, which are those that fail.
        if let Some(at) = self.by_age.iter().rposition(|(_, other)| Arc::ptr_eq(other, &key)) {
            self.by_age.remove(at);
        }
        self.give_back_room();
        self.note(keys);
    }

    fn pop(&mut self) {
        if let Some((_, key)) = self.by_age.pop_front() {
            self.kept.remove(&key);
        }
        self.give_back_room();
    }

    fn give_back_room(&mut self) {
        // Else a topic would keep the room of its busiest time. This happens rarely: half of what is left then goes
        // before the next time.
        let len = self.by_age.len();
        if self.by_age.capacity() > 4 * len {
            self.by_age.shrink_to(2 * len);
            self.kept.shrink_to(2 * len);
        }
    }

    /// Notes the time of the oldest key when it is another one.
    fn note(&mut self, keys: &Keys) {
        let oldest = self.by_age.front().map(|(at, _)| *at);
        if oldest != self.noted {
            keys.note(self.number, self.noted, oldest, &self.this);
            self.noted = oldest;
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
    use std::time::Duration;

    use super::*;
    use crate::{event::EventName, log::AppendError, topic::TopicLimits};

    fn kept(append: Append) -> Kept {
        Kept { fingerprint: None, subscribers: 0, receipt: append.shared() }
    }

    #[test]
    fn an_append_that_failed_unseen_is_forgotten() {
        // Goal: its publisher has gone and nobody has polled it; the retry counts as the first. One under way is kept.
        let limits = TopicLimits {
            subscribers_max: 1,
            idempotency_window: Duration::from_mins(1),
            idempotency_keys_max: 9,
            idempotency_keys_of_all_max: 9,
            gone: Duration::ZERO,
        };
        let keys = Arc::new(Keys::new(&limits));
        let mut receipts = Receipts::open(&TopicName::parse("any", 255).expect("a name"), &keys);
        receipts.keep("failed".into(), kept(Append::Right(async { Err(AppendError::DiskFull) }.boxed())));
        receipts.keep("under way".into(), kept(Append::Right(std::future::pending().boxed())));
        assert!(receipts.find("failed").is_none());
        assert!(receipts.find("under way").is_some());
        assert_eq!(keys.len(), 1);
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
