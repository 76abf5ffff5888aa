//! One event per key: a publisher that does not know whether its publish succeeded can retry.

use std::{
    slice::from_ref,
    sync::Barrier,
    time::{Duration, Instant},
};

use super::steps::{NewKeyed, all_keys, append, directory, draft, names, page, roomy, seqs, until, wait};
use crate::{
    config::LogConfig,
    event::{EventName, TopicName},
    log::{AppendError, Appended, Draft, KeyLimits, Log, Receipt, disk::DiskLog},
};

fn keyed(topic: &TopicName, key: &str) -> Draft {
    Draft { key: Some(key.into()), ..draft(topic, "content") }
}

fn publish(log: &dyn Log, topic: &TopicName, key: &str) -> Receipt {
    wait(log.append(keyed(topic, key))).expect("it is taken")
}

/// The position of the event, and whether it was a retry.
fn answer(log: &dyn Log, topic: &TopicName, key: &str) -> (u64, bool) {
    let receipt = publish(log, topic, key);
    (receipt.id.seq, receipt.replayed)
}

pub(super) fn a_retry_gets_the_first_receipt(new: NewKeyed) {
    // Goal: a retry gets the position and the number of subscribers of the first publish, and publishes nothing. The
    // same key in another topic is another key. Equal events without a key are two events.
    let (log, [a, b]) = (new(all_keys()), names(["a", "b"]));
    let first = Draft { subscribers: 3, ..keyed(&a, "k") };
    let id = wait(log.append(first)).expect("it is taken").id;
    append(&*log, &a);
    for _ in 0..3 {
        assert_eq!(publish(&*log, &a, "k"), Receipt { id, subscribers: 3, replayed: true });
    }
    assert_eq!(answer(&*log, &b, "k"), (3, false));
    assert_eq!(answer(&*log, &a, "K"), (4, false));
    assert_eq!([append(&*log, &a), append(&*log, &a)], [5, 6]);
    assert_eq!((seqs(&page(&*log, &[a], 0)), log.keys()), (vec![1, 2, 4, 5, 6], 3));
}

pub(super) fn a_key_for_another_event_is_refused(new: NewKeyed) {
    // Goal: the same key with other content or another name is an error, not a retry, and does not change the key.
    let (log, [a]) = (new(all_keys()), names(["a"]));
    publish(&*log, &a, "k");
    let name = |name| Some(EventName::parse(name).expect("a name"));
    for other in [
        Draft { content: "content!".into(), ..keyed(&a, "k") },
        Draft { content: "".into(), ..keyed(&a, "k") },
        Draft { name: name("tick"), ..keyed(&a, "k") },
    ] {
        assert_eq!(wait(log.append(other)), Err(AppendError::KeyReused));
    }
    assert_eq!(answer(&*log, &a, "k"), (1, true));
    assert_eq!((log.watermark(), log.keys()), (1, 1));
}

pub(super) fn a_key_whose_future_is_dropped_answers_a_retry(new: NewKeyed) {
    // Goal: when a publisher disconnects, its event and its key stay.
    let (log, [a]) = (new(all_keys()), names(["a"]));
    drop(log.append(keyed(&a, "k")));
    assert_eq!(answer(&*log, &a, "k"), (1, true));
    assert_eq!(append(&*log, &a), 2);
}

pub(super) fn equal_keys_at_once_publish_one_event(new: NewKeyed) {
    // Goal: when 8 threads publish with the same keys, each key has one event, one receipt that is not a retry, and one
    // position.
    const THREADS: usize = 8;
    let (log, [a], start) = (new(all_keys()), names(["a"]), Barrier::new(THREADS));
    let publish_all = || -> Vec<(u64, bool)> {
        start.wait();
        let appends: Vec<_> = (0..200).map(|n| log.append(keyed(&a, &n.to_string()))).collect();
        let receipts = appends.into_iter().map(|append| wait(append).expect("it is taken"));
        receipts.map(|receipt| (receipt.id.seq, receipt.replayed)).collect()
    };
    let answers: Vec<Vec<(u64, bool)>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(publish_all)).collect();
        threads.into_iter().map(|thread| thread.join().expect("it publishes")).collect()
    });
    for key in 0..200 {
        let of_key: Vec<(u64, bool)> = answers.iter().map(|of_thread| of_thread[key]).collect();
        assert!(of_key.iter().all(|(seq, _)| *seq == of_key[0].0), "{of_key:?}");
        assert_eq!(of_key.iter().filter(|(_, replayed)| !replayed).count(), 1, "{of_key:?}");
    }
    assert_eq!((log.watermark(), log.keys()), (200, 200));
}

pub(super) fn a_key_is_forgotten_after_its_window(new: NewKeyed) {
    // Goal: a key is forgotten after its window and not before, also when nobody uses it again.
    let window = Duration::from_millis(300);
    let (log, [a]) = (new(KeyLimits { window, ..all_keys() }), names(["a"]));
    let begin = Instant::now();
    publish(&*log, &a, "k");
    publish(&*log, &a, "nobody's");
    let mut last = (1, true);
    until("the window's end", || {
        last = answer(&*log, &a, "k");
        !last.1
    });
    // The log's own time has whole milliseconds.
    assert!(begin.elapsed() + Duration::from_millis(1) >= window, "it went too soon");
    assert_eq!(last.0, 3);
    until("the keys to go", || {
        log.enforce_retention();
        log.keys() == 0
    });
}

