//! The rates, with a clock that the tests move.

use std::net::IpAddr;

use governor::{clock::FakeRelativeClock, state::keyed::HashMapStateStore};

use super::{keys::KEYS_MAX, *};

const TENTH: Duration = Duration::from_millis(100);
const NO_TOPIC: [&str; 0] = [];

fn rates(configure: impl FnOnce(&mut LimitsConfig)) -> (Rates<FakeRelativeClock>, FakeRelativeClock) {
    let (mut limits, clock) = (LimitsConfig::default(), FakeRelativeClock::default());
    configure(&mut limits);
    (Rates::with_clock(&limits, &clock), clock)
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn publish<const N: usize>(rates: &Rates<FakeRelativeClock>, from: &str, topics: [&str; N]) -> Result<(), RateError> {
    rates.publish(Some(ip(from)), None, None, topics.into_iter()).map(drop)
}

/// How many publishes are accepted one after the other.
fn accepted(rates: &Rates<FakeRelativeClock>, from: &str, topic: &str) -> usize {
    (0..1000).take_while(|_| publish(rates, from, [topic]).is_ok()).count()
}

/// The rate that refuses, how much of it is left, and the wait.
fn refusal(refused: Result<(), RateError>) -> (Rate, u32, Duration) {
    match refused {
        Err(RateError::Reached { rate, remaining, wait, .. }) => (rate, remaining, wait),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_second_of_the_rate_is_free_at_once_and_the_rest_as_time_passes() {
    // Goal: at the limit a request is accepted, one past it is refused, and each address has a rate of its own.
    let (rates, clock) = rates(|limits| {
        limits.publishes_per_second_per_ip = 10;
        limits.subscribes_per_second_per_ip = 2;
    });
    assert_eq!(accepted(&rates, "10.0.0.1", "a"), 10);
    assert_eq!(refusal(publish(&rates, "10.0.0.1", ["a"])), (Rate::PublishesPerIp, 0, TENTH));
    assert_eq!(accepted(&rates, "10.0.0.2", "a"), 10, "another address");
    clock.advance(TENTH.saturating_sub(Duration::from_nanos(1)));
    assert_eq!(accepted(&rates, "10.0.0.1", "a"), 0);
    clock.advance(Duration::from_nanos(1));
    assert_eq!(accepted(&rates, "10.0.0.1", "a"), 1, "a tenth of a second later");
    clock.advance(Duration::from_mins(1));
    assert_eq!(accepted(&rates, "10.0.0.1", "a"), 10, "more than a second's worth is never free");
    // Subscriptions have a rate of their own.
    let subscribe = || rates.subscribe(Some(ip("10.0.0.1")));
    assert_eq!([subscribe(), subscribe()], [Ok(()), Ok(())]);
    assert_eq!(refusal(subscribe()), (Rate::SubscribesPerIp, 0, 5 * TENTH));
    assert_eq!(rates.subscribe(None), Ok(()), "a client without an address");
}

#[test]
fn a_network_of_ipv6_is_one_address() {
    let (rates, _) = rates(|limits| limits.publishes_per_second_per_ip = 1);
    for (from, expected) in [
        ("2001:db8:1:2::1", 1),
        ("2001:db8:1:2:ffff::2", 0),
        ("2001:db8:1:3::1", 1),
        ("10.0.0.1", 1),
        ("::ffff:10.0.0.1", 0),
    ] {
        assert_eq!(accepted(&rates, from, "a"), expected, "{from}");
    }
}

#[test]
fn a_publish_counts_once_for_each_topic() {
    // Goal: the number of topics is what counts, and a topic that is named twice, or in the query and in the body,
    // counts once.
    let (rates, clock) = rates(|limits| limits.publishes_per_second_per_ip = 10);
    let used = rates.publish(Some(ip("10.0.0.1")), None, None, ["a", "b", "a"].into_iter()).expect("two of ten");
    assert_eq!(rates.publish_to(used, ["a", "b", "c"].into_iter()), Ok(()), "three of ten");
    assert_eq!(publish(&rates, "10.0.0.1", NO_TOPIC), Ok(()), "four: its topics may be in the body");
    assert_eq!(
        refusal(publish(&rates, "10.0.0.1", ["1", "2", "3", "4", "5", "6", "7", "8"])),
        (Rate::PublishesPerIp, 6, 2 * TENTH),
        "eight, and six are left"
    );
    assert_eq!(accepted(&rates, "10.0.0.1", "a"), 6, "a refused one has used nothing");
    clock.advance(Duration::from_secs(1));
    let names: Vec<String> = (0..11).map(|n| n.to_string()).collect();
    let topics = |n| names.iter().take(n).map(String::as_str);
    assert!(rates.publish(Some(ip("10.0.0.1")), None, None, topics(10)).is_ok());
    clock.advance(Duration::from_secs(1));
    let too_many = RateError::TooManyTopics { rate: Rate::PublishesPerIp, per_second: 10, topics: 11 };
    assert_eq!(rates.publish(Some(ip("10.0.0.1")), None, None, topics(11)).map(drop), Err(too_many));
    assert_eq!(accepted(&rates, "10.0.0.1", "a"), 10);
}

#[test]
fn a_refused_publish_uses_nothing() {
    // Goal: a publish that one rate refuses leaves the others as they were, also what it has used before its body.
    let limit = |limits: &mut LimitsConfig| {
        limits.publishes_per_second_per_ip = 20;
        limits.publishes_per_second_per_topic = 5;
    };
    let (rates, _) = rates(limit);
    assert_eq!(accepted(&rates, "10.0.0.1", "full"), 5);
    for _ in 0..100 {
        let refused = publish(&rates, "10.0.0.2", ["a", "full", "b"]);
        assert_eq!(refusal(refused), (Rate::PublishesPerTopic, 0, 2 * TENTH));
        let used = rates.publish(Some(ip("10.0.0.2")), None, None, ["a", "b"].into_iter()).expect("they are free");
        let Err(RateError::Reached { topic, .. }) = rates.publish_to(used, ["a", "b", "full"].into_iter()) else {
            panic!("it is full");
        };
        assert_eq!(topic.as_deref(), Some("full"));
    }
    assert_eq!(["a", "b", "c", "d"].map(|topic| accepted(&rates, "10.0.0.2", topic)), [5; 4]);
    assert_eq!(accepted(&rates, "10.0.0.2", "e"), 0, "the control: now it has used all");
}

#[test]
fn a_client_past_its_own_rate_uses_nothing_of_a_topic() {
    // Goal: a client that is refused cannot keep others from publishing to a topic.
    let (rates, _) = rates(|limits| {
        limits.publishes_per_second_per_ip = 1;
        limits.publishes_per_second_per_topic = 5;
    });
    for _ in 0..100 {
        publish(&rates, "10.0.0.1", ["a"]).ok();
    }
    let others = ["10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6"].map(|from| accepted(&rates, from, "a"));
    assert_eq!(others, [1, 1, 1, 1, 0]);
}

#[test]
fn an_identity_is_a_key_with_its_subject() {
    let (rates, _) = rates(|limits| limits.publishes_per_second_per_key = 2);
    let identity = |key: &str, subject: Option<&str>| Identity { key: key.into(), subject: subject.map(Into::into) };
    let accepted = |from: &str, identity: Option<&Identity>| {
        let publish = || rates.publish(Some(ip(from)), identity, None, ["a"].into_iter());
        (0..10).take_while(|_| publish().is_ok()).count()
    };
    let [service, ann, bob] = [None, Some("ann"), Some("bob")].map(|subject| identity("k1", subject));
    assert_eq!([&service, &ann, &bob].map(|who| accepted("10.0.0.1", Some(who))), [2; 3]);
    assert_eq!(accepted("10.0.0.2", Some(&ann)), 0, "from wherever it comes");
    assert_eq!(accepted("10.0.0.1", Some(&identity("k2", Some("ann")))), 2, "another key");
    assert_eq!(accepted("10.0.0.1", None), 10, "nobody");
    let refused = rates.publish(None, Some(&bob), None, ["a"].into_iter()).map(drop);
    assert_eq!(refusal(refused), (Rate::PublishesPerKey, 0, 5 * TENTH));
}

#[test]
fn a_token_has_a_rate_of_its_own() {
    // Goal: at the token's limit a publish is accepted, one past it is refused; its identity shares the second among
    // its tokens; other identities, and tokens without a limit, are not affected; the lower one of two limits counts.
    let (rates, clock) = rates(|limits| limits.publishes_per_second_per_key = 20);
    let identity = |subject: &str| Identity { key: "k".into(), subject: Some(subject.into()) };
    let publish = |subject, own, topics: &[&'static str]| {
        let (identity, own) = (identity(subject), NonZeroU32::new(own));
        rates.publish(None, Some(&identity), own, topics.iter().copied()).map(drop)
    };
    let accepted = |subject, own| (0..100).take_while(|_| publish(subject, own, &["a"]).is_ok()).count();
    assert_eq!([accepted("ann", 10), accepted("bob", 10), accepted("cleo", 3)], [10, 10, 3]);
    assert_eq!(refusal(publish("ann", 10, &["a"])), (Rate::PublishesOfCredential, 0, TENTH));
    assert_eq!(refusal(publish("ann", 5, &["a"])).2, 2 * TENTH, "another token of the same identity");
    assert_eq!(accepted("ann", 0), 10, "a token without a limit has what is left of the key's rate");
    clock.advance(5 * TENTH);
    assert_eq!(refusal(publish("ann", 10, &["1", "2", "3", "4", "5", "6"])), (Rate::PublishesOfCredential, 5, TENTH));
    assert_eq!(accepted("ann", 10), 5, "a refused one has used nothing");
    let too_many = RateError::TooManyTopics { rate: Rate::PublishesOfCredential, per_second: 2, topics: 3 };
    assert_eq!(publish("dan", 2, &["a", "b", "c"]), Err(too_many));
    assert_eq!(accepted("dan", 30), 20, "the key's rate is lower");
    assert_eq!(rates.publishes_of_credential.len(), 4);
    clock.advance(Duration::from_secs(2));
    rates.forget_unused();
    assert_eq!(rates.publishes_of_credential.len(), 0);
}

#[test]
fn only_authentications_that_fail_use_the_rate() {
    // Goal: at the limit an authentication may be tried, one past it not; one that succeeds has used nothing; each
    // network has a rate of its own.
    let (rates, clock) = rates(|limits| limits.failed_authentications_per_second_per_ip = 10);
    let fails = |from: &str| (0..100).take_while(|_| rates.authenticate(Some(ip(from))).is_ok()).count();
    for _ in 0..100 {
        let attempt = rates.authenticate(Some(ip("10.0.0.1"))).expect("none has failed");
        rates.succeed(attempt);
    }
    assert_eq!(fails("10.0.0.1"), 10);
    assert_eq!(
        refusal(rates.authenticate(Some(ip("10.0.0.1"))).map(drop)),
        (Rate::FailedAuthenticationsPerIp, 0, TENTH)
    );
    assert_eq!([fails("2001:db8::1"), fails("2001:db8::2"), fails("2001:db8:0:1::1")], [10, 0, 10]);
    clock.advance(3 * TENTH);
    assert_eq!(fails("10.0.0.1"), 3);
    clock.advance(Duration::from_secs(2));
    rates.forget_unused();
    assert!(rates.limiters().into_iter().flatten().all(|limiter| limiter.gcra.is_empty()));
}

#[test]
fn zero_is_without_limit() {
    let (rates, _) = rates(|limits| limits.failed_authentications_per_second_per_ip = 0);
    assert_eq!(accepted(&rates, "10.0.0.1", "a"), 1000);
    assert!((0..1000).all(|_| rates.subscribe(Some(ip("10.0.0.1"))).is_ok()));
    assert!((0..2000).all(|_| rates.authenticate(Some(ip("10.0.0.1"))).is_ok()));
    assert!(rates.limiters().iter().all(Option::is_none), "nothing is remembered");
}

#[test]
fn a_million_keys_are_not_all_remembered() {
    // Goal: a client that makes up topics or addresses cannot make the server remember them all, or forget what has
    // reached its limit, or have others refused.
    let (rates, clock) = rates(|limits| limits.publishes_per_second_per_topic = 5);
    let limiter = rates.publishes_per_topic.as_ref().expect("it is limited");
    assert_eq!(accepted(&rates, "10.0.0.1", "full"), 5);
    let mut most = 0;
    for key in 0..1_000_000 {
        assert_eq!(limiter.take(key, 1), Ok(()));
        if key % 1000 == 0 {
            most = most.max(limiter.gcra.len());
        }
    }
    assert!(most <= KEYS_MAX && most > KEYS_MAX / 2, "{most} keys");
    assert!(limiter.keys.capacity() <= 2 * KEYS_MAX, "{}", limiter.keys.capacity());
    assert_eq!(accepted(&rates, "10.0.0.1", "full"), 0, "it is not forgotten");
    assert_eq!(accepted(&rates, "10.0.0.2", "another"), 5);
    // A second later nothing is left to remember, and the memory is free.
    clock.advance(Duration::from_secs(2));
    rates.forget_unused();
    assert_eq!((limiter.gcra.len(), limiter.keys.capacity()), (0, 0));
    // The control: a store that comes with the library remembers them all.
    let quota = Quota::per_second(NonZeroU32::MIN);
    let unlimited = RateLimiter::<u64, HashMapStateStore<u64>, MonotonicClock>::hashmap(quota);
    assert!((0..500_000).all(|key| unlimited.check_key(&key).is_ok()));
    assert_eq!(unlimited.len(), 500_000);
}

#[test]
fn what_is_in_use_is_not_forgotten() {
    // Goal: the regular removal takes only keys whose rate is free again, so that it gives nobody more.
    let (rates, clock) = rates(|limits| limits.publishes_per_second_per_ip = 10);
    let limiter = rates.publishes_per_ip.as_ref().expect("it is limited");
    assert_eq!(accepted(&rates, "10.0.0.1", "a"), 10);
    assert_eq!(publish(&rates, "10.0.0.2", ["a"]), Ok(()));
    for (tenths, keys, more) in [(0, 2, 0), (1, 2, 1), (2, 1, 2), (5, 1, 5), (20, 0, 10)] {
        clock.advance(tenths * TENTH);
        rates.forget_unused();
        assert_eq!(limiter.gcra.len(), keys, "{tenths}");
        assert_eq!(accepted(&rates, "10.0.0.1", "a"), more, "{tenths}");
    }
}
