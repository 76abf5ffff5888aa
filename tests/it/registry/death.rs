//! A topic whose actor dies.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tidings::{
    config::LimitsConfig,
    event::{Epoch, EventId, TopicName},
    later::Later,
    limits::Quota,
    log::{
        Append, AppendError, Draft, Durability, Feed, Held, Log, LogStats, ReadError, ReadFrom, Reading, Resolved,
        Start, memory::MemoryLog,
    },
    registry::Registry,
    topic::{DeleteError, TopicLimits},
};
use tokio::task::LocalSet;

use super::{draft, memory, name, subscriber};

/// A log in memory that panics once when it is armed and asked to delete a topic.
struct Fragile {
    log: MemoryLog,
    armed: AtomicBool,
}

impl Log for Fragile {
    fn delete(&self, topic: &TopicName) -> Later<Result<EventId, AppendError>> {
        assert!(!self.armed.swap(false, Ordering::Relaxed), "as the test wants it");
        self.log.delete(topic)
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

    fn read(&self, topics: &[TopicName], from: ReadFrom, bytes_max: usize) -> Reading {
        self.log.read(topics, from, bytes_max)
    }

    fn resolve_start(&self, topics: &[TopicName], start: &Start, deleted: &[TopicName]) -> Resolved {
        self.log.resolve_start(topics, start, deleted)
    }

    fn held(&self, topic: &TopicName) -> Later<Result<Option<Held>, ReadError>> {
        self.log.held(topic)
    }

    fn deletion(&self, topic: &TopicName) -> Option<(EventId, Duration)> {
        self.log.deletion(topic)
    }

    fn feed(&self) -> Arc<Feed> {
        self.log.feed()
    }

    fn stats(&self) -> LogStats {
        self.log.stats()
    }

    fn keys(&self) -> usize {
        self.log.keys()
    }

    fn enforce_retention(&self) {
        self.log.enforce_retention();
    }
}

#[tokio::test]
async fn a_topic_that_has_died_is_started_anew() {
    // Goal: a request during which the actor dies is told that its outcome is unknown. Others do not notice it, and a
    // topic whose actor is dead is retired.
    let log = Arc::new(Fragile { log: memory(), armed: AtomicBool::new(false) });
    let limits = TopicLimits { subscribers_max: 1, deletion_kept_for: Duration::ZERO };
    let registry = Registry::new(Arc::<Fragile>::clone(&log), 1, Quota::topics(&LimitsConfig::default()), limits);
    let topic = name("a");
    let publish = async || registry.publish(draft(&topic)).await.expect("it is taken").subscribers;
    let join = async || registry.join(&topic, subscriber(None)).await;
    let kill = async || {
        log.armed.store(true, Ordering::Relaxed);
        assert_eq!(registry.delete(&topic, None).await, Err(DeleteError::ActorDied));
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
            assert_eq!(registry.count(), 1, "the control");
            kill().await;
            registry.retire_idle();
            assert_eq!(registry.count(), 0, "though somebody has a place in it");
            drop(second);
            registry.delete(&topic, None).await.expect("it is deleted");
        })
        .await;
}
