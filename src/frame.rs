//! Encodes events and the broker's own notices. All bytes of a stream that follow the response's head are made here.
//!
//! The format is the event stream of the HTML standard, section 9.2 "Server-sent events". CRLF, CR and LF each end a
//! field, so content is split at all three, and names cannot contain any of them ([`crate::event`]). Therefore a
//! publisher cannot inject a second field or a second event.
//!
//! On HTTP/1.1 every block is one chunk of the response (RFC 9112, section 7.1). The chunk's head is made together
//! with the block, so that all subscribers get the same bytes.
//!
//! A blank line ends a block. After a block without data, some clients deliver an empty message at the blank line. So
//! blocks without data have no blank line, except where the client needs the id.

use std::{
    borrow::Cow,
    fmt::Display,
    iter,
    ops::Deref,
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use bytes::Bytes;
use memchr::memchr2;
use serde::Serialize;
use serde_json::json;

use crate::event::{Content, Epoch, Event, EventId, EventName, StopId, TopicName};

mod chunk;
#[cfg(test)]
mod fuzz;

pub use chunk::Framing;
use chunk::{block_range, frame_of_about, frame_of_len};

/// How a subscription wants its events encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Format {
    /// `text/event-stream`, data is the content as published.
    Plain,
    /// `text/event-stream`, data is the event as a JSON object (`envelope=json`).
    Envelope,
    /// `application/x-ndjson`: only the JSON object, one a line.
    Lines,
}

/// The format of a stream, and its framing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Encoding {
    /// The format of each block.
    pub format: Format,
    /// What surrounds a block.
    pub framing: Framing,
}

/// How a stream tells its client its position where there is no event (the parameter `marks`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Marks {
    /// The stream opens with `broker.open`, an event with data, for clients that ignore an id without data.
    Event,
    /// The stream sends blocks that have only an id, at its opening and while it is quiet. A client that follows the
    /// standard dispatches no event for them, and resumes from that id.
    Id,
    /// The stream tells no position.
    None,
}

/// Why events are missing that a subscriber asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GapReason {
    /// Events after the cursor were removed by retention or a deletion, or lost when the machine stopped.
    Evicted,
    /// The cursor belongs to another history, or is ahead of this history.
    Reset,
    /// The cursor is not an id of this broker, or events could not be read from the disk.
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

/// An encoded block with its framing: the bytes that are sent. Cheap to clone.
#[derive(Clone, Debug)]
pub enum Frame {
    /// The bytes that the event holds: [`Event::frame`].
    Event(Arc<Event>),
    /// An event in bytes of its own, and when it was committed: [`Event::time_ms`].
    Encoded(Bytes, u64),
    /// A notice.
    Made(Bytes),
}

impl Frame {
    /// When the event was committed; `None` if this is no event.
    #[must_use]
    pub fn time_ms(&self) -> Option<u64> {
        match self {
            Self::Event(event) => Some(event.time_ms),
            Self::Encoded(_, time_ms) => Some(*time_ms),
            Self::Made(_) => None,
        }
    }
}

impl Deref for Frame {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Event(event) => &event.frame,
            Self::Encoded(bytes, _) | Self::Made(bytes) => bytes,
        }
    }
}

impl AsRef<[u8]> for Frame {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

/// Makes an event, one that is new or one that is read from the disk, with its block in the format [`Format::Plain`].
#[must_use]
pub fn encode(id: EventId, time_ms: u64, topic: TopicName, name: Option<EventName>, content: &[u8]) -> Arc<Event> {
    // The chunk's head has the length of the block, so the length is computed first.
    let (mut line_count, mut data_len) = (0, 0);
    for line in lines(content) {
        line_count += 1;
        data_len += "data: \n".len() + line.len();
    }
    let name_len = name.as_ref().map_or(0, |name| "event: \n".len() + name.as_str().len());
    let len = name_len + data_len + "id: \n\n".len() + id.text_len();
    let mut start = 0;
    let frame = frame_of_len(Framing::Chunked, len, |out| {
        write_name(out, name.as_ref());
        start = out.len() + "data: ".len();
        if line_count == 1 {
            // `content` was searched for line breaks already.
            write_data(out, content);
        } else {
            lines(content).for_each(|line| write_data(out, line));
        }
        write_id(out, id);
    });
    let content = match line_count {
        1 => Content::Within(start..start + content.len()),
        _ => Content::Apart(content.into()),
    };
    Arc::new(Event { seq: id.seq, time_ms, topic, name, content, frame: frame.into() })
}

/// `event` as one block (or line) of a stream in `encoding`.
#[must_use]
pub fn event(encoding: Encoding, epoch: Epoch, event: Arc<Event>) -> Frame {
    let Encoding { format, framing } = encoding;
    let (id, time_ms) = (EventId { epoch, seq: event.seq }, event.time_ms);
    let bytes = match (format, framing) {
        (Format::Plain, Framing::Chunked) => return Frame::Event(event),
        (Format::Plain, Framing::Close) => {
            let range = block_range(&event.frame);
            Bytes::from_owner(Frame::Event(event)).slice(range)
        }
        (Format::Envelope, _) => frame_of_about(framing, event.frame.len() * 2, |out| {
            write_name(out, event.name.as_ref());
            out.extend_from_slice(b"data: ");
            write_object(out, id, &event);
            out.push(b'\n');
            write_id(out, id);
        }),
        (Format::Lines, _) => frame_of_about(framing, event.frame.len() * 2, |out| {
            write_object(out, id, &event);
            out.push(b'\n');
        }),
    };
    Frame::Encoded(bytes, time_ms)
}

/// What a stream's first block tells its client.
#[derive(Clone, Copy, Debug)]
pub struct Opening<'a> {
    /// How long a client that has lost the stream waits before it reconnects.
    pub retry: Duration,
    /// The stream has the events after this position.
    pub cursor: EventId,
    /// The topics of the stream.
    pub topics: &'a [TopicName],
    /// The longest time without a byte.
    pub heartbeat: Duration,
}

