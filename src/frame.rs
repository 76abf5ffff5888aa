//! An event to bytes: total and pure. Every stream's bytes after the response head are made here.
//!
//! The format is the event stream of the HTML standard, section 9.2 "Server-sent events". A field ends at CRLF, CR or LF
//! alike, so content is split at all three; names cannot hold any of them ([`crate::event`]). That is
//! what makes a second field or a second event impossible to inject.
//!
//! On HTTP/1.1 every block is one chunk of the response (RFC 9112, section 7.1). The chunk's head is made with the block,
//! once, so that all subscribers are still written the same bytes.

use std::{borrow::Cow, ops::Deref, sync::Arc, time::Duration};

use bytes::Bytes;
use memchr::memchr2;
use serde::Serialize;
use serde_json::json;

use crate::event::{Content, Epoch, Event, EventId, EventName, TopicName};

mod chunk;

pub use chunk::Framing;
use chunk::{block, framed, made};

/// How a subscription wants its events written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Format {
    /// `text/event-stream`, data is the content as published.
    Plain,
    /// `text/event-stream`, data is the event as a JSON object (`envelope=json`).
    Envelope,
    /// `application/x-ndjson`: the JSON object alone, one a line.
    Lines,
}

/// What a stream's bytes look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Encoding {
    /// A block.
    pub format: Format,
    /// What is around it.
    pub framing: Framing,
}

/// How a stream tells its position where there is no event (the parameter `marks`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Marks {
    /// It opens with `broker.open`, an event with data: many clients ignore an id without data, and others deliver one
    /// to the application as an empty message.
    Event,
    /// By blocks that have an id alone, at the opening and while it is quiet. A client that follows the standard
    /// dispatches nothing and resumes from there.
    Id,
    /// Not at all.
    None,
}

/// Why history before a subscriber's position is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GapReason {
    /// Retention, or a deletion, removed events after the cursor.
    Evicted,
    /// The cursor is of another history, or ahead of this one.
    Reset,
    /// The cursor is not an id of ours, or events after it cannot be read from the disk.
    Unreadable,
}

impl GapReason {
    /// Each reason.
    pub const ALL: &[Self] = &[Self::Evicted, Self::Reset, Self::Unreadable];

    /// The word on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Evicted => "evicted",
            Self::Reset => "reset",
            Self::Unreadable => "unreadable",
        }
    }
}

/// A block on its way to subscribers: an event's own, or one made of it for their format. Cheap to clone.
#[derive(Clone, Debug)]
pub enum Frame {
    /// [`Event::frame`].
    Plain(Arc<Event>),
    /// One of its own.
    Made(Bytes),
}

impl Deref for Frame {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Plain(event) => &event.frame,
            Self::Made(bytes) => bytes,
        }
    }
}

impl AsRef<[u8]> for Frame {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

/// The plain block of a new event, chunked, and where its content is.
#[must_use]
pub fn plain(id: EventId, name: Option<&EventName>, content: &[u8]) -> (Box<[u8]>, Content) {
    let (lines, data_len) = measure(content);
    let mut at = 0;
    let out = framed(Framing::Chunked, fields_len(id, name) + data_len, |out| {
        type_field(out, name);
        at = out.len() + "data: ".len();
        data(out, content, lines);
        id_field(out, id);
    });
    let within = (u32::try_from(at).ok().zip(u32::try_from(at + content.len()).ok())).filter(|_| lines == 1);
    (out.into(), within.map_or_else(|| Content::Apart(content.into()), |(start, end)| Content::Within(start..end)))
}

/// `event` as one block (or line) of a stream in `encoding`.
#[must_use]
pub fn event(encoding: Encoding, epoch: Epoch, event: Arc<Event>) -> Frame {
    let Encoding { format, framing } = encoding;
    let id = EventId { epoch, seq: event.seq };
    match (format, framing) {
        (Format::Plain, Framing::Chunked) => Frame::Plain(event),
        (Format::Plain, Framing::Close) => {
            let block = block(&event.frame);
            Frame::Made(Bytes::from_owner(Frame::Plain(event)).slice(block))
        }
        (Format::Envelope, _) => Frame::Made(made(framing, event.frame.len() * 2, |out| {
            type_field(out, event.name.as_ref());
            out.extend_from_slice(b"data: ");
            object(out, id, &event);
            out.push(b'\n');
            id_field(out, id);
        })),
        (Format::Lines, _) => Frame::Made(made(framing, event.frame.len() * 2, |out| {
            object(out, id, &event);
            out.push(b'\n');
        })),
    }
}

/// Where a stream begins, and how it will behave.
#[derive(Clone, Copy, Debug)]
pub struct Opening<'a> {
    /// The time after which a client that has lost the stream comes back.
    pub retry: Duration,
    /// Everything after this follows.
    pub cursor: EventId,
    /// The topics of the stream.
    pub topics: &'a [TopicName],
    /// The longest silence.
    pub heartbeat: Duration,
}

