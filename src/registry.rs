//! Finds the live topic of a name. A topic is started when somebody needs it, and retired when it is idle.

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use dashmap::{DashMap, Entry};

use crate::{
    event::TopicName,
    limits::{LimitReached, Quota},
    log::{Append, Draft, Log},
    topic::{DeleteError, JoinError, Joined, Subscriber, TopicHandle, TopicLimits},
};

/// All live topics.
pub struct Registry {
    topics: DashMap<TopicName, Arc<TopicHandle>>,
    /// How many topics there are. To count them in the map would lock each of its shards.
    count: AtomicUsize,
    log: Arc<dyn Log>,
    topics_max: usize,
    /// Limits how many topics each address has started.
    topics_per_ip: Arc<Quota>,
    limits: TopicLimits,
}

/// There are `limits.topics_max` live topics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there are as many live topics as there may be ({topics_max})")]
pub struct TooManyTopics {
    /// The limit.
    pub topics_max: usize,
}

/// Why a topic cannot be started, or a subscriber cannot join it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RegistryError {
    /// The topic is not live, and there are `limits.topics_max` others.
    #[error(transparent)]
    TooManyTopics(#[from] TooManyTopics),
    /// The topic is not live, and the client's address has started `limits.topics_per_ip_max` others.
    #[error(transparent)]
    TooManyTopicsPerIp(#[from] LimitReached),
    /// The topic refused the subscriber.
    #[error(transparent)]
    Topic(JoinError),
}

/// How often a subscriber tries to join a topic. Each further try starts a new actor, because the last one has died.
const JOIN_TRIES: usize = 3;

impl Registry {
    /// No topics yet.
    #[must_use]
    pub fn new(log: Arc<dyn Log>, topics_max: usize, topics_per_ip: Arc<Quota>, limits: TopicLimits) -> Self {
        Self { topics: DashMap::new(), count: AtomicUsize::new(0), log, topics_max, topics_per_ip, limits }
    }

    /// The live topic of this name, if there is one.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<Arc<TopicHandle>> {
        self.topics.get(name).map(|topic| Arc::clone(&topic))
    }

    /// How many live topics there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// The topic of this name. If it is not live, or its actor has died, it is started for the address `remote`, on
    /// this thread, which must be a worker of the server.
    ///
    /// # Errors
    /// When it cannot be started: see [`RegistryError`].
    pub fn open(&self, name: &TopicName, remote: Option<IpAddr>) -> Result<Arc<TopicHandle>, RegistryError> {
        if let Some(topic) = self.topics.get(name)
            && topic.is_alive()
        {
            return Ok(Arc::clone(&topic));
        }
        let start = |permit| TopicHandle::start(name.clone(), &self.log, self.limits, permit);
        match self.topics.entry(name.clone()) {
            Entry::Occupied(mut entry) => {
                if !entry.get().is_alive() {
                    tracing::error!(topic = %name, "a topic's actor has died and is started again");
                    entry.insert(start(self.topics_per_ip.permit(remote)?));
                }
                Ok(Arc::clone(entry.get()))
            }
            Entry::Vacant(entry) => {
                let permit = self.topics_per_ip.permit(remote)?;
                let one_more = |count| (count < self.topics_max).then_some(count + 1);
                if self.count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).is_err() {
                    return Err(TooManyTopics { topics_max: self.topics_max }.into());
                }
                Ok(Arc::clone(&entry.insert(start(permit))))
            }
        }
    }

    /// Publishes to the topic that `draft` names, and fills in how many subscribers it has.
    ///
    /// The log puts the events in order, so a publish does not use the topic's actor. A topic that is not live has no
    /// subscribers, and is not started: a start would cost twice what the publish itself costs.
    pub fn publish(&self, mut draft: Draft) -> Append {
        draft.subscribers = self.subscribers_elsewhere(draft.topic.as_str());
        if let Some(topic) = self.topics.get(draft.topic.as_str()) {
            // All events of a live topic share one copy of its name.
            draft.topic = topic.name().clone();
            draft.subscribers += topic.subscribers();
        }
        self.log.append(draft)
    }

    /// How many subscribers the topic of this name has, on all servers; `None` if no server has any, and it is not live
    /// here.
    #[must_use]
    pub fn subscribers(&self, name: &str) -> Option<usize> {
        let here = self.find(name).map(|topic| topic.subscribers());
        let elsewhere = self.subscribers_elsewhere(name);
        if elsewhere == 0 { here } else { Some(here.unwrap_or_default() + elsewhere) }
    }

    /// How many subscribers the topic has on the other servers.
    fn subscribers_elsewhere(&self, name: &str) -> usize {
        self.log.peers().map_or(0, |peers| peers.subscribers(name))
    }

    /// The topics that have subscribers of this server, and how many.
    #[must_use]
    pub fn all_subscribers(&self) -> Vec<(TopicName, usize)> {
        let topics = self.topics.iter().map(|topic| (topic.name().clone(), topic.subscribers()));
        topics.filter(|(_, subscribers)| *subscribers > 0).collect()
    }

    /// Adds a subscriber to the topic of this name.
    ///
    /// # Errors
    /// See [`RegistryError`].
    pub async fn join(&self, name: &TopicName, subscriber: Subscriber) -> Result<Joined, RegistryError> {
        for _ in 0..JOIN_TRIES {
            match self.open(name, subscriber.remote)?.join(subscriber).await {
                Err(JoinError::ActorDied) => {}
                joined => return joined.map_err(RegistryError::Topic),
            }
        }
        Err(RegistryError::Topic(JoinError::ActorDied))
    }

    /// Deletes the topic of this name, for the address `remote`. If a limit forbids starting its actor, the log deletes
    /// the topic without an actor: a deletion frees memory, so a limit on memory must not refuse it.
    ///
    /// # Errors
    /// See [`DeleteError`].
    pub async fn delete(&self, name: &TopicName, remote: Option<IpAddr>) -> Result<(), DeleteError> {
        if let Ok(topic) = self.open(name, remote) {
            return topic.delete().await;
        }
        let at = self.log.delete(name).await?;
        if let Some(topic) = self.find(name.as_str()) {
            // Another request has started the topic meanwhile.
            topic.was_deleted(at);
        }
        Ok(())
    }

    /// Retires the topics that are idle, and those whose actor has died. An actor ends when its last handle is dropped.
    ///
    /// A topic is kept while anyone else has a handle to it. Nobody can get a handle during the check, because the
    /// map's shard is locked.
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
