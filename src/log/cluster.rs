//! The engine that keeps the events in a stream of NATS. Several servers use one stream, and each of them takes
//! publishes and has subscribers. The stream's positions are the positions of the log, so all servers have the same ids.
//!
//! ```text
//!  append ─► bounded queue ─► publisher ──► NATS ──► follower ─► index, keys, feeds
//!                                 ▲                     │
//!                  answers when the follower has passed the position
//!  read ───► index: hot ─► page
//!                   cold ─► fetch: reads single messages from NATS ─► page
//! ```
//!
//! Every server follows the whole stream and builds the same index from it. A position enters the index only through the
//! follower, also if this server has published it. So there is one way in, and all servers have the same order.
//!
//! The stream has limits of its own, which are above those of the log. It removes its oldest messages only. The index
//! decides what is held.
//!
//! One thread runs all tasks of this engine. The publisher and the follower rely on this: what one does between two
//! waits, the other does not see half done.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
        mpsc as blocking,
    },
    thread::JoinHandle,
    time::Duration,
};

use futures_util::future::{BoxFuture, FutureExt as _};
use tokio::{
    runtime::{Builder, Handle},
    sync::{Semaphore, SetOnce, mpsc, watch},
    time::timeout,
};

use super::{
    Append, AppendError, Draft, Durability, Feed, Held, KeyLimits, Log, LogStats, LogTimes, ReadError, ReadFrom,
    Reading, Resolved, Start,
    clock::{self, Clock},
    feed::Feeds,
    index::Index,
    keys::Keys,
    mutex::{lock, unlock_fair},
    queue::{self, Job, Queue},
};
use crate::{
    config::{ClusterConfig, LogConfig},
    event::{Epoch, EventId, TopicName},
    later::{Later, NotYet, known},
    peers::{Local, Node, PeerError, Peers, TicketHash, TicketUse},
};

// Each file uses only files below it.
mod import;
mod tasks;
mod publisher;
mod watchdog;
mod follower;
mod change;
mod fetch;
mod reach;
mod commands;
mod exchange;
mod shared;
mod others;
mod counts;
mod connection;
mod answer;
mod envelope;
mod subject;
mod error;

use connection::DUPLICATE_WINDOW;
pub(in crate::log) use envelope::{Envelope, Missing, Sent};
pub use error::{ImportError, OpenError};
pub(in crate::log) use import::{Done, Importer, Item};
use others::Others;
use reach::Reach;
use shared::{Health, Open, Shared, State};
use tasks::Parts;

/// The log in a cluster.
pub struct ClusterLog {
    shared: Arc<Shared>,
    queue: Arc<Queue<mpsc::Sender<Job>>>,
    /// Runs the tasks.
    runtime: Handle,
    /// `None` once [`stop`](Self::stop) has taken it.
    thread: Mutex<Option<JoinHandle<()>>>,
    /// Limits the pages that are fetched at once.
    read_permits: Arc<Semaphore>,
}

/// How long a start waits for NATS. After this, it goes on without, and the server is not ready.
const START_WAIT: Duration = Duration::from_secs(5);
/// How long a subscription waits for this server to reach its cursor, or for the stream to be read.
const CURSOR_WAIT: Duration = Duration::from_secs(2);
/// How many pages are fetched at once.
const READS_MAX: usize = 64;

impl ClusterLog {
    /// Connects to NATS and reads the stream. If NATS cannot be reached for a while, returns nevertheless, and goes on
    /// trying.
    ///
    /// # Errors
    /// When another attempt would not succeed either.
    pub fn open(config: &ClusterConfig, log: &LogConfig, keys: KeyLimits) -> Result<Self, OpenError> {
        let provisional = Epoch::random();
        let index = Index::new(provisional, log.clone(), log.hot_bytes_max.get());
        let shared = Arc::new(Shared {
            provisional,
            open: SetOnce::new(),
            clock: Clock::new(clock::system()),
            started_wall_ms: clock::wall_ms(),
            watermark: AtomicU64::new(0),
            state: Mutex::new(State { index, feeds: Feeds::default() }),
            keys: Keys::new(keys),
            times: LogTimes::default(),
            position: watch::Sender::new(0),
            health: Health::new(),
            marker: tokio::sync::Mutex::default(),
            others: Others::new(),
            failed: Arc::default(),
            unreadable: AtomicU64::new(0),
            keys_valid: DUPLICATE_WINDOW / 2,
        });
        let (sender, jobs) = mpsc::channel(queue::jobs_max(log.queue_bytes_max.to_usize()));
        let runtime = Builder::new_current_thread().enable_all().build().map_err(OpenError::Thread)?;
        let (handle, (opened, outcome)) = (runtime.handle().clone(), blocking::channel());
        let (config, log_config) = (config.clone(), log.clone());
        let parts = Parts { shared: Arc::clone(&shared), config, log: log_config, key_window: keys.window };
        let run = move || tasks::run_thread(&runtime, &parts, jobs, &opened);
        let thread = std::thread::Builder::new().name("log".to_owned()).spawn(run).map_err(OpenError::Thread)?;
        let opened = Self {
            shared,
            queue: Arc::new(Queue::new(log.queue_bytes_max.to_usize(), log.queue_wait, sender)),
            runtime: handle,
            thread: Mutex::new(Some(thread)),
            read_permits: Arc::new(Semaphore::new(READS_MAX)),
        };
        if let Ok(outcome) = outcome.recv_timeout(START_WAIT) {
            return outcome.map(|()| opened);
        }
        tracing::warn!("the stream is not read yet: the server starts, and is not ready");
        Ok(opened)
    }

