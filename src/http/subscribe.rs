//! `GET /subscribe`: reads the request, and makes the beginning of the response, and the subscription for the hub.

use std::{
    any::Any,
    borrow::Cow,
    net::IpAddr,
    num::NonZeroU32,
    time::{Duration, Instant, SystemTime},
};

use actix_http::StatusCode;
use bytes::{Bytes, BytesMut};
use smallvec::SmallVec;

use super::{
    accept::Accept,
    answer::Answer,
    app_state::AppState,
    credentials,
    fields::Fields,
    head::Head,
    problem::{Code, Problem},
    reply::{Reply, Served, reply_later, reply_now},
};
use crate::{
    auth::{Caller, Grant, Subscribe, TicketUse},
    event::{EventId, StopId, TopicName},
    frame::{self, Encoding, Format, Framing, Marks, Opening},
    hub::{Right, Subscription, jitter},
    log::{Start, StartPoint, wall_ms},
    registry::RegistryError,
    topic::{Deletion, JoinError, Joined, Subscriber},
};

mod time;

/// The names of the cursor parameter. Browsers cannot set a header on the first request, so clients send the cursor in
/// the query. `event-source-polyfill`, Mercure and Symfony each use a different name.
const CURSORS: [&str; 4] = ["lastEventId", "last_event_id", "lastEventID", "Last-Event-ID"];
/// The parameters of a subscription.
const PARAMETERS: [&str; 11] =
    ["topic", "ticket", "since", "last", "envelope", "on_gap", "marks", CURSORS[0], CURSORS[1], CURSORS[2], CURSORS[3]];
/// `broker.gap` contains at most this much of what the client requested.
const REQUESTED_BYTES_MAX: usize = 128;
/// The maximum of `last=`. It is limited because the search locks the log.
const LAST_MAX: usize = 10_000;
/// A refused subscriber must wait this many times `stream.retry`, with jitter, before it retries.
const REFUSED_RETRY_FACTOR: u32 = 4;

/// Serves `GET /subscribe`.
pub(super) fn serve<'a>(app: &'a AppState, head: &impl Head) -> Result<Served<'a>, Problem> {
    Ok(match Outcome::read(app, head, TicketUse::Spend) {
        Ok(Outcome::Stream(request)) => reply_later(request.admit(app)),
        Ok(Outcome::Answer(answer)) => reply_now(answer),
        Err(problem) => reply_now(refused_unread(app, head, problem)?),
    })
}

/// The refusal of a request of which not all was read. If its reason may pass, an `EventSource` is told to come back: at
/// another status than 200 it would stop for good.
fn refused_unread(app: &AppState, head: &impl Head, problem: Problem) -> Result<Answer, Problem> {
    let Some(wait) = problem.retry_time().filter(|_| is_event_source(Accept::read(head))) else {
        return Err(problem);
    };
    let query = Fields::query(head.query(), &PARAMETERS, &CURSORS)?;
    let cursor = Cursor::read(head, &query).and_then(|cursor| cursor.id());
    let retry = jitter(app.config.stream.retry * REFUSED_RETRY_FACTOR);
    Ok(refused_stream(Format::Plain, retry.max(wait), cursor, &problem))
}

/// Serves `HEAD /subscribe`: the head of a stream, without a subscriber. It does not use up a ticket.
pub(super) fn head(app: &AppState, head: &impl Head) -> Result<Answer, Problem> {
    Ok(match Outcome::read(app, head, TicketUse::Look)? {
        Outcome::Stream(request) => stream_head(request.encoding.format, None),
        Outcome::Answer(answer) => answer,
    })
}

/// What a request to subscribe gets, if it is not refused.
enum Outcome {
    Stream(SubscribeRequest),
    Answer(Answer),
}

impl Outcome {
    fn read(app: &AppState, head: &impl Head, ticket_use: TicketUse) -> Result<Self, Problem> {
        let query = Fields::query(head.query(), &PARAMETERS, &CURSORS)?;
        let cursor = Cursor::read(head, &query);
        // Before the credential is checked: an `EventSource` whose stream an operator has ended comes back with a ticket
        // that is used up, and it must stay away.
        if cursor.as_ref().is_some_and(|cursor| cursor.must_stay_away(app.config.stream.gone)) {
            return Ok(Self::Answer(stop()));
        }
        let checked_at = Instant::now();
        // A ticket counts before the other credentials. A browser sends a cookie by itself.
        let caller = match query.only("ticket")? {
            None => credentials::caller(app, head)?,
            Some(ticket) => match app.auth.redeem_ticket(ticket, ticket_use) {
                Ok(caller) => caller,
                // An `EventSource` comes back to the URL that it was given, with a ticket that is used up. At another
                // status than 200 it would stop, and could not tell its page why.
                Err(refused) if is_event_source(Accept::read(head)) => {
                    let retry = jitter(app.config.stream.retry * REFUSED_RETRY_FACTOR);
                    let id = cursor.and_then(|cursor| cursor.id());
                    return Ok(Self::Answer(unauthorized_stream(retry, id, &refused.to_string())));
                }
                Err(refused) => return Err(refused.into()),
            },
        };
        SubscribeRequest::read(app, head, &query, cursor, (&caller, checked_at)).map(Self::Stream)
    }
}

