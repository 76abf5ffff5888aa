//! Name to live topic: started when it is needed, found by everyone, retired when nobody would miss it.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use dashmap::{DashMap, Entry};

use crate::{
    event::TopicName,
    log::{Draft, Log},
    topic::{JoinError, Membership, PublishError, Published, Subscriber, TopicHandle, TopicLimits},
};

/// All live topics.
pub struct Registry {
    topics: DashMap<TopicName, Arc<TopicHandle>>,
    /// How many; the map would have to visit every shard to tell.
    count: AtomicUsize,
    log: Arc<dyn Log>,
    topics_max: usize,
    limits: TopicLimits,
}

/// There are `limits.topics_max` live topics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there are as many live topics as there may be ({topics_max})")]
pub struct TooManyTopics {
    /// The limit.
    pub topics_max: usize,
}

/// Why a topic could not be reached or refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RegistryError<E> {
    /// No room for another topic.
    #[error(transparent)]
    TooManyTopics(#[from] TooManyTopics),
    /// The topic's own answer.
    #[error(transparent)]
    Topic(E),
}

/// How often a call moves on to a new actor before it gives up: each try means that an actor has died under it.
const TRIES: usize = 3;

impl Registry {
    /// No topics yet.
    #[must_use]
    pub fn new(log: Arc<dyn Log>, topics_max: usize, limits: TopicLimits) -> Self {
        Self { topics: DashMap::new(), count: AtomicUsize::new(0), log, topics_max, limits }
    }

    /// The live topic of this name, if there is one.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<Arc<TopicHandle>> {
        self.topics.get(name).map(|topic| Arc::clone(&topic))
    }

    /// Live topics now.
    #[must_use]
    pub fn len(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The topic of this name, started if need be on this thread, which must be one of the server's workers.
    ///
    /// # Errors
    /// When there is no room for another one.
    pub fn open(&self, name: &TopicName) -> Result<Arc<TopicHandle>, TooManyTopics> {
        if let Some(topic) = self.topics.get(name)
            && topic.is_alive()
        {
            return Ok(Arc::clone(&topic));
        }
        let start = || Arc::new(TopicHandle::start(name.clone(), Arc::clone(&self.log), self.limits.clone()));
        match self.topics.entry(name.clone()) {
            Entry::Occupied(mut entry) => {
                if !entry.get().is_alive() {
                    tracing::error!(topic = %name, "a topic died and is started anew");
                    entry.insert(start());
                }
                Ok(Arc::clone(entry.get()))
            }
            Entry::Vacant(entry) => {
                let taken = self.count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| {
                    (count < self.topics_max).then_some(count + 1)
                });
                taken.map_err(|_| TooManyTopics { topics_max: self.topics_max })?;
                Ok(Arc::clone(&entry.insert(start())))
            }
        }
    }

    /// Publishes to the topic that `draft` names.
    ///
    /// # Errors
    /// As the topic says. An actor that has died before it began is replaced, not reported.
    pub async fn publish(&self, draft: Draft, key: Option<Arc<str>>) -> Result<Published, RegistryError<PublishError>> {
        let Some(key) = key else {
            let live = match self.find(draft.topic.as_str()) {
                Some(topic) if !topic.is_alive() => Some(self.open(&draft.topic)?),
                live => live,
            };
            let published = match live {
                Some(topic) => topic.publish(draft).await,
                // Nobody subscribes, and there is nothing to remember but the event: no actor is needed for that, and to
                // start one and retire it again would cost twice what the publish does.
                None => self.log.append(draft).await.map(|receipt| Published::new(receipt, 0)),
            };
            return published.map_err(|error| RegistryError::Topic(error.into()));
        };
        let mut result = Err(PublishError::NotStarted);
        for _ in 0..TRIES {
            result = self.open(&draft.topic)?.publish_once(draft.clone(), Arc::clone(&key)).await;
            if result != Err(PublishError::NotStarted) {
                break;
            }
        }
        result.map_err(RegistryError::Topic)
    }

    /// Adds a subscriber to the topic of this name.
    ///
    /// # Errors
    /// As the topic says. An actor that has died is replaced, not reported.
    pub async fn join(&self, name: &TopicName, subscriber: Subscriber) -> Result<Membership, RegistryError<JoinError>> {
        let mut error = JoinError::NotStarted;
        for _ in 0..TRIES {
            match self.open(name)?.join(subscriber).await {
                Ok(membership) => return Ok(membership),
                Err(JoinError::NotStarted) => {}
                Err(other) => {
                    error = other;
                    break;
                }
            }
        }
        Err(RegistryError::Topic(error))
    }

    /// Retires the topics that nobody would miss. A topic's actor ends with its last handle; a handle that somebody
    /// holds at this moment keeps its topic, because none can be given out while the entry is locked.
    pub fn retire_idle(&self) {
        self.topics.retain(|_, topic| {
            let keep = Arc::strong_count(topic) > 1 || !topic.is_idle();
            if !keep {
                self.count.fetch_sub(1, Ordering::Relaxed);
            }
            keep
        });
    }
}
