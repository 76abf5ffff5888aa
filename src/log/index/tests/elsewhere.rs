//! What readers get when events were removed elsewhere: the stream of a cluster has limits of its own.

use super::{Watched, high_limits, topic};
use crate::{
    event::EventId,
    frame::GapReason,
    log::{ReadFrom, Start, index::retain::STEP},
};

/// Events 1, 3 and 5 of `a`, 2 and 4 of `b`, each with its position as its time.
fn index() -> Watched {
    let mut watched = Watched::new(high_limits(), u64::MAX);
    for (seq, name) in (1..).zip(["a", "b", "a", "b", "a"]) {
        watched.push(&topic(name), 10, seq);
    }
    watched
}

/// Where a subscription of the topic begins that has everything up to `seq`, and its gap.
fn place(watched: &Watched, name: &str, seq: u64) -> (u64, Option<GapReason>) {
    let id = EventId { epoch: watched.index.epoch, seq };
    let start = watched.index.resolve_start(&[topic(name)], &Start::After(id), &[]);
    (start.from.after, start.gap)
}

#[test]
fn what_was_removed_elsewhere_is_a_gap_of_its_topic_only() {
    // Goal: up to a position that the index has passed, it knows what is missing.
    let mut watched = index();
    assert!(!watched.index.remove_to(2, 0) && !watched.index.remove_to(2, 0));
    let evicted = Some(GapReason::Evicted);
    assert_eq!([0, 1, 2].map(|seq| place(&watched, "a", seq)), [(2, evicted), (1, None), (2, None)]);
    assert_eq!([0, 1, 2].map(|seq| place(&watched, "b", seq).1), [evicted, evicted, None]);
    assert_eq!(place(&watched, "never", 0), (0, None));
    assert_eq!((watched.index.size(), watched.index.watermark()), ((3, 2), 5));
}

#[test]
fn what_was_removed_unseen_may_be_of_any_topic() {
    // Goal: when positions were removed that the index has not seen, every topic has a gap up to the last one, for
    // streams that are open, and for starts by position and by time. Later events are held as always.
    let mut watched = index();
    let before = watched.index.resolve_start(&[topic("a")], &Start::Live, &[]).from;
    assert!(!watched.index.remove_to(9, 7));
    watched.push(&topic("a"), 10, 10);
    for name in ["a", "b", "never"] {
        assert_eq!([0, 8].map(|seq| place(&watched, name, seq).1), [Some(GapReason::Evicted); 2], "{name}");
        assert_eq!(place(&watched, name, 9), (9, None), "{name}");
        let page = watched.index.read(&[topic(name)], before, usize::MAX).expect("a page");
        assert_eq!((page.missing_to, page.to), (9, 10), "{name}");
        let gap = |ms| watched.index.resolve_start(&[topic(name)], &Start::Since(ms), &[]).gap;
        assert_eq!((gap(7), gap(8)), (Some(GapReason::Evicted), None), "{name}");
    }
    let again = ReadFrom { after: 9, ..watched.index.resolve_start(&[topic("a")], &Start::All, &[]).from };
    assert_eq!(watched.index.read(&[topic("a")], again, usize::MAX).expect("a page").missing_to, 0);
    assert_eq!(watched.index.size(), (1, 2));
}

#[test]
fn what_was_removed_unseen_is_a_gap_although_nothing_was_held() {
    // Goal: an open stream is told, too, when the index itself had nothing to remove.
    let mut watched = Watched::new(high_limits(), u64::MAX);
    let before = watched.index.resolve_start(&[topic("a")], &Start::Live, &[]).from;
    assert!(!watched.index.remove_to(3, 7));
    let page = watched.index.read(&[topic("a")], before, usize::MAX).expect("a page");
    assert_eq!((page.missing_to, page.to), (3, 3));
}

#[test]
fn a_long_removal_takes_several_steps() {
    // Goal: readers do not wait for the removal of many events.
    let mut watched = Watched::new(high_limits(), u64::MAX);
    let many = 2 * STEP + 1;
    (0..many).for_each(|_| watched.push(&topic("a"), 10, 1));
    let mut steps = 1;
    while watched.index.remove_to(u64::try_from(many).expect("a position"), 0) {
        steps += 1;
    }
    assert_eq!((steps, watched.index.size().0), (3, 0));
}

#[test]
fn the_removed_events_of_one_topic_are_a_gap_of_this_topic_only() {
    // Goal: an import says that a topic has lost events: those that the index has, and others that it has not seen. The
    // gap counts for streams that are open, and for starts by position and by time. Other topics have none.
    let mut watched = index();
    let before = watched.index.resolve_start(&[topic("a")], &Start::Live, &[]).from;
    watched.index.remove_topic(&topic("a"), 6, 7);
    watched.index.remove_topic(&topic("never"), 7, 7);
    watched.push(&topic("a"), 10, 10);
    let evicted = Some(GapReason::Evicted);
    for (name, position) in [("a", 6), ("never", 7)] {
        assert_eq!([0, position - 1].map(|seq| place(&watched, name, seq).1), [evicted; 2], "{name}");
        assert_eq!(place(&watched, name, position).1, None, "{name}");
        let gap = |ms| watched.index.resolve_start(&[topic(name)], &Start::Since(ms), &[]).gap;
        assert_eq!((gap(7), gap(8)), (evicted, None), "{name}");
        let page = watched.index.read(&[topic(name)], before, usize::MAX).expect("a page");
        assert_eq!(page.missing_to, position, "{name}");
    }
    assert_eq!(place(&watched, "b", 0), (0, None));
    assert_eq!((watched.index.size(), watched.index.watermark()), ((3, 3), 8));
}
