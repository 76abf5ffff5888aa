//! `GET|POST|PUT /publish`: one event to one or more topics; answered when the log has it.

use std::{sync::Arc, time::Duration};

use actix_web::{
    HttpRequest, HttpResponse,
    http::{Method, StatusCode, header},
    web,
};
use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt as _, future::join_all};
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};

use super::{Edge, fields::Fields, origin, problem::Problem};
use crate::{
    event::{EventName, TopicName},
    hub::Carrier,
    log::{AppendError, Draft},
    registry::RegistryError,
    topic::{PublishError, Published},
};

/// The longest `Idempotency-Key`.
const KEY_BYTES_MAX: usize = 128;
/// What a publisher waits before it tries again when the server cannot take the event.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// How long a client may go on sending a body that has been refused.
const LINGER: Duration = Duration::from_secs(2);
/// How much larger than the content a form or a JSON body may be: either can spell a byte with six (`\u0000`).
const ENCODED_FACTOR: u64 = 6;
/// What a form or a JSON body may hold besides the content.
const ENCODED_EXTRA: u64 = 64 << 10;

pub(super) async fn publish(
    edge: web::Data<Edge>,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, Problem> {
    let allow_get = edge.config.publish.allow_get;
    let allowed =
        matches!(*request.method(), Method::POST | Method::PUT) || (*request.method() == Method::GET && allow_get);
    if !allowed {
        return Err(Problem::method_not_allowed(if allow_get { "GET, POST, PUT" } else { "POST, PUT" }));
    }
    origin::check(&request, &edge.config.cors)?;
    edge.check_open()?;
    let _under_way = edge.under_way.upgrade();
    let query = Fields::parse(request.query_string().as_bytes(), "the query", &[])?;
    let body = Body::read(&edge, &request, payload).await.inspect_err(|_| {
        // The rest of the body is not waited for.
        request.conn_data::<Carrier>().into_iter().for_each(|carrier| carrier.end_reading_in(LINGER));
    })?;
    let (drafts, several) = drafts(&edge, &query, body)?;
    let key = key(&request)?;
    let published = drafts.into_iter().map(|draft| async {
        let topic = draft.topic.clone();
        (topic, edge.registry.publish(draft, key.clone()).await)
    });
    answer(&edge, join_all(published).await, several)
}

/// What the body says.
#[derive(Default)]
struct Body {
    topics: Vec<String>,
    event: Option<String>,
    content: Option<Bytes>,
}

/// The JSON body.
#[derive(Deserialize)]
struct JsonBody {
    #[serde(default)]
    topic: Option<Topics>,
    #[serde(default)]
    event: Option<String>,
    /// Absent is not null: null is content.
    #[serde(default, deserialize_with = "present")]
    content: Option<Value>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Topics {
    One(String),
    Several(Vec<String>),
}

fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}

impl Body {
    async fn read(edge: &Edge, request: &HttpRequest, payload: web::Payload) -> Result<Self, Problem> {
        let kind = kind(request)?;
        let content_max = edge.config.publish.event_bytes_max.get();
        let bytes_max = match kind {
            Kind::Raw => content_max,
            Kind::Form | Kind::Json => content_max * ENCODED_FACTOR + ENCODED_EXTRA,
        };
        let bytes = collect(request, payload, bytes_max, edge.config.publish.body_timeout).await?;
        match kind {
            Kind::Raw => Self::raw(request, bytes),
            Kind::Form => {
                let form = Fields::parse(&bytes, "the form", &[])?;
                let content = form.only("content")?;
                if content.is_none() && !bytes.is_empty() {
                    let detail = "the form has no field `content`; to send the body as it is, give it another \
                                  Content-Type, such as text/plain";
                    return Err(Problem::bad_request("content_missing", detail));
                }
                Ok(Self {
                    topics: form.all("topic").map(str::to_owned).collect(),
                    event: form.only("event")?.map(str::to_owned),
                    content: content.map(|content| Bytes::copy_from_slice(content.as_bytes())),
                })
            }
            Kind::Json => Self::json(&bytes),
        }
    }

    fn raw(request: &HttpRequest, bytes: Bytes) -> Result<Self, Problem> {
        if let Err(error) = std::str::from_utf8(&bytes) {
            let detail = format!("the body is not valid UTF-8 at byte {}", error.valid_up_to());
            return Err(Problem::bad_request("bad_utf8", detail));
        }
        // A Content-Type announces a body, be it an empty one.
        let announced = !bytes.is_empty() || request.headers().contains_key(header::CONTENT_TYPE);
        Ok(Self { content: announced.then_some(bytes), ..Self::default() })
    }

    fn json(bytes: &[u8]) -> Result<Self, Problem> {
        let body: JsonBody = serde_json::from_slice(bytes).map_err(|error| {
            let code = if std::str::from_utf8(bytes).is_err() { "bad_utf8" } else { "bad_json" };
            Problem::bad_request(code, format!("the JSON body cannot be read: {error}"))
        })?;
        let topics = match body.topic {
            None => Vec::new(),
            Some(Topics::One(topic)) => vec![topic],
            Some(Topics::Several(topics)) => topics,
        };
        let content = body.content.map(|content| match content {
            Value::String(text) => text.into(),
            other => other.to_string().into(),
        });
        Ok(Self { topics, event: body.event, content })
    }
}

enum Kind {
    Raw,
    Form,
    Json,
}

/// How the body is to be read.
fn kind(request: &HttpRequest) -> Result<Kind, Problem> {
    let unsupported =
        |detail: String| Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", detail);
    let encoding = request.headers().get(header::CONTENT_ENCODING).map(header::HeaderValue::as_bytes);
    if encoding.is_some_and(|encoding| !encoding.eq_ignore_ascii_case(b"identity")) {
        return Err(unsupported("the body is encoded; send it without Content-Encoding".to_owned()));
    }
    let Some(value) = request.headers().get(header::CONTENT_TYPE) else { return Ok(Kind::Raw) };
    let text = value.to_str().unwrap_or_default().to_ascii_lowercase();
    let mut parts = text.split(';').map(str::trim);
    let essence = parts.next().unwrap_or_default();
    let charset = parts.find_map(|part| part.strip_prefix("charset=")).map(|name| name.trim_matches('"'));
    if let Some(charset) = charset.filter(|name| !matches!(*name, "utf-8" | "utf8" | "us-ascii")) {
        return Err(unsupported(format!("the body is in {charset}; send UTF-8")));
    }
    match essence {
        "application/x-www-form-urlencoded" => Ok(Kind::Form),
        "application/json" => Ok(Kind::Json),
        _ if essence.starts_with("multipart/") => {
            let detail =
                format!("{essence} is not taken; send a form as application/x-www-form-urlencoded, or raw text");
            Err(unsupported(detail))
        }
        _ => Ok(Kind::Raw),
    }
}

/// The whole body, if it is not too large and comes in time: a sender that dribbles would hold its connection for ever.
async fn collect(
    request: &HttpRequest,
    mut payload: web::Payload,
    bytes_max: u64,
    timeout: Duration,
) -> Result<Bytes, Problem> {
    let too_large = || Problem::too_large("the body", bytes_max);
    let announced = request.headers().get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    if announced.is_some_and(|length: u64| length > bytes_max) {
        return Err(too_large());
    }
    let all = async {
        let mut body = BytesMut::new();
        while let Some(chunk) = payload.next().await {
            let chunk =
                chunk.map_err(|error| Problem::bad_request("bad_body", format!("the body broke off: {error}")))?;
            if u64::try_from(body.len() + chunk.len()).is_ok_and(|length| length > bytes_max) {
                return Err(too_large());
            }
            if body.is_empty()
                && announced.is_some_and(|length| u64::try_from(chunk.len()).is_ok_and(|got| got == length))
            {
                return Ok(chunk);
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body.freeze())
    };
    tokio::time::timeout(timeout, all).await.unwrap_or_else(|_| {
        let detail = format!("the body did not arrive within {}", humantime::format_duration(timeout));
        Err(Problem::new(StatusCode::REQUEST_TIMEOUT, "body_timeout", detail))
    })
}

/// The events to publish, one a topic, and whether the answer is a list.
fn drafts(edge: &Edge, query: &Fields, body: Body) -> Result<(Vec<Draft>, bool), Problem> {
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
    let (topics, several) = edge.topics(given)?;
    let draft = |topic: TopicName| Draft { topic, name: name.clone(), content: content.clone(), key: None };
    Ok((topics.into_iter().map(draft).collect(), several))
}

fn key(request: &HttpRequest) -> Result<Option<Arc<str>>, Problem> {
    let Some(value) = request.headers().get("idempotency-key") else { return Ok(None) };
    match value.to_str() {
        Ok(key) if !key.is_empty() && key.len() <= KEY_BYTES_MAX => Ok(Some(key.into())),
        _ => {
            let detail = format!("Idempotency-Key takes 1 to {KEY_BYTES_MAX} visible ASCII characters");
            Err(Problem::bad_request("bad_idempotency_key", detail))
        }
    }
}

type Outcome = (TopicName, Result<Published, RegistryError<PublishError>>);

fn answer(edge: &Edge, outcomes: Vec<Outcome>, several: bool) -> Result<HttpResponse, Problem> {
    let mut receipts = Vec::with_capacity(outcomes.len());
    let (mut failed, mut replayed) = (None, true);
    for (topic, outcome) in outcomes {
        match outcome {
            Ok(published) => {
                replayed &= published.replayed;
                receipts.push(json!({
                    "id": published.id.to_string(),
                    "topic": topic.as_str(),
                    "subscribers": published.subscribers,
                    "durability": edge.log.durability().as_str(),
                }));
            }
            Err(error) => failed = Some(refusal(error)),
        }
    }
    if let Some(problem) = failed {
        // Of several topics some may have the event: say which, so that a retry need not guess.
        return Err(if several { problem.with("published", receipts) } else { problem });
    }
    let mut response = HttpResponse::Ok();
    if replayed {
        response.insert_header(("idempotency-replayed", "true"));
    }
    response.insert_header((header::CACHE_CONTROL, "no-store"));
    Ok(response.json(if several { json!({"published": receipts}) } else { receipts.pop().unwrap_or_default() }))
}

fn refusal(error: RegistryError<PublishError>) -> Problem {
    let detail = error.to_string();
    match error {
        RegistryError::TooManyTopics(_) => Problem::unavailable("too_many_topics", detail, RETRY_AFTER),
        RegistryError::Topic(PublishError::KeyReused) => {
            Problem::new(StatusCode::CONFLICT, "idempotency_key_reused", detail)
        }
        RegistryError::Topic(PublishError::NotStarted | PublishError::Log(AppendError::Unavailable)) => {
            Problem::unavailable("unavailable", detail, RETRY_AFTER)
        }
        RegistryError::Topic(PublishError::Log(AppendError::QueueFull)) => {
            Problem::unavailable("queue_full", detail, RETRY_AFTER)
        }
        RegistryError::Topic(PublishError::Log(AppendError::DiskFull)) => {
            Problem::new(StatusCode::INSUFFICIENT_STORAGE, "disk_full", detail).retry_after(RETRY_AFTER)
        }
        RegistryError::Topic(PublishError::Unknown | PublishError::Log(AppendError::Unknown)) => {
            let detail = format!("{detail}; a retry with the same Idempotency-Key settles it");
            Problem::unavailable("outcome_unknown", detail, RETRY_AFTER)
        }
    }
}
