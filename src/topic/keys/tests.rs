//! Which keys are remembered, and that nothing is left of the others.

use futures_util::{FutureExt as _, future::ready};

use super::*;
use crate::{
    event::{Epoch, EventId},
    log::{Append, Receipt},
    topic::receipts::{Kept, Receipts},
};

const WINDOW: Duration = Duration::from_mins(5);

fn keys(of_topic_max: usize, max: usize) -> Arc<Keys> {
    Arc::new(Keys::new(&TopicLimits {
        subscribers_max: 1,
        idempotency_window: WINDOW,
        idempotency_keys_max: of_topic_max,
        idempotency_keys_of_all_max: max,
        gone: Duration::ZERO,
    }))
}

fn name(topic: &str) -> TopicName {
    TopicName::parse(topic, 255).expect("a name")
}

fn receipt() -> Receipt {
    Receipt { id: EventId { epoch: Epoch::random(), seq: 1 } }
}

fn answer() -> Kept {
    Kept { fingerprint: None, subscribers: 0, receipt: Append::Left(ready(Ok(receipt()))).shared() }
}

/// The topic of this name, with `topic-0`, `topic-1` and so on as its keys.
fn topic(keys: &Arc<Keys>, topic: &str, count: usize) -> Receipts {
    let mut receipts = Receipts::open(&name(topic), keys);
    (0..count).for_each(|n| receipts.keep(format!("{topic}-{n}").into(), answer()));
    receipts
}

fn knows(receipts: &Receipts, key: &str) -> bool {
    receipts.find(key).is_some()
}

/// Topics that are noted as having a key.
fn noted(keys: &Keys) -> usize {
    lock(&keys.oldest).len()
}

#[test]
fn past_the_most_keys_of_all_the_oldest_of_all_makes_room() {
    // Goal: at the limit all are known; each key past it costs the one that is oldest over all topics, whoever keeps it.
    let keys = keys(9, 4);
    let mut a = topic(&keys, "a", 2);
    let mut b = topic(&keys, "b", 1);
    a.keep("a-2".into(), answer());
    assert!(["a-0", "a-1", "a-2"].iter().all(|key| knows(&a, key)) && knows(&b, "b-0"));
    b.keep("b-1".into(), answer());
    assert!(!knows(&a, "a-0") && knows(&a, "a-1"));
    let c = topic(&keys, "c", 2);
    assert!(!knows(&a, "a-1") && !knows(&b, "b-0"), "the next two by age");
    assert!(knows(&a, "a-2") && knows(&b, "b-1") && knows(&c, "c-0") && knows(&c, "c-1"));
    assert_eq!((keys.len(), noted(&keys)), (4, 3));
    // One topic alone can fill it.
    topic(&keys, "d", 9);
    assert!(!knows(&a, "a-2") && !knows(&b, "b-1") && !knows(&c, "c-1"));
}

#[test]
fn a_topic_that_drops_its_own_keys_leaves_nothing_behind() {
    // Goal: what is noted of a topic is one entry, however many keys it has let go, and none when it has gone.
    let keys = keys(3, 100);
    let a = topic(&keys, "a", 1000);
    assert_eq!((keys.len(), noted(&keys)), (3, 1));
    assert!(!knows(&a, "a-996") && knows(&a, "a-997"));
    let b = topic(&keys, "b", 2);
    drop(a);
    assert_eq!((keys.len(), noted(&keys)), (2, 1));
    drop(b);
    assert_eq!((keys.len(), noted(&keys)), (0, 0));
}

#[test]
fn expired_keys_go_without_being_asked_for_and_give_back_their_memory() {
    // Goal: all that are past the window, of topics that nobody uses, too, and no other.
    let keys = keys(10_000, 100_000);
    let long_ago = Instant::now().checked_sub(WINDOW).expect("a time");
    let answers = [keys.begin(), keys.begin(), keys.begin()];
    for (answers, count) in answers.iter().zip([1, STEP, 2 * STEP + 1]) {
        (0..count).for_each(|n| lock(answers).insert(long_ago, n.to_string().into(), answer(), &keys));
    }
    lock(&answers[0]).insert(Instant::now(), "new".into(), answer(), &keys);
    assert_eq!((keys.len(), noted(&keys)), (3 * STEP + 3, 3));
    keys.drop_expired();
    assert_eq!((keys.len(), noted(&keys)), (1, 1));
    assert!(answers.iter().all(|answers| lock(answers).capacity() < 10), "the room of their busiest time");
    lock(&answers[0]).clear(&keys);
    assert_eq!((keys.len(), noted(&keys)), (0, 0));
}

#[test]
fn keys_from_before_the_process_count_from_the_start() {
    // Goal: whether their topic is used or not, they are the first to make room; each topic finds its own.
    let keys = keys(9, 3);
    let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).expect("a time").as_millis();
    let kept = |topic: &str, key: &str, seconds: u64| {
        let time_ms = u64::try_from(now_ms).expect("a number") - seconds * 1000;
        let kept = KeptReceipt { key: key.into(), receipt: receipt(), fingerprint: None, subscribers: 0, time_ms };
        (name(topic), kept)
    };
    let over = WINDOW.as_secs() + 1;
    keys.restore(vec![kept("a", "over", over), kept("a", "a-0", 9), kept("b", "b-0", 8), kept("a", "a-1", 7)]);
    assert_eq!((keys.len(), noted(&keys)), (3, 2));
    let mut b = Receipts::open(&name("b"), &keys);
    b.keep("b-1".into(), answer());
    let a = Receipts::open(&name("a"), &keys);
    assert!(!knows(&a, "over") && !knows(&a, "a-0") && knows(&a, "a-1"));
    assert!(knows(&b, "b-0") && knows(&b, "b-1"));
    assert!(Receipts::open(&name("a"), &keys).is_empty(), "they have been taken");
    drop((a, b));
    // Those of the same millisecond in the order in which they come.
    keys.restore(vec![kept("d", "d-0", 1), kept("c", "c-0", 1), kept("c", "c-1", 1), kept("d", "d-1", 1)]);
    assert_eq!((keys.len(), noted(&keys)), (3, 2));
    topic(&keys, "e", 1);
    let d = Receipts::open(&name("d"), &keys);
    assert!(knows(&d, "d-1"), "c has made room");
    keys.forget(&name("c"));
    assert!(Receipts::open(&name("c"), &keys).is_empty());
    assert_eq!((keys.len(), noted(&keys)), (1, 1), "of d");
}

#[test]
fn the_count_holds_whatever_many_do_at_once() {
    // Goal: topics that come, keep keys, find them and go, on several threads at a limit that they share: never more than
    // one key past it for each, and nothing left of them at the end.
    const THREADS: usize = 4;
    let keys = keys(7, 20);
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let keys = &keys;
            scope.spawn(move || {
                for round in 0..200 {
                    let receipts = topic(keys, &format!("{thread}-{round}"), 1 + round % 30);
                    assert!(keys.len() < 20 + THREADS + 1, "{}", keys.len());
                    knows(&receipts, "0");
                    keys.drop_expired();
                }
            });
        }
    });
    assert_eq!((keys.len(), noted(&keys)), (0, 0));
    // The control: it still counts, and bounds.
    let _a = topic(&keys, "a", 7);
    let _b = topic(&keys, "b", 7);
    let _c = topic(&keys, "c", 7);
    assert_eq!((keys.len(), noted(&keys)), (20, 3));
}
