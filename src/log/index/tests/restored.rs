//! What the index knows after a restore.

use std::time::Duration;

use super::{EVENT_OVERHEAD, Entry, Index, Missing, Watched, high_limits, topic};
use crate::{
    event::{Epoch, EventId},
    frame::GapReason,
    log::{Start, clock::Moment, index::LogState},
};

const NOTHING: LogState = LogState { reserved: 0, forgotten_to: 0, forgotten_ms: 0, hole_to: 0, unreadable_to: 0 };
const NOW: Moment = Moment { mono_ms: 10_000, wall_ms: 100 };

fn missing(to: u64, newest_ms: u64) -> Missing {
    Missing { to, newest_ms, removal: 0 }
}

/// Where a subscriber of one topic starts to read, and the gap that it is told of.
fn start(index: &Index, name: &str, start: &Start) -> (u64, Option<GapReason>) {
    let start = index.resolve_start(&[topic(name)], start, &[]);
    (start.from.after, start.gap)
}

fn gap_after(index: &Index, name: &str, seq: u64) -> Option<GapReason> {
    start(index, name, &Start::After(EventId { epoch: index.epoch, seq })).1
}

fn gap_since(index: &Index, name: &str, time_ms: u64) -> Option<GapReason> {
    start(index, name, &Start::Since(time_ms)).1
}

/// Restores the given topics, with the events (position, time) of topic `a`, at `now`.
fn restored(topics: &[(&str, Missing, (u64, u64))], events: &[(u64, u64)], stored: LogState, now: Moment) -> Index {
    let mut index = Index::new(Epoch::random(), high_limits(), u64::MAX);
    for (name, removed, deleted) in topics {
        index.restore_topic(&topic(name), *removed, deleted.0, deleted.1);
    }
    for (seq, time_ms) in events {
        let entry = Entry { seq: *seq, mono_ms: 0, time_ms: *time_ms, bytes: EVENT_OVERHEAD, event: None };
        assert!(index.restore_event(&topic("a"), entry), "{seq} is held");
    }
    index.restore_log(stored, now, &mut |removal| panic!("nothing is over the limits: {removal:?}"));
    index
}

#[test]
fn removed_events_are_still_missing() {
    // Goal: each of the three places that store a removal leads to the same gaps as before the restart, and to no
    // other.
    let stored = LogState { reserved: 9, forgotten_to: 2, forgotten_ms: 20, ..NOTHING };
    let topics = [("a", missing(4, 40), (0, 0)), ("b", Missing::default(), (6, 9_900))];
    let index = restored(&topics, &[(5, 50), (7, 70)], stored, NOW);
    assert_eq!(index.watermark(), 9);
    let evicted = Some(GapReason::Evicted);
    assert_eq!([3, 4, 9].map(|seq| gap_after(&index, "a", seq)), [evicted, None, None]);
    assert_eq!([1, 2].map(|seq| gap_after(&index, "unknown", seq)), [evicted, None]);
    assert_eq!([0, 5].map(|seq| gap_after(&index, "b", seq)), [None, None], "no event of it was removed");
    assert_eq!([40, 41].map(|time_ms| gap_since(&index, "a", time_ms)), [evicted, None]);
    assert_eq!([20, 21].map(|time_ms| gap_since(&index, "unknown", time_ms)), [evicted, None]);
    let deletion = index.deletion(&topic("b"), NOW.mono_ms).map(|(id, ago)| (id.seq, ago));
    assert_eq!(deletion, Some((6, Duration::from_millis(100))));
    assert_eq!(index.deletion(&topic("a"), NOW.mono_ms), None);
}

#[test]
fn removed_events_without_a_time_are_as_old_as_what_comes_after_them() {
    let stored = LogState { reserved: 9, forgotten_to: 2, ..NOTHING };
    let topics = [("a", missing(4, 0), (0, 0)), ("b", missing(4, 0), (0, 0)), ("c", missing(4, 30), (0, 0))];
    let index = restored(&topics, &[(5, 50)], stored, NOW);
    let evicted = Some(GapReason::Evicted);
    assert_eq!([50, 51].map(|time_ms| gap_since(&index, "a", time_ms)), [evicted, None], "the next event");
    for name in ["b", "unknown"] {
        assert_eq!([100, 101].map(|time_ms| gap_since(&index, name, time_ms)), [evicted, None], "{name}: now");
    }
    assert_eq!([30, 31].map(|time_ms| gap_since(&index, "c", time_ms)), [evicted, None], "its own time");
}

