//! Name to live topic: started when it is needed, found by everyone, retired when nobody would miss it.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use dashmap::{DashMap, Entry};

use crate::{
    event::TopicName,
    log::{Append, Draft, Log},
    topic::{DeleteError, JoinError, Joined, Subscriber, TopicHandle, TopicLimits},
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
        let start = || TopicHandle::start(name.clone(), &self.log, self.limits.clone());
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

    /// Publishes to the topic that `draft` names. The log itself puts the events in order, so they go straight there and
    /// spare the way through an actor's mailbox. Where no topic lives nobody subscribes: to start an actor for that and
    /// retire it again would cost twice what the publish does.
    pub fn publish(&self, draft: Draft) -> Append {
        // All events of a live topic share its copy of the name.
        let live = self.topics.get(draft.topic.as_str()).map(|topic| (topic.name().clone(), topic.subscribers()));
        let (topic, subscribers) = live.unwrap_or((draft.topic, 0));
        self.log.append(Draft { topic, subscribers, ..draft })
    }

    /// Adds a subscriber to the topic of this name.
    ///
    /// # Errors
    /// As the topic says. An actor that has died is replaced, not reported.
    pub async fn join(&self, name: &TopicName, subscriber: Subscriber) -> Result<Joined, RegistryError<JoinError>> {
        let mut error = JoinError::NotStarted;
        for _ in 0..TRIES {
            match self.open(name)?.join(subscriber).await {
                Ok(joined) => return Ok(joined),
                Err(JoinError::NotStarted) => {}
                Err(other) => {
                    error = other;
                    break;
                }
            }
        }
        Err(RegistryError::Topic(error))
    }

    /// Deletes the topic of this name. Where no topic may be started for it, the log does it alone: a deletion makes room,
    /// and must not wait for some.
    ///
    /// # Errors
    /// As the topic or the log says.
    pub async fn delete(&self, name: &TopicName) -> Result<(), RegistryError<DeleteError>> {
        if let Ok(topic) = self.open(name) {
            return topic.delete().await.map_err(RegistryError::Topic);
        }
        let at = self.log.forget(name).await.map_err(|error| RegistryError::Topic(error.into()))?;
        if let Some(topic) = self.find(name.as_str()) {
            // It has been started meanwhile.
            topic.was_deleted(at);
        }
        Ok(())
    }

    /// Retires the topics that nobody would miss, and those whose actor has died. A topic's actor ends with its last
    /// handle; a handle that somebody holds at this moment keeps its topic, because none can be given out while the entry
    /// is locked.
    pub fn retire_idle(&self) {
        self.topics.retain(|_, topic| {
            let keep = topic.is_alive() && (Arc::strong_count(topic) > 1 || !topic.is_idle());
            if !keep {
                self.count.fetch_sub(1, Ordering::Relaxed);
            }
            keep
        });
    }
}
