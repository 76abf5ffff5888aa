//! What the storm judges by, and the control that shows it can tell: a fan-out that is sharded by topic fails it.

use std::collections::HashSet;

/// An event as a subscriber got it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub seq: u64,
    pub content: String,
}

/// What is wrong with what a subscriber got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    Missing(Seen),
    Twice(Seen),
    /// It came after a later one.
    Disorder(Seen),
    /// It was not published to any of its topics, or not with this content.
    Foreign(Seen),
}

/// Whether `seen` is exactly `wanted`, which is in id order.
pub fn check(wanted: &[Seen], seen: &[Seen]) -> Result<(), Fault> {
    let (mut known, mut last) = (HashSet::new(), 0);
    for event in seen {
        if !known.insert(event.seq) {
            return Err(Fault::Twice(event.clone()));
        }
        if event.seq < last {
            return Err(Fault::Disorder(event.clone()));
        }
        last = event.seq;
        let at = wanted.binary_search_by_key(&event.seq, |wanted| wanted.seq);
        if at.ok().is_none_or(|at| wanted[at] != *event) {
            return Err(Fault::Foreign(event.clone()));
        }
    }
    match wanted.iter().find(|wanted| !known.contains(&wanted.seq)) {
        Some(missing) => Err(Fault::Missing(missing.clone())),
        None => Ok(()),
    }
}

fn events(n: u64) -> Vec<Seen> {
    (1..=n).map(|seq| Seen { seq, content: format!("content {seq}") }).collect()
}

/// What a subscriber of two topics gets from `shards` dispatchers, of which each sends the events of its own topics, the
/// first three times as fast as the second. After every `drop_every` events it drops and resumes with the highest id
/// that it saw: all that one cursor can say.
fn fan_out(shards: u64, log: &[Seen], drop_every: usize) -> Vec<Seen> {
    let mut got: Vec<Seen> = Vec::new();
    let mut cursors = vec![0; usize::try_from(shards).expect("a few")];
    let end = log.last().map_or(0, |event| event.seq);
    let mut since_drop = 0;
    while cursors.iter().any(|cursor| *cursor < end) {
        for (shard, cursor) in (0..shards).zip(&mut cursors) {
            for _ in 0..if shard == 0 { 3 } else { 1 } {
                // Every other event is of the other topic.
                let next = log.iter().find(|event| event.seq > *cursor && event.seq % shards == shard);
                *cursor = next.map_or(end, |event| event.seq);
                got.extend(next.cloned());
                since_drop += usize::from(next.is_some());
            }
        }
        if since_drop >= drop_every {
            since_drop = 0;
            let highest = got.iter().map(|event| event.seq).max().unwrap_or_default();
            cursors.iter_mut().for_each(|cursor| *cursor = highest);
        }
    }
    got
}

/// Goal: the storm's judge is not blind. With one dispatcher a topic, one cursor cannot say what a subscriber of two has.
#[test]
fn a_fan_out_sharded_by_topic_is_found_faulty() {
    let log = events(60);
    for drop_every in 1..30 {
        assert_eq!(check(&log, &fan_out(1, &log, drop_every)), Ok(()), "one ordered feed, dropped after {drop_every}");
        assert!(check(&log, &fan_out(2, &log, drop_every)).is_err(), "sharded, dropped after {drop_every}");
    }
    // Order aside, which a merge at the end could mend, events are lost: the slower dispatcher is resumed past them.
    let mut got = fan_out(2, &log, 10);
    got.sort_unstable_by_key(|event| event.seq);
    assert!(matches!(check(&log, &got), Err(Fault::Missing(_))));
}

/// Goal: each kind of fault is told apart, so that a failing storm says what to look for.
#[test]
fn the_checker_tells_each_fault() {
    let log = events(4);
    let pick = |seqs: &[usize]| seqs.iter().map(|seq| log[seq - 1].clone()).collect::<Vec<_>>();
    assert_eq!(check(&log, &log), Ok(()));
    assert_eq!(check(&log, &pick(&[1, 2, 4])), Err(Fault::Missing(log[2].clone())));
    assert_eq!(check(&log, &pick(&[1, 2, 2, 3, 4])), Err(Fault::Twice(log[1].clone())));
    assert_eq!(check(&log, &pick(&[1, 3, 2, 4])), Err(Fault::Disorder(log[1].clone())));
    let foreign = Seen { seq: 2, content: "another content".to_owned() };
    assert_eq!(check(&log, std::slice::from_ref(&foreign)), Err(Fault::Foreign(foreign)));
}
