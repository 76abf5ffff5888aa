//! `POST /tickets`: gives a ticket for one stream to a caller with a token.

use std::{
    net::IpAddr,
    time::{Instant, SystemTime},
};

use actix_http::StatusCode;
use serde::Deserialize;
use serde_json::json;

use super::{
    answer::Answer,
    app_state::AppState,
    credentials,
    head::Head,
    origin,
    payload::{Body, Payload, Reception, announced_length, check_encoding, check_length, collect, media_type, text},
    problem::{Code, Problem, RETRY_AFTER},
    reply::{Served, reply_later, reply_now},
    topic_list::TopicList,
};
use crate::{
    auth::{Caller, NewTicket, Subscribe, TicketError},
    config::{Config, ENCODED_EXTRA, ENCODED_FACTOR},
};

/// What a body has for each topic besides the name: two quotes, a comma and a few blanks.
const BYTES_PER_TOPIC: u64 = 8;

/// A request for a ticket, before its body is read.
struct TicketHead {
    caller: Caller,
    /// A moment before the token of `caller` was checked.
    checked_at: Instant,
    bytes_max: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TicketBody {
    #[serde(deserialize_with = "TopicList::only_list")]
    topics: TopicList,
}

/// Serves `/tickets`.
pub(super) fn serve<'a>(app: &'a AppState, head: &impl Head, body: Body<'_>) -> Result<Served<'a>, Problem> {
    let request = TicketHead::read(app, head)?;
    match body {
        Body::Whole(body) => {
            check_length(body.len(), request.bytes_max)?;
            let mut permit = app.bytes.bytes_permit(head.remote());
            permit.cover(body.len())?;
            request.give(app, body).map(reply_now)
        }
        Body::Coming(payload) => Ok(reply_later(receive(app, request, announced_length(head), head.remote(), payload))),
    }
}

/// Receives the body, then gives the ticket.
async fn receive(
    app: &AppState,
    request: TicketHead,
    length: Option<usize>,
    remote: Option<IpAddr>,
    payload: Payload,
) -> Result<Answer, Problem> {
    let _delays_drain = app.delay_drain()?;
    let mut permit = app.bytes.bytes_permit(remote);
    let timeout = app.config.publish.body_timeout;
    let body = collect(payload, Reception { length, bytes_max: request.bytes_max, timeout }, &mut permit).await?;
    request.give(app, &body)
}

impl TicketHead {
    /// Reads the head. Refuses the pages of other sites, callers without a token, and clients that subscribe too often:
    /// each ticket counts as a subscription.
    fn read(app: &AppState, head: &impl Head) -> Result<Self, Problem> {
        if head.method() != "POST" {
            return Err(Problem::method_not_allowed("POST"));
        }
        origin::check(head, &app.config)?;
        app.check_open()?;
        let checked_at = Instant::now();
        let caller = credentials::caller(app, head)?;
        if caller.identity().is_none() {
            return Err(TicketError::Anonymous.into());
        }
        // Without any right, the body need not be received.
        caller.check_any::<Subscribe>()?;
        check_encoding(head)?;
        let is_json = head.value("content-type").map(media_type).transpose()?.is_some_and(|t| t == "application/json");
        if !is_json {
            let detail = "a ticket is asked for in JSON: send `Content-Type: application/json`";
            return Err(Problem::new(Code::UnsupportedMediaType, detail));
        }
        app.rates.subscribe(head.remote())?;
        Ok(Self { caller, checked_at, bytes_max: bytes_max(&app.config) })
    }

    /// Gives the ticket for the topics that `body` names.
    fn give(self, app: &AppState, body: &[u8]) -> Result<Answer, Problem> {
        let body: TicketBody = serde_json::from_str(text(body, "the JSON body")?).map_err(|error| {
            let detail = format!("the JSON body cannot be read: {error}; it must be {{\"topics\": [\"…\"]}}");
            Problem::new(Code::BadJson, detail)
        })?;
        let names = body.topics.kept.iter().map(String::as_str);
        let topics = app.topics(names, body.topics.dropped)?.topics;
        let grants = topics.into_iter().map(|topic| self.caller.grant(topic)).collect::<Result<Vec<_>, _>>()?;
        let NewTicket { text, valid_for } = app.auth.take_ticket(&self.caller, grants.into_iter(), self.checked_at)?;
        let expires = humantime::format_rfc3339_millis(SystemTime::now() + valid_for).to_string();
        let document = json!({"ticket": text, "expires": expires});
        let answer = Answer::new(StatusCode::CREATED).with("content-type", "application/json");
        Ok(answer.body(format!("{document}\n").into_bytes()))
    }
}

/// The size of the largest body: as many topics as a request may name, with an escape for each character. It is never
/// more than that of a publish, because the limit on request bytes always has room for a publish.
fn bytes_max(config: &Config) -> u64 {
    let topics = u64::try_from(config.limits.topics_per_request_max).unwrap_or(u64::MAX);
    let per_topic = config.limits.topic_bytes_max.get() * ENCODED_FACTOR + BYTES_PER_TOPIC;
    let publish_max = config.publish.event_bytes_max.get() * ENCODED_FACTOR + ENCODED_EXTRA.get();
    (topics.saturating_mul(per_topic) + 1024).min(publish_max)
}

impl From<TicketError> for Problem {
    fn from(error: TicketError) -> Self {
        let detail = error.to_string();
        match error {
            TicketError::Anonymous => Self::unauthorized(detail),
            TicketError::TooMany(max) => {
                Self::new(Code::TooManyTickets, detail).with("limit", max).retry_after(RETRY_AFTER)
            }
            TicketError::TooManyOfKey(max) => {
                Self::new(Code::TooManyTicketsPerKey, detail).with("limit", max).retry_after(RETRY_AFTER)
            }
            TicketError::TooManyTopics { max, topics } => {
                Self::new(Code::TooManyTopicsNamed, detail).with("limit", max).with("given", topics)
            }
            TicketError::Unavailable => Self::new(Code::Unavailable, detail).retry_after(RETRY_AFTER),
        }
    }
}