pub(super) fn above_a_limit_the_oldest_key_is_forgotten(new: NewKeyed) {
    // Goal: at both limits all keys are known. One more key evicts the oldest of the topic if the topic is at its
    // limit, otherwise the oldest of all. No publish is refused.
    let limits = KeyLimits { of_topic_max: 2, max: 4, ..all_keys() };
    let (log, [a, b, c]) = (new(limits), names(["a", "b", "c"]));
    for (topic, key) in [(&a, "1"), (&b, "1"), (&b, "2"), (&c, "1")] {
        assert!(!answer(&*log, topic, key).1);
    }
    let known = |used: &[(&TopicName, &str)]| used.iter().all(|(topic, key)| answer(&*log, topic, key).1);
    assert!(known(&[(&a, "1"), (&b, "1"), (&b, "2"), (&c, "1")]));
    assert!(!answer(&*log, &b, "3").1);
    assert!(known(&[(&a, "1"), (&b, "2"), (&b, "3"), (&c, "1")]), "b has made room itself");
    assert!(!answer(&*log, &c, "2").1);
    assert!(known(&[(&b, "2"), (&b, "3"), (&c, "1"), (&c, "2")]), "a was the oldest");
    assert!(!answer(&*log, &a, "1").1);
    assert!(!answer(&*log, &b, "2").1);
    assert_eq!(log.keys(), 4);
}

pub(super) fn a_deletion_forgets_the_keys_of_its_topic(new: NewKeyed) {
    // Goal: all keys of the topic are forgotten, however many. The next publish with such a key is a first one, also
    // with another event, and later ones are its retries.
    let (log, [a, b]) = (new(all_keys()), names(["a", "b"]));
    let appends: Vec<_> = (0..1000).map(|n| log.append(keyed(&a, &n.to_string()))).collect();
    assert!(appends.into_iter().all(|append| wait(append).is_ok()));
    publish(&*log, &b, "1");
    assert_eq!((wait(log.delete(&a)).map(|id| id.seq), log.keys()), (Ok(1002), 1));
    assert_eq!([answer(&*log, &a, "1"), answer(&*log, &a, "1")], [(1003, false), (1003, true)]);
    assert_eq!(answer(&*log, &b, "1"), (1001, true));
    wait(log.delete(&a)).expect("it is taken");
    let other = Draft { content: "other".into(), ..keyed(&a, "1") };
    assert_eq!(wait(log.append(other)).map(|receipt| receipt.replayed), Ok(false));
}

pub(super) fn after_a_deletion_no_retry_gets_a_deleted_event(new: NewKeyed) {
    // Goal: when publishes and a deletion run at once, the event of every later receipt is in the log.
    let (log, [a], start) = (new(all_keys()), names(["a"]), Barrier::new(3));
    for round in 0..100 {
        let keys = || (0..8).map(|n| format!("{round}-{n}"));
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    start.wait();
                    keys().for_each(|key| assert!(publish(&*log, &a, &key).id.seq > 0));
                });
            }
            start.wait();
            wait(log.delete(&a)).expect("it is taken");
        });
        let mut answers: Vec<u64> = keys().map(|key| answer(&*log, &a, &key).0).collect();
        answers.sort_unstable();
        assert_eq!(answers, seqs(&page(&*log, from_ref(&a), 0)), "{round}");
    }
}

#[test]
fn keys_are_kept_over_a_restart() {
    // Goal: on disk the newest keys of all topics survive a restart, each for its own event only.
    let config = LogConfig { path: directory(), ..roomy() };
    let [a, b, c] = names(["a", "b", "c"]);
    let open = |limits| DiskLog::open(&config, limits).expect("it opens");
    let log = open(all_keys());
    let first = wait(log.append(Draft { subscribers: 5, ..keyed(&a, "1") })).expect("it is taken");
    let used = [(&b, "1"), (&c, "1"), (&b, "2"), (&b, "3"), (&a, "2")];
    let seqs = used.map(|(topic, key)| answer(&log, topic, key).0);
    assert_eq!(seqs, [2, 3, 4, 5, 6]);
    wait(log.delete(&c)).expect("it is taken");
    drop(log);
    let log = open(all_keys());
    assert_eq!(log.keys(), 5, "those of c went with it");
    assert_eq!(publish(&log, &a, "1"), Receipt { replayed: true, ..first });
    assert_eq!(answer(&log, &c, "1"), (8, false));
    let other: Appended = wait(log.append(Draft { content: "other".into(), ..keyed(&b, "1") }));
    assert_eq!(other, Err(AppendError::KeyReused));
    drop(log);
    // Of b the newest two, and of all the newest four.
    let log = open(KeyLimits { of_topic_max: 2, max: 4, ..all_keys() });
    let newest = [(&c, "1", 8), (&a, "2", 6), (&b, "3", 5), (&b, "2", 4)];
    assert!(newest.iter().all(|(topic, key, seq)| answer(&log, topic, key) == (*seq, true)));
    assert_eq!((answer(&log, &a, "1"), log.keys()), ((9, false), 4));
    assert_eq!(answer(&log, &b, "2"), (10, false), "the oldest of all has made room");
    drop(log);
    let log = open(KeyLimits { window: Duration::ZERO, ..all_keys() });
    assert_eq!(answer(&log, &a, "1"), (11, false), "its window is over");
}
