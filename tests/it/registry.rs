//! The registry of topics and their actors, without a server.

use std::{net::IpAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use tidings::{
    config::{Config, LimitsConfig, LogConfig},
    event::{EventId, TopicName},
    limits::{LimitReached, Quota},
    log::{Draft, KeyLimits, Log, memory::MemoryLog},
    registry::{Registry, RegistryError, TooManyTopics},
    topic::{Deletion, JoinError, Joined, Subscriber, TopicLimits},
};
use tokio::task::LocalSet;

use crate::harness::until;

mod death;

const HOUR: Duration = Duration::from_hours(1);

fn memory() -> MemoryLog {
    MemoryLog::new(LogConfig::default(), KeyLimits::from(&Config::default()))
}

fn name(name: &str) -> TopicName {
    TopicName::parse(name, 255).expect("a valid name")
}

fn draft(topic: &TopicName) -> Draft {
    // The registry fills in the right number.
    Draft { topic: topic.clone(), name: None, content: Bytes::from_static(b"x"), subscribers: 7, key: None }
}

/// A subscriber of one topic.
fn subscriber(cursor: Option<EventId>) -> Subscriber {
    Subscriber { remote: None, cursor, single_topic: true }
}

/// A registry with its log, for at most two topics with at most two subscribers.
struct World {
    log: Arc<MemoryLog>,
    registry: Registry,
}

impl World {
    fn new(deletion_kept_for: Duration) -> Self {
        let log = Arc::new(memory());
        let limits = TopicLimits { subscribers_max: 2, deletion_kept_for };
        let started = Quota::topics(&LimitsConfig { topics_per_ip_max: 1, ..LimitsConfig::default() });
        let registry = Registry::new(Arc::<MemoryLog>::clone(&log), 2, started, limits);
        Self { log, registry }
    }

    async fn join(&self, topic: &TopicName) -> Result<Joined, RegistryError> {
        self.registry.join(topic, subscriber(None)).await
    }

    async fn resume(&self, topic: &TopicName, cursor: EventId) -> Result<Joined, RegistryError> {
        self.registry.join(topic, subscriber(Some(cursor))).await
    }

    /// Publishes, and returns the id and the number of subscribers.
    async fn publish(&self, topic: &TopicName) -> (EventId, usize) {
        let receipt = self.registry.publish(draft(topic)).await.expect("it is taken");
        (receipt.id, receipt.subscribers)
    }

    /// Retires idle topics until so many are left.
    async fn until_topics(&self, count: usize) {
        let retire = async || {
            self.registry.retire_idle();
            self.registry.count() == count
        };
        until(&format!("{count} topics"), retire).await;
    }

    fn subscribers(&self, topic: &TopicName) -> Option<usize> {
        self.registry.find(topic.as_str()).map(|topic| topic.subscribers())
    }
}

#[tokio::test]
async fn a_topic_lives_while_it_has_subscribers() {
    let world = World::new(Duration::ZERO);
    let (a, b) = (name("a"), name("b"));
    LocalSet::new()
        .run_until(async {
            assert_eq!((world.subscribers(&a), world.publish(&a).await.1), (None, 0), "a publish starts no topic");
            let first = world.join(&a).await.expect("there is room");
            let second = world.join(&a).await.expect("there is room");
            assert_eq!(first.deletion, None);
            assert_eq!(first.membership.topic(), &a);
            let other = world.join(&b).await.expect("there is room");
            assert_eq!((world.subscribers(&a), world.subscribers(&b)), (Some(2), Some(1)));
            assert_eq!((world.publish(&a).await.1, world.publish(&b).await.1), (2, 1));
            drop(first);
            until("one subscriber has left", async || world.subscribers(&a) == Some(1)).await;
            drop(other);
            until("the other topic has no subscriber", async || world.subscribers(&b) == Some(0)).await;
            world.until_topics(1).await;
            assert_eq!((world.subscribers(&a), world.subscribers(&b)), (Some(1), None));
            drop(second);
        })
        .await;
}

#[tokio::test]
async fn a_topic_takes_subscribers_up_to_its_limit() {
    let world = World::new(Duration::ZERO);
    let a = name("a");
    LocalSet::new()
        .run_until(async {
            let first = world.join(&a).await.expect("there is room");
            let _second = world.join(&a).await.expect("there is room");
            assert_eq!(world.join(&a).await.err(), Some(RegistryError::Topic(JoinError::Full)));
            assert_eq!(world.subscribers(&a), Some(2));
            drop(first);
            until("one has left", async || world.subscribers(&a) == Some(1)).await;
            world.join(&a).await.expect("there is room again");
        })
        .await;
}

#[tokio::test]
async fn topics_are_started_up_to_their_limit() {
    let world = World::new(Duration::ZERO);
    let [a, b, c] = ["a", "b", "c"].map(name);
    LocalSet::new()
        .run_until(async {
            let held = [world.registry.open(&a, None), world.registry.open(&b, None)]
                .map(|topic| topic.expect("there is room"));
            assert_eq!(held[0].name(), &a);
            assert_eq!(world.registry.count(), 2);
            let refused = RegistryError::from(TooManyTopics { topics_max: 2 });
            assert_eq!(world.registry.open(&c, None).err(), Some(refused));
            assert_eq!(world.join(&c).await.err(), Some(refused));
            assert!(Arc::ptr_eq(&held[0], &world.registry.open(&a, None).expect("it is live")), "one topic of a name");
            let [a, b] = held;
            drop(b);
            world.until_topics(1).await;
            assert!(world.registry.find("a").is_some(), "somebody holds a handle of it");
            drop(a);
            world.until_topics(0).await;
            world.registry.open(&c, None).expect("there is room again");
            assert_eq!(world.registry.count(), 1);
        })
        .await;
}

#[tokio::test]
async fn one_address_starts_topics_up_to_its_limit() {
    // Goal: an address that has started as many topics as it may starts no more; others do, and it may join theirs. What
    // counts is who has started a topic, for as long as it lives.
    let world = World::new(HOUR);
    let [a, b] = ["a", "b"].map(name);
    let [one, other] =
        [1, 2].map(|last| Subscriber { remote: Some(IpAddr::from([10, 0, 0, last])), ..subscriber(None) });
    LocalSet::new()
        .run_until(async {
            let started = world.registry.join(&a, one).await.expect("its first");
            let refused = RegistryError::from(LimitReached::TopicsPerIp(1));
            assert_eq!(world.registry.join(&b, one).await.err(), Some(refused));
            assert_eq!(world.registry.count(), 1, "a refused one starts no topic");
            let others = world.registry.join(&b, other).await.expect("the first of another address");
            let joined = world.registry.join(&b, one).await.expect("it is live already");
            world.registry.join(&a, one).await.expect("its own");
            drop(started);
            world.until_topics(1).await;
            drop((joined, others));
            world.until_topics(0).await;
            let started = world.registry.join(&b, one).await.expect("its first is retired");
            // A deletion starts no topic for an address at its limit, and is done all the same.
            let before = world.publish(&a).await.0;
            world.registry.delete(&a, one.remote).await.expect("it is deleted");
            assert!(world.registry.find("a").is_none());
            let resumed = Subscriber { cursor: Some(before), ..other };
            assert_eq!(world.registry.join(&a, resumed).await.err(), Some(RegistryError::Topic(JoinError::Deleted)));
            drop(started);
        })
        .await;
}

#[tokio::test]
async fn a_deletion_is_told_to_those_who_come_back_from_before_it() {
    let world = World::new(HOUR);
    let [a, b] = ["a", "b"].map(name);
    LocalSet::new()
        .run_until(async {
            let before = world.publish(&a).await.0;
            world.registry.delete(&a, None).await.expect("it is deleted");
            let at = world.log.deletion(&a).expect("it is remembered").0;
            assert_eq!(world.resume(&a, before).await.err(), Some(RegistryError::Topic(JoinError::Deleted)));
            assert_eq!(world.resume(&a, at).await.expect("it has seen the deletion").deletion, None);
            assert_eq!(world.join(&a).await.expect("it has no cursor").deletion, None);
            let foreign = EventId { epoch: tidings::event::Epoch::random(), ..before };
            assert_eq!(world.resume(&a, foreign).await.expect("another history").deletion, None);
            let several = Subscriber { single_topic: false, ..subscriber(Some(before)) };
            let joined = world.registry.join(&a, several).await.expect("it has other topics");
            assert_eq!(joined.deletion, Some(Deletion::At(at.seq)));
            drop(joined);
            assert_eq!(world.resume(&b, before).await.expect("another topic").deletion, None);
            world.until_topics(1).await;
            assert!(world.registry.find("a").is_some(), "the topic remembers its deletion");
        })
        .await;
}

#[tokio::test]
async fn a_deletion_without_the_actor_is_told_too() {
    // Goal: when no topic may be started, the log alone deletes; a topic that is started later asks the log.
    let world = World::new(HOUR);
    let [a, b, c] = ["a", "b", "c"].map(name);
    LocalSet::new()
        .run_until(async {
            let before = world.publish(&c).await.0;
            let held = [world.registry.open(&a, None), world.registry.open(&b, None)]
                .map(|topic| topic.expect("there is room"));
            world.registry.delete(&c, None).await.expect("it is deleted");
            assert!(world.registry.find("c").is_none());
            drop(held);
            world.until_topics(0).await;
            assert_eq!(world.resume(&c, before).await.err(), Some(RegistryError::Topic(JoinError::Deleted)));
            drop(world.registry.open(&a, None).expect("there is room"));
            world.until_topics(1).await;
            assert!(world.registry.find("c").is_some(), "it is kept for as long as it remembers");
            // A live topic is told of a deletion that its actor did not make.
            let after = world.publish(&b).await.0;
            let topic = world.registry.open(&b, None).expect("there is room");
            topic.was_deleted(world.log.delete(&b).await.expect("it is deleted"));
            assert_eq!(world.resume(&b, after).await.err(), Some(RegistryError::Topic(JoinError::Deleted)));
        })
        .await;
}

#[tokio::test]
async fn no_deletion_is_told_when_stream_gone_is_zero() {
    let world = World::new(Duration::ZERO);
    let a = name("a");
    LocalSet::new()
        .run_until(async {
            let before = world.publish(&a).await.0;
            world.registry.delete(&a, None).await.expect("it is deleted");
            assert_eq!(world.resume(&a, before).await.expect("it is admitted").deletion, None);
        })
        .await;
}
