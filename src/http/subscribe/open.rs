//! Opens a stream: joins the topics, resolves the start, and makes the first bytes and the subscription for the hub.

use std::{
    any::Any,
    time::{Duration, Instant},
};

use bytes::BytesMut;
use smallvec::SmallVec;

use super::{
    request::{Options, SubscribeRequest},
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
    topic::{Deletion, JoinError, Joined, Membership, Subscriber},
};

/// Opens the stream. If all topics were deleted, the reply is a 204. If the request is refused for a reason that may
/// pass, the client may try again after `retry`.
pub(super) async fn open(app: &AppState, request: Box<SubscribeRequest>, retry: Duration) -> Result<Reply, Problem> {
    let Options { encoding, marks, remote, fails_on_gap, .. } = request.options;
    let with_retry = |problem: Problem| problem.retry_after(retry);
    app.check_open().map_err(with_retry)?;
    if !request.has_ticket {
        app.rates.subscribe(remote)?;
    }
    let permit = app.subscribers.permit(remote).map_err(Problem::from).map_err(with_retry)?;
    let own_permit = match (&request.right, request.own_max) {
        (Some(right), Some(max)) => {
            Some(app.own_streams.permit(&right.identity, max).map_err(Problem::from).map_err(with_retry)?)
        }
        _ => None,
    };
    let Some(Topics { memberships, deletion_notices }) = join(app, &request, retry).await? else {
        return Ok(stop().into());
    };
    // The first bytes of the stream report the deletions, so the log need not report the deleted events as a gap.
    let start = app.gate.resolve_start(&memberships, &request.options.start, &deletion_notices).await?;
    // `gap_ahead` is a gap that the stream would report only later.
    if let Some(reason) = start.gap.or(start.gap_ahead).filter(|_| fails_on_gap) {
        let detail = "the cursor cannot be honoured, and `on_gap=fail` was asked for";
        return Err(Problem::new(Code::Gap, detail).with("reason", reason.as_str()));
    }
    let topics: SmallVec<[TopicName; 1]> = memberships.iter().map(|membership| membership.topic().clone()).collect();
    let first = first_bytes(app, &request.options, start, &topics, &deletion_notices);
    let lifetime = app.config.stream.lifetime_max;
    // A stream without a limit of its own needs no memory for its permit.
    let guards: Box<dyn Any> = match own_permit {
        None => Box::new((memberships, permit)),
        Some(own_permit) => Box::new((memberships, permit, own_permit)),
    };
    let subscription = Subscription {
        topics,
        encoding,
        marks,
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

/// The topics of a new stream.
struct Topics {
    memberships: SmallVec<[Membership; 1]>,
    /// The topics that were deleted after the client's cursor. The first bytes of the stream report these deletions.
    deletion_notices: Vec<TopicName>,
}

/// Joins the topics. Returns `None` if all were deleted after the client's cursor, and nothing was published since.
async fn join(app: &AppState, request: &SubscribeRequest, retry: Duration) -> Result<Option<Topics>, Problem> {
    let cursor = match request.options.start {
        Start::After(id) if id.epoch == app.gate.epoch() => Some(id),
        _ => None,
    };
    let single_topic = request.grants.len() == 1;
    let subscriber = Subscriber { remote: request.options.remote, cursor, single_topic };
    let mut topics = Topics { memberships: SmallVec::new(), deletion_notices: Vec::new() };
    let mut are_all_deleted = true;
    for grant in &request.grants {
        let Joined { membership, deletion } = match app.gate.join(grant, subscriber).await {
            Ok(joined) => joined,
            // Only a subscriber with a `single_topic` gets this error.
            Err(RegistryError::Topic(JoinError::Deleted)) => return Ok(None),
            Err(error) => return Err(Problem::from(error).retry_after(retry)),
        };
        // `deletion` is after the client's cursor. The topic may have got new events since then.
        let is_deleted = deletion.is_some() && app.gate.held(grant).await?.is_none_or(|held| held.events == 0);
        are_all_deleted &= is_deleted;
        // A pending deletion is not committed yet: the hub sends its notice later, in the order of the stream.
        if let Some(Deletion::At(_)) = deletion {
            topics.deletion_notices.push(membership.topic().clone());
        }
        topics.memberships.push(membership);
    }
    Ok(if are_all_deleted { None } else { Some(topics) })
}

/// The first bytes of the stream: the opening, and notices of a gap and of deletions.
fn first_bytes(
    app: &AppState,
    options: &Options,
    start: StartPoint,
    topics: &[TopicName],
    deletion_notices: &[TopicName],
) -> Vec<u8> {
    let (config, encoding) = (&app.config.stream, options.encoding);
    let id = start.id();
    let opening = Opening { retry: jitter(config.retry), cursor: id, topics, heartbeat: config.heartbeat };
    let mut bytes = BytesMut::from(&*frame::opening(encoding, options.marks, opening));
    if let Some(reason) = start.gap {
        app.own_counts.note_gap(reason);
        bytes.extend_from_slice(&frame::gap(encoding, reason, &options.requested, id));
    }
    for topic in deletion_notices {
        bytes.extend_from_slice(&frame::deleted(encoding, topic));
    }
    bytes.into()
}
