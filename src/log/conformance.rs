//! What every engine must keep, whatever it keeps its events in. An engine joins with one line, the last of this file.

use std::{
    collections::BTreeSet,
    iter::repeat_n,
    slice::from_ref,
    time::{Duration, Instant},
};

use futures_util::FutureExt as _;

use super::{Arc, Batch, Commit, Epoch, Event, EventId, Feed, GapReason, ReadFrom, Start, TopicName};
use crate::{
    config::{LogConfig, Size},
    event::Content,
};

mod clocks;
mod deletions;
mod idempotency;
mod steps;

use clocks::{a_wall_clock_that_jumps_is_followed_and_loses_nothing, since_a_time_tells_of_what_is_gone_after_it};
use deletions::{a_cursor_before_a_deletion_that_it_is_told_of_has_no_gap, a_deletion_has_its_place_in_the_order};
use idempotency::{
    a_deletion_among_publishes_leaves_no_answer_without_its_event, a_deletion_forgets_keys,
    a_key_for_another_event_is_refused, a_key_is_forgotten_after_its_window, a_key_that_nobody_awaits_answers,
    a_retry_gets_the_first_receipt, equal_keys_at_once_publish_once, past_the_most_keys_the_oldest_is_forgotten,
};
use steps::{
    MARKS_MAX, New, after, append, append_all, cost, draft, extent, forget, held, names, page, place, read, resolve,
    roomy, seqs, take, until, wait,
};

fn positions_count_from_one_over_all_topics(new: New) {
    // Goal: one sequence, whichever topic; deletions have their places in it.
    let (log, [a, b]) = (new(roomy()), names(["a", "b"]));
    assert_eq!(log.watermark(), 0);
    assert_eq!([append(&*log, &a), append(&*log, &b), append(&*log, &a)], [1, 2, 3]);
    assert_eq!(forget(&*log, &b), 4);
    assert_eq!((append(&*log, &b), log.watermark()), (5, 5));
    assert_ne!(log.epoch(), new(roomy()).epoch(), "another log, another history");
}

fn concurrent_appends_come_out_in_one_order(new: New) {
    // Goal: from 8 threads: no position twice, none left out, the feed in order, every receipt's event in the log once.
    let (log, topics) = (new(roomy()), names(["a", "b", "c"]));
    let feed = log.feed();
    let receipts: Vec<Vec<u64>> = std::thread::scope(|scope| {
        let publish = |n: usize| (0..200).map(|i| append(&*log, &topics[(n + i) % 3])).collect();
        let threads: Vec<_> = (0..8).map(|n| scope.spawn(move || publish(n))).collect();
        threads.into_iter().map(|thread| thread.join().expect("it publishes")).collect()
    });
    let all: Vec<u64> = (1..=1600).collect();
    assert!(receipts.iter().all(|of_one| of_one.is_sorted()), "a publisher's own order is the order of its calls");
    let given: BTreeSet<u64> = receipts.into_iter().flatten().collect();
    assert_eq!(given.into_iter().collect::<Vec<_>>(), all);
    assert_eq!(take(&feed, 1600), all);
    let page = page(&*log, &topics, 0);
    assert_eq!((seqs(&page), page.to), (all, 1600));
    assert!(page.events.is_sorted_by_key(|event| event.time_ms), "time never runs backwards");
}

fn a_feed_carries_what_comes_after_it_was_opened(new: New) {
    // Goal: nothing from before, everything from then on, events and deletions, and it says when something has come.
    let (log, [a]) = (new(roomy()), names(["a"]));
    append(&*log, &a);
    let feed = log.feed();
    assert!(feed.arrived().now_or_never().is_none());
    append(&*log, &a);
    forget(&*log, &a);
    wait(feed.arrived());
    assert_eq!(take(&feed, 2), [2, 3]);
    append(&*log, &a);
    wait(feed.arrived());
    assert_eq!(take(&feed, 1), [4]);
}

fn an_append_that_nobody_awaits_is_published(new: New) {
    // Goal: a publisher that goes away does not take its event back, and leaves no hole.
    let (log, [a]) = (new(roomy()), names(["a"]));
    let feed = log.feed();
    drop(log.append(draft(&a, "dropped")));
    assert_eq!(append(&*log, &a), 2);
    assert_eq!(take(&feed, 2), [1, 2]);
    assert_eq!(page(&*log, &[a], 0).events[0].content(), b"dropped");
}

