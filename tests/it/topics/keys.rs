//! Which idempotency keys a registry of topics remembers.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use futures_util::future::{Either, FutureExt as _};
use tidings::{
    event::{Epoch, EventId, TopicName},
    log::{AppendError, Draft, KeptReceipt, Log as _, Receipt, memory::MemoryLog},
    registry::{Registry, RegistryError},
    topic::{PublishError, TopicLimits},
};
use tokio::{
    sync::watch,
    task::{LocalSet, spawn_local},
};

use super::altered::Altered;
use crate::harness::until;

const KEYS_MAX: usize = 5;

fn limits() -> TopicLimits {
    TopicLimits {
        subscribers_max: 1,
        idempotency_window: Duration::from_mins(5),
        idempotency_keys_max: KEYS_MAX,
        idempotency_keys_of_all_max: KEYS_MAX,
        gone: Duration::ZERO,
    }
}

fn topic(name: &str) -> TopicName {
    TopicName::parse(name, 255).expect("a valid name")
}

fn draft(name: &str) -> Draft {
    Draft { topic: topic(name), name: None, content: Bytes::from_static(b"content"), key: None }
}

/// Appends what is published to the topic `kept`, and refuses all else as a full disk does, when `open` is true.
fn registry(open: watch::Receiver<bool>) -> Registry {
    let append = move |log: &MemoryLog, draft: Draft| {
        if draft.topic.as_str() == "kept" {
            return log.append(draft);
        }
        let mut open = open.clone();
        let refused = async move {
            open.wait_for(|open| *open).await.expect("the test goes on");
            Err(AppendError::DiskFull)
        };
        Either::Right(refused.boxed())
    };
    Registry::new(Altered::new(append, Vec::new()), 9, limits())
}

#[tokio::test]
async fn a_publish_that_was_refused_costs_no_other_key() {
    // Goal: however many publishes to one topic are refused, the key that was answered in another one is remembered.
    let registry = registry(watch::channel(true).1);
    let local = LocalSet::new();
    let replayed = async |topic: &str| registry.publish_once(draft(topic), "key".into()).await.map(|it| it.replayed);
    local
        .run_until(async {
            assert_eq!(replayed("kept").await, Ok(false));
            for n in 0..3 * KEYS_MAX {
                let outcome = registry.publish_once(draft("refused"), n.to_string().into()).await;
                assert_eq!(outcome, Err(RegistryError::Topic(PublishError::Log(AppendError::DiskFull))));
                until("the key to be forgotten", async || registry.keys().len() == 1).await;
            }
            assert_eq!(replayed("kept").await, Ok(true));
        })
        .await;
}

#[tokio::test]
async fn a_refused_key_is_forgotten_though_its_publisher_has_gone() {
    // Goal: nobody waits for the outcome, and nobody uses the topic again.
    let (open, is_open) = watch::channel(false);
    let registry = registry(is_open);
    let local = LocalSet::new();
    local
        .run_until(async {
            let registry = std::rc::Rc::new(registry);
            registry.publish_once(draft("kept"), "key".into()).await.expect("it is taken");
            let publishers: Vec<_> = (1..KEYS_MAX)
                .map(|n| {
                    let registry = std::rc::Rc::clone(&registry);
                    spawn_local(async move { registry.publish_once(draft("refused"), n.to_string().into()).await })
                })
                .collect();
            until("all to be taken", async || registry.keys().len() == KEYS_MAX).await;
            for publisher in publishers {
                publisher.abort();
                assert!(publisher.await.is_err_and(|error| error.is_cancelled()));
            }
            open.send(true).expect("they wait");
            until("their keys to be forgotten", async || registry.keys().len() == 1).await;
            let again = registry.publish_once(draft("kept"), "key".into()).await.expect("it is known");
            assert!(again.replayed);
        })
        .await;
}

#[tokio::test]
async fn a_deletion_forgets_the_keys_of_a_topic_that_may_not_start() {
    // Goal: where no topic may be started for the deletion, the keys from before the process go all the same, and take
    // no room from others. The control is another topic's key.
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a time").as_millis();
    let kept = |name: &str| {
        let receipt = Receipt { id: EventId { epoch: Epoch::random(), seq: 1 } };
        let time_ms = u64::try_from(now).expect("a number");
        (topic(name), KeptReceipt { key: "key".into(), receipt, fingerprint: None, subscribers: 0, time_ms })
    };
    let log = Altered::new(|log: &MemoryLog, draft: Draft| log.append(draft), vec![kept("a"), kept("b")]);
    let registry = Registry::new(log, 1, limits());
    let local = LocalSet::new();
    local
        .run_until(async {
            let _only = registry.open(&topic("only")).expect("there is room for one");
            assert!(registry.open(&topic("a")).is_err());
            assert_eq!(registry.keys().len(), 2);
            registry.delete(&topic("a")).await.expect("it is deleted");
            assert_eq!(registry.keys().len(), 1);
            registry.delete(&topic("b")).await.expect("it is deleted");
            assert_eq!(registry.keys().len(), 0);
        })
        .await;
}
