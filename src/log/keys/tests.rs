//! Which keys are remembered, and that nothing is left of the others.

use std::time::Duration;

use super::*;
use crate::event::{Epoch, EventId, EventName};

const WINDOW_MS: u64 = 300_000;

fn keys(of_topic_max: usize, max: usize) -> Keys {
    Keys::new(KeyLimits { window: Duration::from_millis(WINDOW_MS), of_topic_max, max })
}

fn name(topic: &str) -> TopicName {
    TopicName::parse(topic, 255).expect("a name")
}

fn used(topic: &str, key: &str) -> KeyUse {
    KeyUse { topic: name(topic), key: key.into(), fingerprint: 0 }
}

fn receipt(seq: u64) -> Receipt {
    Receipt { id: EventId { epoch: Epoch::random(), seq }, subscribers: 0, replayed: false }
}

/// Publishes under a key, at a position; whether that was a retry.
fn publish_at(keys: &Keys, mono_ms: u64, topic: &str, key: &str, seq: u64) -> bool {
    let append = |_| known(Ok(receipt(seq)));
    let answer = keys.append_once(used(topic, key), mono_ms, append).now_or_never();
    answer.expect("an answer at once").expect("a receipt").replayed
}

fn publish(keys: &Keys, topic: &str, key: &str) -> bool {
    publish_at(keys, 0, topic, key, 1)
}

/// Begins a publish under a key that is unused; gives its number.
fn begin(keys: &Keys, topic: &str, key: &str) -> u64 {
    let mut number = None;
    drop(keys.append_once(used(topic, key), 0, |claim| {
        number = Some(claim.number);
        Append::Right(std::future::pending().boxed())
    }));
    number.expect("the key is unused")
}

fn knows(keys: &Keys, topic: &str, key: &str) -> bool {
    keys.find(&used(topic, key), 0).is_some()
}

fn topics(keys: &Keys) -> usize {
    let all = lock(&keys.0);
    let of_topics = all.topics.values().map(|of_topic| (of_topic.by_key.len(), of_topic.by_age.len()));
    let sums = of_topics.fold((0, 0), |(keys, ages), (key, age)| (keys + key, ages + age));
    assert_eq!(sums, (all.by_age.len(), all.by_age.len()), "each key has its place in its topic");
    all.topics.len()
}

#[test]
fn above_the_limit_of_all_topics_the_oldest_key_is_evicted() {
    // Goal: at the limit all keys are known. Each further key evicts the oldest key of all topics, also of another
    // topic.
    let keys = keys(9, 4);
    for (topic, key) in [("a", "0"), ("a", "1"), ("b", "0"), ("a", "2")] {
        assert!(!publish(&keys, topic, key));
    }
    assert!(["0", "1", "2"].iter().all(|key| knows(&keys, "a", key)) && knows(&keys, "b", "0"));
    publish(&keys, "b", "1");
    assert!(!knows(&keys, "a", "0") && knows(&keys, "a", "1"));
    publish(&keys, "c", "0");
    publish(&keys, "c", "1");
    assert!(!knows(&keys, "a", "1") && !knows(&keys, "b", "0"), "the next two by age");
    assert!(knows(&keys, "a", "2") && knows(&keys, "b", "1") && knows(&keys, "c", "0") && knows(&keys, "c", "1"));
    assert_eq!((keys.len(), topics(&keys)), (4, 3));
    // One topic alone can fill it.
    (0..9).for_each(|n| assert!(!publish(&keys, "d", &n.to_string())));
    assert_eq!((keys.len(), topics(&keys)), (4, 1));
}

#[test]
fn above_the_limit_of_a_topic_its_oldest_key_is_evicted() {
    // Goal: the oldest key of the topic is evicted, and not one of another topic, also when the limit of all topics is
    // reached.
    let keys = keys(3, 4);
    publish(&keys, "b", "0");
    (0..1000).for_each(|n| assert!(!publish(&keys, "a", &n.to_string())));
    assert!(!knows(&keys, "a", "996") && knows(&keys, "a", "997") && knows(&keys, "b", "0"));
    assert_eq!((keys.len(), topics(&keys)), (4, 2));
}

#[test]
fn a_key_counts_for_its_window_and_no_longer() {
    // Goal: the window is exact to the millisecond, also if nobody removes expired keys. After that, another event may
    // use the key.
    let keys = keys(9, 9);
    publish_at(&keys, 1000, "a", "k", 1);
    assert!(publish_at(&keys, 1000 + WINDOW_MS - 1, "a", "k", 2));
    assert!(!publish_at(&keys, 1000 + WINDOW_MS, "a", "k", 3));
    assert!(publish_at(&keys, 1000 + 2 * WINDOW_MS - 1, "a", "k", 4), "from when it was used anew");
    assert_eq!((keys.len(), topics(&keys)), (1, 1));
}

