//! Limits the work of one step, from lock to unlock, counted in entries.

use std::sync::{Arc, Weak};

use super::{
    EVENT_OVERHEAD, Entry, Index, Missing, Removal, cost,
    retain::{EMPTY_MAX, PUSH_MIN, STEP},
};
use crate::{
    config::{LogConfig, Size},
    event::{Content, Epoch, Event, TopicName},
    log::{LogStats, ReadFrom, Start},
};

mod elsewhere;
mod restored;
mod unreadable;

const MANY: u64 = 100_000;

fn topic(name: &str) -> TopicName {
    TopicName::parse(name, 255).expect("a topic name")
}

/// Limits that no test reaches.
fn high_limits() -> LogConfig {
    let (topic_events_max, bytes_max) = (1 << 20, Size::mib(1 << 10));
    LogConfig {
        topic_events_max,
        topic_bytes_max: bytes_max,
        bytes_max,
        age_max: std::time::Duration::ZERO,
        ..LogConfig::default()
    }
}

/// An index that records what it removes, and which of its events are still in memory.
struct Watched {
    index: Index,
    removed: Vec<u64>,
    events: Vec<Weak<Event>>,
    /// The most events that were removed in one step.
    most: usize,
}

impl Watched {
    fn new(config: LogConfig, hot_bytes_max: u64) -> Self {
        let index = Index::new(Epoch::random(), config, hot_bytes_max);
        Self { index, removed: Vec::new(), events: Vec::new(), most: 0 }
    }

    fn push(&mut self, topic: &TopicName, bytes: usize, mono_ms: u64) {
        let seq = self.index.watermark() + 1;
        let (content, frame) = (Content::Within(0..0), vec![b'x'; bytes].into());
        let event = Arc::new(Event { seq, time_ms: mono_ms, topic: topic.clone(), name: None, content, frame });
        self.events.push(Arc::downgrade(&event));
        self.step(|index, removed| index.push(topic, Entry::hot(event, mono_ms), removed));
    }

