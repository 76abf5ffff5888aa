//! `GET|POST|PUT /publish`: publishes one event to one or more topics, and answers when the log has committed it.

use std::{net::IpAddr, sync::Arc, time::Duration};

use actix_http::StatusCode;
use bytes::Bytes;
use futures_util::{
    FutureExt as _,
    future::{Either, join_all},
};
use serde_json::Value;
use smallvec::SmallVec;

use super::{
    answer::Answer,
    app_state::AppState,
    fields::Fields,
    head::{Head, visible},
    origin,
    payload::{Body, Payload},
    problem::{Code, Problem},
    refusal::Refused as _,
    reply::{Reply, Served, later, now},
};
use crate::{
    event::{EventName, TopicName},
    limits::{BytesPermit, UNCOUNTED_MAX},
    log::{Appended, Draft, Receipt},
};

mod body;
mod json;

use body::{PARAMETERS, Parts, PayloadHead};

/// The longest `Idempotency-Key`.
const KEY_BYTES_MAX: usize = 128;
/// The expected size of the receipt for one topic. It is only a capacity: a long topic name needs more.
const RECEIPT_BYTES: usize = 160;
/// How long a publisher must wait before it retries when the server is overloaded.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Serves `/publish`.
pub(super) fn serve<'a>(app: &'a AppState, head: &impl Head, body: Body<'_>) -> Served<'a> {
    match body {
        Body::Whole(body) => match Publish::read(app, head, body) {
            Ok((publish, permit)) => publish.commit(app, permit),
            Err(problem) => now(Err(problem)),
        },
        Body::Coming(payload) => match PublishHead::read(app, head) {
            // Refuse it before its body has come.
            Err(problem) => now(Err(problem)),
            Ok(publish) => {
                let length = head.text("content-length").and_then(|length| length.parse().ok());
                later(receive(app, publish.into_owned(), length, payload))
            }
        },
    }
}

/// Receives the body, then publishes.
async fn receive(app: &AppState, head: PublishHead<'static>, length: Option<usize>, payload: Payload) -> Reply {
    let Some(_under_way) = app.under_way.upgrade() else { return Err(AppState::draining()).into() };
    // Kept until the log has committed the event.
    let mut permit = app.bytes.bytes_permit(head.remote);
    let received = body::collect(&head.payload, length, payload, &app.config.publish, &mut permit).await;
    match received.and_then(|body| head.with_body(app, body)) {
        Ok(publish) => publish.commit(app, Some(permit)).await,
        Err(problem) => Err(problem).into(),
    }
}

/// The head of a publish request.
struct PublishHead<'a> {
    query: Fields<'a>,
    payload: PayloadHead,
    /// The `Idempotency-Key`.
    key: Option<Arc<str>>,
    remote: Option<IpAddr>,
}

/// A complete publish request.
struct Publish {
    /// One event for each topic.
    drafts: SmallVec<[Draft; 1]>,
    /// The response is a list of receipts, not a single one.
    is_list: bool,
}

/// Checks whether the client and the server may publish at all.
fn check(app: &AppState, request: &impl Head) -> Result<(), Problem> {
    let allow_get = app.config.publish.allow_get;
    match request.method() {
        "POST" | "PUT" => {}
        "GET" if allow_get => {}
        _ => return Err(Problem::method_not_allowed(if allow_get { "GET, POST, PUT" } else { "POST, PUT" })),
    }
    origin::check(request, &app.config.cors)?;
    app.check_open()
}

impl<'a> PublishHead<'a> {
    fn read(app: &AppState, head: &'a impl Head) -> Result<Self, Problem> {
        check(app, head)?;
        let query = Fields::query(head.query(), &PARAMETERS, &[])?;
        Ok(Self { query, payload: PayloadHead::read(head)?, key: key(head)?, remote: head.remote() })
    }

    fn into_owned(self) -> PublishHead<'static> {
        PublishHead { query: self.query.into_owned(), ..self }
    }

    fn with_body(&self, app: &AppState, body: Bytes) -> Result<Publish, Problem> {
        let (drafts, is_list) = drafts(app, &self.query, self.payload.parse(body)?, self.key.as_ref())?;
        Ok(Publish { drafts, is_list })
    }
}

impl Publish {
    /// Reads a request whose body has already been read. Returns it with a permit for its bytes, which it must keep
    /// until the log has committed it. A small request needs no permit.
    fn read(app: &AppState, head: &impl Head, body: &[u8]) -> Result<(Self, Option<BytesPermit>), Problem> {
        let publish = PublishHead::read(app, head)?;
        publish.payload.check_length(body.len(), &app.config.publish)?;
        let publish = publish.with_body(app, Bytes::copy_from_slice(body))?;
        let bytes = head.query().len() + body.len();
        if bytes <= UNCOUNTED_MAX {
            return Ok((publish, None));
        }
        let mut permit = app.bytes.bytes_permit(head.remote());
        permit.cover(bytes)?;
        Ok((publish, Some(permit)))
    }

