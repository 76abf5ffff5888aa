//! `GET|POST|PUT /publish`: publishes one event to one or more topics, and answers when the log has committed it.

use std::{net::IpAddr, sync::Arc};

use actix_http::StatusCode;
use bytes::Bytes;
use futures_util::{FutureExt as _, future::join_all};
use serde_json::Value;
use smallvec::SmallVec;

use super::{
    answer::Answer,
    app_state::{AppState, NamedTopics},
    credentials,
    fields::Fields,
    gate::GrantedDraft,
    head::{Head, ascii_text},
    origin,
    payload::{Body, Payload, Reception, announced_length, collect},
    problem::{Code, Problem},
    reply::{Reply, Served, reply_later, reply_now},
};
use crate::{
    auth::{self, Caller},
    event::{EventName, TopicName},
    later::{Known, NotYet},
    limits::{BytesPermit, UNCOUNTED_MAX, Used},
    log::{Appended, Receipt},
};

mod body;
mod json;

use body::{BodyFormat, PARAMETERS};

/// The longest `Idempotency-Key`.
const KEY_BYTES_MAX: usize = 128;
/// The expected size of the receipt for one topic. It is only a capacity: a long topic name needs more.
const RECEIPT_BYTES: usize = 160;

/// Serves `/publish`.
pub(super) fn serve<'a>(app: &'a AppState, head: &impl Head, body: Body<'_>) -> Result<Served<'a>, Problem> {
    let publish = PublishHead::read(app, head)?;
    match body {
        Body::Whole(body) => {
            publish.format.check_length(body.len(), &app.config.publish)?;
            let bytes = head.query().len() + body.len();
            let publish = publish.with_body(app, Bytes::copy_from_slice(body))?;
            if bytes <= UNCOUNTED_MAX {
                // A permit would reserve nothing. To do without it makes a small publish faster.
                return Ok(publish.append(app, None));
            }
            let mut permit = app.bytes.bytes_permit(head.remote());
            permit.cover(bytes)?;
            Ok(publish.append(app, Some(permit)))
        }
        Body::Coming(payload) => Ok(reply_later(receive(app, publish.into_owned(), announced_length(head), payload))),
    }
}

/// Receives the body, then publishes.
async fn receive(
    app: &AppState,
    head: PublishHead<'static>,
    length: Option<usize>,
    payload: Payload,
) -> Result<Reply, Problem> {
    let _delays_drain = app.delay_drain()?;
    let mut permit = app.bytes.bytes_permit(head.remote);
    let config = &app.config.publish;
    let reception = Reception { length, bytes_max: head.format.bytes_max(config), timeout: config.body_timeout };
    let body = collect(payload, reception, &mut permit).await?;
    Ok(head.with_body(app, body)?.append(app, Some(permit)).await)
}

/// The head of a publish request.
struct PublishHead<'a> {
    caller: Caller,
    query: Fields<'a>,
    format: BodyFormat,
    /// The `Idempotency-Key`.
    key: Option<Arc<str>>,
    remote: Option<IpAddr>,
    /// What the request has used of the rates before its body is read.
    used: Used,
}

/// A complete publish request.
struct PublishRequest {
    /// One event for each topic.
    drafts: SmallVec<[GrantedDraft; 1]>,
    /// The response is a list of receipts, not a single receipt.
    is_list: bool,
}

impl<'a> PublishHead<'a> {
    /// Reads the head. Refuses the pages of other sites, requests above a rate, and every request while the server
    /// drains.
    fn read(app: &AppState, head: &'a impl Head) -> Result<Self, Problem> {
        let allow_get = app.config.publish.allow_get;
        match head.method() {
            "POST" | "PUT" => {}
            "GET" if allow_get => {}
            _ => return Err(Problem::method_not_allowed(if allow_get { "GET, POST, PUT" } else { "POST, PUT" })),
        }
        origin::check(head, &app.config)?;
        app.check_open()?;
        let caller = credentials::caller(app, head)?;
        // Without any right, the body need not be received.
        caller.check_any::<auth::Publish>()?;
        let query = Fields::query(head.query(), &PARAMETERS, &[])?;
        let (format, key, remote) = (BodyFormat::read(head)?, key(head)?, head.remote());
        // Topics above the limit and topics that the caller may not publish to do not count here. A request with such a
        // topic is refused later, and must not use up the rate of a topic for other callers.
        let topics = query.all("topic").take(app.config.limits.topics_per_request_max);
        let topics = topics.filter(|topic| caller.may::<auth::Publish>(topic));
        let used = app.rates.publish(remote, caller.identity(), caller.limits().publishes_per_second, topics)?;
        Ok(Self { caller, query, format, key, remote, used })
    }

