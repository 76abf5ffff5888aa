//! What this server knows of the other servers of the cluster, and what it tells them.

use std::sync::{Arc, Mutex};

use tokio::sync::SetOnce;

use super::counts::{Changes, Counts};
use crate::{
    log::mutex::lock,
    peers::{Local, Node},
};

/// The other servers, as the threads of the workers and the engine's own tasks see them.
pub(super) struct Others {
    /// The name of this server.
    pub(super) own: Node,
    /// Answers for this server.
    local: SetOnce<Arc<dyn Local>>,
    /// The subscribers of the others.
    pub(super) counts: Mutex<Counts>,
    /// The topics whose own subscribers the others do not know yet.
    pub(super) changes: Mutex<Changes>,
}

impl Others {
    pub(super) fn new() -> Self {
        Self { own: Node::random(), local: SetOnce::new(), counts: Mutex::default(), changes: Mutex::default() }
    }

    /// How many subscribers of the topic the other servers have.
    pub(super) fn subscribers(&self, topic: &str) -> usize {
        lock(&self.counts).of(topic)
    }

    /// Sets who answers for this server. Only the first call counts: there is one server.
    pub(super) fn serve(&self, local: Arc<dyn Local>) {
        self.local.set(local).ok();
    }

    /// Who answers for this server.
    pub(super) fn local(&self) -> Option<&Arc<dyn Local>> {
        self.local.get()
    }
}