    /// Closes the queue, and returns the thread, which ends when all jobs are answered.
    fn stop(&self) -> Option<JoinHandle<()>> {
        self.queue.close();
        lock(&self.thread).take()
    }

    /// Why nothing can be published now, if so.
    fn refusal(&self, draft: Option<&Draft>) -> Option<AppendError> {
        let Some(content_max) = self.shared.content_max() else { return Some(AppendError::Unavailable) };
        if self.shared.failed.initialized() {
            return Some(AppendError::Unavailable);
        }
        let draft = draft?;
        if draft.content.len() > content_max {
            return Some(AppendError::TooLarge { bytes_max: content_max });
        }
        (draft.key.is_some() && self.shared.are_keys_outdated()).then_some(AppendError::Unavailable)
    }

    /// What `ask` says once the stream is read. Waits for that only for a while.
    fn when_open<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&Shared) -> Result<T, ReadError> + Send + 'static,
    ) -> Later<Result<T, ReadError>> {
        if self.shared.open.initialized() {
            return known(ask(&self.shared));
        }
        let shared = Arc::clone(&self.shared);
        let answer = async move {
            timeout(CURSOR_WAIT, shared.open.wait()).await.map_err(|_| ReadError)?;
            ask(&shared)
        };
        NotYet(answer.boxed())
    }
}

impl Drop for ClusterLog {
    fn drop(&mut self) {
        join(self.stop());
    }
}

impl Log for ClusterLog {
    fn epoch(&self) -> Epoch {
        self.shared.open.get().map_or(self.shared.provisional, |open| open.epoch)
    }

    fn durability(&self) -> Durability {
        Durability::Cluster
    }

    fn watermark(&self) -> u64 {
        self.shared.watermark.load(Ordering::Acquire)
    }

    fn append(&self, draft: Draft) -> Append {
        match self.refusal(Some(&draft)) {
            Some(error) => known(Err(error)),
            None => self.queue.append(&self.shared, draft),
        }
    }

    fn delete(&self, topic: &TopicName) -> Later<Result<EventId, AppendError>> {
        match self.refusal(None) {
            Some(error) => known(Err(error)),
            None => self.queue.delete(topic.clone()),
        }
    }

    fn resolve_start(&self, topics: &[TopicName], start: &Start, deleted: &[TopicName]) -> Resolved {
        if let Start::After(cursor) = start
            && cursor.seq > self.watermark()
            && (!self.shared.open.initialized() || cursor.epoch == self.epoch())
        {
            let (shared, runtime) = (Arc::clone(&self.shared), self.runtime.clone());
            let (topics, start, deleted, cursor) = (topics.to_vec(), start.clone(), deleted.to_vec(), *cursor);
            let resolved = async move {
                let wait = async move {
                    let start = match shared.reach(cursor, CURSOR_WAIT).await {
                        Reach::Reached => start,
                        // As a cursor of another epoch.
                        Reach::Ahead => Start::After(EventId { epoch: shared.provisional, ..cursor }),
                        Reach::Unknown => return None,
                    };
                    Some(lock(&shared.state).index.resolve_start(&topics, &start, &deleted))
                };
                runtime.spawn(wait).await.ok().flatten().ok_or(ReadError)
            };
            return NotYet(resolved.boxed());
        }
        let (topics, start, deleted) = (topics.to_vec(), start.clone(), deleted.to_vec());
        self.when_open(move |shared| Ok(lock(&shared.state).index.resolve_start(&topics, &start, &deleted)))
    }

