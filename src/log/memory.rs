//! Engine: everything in memory, within bounds; the history ends with the process.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, VecDeque},
    iter::Peekable,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use futures_util::future::{BoxFuture, FutureExt as _, ready};

use super::{AppendError, Commit, Draft, Durability, Feed, Feeds, Held, Log, Page, Placement, Receipt, Start, lock};
use crate::{
    config::LogConfig,
    event::{Epoch, Event, EventId, TopicName},
    frame::{self, GapReason},
};

/// The log in memory. One lock: every operation under it is short and none waits.
#[derive(Debug)]
pub struct MemoryLog {
    epoch: Epoch,
    started: Instant,
    retention: LogConfig,
    watermark: AtomicU64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    topics: HashMap<TopicName, TopicLog>,
    /// Every event held, oldest first. Entries whose event has gone stay until they reach the front or outnumber the
    /// living: removing from the middle would make every append pay for the length of the log.
    order: VecDeque<(u64, TopicName)>,
    /// Time of the newest event, so that time never runs backwards in the log, whatever the wall clock does.
    time_ms: u64,
    events: usize,
    bytes: u64,
    /// Topics that hold nothing, with the mark they were queued under, longest empty first.
    empty: VecDeque<(u64, TopicName)>,
    /// Topics without an entry have lost nothing after this position.
    forgotten_to: u64,
    feeds: Feeds,
}

#[derive(Debug, Default)]
struct TopicLog {
    /// With each event its age: since the log started, on a clock that never jumps.
    events: VecDeque<(Duration, Arc<Event>)>,
    bytes: u64,
    /// Position of the last event removed from the front.
    evicted_to: u64,
    /// Position of the last deletion of the topic.
    deleted_to: u64,
}

impl TopicLog {
    /// Nothing after this position has been removed.
    fn whole_after(&self) -> u64 {
        self.evicted_to.max(self.deleted_to)
    }

    fn after(&self, seq: u64) -> usize {
        self.events.partition_point(|(_, event)| event.seq <= seq)
    }
}

/// What an event costs besides its frame: its own fields, the index entries, the allocator.
const EVENT_OVERHEAD: u64 = 256;

/// Empty topics whose last position is remembered, so that a gap is reported exactly when there is one.
const EMPTY_MAX: usize = 65_536;

impl MemoryLog {
    /// An empty log with a new epoch.
    #[must_use]
    pub fn new(retention: LogConfig) -> Self {
        Self {
            epoch: Epoch::random(),
            started: Instant::now(),
            retention,
            watermark: AtomicU64::new(0),
            state: Mutex::default(),
        }
    }

    fn id(&self, seq: u64) -> EventId {
        EventId { epoch: self.epoch, seq }
    }

    fn commit(&self, draft: Draft) -> EventId {
        let mut guard = lock(&self.state);
        let state = &mut *guard;
        let age = self.started.elapsed();
        let seq = self.watermark.load(Ordering::Relaxed) + 1;
        let id = self.id(seq);
        let (frame, content) = frame::plain(id, draft.name.as_ref(), &draft.content);
        let log = state.topics.entry(draft.topic.clone()).or_default();
        state.time_ms = state.time_ms.max(now_ms());
        let event =
            Arc::new(Event { seq, time_ms: state.time_ms, topic: draft.topic, name: draft.name, content, frame });
        let bytes = cost(&event);
        log.bytes += bytes;
        log.events.push_back((age, Arc::clone(&event)));
        state.bytes += bytes;
        state.events += 1;
        state.order.push_back((seq, event.topic.clone()));
        self.watermark.store(seq, Ordering::Release);
        state.trim_topic(&self.retention, &event.topic);
        state.trim(&self.retention, age);
        state.feeds.push(&Commit::Event(event));
        id
    }
}

impl State {
    fn trim_topic(&mut self, retention: &LogConfig, topic: &TopicName) {
        while let Some(log) = self.topics.get(topic) {
            if log.events.len() <= retention.topic_events_max && log.bytes <= retention.topic_bytes_max.get() {
                break;
            }
            self.evict(topic);
        }
    }

