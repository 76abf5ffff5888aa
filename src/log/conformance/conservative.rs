//! Conservative guarantees: the engine may be inexact in one direction, so the tests assert bounds.

use std::{
    slice::from_ref,
    time::{Duration, Instant},
};

use super::steps::{New, append, append_all, cost, delete, extent, held, names, page, place, roomy, seqs, until};
use crate::{
    config::{LogConfig, Size},
    log::Start,
};

pub(super) fn retention_keeps_what_its_limits_allow_and_in_the_end_no_more(new: New) {
    // Goal: three events are within each limit and stay. Of eight, the newest three stay.
    let [a] = names(["a"]);
    let three = Size::new(3 * cost(new, &a));
    let limits = [
        LogConfig { topic_events_max: 3, ..roomy() },
        LogConfig { topic_bytes_max: three, ..roomy() },
        LogConfig { bytes_max: three, ..roomy() },
        LogConfig { events_max: 3, ..roomy() },
    ];
    for (which, config) in limits.into_iter().enumerate() {
        let log = new(config);
        append_all(&*log, [&a; 3]);
        assert_eq!(seqs(&page(&*log, from_ref(&a), 0)), [1, 2, 3], "limit {which}");
        append_all(&*log, [&a; 5]);
        until("the oldest to go", || {
            log.enforce_retention();
            let left = seqs(&page(&*log, from_ref(&a), 0));
            assert!(left.ends_with(&[6, 7, 8]), "limit {which}: {left:?}");
            left.len() == 3
        });
    }
}

pub(super) fn an_event_stays_for_age_max_and_is_removed_in_the_end(new: New) {
    // Goal: an event is not removed before `age_max` is over.
    let (log, [a]) = (new(LogConfig { age_max: Duration::from_millis(40), ..roomy() }), names(["a"]));
    let begin = Instant::now();
    append(&*log, &a);
    until("the event to be too old", || {
        log.enforce_retention();
        page(&*log, from_ref(&a), 0).events.is_empty()
    });
    assert!(begin.elapsed() > Duration::from_millis(40), "it went too soon");
}

pub(super) fn held_is_right_in_the_end(new: New) {
    // Goal: `held` counts the events, also after a deletion, and is `None` for a topic that nothing was published to.
    let (log, [a, b]) = (new(roomy()), names(["a", "b"]));
    append_all(&*log, [&b; 2]);
    until("the events to be counted", || extent(&*log, &b) == (Some(1), Some(2), 2));
    delete(&*log, &b);
    until("the deletion to be counted", || extent(&*log, &b) == (None, None, 0));
    assert_eq!(held(&*log, &a), None);
}

pub(super) fn a_start_by_time_leaves_out_no_event(new: New) {
    // Goal: a start at the time of an event begins before that event. A start in the future begins not later than after
    // the last event.
    let (log, topics) = (new(roomy()), names(["a", "b"]));
    append_all(&*log, [0, 1, 1, 0].map(|at: usize| &topics[at]));
    for event in page(&*log, &topics, 0).events {
        let (since, gap) = place(&*log, &topics, &Start::Since(event.time_ms));
        assert!(since < event.seq && gap.is_none(), "{since} for {}", event.seq);
    }
    assert!(place(&*log, &topics, &Start::Since(u64::MAX)).0 <= 4);
}

pub(super) fn a_deletion_is_remembered(new: New) {
    // Goal: `deletion` returns the last deletion, and no more time than has passed since.
    let (log, [a, b]) = (new(roomy()), names(["a", "b"]));
    append_all(&*log, [&a, &b]);
    let begin = Instant::now();
    delete(&*log, &a);
    let last = delete(&*log, &a);
    let (id, ago) = log.deletion(&a).expect("it is remembered");
    assert_eq!((id.epoch, id.seq), (log.epoch(), last));
    assert!(ago <= begin.elapsed() + Duration::from_millis(1), "{ago:?}");
    assert_eq!(log.deletion(&b), None);
}
