//! `GET|POST|PUT /publish`: one event to one or more topics; answered when the log has it.

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
/// What the answer for one topic takes, unless the topic's name is long.
const RECEIPT_BYTES: usize = 160;
/// What a publisher waits before it tries again when the server cannot take the event.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Serves `/publish`.
pub(super) fn serve<'a>(app: &'a AppState, head: &impl Head, body: Body<'_>) -> Served<'a> {
    match body {
        Body::Whole(body) => match Publish::read(app, head, body) {
            Ok((publish, permit)) => publish.commit(app, permit),
            Err(problem) => now(Err(problem)),
        },
        Body::Coming(payload) => match PublishHead::read(app, head) {
            // It is refused before its body is waited for.
            Err(problem) => now(Err(problem)),
            Ok(publish) => {
                let length = head.text("content-length").and_then(|length| length.parse().ok());
                later(receive(app, publish.into_owned(), length, payload))
            }
        },
    }
}

/// Waits for the body, then publishes.
async fn receive(app: &AppState, head: PublishHead<'static>, length: Option<usize>, payload: Payload) -> Reply {
    let Some(_under_way) = app.under_way.upgrade() else { return Err(AppState::draining()).into() };
    // Held until the log has the content.
    let mut permit = app.bytes.permit(head.remote);
    let received = body::collect(&head.payload, length, payload, &app.config.publish, &mut permit).await;
    match received.and_then(|body| head.with_body(app, body)) {
        Ok(publish) => publish.commit(app, Some(permit)).await,
        Err(problem) => Err(problem).into(),
    }
}

/// What the head of a publish says.
struct PublishHead<'a> {
    query: Fields<'a>,
    payload: PayloadHead,
    key: Option<Arc<str>>,
    remote: Option<IpAddr>,
}

/// A publish.
struct Publish {
    /// One a topic.
    drafts: SmallVec<[Draft; 1]>,
    /// The answer is a list.
    several: bool,
}

/// Whether a publish may be taken.
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
        let (drafts, several) = drafts(app, &self.query, self.payload.parse(body)?, self.key.as_ref())?;
        Ok(Publish { drafts, several })
    }
}

impl Publish {
    /// Reads a request whose body is at hand. It comes with a permit for what it keeps while it waits for the log; none is
    /// made where it would count nothing.
    fn read(app: &AppState, head: &impl Head, body: &[u8]) -> Result<(Self, Option<BytesPermit>), Problem> {
        let publish = PublishHead::read(app, head)?;
        publish.payload.check_length(body.len(), &app.config.publish)?;
        let publish = publish.with_body(app, Bytes::copy_from_slice(body))?;
        let bytes = head.query().len() + body.len();
        if bytes <= UNCOUNTED_MAX {
            return Ok((publish, None));
        }
        let mut permit = app.bytes.permit(head.remote());
        permit.cover(bytes)?;
        Ok((publish, Some(permit)))
    }

    /// Publishes; now, where the log commits at once. A drain waits for what has to wait: it cannot have ended since the
    /// request was checked, because it waits for this worker's hub, too.
    fn commit(mut self, app: &AppState, permit: Option<BytesPermit>) -> Served<'_> {
        let only = if self.drafts.len() == 1 { self.drafts.pop() } else { None };
        let Some(draft) = only else {
            return later(self.commit_each(app).inspect(move |_| drop(permit)));
        };
        let (topic, several) = (draft.topic.clone(), self.several);
        match app.registry.publish(draft) {
            Either::Left(outcome) => {
                let outcome = outcome.into_inner();
                if let Ok(published) = &outcome {
                    app.hub.deliver(published.subscribers);
                }
                now(answer(app, &[(topic, outcome)], several))
            }
            Either::Right(outcome) => {
                let under_way = app.under_way.upgrade();
                later(outcome.map(move |outcome| {
                    drop((under_way, permit));
                    answer(app, &[(topic, outcome)], several)
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
        answer(app, &outcomes, self.several)
    }
}

/// The events to publish, one a topic, and whether the answer is a list.
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
    // An empty one is unset, as in the stream's own format.
    let name = name.filter(|name| !name.is_empty()).map(EventName::parse).transpose();
    let name = name.map_err(|error| Problem::new(Code::BadEvent, format!("`event` is refused: {error}")))?;
    let given = query.all("topic").chain(body.topics.iter().map(String::as_str));
    let (topics, several) = app.topics(given, query.dropped() + body.topics_given - body.topics.len())?;
    let events = std::iter::repeat_n((name, content), topics.len());
    let drafts = topics.into_iter().zip(events).map(|(topic, (name, content))| {
        let key = key.cloned();
        Draft { topic, name, content, subscribers: 0, key }
    });
    Ok((drafts.collect(), several))
}

fn key(request: &impl Head) -> Result<Option<Arc<str>>, Problem> {
    let Some(value) = request.value("idempotency-key") else { return Ok(None) };
    match visible(value) {
        Some(key) if !key.is_empty() && key.len() <= KEY_BYTES_MAX => Ok(Some(key.into())),
        _ => {
            let detail = format!("Idempotency-Key takes 1 to {KEY_BYTES_MAX} visible ASCII characters");
            Err(Problem::new(Code::BadIdempotencyKey, detail))
        }
    }
}

fn answer(app: &AppState, outcomes: &[(TopicName, Appended)], several: bool) -> Result<Answer, Problem> {
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
fn write_receipt(out: &mut Vec<u8>, topic: &TopicName, receipt: Receipt, durability: &str) {
    out.extend_from_slice(b"{\"id\":\"");
    receipt.id.write(out);
    out.extend_from_slice(b"\",\"topic\":");
    let written = serde_json::to_writer(&mut *out, topic.as_str());
    debug_assert!(written.is_ok(), "a string, into memory");
    out.extend_from_slice(b",\"subscribers\":");
    out.extend_from_slice(itoa::Buffer::new().format(receipt.subscribers).as_bytes());
    out.extend_from_slice(b",\"durability\":\"");
    out.extend_from_slice(durability.as_bytes());
    out.extend_from_slice(b"\"}");
}