/// The first bytes of a stream: a comment so that proxies pass the head on, the reconnection time, and a position, so that
/// a client that drops before its first event resumes from here. One block, because some clients take each blank line for
/// the end of a message.
#[must_use]
pub fn opening(encoding: Encoding, marks: Marks, opening: Opening<'_>) -> Bytes {
    let Opening { retry, cursor, topics, heartbeat } = opening;
    let (retry, heartbeat) = (millis(retry), millis(heartbeat));
    let topics: Vec<&str> = topics.iter().map(TopicName::as_str).collect();
    let text = match (encoding.format, marks) {
        // The response's head has the cursor, and whatever reads lines expects each to be an event.
        (Format::Lines, _) => "\n".to_owned(),
        (format, Marks::Event) => {
            let data = json!({"cursor": cursor.to_string(), "topics": topics, "heartbeat_ms": heartbeat});
            format!(": tidings\nretry: {retry}\n{}", notice(format, "broker.open", Some(cursor), &data))
        }
        (_, Marks::Id) => format!(": tidings\nretry: {retry}\nid: {cursor}\n\n"),
        (_, Marks::None) => format!(": tidings\nretry: {retry}\n"),
    };
    own(encoding.framing, &text)
}

/// What an idle stream gets: its position, so that a quiet subscriber's cursor does not age out of the history, or just a
/// comment. No blank line follows that: to some clients it would be the end of an empty message.
#[must_use]
pub fn heartbeat(encoding: Encoding, position: Option<EventId>) -> Bytes {
    let text = match (encoding.format, position) {
        (Format::Lines, _) => "\n".to_owned(),
        (_, Some(id)) => format!("id: {id}\n\n"),
        (_, None) => ":\n".to_owned(),
    };
    own(encoding.framing, &text)
}

/// The last bytes of a stream that the broker ends and whose client is to come back after `retry`. Where an id has data,
/// no blank line follows: to some clients it would be the end of an empty message. Comments alone must not be the last,
/// because others take such an end for a reason not to come back.
#[must_use]
pub fn farewell(encoding: Encoding, marks: Marks, retry: Duration, id: EventId) -> Bytes {
    let retry = millis(retry);
    let text = match (encoding.format, marks) {
        (Format::Lines, _) => return end(encoding.framing),
        (_, Marks::Id) => format!("retry: {retry}\nid: {id}\n\n"),
        (_, Marks::Event | Marks::None) => format!("retry: {retry}\n"),
    };
    [own(encoding.framing, &text), end(encoding.framing)].concat().into()
}

/// What follows the last block of a stream that ends cleanly. A client that has not seen it was cut.
#[must_use]
pub fn end(framing: Framing) -> Bytes {
    match framing {
        Framing::Chunked => Bytes::from_static(b"0\r\n\r\n"),
        Framing::Close => Bytes::new(),
    }
}

/// `broker.gap`: events after `requested` are missing; the stream goes on with what is held after `resumed_after`.
#[must_use]
pub fn gap(encoding: Encoding, reason: GapReason, requested: &str, resumed_after: EventId) -> Bytes {
    let data = json!({"reason": reason.as_str(), "requested": requested, "resumed_after": resumed_after.to_string()});
    own(encoding.framing, &notice(encoding.format, "broker.gap", Some(resumed_after), &data))
}

/// `broker.deleted`: the topic was deleted; what the stream still gets of it was published later. It leaves the cursor below
/// the deletion, so that a client that comes back is recognised and told again, or to stop.
#[must_use]
pub fn deleted(encoding: Encoding, topic: &TopicName) -> Bytes {
    own(encoding.framing, &notice(encoding.format, "broker.deleted", None, &json!({"topic": topic.as_str()})))
}

