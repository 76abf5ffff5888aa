//! The body of a publish: raw, a form or JSON.

use bytes::Bytes;

use crate::{
    config::{ENCODED_EXTRA, ENCODED_FACTOR, PublishConfig},
    http::{
        fields::Fields,
        head::Head,
        payload::{check_encoding, check_length, media_type, text},
        problem::{Code, Problem},
    },
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
        check_encoding(head)?;
        let header = match head.value("content-type") {
            None => return Ok(Self::Raw { has_media_type: false }),
            // The most frequent one, without a copy.
            Some(b"text/plain") => return Ok(Self::Raw { has_media_type: true }),
            Some(header) => header,
        };
        let media_type = media_type(header)?;
        match &*media_type {
            "application/x-www-form-urlencoded" => Ok(Self::Form),
            "application/json" => Ok(Self::Json),
            _ if media_type.starts_with("multipart/") => {
                let detail = format!(
                    "{media_type} is not supported; send a form as application/x-www-form-urlencoded, or raw text"
                );
                Err(Problem::new(Code::UnsupportedMediaType, detail))
            }
            _ => Ok(Self::Raw { has_media_type: true }),
        }
    }

    /// Refuses a body that is too large.
    pub(super) fn check_length(self, length: usize, config: &PublishConfig) -> Result<(), Problem> {
        check_length(length, self.bytes_max(config))
    }

    /// The limit for the size of a body.
    pub(super) fn bytes_max(self, config: &PublishConfig) -> u64 {
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