fn a_topic_keeps_its_number_of_events(new: New) {
    // Goal: `topic_events_max` are held; one more, and the oldest of that topic goes.
    let (log, [a, b]) = (new(LogConfig { topic_events_max: 3, ..roomy() }), names(["a", "b"]));
    append(&*log, &b);
    append_all(&*log, [&a; 3]);
    assert_eq!((seqs(&page(&*log, from_ref(&a), 0)), page(&*log, from_ref(&a), 0).evicted_to), (vec![2, 3, 4], 0));
    append(&*log, &a);
    assert_eq!(extent(&*log, &a), (Some(3), Some(5), 3));
    assert_eq!(page(&*log, &[a], 0).evicted_to, 2);
    assert_eq!(held(&*log, &b).expect("an event").events, 1, "another topic's limit is its own");
}

fn a_topic_keeps_its_bytes(new: New) {
    // Goal: events of exactly `topic_bytes_max` are held; with a byte less, one of them goes.
    let [a] = names(["a"]);
    let three = 3 * cost(new, &a);
    for (bytes_max, first) in [(three, 1), (three - 1, 2)] {
        let log = new(LogConfig { topic_bytes_max: Size::new(bytes_max), ..roomy() });
        append_all(&*log, [&a; 3]);
        let bytes = held(&*log, &a).expect("events").bytes;
        assert_eq!((extent(&*log, &a).0, bytes), (Some(first), (4 - first) * three / 3), "{bytes_max}");
        assert_eq!(page(&*log, from_ref(&a), 0).evicted_to, first - 1);
    }
}

fn all_topics_keep_their_bytes(new: New) {
    // Goal: events of exactly `bytes_max` are held; with a byte less, the oldest of all topics goes.
    let [a, b] = names(["a", "b"]);
    let four = 4 * cost(new, &a);
    for (bytes_max, left) in [(four, vec![1, 2, 3, 4]), (four - 1, vec![2, 3, 4])] {
        let log = new(LogConfig { bytes_max: Size::new(bytes_max), ..roomy() });
        append_all(&*log, [&a, &b, &b, &a]);
        let page = page(&*log, &[a.clone(), b.clone()], 0);
        assert_eq!(seqs(&page), left, "{bytes_max}");
        assert_eq!(page.evicted_to, left[0] - 1);
    }
}

fn all_topics_keep_their_number_of_events(new: New) {
    // Goal: `events_max` are held over all topics; one more, and the oldest of all goes, and is known to have gone.
    let (log, [a, b]) = (new(LogConfig { events_max: 3, ..roomy() }), names(["a", "b"]));
    let both = [a.clone(), b.clone()];
    append_all(&*log, [&a, &b, &b]);
    assert_eq!((seqs(&page(&*log, &both, 0)), page(&*log, &both, 0).evicted_to), (vec![1, 2, 3], 0));
    append(&*log, &b);
    assert_eq!((seqs(&page(&*log, &both, 0)), page(&*log, &both, 0).evicted_to), (vec![2, 3, 4], 1));
    assert_eq!(held(&*log, &a).expect("a trace").events, 0);
    forget(&*log, &b);
    append_all(&*log, [&a; 3]);
    assert_eq!(seqs(&page(&*log, &[a], 0)), [6, 7, 8], "what was deleted does not count");
}

