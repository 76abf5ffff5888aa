//! What is held, of which topic, where: the part of a log that every engine has in memory.
//!
//! It knows every event held by position, and keeps the newest of them whole, up to a budget (the hot tail). It decides
//! what retention removes and remembers up to where something is missing, so that a gap is told exactly.

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

/// The events held. Time is the log's own: since some moment before its first event, on a clock that never jumps.
#[derive(Debug)]
pub(super) struct Index {
    epoch: Epoch,
    retention: LogConfig,
    /// Bytes of events that are kept whole.
    hot_bytes_max: u64,
    /// Position of the last committed event.
    watermark: u64,
    topics: Topics,
    order: Order,
    /// Events up to here are not kept whole.
    cold_to: u64,
    hot_bytes: u64,
    events: usize,
    bytes: u64,
    times: Times,
    /// Until then, by the log's own time, nothing held is too old.
    aged_at_ms: u64,
    /// What is left of this step: see [`retain`].
    budget: usize,
    /// The last step was too short.
    is_behind: bool,
    /// What deletions have left, to be taken apart.
    deleted: VecDeque<(TopicName, VecDeque<Entry>)>,
    /// Topics that hold more than they may, because a step was too short.
    over_limit: VecDeque<TopicName>,
    /// Topics that hold nothing, with the mark they were queued under, longest empty first.
    empty: VecDeque<(u64, TopicName)>,
    /// Topics without an entry have lost nothing after this position, and nothing since this removal.
    forgotten_to: u64,
    /// Any topic may have lost events up to here: the machine stopped before they were on disk.
    hole_to: u64,
    /// Any topic may have lost events up to here: a start could not read them.
    unreadable_to: u64,
    lost: Lost,
    forgotten_at: u64,
    /// When the last of these losses happened at the latest.
    forgotten_ms: u64,
    hole_ms: u64,
    unreadable_ms: u64,
    /// Evictions so far. Positions cannot tell a reader what is news to it: retention removes the events
    /// of several topics in any order.
    removals: u64,
}

type Topics = HashMap<TopicName, TopicLog>;

#[derive(Debug, Default)]
struct TopicLog {
    events: VecDeque<Entry>,
    bytes: u64,
    /// Position of the last event removed, and which removal that was.
    evicted_to: u64,
    evicted_at: u64,
    /// When the newest of those removed happened.
    evicted_ms: u64,
    /// Position of the topic's last deletion, and when it was.
    deleted_to: u64,
    deleted_at_ms: u64,
}

/// One event held.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) seq: u64,
    /// When it was committed, by the log's own time.
    pub(super) at_ms: u64,
    pub(super) time_ms: u64,
    pub(super) bytes: u64,
    /// The event itself, when it is hot.
    pub(super) event: Option<Arc<Event>>,
}

/// What is no longer held; the engine is told, so that it can make room.
#[derive(Clone, Copy, Debug)]
pub(super) enum Removed<'a> {
    /// An event, by retention or a deletion: its position, and when it happened.
    Event(&'a TopicName, u64, u64),
    /// The last trace of a topic: it has lost events up to here, and up to this time.
    Topic(&'a TopicName, u64, u64),
}

/// What an engine remembers of all topics together.
#[derive(Clone, Copy, Debug)]
pub(super) struct Marks {
    /// The last position that may have been given.
    pub(super) last: u64,
    /// Topics of which nothing else is remembered have lost nothing after this position.
    pub(super) forgotten_to: u64,
    /// When the newest of those happened; 0 where that is not known.
    pub(super) forgotten_ms: u64,
    /// Any topic may have lost events up to here.
    pub(super) hole_to: u64,
    /// As above, because a start could not read them.
    pub(super) unreadable_to: u64,
}

/// The events of a page, some of which may have to be fetched.
#[derive(Debug)]
pub(super) struct Plan {
    /// Everything about the page but its events.
    pub(super) page: Page,
    pub(super) entries: Vec<(TopicName, Entry)>,
}

impl Entry {
    pub(super) fn hot(event: Arc<Event>, at_ms: u64) -> Self {
        Self { seq: event.seq, at_ms, time_ms: event.time_ms, bytes: cost(&event), event: Some(event) }
    }

    /// No event costs nothing, so this can tell.
    fn is_lost(&self) -> bool {
        self.bytes == 0
    }
}

impl TopicLog {
    fn after(&self, seq: u64) -> usize {
        self.events.partition_point(|entry| entry.seq <= seq)
    }

    fn assert_invariants(&self, watermark: u64) {
        assert!(self.events.iter().is_sorted_by(|a, b| a.seq < b.seq), "entries are in order of position");
        let first = self.events.front().map_or(u64::MAX, |entry| entry.seq);
        assert!(first > self.evicted_to.max(self.deleted_to), "what is held comes after all that was removed");
        let last = self.events.back().map_or(self.evicted_to, |entry| entry.seq);
        assert!(last.max(self.deleted_to) <= watermark, "no position is above the watermark");
        let bytes: u64 = self.events.iter().map(|entry| entry.bytes).sum();
        assert_eq!(self.bytes, bytes, "a topic's bytes are the sum of its entries'");
    }
}

/// Entries and topics of an index whose state is checked, in a debug build, after each change.
const CHECKED_MAX: usize = 64;

/// What an event costs besides its frame: its own fields, the index entries, the allocator.
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

    /// The wall clock says `wall_ms`, and nothing comes with it.
    pub(super) fn observe(&mut self, wall_ms: u64) {
        self.times.observe(self.watermark + 1, wall_ms);
    }

    /// When `entry` happened, by all that is known; never later than a later entry.
    fn time_ms(&self, entry: &Entry) -> u64 {
        self.times.at_most(entry.seq, entry.time_ms)
    }

    /// Events and topics held.
    pub(super) fn size(&self) -> (usize, usize) {
        (self.events, self.topics.len())
    }

    /// Notes that the event at `seq` cannot be read; whether that is news. One that has been removed meanwhile is not
    /// lost.
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

    /// The entry of `topic`. A new one takes over what is known of topics without: it may have had one before.
    fn topic_log(&mut self, topic: &TopicName) -> &mut TopicLog {
        let (evicted_to, evicted_at, evicted_ms) = (self.forgotten_to, self.forgotten_at, self.forgotten_ms);
        let fresh = || TopicLog { evicted_to, evicted_at, evicted_ms, ..TopicLog::default() };
        self.topics.entry(topic.clone()).or_insert_with(fresh)
    }

    /// In a debug build, fails when what the index holds contradicts itself. Each call checks everything, so indexes that
    /// are larger than those of most tests are left out.
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

/// Whether the event of `topic` at `seq` is held.
fn is_held(topics: &Topics, seq: u64, topic: &TopicName) -> bool {
    topics.get(topic).and_then(|log| log.events.front()).is_some_and(|oldest| oldest.seq <= seq)
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