    /// Publishes. If the log commits at once, the response is ready at once. Otherwise the response
    /// holds a sender of `under_way`, so that the drain waits for it.
    fn commit(mut self, app: &AppState, permit: Option<BytesPermit>) -> Served<'_> {
        let only = if self.drafts.len() == 1 { self.drafts.pop() } else { None };
        let Some(draft) = only else {
            return later(self.commit_each(app).inspect(move |_| drop(permit)));
        };
        let (topic, is_list) = (draft.topic.clone(), self.is_list);
        match app.registry.publish(draft) {
            Either::Left(outcome) => {
                let outcome = outcome.into_inner();
                if let Ok(published) = &outcome {
                    app.hub.deliver(published.subscribers);
                }
                now(answer(app, &[(topic, outcome)], is_list))
            }
            Either::Right(outcome) => {
                let under_way = app.under_way.upgrade();
                later(outcome.map(move |outcome| {
                    drop((under_way, permit));
                    answer(app, &[(topic, outcome)], is_list)
                }))
            }
        }
    }

    async fn commit_each(self, app: &AppState) -> Result<Answer, Problem> {
        let _under_way = app.under_way.upgrade();
        let publish = async |draft: Draft| {
            let topic = draft.topic.clone();
            (topic, app.registry.publish(draft).await)
        };
        let outcomes = join_all(self.drafts.into_iter().map(publish)).await;
        answer(app, &outcomes, self.is_list)
    }
}

/// The events to publish, one for each topic, and whether the response is a list.
fn drafts(
    app: &AppState,
    query: &Fields<'_>,
    body: Parts,
    key: Option<&Arc<str>>,
) -> Result<(SmallVec<[Draft; 1]>, bool), Problem> {
    let content = match (query.only("content")?, body.content) {
        (Some(_), Some(_)) => {
            return Err(Problem::new(Code::Repeated, "`content` is in the query and in the body"));
        }
        (Some(content), None) => Bytes::copy_from_slice(content.as_bytes()),
        (None, Some(content)) => content,
        (None, None) => {
            let detail = "there is no content: give `content` in the query, a form or a JSON body, or a body of any other \
                          type (Content-Type: text/plain)";
            return Err(Problem::new(Code::ContentMissing, detail));
        }
    };
    let content_max = app.config.publish.event_bytes_max.get();
    if u64::try_from(content.len()).is_ok_and(|length| length > content_max) {
        return Err(Problem::too_large("the content", content_max));
    }
    let name = match (query.only("event")?, &body.event) {
        (Some(_), Some(_)) => return Err(Problem::new(Code::Repeated, "`event` is in the query and in the body")),
        (Some(name), None) => Some(name),
        (None, name) => name.as_deref(),
    };
    // An empty name counts as none, as in the Server-Sent Events format.
    let name = name.filter(|name| !name.is_empty()).map(EventName::parse).transpose();
    let name = name.map_err(|error| Problem::new(Code::BadEvent, format!("`event` is refused: {error}")))?;
    let given = query.all("topic").chain(body.topics.iter().map(String::as_str));
    let (topics, is_list) = app.topics(given, query.dropped() + body.topics_given - body.topics.len())?;
    let events = std::iter::repeat_n((name, content), topics.len());
    let drafts = topics.into_iter().zip(events).map(|(topic, (name, content))| {
        let key = key.cloned();
        Draft { topic, name, content, subscribers: 0, key }
    });
    Ok((drafts.collect(), is_list))
}

/// The `Idempotency-Key`, if the request has one.
fn key(request: &impl Head) -> Result<Option<Arc<str>>, Problem> {
    let Some(value) = request.value("idempotency-key") else { return Ok(None) };
    match visible(value) {
        Some(key) if !key.is_empty() && key.len() <= KEY_BYTES_MAX => Ok(Some(key.into())),
        _ => {
            let detail = format!("Idempotency-Key must have 1 to {KEY_BYTES_MAX} visible ASCII characters");
            Err(Problem::new(Code::BadIdempotencyKey, detail))
        }
    }
}

/// The response. If one topic failed, it is the error, with the receipts of the topics that did not fail.
fn answer(app: &AppState, outcomes: &[(TopicName, Appended)], is_list: bool) -> Result<Answer, Problem> {
    let mut receipts = Vec::with_capacity(RECEIPT_BYTES * outcomes.len());
    let (mut failed, mut replayed) = (None, true);
    let durability = app.log.durability().as_str();
    for (topic, outcome) in outcomes {
        match outcome {
            Ok(receipt) => {
                replayed &= receipt.replayed;
                let before: &[u8] = if receipts.is_empty() { b"" } else { b"," };
                receipts.extend_from_slice(before);
                write_receipt(&mut receipts, topic, *receipt, durability);
            }
            Err(error) => failed = Some(error.problem(RETRY_AFTER)),
        }
    }
    let list = |head: &[u8], tail: &[u8]| [head, &*receipts, tail].concat();
    let body = match (failed, is_list) {
        (None, false) => {
            receipts.push(b'\n');
            receipts
        }
        (None, true) => list(b"{\"published\":[", b"]}\n"),
        (Some(problem), false) => return Err(problem),
        (Some(problem), true) => {
            // Tell the client which topics have got the event, so that it can retry only for the others.
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

/// Appends the receipt for one topic: `{"id","topic","subscribers","durability"}`. It writes the fields one by one,
/// because that is faster, and only the topic's name can need escapes.
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