    /// Removes from the front what the bounds over all topics do not allow, then tidies the books.
    fn trim(&mut self, retention: &LogConfig, now: Duration) {
        while let Some((seq, topic)) = self.order.front() {
            let oldest = self.topics.get(topic).and_then(|log| log.events.front());
            match oldest.filter(|(_, event)| event.seq == *seq) {
                Some((age, _)) => {
                    let aged = !retention.age_max.is_zero() && now.saturating_sub(*age) > retention.age_max;
                    if self.bytes <= retention.bytes_max.get() && !aged {
                        break;
                    }
                    let topic = topic.clone();
                    self.order.pop_front();
                    self.evict(&topic);
                }
                None => drop(self.order.pop_front()),
            }
        }
        if self.order.len() > 2 * self.events + 1024 {
            let topics = &self.topics;
            self.order.retain(|(seq, topic)| {
                topics.get(topic).and_then(|log| log.events.front()).is_some_and(|(_, oldest)| oldest.seq <= *seq)
            });
        }
        while self.empty.len() > EMPTY_MAX {
            self.forget_longest_empty();
        }
    }

    fn evict(&mut self, topic: &TopicName) {
        let Some(log) = self.topics.get_mut(topic) else { return };
        if let Some((_, event)) = log.events.pop_front() {
            let bytes = cost(&event);
            log.evicted_to = event.seq;
            log.bytes -= bytes;
            self.bytes -= bytes;
            self.events -= 1;
        }
        if log.events.is_empty() {
            log.events = VecDeque::new();
            self.empty.push_back((log.whole_after(), topic.clone()));
        }
    }

    fn forget_longest_empty(&mut self) {
        let Some((mark, topic)) = self.empty.pop_front() else { return };
        if self.topics.get(&topic).is_some_and(|log| log.events.is_empty() && log.whole_after() == mark) {
            self.topics.remove(&topic);
            self.forgotten_to = self.forgotten_to.max(mark);
        }
    }

    /// Nothing of `topic` after this position has been removed.
    fn whole_after(&self, topic: &TopicName) -> u64 {
        self.topics.get(topic).map_or(self.forgotten_to, TopicLog::whole_after)
    }

    /// The position before the first event of `topics` that `wanted` accepts, found by halving.
    fn before_first(&self, topics: &[TopicName], watermark: u64, wanted: impl Fn(&Event) -> bool) -> u64 {
        let logs = topics.iter().filter_map(|topic| self.topics.get(topic));
        let firsts = logs.filter_map(|log| {
            let at = log.events.partition_point(|(_, event)| !wanted(event));
            log.events.get(at).map(|(_, event)| event.seq - 1)
        });
        firsts.min().unwrap_or(watermark)
    }

    /// The position before the last `n` events of `topics`.
    fn before_last(&self, topics: &[TopicName], watermark: u64, n: usize) -> u64 {
        let logs = topics.iter().filter_map(|topic| self.topics.get(topic));
        let mut newest: Vec<u64> =
            logs.flat_map(|log| log.events.iter().rev().take(n).map(|(_, event)| event.seq)).collect();
        newest.sort_unstable_by_key(|seq| Reverse(*seq));
        newest.truncate(n);
        newest.last().map_or(watermark, |seq| seq - 1)
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

    fn append(&self, draft: Draft) -> BoxFuture<'static, Result<Receipt, AppendError>> {
        ready(Ok(Receipt { id: self.commit(draft) })).boxed()
    }