#[test]
fn what_was_lost_in_a_failure_is_missing_in_every_topic() {
    for (stored, reason) in [
        (LogState { reserved: 9, hole_to: 5, ..NOTHING }, GapReason::Evicted),
        (LogState { reserved: 9, unreadable_to: 5, ..NOTHING }, GapReason::Unreadable),
    ] {
        let index = restored(&[("a", Missing::default(), (0, 0))], &[(3, 30), (6, 60)], stored, NOW);
        for name in ["a", "unknown"] {
            assert_eq!([4, 5].map(|seq| gap_after(&index, name, seq)), [Some(reason), None], "{name}");
            let gaps = [60, 61].map(|time_ms| gap_since(&index, name, time_ms));
            assert_eq!(gaps, [Some(reason), None], "{name}: they are as old as the next event");
        }
    }
}

#[test]
fn events_from_before_a_deletion_or_a_removal_stay_away() {
    let mut index = Index::new(Epoch::random(), high_limits(), u64::MAX);
    index.restore_topic(&topic("removed"), missing(3, 30), 0, 0);
    index.restore_topic(&topic("deleted"), Missing::default(), 3, 1);
    let mut add = |seq, name: &str| {
        let entry = Entry { seq, mono_ms: 0, time_ms: 10 * seq, bytes: EVENT_OVERHEAD, event: None };
        index.restore_event(&topic(name), entry)
    };
    let added = [(2, "unknown"), (3, "removed"), (3, "deleted"), (4, "removed"), (5, "deleted")];
    assert_eq!(added.map(|(seq, name)| add(seq, name)), [false, false, false, true, true]);
    index.restore_log(NOTHING, NOW, &mut |_| {});
    assert_eq!(index.watermark(), 5, "the last event that is stored");
    let gaps = [2, 3].map(|seq| gap_after(&index, "deleted", seq));
    assert_eq!(gaps, [Some(GapReason::Evicted), None], "an event that was left out is missing");
}

#[test]
fn events_are_as_old_as_the_clock_says_at_the_start() {
    let index = restored(&[("a", Missing::default(), (0, 0))], &[(1, 40), (2, 100)], NOTHING, NOW);
    let ages = index.topics[&topic("a")].entries.iter().map(|entry| NOW.mono_ms - entry.mono_ms);
    assert_eq!(ages.collect::<Vec<_>>(), [60, 0]);
}

#[test]
fn a_clock_that_is_behind_at_the_start_corrects_all_events() {
    // Goal: also the last event counts as no later than the clock says.
    let now = Moment { mono_ms: 10_000, wall_ms: 50_000 };
    let index = restored(&[("a", Missing::default(), (0, 0))], &[(1, 40_000), (2, 100_000)], NOTHING, now);
    let starts = [40_000, 50_000, 50_001].map(|time_ms| start(&index, "a", &Start::Since(time_ms)).0);
    assert_eq!(starts, [0, 1, 2]);
}

#[test]
fn a_removed_event_is_no_later_than_a_clock_that_was_set_back() {
    let mut watched = Watched::new(high_limits(), u64::MAX);
    watched.index.retention.topic_events_max = 1;
    for (name, time_ms) in [("a", 100_000), ("a", 100_001), ("b", 20_000)] {
        watched.push(&topic(name), 10, time_ms);
    }
    let gaps = [20_000, 20_001].map(|time_ms| gap_since(&watched.index, "a", time_ms));
    assert_eq!(gaps, [Some(GapReason::Evicted), None]);
}

#[test]
fn an_import_learns_what_is_held_and_what_is_missing() {
    // Goal: the events in order, also after a position; of each topic and of all what is missing, the latest of each
    // kind; and nothing that is not.
    let stored = LogState { reserved: 9, forgotten_to: 2, forgotten_ms: 20, hole_to: 3, ..NOTHING };
    let topics = [("a", missing(4, 40), (0, 0)), ("b", Missing::default(), (6, 9_900))];
    let index = restored(&topics, &[(5, 50), (7, 70)], stored, NOW);
    let a = topic("a");
    assert_eq!(index.held_after(0).collect::<Vec<_>>(), [(5, &a), (7, &a)]);
    assert_eq!(index.held_after(5).collect::<Vec<_>>(), [(7, &a)]);
    let mut removed: Vec<_> = index.removed().map(|(topic, missing, deleted)| (topic, missing.to, deleted)).collect();
    removed.sort();
    assert_eq!(removed, [(&a, 4, 0), (&topic("b"), 0, 6)]);
    let of_any = index.removed_of_any();
    // The hole is before the event at position 5.
    assert_eq!((of_any.to, of_any.newest_ms), (3, 50));
    let plain = [("a", Missing::default(), (0, 0))];
    assert_eq!(restored(&plain, &[(5, 50)], NOTHING, NOW).removed_of_any().to, 0);
    let forgotten = LogState { reserved: 9, forgotten_to: 2, forgotten_ms: 20, ..NOTHING };
    let of_any = restored(&plain, &[(5, 50)], forgotten, NOW).removed_of_any();
    assert_eq!((of_any.to, of_any.newest_ms), (2, 20), "without a hole, its time does not count");
}
