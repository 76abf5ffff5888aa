//! What readers get when events could not be read.

use std::sync::Arc;

use super::{super::read::UNREADABLE_MAX, EVENT_OVERHEAD, Entry, Index, Missing, topic};
use crate::{
    config::LogConfig,
    event::{Content, Epoch, Event, EventId},
    frame::GapReason,
    log::{ReadFrom, Start},
};

fn after(after: u64) -> ReadFrom {
    ReadFrom { after, removals_seen: 0 }
}

/// Three events of `a`, at 1 to 3, then one of `b`, each stamped with its position, and of 10 bytes; the index may
/// keep three of them hot.
fn index(config: LogConfig) -> Index {
    let mut index = Index::new(Epoch::random(), config, 3 * COST);
    for (seq, name) in (1..).zip(["a", "a", "a", "b"]) {
        let (content, frame) = (Content::Within(0..0), vec![b'x'; 10].into());
        let event = Event { seq, time_ms: seq, topic: topic(name), name: None, content, frame };
        index.push(&topic(name), Entry::hot(Arc::new(event), 1), &mut |_| {});
    }
    index
}

/// What each of them costs: its name, its frame, and what an event costs besides.
const COST: u64 = 1 + 10 + EVENT_OVERHEAD;

#[test]
fn an_unreadable_event_is_counted_once() {
    // Goal: an event that is not there, or is already unreadable, changes no count.
    let mut index = index(LogConfig::default());
    assert_eq!((index.bytes, index.hot_bytes), (4 * COST, 3 * COST));
    assert_eq!([("c", 1), ("a", 4), ("a", 9)].map(|(name, seq)| index.mark_unreadable(&topic(name), seq)), [false; 3]);
    assert_eq!((index.mark_unreadable(&topic("a"), 1), index.mark_unreadable(&topic("a"), 1)), (true, false));
    assert_eq!((index.bytes, index.hot_bytes), (3 * COST, 3 * COST), "only the disk had it");
    assert!(index.mark_unreadable(&topic("a"), 2));
    assert_eq!((index.bytes, index.hot_bytes), (2 * COST, 2 * COST));
    let held = index.held(&topic("a")).expect("it is held");
    let [first, last] = [held.first, held.last].map(|id| id.map(|id| id.seq));
    assert_eq!((first, last, held.events, held.bytes), (Some(3), Some(3), 1, COST));
    assert_eq!(
        [&["a"][..], &["b"], &["b", "a"], &[]]
            .map(|names| { index.last_unreadable(&names.iter().map(|name| topic(name)).collect::<Vec<_>>()) }),
        [2, 0, 2, 0]
    );
}

#[test]
fn an_unreadable_event_is_reported_at_its_position() {
    // Goal: the events before it come first. A start with the last events does not count an unreadable one.
    let mut index = index(LogConfig::default());
    index.mark_unreadable(&topic("a"), 2);
    let page = index.plan(&[topic("a")], after(0), usize::MAX);
    assert_eq!((page.entries.len(), page.page.to, page.page.missing_to), (1, 1, 0));
    let page = index.plan(&[topic("a")], after(1), usize::MAX);
    assert_eq!((page.entries.len(), page.page.to, page.page.missing_to), (1, 4, 2));
    assert!(page.page.has_unreadable);
    let last = |n| index.resolve_start(&[topic("a")], &Start::Last(n), &[]).from.after;
    assert_eq!([last(0), last(1), last(2), last(3)], [4, 2, 0, 0]);
    let ahead = |seq| {
        let id = EventId { epoch: index.epoch, seq };
        index.resolve_start(&[topic("a")], &Start::After(id), &[]).gap_ahead.is_some()
    };
    assert_eq!([ahead(0), ahead(1), ahead(2), ahead(3)], [true, true, false, false]);
    let ahead = |time_ms| index.resolve_start(&[topic("a")], &Start::Since(time_ms), &[]).gap_ahead.is_some();
    assert_eq!([ahead(1), ahead(2), ahead(3), ahead(9)], [true, true, false, false]);
}

#[test]
fn an_unreadable_event_is_removed_like_any_other() {
    // Goal: retention removes the entry, and all counts are 0 again.
    let mut index = index(LogConfig::default());
    index.mark_unreadable(&topic("a"), 1);
    index.mark_unreadable(&topic("a"), 2);
    index.retention.topic_events_max = 2;
    index.trim_topic(&topic("a"), &mut |_| {});
    assert_eq!((index.topics[&topic("a")].unreadable, index.last_unreadable(&[topic("a")])), (1, 2));
    index.retention.topic_events_max = 1;
    index.trim_topic(&topic("a"), &mut |_| {});
    assert_eq!((index.topics[&topic("a")].unreadable, index.bytes), (0, 2 * COST));
}

#[test]
fn a_page_skips_a_limited_number_of_unreadable_events() {
    // Goal: the index, which is locked while a page is made, is not locked for long.
    let mut index = index(LogConfig::default());
    let count = u64::try_from(UNREADABLE_MAX).expect("a number");
    for seq in 5..=count + 9 {
        let (content, frame) = (Content::Within(0..0), [].into());
        let event = Event { seq, time_ms: seq, topic: topic("c"), name: None, content, frame };
        index.push(&topic("c"), Entry::hot(Arc::new(event), 1), &mut |_| {});
        index.mark_unreadable(&topic("c"), seq);
    }
    let page = index.plan(&[topic("c")], after(0), usize::MAX).page;
    assert_eq!((page.to, page.missing_to), (count + 4, count + 4));
    let page = index.plan(&[topic("c")], after(page.to), usize::MAX).page;
    assert_eq!((page.to, page.missing_to), (count + 9, count + 9));
}

#[test]
fn a_start_after_the_time_of_a_loss_has_no_gap() {
    // Goal: events that a start could not read, or that never reached the disk, are a gap only for a start at their
    // time or earlier.
    let gap = |unreadable_to, hole_to, time_ms| {
        let mut index = index(LogConfig::default());
        index.unreadable_at_start = Missing { to: unreadable_to, newest_ms: 50, removal: 0 };
        index.hole = Missing { to: hole_to, newest_ms: 60, removal: 0 };
        index.resolve_start(&[topic("a")], &Start::Since(time_ms), &[]).gap
    };
    assert_eq!([gap(2, 0, 50), gap(2, 0, 51)], [Some(GapReason::Unreadable), None]);
    assert_eq!([gap(0, 2, 60), gap(0, 2, 61)], [Some(GapReason::Evicted), None]);
    assert_eq!([gap(2, 2, 50), gap(2, 2, 55)], [Some(GapReason::Unreadable), Some(GapReason::Evicted)]);
    assert_eq!(gap(0, 0, 1), None);
}
