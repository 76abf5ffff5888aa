//! The index of a log: which events each topic holds, and at which positions. Every engine has one in memory.
//!
//! The index has an entry for every event that the log holds. The newest entries are *hot*: they have the event itself,
//! up to a budget of bytes. The others are *cold*: the engine reads their events from its file. The index applies the
//! retention limits, and remembers up to which position events of each topic were removed, so that every gap is reported.
//!
//! An event is *removed* by retention or by the deletion of its topic. An entry is *lost* when its event cannot be
//! read.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use super::Page;
use crate::{
    config::LogConfig,
    event::{Content, Epoch, Event, TopicName},
};

mod lost;
mod order;
mod read;
mod restore;
mod retain;
mod times;

#[cfg(test)]
mod tests;

use lost::Lost;
use order::Order;
use times::Times;

/// The entries of all topics, and what is known of events that have been removed.
///
/// Names that end in `mono_ms` are monotonic time ([`Moment`](super::clock::Moment)); other names in `_ms` are wall-clock
/// time, in milliseconds since the Unix epoch.
#[derive(Debug)]
pub(super) struct Index {
    epoch: Epoch,
    retention: LogConfig,
    /// The budget for `hot_bytes`.
    hot_bytes_max: u64,
    /// Position of the last committed event or deletion.
    watermark: u64,
    topics: Topics,
    /// All entries by position.
    order: Order,
    /// Entries up to this position are cold, later ones hot.
    cold_to: u64,
    /// Bytes of the hot entries, with those in `deleted`.
    hot_bytes: u64,
    /// How many entries `topics` has.
    events: usize,
    /// Bytes of the entries in `topics`.
    bytes: u64,
    times: Times,
    /// Until this time no event is older than `log.age_max`.
    aged_at_ms: u64,
    /// How many entries the current step may still drop: see [`retain`].
    budget: usize,
    /// The last step used up its budget before all limits were met.
    is_behind: bool,
    /// Entries of deleted topics. Readers do not see them; the next steps drop them.
    deleted: VecDeque<(TopicName, VecDeque<Entry>)>,
    /// Topics that are over their limits because a step used up its budget.
    over_limit: VecDeque<TopicName>,
    /// Topics without entries, the longest empty first, each with its `evicted_to` when it became empty.
    empty: VecDeque<(u64, TopicName)>,
    /// A topic that is not in `topics` has had no event after this position.
    forgotten_to: u64,
    /// The value of `removals` when a topic was last removed from `topics`.
    forgotten_at: u64,
    /// No event of a topic that is not in `topics` is newer than this.
    forgotten_ms: u64,
    /// Events of any topic may be missing up to this position: the machine stopped before they were on the disk.
    hole_to: u64,
    /// No event that is missing because of `hole_to` is newer than this.
    hole_ms: u64,
    /// Events of any topic may be missing up to this position: a start could not read them.
    unreadable_to: u64,
    /// No event that is missing because of `unreadable_to` is newer than this.
    unreadable_ms: u64,
    /// Entries whose events could not be read since the start.
    lost: Lost,
    /// Counts the removals. A reader remembers the count to learn what was removed since. A position cannot tell that:
    /// retention does not remove the events of several topics in order of position.
    removals: u64,
}

type Topics = HashMap<TopicName, TopicLog>;

/// The entries of one topic, and what is known of its removed events.
#[derive(Debug, Default)]
struct TopicLog {
    /// In order of position.
    events: VecDeque<Entry>,
    /// Bytes of the entries.
    bytes: u64,
    /// Position of the last event that was removed.
    evicted_to: u64,
    /// The value of [`Index::removals`] after that removal.
    evicted_at: u64,
    /// Time of the newest event that was removed.
    evicted_ms: u64,
    /// Position of the topic's last deletion; 0 when there was none.
    deleted_to: u64,
    /// When that deletion was.
    deleted_mono_ms: u64,
}

/// One event that the log holds.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    /// Its position.
    pub(super) seq: u64,
    /// When it was committed, in monotonic time.
    pub(super) mono_ms: u64,
    /// When it was committed, as the event says.
    pub(super) time_ms: u64,
    /// Its share of the limits in bytes: see [`cost`]. 0 when the entry is lost.
    pub(super) bytes: u64,
    /// The event itself, when the entry is hot.
    pub(super) event: Option<Arc<Event>>,
}

