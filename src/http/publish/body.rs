//! The body of a publish: raw, a form or JSON.

use bytes::Bytes;
use futures_util::StreamExt as _;

use crate::{
    config::{ENCODED_EXTRA, ENCODED_FACTOR, PublishConfig},
    http::{
        fields::Fields,
        head::{Head, ascii_text},
        payload::Payload,
        problem::{Code, Problem},
    },
    limits::BytesPermit,
};

use super::json::JsonBody;

/// The parameters of a publish, in the query or in a form.
pub(super) const PARAMETERS: [&str; 3] = ["topic", "content", "event"];

/// What a body contains.
#[derive(Default)]
pub(super) struct BodyFields {
    /// The topics. If there are very many, not all are kept.
    pub(super) topics: Vec<String>,
    /// How many other topics the body names.
    pub(super) topics_dropped: usize,
    /// The name of the event.
    pub(super) event: Option<String>,
    pub(super) content: Option<Bytes>,
}

/// The format of a body.
#[derive(Clone, Copy)]
pub(super) enum BodyFormat {
    /// The body is the content. An empty body is content only if the request `has_media_type`: otherwise it cannot be
    /// told from a missing body.
    Raw {
        has_media_type: bool,
    },
    Form,
    Json,
}

impl BodyFormat {
    /// The format that the headers announce.
    pub(super) fn read(head: &impl Head) -> Result<Self, Problem> {
        let unsupported = |detail: String| Problem::new(Code::UnsupportedMediaType, detail);
        let encoding = head.value("content-encoding");
        if encoding.is_some_and(|encoding| !encoding.eq_ignore_ascii_case(b"identity")) {
            return Err(unsupported("the body is encoded; send it without Content-Encoding".to_owned()));
        }
        let header = match head.value("content-type") {
            None => return Ok(Self::Raw { has_media_type: false }),
            // The most frequent one, without a copy.
            Some(b"text/plain") => return Ok(Self::Raw { has_media_type: true }),
            Some(header) => header,
        };
        let text = ascii_text(header).unwrap_or_default().to_ascii_lowercase();
        let mut parts = text.split(';').map(str::trim);
        let media_type = parts.next().unwrap_or_default();
        let charset = parts.find_map(|part| part.strip_prefix("charset=")).map(|name| name.trim_matches('"'));
        if let Some(charset) = charset.filter(|name| !matches!(*name, "utf-8" | "utf8" | "us-ascii")) {
            return Err(unsupported(format!("the body is in {charset}; send UTF-8")));
        }
        match media_type {
            "application/x-www-form-urlencoded" => Ok(Self::Form),
            "application/json" => Ok(Self::Json),
            _ if media_type.starts_with("multipart/") => Err(unsupported(format!(
                "{media_type} is not supported; send a form as application/x-www-form-urlencoded, or raw text"
            ))),
            _ => Ok(Self::Raw { has_media_type: true }),
        }
    }

    /// Refuses a body that is too large.
    pub(super) fn check_length(self, length: usize, config: &PublishConfig) -> Result<(), Problem> {
        let bytes_max = self.bytes_max(config);
        let is_too_large = u64::try_from(length).is_ok_and(|length| length > bytes_max);
        if is_too_large { Err(Problem::too_large("the body", bytes_max)) } else { Ok(()) }
    }

    /// The limit for the size of a body.
    fn bytes_max(self, config: &PublishConfig) -> u64 {
        let content_max = config.event_bytes_max.get();
        match self {
            Self::Raw { .. } => content_max,
            Self::Form | Self::Json => content_max * ENCODED_FACTOR + ENCODED_EXTRA.get(),
        }
    }

    /// Parses a body.
    pub(super) fn parse(self, body: Bytes) -> Result<BodyFields, Problem> {
        match self {
            Self::Raw { has_media_type } => {
                text(&body, "the body")?;
                let content = (has_media_type || !body.is_empty()).then_some(body);
                Ok(BodyFields { content, ..BodyFields::default() })
            }
            Self::Form => parse_form(&body),
            Self::Json => parse_json(text(&body, "the JSON body")?),
        }
    }
}

fn parse_form(bytes: &[u8]) -> Result<BodyFields, Problem> {
    let form = Fields::form(bytes, &PARAMETERS)?;
    // `curl --data hello` sends `hello` as a form.
    if form.is_empty() && !bytes.is_empty() {
        let detail = "the form has no field `content`; to publish the body itself, send it with another Content-Type, \
                      such as text/plain";
        return Err(Problem::new(Code::ContentMissing, detail));
    }
    Ok(BodyFields {
        topics: form.all("topic").map(str::to_owned).collect(),
        topics_dropped: form.topics_dropped(),
        event: form.only("event")?.map(str::to_owned),
        content: form.only("content")?.map(|content| Bytes::copy_from_slice(content.as_bytes())),
    })
}

fn parse_json(text: &str) -> Result<BodyFields, Problem> {
    let bad_json = |error| Problem::new(Code::BadJson, format!("the JSON body cannot be read: {error}"));
    let body = JsonBody::parse(text).map_err(bad_json)?;
    let content = body.content().map_err(bad_json)?.map(Bytes::from);
    let topics = body.topic.unwrap_or_default();
    Ok(BodyFields { topics: topics.kept, topics_dropped: topics.dropped, event: body.event, content })
}

/// The body as text. `what` names it in the error.
fn text<'a>(body: &'a [u8], what: &str) -> Result<&'a str, Problem> {
    std::str::from_utf8(body).map_err(|error| {
        let detail = format!("{what} is not valid UTF-8 at byte {}", error.valid_up_to());
        Problem::new(Code::BadUtf8, detail)
    })
}

/// Receives the whole body.
///
/// `length` is the value of `Content-Length`. The timeout is for the whole body: otherwise a client that sends very
/// slowly could keep its connection for ever.
pub(super) async fn collect(
    format: BodyFormat,
    length: Option<usize>,
    mut payload: Payload,
    config: &PublishConfig,
    permit: &mut BytesPermit,
) -> Result<Bytes, Problem> {
    format.check_length(length.unwrap_or(0), config)?;
    // If there is no room for the announced body now, refuse it before it is sent. But give the room back: clients that
    // announce a large body and send nothing would leave no room for others.
    permit.cover(length.unwrap_or(0))?;
    permit.cover(0)?;
    let len_max = length.unwrap_or_else(|| usize::try_from(format.bytes_max(config)).unwrap_or(usize::MAX));
    let all = async {
        let mut body = Vec::new();
        while let Some(chunk) = payload.next().await {
            let chunk =
                chunk.map_err(|error| Problem::new(Code::BadBody, format!("the body is incomplete: {error}")))?;
            let length = body.len() + chunk.len();
            format.check_length(length, config)?;
            if length > body.capacity() {
                let capacity = grown_capacity(length, body.capacity(), len_max);
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

/// The new capacity for a body of which `len` bytes have arrived. `len_max` is the largest length that it can get.
///
/// The caller needs a new capacity because `len` is more than `capacity`. The capacity at least doubles, or becomes
/// `len_max`, so that the body is not copied for each chunk. It becomes at most twice `len`, so that a client cannot
/// reserve memory without sending bytes.
fn grown_capacity(len: usize, capacity: usize, len_max: usize) -> usize {
    if len > len_max / 2 { len_max.max(len) } else { len.max(2 * capacity) }
}
