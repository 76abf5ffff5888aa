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
    config::LogConfig,
    event::{Epoch, TopicName},
    log::{Append, AppendError, Draft, Durability, Feed, Held, Log, Page, Placement, Start, memory::MemoryLog},
    registry::{Registry, RegistryError},
    topic::{PublishError, TopicLimits},
};

/// A log in memory that panics once, over an event with a key.
struct Deadly {
    log: MemoryLog,
    armed: AtomicBool,
}

impl Log for Deadly {
    fn append(&self, draft: Draft) -> Append {
        assert!(draft.key.is_none() || !self.armed.swap(false, Ordering::Relaxed), "as the test wants it");
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

    fn forget(&self, topic: &TopicName) -> BoxFuture<'static, Result<u64, AppendError>> {
        self.log.forget(topic)
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

    fn tend(&self) {
        self.log.tend();
    }
}

#[tokio::test]
async fn a_topic_that_has_died_is_started_anew() {
    // Goal: whoever it died under is told that the outcome is unknown; for all others, with a key and without, it is as if
    // nothing had been.
    let log = Arc::new(Deadly { log: MemoryLog::new(LogConfig::default()), armed: AtomicBool::new(true) });
    let limits = TopicLimits {
        subscribers_max: 1,
        idempotency_window: Duration::from_mins(1),
        idempotency_keys_max: 9,
        idempotency_keys_of_all_max: 9,
        gone: Duration::ZERO,
    };
    let registry = Registry::new(log, 1, limits);
    let topic = TopicName::parse("a", 255).expect("a valid name");
    let draft = || Draft { topic: topic.clone(), name: None, content: Bytes::from_static(b"x"), key: None };
    let local = tokio::task::LocalSet::new();
    let lives = || registry.find("a").is_some_and(|topic| topic.is_alive());
    local
        .run_until(async {
            let died = registry.publish_once(draft(), "key".into()).await;
            assert_eq!(died, Err(RegistryError::Topic(PublishError::Unknown)));
            assert!(registry.find("a").is_some() && !lives(), "it is known to be dead");

            assert_eq!(registry.publish(draft()).await.map(|published| published.id.seq), Ok(1));
            assert!(lives(), "and it has been replaced");
            let again = registry.publish_once(draft(), "key".into()).await.expect("it is taken");
            assert_eq!((again.id.seq, again.replayed), (2, false));
            let retried = registry.publish_once(draft(), "key".into()).await.expect("it is known");
            assert_eq!((retried.id.seq, retried.replayed), (2, true));
        })
        .await;
}