#[test]
fn expired_keys_are_removed() {
    // Goal: all expired keys of several topics are removed, in several steps, and no other key.
    let keys = keys(10_000, 100_000);
    for (topic, count) in [("a", 1), ("b", REMOVED_PER_LOCK), ("c", 2 * REMOVED_PER_LOCK + 1)] {
        (0..count).for_each(|n| assert!(!publish(&keys, topic, &n.to_string())));
    }
    publish_at(&keys, 1, "a", "new", 1);
    keys.drop_expired(WINDOW_MS - 1);
    assert_eq!((keys.len(), topics(&keys)), (3 * REMOVED_PER_LOCK + 3, 3), "the control");
    keys.drop_expired(WINDOW_MS);
    assert_eq!((keys.len(), topics(&keys)), (1, 1));
    keys.drop_expired(WINDOW_MS + 1);
    assert_eq!((keys.len(), topics(&keys)), (0, 0));
}

#[test]
fn a_retry_waits_for_the_pending_publish() {
    // Goal: the retry gets the same receipt, also when the first publisher has disconnected.
    let keys = keys(9, 9);
    let (done, outcome) = tokio::sync::oneshot::channel::<Appended>();
    let append = |_| Append::Right(outcome.map(|outcome| outcome.expect("it is told")).boxed());
    drop(keys.append_once(used("a", "k"), 0, append));
    let mut retry = keys.find(&used("a", "k"), 0).expect("it is taken");
    assert!((&mut retry).now_or_never().is_none());
    let other = KeyUse { fingerprint: 1, ..used("a", "k") };
    let reused = keys.find(&other, 0).and_then(futures_util::FutureExt::now_or_never);
    assert_eq!(reused, Some(Err(AppendError::KeyReused)), "another event need not wait");
    let first = receipt(7);
    done.send(Ok(first)).expect("it is awaited");
    assert_eq!(retry.now_or_never(), Some(Ok(Receipt { replayed: true, ..first })));
}

#[test]
fn a_key_whose_publish_failed_is_unused() {
    // Goal: a publish that fails, at once or later, takes no space from other keys, and its retry counts as the first
    // publish.
    let keys = keys(9, 3);
    publish(&keys, "kept", "k");
    for n in 0..9 {
        let refused = |_| known(Err(AppendError::DiskFull));
        let answer = keys.append_once(used("a", &n.to_string()), 0, refused).now_or_never();
        assert_eq!(answer, Some(Err(AppendError::DiskFull)));
        let number = begin(&keys, "b", &n.to_string());
        assert!(knows(&keys, "b", &n.to_string()));
        keys.settle(number, Err(AppendError::DiskFull));
        assert_eq!((keys.len(), topics(&keys)), (1, 1), "{n}");
    }
    assert!(publish(&keys, "kept", "k"));
    assert!(!publish(&keys, "b", "0"));
    // What has made room for others meanwhile is not brought back, nor another one in its place.
    let numbers = [begin(&keys, "c", "0"), begin(&keys, "c", "1")];
    for key in ["2", "3", "0"] {
        assert!(!publish(&keys, "c", key));
    }
    keys.settle(numbers[0], Err(AppendError::DiskFull));
    keys.settle(numbers[1], Ok(receipt(9)));
    assert!(knows(&keys, "c", "0") && !knows(&keys, "c", "1"));
    assert_eq!((keys.len(), topics(&keys)), (3, 1));
}

#[test]
fn a_deletion_forgets_the_keys_before_it() {
    // Goal: a pending publish, which comes after the deletion, keeps its key, and so does another topic.
    let keys = keys(10_000, 10_000);
    (1..=600).for_each(|seq| assert!(!publish_at(&keys, 0, "a", &seq.to_string(), seq)));
    publish_at(&keys, 0, "b", "k", 601);
    let number = begin(&keys, "a", "under way");
    keys.forget(&name("a"), 602);
    assert_eq!((keys.len(), topics(&keys)), (2, 2));
    assert!(knows(&keys, "a", "under way") && knows(&keys, "b", "k"));
    keys.settle(number, Ok(receipt(603)));
    keys.forget(&name("a"), 602);
    assert!(knows(&keys, "a", "under way"));
    keys.forget(&name("a"), 604);
    assert_eq!((keys.len(), topics(&keys)), (1, 1));
}

#[test]
fn keys_from_before_the_process_are_the_oldest() {
    // Goal: the newest keys of each topic and of all topics are restored in order. Every key that is used now is newer.
    let keys = keys(2, 4);
    let restore = |topic: &str, key: &str| {
        let outcome = Outcome::Committed(receipt(1));
        keys.restore(KeyEntry {
            topic: name(topic),
            key: key.into(),
            expires_mono_ms: WINDOW_MS,
            fingerprint: None,
            outcome,
        })
    };
    let newest_first = [("a", "3"), ("b", "2"), ("a", "2"), ("a", "1"), ("c", "1")];
    assert_eq!(newest_first.map(|(topic, key)| restore(topic, key)), [true, true, true, true, false]);
    assert!(!restore("d", "1"), "there is no room for more");
    assert!(!knows(&keys, "a", "1"), "its topic had enough");
    assert!(publish(&keys, "b", "2"));
    let mut known = vec![("c", "1"), ("a", "2"), ("b", "2"), ("a", "3")];
    for n in 0..4 {
        assert!(known.iter().all(|(topic, key)| knows(&keys, topic, key)));
        publish(&keys, &format!("new {n}"), "k");
        let (topic, key) = known.remove(0);
        assert!(!knows(&keys, topic, key), "{topic} {key} is the oldest");
    }
}

