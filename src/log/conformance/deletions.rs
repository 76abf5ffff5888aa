//! Where a deletion stands among what is published, and what a reader is told of it.

use std::slice::from_ref;

use super::steps::{New, after, append, append_all, forget, names, page, read, resolve, roomy, seqs};
use crate::{config::LogConfig, event::TopicName, frame::GapReason, log::ReadFrom};

pub(super) fn a_deletion_has_its_place_in_the_order(new: New) {
    // Goal: a page that ends before it says nothing of it; the one that passes it does, once; the next life follows it.
    let (log, [a, b]) = (new(LogConfig { topic_events_max: 3, ..roomy() }), names(["a", "b"]));
    append_all(&*log, [&a, &b, &a, &b]);
    forget(&*log, &a);
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
    assert_eq!(page(&*log, from_ref(&a), 0).evicted_to, 0, "what went with it is no gap");
    append_all(&*log, [&a; 3]);
    assert_eq!([0, 5].map(|at| page(&*log, from_ref(&a), at).evicted_to), [6, 6], "what the next life lost is one");
}

pub(super) fn a_cursor_before_a_deletion_that_it_is_told_of_has_no_gap(new: New) {
    // Goal: only what the next life has lost is one, and what other topics have lost.
    let (log, [a, b]) = (new(LogConfig { topic_events_max: 1, ..roomy() }), names(["a", "b"]));
    append_all(&*log, [&a, &b, &a]);
    forget(&*log, &a);
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
