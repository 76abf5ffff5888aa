//! The only way from a request to a topic. Each method that does something to a topic needs a grant for it.

use std::{net::IpAddr, sync::Arc};

use bytes::Bytes;

use crate::{
    auth::{Grant, GrantAll, Manage, Publish, RightKind, Subscribe},
    event::{Epoch, EventName, TopicName},
    hub::{HubCounts, Hubs, Listed, SubscriberId},
    later::Later,
    log::{Append, AppendError, Draft, Durability, Held, Log, LogStats, LogTimes, ReadError, Resolved, Start},
    peers::{Node, PeerError, Peers, TicketHash, TicketUse},
    registry::{Registry, RegistryError},
    topic::{DeleteError, Joined, Membership, Subscriber},
};

/// The log, the registry and the hubs, behind grants.
#[derive(Clone)]
pub struct Gate {
    log: Arc<dyn Log>,
    registry: Arc<Registry>,
    hubs: Hubs,
}

/// An event whose publisher has the grant for its topic.
pub(super) struct GrantedDraft(Draft);

impl GrantedDraft {
    pub(super) fn new(grant: Grant<Publish>, name: Option<EventName>, content: Bytes, key: Option<Arc<str>>) -> Self {
        // The registry sets `subscribers`.
        Self(Draft { topic: grant.into_topic(), name, content, subscribers: 0, key })
    }

    pub(super) fn topic(&self) -> &TopicName {
        &self.0.topic
    }

    /// The size of the content.
    pub(super) fn bytes(&self) -> usize {
        self.0.content.len()
    }
}

impl Gate {
    /// Puts the gate before the other parts.
    #[must_use]
    pub fn new(log: Arc<dyn Log>, registry: Arc<Registry>, hubs: Hubs) -> Self {
        Self { log, registry, hubs }
    }

    /// The epoch of the log.
    pub(super) fn epoch(&self) -> Epoch {
        self.log.epoch()
    }

    /// What an acknowledgement survives.
    pub(super) fn durability(&self) -> Durability {
        self.log.durability()
    }

    /// What the log holds.
    pub(super) fn log_stats(&self) -> LogStats {
        self.log.stats()
    }

    /// How long the commits of the log take.
    pub(super) fn log_times(&self) -> Option<&LogTimes> {
        self.log.times()
    }

    /// What the hubs have counted.
    pub(super) fn hub_counts(&self) -> &[Arc<HubCounts>] {
        self.hubs.counts()
    }

    /// How many topics are in use.
    pub(super) fn live_topics(&self) -> usize {
        self.registry.count()
    }

    /// Whether the log accepts events.
    pub(super) fn check_log(&self) -> Result<(), AppendError> {
        self.log.check()
    }

    pub(super) fn publish(&self, draft: GrantedDraft) -> Append {
        self.registry.publish(draft.0)
    }

    pub(super) async fn join(&self, grant: &Grant<Subscribe>, subscriber: Subscriber) -> Result<Joined, RegistryError> {
        self.registry.join(grant.topic(), subscriber).await
    }

    /// Resolves where a stream of these memberships begins. A membership comes from [`Self::join`], so it needs no
    /// grant.
    pub(super) fn resolve_start(
        &self,
        memberships: &[Membership],
        start: &Start,
        deletion_notices: &[TopicName],
    ) -> Resolved {
        let topics: Vec<TopicName> = memberships.iter().map(|membership| membership.topic().clone()).collect();
        self.log.resolve_start(&topics, start, deletion_notices)
    }

    /// What the log has of a topic.
    pub(super) fn held<R: RightKind>(&self, grant: &Grant<R>) -> Later<Result<Option<Held>, ReadError>> {
        self.log.held(grant.topic())
    }

    /// See [`Registry::subscribers`].
    pub(super) fn subscribers(&self, grant: &Grant<Manage>) -> Option<usize> {
        self.registry.subscribers(grant.topic().as_str())
    }

    /// Deletes a topic. `remote` is who asks for it.
    pub(super) async fn delete(&self, grant: &Grant<Manage>, remote: Option<IpAddr>) -> Result<(), DeleteError> {
        self.registry.delete(grant.topic(), remote).await
    }

    /// The other servers, if this one is in a cluster.
    pub(super) fn peers(&self) -> Option<&dyn Peers> {
        self.log.peers()
    }

    /// See [`Peers::ticket`].
    pub(super) async fn ticket(
        &self,
        node: Node,
        hash: TicketHash,
        ticket_use: TicketUse,
    ) -> Result<Option<String>, PeerError> {
        match self.log.peers() {
            Some(peers) => peers.ticket(node, hash, ticket_use).await,
            None => Ok(None),
        }
    }

    /// See [`Hubs::list`].
    pub(super) async fn list_subscribers(
        &self,
        grant: &Grant<Manage>,
        after: Option<SubscriberId>,
        limit: usize,
    ) -> Vec<Listed<SubscriberId>> {
        self.hubs.list(grant.topic(), after, limit).await
    }

    /// The hubs of all workers, which know the streams of all topics.
    pub(super) fn hubs(&self, _: GrantAll<Manage>) -> &Hubs {
        &self.hubs
    }
}
