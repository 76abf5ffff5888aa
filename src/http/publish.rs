//! `GET|POST|PUT /publish`: one event to one or more topics; answered when the log has it.

use std::{sync::Arc, time::Duration};

use actix_web::{HttpRequest, HttpResponse, http::StatusCode, web};
use bytes::Bytes;
use futures_util::{
    FutureExt as _,
    future::{Either, LocalBoxFuture, Ready, join_all, ready},
};
use serde_json::Value;
use smallvec::SmallVec;

use super::{
    Edge,
    answer::Answer,
    fields::Fields,
    head::{Head, visible},
    origin,
    problem::Problem,
    refusal::refusal,
};
use crate::{
    event::{EventName, TopicName},
    log::Draft,
    registry::Outcome,
    topic::Published,
};

mod body;
mod json;

use body::{Body, Kind};

/// The parameters of a publish, in the query or in a form.
const PARAMETERS: [&str; 3] = ["topic", "content", "event"];
/// The longest `Idempotency-Key`.
const KEY_BYTES_MAX: usize = 128;
/// What the answer for one topic takes, unless the topic's name is long.
const RECEIPT_BYTES: usize = 160;
/// What a publisher waits before it tries again when the server cannot take the event.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The route in the fallback.
pub(super) async fn route(
    edge: web::Data<Edge>,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, Problem> {
    check(&edge, &request)?;
    let _under_way = edge.under_way.upgrade().ok_or_else(Edge::draining)?;
    // A query that cannot be read is refused before the body is waited for.
    let query = Fields::query(request.query(), &PARAMETERS, &[])?;
    let config = &edge.config.publish;
    let kind = Kind::of(&request)?;
    // Held until the log has the content.
    let mut permit = edge.bytes.permit(request.remote());
    let bytes = body::collect(&request, payload, kind.bytes_max(config), config.body_timeout, &mut permit).await?;
    let order = Order::read(&edge, &request, &query, Body::parse(kind, &request, bytes)?)?;
    Ok(order.carry_out(&edge).await?.into())
}

/// What a publish asks for.
pub(super) struct Order {
    /// One a topic.
    drafts: SmallVec<[Draft; 1]>,
    /// The answer is a list.
    several: bool,
    key: Option<Arc<str>>,
}

/// What comes of it. Where the log commits at once it is at hand.
pub(super) type Carried<'a> = Either<Ready<Result<Answer, Problem>>, LocalBoxFuture<'a, Result<Answer, Problem>>>;

/// Whether a publish may be taken.
fn check(edge: &Edge, request: &impl Head) -> Result<(), Problem> {
    let allow_get = edge.config.publish.allow_get;
    match request.method() {
        "POST" | "PUT" => {}
        "GET" if allow_get => {}
        _ => return Err(Problem::method_not_allowed(if allow_get { "GET, POST, PUT" } else { "POST, PUT" })),
    }
    origin::check(request, &edge.config.cors)?;
    edge.check_open()
}

impl Order {
    /// Reads a request whose body is at hand.
    pub(super) fn whole(edge: &Edge, request: &impl Head, body: &[u8]) -> Result<Self, Problem> {
        check(edge, request)?;
        let query = Fields::query(request.query(), &PARAMETERS, &[])?;
        let kind = Kind::of(request)?;
        let bytes_max = kind.bytes_max(&edge.config.publish);
        if u64::try_from(body.len()).is_ok_and(|length| length > bytes_max) {
            return Err(body::too_large(bytes_max));
        }
        let body = Body::parse(kind, request, Bytes::copy_from_slice(body))?;
        Self::read(edge, request, &query, body)
    }

    fn read(edge: &Edge, request: &impl Head, query: &Fields<'_>, body: Body) -> Result<Self, Problem> {
        let (drafts, several) = drafts(edge, query, body)?;
        Ok(Self { drafts, several, key: key(request)? })
    }

    /// Publishes. A drain waits for what has to wait; it cannot have ended in the moment since the request was checked,
    /// because it waits for this worker's hub, too.
    pub(super) fn carry_out(mut self, edge: &Edge) -> Carried<'_> {
        let only = if self.key.is_none() && self.drafts.len() == 1 { self.drafts.pop() } else { None };
        let Some(draft) = only else { return Either::Right(self.carry_out_each(edge).boxed_local()) };
        let (topic, several) = (draft.topic.clone(), self.several);
        match edge.registry.publish(draft) {
            Either::Left(outcome) => Either::Left(ready(answer(edge, &[(topic, outcome.into_inner())], several))),
            Either::Right(outcome) => {
                let under_way = edge.under_way.upgrade();
                let answered = outcome.map(move |outcome| {
                    drop(under_way);
                    answer(edge, &[(topic, outcome)], several)
                });
                Either::Right(answered.boxed_local())
            }
        }
    }

    async fn carry_out_each(self, edge: &Edge) -> Result<Answer, Problem> {
        let _under_way = edge.under_way.upgrade();
        let publish = async |draft: Draft| {
            let topic = draft.topic.clone();
            let outcome = match self.key.clone() {
                None => edge.registry.publish(draft).await,
                Some(key) => edge.registry.publish_once(draft, key).await,
            };
            (topic, outcome)
        };
        let outcomes = join_all(self.drafts.into_iter().map(publish)).await;
        answer(edge, &outcomes, self.several)
    }
}

