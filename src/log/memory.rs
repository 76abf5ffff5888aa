//! The engine that keeps all events in memory, within the retention limits. Its events are lost when the process ends.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use super::{
    Append, AppendError, Commit, Draft, Durability, Feed, Held, KeyLimits, Log, LogStats, ReadError, ReadFrom, Reading,
    Receipt, Resolved, Start, Wall,
    clock::{self, Clock},
    feed::Feeds,
    index::{Entry, Index, Removal},
    keys::{self, Keys},
    mutex::{lock, unlock_fair},
};
use crate::{
    config::LogConfig,
    event::{Epoch, EventId, TopicName},
    frame,
    later::{Later, known},
};

/// The log in memory. An append with a key holds the lock of `keys` while it locks `state`; nothing locks them in the
/// other order. All operations under these locks are short, and none waits for I/O.
pub struct MemoryLog {
    epoch: Epoch,
    clock: Clock,
    /// A copy of the index's watermark, which can be read without the lock.
    watermark: AtomicU64,
    state: Mutex<State>,
    keys: Keys,
}

#[derive(Debug)]
struct State {
    index: Index,
    /// Time of the newest event.
    time_ms: u64,
    feeds: Feeds,
}

impl MemoryLog {
    /// An empty log with a new epoch.
    #[must_use]
    pub fn new(retention: LogConfig, keys: KeyLimits) -> Self {
        Self::with_wall(retention, keys, clock::system())
    }

    /// Like [`new`](Self::new), but with another wall clock.
    #[must_use]
    pub fn with_wall(retention: LogConfig, keys: KeyLimits, wall: Wall) -> Self {
        let epoch = Epoch::random();
        // All entries are hot, because the events are nowhere else.
        let index = Index::new(epoch, retention, u64::MAX);
        let state = State { index, time_ms: 0, feeds: Feeds::default() };
        let (clock, watermark) = (Clock::new(wall), AtomicU64::new(0));
        Self { epoch, clock, watermark, state: Mutex::new(state), keys: Keys::new(keys) }
    }

    /// Publishes `draft` at once.
    fn commit(&self, draft: Draft) -> Append {
        let mut guard = lock(&self.state);
        let state = &mut *guard;
        let id = EventId { epoch: self.epoch, seq: state.index.watermark() + 1 };
        let moment = self.clock.read();
        state.time_ms = moment.stamp(state.time_ms);
        let event = frame::encode(id, state.time_ms, draft.topic, draft.name, &draft.content);
        let entry = Entry::hot(Arc::clone(&event), moment.mono_ms);
        // A new step limits how many entries `push` may visit, so that the lock is held only for a short time.
        state.index.begin_step();
        state.index.push(&event.topic, entry, &mut ignore);
        self.watermark.store(id.seq, Ordering::Release);
        state.feeds.push(Commit::Event(event));
        known(Ok(Receipt { id, subscribers: draft.subscribers, replayed: false }))
    }
}

impl Log for MemoryLog {
    fn epoch(&self) -> Epoch {
        self.epoch
    }

    fn durability(&self) -> Durability {
        Durability::Memory
    }

    fn watermark(&self) -> u64 {
        self.watermark.load(Ordering::Acquire)
    }

    fn append(&self, draft: Draft) -> Append {
        match keys::KeyUse::of(&draft) {
            None => self.commit(draft),
            Some(used) => self.keys.append_once(used, self.clock.read().mono_ms, |_| self.commit(draft)),
        }
    }

    fn delete(&self, topic: &TopicName) -> Later<Result<EventId, AppendError>> {
        let mut guard = lock(&self.state);
        let state = &mut *guard;
        let seq = state.index.watermark() + 1;
        state.index.delete(topic, seq, self.clock.read().mono_ms);
        self.watermark.store(seq, Ordering::Release);
        state.feeds.push(Commit::Deleted(topic.clone(), seq));
        drop(guard);
        self.keys.forget(topic, seq);
        known(Ok(EventId { epoch: self.epoch, seq }))
    }

    fn resolve_start(&self, topics: &[TopicName], start: &Start, deleted: &[TopicName]) -> Resolved {
        known(Ok(lock(&self.state).index.resolve_start(topics, start, deleted)))
    }

    fn read(&self, topics: &[TopicName], from: ReadFrom, bytes_max: usize) -> Reading {
        // `None` would mean that the page begins with a cold entry, and this log has none.
        known(lock(&self.state).index.read(topics, from, bytes_max).ok_or(ReadError))
    }

    fn held(&self, topic: &TopicName) -> Later<Result<Option<Held>, ReadError>> {
        known(Ok(lock(&self.state).index.held(topic)))
    }

    fn deletion(&self, topic: &TopicName) -> Option<(EventId, Duration)> {
        lock(&self.state).index.deletion(topic, self.clock.read().mono_ms)
    }

    fn feed(&self) -> Arc<Feed> {
        lock(&self.state).feeds.open()
    }

    fn stats(&self) -> LogStats {
        LogStats { keys: self.keys.len(), ..lock(&self.state).index.stats() }
    }

    fn keys(&self) -> usize {
        self.keys.len()
    }

    fn enforce_retention(&self) {
        let moment = self.clock.read();
        self.keys.drop_expired(moment.mono_ms);
        loop {
            let mut state = lock(&self.state);
            if !state.index.enforce_retention(moment, &mut ignore) {
                return;
            }
            unlock_fair(state);
        }
    }
}

/// Does nothing with what the index has removed: this engine has no file to remove it from.
fn ignore(_: Removal<'_>) {}