/// The first block of a stream, which makes proxies forward the response's head. In NDJSON it is an empty line. In an
/// event stream it consists of a comment, the reconnection time, and, unless `marks` is none, a position. If
/// the connection breaks before the first event, the client resumes from that position.
#[must_use]
pub fn opening(encoding: Encoding, marks: Marks, opening: Opening<'_>) -> Bytes {
    let Opening { retry, cursor, topics, heartbeat } = opening;
    let (retry, heartbeat) = (retry.as_millis(), heartbeat.as_millis());
    let topics: Vec<&str> = topics.iter().map(TopicName::as_str).collect();
    let text = match (encoding.format, marks) {
        // A client expects each line that is not empty to be an event. The cursor is in the response's head.
        (Format::Lines, _) => "\n".to_owned(),
        (format, Marks::Event) => {
            let data = json!({"cursor": cursor.to_string(), "topics": topics, "heartbeat_ms": heartbeat});
            format!(": tidings\nretry: {retry}\n{}", notice(format, "broker.open", Some(cursor), &data))
        }
        (_, Marks::Id) => format!(": tidings\nretry: {retry}\nid: {cursor}\n\n"),
        (_, Marks::None) => format!(": tidings\nretry: {retry}\n"),
    };
    text_block(encoding.framing, &text)
}

/// What a quiet stream sends: a comment; or its position, so that the client's cursor does not fall behind the retained
/// history.
#[must_use]
pub fn heartbeat(encoding: Encoding, position: Option<EventId>) -> Bytes {
    let text = match (encoding.format, position) {
        (Format::Lines, _) => "\n".to_owned(),
        (_, Some(id)) => format!("id: {id}\n\n"),
        (_, None) => ":\n".to_owned(),
    };
    text_block(encoding.framing, &text)
}

/// The last bytes of a stream that the broker ends, and whose client should reconnect after `retry`. There is no
/// comment at the end, because some clients do not reconnect after a final comment.
#[must_use]
pub fn farewell(encoding: Encoding, marks: Marks, retry: Duration, id: EventId) -> Bytes {
    let retry = retry.as_millis();
    let text = match (encoding.format, marks) {
        (Format::Lines, _) => return end(encoding.framing),
        (_, Marks::Id) => format!("retry: {retry}\nid: {id}\n\n"),
        (_, Marks::Event | Marks::None) => format!("retry: {retry}\n"),
    };
    [text_block(encoding.framing, &text), end(encoding.framing)].concat().into()
}

/// What follows the last block of a stream that ends cleanly. Without these bytes, a client knows that the stream was
/// cut.
#[must_use]
pub fn end(framing: Framing) -> Bytes {
    match framing {
        Framing::Chunked => Bytes::from_static(b"0\r\n\r\n"),
        Framing::Close => Bytes::new(),
    }
}

/// `broker.gap`: events after `requested` are missing, and the stream goes on with the events after `resumed_after`.
#[must_use]
pub fn gap(encoding: Encoding, reason: GapReason, requested: &str, resumed_after: EventId) -> Bytes {
    let data = json!({"reason": reason.as_str(), "requested": requested, "resumed_after": resumed_after.to_string()});
    text_block(encoding.framing, &notice(encoding.format, "broker.gap", Some(resumed_after), &data))
}

/// `broker.deleted`: the topic was deleted. A stream of this topic alone ends, a stream of several topics goes on. The
/// notice has no id, so the client's cursor stays below the deletion: when the client reconnects, the server reports
/// the deletion again, or tells it to stop.
#[must_use]
pub fn deleted(encoding: Encoding, topic: &TopicName) -> Bytes {
    text_block(
        encoding.framing,
        &notice(encoding.format, "broker.deleted", None::<EventId>, &json!({"topic": topic.as_str()})),
    )
}