    fn into_owned(self) -> PublishHead<'static> {
        PublishHead { query: self.query.into_owned(), ..self }
    }

    fn with_body(self, app: &AppState, body: Bytes) -> Result<PublishRequest, Problem> {
        let body = self.format.parse(body)?;
        let in_query = self.query.only("content")?.map(|content| Bytes::copy_from_slice(content.as_bytes()));
        let content = either("content", in_query, body.content)?.ok_or_else(|| {
            let detail = "there is no content: give `content` in the query, a form or a JSON body, or a body of any other \
                          type (Content-Type: text/plain)";
            Problem::new(Code::ContentMissing, detail)
        })?;
        let content_max = app.config.publish.event_bytes_max.get();
        if u64::try_from(content.len()).is_ok_and(|length| length > content_max) {
            return Err(Problem::too_large("the content", content_max));
        }
        let name = either("event", self.query.only("event")?, body.event.as_deref())?;
        // An empty name counts as none, as in the Server-Sent Events format.
        let name = name.filter(|name| !name.is_empty()).map(EventName::parse).transpose();
        let name = name.map_err(|error| Problem::new(Code::BadEvent, format!("`event` is refused: {error}")))?;
        let given = self.query.all("topic").chain(body.topics.iter().map(String::as_str));
        let dropped = self.query.topics_dropped() + body.topics_dropped;
        let NamedTopics { topics, is_list } = app.topics(given, dropped)?;
        // `repeat_n` moves the values for the last topic. So a publish to one topic copies nothing.
        let events = std::iter::repeat_n((name, content, self.key), topics.len());
        let mut drafts: SmallVec<[GrantedDraft; 1]> = SmallVec::new();
        for (topic, (name, content, key)) in topics.into_iter().zip(events) {
            // One topic without a grant refuses the whole request.
            let grant = self.caller.grant(topic)?;
            drafts.push(GrantedDraft::new(grant, name, content, key));
        }
        app.rates.publish_to(self.used, drafts.iter().map(|draft| draft.topic().as_str()))?;
        Ok(PublishRequest { drafts, is_list })
    }
}

/// The value of a field that may be in the query or in the body, but not in both.
fn either<T>(name: &str, query: Option<T>, body: Option<T>) -> Result<Option<T>, Problem> {
    if query.is_some() && body.is_some() {
        return Err(Problem::new(Code::Repeated, format!("`{name}` is in the query and in the body")));
    }
    Ok(query.or(body))
}

impl PublishRequest {
    /// Appends the events to the log. If the log commits at once, the reply is ready at once. The permit for the
    /// request's bytes is kept until the log has committed.
    fn append(self, app: &AppState, permit: Option<BytesPermit>) -> Served<'_> {
        let is_list = self.is_list;
        // A `SmallVec` returns more than one draft as `Err`.
        let [draft] = match self.drafts.into_inner() {
            Ok(one) => one,
            Err(several) => return reply_later(append_each(app, several, permit)),
        };
        let (topic, bytes) = (draft.topic().clone(), draft.bytes());
        match app.gate.publish(draft) {
            Known(outcome) => {
                let outcome = outcome.into_inner();
                if let Ok(published) = &outcome {
                    // If the subscribers are few, the hub takes the event from its feed now, and delivers it.
                    app.hub.deliver(published.subscribers);
                }
                reply_now(answer(app, &[(topic, outcome)], is_list, bytes))
            }
            NotYet(outcome) => {
                // An error is ignored (no `?`): the log may already have the event, so the reply must tell the outcome.
                let delays_drain = app.delay_drain();
                reply_later(outcome.map(move |outcome| {
                    drop((delays_drain, permit));
                    answer(app, &[(topic, outcome)], is_list, bytes)
                }))
            }
        }
    }
}