fn a_large_deletion_leaves_nothing(new: New) {
    // Goal: more than one step takes apart: gone for every reader at once, and its memory in the end, without another
    // append; the topic's next life is whole.
    let (log, [a, b]) = (new(LogConfig { hot_bytes_max: Size::mib(1 << 10), ..roomy() }), names(["a", "b"]));
    append_all(&*log, repeat_n(&a, 10_000));
    append(&*log, &b);
    let events: Vec<_> = page(&*log, from_ref(&a), 0).events.iter().map(Arc::downgrade).collect();
    let deleted = forget(&*log, &a);
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

fn an_event_is_kept_until_it_is_too_old(new: New) {
    // Goal: it goes when it is older than `age_max`, not sooner, and is known to have gone.
    let (log, [a]) = (new(LogConfig { age_max: Duration::from_millis(40), ..roomy() }), names(["a"]));
    let begin = Instant::now();
    append(&*log, &a);
    until("the event to be too old", || {
        log.enforce_retention();
        held(&*log, &a).is_none_or(|held| held.events == 0)
    });
    assert!(begin.elapsed() > Duration::from_millis(40), "it went too soon");
    assert_eq!(page(&*log, from_ref(&a), 0).evicted_to, 1);
    assert_eq!(place(&*log, from_ref(&a), &after(&*log, 0)), (1, Some(GapReason::Evicted)));
    assert_eq!(place(&*log, &[a], &after(&*log, 1)), (1, None));
}

fn an_append_drives_out_what_is_too_old(new: New) {
    // Goal: it does not wait for anybody to look.
    let (log, [a, b]) = (new(LogConfig { age_max: Duration::from_millis(40), ..roomy() }), names(["a", "b"]));
    append_all(&*log, [&a, &a, &b]);
    let begin = Instant::now();
    until("the events to be too old", || begin.elapsed() > Duration::from_millis(50));
    assert_eq!(append(&*log, &b), 4);
    assert_eq!(seqs(&page(&*log, &[a, b], 0)), [4]);
}

fn a_reader_is_told_exactly_of_what_it_misses(new: New) {
    // Goal: `evicted_to` is the last event removed after the reader's position, of its topics, and 0 when there is none.
    let (log, [a, b, c]) = (new(LogConfig { topic_events_max: 1, ..roomy() }), names(["a", "b", "c"]));
    append_all(&*log, [&a, &a, &b, &b, &a, &b]);
    // Held are 5 of a and 6 of b; removed were 1 and 2 of a, 3 and 4 of b.
    let both = [a.clone(), b.clone()];
    for at in 0..=6 {
        let evicted_to = |topics: &[TopicName]| page(&*log, topics, at).evicted_to;
        assert_eq!(evicted_to(from_ref(&a)), if at < 2 { 2 } else { 0 }, "after {at}");
        assert_eq!(evicted_to(&both), if at < 4 { 4 } else { 0 }, "after {at}");
        assert_eq!(evicted_to(from_ref(&c)), 0, "after {at}");
    }
    assert_eq!(page(&*log, &both, 0).resumes_after(), 4);
    assert_eq!(page(&*log, &[b], 6).resumes_after(), 6);
    let all = ReadFrom { after: 0, ..resolve(&*log, &both, &Start::All, &[]).from };
    assert_eq!(read(&*log, &both, all, 1).evicted_to, 0, "it did not ask for them");
}

fn a_page_ends_where_it_says(new: New) {
    // Goal: in order over topics; no more than was asked for, at least one event, and `to` is right before the next.
    let (log, topics) = (new(roomy()), names(["a", "b", "c"]));
    append_all(&*log, [0, 1, 2, 1, 0, 0, 2, 0].map(|at: usize| &topics[at]));
    let ours = &topics[..2];
    assert_eq!(seqs(&page(&*log, ours, 0)), [1, 2, 4, 5, 6, 8]);
    assert_eq!(page(&*log, &topics, 0).to, 8);
    let frame = page(&*log, ours, 0).events[0].frame.len();
    let part = |after, bytes_max| {
        let page = read(&*log, ours, ReadFrom { after, removals_seen: 0 }, bytes_max);
        (seqs(&page), page.to)
    };
    assert_eq!(part(0, 0), (vec![1], 1));
    assert_eq!(part(0, 2 * frame - 1), (vec![1], 1));
    assert_eq!(part(0, 2 * frame), (vec![1, 2], 3), "up to the event that did not fit");
    assert_eq!(part(3, 3 * frame), (vec![4, 5, 6], 7));
    assert_eq!(part(3, 4 * frame), (vec![4, 5, 6, 8], 8));
    assert_eq!(part(8, 0), (vec![], 8));
}

fn a_subscription_begins_where_it_asks(new: New) {
    // Goal: each start, over several topics; the bounds and one past them.
    let (log, [a, b, c]) = (new(roomy()), names(["a", "b", "c"]));
    append_all(&*log, [&c, &a, &b, &c, &a, &c]);
    let ours = [a, b];
    let from = |start: Start| place(&*log, &ours, &start);
    assert_eq!(from(Start::Live), (6, None));
    assert_eq!(from(Start::All), (1, None));
    assert_eq!([0, 1, 2, 3, 4, usize::MAX].map(|n| from(Start::Last(n)).0), [6, 4, 2, 1, 1, 1]);
    assert_eq!([0, 3, 6].map(|seq| from(after(&*log, seq))), [(0, None), (3, None), (6, None)]);
    assert_eq!(from(after(&*log, 7)), (1, Some(GapReason::Reset)), "ahead of the log");
    assert_eq!(from(Start::After(EventId { epoch: Epoch::random(), seq: 3 })), (1, Some(GapReason::Reset)));
    assert_eq!(from(Start::Unreadable), (1, Some(GapReason::Unreadable)));
    let newest = page(&*log, &ours, 0).events.last().expect("an event").time_ms;
    assert_eq!(from(Start::Since(newest + 1)), (6, None));
    let (since, gap) = from(Start::Since(newest));
    assert!(since <= 4 && gap.is_none(), "at that very time counts");
    assert_eq!(from(Start::Since(0)), (1, None));
    assert_eq!(place(&*log, &names(["nobody's"]), &Start::All), (6, None));
}

fn a_cursor_before_a_loss_is_told_of_it(new: New) {
    // Goal: `evicted` exactly when an event of its topics after the cursor has gone; it goes on before the next one held.
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

fn a_deleted_topic_is_forgotten_and_lives_again(new: New) {
    // Goal: readers from before learn of it, those of the next life do not, and nothing of the old life is left.
    let (log, [a, b]) = (new(roomy()), names(["a", "b"]));
    append_all(&*log, [&a, &b, &a]);
    assert_eq!(forget(&*log, &a), 4);
    let both = [a.clone(), b];
    let before = page(&*log, &both, 3);
    assert_eq!((seqs(&before), before.deleted, before.evicted_to, before.to), (vec![], vec![(a.clone(), 4)], 0, 4));
    assert_eq!(held(&*log, &a).unwrap_or_default().events, 0);
    let start = resolve(&*log, &both, &Start::All, &[]);
    assert_eq!(start.from.after, 1);
    assert_eq!(append(&*log, &a), 5);
    let next_life = read(&*log, &both, start.from, usize::MAX);
    assert_eq!((seqs(&next_life), next_life.evicted_to), (vec![2, 5], 0));
    assert_eq!(next_life.deleted, [(a.clone(), 4)], "whose position is not after that of the subscription");
    assert_eq!(start.watermark, 4);
    assert_eq!(place(&*log, from_ref(&a), &after(&*log, 2)), (4, Some(GapReason::Evicted)), "3 is lost to it");
    assert_eq!(place(&*log, from_ref(&a), &after(&*log, 3)), (3, None), "no event is lost to it");
    assert_eq!(place(&*log, &[a], &after(&*log, 4)), (4, None));
}

fn what_is_held_is_known(new: New) {
    // Goal: nothing is known of a topic that nothing was published to; reading or asking does not make one.
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

fn a_feed_that_nobody_takes_is_lost_and_says_so(new: New) {
    // Goal: it holds its number of commits; with one more the hub is told up to where to read from the log.
    let (log, [a]) = (new(LogConfig { topic_events_max: 1, ..roomy() }), names(["a"]));
    let (full, over) = (log.feed(), log.feed());
    let max = Feed::COMMITS_MAX;
    append_all(&*log, repeat_n(&a, max));
    assert_eq!(take(&full, max).len(), max);
    append(&*log, &a);
    let mut batch = Batch::default();
    until("the loss", || {
        over.take(&mut batch);
        batch.lost_to > 0
    });
    let seqs: Vec<u64> = batch.commits.iter().map(Commit::seq).collect();
    let last = u64::try_from(max).expect("a position");
    assert_eq!((batch.lost_to, seqs), (last, vec![last + 1]));
    over.take(&mut batch);
    assert_eq!((batch.lost_to, batch.commits.len()), (0, 0), "it is told once");
}

fn the_memory_of_empty_topics_is_bounded(new: New) {
    // Goal: one topic too many and the one that has been empty longest is forgotten, but never what it lost.
    let topic = |n: usize| names([&n.to_string()])[0].clone();
    let log = new(LogConfig { bytes_max: Size::new(cost(new, &topic(0)) * 3 / 2), ..roomy() });
    append_all(&*log, &(0..=MARKS_MAX).map(topic).collect::<Vec<_>>());
    let first = topic(0);
    assert!(held(&*log, &first).is_some_and(|held| held.events == 0), "as many as may be are remembered");
    append(&*log, &topic(MARKS_MAX + 1));
    assert_eq!(held(&*log, &first), None);
    let remembered = (0..=MARKS_MAX + 1).filter(|n| held(&*log, &topic(*n)).is_some()).count();
    assert_eq!(remembered, MARKS_MAX + 1, "and the one that holds an event");
    for life in ["empty", "again"] {
        assert_eq!(place(&*log, from_ref(&first), &after(&*log, 0)).1, Some(GapReason::Evicted), "{life}");
        assert!(page(&*log, from_ref(&first), 0).evicted_to >= 1, "{life}");
        append(&*log, &first);
    }
}

#[test]
fn a_feed_holds_its_bytes() {
    // Goal: commits of exactly the limit wait; with one byte more they are lost.
    let [topic] = names(["a"]);
    let event = |seq, bytes| {
        let (name, content, frame) = (None, Content::Within(0..0), vec![b'x'; bytes].into());
        Commit::Event(Arc::new(Event { seq, time_ms: 0, topic: topic.clone(), name, content, frame }))
    };
    for (last, lost_to, left) in [(Feed::BYTES_MAX / 2, 0, 2), (Feed::BYTES_MAX / 2 + 1, 1, 1)] {
        let (feed, mut batch) = (Feed::default(), Batch::default());
        feed.push(event(1, Feed::BYTES_MAX / 2));
        feed.push(event(2, last));
        feed.take(&mut batch);
        assert_eq!((batch.lost_to, batch.commits.len()), (lost_to, left));
    }
}

macro_rules! conforms {
    ($engine:ident) => {
        mod $engine {
            use super::steps::{$engine, all_keys, roomy};
            conforms!(@ |config| $engine(config, all_keys(), None);
                positions_count_from_one_over_all_topics, concurrent_appends_come_out_in_one_order,
                a_feed_carries_what_comes_after_it_was_opened, an_append_that_nobody_awaits_is_published,
                a_topic_keeps_its_number_of_events, a_topic_keeps_its_bytes, all_topics_keep_their_bytes,
                all_topics_keep_their_number_of_events, a_large_deletion_leaves_nothing,
                an_event_is_kept_until_it_is_too_old, an_append_drives_out_what_is_too_old, a_reader_is_told_exactly_of_what_it_misses,
                a_page_ends_where_it_says, a_subscription_begins_where_it_asks, a_cursor_before_a_loss_is_told_of_it,
                a_deleted_topic_is_forgotten_and_lives_again, a_deletion_has_its_place_in_the_order,
                a_cursor_before_a_deletion_that_it_is_told_of_has_no_gap, what_is_held_is_known,
                a_feed_that_nobody_takes_is_lost_and_says_so, the_memory_of_empty_topics_is_bounded,
            );
            conforms!(@ |config, wall| $engine(config, all_keys(), wall);
                a_wall_clock_that_jumps_is_followed_and_loses_nothing, since_a_time_tells_of_what_is_gone_after_it,
            );
            conforms!(@ |keys| $engine(roomy(), keys, None);
                a_retry_gets_the_first_receipt, a_key_for_another_event_is_refused, a_key_that_nobody_awaits_answers,
                equal_keys_at_once_publish_once, a_key_is_forgotten_after_its_window,
                past_the_most_keys_the_oldest_is_forgotten, a_deletion_forgets_keys,
                a_deletion_among_publishes_leaves_no_answer_without_its_event,
            );
        }
    };
    (@ $new:expr; $($behaviour:ident,)*) => { $(#[test] fn $behaviour() { super::$behaviour($new); })* };
}

conforms!(in_memory);
conforms!(on_disk);