/// What the index has removed. The engine is told, so that it can remove the same from its file.
#[derive(Clone, Copy, Debug)]
pub(super) enum Removed<'a> {
    /// An event: its topic, position and time.
    Event(&'a TopicName, u64, u64),
    /// All that was known of a topic without events: the position and time of its last removed event.
    Topic(&'a TopicName, u64, u64),
}

/// What an engine has stored about all topics together.
#[derive(Clone, Copy, Debug)]
pub(super) struct Marks {
    /// The last position that may have been used.
    pub(super) last: u64,
    /// A topic about which nothing is stored has had no event after this position.
    pub(super) forgotten_to: u64,
    /// Time of the newest event of such a topic; 0 when it is not known.
    pub(super) forgotten_ms: u64,
    /// Events of any topic may be missing up to this position: the machine stopped before they were on the disk.
    pub(super) hole_to: u64,
    /// Events of any topic may be missing up to this position: a start could not read them.
    pub(super) unreadable_to: u64,
}

/// The events of a page. The engine has to fetch those that are cold.
#[derive(Debug)]
pub(super) struct Plan {
    /// The page without its events.
    pub(super) page: Page,
    /// The topics and entries of its events, in order.
    pub(super) entries: Vec<(TopicName, Entry)>,
}

impl Entry {
    pub(super) fn hot(event: Arc<Event>, mono_ms: u64) -> Self {
        Self { seq: event.seq, mono_ms, time_ms: event.time_ms, bytes: cost(&event), event: Some(event) }
    }

    /// Its share of the hot bytes.
    fn hot_bytes(&self) -> u64 {
        if self.event.is_some() { self.bytes } else { 0 }
    }

    /// Whether its event could not be read. A readable event always has some bytes: see [`cost`].
    fn is_lost(&self) -> bool {
        self.bytes == 0
    }
}

impl TopicLog {
    /// The index of the first entry after `seq`.
    fn after(&self, seq: u64) -> usize {
        self.events.partition_point(|entry| entry.seq <= seq)
    }

    fn assert_invariants(&self, watermark: u64) {
        assert!(self.events.iter().is_sorted_by(|a, b| a.seq < b.seq), "entries are in order of position");
        let first = self.events.front().map_or(u64::MAX, |entry| entry.seq);
        assert!(first > self.evicted_to.max(self.deleted_to), "the entries come after all that was removed");
        let last = self.events.back().map_or(self.evicted_to, |entry| entry.seq);
        assert!(last.max(self.deleted_to) <= watermark, "no position is above the watermark");
        let bytes: u64 = self.events.iter().map(|entry| entry.bytes).sum();
        assert_eq!(self.bytes, bytes, "a topic's bytes are the sum of its entries'");
    }
}

/// In a debug build, an index with at most so many entries and topics is checked after each change.
const CHECKED_MAX: usize = 64;

/// Memory that an event needs besides its topic, frame and content: its other fields, its entries, the allocator's
/// part.
pub(super) const EVENT_OVERHEAD: u64 = 256;

impl Index {
    pub(super) fn new(epoch: Epoch, retention: LogConfig, hot_bytes_max: u64) -> Self {
        Self {
            epoch,
            retention,
            hot_bytes_max,
            watermark: 0,
            topics: HashMap::new(),
            order: Order::default(),
            cold_to: 0,
            hot_bytes: 0,
            events: 0,
            bytes: 0,
            times: Times::default(),
            aged_at_ms: 0,
            budget: usize::MAX,
            is_behind: false,
            deleted: VecDeque::new(),
            over_limit: VecDeque::new(),
            empty: VecDeque::new(),
            forgotten_to: 0,
            forgotten_at: 0,
            forgotten_ms: 0,
            hole_to: 0,
            hole_ms: 0,
            unreadable_to: 0,
            unreadable_ms: 0,
            lost: Lost::default(),
            removals: 0,
        }
    }

    pub(super) fn watermark(&self) -> u64 {
        self.watermark
    }

    /// Notes that the wall clock says `wall_ms`, when no event comes with that time.
    pub(super) fn observe(&mut self, wall_ms: u64) {
        self.times.observe(self.watermark + 1, wall_ms);
    }

    /// When the event of `entry` was committed, corrected: never later than an event after it.
    fn time_ms(&self, entry: &Entry) -> u64 {
        self.times.corrected(entry.seq, entry.time_ms)
    }

    /// How many events and topics the index has.
    pub(super) fn size(&self) -> (usize, usize) {
        (self.events, self.topics.len())
    }

    /// Marks the entry at `seq` as lost because its event cannot be read. Returns `false` when it already was lost, or
    /// was removed in the meantime.
    pub(super) fn lose(&mut self, topic: &TopicName, seq: u64) -> bool {
        let Some(log) = self.topics.get_mut(topic) else { return false };
        let at = log.events.partition_point(|entry| entry.seq < seq);
        let Some(entry) = log.events.get_mut(at).filter(|entry| entry.seq == seq && !entry.is_lost()) else {
            return false;
        };
        self.hot_bytes -= entry.hot_bytes();
        entry.event = None;
        log.bytes -= entry.bytes;
        self.bytes -= entry.bytes;
        entry.bytes = 0;
        self.lost.note(topic, seq);
        self.assert_invariants();
        true
    }

    /// The entries of `topic`, added if need be. A new one starts with what is known of removed topics, because this
    /// may be one of them.
    fn topic_log(&mut self, topic: &TopicName) -> &mut TopicLog {
        let (evicted_to, evicted_at, evicted_ms) = (self.forgotten_to, self.forgotten_at, self.forgotten_ms);
        let new_log = || TopicLog { evicted_to, evicted_at, evicted_ms, ..TopicLog::default() };
        self.topics.entry(topic.clone()).or_insert_with(new_log)
    }

    /// Panics in a debug build when the state contradicts itself. Each call checks everything, so it skips an index
    /// that is larger than those of most tests.
    fn assert_invariants(&self) {
        if !cfg!(debug_assertions) || self.topics.len() + self.order.len() > CHECKED_MAX {
            return;
        }
        self.order.assert_invariants();
        self.times.assert_invariants();
        let (mut events, mut bytes, mut lost_topics) = (0, 0, 0);
        for (topic, log) in &self.topics {
            log.assert_invariants(self.watermark);
            events += log.events.len();
            bytes += log.bytes;
            let lost = log.events.iter().filter(|entry| entry.is_lost()).count();
            assert_eq!(self.lost.count(topic), lost, "each lost entry is counted");
            lost_topics += usize::from(lost > 0);
            for entry in &log.events {
                let is_hot = entry.seq > self.cold_to && !entry.is_lost();
                assert_eq!(entry.event.is_some(), is_hot, "exactly the entries after `cold_to` are hot");
            }
            let is_queued = self.empty.iter().any(|(mark, empty)| *mark == log.evicted_to && empty == topic);
            assert!(!log.events.is_empty() || is_queued, "an empty topic waits to be forgotten");
            let is_over =
                log.events.len() > self.retention.topic_events_max || log.bytes > self.retention.topic_bytes_max.get();
            assert!(!is_over || self.over_limit.contains(topic), "a topic over its limits waits to be trimmed");
        }
        assert_eq!(self.lost.topics(), lost_topics, "only known topics have lost entries");
        assert_eq!((self.events, self.bytes), (events, bytes), "the totals are the sums over all topics");
        let held = self.topics.values().flat_map(|log| &log.events);
        let deleted = self.deleted.iter().flat_map(|(_, entries)| entries);
        let hot_bytes: u64 = held.chain(deleted).map(Entry::hot_bytes).sum();
        assert_eq!(self.hot_bytes, hot_bytes, "the hot bytes are those of all hot entries");
        let in_order = self.order.after(0).filter(|(seq, topic)| is_held(&self.topics, *seq, topic)).count();
        assert_eq!(in_order, events, "each entry is in the order once");
    }
}

/// Whether `topic` still has its entry at `seq`: entries are only removed from the front.
fn is_held(topics: &Topics, seq: u64, topic: &TopicName) -> bool {
    topics.get(topic).and_then(|log| log.events.front()).is_some_and(|oldest| oldest.seq <= seq)
}

/// The bytes that `event` counts for in the retention limits.
pub(super) fn cost(event: &Event) -> u64 {
    let content = match &event.content {
        Content::Within(_) => 0,
        Content::Apart(content) => content.len(),
    };
    // Each event may have a copy of the topic's name.
    u64::try_from(event.topic.as_str().len() + event.frame.len() + content).unwrap_or(u64::MAX) + EVENT_OVERHEAD
}
