//! The body of a publish: raw, a form or JSON.

use bytes::Bytes;
use futures_util::{StreamExt as _, stream::LocalBoxStream};

use crate::{
    config::{ENCODED_EXTRA, ENCODED_FACTOR, PublishConfig},
    http::{
        fields::Fields,
        head::{Head, visible},
        problem::{Code, Problem},
    },
    limits::BytesPermit,
};

use super::{PARAMETERS, json::JsonBody};

/// A body that is on its way, or why it broke off.
pub(in crate::http) type Payload = LocalBoxStream<'static, Result<Bytes, String>>;

/// What a body says.
#[derive(Default)]
pub(super) struct Parts {
    pub(super) topics: Vec<String>,
    /// How many there were; of very many not all are kept.
    pub(super) topics_given: usize,
    pub(super) event: Option<String>,
    pub(super) content: Option<Bytes>,
}

/// What the head says of the body.
pub(super) struct PayloadHead {
    kind: Kind,
    /// It has a `Content-Type`, which announces a body, be it an empty one.
    is_announced: bool,
}

/// How a body is to be read.
#[derive(Clone, Copy)]
enum Kind {
    Raw,
    Form,
    Json,
}

impl PayloadHead {
    pub(super) fn read(head: &impl Head) -> Result<Self, Problem> {
        let media_type = head.value("content-type");
        Ok(Self { kind: Kind::of(head, media_type)?, is_announced: media_type.is_some() })
    }

    /// Refuses a body that is larger than the largest.
    pub(super) fn check_length(&self, length: usize, config: &PublishConfig) -> Result<(), Problem> {
        let bytes_max = self.kind.bytes_max(config);
        let is_too_large = u64::try_from(length).is_ok_and(|length| length > bytes_max);
        if is_too_large { Err(Problem::too_large("the body", bytes_max)) } else { Ok(()) }
    }

    pub(super) fn parse(&self, body: Bytes) -> Result<Parts, Problem> {
        match self.kind {
            Kind::Raw => Parts::raw(body, self.is_announced),
            Kind::Form => Parts::form(&body),
            Kind::Json => Parts::json(&body),
        }
    }
}

impl Kind {
    /// As the head says.
    fn of(head: &impl Head, media_type: Option<&[u8]>) -> Result<Self, Problem> {
        let unsupported = |detail: String| Problem::new(Code::UnsupportedMediaType, detail);
        let encoding = head.value("content-encoding");
        if encoding.is_some_and(|encoding| !encoding.eq_ignore_ascii_case(b"identity")) {
            return Err(unsupported("the body is encoded; send it without Content-Encoding".to_owned()));
        }
        let Some(media_type) = media_type.filter(|value| *value != b"text/plain") else { return Ok(Self::Raw) };
        let text = visible(media_type).unwrap_or_default().to_ascii_lowercase();
        let mut parts = text.split(';').map(str::trim);
        let essence = parts.next().unwrap_or_default();
        let charset = parts.find_map(|part| part.strip_prefix("charset=")).map(|name| name.trim_matches('"'));
        if let Some(charset) = charset.filter(|name| !matches!(*name, "utf-8" | "utf8" | "us-ascii")) {
            return Err(unsupported(format!("the body is in {charset}; send UTF-8")));
        }
        match essence {
            "application/x-www-form-urlencoded" => Ok(Self::Form),
            "application/json" => Ok(Self::Json),
            _ if essence.starts_with("multipart/") => Err(unsupported(format!(
                "{essence} is not taken; send a form as application/x-www-form-urlencoded, or raw text"
            ))),
            _ => Ok(Self::Raw),
        }
    }

    /// The largest body.
    fn bytes_max(self, config: &PublishConfig) -> u64 {
        let content_max = config.event_bytes_max.get();
        match self {
            Self::Raw => content_max,
            Self::Form | Self::Json => content_max * ENCODED_FACTOR + ENCODED_EXTRA.get(),
        }
    }
}

impl Parts {
    fn raw(body: Bytes, is_announced: bool) -> Result<Self, Problem> {
        if let Err(error) = std::str::from_utf8(&body) {
            let detail = format!("the body is not valid UTF-8 at byte {}", error.valid_up_to());
            return Err(Problem::new(Code::BadUtf8, detail));
        }
        let is_given = is_announced || !body.is_empty();
        Ok(Self { content: is_given.then_some(body), ..Self::default() })
    }

    fn form(bytes: &[u8]) -> Result<Self, Problem> {
        let form = Fields::form(bytes, &PARAMETERS)?;
        let content = form.only("content")?;
        if content.is_none() && !bytes.is_empty() {
            let detail = "the form has no field `content`; to send the body as it is, give it another \
                          Content-Type, such as text/plain";
            return Err(Problem::new(Code::ContentMissing, detail));
        }
        let topics: Vec<String> = form.all("topic").map(str::to_owned).collect();
        Ok(Self {
            topics_given: topics.len() + form.dropped(),
            topics,
            event: form.only("event")?.map(str::to_owned),
            content: content.map(|content| Bytes::copy_from_slice(content.as_bytes())),
        })
    }

    fn json(bytes: &[u8]) -> Result<Self, Problem> {
        let bad_json = |error| Problem::new(Code::BadJson, format!("the JSON body cannot be read: {error}"));
        let text = std::str::from_utf8(bytes).map_err(|error| {
            let detail = format!("the JSON body is not valid UTF-8 at byte {}", error.valid_up_to());
            Problem::new(Code::BadUtf8, detail)
        })?;
        let mut body = JsonBody::parse(text).map_err(bad_json)?;
        let content = body.content().map_err(bad_json)?.map(Bytes::from);
        let topics = body.topics();
        Ok(Self { topics: topics.kept, topics_given: topics.given, event: body.event, content })
    }
}

/// The whole body, if it is not too large and comes in time: a sender that dribbles would hold its connection for ever.
/// `length` is what the head says of it.
pub(super) async fn collect(
    head: &PayloadHead,
    length: Option<usize>,
    mut payload: Payload,
    config: &PublishConfig,
    permit: &mut BytesPermit,
) -> Result<Bytes, Problem> {
    head.check_length(length.unwrap_or(0), config)?;
    // One that has no room now is refused before it is sent. It takes its room only as it comes: heads that promise much,
    // and send nothing, would otherwise use up what others need.
    permit.cover(length.unwrap_or(0))?;
    permit.cover(0)?;
    let most = length.unwrap_or_else(|| usize::try_from(head.kind.bytes_max(config)).unwrap_or(usize::MAX));
    let all = async {
        let mut body = Vec::new();
        while let Some(chunk) = payload.next().await {
            let chunk = chunk.map_err(|error| Problem::new(Code::BadBody, format!("the body broke off: {error}")))?;
            let length = body.len() + chunk.len();
            head.check_length(length, config)?;
            if length > body.capacity() {
                let capacity = grown(length, body.capacity(), most);
                permit.cover(capacity)?;
                body.reserve_exact(capacity - body.len());
            }
            body.extend_from_slice(&chunk);
        }
        Ok(Bytes::from(body))
    };
    tokio::time::timeout(config.body_timeout, all).await.unwrap_or_else(|_| {
        let detail = format!("the body did not arrive within {}", humantime::format_duration(config.body_timeout));
        Err(Problem::new(Code::BodyTimeout, detail))
    })
}

/// Room for a body of which `length` bytes have come: at least as much again as there was, so that it is not moved for each
/// chunk, at most twice what has come, and never more than the `most` there will be.
fn grown(length: usize, capacity: usize, most: usize) -> usize {
    if length > most / 2 { most.max(length) } else { length.max(2 * capacity) }
}
