//! What the other servers of a cluster ask of this one.

use std::sync::{Arc, Weak};

use futures_util::future::{BoxFuture, FutureExt as _};

use crate::{
    auth::Auth,
    event::TopicName,
    hub::Hubs,
    peers::{Local, TicketHash, TicketUse},
    registry::Registry,
};

/// The parts of this server that answer.
pub(super) struct LocalParts {
    pub(super) auth: Arc<Auth>,
    /// Not an `Arc`: the registry has the log, and the log has this.
    pub(super) registry: Weak<Registry>,
    pub(super) hubs: Hubs,
}

impl Local for LocalParts {
    fn subscribers(&self, topic: &str) -> usize {
        let topic = self.registry.upgrade().and_then(|registry| registry.find(topic));
        topic.map_or(0, |topic| topic.subscribers())
    }

    fn all_subscribers(&self) -> Vec<(TopicName, usize)> {
        self.registry.upgrade().map(|registry| registry.all_subscribers()).unwrap_or_default()
    }

    fn ticket(&self, hash: &TicketHash, ticket_use: TicketUse) -> Option<String> {
        self.auth.export_ticket(hash, ticket_use)
    }

    fn end_subject(&self, subject: String) -> BoxFuture<'static, ()> {
        // First the tickets: otherwise one of them could open a stream after the streams have ended.
        self.auth.remove_tickets_of(&subject);
        let hubs = self.hubs.clone();
        async move {
            let ended = hubs.end_subject(&subject).await;
            tracing::info!(target: "tidings::audit", subject, ended, "the streams of a subject were ended");
        }
        .boxed()
    }
}