/// The cursor as the client has sent it.
struct Cursor {
    text: String,
    /// The cursor is from a stream that an operator has ended.
    stop: Option<StopId>,
}

impl Cursor {
    /// Finds the cursor. The header has priority: when a browser reconnects, it sends the new cursor in the header, and
    /// the query of the first request again.
    fn read(request: &impl Head, query: &Fields<'_>) -> Option<Self> {
        let header = request.values("last-event-id").map(String::from_utf8_lossy);
        let query = CURSORS.iter().flat_map(|name| query.all(name)).map(Cow::Borrowed);
        // An empty cursor counts as none. A client may send an empty one in one place, and its cursor in another.
        let text = header.chain(query).find(|cursor| !cursor.is_empty())?.into_owned();
        Some(Self { stop: StopId::parse(&text), text })
    }

    /// Whether an operator has ended the client's last stream, less than `gone` ago.
    fn must_stay_away(&self, gone: Duration) -> bool {
        self.stop.is_some_and(|stop| stop.is_active(wall_ms(), gone))
    }

    /// The id; `None` if the cursor cannot be read.
    fn id(&self) -> Option<EventId> {
        self.stop.map(|stop| stop.id).or_else(|| EventId::parse(&self.text))
    }
}

/// Whether the client may be an `EventSource`: it asks for an event stream by name, as every `EventSource` does.
fn is_event_source(accept: Accept) -> bool {
    accept.names_events() && !accept.prefers_lines()
}

/// Tells the client to stop: an `EventSource` that gets 204 does not come back (HTML standard, section 9.2.3).
fn stop() -> Answer {
    Answer::new(StatusCode::NO_CONTENT)
}

/// A request to subscribe.
struct SubscribeRequest {
    grants: SmallVec<[Grant<Subscribe>; 1]>,
    /// The right of a caller with a credential.
    right: Option<Right>,
    /// How many streams the token allows at one time, if it has a limit.
    own_max: Option<NonZeroU32>,
    encoding: Encoding,
    marks: Marks,
    start: Start,
    /// The cursor, or `since`, as the client sent it, for `broker.gap`. It is cut to [`REQUESTED_BYTES_MAX`].
    requested: String,
    /// `on_gap=fail`: refuse the request if there is a gap.
    fails_on_gap: bool,
    is_event_source: bool,
    remote: Option<IpAddr>,
}

impl SubscribeRequest {
    /// Reads what `caller` asks for, who was checked after the given moment.
    fn read(
        app: &AppState,
        request: &impl Head,
        query: &Fields<'_>,
        cursor: Option<Cursor>,
        (caller, checked_at): (&Caller, Instant),
    ) -> Result<Self, Problem> {
        let (topics, _) = app.topics(query.all("topic"), query.topics_dropped())?;
        let grants = topics.into_iter().map(|topic| caller.grant(topic)).collect::<Result<_, _>>()?;
        let ends_at = caller.valid_for(SystemTime::now()).map(|valid_for| Instant::now() + valid_for);
        let right = caller.shared_identity().map(|identity| Right { identity, checked_at, ends_at });
        let own_max = caller.limits().subscribers_max;
        let start = match &cursor {
            Some(cursor) => cursor.id().map_or(Start::Unreadable, Start::After),
            None => start(query)?,
        };
        let fails_on_gap = match query.only("on_gap")? {
            None | Some("event") => false,
            Some("fail") => true,
            Some(other) => return Err(bad_parameter("on_gap", other, "`event` or `fail`")),
        };
        let since = query.only("since")?.map(str::to_owned);
        let mut requested = cursor.map(|cursor| cursor.text).or(since).unwrap_or_default();
        requested.truncate(requested.floor_char_boundary(REQUESTED_BYTES_MAX));
        let accept = Accept::read(request);
        let format = format(accept, query)?;
        let framing = if request.is_http_1_1() { Framing::Chunked } else { Framing::Close };
        let encoding = Encoding { format, framing };
        let marks = marks(query)?;
        let is_event_source = is_event_source(accept);
        let remote = request.remote();
        Ok(Self { grants, right, own_max, encoding, marks, start, requested, fails_on_gap, is_event_source, remote })
    }

