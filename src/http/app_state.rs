//! What all requests of one worker use, and the checks that several routes share.

use std::{ops::Deref, sync::Arc};

use smallvec::SmallVec;
use tokio::sync::mpsc;

use super::{
    counts::HttpCounts,
    gate::Gate,
    problem::{Code, Problem, RETRY_AFTER},
};
use crate::{
    auth::Auth,
    config::Config,
    event::TopicName,
    hub::{Drain, HubHandle, UnsentBytes},
    limits::{DescriptorReserve, OwnStreams, Quota, Rates},
    transport::Acceptor,
};

/// What all workers share.
#[derive(Clone)]
pub struct SharedState {
    /// The configuration.
    pub config: Arc<Config>,
    /// Verifies credentials.
    pub auth: Arc<Auth>,
    /// The way to the topics.
    pub gate: Gate,
    /// The limit on subscribers.
    pub subscribers: Arc<Quota>,
    /// The limits that credentials have for their streams.
    pub own_streams: Arc<OwnStreams>,
    /// The limit on connections without a subscription.
    pub pending: Arc<Quota>,
    /// The limit on the bytes of requests that are received or processed.
    pub bytes: Arc<Quota>,
    /// The limits on how often clients publish, subscribe and fail to authenticate.
    pub rates: Arc<Rates>,
    /// The bytes of partly sent events and of notices that wait for slow subscribers, and their limit.
    pub unsent: Arc<UnsentBytes>,
    /// The drain.
    pub drain: Drain,
    /// The descriptors with which new connections are refused at the limit of open files.
    pub descriptors: Arc<DescriptorReserve>,
    /// Begins TLS on new connections.
    pub acceptor: Acceptor,
    /// What each worker counts.
    pub counts: Arc<[Arc<HttpCounts>]>,
}

/// The topics that a request names.
pub(super) struct NamedTopics {
    /// Each topic once.
    pub(super) topics: SmallVec<[TopicName; 1]>,
    /// The request gives more than one name, perhaps of the same topic.
    pub(super) is_list: bool,
}

/// What all requests of one worker use.
pub struct AppState {
    /// What all workers share.
    pub shared: SharedState,
    /// The hub of this worker's thread.
    pub hub: HubHandle,
    /// What this worker counts.
    pub own_counts: Arc<HttpCounts>,
}

impl Deref for AppState {
    type Target = SharedState;

    fn deref(&self) -> &SharedState {
        &self.shared
    }
}

impl AppState {
    /// Refuses a request while the server drains.
    pub(super) fn check_open(&self) -> Result<(), Problem> {
        // `has_changed` takes no lock. An error means that the server is gone.
        if self.drain.begin.has_changed().unwrap_or(true) { Err(draining()) } else { Ok(()) }
    }

    /// Delays the end of the drain until the result is dropped. A request calls this before it waits for its body or
    /// for the log.
    pub(super) fn delay_drain(&self) -> Result<mpsc::Sender<()>, Problem> {
        self.drain.delays_drain.upgrade().ok_or_else(draining)
    }

    /// Parses the topics that a request names. `dropped` is the number of further names, which the parser of the
    /// request has not kept.
    pub(super) fn topics<'a>(
        &self,
        mut names: impl Iterator<Item = &'a str>,
        dropped: usize,
    ) -> Result<NamedTopics, Problem> {
        let limits = &self.config.limits;
        let max = limits.topics_per_request_max;
        let (mut topics, mut given) = (SmallVec::new(), 0);
        while let Some(name) = names.next() {
            given += 1;
            if given > max {
                given += names.count() + dropped;
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
        Ok(NamedTopics { topics, is_list: given > 1 })
    }
}

/// The refusal of a request while the server drains.
fn draining() -> Problem {
    Problem::new(Code::Draining, "the server is shutting down").retry_after(RETRY_AFTER)
}