    fn read(&self, topics: &[TopicName], from: ReadFrom, bytes_max: usize) -> Reading {
        let Some(Open { link, .. }) = self.shared.open.get() else { return known(Err(ReadError)) };
        if let Some(page) = lock(&self.shared.state).index.read(topics, from, bytes_max) {
            return known(Ok(page));
        }
        let (shared, permits, topics) = (Arc::clone(&self.shared), Arc::clone(&self.read_permits), topics.to_vec());
        let (runtime, link) = (self.runtime.clone(), Arc::clone(link));
        let page = async move {
            let permit = permits.acquire_owned().await.map_err(|_| ReadError)?;
            let fetch = async move {
                // The permit is released when the read ends, even if the caller has dropped the future before.
                let _permit = permit;
                shared.fetch(&link, &topics, from, bytes_max).await
            };
            match runtime.spawn(fetch).await {
                Ok(Ok(page)) => Ok(page),
                Ok(Err(fetch::FetchError(why))) => {
                    // The cause may pass. The stream ends, and its client reconnects and asks again.
                    tracing::error!(why, "the log cannot be read: a stream ends");
                    Err(ReadError)
                }
                Err(_) => Err(ReadError),
            }
        };
        NotYet(page.boxed())
    }

    fn held(&self, topic: &TopicName) -> Later<Result<Option<Held>, ReadError>> {
        let topic = topic.clone();
        self.when_open(move |shared| Ok(lock(&shared.state).index.held(&topic)))
    }

    fn deletion(&self, topic: &TopicName) -> Option<(EventId, Duration)> {
        lock(&self.shared.state).index.deletion(topic, self.shared.clock.read().mono_ms)
    }

    fn peers(&self) -> Option<&dyn Peers> {
        Some(self)
    }

    fn feed(&self) -> Arc<Feed> {
        lock(&self.shared.state).feeds.open()
    }

    fn keys(&self) -> usize {
        self.shared.keys.len()
    }

    fn enforce_retention(&self) {
        let moment = self.shared.clock.read();
        self.shared.keys.drop_expired(moment.mono_ms);
        loop {
            let mut state = lock(&self.shared.state);
            if !state.index.enforce_retention(moment, &mut |_| ()) {
                return;
            }
            unlock_fair(state);
        }
    }

    fn stats(&self) -> LogStats {
        LogStats {
            unreadable: self.shared.unreadable.load(Ordering::Relaxed),
            keys: self.shared.keys.len(),
            queue_bytes: self.queue.used_bytes(),
            ..lock(&self.shared.state).index.stats()
        }
    }

    fn times(&self) -> Option<&LogTimes> {
        Some(&self.shared.times)
    }

    fn check(&self) -> Result<(), AppendError> {
        let health = &self.shared.health;
        let is_connected = self.shared.open.get().is_some_and(|open| open.link.is_connected());
        if self.shared.failed.initialized() || !is_connected || !health.follows.load(Ordering::Relaxed) {
            return Err(AppendError::Unavailable);
        }
        if health.is_unanswered() {
            return Err(AppendError::Unavailable);
        }
        if health.full.load(Ordering::Relaxed) {
            return Err(AppendError::DiskFull);
        }
        if self.queue.is_refusing() { Err(AppendError::QueueFull) } else { Ok(()) }
    }

    fn failed(&self) -> BoxFuture<'static, String> {
        let failed = Arc::clone(&self.shared.failed);
        async move { failed.wait().await.clone() }.boxed()
    }

    fn close(&self) -> BoxFuture<'static, ()> {
        let thread = self.stop();
        tokio::task::spawn_blocking(move || join(thread)).map(drop).boxed()
    }
}

impl Peers for ClusterLog {
    fn node(&self) -> Node {
        self.shared.others.own
    }

    fn subscribers(&self, topic: &str) -> usize {
        self.shared.others.subscribers(topic)
    }

    fn note_change(&self, topic: &TopicName) {
        lock(&self.shared.others.changes).note(topic);
    }

    fn ticket(
        &self,
        node: Node,
        hash: TicketHash,
        ticket_use: TicketUse,
    ) -> BoxFuture<'static, Result<Option<String>, PeerError>> {
        let asked = self.runtime.spawn(exchange::ask(Arc::clone(&self.shared), node, hash, ticket_use));
        asked.map(|answer| answer.unwrap_or(Err(PeerError::Unavailable))).boxed()
    }

    fn end_subject(&self, subject: &str) -> BoxFuture<'static, Result<(), PeerError>> {
        let ended = self.runtime.spawn(commands::end_subject(Arc::clone(&self.shared), subject.to_owned()));
        ended.map(|ended| ended.unwrap_or(Err(PeerError::Unknown))).boxed()
    }

    fn serve(&self, local: Arc<dyn Local>) {
        self.shared.others.serve(local);
    }
}

/// Waits for the end of the thread, which reports its own panic.
fn join(thread: Option<JoinHandle<()>>) {
    if let Some(thread) = thread {
        thread.join().ok();
    }
}
