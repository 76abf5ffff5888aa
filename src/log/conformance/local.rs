//! For engines that keep their events and apply retention in this process: they are exact where the guarantees of the
//! log are only conservative.

use std::{
    iter::repeat_n,
    slice::from_ref,
    sync::Arc,
    time::{Duration, Instant},
};

use super::steps::{
    EMPTY_MAX, New, after, append, append_all, cost, delete, extent, held, names, page, place, read, resolve, roomy,
    seqs, until,
};
use crate::{
    config::{LogConfig, Size},
    event::TopicName,
    frame::GapReason,
    log::{ReadFrom, Start},
};

pub(super) fn a_topic_keeps_topic_events_max_events(new: New) {
    // Goal: `topic_events_max` events are held. One more removes the oldest of the topic.
    let (log, [a, b]) = (new(LogConfig { topic_events_max: 3, ..roomy() }), names(["a", "b"]));
    append(&*log, &b);
    append_all(&*log, [&a; 3]);
    assert_eq!((seqs(&page(&*log, from_ref(&a), 0)), page(&*log, from_ref(&a), 0).missing_to), (vec![2, 3, 4], 0));
    append(&*log, &a);
    assert_eq!(extent(&*log, &a), (Some(3), Some(5), 3));
    assert_eq!(page(&*log, &[a], 0).missing_to, 2);
    assert_eq!(held(&*log, &b).expect("an event").events, 1, "another topic's limit is its own");
}

pub(super) fn a_topic_keeps_topic_bytes_max_bytes(new: New) {
    // Goal: events of exactly `topic_bytes_max` are held. With a limit of one byte less, one of them is removed.
    let [a] = names(["a"]);
    let three = 3 * cost(new, &a);
    for (bytes_max, first) in [(three, 1), (three - 1, 2)] {
        let log = new(LogConfig { topic_bytes_max: Size::new(bytes_max), ..roomy() });
        append_all(&*log, [&a; 3]);
        let bytes = held(&*log, &a).expect("events").bytes;
        assert_eq!((extent(&*log, &a).0, bytes), (Some(first), (4 - first) * three / 3), "{bytes_max}");
        assert_eq!(page(&*log, from_ref(&a), 0).missing_to, first - 1);
    }
}

pub(super) fn all_topics_keep_bytes_max_bytes(new: New) {
    // Goal: events of exactly `bytes_max` are held. With a limit of one byte less, the oldest of all topics is removed.
    let [a, b] = names(["a", "b"]);
    let four = 4 * cost(new, &a);
    for (bytes_max, left) in [(four, vec![1, 2, 3, 4]), (four - 1, vec![2, 3, 4])] {
        let log = new(LogConfig { bytes_max: Size::new(bytes_max), ..roomy() });
        append_all(&*log, [&a, &b, &b, &a]);
        let page = page(&*log, &[a.clone(), b.clone()], 0);
        assert_eq!(seqs(&page), left, "{bytes_max}");
        assert_eq!(page.missing_to, left[0] - 1);
    }
}

pub(super) fn all_topics_keep_events_max_events(new: New) {
    // Goal: `events_max` events are held over all topics. One more removes the oldest of all, which is reported.
    let (log, [a, b]) = (new(LogConfig { events_max: 3, ..roomy() }), names(["a", "b"]));
    let both = [a.clone(), b.clone()];
    append_all(&*log, [&a, &b, &b]);
    assert_eq!((seqs(&page(&*log, &both, 0)), page(&*log, &both, 0).missing_to), (vec![1, 2, 3], 0));
    append(&*log, &b);
    assert_eq!((seqs(&page(&*log, &both, 0)), page(&*log, &both, 0).missing_to), (vec![2, 3, 4], 1));
    assert_eq!(held(&*log, &a).expect("a trace").events, 0);
    delete(&*log, &b);
    append_all(&*log, [&a; 3]);
    assert_eq!(seqs(&page(&*log, &[a], 0)), [6, 7, 8], "what was deleted does not count");
}

pub(super) fn a_large_deletion_leaves_nothing(new: New) {
    // Goal: a topic with more entries than one step drops disappears for all readers at once. Its memory is free in the
    // end, without another append. Later events of the topic are all held.
    let (log, [a, b]) = (new(LogConfig { hot_bytes_max: Size::mib(1 << 10), ..roomy() }), names(["a", "b"]));
    append_all(&*log, repeat_n(&a, 10_000));
    append(&*log, &b);
    let events: Vec<_> = page(&*log, from_ref(&a), 0).events.iter().map(Arc::downgrade).collect();
    let deleted = delete(&*log, &a);
    assert_eq!(held(&*log, &a).unwrap_or_default().events, 0);
    assert_eq!(seqs(&page(&*log, &[a.clone(), b.clone()], 0)), [10_001]);
    append(&*log, &a);
    let seen = resolve(&*log, from_ref(&a), &Start::All, &[]).from;
    let next_life = read(&*log, &[a.clone(), b], ReadFrom { after: deleted, ..seen }, usize::MAX);
    assert_eq!(seqs(&next_life), [deleted + 1]);
    until("its memory to be free", || {
        log.enforce_retention();
        events.iter().all(|event| event.upgrade().is_none())
    });
    assert_eq!(held(&*log, &a).expect("an event").events, 1);
}

