//! A topic whose actor dies.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use bytes::Bytes;
use tidings::{
    event::TopicName,
    log::{Draft, Log as _, memory::MemoryLog},
    registry::{Registry, RegistryError},
    topic::{PublishError, TopicLimits},
};

use super::altered::Altered;

#[tokio::test]
async fn a_topic_that_has_died_is_started_anew() {
    // Goal: whoever it died under is told that the outcome is unknown; for all others, with a key and without, it is as if
    // nothing had been.
    let armed = AtomicBool::new(true);
    let panic_once = move |log: &MemoryLog, draft: Draft| {
        assert!(draft.key.is_none() || !armed.swap(false, Ordering::Relaxed), "as the test wants it");
        log.append(draft)
    };
    let log = Altered::new(panic_once, Vec::new());
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
