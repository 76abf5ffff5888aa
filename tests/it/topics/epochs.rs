//! A history that ends while its topics live.

use std::{sync::Arc, time::Duration};

use tidings::{
    config::{LimitsConfig, LogConfig},
    event::{EventId, TopicName},
    limits::Quota,
    log::Log as _,
    registry::{Registry, RegistryError},
    topic::{JoinError, Subscriber, TopicLimits},
};
use tokio::task::LocalSet;

use crate::harness::remote::Remote;

#[tokio::test]
async fn a_deletion_of_the_history_before_turns_nobody_away() {
    // Goal: it stood at a position after the cursor, but of another history; one of the same history does.
    let limits = TopicLimits { subscribers_max: 9, deletion_kept_for: Duration::from_mins(1) };
    let log = Arc::new(Remote::new(LogConfig::default()));
    let registry = Registry::new(Arc::<Remote>::clone(&log), 9, Quota::topics(&LimitsConfig::default()), limits);
    let topic = TopicName::parse("a", 255).expect("a valid name");
    let join = async || {
        let cursor = Some(EventId { epoch: log.epoch(), seq: 0 });
        registry
            .join(&topic, Subscriber { remote: None, cursor, single_topic: true })
            .await
            .map(|joined| joined.deletion)
    };
    let history = async {
        assert_eq!(join().await, Ok(None));
        registry.delete(&topic, None).await.expect("it is deleted");
        assert_eq!(join().await, Err(RegistryError::Topic(JoinError::Deleted)));
        log.end_epoch(Vec::new());
        assert_eq!(join().await, Ok(None));
    };
    LocalSet::new().run_until(history).await;
}