/// The whole stream of a refused subscription: come back after `retry`, why, and nothing more. It has the `cursor` that the
/// client came with, because some clients forget theirs at a block without an id. Its length is known, so it is not
/// chunked.
#[must_use]
pub fn refused(format: Format, retry: Duration, cursor: Option<EventId>, code: &str, message: &str) -> Bytes {
    let retry = millis(retry);
    let notice =
        notice(format, "broker.refused", cursor, &json!({"code": code, "message": message, "retry_ms": retry}));
    match format {
        Format::Lines => notice.into(),
        Format::Plain | Format::Envelope => format!("retry: {retry}\n{notice}").into(),
    }
}

/// A block of the broker's own. It carries no id when the cursor must stay where it is.
fn notice(format: Format, name: &str, id: Option<EventId>, data: &serde_json::Value) -> String {
    match format {
        Format::Lines => {
            let id = id.map(|id| id.to_string());
            format!("{}\n", json!({"id": id, "event": name, "data": data}))
        }
        Format::Plain | Format::Envelope => {
            let id = id.map(|id| format!("id: {id}\n")).unwrap_or_default();
            format!("event: {name}\ndata: {data}\n{id}\n")
        }
    }
}

fn own(framing: Framing, text: &str) -> Bytes {
    framed(framing, text.len(), |out| out.extend_from_slice(text.as_bytes())).into()
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

const DATA_LEN: usize = "data: \n".len();

fn fields_len(id: EventId, name: Option<&EventName>) -> usize {
    name.map_or(0, |name| "event: \n".len() + name.as_str().len()) + "id: \n\n".len() + id.text_len()
}

fn type_field(out: &mut Vec<u8>, name: Option<&EventName>) {
    if let Some(name) = name {
        out.extend_from_slice(b"event: ");
        out.extend_from_slice(name.as_str().as_bytes());
        out.push(b'\n');
    }
}

/// The last line of a block. Some clients take an id when its line comes, and not with the block: one that is cut in the
/// middle of an event would come back with the id of what it does not have.
fn id_field(out: &mut Vec<u8>, id: EventId) {
    out.extend_from_slice(b"id: ");
    id.write(out);
    out.extend_from_slice(b"\n\n");
}

/// The lines of `content`, and what they take as `data` lines.
fn measure(content: &[u8]) -> (usize, usize) {
    let (mut rest, mut lines, mut breaks) = (content, 1, 0);
    while let Some(at) = memchr2(b'\r', b'\n', rest) {
        let after = rest.get(at..).unwrap_or_default();
        let width = if after.starts_with(b"\r\n") { 2 } else { 1 };
        (lines, breaks) = (lines + 1, breaks + width);
        rest = after.get(width..).unwrap_or_default();
    }
    (lines, content.len() - breaks + lines * DATA_LEN)
}

/// Writes `content` as `data` lines, one for each of its `lines`. The parser takes one blank after the colon away and
/// joins the lines with LF, so leading blanks and empty lines survive.
fn data(out: &mut Vec<u8>, content: &[u8], lines: usize) {
    let mut rest = content;
    for _ in 0..lines {
        // The common content is one line, which has been looked through already.
        let end = if lines == 1 { None } else { memchr2(b'\r', b'\n', rest) };
        let (line, tail) = rest.split_at(end.unwrap_or(rest.len()));
        out.extend_from_slice(b"data: ");
        out.extend_from_slice(line);
        out.push(b'\n');
        rest = match tail {
            [b'\r', b'\n', rest @ ..] | [_, rest @ ..] => rest,
            [] => tail,
        };
    }
}

/// An event as `envelope=json` and NDJSON have it.
#[derive(Serialize)]
struct Envelope<'a> {
    id: String,
    topic: &'a str,
    /// Null when the publisher named none.
    event: Option<&'a str>,
    time: String,
    data: Cow<'a, str>,
}

/// Writes the event as compact JSON.
fn object(out: &mut Vec<u8>, id: EventId, event: &Event) {
    let time = std::time::UNIX_EPOCH + Duration::from_millis(event.time_ms);
    let envelope = Envelope {
        id: id.to_string(),
        topic: event.topic.as_str(),
        event: event.name.as_ref().map(EventName::as_str),
        time: humantime::format_rfc3339_millis(time).to_string(),
        // The edge let only UTF-8 in (`http::publish`).
        data: String::from_utf8_lossy(event.content()),
    };
    let written = serde_json::to_writer(out, &envelope);
    debug_assert!(written.is_ok(), "text, into memory");
}