/// The events to publish, one a topic, and whether the answer is a list.
fn drafts(edge: &Edge, query: &Fields<'_>, body: Body) -> Result<(SmallVec<[Draft; 1]>, bool), Problem> {
    let content = match (query.only("content")?, body.content) {
        (Some(_), Some(_)) => {
            return Err(Problem::bad_request("repeated", "`content` is in the query and in the body"));
        }
        (Some(content), None) => Bytes::copy_from_slice(content.as_bytes()),
        (None, Some(content)) => content,
        (None, None) => {
            let detail = "there is no content: give `content` in the query, a form or a JSON body, or a body of any other \
                          type (Content-Type: text/plain)";
            return Err(Problem::bad_request("content_missing", detail));
        }
    };
    let content_max = edge.config.publish.event_bytes_max.get();
    if u64::try_from(content.len()).is_ok_and(|length| length > content_max) {
        return Err(Problem::too_large("the content", content_max));
    }
    let name = match (query.only("event")?, &body.event) {
        (Some(_), Some(_)) => return Err(Problem::bad_request("repeated", "`event` is in the query and in the body")),
        (Some(name), None) => Some(name),
        (None, name) => name.as_deref(),
    };
    // An empty one is unset, as in the stream's own format.
    let name = name.filter(|name| !name.is_empty()).map(EventName::parse).transpose();
    let name = name.map_err(|error| Problem::bad_request("bad_event", format!("`event` is refused: {error}")))?;
    let given = query.all("topic").chain(body.topics.iter().map(String::as_str));
    let (topics, several) = edge.topics(given, query.dropped() + body.topics_given - body.topics.len())?;
    let events = std::iter::repeat_n((name, content), topics.len());
    let drafts =
        topics.into_iter().zip(events).map(|(topic, (name, content))| Draft { topic, name, content, key: None });
    Ok((drafts.collect(), several))
}

fn key(request: &impl Head) -> Result<Option<Arc<str>>, Problem> {
    let Some(value) = request.value("idempotency-key") else { return Ok(None) };
    match visible(value) {
        Some(key) if !key.is_empty() && key.len() <= KEY_BYTES_MAX => Ok(Some(key.into())),
        _ => {
            let detail = format!("Idempotency-Key takes 1 to {KEY_BYTES_MAX} visible ASCII characters");
            Err(Problem::bad_request("bad_idempotency_key", detail))
        }
    }
}

fn answer(edge: &Edge, outcomes: &[(TopicName, Outcome)], several: bool) -> Result<Answer, Problem> {
    let mut receipts = Vec::with_capacity(RECEIPT_BYTES * outcomes.len());
    let (mut failed, mut replayed) = (None, true);
    let durability = edge.log.durability().as_str();
    for (topic, outcome) in outcomes {
        match outcome {
            Ok(published) => {
                replayed &= published.replayed;
                let before: &[u8] = if receipts.is_empty() { b"" } else { b"," };
                receipts.extend_from_slice(before);
                write_receipt(&mut receipts, topic, *published, durability);
            }
            Err(error) => failed = Some(refusal(error, RETRY_AFTER)),
        }
    }
    let list = |head: &[u8], tail: &[u8]| [head, &*receipts, tail].concat();
    let body = match (failed, several) {
        (None, false) => {
            receipts.push(b'\n');
            receipts
        }
        (None, true) => list(b"{\"published\":[", b"]}\n"),
        (Some(problem), false) => return Err(problem),
        (Some(problem), true) => {
            // Some may have the event: say which, so that a retry need not guess.
            let published = serde_json::from_slice::<Value>(&list(b"[", b"]"));
            return Err(problem.with("published", published.unwrap_or_default()));
        }
    };
    let mut answer = Answer::new(StatusCode::OK).with("cache-control", "no-store");
    if replayed {
        answer = answer.with("idempotency-replayed", "true");
    }
    Ok(answer.with("content-type", "application/json").body(body))
}

/// Appends what is said of one topic: `{"id","topic","subscribers","durability"}`. Field by field, because every publish
/// has one, and of these texts only the topic's name can have anything to escape.
fn write_receipt(out: &mut Vec<u8>, topic: &TopicName, published: Published, durability: &str) {
    out.extend_from_slice(b"{\"id\":\"");
    published.id.write(out);
    out.extend_from_slice(b"\",\"topic\":");
    let written = serde_json::to_writer(&mut *out, topic.as_str());
    debug_assert!(written.is_ok(), "a string, into memory");
    out.extend_from_slice(b",\"subscribers\":");
    out.extend_from_slice(itoa::Buffer::new().format(published.subscribers).as_bytes());
    out.extend_from_slice(b",\"durability\":\"");
    out.extend_from_slice(durability.as_bytes());
    out.extend_from_slice(b"\"}");
}