/// The whole body that answers a refused subscription: the reason, and when to reconnect. The body repeats the `cursor`
/// that the client sent, because some clients forget their cursor at a block without an id. The length of the body is
/// known, so it is not a chunk.
#[must_use]
pub fn refused(format: Format, retry: Duration, cursor: Option<EventId>, code: &str, message: &str) -> Bytes {
    let retry = retry.as_millis();
    let data = json!({"code": code, "message": message, "retry_ms": retry});
    let notice = notice(format, "broker.refused", cursor, &data);
    match format {
        Format::Lines => notice.into(),
        Format::Plain | Format::Envelope => format!("retry: {retry}\n{notice}").into(),
    }
}

/// `broker.unauthorized`, and the end of a stream that may not go on or not begin, for the reason `detail`. The client
/// may reconnect after `retry` with another credential, and resumes after `cursor`.
#[must_use]
pub fn unauthorized(encoding: Encoding, retry: Duration, cursor: Option<EventId>, detail: &str) -> Bytes {
    let data = json!({"code": "unauthorized", "detail": detail});
    last_notice(encoding, retry, &notice(encoding.format, "broker.unauthorized", cursor, &data))
}

/// `broker.ended`, and the end of a stream that an operator has ended. When the client reconnects with this id, the
/// server tells it to stop. The notice has data, because many clients ignore an id without data.
#[must_use]
pub fn ended(encoding: Encoding, retry: Duration, id: StopId) -> Bytes {
    let data = json!({"code": "ended", "detail": "an operator has ended this stream"});
    last_notice(encoding, retry, &notice(encoding.format, "broker.ended", Some(id), &data))
}

/// The last notice of a stream, and its end.
fn last_notice(encoding: Encoding, retry: Duration, notice: &str) -> Bytes {
    let text = match encoding.format {
        Format::Lines => notice.to_owned(),
        Format::Plain | Format::Envelope => format!("retry: {}\n{notice}", retry.as_millis()),
    };
    [text_block(encoding.framing, &text), end(encoding.framing)].concat().into()
}

/// One of the broker's own events. Without an `id`, the client's cursor stays where it is.
fn notice(format: Format, name: &str, id: Option<impl Display>, data: &serde_json::Value) -> String {
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

fn text_block(framing: Framing, text: &str) -> Bytes {
    frame_of_len(framing, text.len(), |out| out.extend_from_slice(text.as_bytes())).into()
}

fn write_name(out: &mut Vec<u8>, name: Option<&EventName>) {
    if let Some(name) = name {
        out.extend_from_slice(b"event: ");
        out.extend_from_slice(name.as_str().as_bytes());
        out.push(b'\n');
    }
}

/// Writes one line of content. A parser removes the space after the colon, so leading spaces of the line survive.
fn write_data(out: &mut Vec<u8>, line: &[u8]) {
    out.extend_from_slice(b"data: ");
    out.extend_from_slice(line);
    out.push(b'\n');
}

/// Writes the id, and ends the block. The id is the last line, because some clients store an id as soon as they read
/// its line. With data after the id, a connection that breaks in the middle of an event would lose the event: the
/// client would resume after it.
fn write_id(out: &mut Vec<u8>, id: EventId) {
    out.extend_from_slice(b"id: ");
    id.write(out);
    out.extend_from_slice(b"\n\n");
}

/// The lines of `content`. A parser joins them with LF, so empty lines survive.
fn lines(content: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(content);
    iter::from_fn(move || {
        let text = rest.take()?;
        let (line, tail) = text.split_at(memchr2(b'\r', b'\n', text).unwrap_or(text.len()));
        rest = match tail {
            [b'\r', b'\n', after @ ..] | [_, after @ ..] => Some(after),
            [] => None,
        };
        Some(line)
    })
}

/// An event in `envelope=json` and in NDJSON.
#[derive(Serialize)]
struct Envelope<'a> {
    id: String,
    topic: &'a str,
    /// Null if the publisher gave none.
    event: Option<&'a str>,
    time: String,
    data: Cow<'a, str>,
}

/// Writes the event as compact JSON.
fn write_object(out: &mut Vec<u8>, id: EventId, event: &Event) {
    let time = UNIX_EPOCH + Duration::from_millis(event.time_ms);
    let envelope = Envelope {
        id: id.to_string(),
        topic: event.topic.as_str(),
        event: event.name.as_ref().map(EventName::as_str),
        time: humantime::format_rfc3339_millis(time).to_string(),
        // `http::publish` refuses content that is not UTF-8.
        data: String::from_utf8_lossy(event.content()),
    };
    let written = serde_json::to_writer(out, &envelope);
    debug_assert!(written.is_ok(), "writing text into memory cannot fail");
}
