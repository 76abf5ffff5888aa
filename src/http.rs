//! Requests: who reads them, what they mean, what is answered. Only this module and `server` see actix-web.

use std::{sync::Arc, time::Duration};

use smallvec::SmallVec;
use tokio::sync::{mpsc, watch};

use crate::{
    config::Config,
    event::TopicName,
    hub::HubHandle,
    limits::{Connections, RequestBytes},
    log::Log,
    registry::Registry,
};

mod fast;
pub mod fallback;
mod stream;
mod pending;
mod serve;
mod publish;
mod subscribe;
mod topics;
mod page;
mod cors;
mod origin;
mod refusal;
mod accept;
mod fields;
mod spelling;
mod problem;
mod answer;
mod head;

pub use fast::{Fallback, FastPath};
pub use pending::PendingSlots;
pub use problem::{Code, Problem};

/// Why a server that is ending refuses.
const DRAINING: &str = "the server is shutting down";

/// What the routes of one worker work with.
pub struct Edge {
    /// The configuration.
    pub config: Arc<Config>,
    /// The log.
    pub log: Arc<dyn Log>,
    /// The topics.
    pub registry: Arc<Registry>,
    /// The subscribers' permits.
    pub connections: Arc<Connections>,
    /// The bytes of requests that are being received.
    pub bytes: Arc<RequestBytes>,
    /// The hub of this worker's thread.
    pub hub: HubHandle,
    /// Requests that the drain shall wait for hold it for as long as they take.
    pub under_way: mpsc::WeakSender<()>,
    /// Set once the server drains.
    pub draining: watch::Receiver<Option<Duration>>,
}

impl Edge {
    fn is_draining(&self) -> bool {
        // It changes once, and this costs no lock; without a server there is nobody to serve for.
        self.draining.has_changed().unwrap_or(true)
    }

    fn draining() -> Problem {
        Problem::new(Code::Draining, DRAINING).retry_after(Duration::from_secs(1))
    }

    /// Whether a change is taken.
    fn check_open(&self) -> Result<(), Problem> {
        if self.is_draining() { Err(Self::draining()) } else { Ok(()) }
    }

    /// The topics a request names, each once, and whether it named several; it named `more` beside `names`.
    fn topics<'a>(
        &self,
        mut names: impl Iterator<Item = &'a str>,
        more: usize,
    ) -> Result<(SmallVec<[TopicName; 1]>, bool), Problem> {
        let limits = &self.config.limits;
        let max = limits.topics_per_request_max;
        let mut topics = SmallVec::new();
        let mut given = 0;
        while let Some(name) = names.next() {
            given += 1;
            if given > max {
                given += names.count() + more;
                let detail = format!("a request may name {max} topics, and this one names {given}");
                let problem = Problem::new(Code::TooManyTopicsNamed, detail);
                return Err(problem.with("limit", max).with("given", given));
            }
            let topic = TopicName::parse(name, limits.topic_bytes_max.to_usize())
                .map_err(|error| Problem::new(Code::BadTopic, format!("`topic` is refused: {error}")))?;
            if !topics.contains(&topic) {
                topics.push(topic);
            }
        }
        if topics.is_empty() {
            return Err(Problem::new(Code::TopicMissing, "there is no `topic`"));
        }
        Ok((topics, given > 1))
    }
}
