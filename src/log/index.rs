//! What is held, of which topic, where: the part of a log that every engine has in memory.
//!
//! It knows every event held by position, and keeps the newest of them whole, up to a budget (the hot tail). It decides
//! what retention removes and remembers up to where something is missing, so that a gap is told exactly.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use super::Page;
use crate::{
    config::LogConfig,
    event::{Content, Epoch, Event, TopicName},
};

mod lost;
mod read;
mod restore;
mod times;

use lost::Lost;
pub(super) use restore::Marks;
use times::Correction;

/// The events held. Time is the log's own: since some moment before its first event, on a clock that never jumps.
#[derive(Debug)]
pub(super) struct Index {
    epoch: Epoch,
    retention: LogConfig,
    /// Bytes of events that are kept whole.
    hot_bytes_max: u64,
    /// Position of the last committed event.
    watermark: u64,
    topics: HashMap<TopicName, TopicLog>,
    /// Every event held, oldest first. Entries whose event has gone stay until they reach the front or outnumber the
    /// living: removing from the middle would make every append pay for the length of the log.
    order: VecDeque<(u64, TopicName)>,
    /// Events up to here are not kept whole.
    cold_to: u64,
    hot_bytes: u64,
    events: usize,
    bytes: u64,
    /// The time of the newest event, or what the wall clock has gone back to since.
    newest_ms: u64,
    /// In order of position, and of time.
    corrections: Vec<Correction>,
    /// Until then nothing held is too old.
    aged_at: Duration,
    /// Topics that hold nothing, with the mark they were queued under, longest empty first.
    empty: VecDeque<(u64, TopicName)>,
    /// Topics without an entry have lost nothing after this position, and nothing since this removal.
    forgotten_to: u64,
    /// Any topic may have lost events up to here: the machine stopped before they were on disk.
    hole_to: u64,
    /// Any topic may have lost events up to here: a start could not read them.
    unreadable_to: u64,
    /// Topics with entries that cannot be read; there is none as long as the disk is sound.
    lost: HashMap<TopicName, Lost>,
    forgotten_at: u64,
    /// Evictions and deletions so far. Positions cannot tell a reader what is news to it: retention removes the events
    /// of several topics in any order.
    removals: u64,
}

#[derive(Debug, Default)]
struct TopicLog {
    events: VecDeque<Entry>,
    bytes: u64,
    /// Position of the last event removed, and which removal that was.
    evicted_to: u64,
    evicted_at: u64,
    /// Which removal the last deletion of the topic was.
    deleted_at: u64,
}

/// One event held.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) seq: u64,
    /// Its age: when it was committed, by the log's own time.
    pub(super) at: Duration,
    pub(super) time_ms: u64,
    pub(super) bytes: u64,
    /// The event itself, when it is hot.
    pub(super) event: Option<Arc<Event>>,
}

