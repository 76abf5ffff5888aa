//! The index of a log: which events each topic holds, and at which positions. Every engine has one in memory.
//!
//! The index has an entry for every event that the log holds. The newest entries are hot: they have the event itself, up
//! to a limit of bytes. The others are cold: the engine reads their events from its file. The index *trims* the log to
//! the retention limits, in *steps* with a *budget* of entries to visit, so that it is never locked for long.
//!
//! The index *counts removals*. For each topic, it notes the last position that was removed and the number of that
//! removal, so that every gap is reported. For example, `log.topic_events_max` is 3, and a topic has the events 1, 4
//! and 6. The push of event 7 removes event 1, as removal 1. A reader that has everything up to 0 and has seen 0
//! removals gets a gap. A reader that has everything up to 4 gets none.
//!
//! The entry of an unreadable event stays in its topic, with 0 bytes, until it is removed like any other. So each stream
//! that reads past this entry reports a gap there, once.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    mem,
    sync::Arc,
};

use super::{LogStats, Page};
use crate::{
    config::LogConfig,
    event::{Content, Epoch, Event, TopicName},
};

#[cfg(test)]
mod tests;

// Each file uses only files below it.
mod restore;
mod retain;
mod read;
mod order;
mod times;

use order::Order;
use times::Times;

/// The entries of all topics, and what is known of events that are missing.
///
/// Names that end in `mono_ms` are monotonic time ([`Moment`](super::clock::Moment)); other names in `_ms` are
/// wall-clock time, in milliseconds since the Unix epoch.
#[derive(Debug)]
pub(super) struct Index {
    epoch: Epoch,
    retention: LogConfig,
    /// The limit for `hot_bytes`.
    hot_bytes_max: u64,
    /// Position of the last committed event or deletion.
    watermark: u64,
    topics: Topics,
    /// All entries by position.
    order: Order,
    /// Entries up to this position have no event in memory. Later ones are hot, except for unreadable ones.
    cold_to: u64,
    /// Bytes of the hot entries, also of those in `deleted_entries`.
    hot_bytes: u64,
    /// How many entries `topics` has.
    events: usize,
    /// Bytes of the entries in `topics`.
    bytes: u64,
    times: Times,
    /// No entry exceeds `log.age_max` before this time; 0 when this is not known.
    next_expiry_mono_ms: u64,
    /// How many entries the current step may still visit: see [`retain`].
    budget: usize,
    /// The last step used up its budget before the limits of all topics together were met. `deleted_entries` and
    /// `over_limit` have what else is left to remove.
    is_trim_unfinished: bool,
    /// Entries of deleted topics. Readers do not see them; the next steps drop them.
    deleted_entries: VecDeque<(TopicName, VecDeque<Entry>)>,
    /// Topics that are over their limits because a step used up its budget.
    over_limit: VecDeque<TopicName>,
    /// The topics without entries, by [`TopicState::last_removal_seq`]. They are forgotten in this order.
    empty: BTreeSet<(u64, TopicName)>,
    /// The removed events of all topics that are not in `topics`, as if they were one topic.
    forgotten: Missing,
    /// Events of any topic that were not on the disk yet when the machine stopped.
    hole: Missing,
    /// Events of any topic that could not be read when the log was opened.
    unreadable_at_start: Missing,
    /// How many removals there have been: see [`ReadFrom::removals_seen`](super::ReadFrom::removals_seen).
    removals: u64,
}

type Topics = HashMap<TopicName, TopicState>;

/// The entries of one topic, and what is known of its removed events.
#[derive(Debug, Default)]
struct TopicState {
    /// In order of position.
    entries: VecDeque<Entry>,
    /// Bytes of the entries.
    bytes: u64,
    /// How many of the entries are unreadable.
    unreadable: usize,
    /// Position of the last unreadable entry; 0 when there is none.
    unreadable_to: u64,
    removed: Missing,
    /// Position of the topic's last deletion; 0 when there was none.
    deleted_to: u64,
    /// When that deletion was.
    deleted_mono_ms: u64,
}

/// What is known of events that are missing.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Missing {
    /// No event after this position is missing; 0 when none is.
    pub(super) to: u64,
    /// No missing event is newer than this; 0 when that is not known yet.
    pub(super) newest_ms: u64,
    /// The number of the last removal of a missing event, as [`Index::removals`] counts; 0 when it was before the log
    /// was opened.
    pub(super) removal: u64,
}