    /// Opens the stream, or refuses the subscriber.
    async fn admit(self, app: &AppState) -> Reply {
        let (format, is_event_source) = (self.encoding.format, self.is_event_source);
        let cursor = if let Start::After(id) = self.start { Some(id) } else { None };
        let retry = jitter(app.config.stream.retry * REFUSED_RETRY_FACTOR);
        match open(app, self, retry).await {
            Err(problem) if is_event_source && let Some(wait) = problem.retry_time() => {
                refused_stream(format, retry.max(wait), cursor, &problem).into()
            }
            reply => reply.into(),
        }
    }
}

fn bad_parameter(name: &str, value: &str, allowed: &str) -> Problem {
    Problem::new(Code::BadParameter, format!("`{name}={value}` is not understood; allowed: {allowed}"))
}

fn format(accept: Accept, query: &Fields<'_>) -> Result<Format, Problem> {
    let envelope = match query.only("envelope")? {
        None | Some("none") => Format::Plain,
        Some("json") => Format::Envelope,
        Some(other) => return Err(bad_parameter("envelope", other, "`json` or `none`")),
    };
    Ok(if accept.prefers_lines() { Format::Lines } else { envelope })
}

fn marks(query: &Fields<'_>) -> Result<Marks, Problem> {
    match query.only("marks")? {
        None | Some("event") => Ok(Marks::Event),
        Some("id") => Ok(Marks::Id),
        Some("none") => Ok(Marks::None),
        Some(other) => Err(bad_parameter("marks", other, "`event`, `id` or `none`")),
    }
}

fn start(query: &Fields<'_>) -> Result<Start, Problem> {
    match (query.only("since")?, query.only("last")?) {
        (None, None) => Ok(Start::Live),
        (Some(_), Some(_)) => Err(Problem::new(Code::BadParameter, "`since` and `last` exclude each other")),
        (None, Some(n)) => match n.parse() {
            Ok(n) if n <= LAST_MAX => Ok(Start::Last(n)),
            _ => Err(bad_parameter("last", n, &format!("a number of events up to {LAST_MAX}"))),
        },
        (Some("all"), None) => Ok(Start::All),
        (Some(since), None) => {
            let allowed = "`all`, a duration such as `10m`, an RFC 3339 time, or seconds since 1970";
            time::since_ms(since).map(Start::Since).ok_or_else(|| bad_parameter("since", since, allowed))
        }
    }
}

/// Joins the topics and resolves the start. Returns the stream, or a 204 if all topics were deleted. If the request is
/// refused for a reason that may pass, the client may try again after `retry`.
async fn open(app: &AppState, request: SubscribeRequest, retry: Duration) -> Result<Reply, Problem> {
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

/// The head of a stream's response, without `Transfer-Encoding`.
fn stream_head(format: Format, id: Option<EventId>) -> Answer {
    let media_type = match format {
        Format::Plain | Format::Envelope => "text/event-stream; charset=utf-8",
        Format::Lines => "application/x-ndjson",
    };
    let mut head = Answer::new(StatusCode::OK).with("content-type", media_type).with("x-accel-buffering", "no");
    if let Some(id) = id {
        head = head.with("last-event-id", id.to_string());
    }
    head.cache_control = "no-cache, no-transform";
    (head.is_stream, head.is_last) = (true, true);
    head
}

/// A short stream with status 200 that tells an `EventSource` why it is refused. At any other status, an `EventSource`
/// would not reconnect.
fn refused_stream(format: Format, retry: Duration, cursor: Option<EventId>, problem: &Problem) -> Answer {
    short_stream(format, frame::refused(format, retry, cursor, problem.code().as_str(), problem.detail()))
}

/// As [`refused_stream`], for a ticket that is not valid.
fn unauthorized_stream(retry: Duration, cursor: Option<EventId>, detail: &str) -> Answer {
    // The length of the body is known, so it is no chunk.
    let encoding = Encoding { format: Format::Plain, framing: Framing::Close };
    short_stream(encoding.format, frame::unauthorized(encoding, retry, cursor, detail))
}

fn short_stream(format: Format, body: Bytes) -> Answer {
    let mut answer = stream_head(format, None).body(Vec::from(body));
    // The body is complete, so its length is sent.
    answer.is_stream = false;
    answer
}