#[test]
fn the_limits_hold_for_concurrent_threads() {
    // Goal: while several threads use keys, let them fail or expire, and delete topics, there are never more keys than
    // the limits allow. Nothing is left at the end.
    let keys = keys(7, 20);
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let keys = &keys;
            scope.spawn(move || {
                for round in 0..200 {
                    let topic = format!("{thread}-{}", round % 3);
                    for n in 0..30 {
                        publish(keys, &topic, &n.to_string());
                        let number = begin(keys, &topic, "under way");
                        keys.settle(number, Err(AppendError::DiskFull));
                        assert!(keys.len() <= 20, "{}", keys.len());
                    }
                    keys.forget(&name(&topic), 2);
                    keys.drop_expired(0);
                }
            });
        }
    });
    assert!(topics(&keys) <= 12);
    keys.drop_expired(WINDOW_MS);
    assert_eq!((keys.len(), topics(&keys)), (0, 0));
}

#[test]
fn a_fingerprint_is_the_same_in_every_release() {
    // Goal: fingerprints on disk stay valid. The values are from the reference implementation of XXH3.
    let tick = EventName::parse("tick");
    assert_eq!(fingerprint(None, b""), 0x99aa_06d3_0147_98d8_6001_c324_468d_497f);
    assert_eq!(fingerprint(None, b"content"), 0x917e_1274_274f_c195_b27a_2d23_88d9_568c);
    assert_eq!(fingerprint(tick.as_ref().ok(), b"content"), 0x3c3d_aa1c_95c1_53aa_96b1_a6c3_0198_b861);
}

/// Notes an event with the key at this position, with this fingerprint.
fn note(keys: &Keys, topic: &str, key: &str, (seq, fingerprint): (u64, u128)) {
    keys.note(KeyUse::of_event(name(topic), key.into(), fingerprint), receipt(seq), WINDOW_MS);
}

/// The position that a publish under a key gets as a retry; `None` when the key is unused or pending.
fn position(keys: &Keys, topic: &str, key: &str) -> Option<u64> {
    let answer = keys.find(&used(topic, key), 0)?.now_or_never()?;
    Some(answer.expect("a receipt").id.seq)
}

#[test]
fn the_event_of_another_server_answers_retries() {
    // Goal: a noted key is known as if it were used here, and a later event with the key takes its place.
    let keys = keys(9, 9);
    note(&keys, "a", "k", (3, 0));
    assert_eq!((position(&keys, "a", "k"), position(&keys, "b", "k"), keys.len()), (Some(3), None, 1));
    note(&keys, "a", "other", (4, 1));
    let refused = keys.find(&used("a", "other"), 0).and_then(futures_util::FutureExt::now_or_never);
    assert_eq!(refused, Some(Err(AppendError::KeyReused)));
    note(&keys, "a", "k", (7, 0));
    assert_eq!((position(&keys, "a", "k"), keys.len()), (Some(7), 2));
    keys.forget(&name("a"), 5);
    assert_eq!((position(&keys, "a", "k"), keys.len()), (Some(7), 1), "the other one was before the deletion");
    keys.drop_expired(WINDOW_MS);
    assert_eq!((keys.len(), topics(&keys)), (0, 0));
}

#[test]
fn the_first_event_with_a_key_wins_also_over_one_that_is_on_its_way() {
    // Goal: when another server's event with the key comes first, retries get that one at once, whatever becomes of the
    // publish on its way: it fails, or it is answered with the first one's receipt.
    for outcome in [Err(AppendError::Unknown), Ok(receipt(3))] {
        let keys = keys(9, 9);
        let number = begin(&keys, "a", "k");
        assert!(keys.first(number).is_none() && position(&keys, "a", "k").is_none());
        note(&keys, "a", "k", (3, 0));
        note(&keys, "a", "k", (5, 0));
        let (first, fingerprint) = keys.first(number).expect("it is noted");
        assert_eq!((first.id.seq, fingerprint, position(&keys, "a", "k")), (3, 0, Some(3)));
        keys.settle(number, outcome);
        assert_eq!((position(&keys, "a", "k"), keys.len()), (Some(3), 1));
        assert!(keys.first(number).is_none(), "it is settled");
    }
}

#[test]
fn a_deletion_forgets_noted_keys_behind_a_pending_one() {
    // Goal: a publish that is still on its way keeps its key, and does not protect the keys after it.
    let keys = keys(9, 9);
    let number = begin(&keys, "a", "pending");
    note(&keys, "a", "k", (3, 0));
    keys.forget(&name("a"), 4);
    assert_eq!((position(&keys, "a", "k"), keys.len()), (None, 1));
    keys.settle(number, Ok(receipt(5)));
    assert_eq!(position(&keys, "a", "pending"), Some(5));
}