pub(super) fn an_event_is_kept_until_it_is_too_old(new: New) {
    // Goal: an event is removed when it is older than `age_max`, and not before, and this is reported.
    let (log, [a]) = (new(LogConfig { age_max: Duration::from_millis(40), ..roomy() }), names(["a"]));
    let begin = Instant::now();
    append(&*log, &a);
    until("the event to be too old", || {
        log.enforce_retention();
        held(&*log, &a).is_none_or(|held| held.events == 0)
    });
    assert!(begin.elapsed() > Duration::from_millis(40), "it went too soon");
    assert_eq!(page(&*log, from_ref(&a), 0).missing_to, 1);
    assert_eq!(place(&*log, from_ref(&a), &after(&*log, 0)), (1, Some(GapReason::Evicted)));
    assert_eq!(place(&*log, &[a], &after(&*log, 1)), (1, None));
}

pub(super) fn an_append_removes_what_is_too_old(new: New) {
    // Goal: an append removes old events by itself, without a call of `enforce_retention`.
    let (log, [a, b]) = (new(LogConfig { age_max: Duration::from_millis(40), ..roomy() }), names(["a", "b"]));
    append_all(&*log, [&a, &a, &b]);
    let begin = Instant::now();
    until("the events to be too old", || begin.elapsed() > Duration::from_millis(50));
    assert_eq!(append(&*log, &b), 4);
    assert_eq!(seqs(&page(&*log, &[a, b], 0)), [4]);
}

pub(super) fn a_page_reports_exactly_what_is_missing(new: New) {
    // Goal: `missing_to` is the last event of the topics that was removed after the position of the reader, or 0.
    let (log, [a, b, c]) = (new(LogConfig { topic_events_max: 1, ..roomy() }), names(["a", "b", "c"]));
    append_all(&*log, [&a, &a, &b, &b, &a, &b]);
    // Held are 5 of a and 6 of b; removed were 1 and 2 of a, 3 and 4 of b.
    let both = [a.clone(), b.clone()];
    for at in 0..=6 {
        let missing_to = |topics: &[TopicName]| page(&*log, topics, at).missing_to;
        assert_eq!(missing_to(from_ref(&a)), if at < 2 { 2 } else { 0 }, "after {at}");
        assert_eq!(missing_to(&both), if at < 4 { 4 } else { 0 }, "after {at}");
        assert_eq!(missing_to(from_ref(&c)), 0, "after {at}");
    }
    assert_eq!(page(&*log, &both, 0).resumes_after(), 4);
    assert_eq!(page(&*log, &[b], 6).resumes_after(), 6);
    let all = ReadFrom { after: 0, ..resolve(&*log, &both, &Start::All, &[]).from };
    assert_eq!(read(&*log, &both, all, 1).missing_to, 0, "it did not ask for them");
}

pub(super) fn a_start_before_a_removed_event_has_a_gap(new: New) {
    // Goal: a start has the gap `evicted` exactly when an event of its topics after the cursor was removed, and begins
    // before the next held event.
    let (log, [a, b]) = (new(LogConfig { topic_events_max: 2, ..roomy() }), names(["a", "b"]));
    append_all(&*log, [&a, &b, &a, &a, &a]);
    // Held are 4 and 5 of a, 2 of b; removed were 1 and 3 of a.
    let both = [a.clone(), b.clone()];
    let at = |topics: &[TopicName], seq| place(&*log, topics, &after(&*log, seq));
    assert_eq!(at(from_ref(&a), 2), (3, Some(GapReason::Evicted)));
    assert_eq!(at(&[a], 3), (3, None));
    assert_eq!(at(&both, 0), (1, Some(GapReason::Evicted)));
    assert_eq!(at(&both, 2), (3, Some(GapReason::Evicted)));
    assert_eq!(at(&[b], 0), (0, None), "another topic's loss is not its own");
    assert_eq!(place(&*log, &both, &Start::All), (1, None), "who asks for what is held misses nothing");
}