/// What is no longer held; the engine is told, so that it can make room.
#[derive(Clone, Copy, Debug)]
pub(super) enum Removed<'a> {
    /// An event, by retention or a deletion.
    Event(&'a TopicName, u64),
    /// The last trace of a topic: it has lost events up to here.
    Topic(&'a TopicName, u64),
}

/// The events of a page, some of which may have to be fetched.
#[derive(Debug)]
pub(super) struct Plan {
    /// Everything about the page but its events.
    pub(super) page: Page,
    pub(super) entries: Vec<(TopicName, Entry)>,
}

impl Entry {
    pub(super) fn hot(event: Arc<Event>, at: Duration) -> Self {
        Self { seq: event.seq, at, time_ms: event.time_ms, bytes: cost(&event), event: Some(event) }
    }
}

impl TopicLog {
    fn after(&self, seq: u64) -> usize {
        self.events.partition_point(|entry| entry.seq <= seq)
    }
}

/// What an event costs besides its frame: its own fields, the index entries, the allocator.
pub(super) const EVENT_OVERHEAD: u64 = 256;

/// Empty topics whose last position is remembered, so that a gap is reported exactly when there is one.
const EMPTY_MAX: usize = 65_536;

impl Index {
    pub(super) fn new(epoch: Epoch, retention: LogConfig, hot_bytes_max: u64) -> Self {
        Self {
            epoch,
            retention,
            hot_bytes_max,
            watermark: 0,
            topics: HashMap::new(),
            order: VecDeque::new(),
            cold_to: 0,
            hot_bytes: 0,
            events: 0,
            bytes: 0,
            newest_ms: 0,
            corrections: Vec::new(),
            aged_at: Duration::ZERO,
            empty: VecDeque::new(),
            forgotten_to: 0,
            hole_to: 0,
            unreadable_to: 0,
            lost: HashMap::new(),
            forgotten_at: 0,
            removals: 0,
        }
    }

    pub(super) fn watermark(&self) -> u64 {
        self.watermark
    }

    /// Adds the next event of `topic`. What that drives out goes to `removed`.
    pub(super) fn push(&mut self, topic: &TopicName, entry: Entry, removed: &mut dyn FnMut(Removed<'_>)) {
        debug_assert!(entry.seq > self.watermark, "positions only grow");
        let (seq, now) = (entry.seq, entry.at);
        if entry.time_ms < self.newest_ms {
            self.correct((seq, entry.time_ms));
        }
        self.newest_ms = entry.time_ms;
        self.watermark = seq;
        self.events += 1;
        self.bytes += entry.bytes;
        self.hot_bytes += if entry.event.is_some() { entry.bytes } else { 0 };
        self.order.push_back((seq, topic.clone()));
        let (events_max, bytes_max) = (self.retention.topic_events_max, self.retention.topic_bytes_max.get());
        let log = match self.topics.get_mut(topic) {
            Some(log) => log,
            None => self.entry(topic),
        };
        log.bytes += entry.bytes;
        log.events.push_back(entry);
        let over = log.events.len() > events_max || log.bytes > bytes_max;
        if over {
            self.trim_topic(topic, removed);
        }
        if over || self.bytes > self.retention.bytes_max.get() || now > self.aged_at {
            self.trim(now, removed);
        }
        self.cool();
    }

    /// Forgets what `topic` holds; the deletion stands at `seq`.
    pub(super) fn forget(&mut self, topic: &TopicName, seq: u64, removed: &mut dyn FnMut(Removed<'_>)) {
        self.watermark = self.watermark.max(seq);
        let is_new = !self.topics.contains_key(topic);
        while self.topics.get(topic).is_some_and(|log| !log.events.is_empty()) {
            self.evict(topic, removed);
        }
        self.removals += 1;
        let removals = self.removals;
        let log = self.entry(topic);
        log.deleted_at = removals;
        let mark = log.evicted_to;
        // One that was known is in the queue since it became empty.
        if is_new {
            self.empty.push_back((mark, topic.clone()));
        }
    }

    /// The entry of `topic`. A new one takes over what is known of topics without: it may have had one before.
    fn entry(&mut self, topic: &TopicName) -> &mut TopicLog {
        let (evicted_to, evicted_at) = (self.forgotten_to, self.forgotten_at);
        let fresh = || TopicLog { evicted_to, evicted_at, ..TopicLog::default() };
        self.topics.entry(topic.clone()).or_insert_with(fresh)
    }

    fn trim_topic(&mut self, topic: &TopicName, removed: &mut dyn FnMut(Removed<'_>)) {
        let (events_max, bytes_max) = (self.retention.topic_events_max, self.retention.topic_bytes_max.get());
        while self.topics.get(topic).is_some_and(|log| log.events.len() > events_max || log.bytes > bytes_max) {
            self.evict(topic, removed);
        }
    }

    /// Removes from the front what the bounds over all topics do not allow, then tidies the books.
    pub(super) fn trim(&mut self, now: Duration, removed: &mut dyn FnMut(Removed<'_>)) {
        let (bytes_max, age_max) = (self.retention.bytes_max.get(), self.retention.age_max);
        self.aged_at = Duration::ZERO;
        while let Some((seq, topic)) = self.order.front() {
            let oldest = self.topics.get(topic).and_then(|log| log.events.front());
            if let Some(entry) = oldest.filter(|entry| entry.seq == *seq) {
                let aged_at = if age_max.is_zero() { Duration::MAX } else { entry.at.saturating_add(age_max) };
                if self.bytes <= bytes_max && now <= aged_at {
                    self.aged_at = aged_at;
                    break;
                }
                let topic = topic.clone();
                self.evict(&topic, removed);
            }
            self.order.pop_front();
        }
        if self.order.len() > 2 * self.events + 1024 {
            let topics = &self.topics;
            self.order.retain(|(seq, topic)| {
                topics.get(topic).and_then(|log| log.events.front()).is_some_and(|oldest| oldest.seq <= *seq)
            });
        }
        while self.empty.len() > EMPTY_MAX {
            self.forget_longest_empty(removed);
        }
    }

    fn evict(&mut self, topic: &TopicName, removed: &mut dyn FnMut(Removed<'_>)) {
        let Some(log) = self.topics.get_mut(topic) else { return };
        if let Some(entry) = log.events.pop_front() {
            self.removals += 1;
            (log.evicted_to, log.evicted_at) = (entry.seq, self.removals);
            log.bytes -= entry.bytes;
            self.bytes -= entry.bytes;
            self.hot_bytes -= if entry.event.is_some() { entry.bytes } else { 0 };
            self.events -= 1;
            removed(Removed::Event(topic, entry.seq));
            let empty = log.events.is_empty().then(|| std::mem::take(&mut log.events)).map(|_| log.evicted_to);
            self.empty.extend(empty.map(|mark| (mark, topic.clone())));
            if entry.is_lost() {
                self.lost_is_evicted(topic);
            }
        }
    }

    /// Lets go of the oldest events that are kept whole, until the rest is within the budget.
    fn cool(&mut self) {
        if self.hot_bytes <= self.hot_bytes_max {
            return;
        }
        let first = self.order.partition_point(|(seq, _)| *seq <= self.cold_to);
        for (seq, topic) in self.order.range(first..) {
            if self.hot_bytes <= self.hot_bytes_max {
                return;
            }
            self.cold_to = *seq;
            let Some(log) = self.topics.get_mut(topic) else { continue };
            let at = log.events.partition_point(|entry| entry.seq < *seq);
            if let Some(entry) = log.events.get_mut(at).filter(|entry| entry.seq == *seq)
                && entry.event.take().is_some()
            {
                self.hot_bytes -= entry.bytes;
            }
        }
    }

    fn forget_longest_empty(&mut self, removed: &mut dyn FnMut(Removed<'_>)) {
        let Some((mark, topic)) = self.empty.pop_front() else { return };
        if self.topics.get(&topic).is_some_and(|log| log.events.is_empty() && log.evicted_to == mark) {
            self.topics.remove(&topic);
            self.forgotten_to = self.forgotten_to.max(mark);
            self.forgotten_at = self.removals;
            removed(Removed::Topic(&topic, mark));
        }
    }
}

/// What `event` takes of the budgets.
pub(super) fn cost(event: &Event) -> u64 {
    let content = match &event.content {
        Content::Within(_) => 0,
        Content::Apart(content) => content.len(),
    };
    // The name may be the event's own.
    u64::try_from(event.topic.as_str().len() + event.frame.len() + content).unwrap_or(u64::MAX) + EVENT_OVERHEAD
}