/// One event that the log holds.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) seq: u64,
    /// When it was committed, in monotonic time.
    pub(super) mono_ms: u64,
    /// When it was committed, as the event says.
    pub(super) time_ms: u64,
    /// Its share of the limits in bytes: see [`cost`]. 0 when the entry is unreadable.
    pub(super) bytes: u64,
    /// The event itself, when the entry is hot.
    pub(super) event: Option<Arc<Event>>,
}

/// What the index has removed. The engine removes the same from its file.
#[derive(Clone, Copy, Debug)]
pub(super) enum Removal<'a> {
    /// An event.
    Event { topic: &'a TopicName, seq: u64, time_ms: u64 },
    /// A topic without events, which is forgotten. `removed_to` is the position of its last removed event, and
    /// `removed_ms` the time of the newest one.
    Topic { topic: &'a TopicName, removed_to: u64, removed_ms: u64 },
}

/// What an engine has stored about all topics together.
#[derive(Clone, Copy, Debug)]
pub(super) struct LogState {
    /// Positions up to this one may have been given.
    pub(super) reserved: u64,
    /// Events of forgotten topics may be missing up to this position.
    pub(super) forgotten_to: u64,
    /// Time of the newest of these events; 0 when it is not known.
    pub(super) forgotten_ms: u64,
    /// Events of any topic may be missing up to this position: the machine stopped before they were on the disk.
    pub(super) hole_to: u64,
    /// Events of any topic may be missing up to this position: they could not be read when the log was opened.
    pub(super) unreadable_to: u64,
}

/// What a page consists of. The engine fetches the events of cold entries.
#[derive(Debug)]
pub(super) struct Plan {
    /// The page without its events.
    pub(super) page: Page,
    /// The topics and entries of its events, in order of position.
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
    fn is_unreadable(&self) -> bool {
        self.bytes == 0
    }
}

impl Missing {
    /// Adds the event at `seq`, which has the time `time_ms` and was removed with the removal of this number.
    fn add(&mut self, seq: u64, time_ms: u64, removal: u64) {
        self.to = self.to.max(seq);
        self.newest_ms = self.newest_ms.max(time_ms);
        self.removal = removal;
    }
}

impl TopicState {
    /// The state of a topic that the index does not know. The topic may have been forgotten, so its removed events are
    /// all `forgotten` ones.
    fn new(forgotten: Missing) -> Self {
        Self { removed: forgotten, ..Self::default() }
    }

    /// The entries after `seq`.
    fn after(&self, seq: u64) -> impl Iterator<Item = &Entry> {
        self.entries.range(self.entries.partition_point(|entry| entry.seq <= seq)..)
    }

    fn readable(&self) -> impl DoubleEndedIterator<Item = &Entry> {
        self.entries.iter().filter(|entry| !entry.is_unreadable())
    }

    fn entry_mut(&mut self, seq: u64) -> Option<&mut Entry> {
        let at = self.entries.binary_search_by_key(&seq, |entry| entry.seq).ok()?;
        self.entries.get_mut(at)
    }

    /// Position of the last event that was removed, or of the deletion if that came later.
    fn last_removal_seq(&self) -> u64 {
        self.removed.to.max(self.deleted_to)
    }

    fn is_over_limit(&self, retention: &LogConfig) -> bool {
        self.entries.len() > retention.topic_events_max || self.bytes > retention.topic_bytes_max.get()
    }

    fn assert_invariants(&self, watermark: u64) {
        assert!(self.entries.iter().is_sorted_by(|a, b| a.seq < b.seq), "entries are in order of position");
        let first = self.entries.front().map_or(u64::MAX, |entry| entry.seq);
        assert!(first > self.last_removal_seq(), "the entries come after all that was removed");
        let last = self.entries.back().map_or(self.removed.to, |entry| entry.seq);
        assert!(last.max(self.deleted_to) <= watermark, "no position is above the watermark");
        let bytes: u64 = self.entries.iter().map(|entry| entry.bytes).sum();
        assert_eq!(self.bytes, bytes, "a topic's bytes are the sum of its entries'");
        let unreadable = || self.entries.iter().filter(|entry| entry.is_unreadable());
        assert_eq!(self.unreadable, unreadable().count(), "each unreadable entry is counted");
        let unreadable_to = unreadable().next_back().map_or(0, |entry| entry.seq);
        assert_eq!(self.unreadable_to, unreadable_to, "the last unreadable entry is known");
    }
}

/// [`Index::assert_invariants`] skips an index with more entries and topics than this.
const CHECKED_MAX: usize = 64;

/// Memory that an event needs besides its topic, frame and content: its other fields, its entries in the index, and
/// what the allocator adds.
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
            next_expiry_mono_ms: 0,
            budget: usize::MAX,
            is_trim_unfinished: false,
            deleted_entries: VecDeque::new(),
            over_limit: VecDeque::new(),
            empty: BTreeSet::new(),
            forgotten: Missing::default(),
            hole: Missing::default(),
            unreadable_at_start: Missing::default(),
            removals: 0,
        }
    }

    pub(super) fn watermark(&self) -> u64 {
        self.watermark
    }

    /// Notes that the position `seq` has neither an event nor a deletion.
    pub(super) fn pass(&mut self, seq: u64) {
        self.watermark = self.watermark.max(seq);
        self.assert_invariants();
    }

    /// When the event of `entry` was committed, corrected: never later than an event after it.
    fn time_ms(&self, entry: &Entry) -> u64 {
        self.times.corrected(entry.seq, entry.time_ms)
    }

    /// What the index has, for [`Log::stats`](super::Log::stats). The engine adds what only it knows.
    pub(super) fn stats(&self) -> LogStats {
        LogStats {
            events: self.events,
            bytes: self.bytes,
            hot_bytes: self.hot_bytes,
            topics: self.topics.len(),
            position: self.watermark,
            removals: self.removals,
            ..LogStats::default()
        }
    }

    /// How many events and topics the index has.
    pub(super) fn size(&self) -> (usize, usize) {
        (self.events, self.topics.len())
    }

    /// Marks the entry at `seq` as unreadable. Returns `false` when it already was, or was removed in the meantime.
    pub(super) fn mark_unreadable(&mut self, topic: &TopicName, seq: u64) -> bool {
        let Some(state) = self.topics.get_mut(topic) else { return false };
        let Some(entry) = state.entry_mut(seq).filter(|entry| !entry.is_unreadable()) else { return false };
        self.hot_bytes -= entry.hot_bytes();
        entry.event = None;
        let bytes = mem::take(&mut entry.bytes);
        self.bytes -= bytes;
        state.bytes -= bytes;
        state.unreadable += 1;
        state.unreadable_to = state.unreadable_to.max(seq);
        self.assert_invariants();
        true
    }

    /// Panics in a debug build when the state contradicts itself. This checks everything after each change, which would
    /// take too long in a large index.
    fn assert_invariants(&self) {
        if !cfg!(debug_assertions) || self.topics.len() + self.order.len() > CHECKED_MAX {
            return;
        }
        self.order.assert_invariants();
        self.times.assert_invariants();
        let (mut events, mut bytes, mut empty) = (0, 0, 0);
        for (topic, state) in &self.topics {
            state.assert_invariants(self.watermark);
            events += state.entries.len();
            bytes += state.bytes;
            for entry in &state.entries {
                let is_hot = entry.seq > self.cold_to && !entry.is_unreadable();
                assert_eq!(
                    entry.event.is_some(),
                    is_hot,
                    "the entries after `cold_to` are hot, except for unreadable ones"
                );
            }
            let is_in_empty = self.empty.contains(&(state.last_removal_seq(), topic.clone()));
            assert_eq!(state.entries.is_empty(), is_in_empty, "a topic without entries waits to be forgotten");
            empty += usize::from(is_in_empty);
            let is_over = state.is_over_limit(&self.retention);
            assert!(!is_over || self.over_limit.contains(topic), "a topic over its limits waits to be trimmed");
        }
        assert_eq!((self.events, self.bytes), (events, bytes), "the totals are the sums over all topics");
        assert_eq!(self.empty.len(), empty, "only known topics wait to be forgotten");
        let held = self.topics.values().flat_map(|state| &state.entries);
        let deleted = self.deleted_entries.iter().flat_map(|(_, entries)| entries);
        let hot_bytes: u64 = held.chain(deleted).map(Entry::hot_bytes).sum();
        assert_eq!(self.hot_bytes, hot_bytes, "the hot bytes are those of all hot entries");
        let in_order = self.order.after(0).filter(|(seq, topic)| is_held(&self.topics, *seq, topic)).count();
        assert_eq!(in_order, events, "each entry is in the order once");
    }
}

/// Whether `topic` still has its entry at `seq`: entries are only removed from the front.
fn is_held(topics: &Topics, seq: u64, topic: &TopicName) -> bool {
    topics.get(topic).and_then(|state| state.entries.front()).is_some_and(|oldest| oldest.seq <= seq)
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