pub(super) fn a_deletion_is_a_gap_only_for_a_start_before_its_events(new: New) {
    // Goal: a page reports the deletion itself, and no gap. Events that were published after the deletion and removed
    // are a gap.
    let (log, [a, b]) = (new(LogConfig { topic_events_max: 3, ..roomy() }), names(["a", "b"]));
    append_all(&*log, [&a, &b, &a]);
    assert_eq!(delete(&*log, &a), 4);
    assert_eq!(held(&*log, &a).unwrap_or_default().events, 0);
    let both = [a.clone(), b];
    let start = resolve(&*log, &both, &Start::All, &[]);
    assert_eq!(append(&*log, &a), 5);
    assert_eq!([0, 3].map(|at| page(&*log, &both, at).missing_to), [0, 0], "what went with it is no gap");
    assert_eq!(read(&*log, &both, start.from, usize::MAX).missing_to, 0);
    let at = |seq| place(&*log, from_ref(&a), &after(&*log, seq));
    assert_eq!(at(2), (4, Some(GapReason::Evicted)), "3 is lost to it");
    assert_eq!([at(3), at(4)], [(3, None), (4, None)], "no event is lost to it");
    append_all(&*log, [&a; 3]);
    assert_eq!([0, 4].map(|at| page(&*log, from_ref(&a), at).missing_to), [5, 5], "what the next life lost is one");
}

pub(super) fn held_is_exact(new: New) {
    // Goal: `held` returns `None` for a topic that nothing was published to, and reads of the topic do not change that.
    let (log, [a, b]) = (new(roomy()), names(["a", "b"]));
    page(&*log, from_ref(&a), 0);
    assert_eq!(place(&*log, from_ref(&a), &Start::All).0, 0);
    assert_eq!(held(&*log, &a), None);
    append_all(&*log, [&b; 2]);
    assert_eq!(extent(&*log, &b), (Some(1), Some(2), 2));
    assert!(
        held(&*log, &b).expect("events").bytes
            > u64::try_from(2 * page(&*log, &[b], 0).events[0].frame.len()).expect("a size"),
        "bookkeeping counts"
    );
}

pub(super) fn the_memory_of_empty_topics_is_bounded(new: New) {
    // Goal: above the limit, the topic with the oldest last removal is forgotten. Its gap is still reported.
    let topic = |n: usize| names([&n.to_string()])[0].clone();
    let log = new(LogConfig { bytes_max: Size::new(cost(new, &topic(0)) * 3 / 2), ..roomy() });
    append_all(&*log, &(0..=EMPTY_MAX).map(topic).collect::<Vec<_>>());
    let first = topic(0);
    assert!(held(&*log, &first).is_some_and(|held| held.events == 0), "as many as may be are remembered");
    append(&*log, &topic(EMPTY_MAX + 1));
    assert_eq!(held(&*log, &first), None);
    let remembered = (0..=EMPTY_MAX + 1).filter(|n| held(&*log, &topic(*n)).is_some()).count();
    assert_eq!(remembered, EMPTY_MAX + 1, "and the one that holds an event");
    for life in ["empty", "again"] {
        assert_eq!(place(&*log, from_ref(&first), &after(&*log, 0)).1, Some(GapReason::Evicted), "{life}");
        assert!(page(&*log, from_ref(&first), 0).missing_to >= 1, "{life}");
        append(&*log, &first);
    }
}

pub(super) fn a_start_before_a_reported_deletion_has_no_gap(new: New) {
    // Goal: only events that were published after the deletion and removed, and removed events of other topics, are a
    // gap.
    let (log, [a, b]) = (new(LogConfig { topic_events_max: 1, ..roomy() }), names(["a", "b"]));
    append_all(&*log, [&a, &b, &a]);
    delete(&*log, &a);
    append_all(&*log, [&a, &b]);
    // Held are 5 of a, 6 of b; removed were 1 and 3 of a, 2 of b; the deletion is at 4.
    let both = [a.clone(), b];
    let at = |topics: &[TopicName], seq, deleted: &[TopicName]| {
        let start = resolve(&*log, topics, &after(&*log, seq), deleted);
        (start.from.after, start.gap)
    };
    let told = from_ref(&a);
    assert_eq!(at(told, 0, &[]), (4, Some(GapReason::Evicted)));
    assert_eq!(at(told, 0, told), (0, None));
    assert_eq!(at(&both, 2, told), (2, None));
    assert_eq!(at(&both, 1, told), (4, Some(GapReason::Evicted)), "2 of b is lost to it");
    append(&*log, &a);
    assert_eq!(at(told, 0, told), (6, Some(GapReason::Evicted)), "5 of the next life is lost to it");
}