/// Appends the events of several topics. `_permit` is kept until the log has committed all events.
async fn append_each(
    app: &AppState,
    drafts: SmallVec<[GrantedDraft; 1]>,
    _permit: Option<BytesPermit>,
) -> Result<Answer, Problem> {
    // An error is ignored, as in `PublishRequest::append`.
    let _delays_drain = app.delay_drain();
    let publish = async |draft: GrantedDraft| (draft.topic().clone(), app.gate.publish(draft).await);
    // All have the same content.
    let bytes = drafts.first().map_or(0, GrantedDraft::bytes);
    let outcomes = join_all(drafts.into_iter().map(publish)).await;
    answer(app, &outcomes, true, bytes)
}

/// The `Idempotency-Key`, if the request has one.
fn key(request: &impl Head) -> Result<Option<Arc<str>>, Problem> {
    let Some(value) = request.value("idempotency-key") else { return Ok(None) };
    match ascii_text(value) {
        Some(key) if !key.is_empty() && key.len() <= KEY_BYTES_MAX => Ok(Some(key.into())),
        _ => {
            let detail = format!("Idempotency-Key must have 1 to {KEY_BYTES_MAX} printable ASCII characters");
            Err(Problem::new(Code::BadIdempotencyKey, detail))
        }
    }
}

/// The response: the receipts, or the last error, with the receipts of the topics that did not fail. Counts the events,
/// whose content has so many `bytes`.
fn answer(app: &AppState, outcomes: &[(TopicName, Appended)], is_list: bool, bytes: usize) -> Result<Answer, Problem> {
    let durability = app.gate.durability().as_str();
    let mut receipts = Vec::with_capacity(RECEIPT_BYTES * outcomes.len());
    let (mut are_all_replayed, mut failure) = (true, None);
    for (topic, outcome) in outcomes {
        match outcome {
            Ok(receipt) => {
                if !receipts.is_empty() {
                    receipts.push(b',');
                }
                write_receipt(&mut receipts, topic, *receipt, durability);
                are_all_replayed &= receipt.replayed;
                if !receipt.replayed {
                    app.own_counts.note_published(bytes);
                }
            }
            Err(error) => failure = Some(Problem::from(*error)),
        }
    }
    if let Some(problem) = failure {
        if !is_list {
            return Err(problem);
        }
        // Tell the client which topics have got the event, so that it can retry only for the others.
        let published = serde_json::from_slice::<Value>(&[b"[", &*receipts, b"]"].concat());
        return Err(problem.with("published", published.unwrap_or_default()));
    }
    let body = if is_list {
        [b"{\"published\":[", &*receipts, b"]}\n"].concat()
    } else {
        receipts.push(b'\n');
        receipts
    };
    let mut answer = Answer::new(StatusCode::OK);
    if are_all_replayed {
        answer = answer.with("idempotency-replayed", "true");
    }
    Ok(answer.with("content-type", "application/json").body(body))
}

/// Appends the receipt for one topic: `{"id","topic","subscribers","durability"}`. The fields are written one by one,
/// which is faster than a serializer. Only the topic's name can need escapes.
fn write_receipt(out: &mut Vec<u8>, topic: &TopicName, receipt: Receipt, durability: &str) {
    out.extend_from_slice(b"{\"id\":\"");
    receipt.id.write(out);
    out.extend_from_slice(b"\",\"topic\":");
    let written = serde_json::to_writer(&mut *out, topic.as_str());
    debug_assert!(written.is_ok(), "a string can always be written to memory");
    out.extend_from_slice(b",\"subscribers\":");
    out.extend_from_slice(itoa::Buffer::new().format(receipt.subscribers).as_bytes());
    out.extend_from_slice(b",\"durability\":\"");
    out.extend_from_slice(durability.as_bytes());
    out.extend_from_slice(b"\"}");
}
