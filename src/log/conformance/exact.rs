//! Exact guarantees: they hold at every moment, so the tests assert equalities.

use std::{collections::BTreeSet, iter::repeat_n, slice::from_ref};

use futures_util::FutureExt as _;

use super::steps::{
    New, after, append, append_all, delete, draft, names, page, place, read, resolve, roomy, seqs, take, until, wait,
};
use crate::{
    config::LogConfig,
    event::{Epoch, EventId, TopicName},
    frame::GapReason,
    log::{Batch, Commit, Feed, ReadFrom, Start},
};

pub(super) fn positions_grow_by_one_over_all_topics(new: New) {
    // Goal: all topics and all deletions share one sequence, which begins at 1.
    let (log, [a, b]) = (new(roomy()), names(["a", "b"]));
    assert_eq!(log.watermark(), 0);
    assert_eq!([append(&*log, &a), append(&*log, &b), append(&*log, &a)], [1, 2, 3]);
    assert_eq!(delete(&*log, &b), 4);
    assert_eq!((append(&*log, &b), log.watermark()), (5, 5));
    assert_ne!(log.epoch(), new(roomy()).epoch(), "another log, another history");
}

pub(super) fn concurrent_appends_have_one_order(new: New) {
    // Goal: with 8 threads, no position is given twice or left out, the feed is in order, and the log has the event of
    // each receipt once.
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

pub(super) fn a_feed_has_the_commits_after_its_opening(new: New) {
    // Goal: a feed has no earlier commit and every later one, events and deletions, and completes `arrived` when one
    // comes.
    let (log, [a]) = (new(roomy()), names(["a"]));
    append(&*log, &a);
    let feed = log.feed();
    assert!(feed.arrived().now_or_never().is_none());
    append(&*log, &a);
    delete(&*log, &a);
    wait(feed.arrived());
    assert_eq!(take(&feed, 2), [2, 3]);
    append(&*log, &a);
    wait(feed.arrived());
    assert_eq!(take(&feed, 1), [4]);
}

pub(super) fn a_commit_is_in_the_feed_before_any_answer_shows_it(new: New) {
    // Goal: when a receipt, a deletion or a start point shows a position, the feed already has the commit.
    let (log, [a]) = (new(roomy()), names(["a"]));
    let (feed, mut batch) = (log.feed(), Batch::default());
    let mut last = || {
        feed.take(&mut batch);
        batch.commits.last().map(Commit::seq)
    };
    for seq in 1..=3 {
        assert_eq!((append(&*log, &a), last()), (seq, Some(seq)));
    }
    assert_eq!((delete(&*log, &a), last()), (4, Some(4)));
    drop(log.append(draft(&a, "content")));
    until("a start to pass it", || resolve(&*log, from_ref(&a), &Start::Live, &[]).watermark == 5);
    assert_eq!(last(), Some(5));
}

pub(super) fn an_append_whose_future_is_dropped_is_published(new: New) {
    // Goal: the event of a publisher that disconnects is published, and no position is left out.
    let (log, [a]) = (new(roomy()), names(["a"]));
    let feed = log.feed();
    drop(log.append(draft(&a, "dropped")));
    assert_eq!(append(&*log, &a), 2);
    assert_eq!(take(&feed, 2), [1, 2]);
    assert_eq!(page(&*log, &[a], 0).events[0].content(), b"dropped");
}

pub(super) fn a_page_is_complete_up_to_its_end(new: New) {
    // Goal: a page is in order over its topics, has at least one event and no more bytes than asked for, and `to` is
    // the position before the next event.
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

pub(super) fn a_subscription_begins_where_it_asks(new: New) {
    // Goal: each kind of start is right for several topics, also at the first and the last position and after the last.
    let (log, [a, b, c]) = (new(roomy()), names(["a", "b", "c"]));
    append_all(&*log, [&c, &a, &b, &c, &a, &c]);
    let ours = [a, b];
    let from = |start: Start| place(&*log, &ours, &start);
    assert_eq!(from(Start::Live), (6, None));
    assert_eq!(from(Start::All), (1, None));
    assert_eq!([0, 1, 2, 3, 4, usize::MAX].map(|n| from(Start::Last(n)).0), [6, 4, 2, 1, 1, 1]);
    assert_eq!([0, 3, 6].map(|seq| from(after(&*log, seq))), [(0, None), (3, None), (6, None)]);
    assert_eq!(place(&*log, &names(["nobody's"]), &Start::All), (6, None));
    // The last one that uses positions: an engine may use one to make sure that there is none.
    assert_eq!(from(after(&*log, 7)), (1, Some(GapReason::Reset)), "ahead of the log");
    assert_eq!(from(Start::After(EventId { epoch: Epoch::random(), seq: 3 })), (1, Some(GapReason::Reset)));
    assert_eq!(from(Start::Unreadable), (1, Some(GapReason::Unreadable)));
}

pub(super) fn a_topic_can_be_used_again_after_its_deletion(new: New) {
    // Goal: readers from before the deletion get the deletion, readers from after it do not, and no earlier event is
    // left.
    let (log, [a, b]) = (new(roomy()), names(["a", "b"]));
    append_all(&*log, [&a, &b, &a]);
    assert_eq!(delete(&*log, &a), 4);
    let both = [a.clone(), b];
    let before = page(&*log, &both, 3);
    assert_eq!((seqs(&before), before.deleted, before.to), (vec![], vec![(a.clone(), 4)], 4));
    let start = resolve(&*log, &both, &Start::All, &[]);
    assert_eq!(start.from.after, 1);
    assert_eq!(append(&*log, &a), 5);
    let next_life = read(&*log, &both, start.from, usize::MAX);
    assert_eq!(seqs(&next_life), [2, 5]);
    assert_eq!(next_life.deleted, [(a, 4)], "whose position is not after that of the subscription");
    assert_eq!(start.watermark, 4);
}

pub(super) fn a_full_feed_drops_its_commits_and_reports_it(new: New) {
    // Goal: a feed holds `COMMITS_MAX` commits. With one more, it drops them and reports up to where the hub must read
    // from the log.
    let (log, [a]) = (new(LogConfig { topic_events_max: 1, ..roomy() }), names(["a"]));
    let (full, over) = (log.feed(), log.feed());
    let max = Feed::COMMITS_MAX;
    append_all(&*log, repeat_n(&a, max));
    assert_eq!(take(&full, max).len(), max);
    append(&*log, &a);
    let mut batch = Batch::default();
    until("the loss", || {
        over.take(&mut batch);
        batch.dropped_to > 0
    });
    let seqs: Vec<u64> = batch.commits.iter().map(Commit::seq).collect();
    let last = u64::try_from(max).expect("a position");
    assert_eq!((batch.dropped_to, seqs), (last, vec![last + 1]));
    over.take(&mut batch);
    assert_eq!((batch.dropped_to, batch.commits.len()), (0, 0), "it is told once");
}

pub(super) fn a_deletion_is_on_the_page_that_includes_its_position(new: New) {
    // Goal: a page that ends before the deletion does not have it. The page that includes it has it once, and the later
    // events of the topic follow.
    let (log, [a, b]) = (new(roomy()), names(["a", "b"]));
    append_all(&*log, [&a, &b, &a, &b]);
    delete(&*log, &a);
    append_all(&*log, [&a, &b]);
    // Held are 2, 4 and 7 of b, 6 of a; the deletion is at 5.
    let part = |after, bytes_max| {
        let page = read(&*log, &[a.clone(), b.clone()], ReadFrom { after, removals_seen: 0 }, bytes_max);
        (seqs(&page), page.deleted.first().map(|(_, seq)| *seq), page.to)
    };
    assert_eq!(part(0, 0), (vec![2], None, 3));
    assert_eq!(part(3, 0), (vec![4], Some(5), 5));
    assert_eq!(part(4, 0), (vec![6], Some(5), 6));
    assert_eq!(part(5, 0), (vec![6], None, 6));
    assert_eq!(part(0, usize::MAX), (vec![2, 4, 6, 7], Some(5), 7));
}

pub(super) fn every_missing_event_is_reported(new: New) {
    // Goal: for every position and several choices of topics, a page and a start report what is missing after the
    // position.
    let (log, topics) = (new(LogConfig { topic_events_max: 2, ..roomy() }), names(["a", "b", "c"]));
    let order = [0, 1, 0, 0, 2, 1, 0, 1, 0].map(|at: usize| &topics[at]);
    append_all(&*log, order);
    for choice in [&topics[..1], &topics[1..], &topics[..]] {
        for at in 0..=9 {
            let page = page(&*log, choice, at);
            assert_eq!(page.to, 9);
            let is_missing =
                |(seq, topic): &(u64, &TopicName)| *seq > at && choice.contains(topic) && !seqs(&page).contains(seq);
            let missing = (1..).zip(order).filter(is_missing).map(|(seq, _)| seq).max().unwrap_or_default();
            assert!(page.missing_to >= missing, "{choice:?} after {at}: {} for {missing}", page.missing_to);
            let start = resolve(&*log, choice, &after(&*log, at), &[]);
            assert!(missing == 0 || start.gap.or(start.gap_ahead).is_some(), "{choice:?} after {at}");
        }
    }
}