    fn forget(&self, topic: &TopicName) -> BoxFuture<'static, Result<u64, AppendError>> {
        let mut guard = lock(&self.state);
        let state = &mut *guard;
        let seq = self.watermark.load(Ordering::Relaxed) + 1;
        let log = state.topics.entry(topic.clone()).or_default();
        state.events -= log.events.len();
        state.bytes -= log.bytes;
        *log = TopicLog { evicted_to: log.evicted_to, deleted_to: seq, ..TopicLog::default() };
        state.empty.push_back((seq, topic.clone()));
        self.watermark.store(seq, Ordering::Release);
        state.feeds.push(&Commit::Deleted(topic.clone(), seq));
        ready(Ok(seq)).boxed()
    }

    fn read(&self, topics: &[TopicName], after: u64, bytes_max: usize) -> Page {
        let state = lock(&self.state);
        let mut page = Page { to: self.watermark.load(Ordering::Relaxed), ..Page::default() };
        let mut rests = Vec::with_capacity(topics.len());
        for topic in topics {
            let Some(log) = state.topics.get(topic) else {
                page.miss(state.forgotten_to, after);
                continue;
            };
            if after < log.deleted_to {
                page.deleted.push(topic.clone());
                continue;
            }
            page.miss(log.evicted_to, after);
            rests.push(log.events.range(log.after(after)..).map(|(_, event)| event).peekable());
        }
        merge(rests, bytes_max, &mut page);
        page
    }

    fn place(&self, topics: &[TopicName], start: &Start) -> Placement {
        let state = lock(&self.state);
        let watermark = self.watermark.load(Ordering::Relaxed);
        let everything = || state.before_first(topics, watermark, |_| true);
        let told_to = topics.iter().map(|topic| state.whole_after(topic)).max().unwrap_or_default();
        let at = |after| Placement { after, gap: None, told_to };
        let gap = |reason, after| Placement { after, gap: Some(reason), told_to };
        match *start {
            Start::Live => at(watermark),
            Start::All => at(everything()),
            Start::Since(time_ms) => at(state.before_first(topics, watermark, |event| event.time_ms >= time_ms)),
            Start::Last(n) => at(state.before_last(topics, watermark, n)),
            Start::Unreadable => gap(GapReason::Unreadable, everything()),
            Start::After(id) if id.epoch != self.epoch || id.seq > watermark => gap(GapReason::Reset, everything()),
            Start::After(id) if id.seq < told_to => {
                gap(GapReason::Evicted, state.before_first(topics, watermark, |event| event.seq > id.seq))
            }
            Start::After(id) => at(id.seq),
        }
    }

    fn held(&self, topic: &TopicName) -> Option<Held> {
        lock(&self.state).topics.get(topic).map(|log| Held {
            first: log.events.front().map(|(_, event)| event.seq),
            last: log.events.back().map(|(_, event)| event.seq),
            events: log.events.len(),
            bytes: log.bytes,
        })
    }

    fn feed(&self) -> Arc<Feed> {
        lock(&self.state).feeds.open()
    }

    fn tend(&self) {
        lock(&self.state).trim(&self.retention, self.started.elapsed());
    }
}

/// Moves events from `rests`, the lowest position first, into `page` until it holds `bytes_max`.
fn merge<'a>(mut rests: Vec<Peekable<impl Iterator<Item = &'a Arc<Event>>>>, bytes_max: usize, page: &mut Page) {
    let seq = |event: &&Arc<Event>| Reverse(event.seq);
    let mut next: BinaryHeap<(Reverse<u64>, usize)> =
        rests.iter_mut().enumerate().filter_map(|(at, rest)| Some((rest.peek().map(seq)?, at))).collect();
    let mut bytes = 0;
    while let Some((_, at)) = next.pop() {
        let Some(rest) = rests.get_mut(at) else { return };
        let Some(event) = rest.next() else { return };
        if bytes > 0 && bytes + event.frame.len() > bytes_max {
            page.to = event.seq - 1;
            return;
        }
        bytes += event.frame.len();
        page.events.push(Arc::clone(event));
        next.extend(rest.peek().map(seq).map(|seq| (seq, at)));
    }
}

fn cost(event: &Event) -> u64 {
    let shared = event.content.is_empty() || event.frame.as_ptr_range().contains(&event.content.as_ptr());
    let content = if shared { 0 } else { event.content.len() };
    u64::try_from(event.frame.len() + content).unwrap_or(u64::MAX) + EVENT_OVERHEAD
}

fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}
