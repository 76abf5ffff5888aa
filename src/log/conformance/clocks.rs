//! What holds when the wall clock is set.

use std::{slice::from_ref, time::Duration};

use super::steps::{NewAt, SetClock, append, delete, names, page, place, roomy, seqs, until};
use crate::{config::LogConfig, frame::GapReason, log::Start};

const TEN_YEARS: u64 = 10 * 365 * 24 * 3_600_000;
const MINUTE: u64 = 60_000;

pub(super) fn a_wall_clock_that_jumps_removes_no_event(new: NewAt) {
    // Goal: while the clock is ten years ahead, only the events of that moment get that time, and no event is removed
    // for its age. `since=` leaves out no event after the time asked for. At most it returns the events of the jump,
    // too, but not for ever.
    let (clock, [a, b]) = (SetClock::new(), names(["a", "b"]));
    let log = new(LogConfig { age_max: Duration::from_hours(24), ..roomy() }, Some(clock.wall()));
    let begin = clock.get();
    append(&*log, &a);
    clock.set(begin + TEN_YEARS);
    append(&*log, &a);
    append(&*log, &b);
    clock.set(begin + MINUTE);
    log.enforce_retention();
    append(&*log, &a);
    clock.set(begin + 2 * MINUTE);
    append(&*log, &a);
    let times: Vec<u64> = page(&*log, from_ref(&a), 0).events.iter().map(|event| event.time_ms).collect();
    assert_eq!(times, [begin, begin + TEN_YEARS, begin + MINUTE, begin + 2 * MINUTE]);
    assert_eq!(seqs(&page(&*log, &[a.clone(), b.clone()], 0)), [1, 2, 3, 4, 5]);
    let since = |topic, ms| place(&*log, from_ref(topic), &Start::Since(ms));
    assert_eq!(since(&a, begin), (0, None));
    assert_eq!(since(&a, begin + 1), (1, None), "what came in the jump came after this");
    assert_eq!(since(&a, begin + MINUTE), (1, None));
    assert_eq!(since(&a, begin + MINUTE + 1), (4, None), "and before this");
    assert_eq!(since(&a, begin + 2 * MINUTE + 1), (5, None));
    assert_eq!(since(&b, begin + 2 * MINUTE), (5, None), "in the other topic, too");
    // Without an event since: the clock itself is proof enough.
    clock.set(begin + TEN_YEARS);
    append(&*log, &b);
    clock.set(begin + 3 * MINUTE);
    log.enforce_retention();
    until("the clock to be looked at", || since(&b, begin + 4 * MINUTE) == (6, None));
    assert_eq!(since(&b, begin + 3 * MINUTE), (5, None));
}

pub(super) fn a_start_by_time_reports_later_removed_events(new: NewAt) {
    // Goal: a start by time has a gap exactly when an event of its topics at that time or later was removed, by
    // retention or a deletion. This holds at the time of the last removed event and a millisecond later.
    let (clock, [a, b]) = (SetClock::new(), names(["a", "b"]));
    let log = new(LogConfig { topic_events_max: 2, ..roomy() }, Some(clock.wall()));
    let begin = clock.get();
    for second in 1..=4 {
        clock.set(begin + second * 1000);
        append(&*log, &a);
    }
    append(&*log, &b);
    let at = |topics: &[_], start| place(&*log, topics, &start);
    let both = [a.clone(), b.clone()];
    // The events of the first and the second second are removed.
    let evicted = Some(GapReason::Evicted);
    for (ms, expected) in [(0, evicted), (1000, evicted), (1001, evicted), (2000, evicted), (2001, None), (4001, None)]
    {
        let (after, gap) = at(from_ref(&a), Start::Since(begin + ms));
        assert_eq!((gap, after), (expected, if ms > 4000 { 5 } else { 2 }), "{ms}");
        assert_eq!(at(&both, Start::Since(begin + ms)).1, expected, "{ms}");
        assert_eq!(at(from_ref(&b), Start::Since(begin + ms)).1, None, "another topic's loss is not its own");
    }
    for start in [Start::All, Start::Last(10), Start::Live] {
        assert_eq!(at(&both, start).1, None);
    }
    clock.set(begin + 9000);
    assert_eq!(delete(&*log, &a), 6);
    for (ms, expected) in [(4000, evicted), (4001, None)] {
        assert_eq!(at(&both, Start::Since(begin + ms)).1, expected, "{ms} after the deletion");
    }
    append(&*log, &a);
    assert_eq!(at(&both, Start::Since(begin + 4000)).1, evicted, "in the next life, too");
    assert_eq!(at(&both, Start::Since(begin + 4001)).1, None);
}
