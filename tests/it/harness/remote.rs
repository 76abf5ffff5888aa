//! A log as one in another process would be: to read it takes time, and its history may end and another one begin.

use std::{
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use futures_util::FutureExt as _;
use tidings::{
    config::{Config, LogConfig},
    event::{Epoch, EventId, TopicName},
    later::Later,
    log::{
        Append, AppendError, Batch, Draft, Durability, Feed, Held, KeyLimits, Log, LogStats, ReadError, ReadFrom,
        Reading, Resolved, Start, memory::MemoryLog,
    },
};

/// The log. Its events are in memory all the same.
pub struct Remote {
    config: LogConfig,
    state: Arc<Mutex<State>>,
}

struct State {
    history: MemoryLog,
    /// The feed of `history`, which goes on to `feeds`.
    source: Arc<Feed>,
    feeds: Vec<Arc<Feed>>,
}

impl Remote {
    pub fn new(config: LogConfig) -> Self {
        Self { state: Arc::new(Mutex::new(State::new(&config))), config }
    }

    /// Ends the history. Another one begins, with these events; their positions count from 1 again.
    pub fn end_epoch(&self, first: Vec<Draft>) -> Vec<u64> {
        let next = State::new(&self.config);
        let positions = first.into_iter().map(|draft| {
            let receipt = next.history.append(draft).now_or_never().expect("memory commits at once");
            receipt.expect("it is taken").id.seq
        });
        let positions = positions.collect();
        next.source.take(&mut Batch::default());
        let mut state = self.lock();
        for feed in &state.feeds {
            feed.begin_epoch(next.history.epoch(), next.history.watermark());
        }
        (state.history, state.source) = (next.history, next.source);
        positions
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic")
    }

    /// What `ask` says of the history that there is when the future is polled.
    fn later<T: Send + 'static>(&self, ask: impl FnOnce(&MemoryLog) -> Later<T> + Send + 'static) -> Later<T> {
        let state = Arc::clone(&self.state);
        let answer = async move {
            let answer = ask(&state.lock().expect("no panic").history);
            answer.await
        };
        Later::Right(answer.boxed())
    }
}

impl State {
    fn new(config: &LogConfig) -> Self {
        let history = MemoryLog::new(config.clone(), KeyLimits::from(&Config::default()));
        Self { source: history.feed(), history, feeds: Vec::new() }
    }

    /// Hands on what has been committed.
    fn relay(&mut self) {
        let mut batch = Batch::default();
        self.source.take(&mut batch);
        self.feeds.retain(|feed| Arc::strong_count(feed) > 1);
        for commit in batch.commits {
            self.feeds.iter().for_each(|feed| feed.push(commit.clone()));
        }
    }
}

impl Log for Remote {
    fn epoch(&self) -> Epoch {
        self.lock().history.epoch()
    }

    fn durability(&self) -> Durability {
        Durability::Memory
    }

    fn watermark(&self) -> u64 {
        self.lock().history.watermark()
    }

    fn append(&self, draft: Draft) -> Append {
        let mut state = self.lock();
        let append = state.history.append(draft);
        state.relay();
        append
    }

    fn delete(&self, topic: &TopicName) -> Later<Result<EventId, AppendError>> {
        let mut state = self.lock();
        let deleted = state.history.delete(topic);
        state.relay();
        deleted
    }

    fn resolve_start(&self, topics: &[TopicName], start: &Start, deleted: &[TopicName]) -> Resolved {
        let (topics, start, deleted) = (topics.to_vec(), start.clone(), deleted.to_vec());
        self.later(move |history| history.resolve_start(&topics, &start, &deleted))
    }

    fn read(&self, topics: &[TopicName], from: ReadFrom, bytes_max: usize) -> Reading {
        let topics = topics.to_vec();
        self.later(move |history| history.read(&topics, from, bytes_max))
    }

    fn held(&self, topic: &TopicName) -> Later<Result<Option<Held>, ReadError>> {
        let topic = topic.clone();
        self.later(move |history| history.held(&topic))
    }

    fn deletion(&self, topic: &TopicName) -> Option<(EventId, Duration)> {
        self.lock().history.deletion(topic)
    }

    fn feed(&self) -> Arc<Feed> {
        let feed = Arc::new(Feed::default());
        self.lock().feeds.push(Arc::clone(&feed));
        feed
    }

    fn stats(&self) -> LogStats {
        self.lock().history.stats()
    }

    fn keys(&self) -> usize {
        self.lock().history.keys()
    }

    fn enforce_retention(&self) {
        self.lock().history.enforce_retention();
    }
}
