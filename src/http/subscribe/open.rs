//! Opens a stream: joins the topics, resolves the start, and makes the first bytes and the subscription for the hub.

use std::{
    any::Any,
    time::{Duration, Instant},
};

use bytes::BytesMut;
use smallvec::SmallVec;

use super::{
    request::SubscribeRequest,
    response::{stop, stream_head},
};
use crate::{
    event::TopicName,
    frame::{self, Framing, Opening},
    http::{
        app_state::AppState,
        problem::{Code, Problem},
        reply::Reply,
    },
    hub::{Subscription, jitter},
    log::{Start, StartPoint},
    registry::RegistryError,
    topic::{Deletion, JoinError, Joined, Subscriber},
};

/// Joins the topics and resolves the start. Returns the stream, or a 204 if all topics were deleted. If the request is
/// refused for a reason that may pass, the client may try again after `retry`.
pub(super) async fn open(app: &AppState, request: SubscribeRequest, retry: Duration) -> Result<Reply, Problem> {
    let (encoding, remote) = (request.encoding, request.remote);
    let with_retry = |problem: Problem| problem.retry_after(retry);
    app.check_open().map_err(with_retry)?;
    app.rates.subscribe(remote)?;
    let permit = app.subscribers.permit(remote).map_err(Problem::from).map_err(with_retry)?;
    let own_permit = match (&request.right, request.own_max) {
        (Some(right), Some(max)) => {
            Some(app.own_streams.permit(&right.identity, max).map_err(Problem::from).map_err(with_retry)?)
        }
        _ => None,
    };
    let cursor_in_epoch = match request.start {
        Start::After(id) if id.epoch == app.gate.epoch() => Some(id),
        _ => None,
    };
    let subscriber = Subscriber { remote, cursor: cursor_in_epoch, single_topic: request.grants.len() == 1 };
    let (mut topics, mut memberships) = (SmallVec::new(), SmallVec::<[_; 1]>::new());
    let (mut are_all_deleted, mut deletion_notices) = (true, Vec::new());
    for grant in &request.grants {
        let Joined { membership, deletion } = match app.gate.join(grant, subscriber).await {
            Ok(joined) => joined,
            // Only a subscriber with a `single_topic` gets this error.
            Err(RegistryError::Topic(JoinError::Deleted)) => return Ok(stop().into()),
            Err(error) => return Err(with_retry(error.into())),
        };
        let topic = membership.topic().clone();
        // `deletion` is after the client's cursor, so the client does not know of it. A topic does not count as deleted
        // if it has got new events since.
        are_all_deleted =
            are_all_deleted && deletion.is_some() && app.gate.held(grant).await?.is_none_or(|held| held.events == 0);
        // A pending deletion is not committed yet: the hub sends its notice later, in the order of the stream.
        if let Some(Deletion::At(_)) = deletion {
            deletion_notices.push(topic.clone());
        }
        topics.push(topic);
        memberships.push(membership);
    }
    if are_all_deleted {
        return Ok(stop().into());
    }
    // The first bytes of the stream report these deletions. So for the log, the events that they removed are no gap.
    let start = app.gate.resolve_start(&memberships, &request.start, &deletion_notices).await?;
    // `gap_ahead` is a gap that the stream would report only later.
    if let Some(reason) = start.gap.or(start.gap_ahead).filter(|_| request.fails_on_gap) {
        let detail = "the cursor cannot be honoured, and `on_gap=fail` was asked for";
        return Err(Problem::new(Code::Gap, detail).with("reason", reason.as_str()));
    }
    let first = first_bytes(app, &request, start, &topics, &deletion_notices);
    let lifetime = app.config.stream.lifetime_max;
    // A stream without a limit of its own needs no memory for its permit.
    let guards: Box<dyn Any> = match own_permit {
        None => Box::new((memberships, permit)),
        Some(own_permit) => Box::new((memberships, permit, own_permit)),
    };
    let subscription = Subscription {
        topics,
        encoding,
        marks: request.marks,
        start,
        ends_at: (!lifetime.is_zero()).then(|| Instant::now() + jitter(lifetime)),
        right: request.right,
        guards,
    };
    let mut head = stream_head(encoding.format, Some(start.id())).body(first);
    if encoding.framing == Framing::Chunked {
        head = head.with("transfer-encoding", "chunked");
    }
    Ok(Reply::Stream(head, Box::new(subscription)))
}

/// The first bytes of the stream: the opening, and notices of a gap and of deletions.
fn first_bytes(
    app: &AppState,
    request: &SubscribeRequest,
    start: StartPoint,
    topics: &[TopicName],
    deletion_notices: &[TopicName],
) -> Vec<u8> {
    let (config, encoding) = (&app.config.stream, request.encoding);
    let id = start.id();
    let opening = Opening { retry: jitter(config.retry), cursor: id, topics, heartbeat: config.heartbeat };
    let mut bytes = BytesMut::from(&*frame::opening(encoding, request.marks, opening));
    if let Some(reason) = start.gap {
        bytes.extend_from_slice(&frame::gap(encoding, reason, &request.requested, id));
    }
    for topic in deletion_notices {
        bytes.extend_from_slice(&frame::deleted(encoding, topic));
    }
    bytes.into()
}
