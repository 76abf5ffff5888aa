//! A topic whose actor dies.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tidings::{
    config::{Config, LogConfig},
    event::{Epoch, TopicName},
    log::{
        Append, AppendError, Draft, Durability, Feed, Held, KeyLimits, Log, Page, Placement, Start, memory::MemoryLog,
    },
    registry::{Registry, RegistryError},
    topic::{DeleteError, Subscriber, TopicLimits},
};
use tokio::task::LocalSet;

/// A log in memory that panics once when it is armed and asked to forget a topic.
struct Fragile {
    log: MemoryLog,
    armed: AtomicBool,
}

impl Log for Fragile {
    fn forget(&self, topic: &TopicName) -> BoxFuture<'static, Result<u64, AppendError>> {
        assert!(!self.armed.swap(false, Ordering::Relaxed), "as the test wants it");
        self.log.forget(topic)
    }

    fn append(&self, draft: Draft) -> Append {
        self.log.append(draft)
    }

    fn epoch(&self) -> Epoch {
        self.log.epoch()
    }

    fn durability(&self) -> Durability {
        self.log.durability()
    }

    fn watermark(&self) -> u64 {
        self.log.watermark()
    }

    fn read(&self, topics: &[TopicName], after: u64, told_to: u64, bytes_max: usize) -> Page {
        self.log.read(topics, after, told_to, bytes_max)
    }

    fn place(&self, topics: &[TopicName], start: &Start, deleted: &[TopicName]) -> Placement {
        self.log.place(topics, start, deleted)
    }

    fn held(&self, topic: &TopicName) -> Option<Held> {
        self.log.held(topic)
    }

    fn deletion(&self, topic: &TopicName) -> Option<(u64, Duration)> {
        self.log.deletion(topic)
    }

    fn feed(&self) -> Arc<Feed> {
        self.log.feed()
    }

    fn keys(&self) -> usize {
        self.log.keys()
    }

    fn tend(&self) {
        self.log.tend();
    }
}

#[tokio::test]
async fn a_topic_that_has_died_is_started_anew() {
    // Goal: whoever it died under is told that the outcome is unknown; for all others it is as if nothing had been, and a
    // topic that is dead does not stay.
    let log = MemoryLog::new(LogConfig::default(), KeyLimits::from(&Config::default()));
    let log = Arc::new(Fragile { log, armed: AtomicBool::new(false) });
    let limits = TopicLimits { subscribers_max: 1, gone: Duration::ZERO };
    let registry = Registry::new(Arc::<Fragile>::clone(&log), 1, limits);
    let topic = TopicName::parse("a", 255).expect("a valid name");
    let publish = async || {
        let content = Bytes::from_static(b"x");
        let draft = Draft { topic: topic.clone(), name: None, content, subscribers: 0, key: None };
        registry.publish(draft).await.expect("it is taken").subscribers
    };
    let join = async || registry.join(&topic, Subscriber { remote: None, cursor: None, single_topic: true }).await;
    let kill = async || {
        log.armed.store(true, Ordering::Relaxed);
        assert_eq!(registry.delete(&topic).await, Err(RegistryError::Topic(DeleteError::Unknown)));
        assert!(registry.find("a").is_some_and(|topic| !topic.is_alive()), "it is known to be dead");
    };
    LocalSet::new()
        .run_until(async {
            let first = join().await.expect("there is room");
            assert_eq!(publish().await, 1);
            kill().await;
            assert_eq!(publish().await, 0, "its list has gone");
            let second = join().await.expect("there is room in the new one");
            drop(first);
            assert_eq!(publish().await, 1, "it has its own list");
            registry.retire_idle();
            assert_eq!(registry.len(), 1, "the control");
            kill().await;
            registry.retire_idle();
            assert_eq!(registry.len(), 0, "though somebody has a place in it");
            drop(second);
            registry.delete(&topic).await.expect("it is deleted");
        })
        .await;
}