    /// One step, as an engine makes it while it has the lock.
    fn step(&mut self, act: impl FnOnce(&mut Index, &mut dyn FnMut(Removal<'_>))) {
        self.index.begin_step();
        let before = self.removed.len();
        let removed = &mut self.removed;
        act(&mut self.index, &mut |what| {
            if let Removal::Event { seq, .. } = what {
                removed.push(seq);
            }
        });
        self.most = self.most.max(self.removed.len() - before);
    }

    /// Makes steps until none is needed, and returns how many.
    fn settle(&mut self, mono_ms: u64) -> usize {
        for steps in 1.. {
            self.step(|index, removed| index.trim(mono_ms, removed));
            if !self.index.needs_step() {
                return steps;
            }
        }
        0
    }

    fn living(&self) -> usize {
        self.events.iter().filter(|event| event.upgrade().is_some()).count()
    }

    fn assert_removed(&mut self, count: u64) {
        self.removed.sort_unstable();
        assert!(self.removed.iter().copied().eq(1..=count), "each once: {} of {count}", self.removed.len());
    }
}

#[test]
fn the_stats_are_what_the_index_holds() {
    // Goal: each number is its own: cold events count, and are not hot; removed ones do not count any more.
    let (a, b) = (topic("a"), topic("b"));
    let cost = 1 + 100 + EVENT_OVERHEAD;
    let mut watched = Watched::new(LogConfig { topic_events_max: 3, ..high_limits() }, 2 * cost);
    for _ in 0..4 {
        watched.push(&a, 100, 1);
    }
    watched.push(&b, 100, 1);
    watched.index.pass(7);
    let expected = LogStats {
        events: 4,
        bytes: 4 * cost,
        hot_bytes: 2 * cost,
        topics: 2,
        position: 7,
        removals: 1,
        ..LogStats::default()
    };
    assert_eq!(watched.index.stats(), expected);
}

#[test]
fn a_large_deletion_is_complete_at_once_and_taken_apart_in_steps() {
    // Goal: nobody can read the topic's events after the deletion, although its own step removes none. Each step
    // removes at most its budget. In the end all events are removed and freed. An event that is published to the topic
    // in between stays.
    let (big, other) = (topic("big"), topic("other"));
    let mut watched = Watched::new(high_limits(), u64::MAX);
    for _ in 0..MANY {
        watched.push(&big, 10, 1);
    }
    watched.push(&other, 10, 1);
    let seq = watched.index.watermark() + 1;
    watched.step(|index, _| index.delete(&big, seq, 0));
    assert_eq!((watched.removed.len(), watched.index.size().0), (0, 1));
    assert_eq!(watched.index.held(&big).expect("a trace").events, 0);
    let start = ReadFrom { after: 0, removals_seen: 0 };
    let page = watched.index.read(&[big.clone(), other.clone()], start, usize::MAX).expect("it is hot");
    assert_eq!((page.events.len(), page.deleted), (1, vec![(big.clone(), seq)]));
    watched.push(&big, 10, 2);
    let steps = watched.settle(2);
    assert!(
        watched.most <= STEP && steps >= usize::try_from(MANY).expect("a number") / STEP,
        "{} {steps}",
        watched.most
    );
    watched.assert_removed(MANY);
    assert_eq!((watched.living(), watched.index.size().0), (2, 2));
    assert!(watched.index.order.len() < 2 * 1024 + 2, "{}", watched.index.order.len());
    let from = ReadFrom { after: seq, removals_seen: watched.index.removals };
    assert_eq!(watched.index.read(&[big], from, usize::MAX).expect("it is hot").events.len(), 1);
}

#[test]
fn without_steps_all_is_done_at_once() {
    // Goal: the control. With an unlimited budget, one step drops all entries of the same deletion.
    let big = topic("big");
    let mut watched = Watched::new(high_limits(), u64::MAX);
    for _ in 0..MANY {
        watched.push(&big, 10, 1);
    }
    watched.step(|index, _| index.delete(&big, MANY + 1, 0));
    watched.step(|index, removed| {
        index.budget = usize::MAX;
        index.trim(1, removed);
    });
    assert_eq!(watched.most, usize::try_from(MANY).expect("a number"));
}

#[test]
fn events_that_expire_together_are_removed_in_steps() {
    // Goal: events of many topics that expire together are removed in steps, also when the steps come from appends.
    let config = LogConfig { age_max: std::time::Duration::from_millis(10), ..high_limits() };
    let names: Vec<TopicName> = (0..100).map(|n| topic(&n.to_string())).collect();
    for appends in [0, 1000] {
        let mut watched = Watched::new(config.clone(), u64::MAX);
        for n in 0..MANY {
            watched.push(&names[usize::try_from(n % 100).expect("small")], 10, 1);
        }
        for _ in 0..appends {
            watched.push(&names[0], 10, 12);
        }
        assert!(!watched.index.needs_step());
        watched.settle(12);
        assert!(watched.most <= STEP, "{}", watched.most);
        watched.assert_removed(MANY);
        assert_eq!(watched.living(), appends);
    }
}

#[test]
fn a_large_event_removes_many_in_steps() {
    // Goal: a large event that exceeds the bytes of its topic, or of the log, removes the small ones in steps. The
    // limits are met in the end, also when nothing more is published, or only to another topic.
    let limit = Size::mib(40);
    let by_topic = LogConfig { topic_bytes_max: limit, ..high_limits() };
    for config in [by_topic, LogConfig { bytes_max: limit, ..high_limits() }] {
        let (a, other) = (topic("a"), topic("other"));
        let mut watched = Watched::new(config, u64::MAX);
        for _ in 0..MANY {
            watched.push(&a, 10, 1);
        }
        watched.push(&a, 38 << 20, 1);
        assert!(watched.index.needs_step() && watched.most <= STEP, "{}", watched.most);
        watched.push(&other, 10, 1);
        watched.settle(1);
        assert!(watched.most <= STEP, "{}", watched.most);
        let held = watched.index.held(&a).expect("it").bytes;
        assert!(held <= limit.get() && held + 1000 > limit.get(), "{held}");
    }
}

#[test]
fn events_cool_in_steps() {
    // Goal: a large event makes only a step's budget of small ones cold at once. The hot bytes are within their budget
    // in the end.
    let a = topic("a");
    let mut watched = Watched::new(high_limits(), 40 << 20);
    for _ in 0..MANY {
        watched.push(&a, 10, 1);
    }
    let before = watched.living();
    watched.push(&a, 38 << 20, 1);
    assert!(before - watched.living() <= STEP, "{before} {}", watched.living());
    watched.settle(1);
    assert!(watched.index.hot_bytes <= 40 << 20 && watched.index.hot_bytes > 38 << 20, "{}", watched.index.hot_bytes);
}

#[test]
fn a_batch_does_little_more_than_a_step() {
    // Goal: an engine that appends many events under one lock has one budget for all, and a little more for each event.
    let config = LogConfig { age_max: std::time::Duration::from_millis(10), ..high_limits() };
    let a = topic("a");
    let mut watched = Watched::new(config, u64::MAX);
    for _ in 0..MANY {
        watched.push(&a, 10, 1);
    }
    watched.step(|index, removed| {
        for _ in 0..1000 {
            let (seq, frame) = (index.watermark() + 1, [].into());
            let event = Event { seq, time_ms: 12, topic: a.clone(), name: None, content: Content::Within(0..0), frame };
            index.push(&a, Entry::hot(Arc::new(event), 12), removed);
        }
    });
    assert!((STEP..=STEP + 1000 * PUSH_MIN).contains(&watched.most), "{}", watched.most);
}

#[test]
fn stale_positions_do_not_pile_up() {
    // Goal: stale positions are removed although the oldest event of the log stays for ever.
    let (old, busy) = (topic("old"), topic("busy"));
    let mut watched = Watched::new(LogConfig { topic_events_max: 10, ..high_limits() }, u64::MAX);
    watched.push(&old, 10, 1);
    for _ in 0..MANY {
        watched.push(&busy, 10, 1);
    }
    assert!(watched.index.order.len() < 3000, "{}", watched.index.order.len());
    assert_eq!((watched.living(), watched.index.size().0), (11, 11));
}

#[test]
fn a_start_by_time_uses_corrected_times() {
    // Goal: after the clock was set back, a start by time leaves out events that are older, although their own times
    // are later.
    let a = topic("a");
    let mut watched = Watched::new(high_limits(), u64::MAX);
    for time_ms in [100, 100, 100, 50] {
        watched.push(&a, 10, time_ms);
    }
    let after =
        |watched: &Watched, time_ms| watched.index.resolve_start(&[topic("a")], &Start::Since(time_ms), &[]).from.after;
    assert_eq!((after(&watched, 60), after(&watched, 50)), (4, 0));
    watched.push(&a, 10, 60);
    assert_eq!((after(&watched, 60), after(&watched, 61)), (4, 5));
}

#[test]
fn content_outside_of_its_frame_counts_for_the_limit() {
    // Goal: the limit of bytes counts all that is in memory.
    let cost_of = |content| {
        let (topic, frame) = (topic("name"), vec![b'x'; 10].into());
        cost(&Event { seq: 1, time_ms: 1, topic, name: None, content, frame })
    };
    assert_eq!(cost_of(Content::Within(2..5)), EVENT_OVERHEAD + 14);
    assert_eq!(cost_of(Content::Apart(vec![b'x'; 7].into())), EVENT_OVERHEAD + 21);
}

#[test]
fn the_gap_of_a_forgotten_topic_is_reported_once() {
    // Goal: the topic was forgotten with the third removal. A reader that has seen this removal gets no gap.
    let mut index = Index::new(Epoch::random(), high_limits(), u64::MAX);
    (index.watermark, index.removals) = (9, 3);
    index.forgotten = Missing { to: 5, newest_ms: 0, removal: 3 };
    let missing_to = |after, removals_seen| {
        let page = index.read(&[topic("gone")], ReadFrom { after, removals_seen }, usize::MAX);
        page.expect("nothing is cold").missing_to
    };
    assert_eq!([missing_to(0, 2), missing_to(0, 3), missing_to(5, 2)], [5, 0, 0]);
}

#[test]
fn a_deletion_gives_back_its_bytes_and_is_remembered() {
    // Goal: deleted events no longer count for the limits. Each empty topic is queued once, also one that never had an
    // event.
    let (a, other) = (topic("a"), topic("other"));
    let mut watched = Watched::new(high_limits(), u64::MAX);
    for name in [&a, &a, &a, &other] {
        watched.push(name, 10, 1);
    }
    let held = watched.index.held(&other).expect("it is held").bytes;
    let state = |index: &Index| (index.bytes == held, index.empty.len(), index.removals);
    for (name, seq, empty) in [("a", 5, 1), ("a", 6, 1), ("never", 7, 2)] {
        watched.step(|index, _| index.delete(&topic(name), seq, 70));
        assert_eq!(state(&watched.index), (true, empty, seq - 4), "{name} at {seq}");
    }
    assert!(watched.index.needs_step(), "the entries are still to be dropped");
    watched.settle(70);
    assert!(!watched.index.needs_step());
    assert_eq!(watched.index.hot_bytes, held, "and of what is kept whole");
    let age = std::time::Duration::from_millis(30);
    assert_eq!(watched.index.deletion(&a, 100).map(|(id, ago)| (id.seq, ago)), Some((6, age)));
    assert_eq!(watched.index.deletion(&other, 100), None);
}

#[test]
fn one_busy_topic_does_not_make_the_log_forget_others() {
    // Goal: however often a topic is published to and deleted, it is one of the topics that are remembered.
    let (quiet, busy) = (topic("quiet"), topic("busy"));
    let mut watched = Watched::new(high_limits(), u64::MAX);
    watched.step(|index, _| index.delete(&quiet, 1, 0));
    for _ in 0..=EMPTY_MAX {
        watched.push(&busy, 10, 0);
        watched.step(|index, _| index.delete(&busy, index.watermark() + 1, 0));
    }
    watched.settle(0);
    assert_eq!(watched.index.deletion(&quiet, 0).map(|(id, _)| id.seq), Some(1));
    assert_eq!(watched.index.empty.len(), 2);
}

#[test]
fn topics_without_events_are_forgotten_in_steps() {
    let mut watched = Watched::new(high_limits(), u64::MAX);
    let topics = EMPTY_MAX + STEP + 1;
    watched.step(|index, _| {
        for seq in 1..=topics {
            index.delete(&topic(&seq.to_string()), seq.try_into().expect("a position"), 0);
        }
    });
    watched.step(|index, removed| index.trim(0, removed));
    assert_eq!(watched.index.empty.len(), topics - STEP);
    assert_eq!(watched.settle(0), 1);
    assert_eq!(watched.index.empty.len(), EMPTY_MAX);
}

#[test]
fn an_index_that_is_at_its_limits_needs_no_step() {
    let a = topic("a");
    let cost = 1 + 10 + EVENT_OVERHEAD;
    let config = LogConfig { topic_events_max: 3, ..high_limits() };
    let mut watched = Watched::new(config, 2 * cost);
    for events in [1, 2, 3, 3] {
        watched.push(&a, 10, 0);
        assert_eq!((watched.index.events, watched.index.needs_step()), (events, false));
    }
    assert_eq!(watched.index.hot_bytes, 2 * cost);
}
