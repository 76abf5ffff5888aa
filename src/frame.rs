//! An event to bytes: total and pure. Every stream's bytes after the response head are made here.
//!
//! The format is the event stream of the HTML standard, section 9.2 "Server-sent events". A field ends at CRLF, CR or LF
//! alike, so content is split at all three; names cannot hold any of them ([`crate::event`]). That is
//! what makes a second field or a second event impossible to inject.

use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use memchr::memchr2;
use serde_json::json;

use crate::event::{Epoch, Event, EventId, EventName, TopicName};

/// How a subscription wants its events written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// `text/event-stream`, data is the content as published.
    Plain,
    /// `text/event-stream`, data is the event as a JSON object (`envelope=json`).
    Envelope,
    /// `application/x-ndjson`: the JSON object alone, one a line.
    Lines,
}

/// Why history before a subscriber's position is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GapReason {
    /// Retention, or a deletion, removed events after the cursor.
    Evicted,
    /// The cursor is of another history, or ahead of this one.
    Reset,
    /// The cursor is not an id of ours.
    Unreadable,
}

impl GapReason {
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

/// The plain block of a new event, and the content: a slice of the block where it has no line break,
/// so that the common event is held in memory once.
#[must_use]
pub fn plain(id: EventId, name: Option<&EventName>, content: &Bytes) -> (Bytes, Bytes) {
    const FIELDS: usize = "event: \nid: 01234567-01234567890123456789\ndata: \n\n".len();
    let mut out = BytesMut::with_capacity(FIELDS + name.map_or(0, |n| n.as_str().len()) + content.len());
    start(&mut out, id, name);
    let at = out.len() + "data: ".len();
    let lines = data(&mut out, content);
    out.put_u8(b'\n');
    let frame = out.freeze();
    // Its own memory, because what the publisher sent it in may be a far larger buffer.
    let content = if lines == 1 { frame.slice(at..at + content.len()) } else { Bytes::copy_from_slice(content) };
    (frame, content)
}

/// `event` as one block (or line) of a stream in `format`.
#[must_use]
pub fn event(format: Format, epoch: Epoch, event: &Event) -> Bytes {
    let id = EventId { epoch, seq: event.seq };
    match format {
        Format::Plain => event.frame.clone(),
        Format::Envelope => {
            let mut out = BytesMut::with_capacity(event.frame.len() * 2);
            start(&mut out, id, event.name.as_ref());
            data(&mut out, &object(id, event));
            out.put_u8(b'\n');
            out.freeze()
        }
        Format::Lines => {
            let mut line = object(id, event);
            line.push(b'\n');
            line.into()
        }
    }
}

/// The first bytes of a stream: a comment so that proxies pass the head on, the reconnection time, and an id-only
/// block, which dispatches nothing (HTML 9.2.6) but lets a client that drops before its first event resume from here.
#[must_use]
pub fn preamble(format: Format, retry: Duration, id: EventId) -> Bytes {
    match format {
        Format::Lines => Bytes::from_static(b"\n"),
        Format::Plain | Format::Envelope => format!(": tidings\nretry: {}\nid: {id}\n\n", retry.as_millis()).into(),
    }
}

/// What an idle stream gets: its position, so that a quiet subscriber's cursor does not age out of the history.
#[must_use]
pub fn heartbeat(format: Format, id: EventId) -> Bytes {
    match format {
        Format::Lines => Bytes::from_static(b"\n"),
        Format::Plain | Format::Envelope => format!("id: {id}\n\n").into(),
    }
}

/// The last bytes of a stream that the broker ends and whose client should come back after `retry`.
#[must_use]
pub fn farewell(format: Format, retry: Duration, id: EventId) -> Bytes {
    match format {
        Format::Lines => Bytes::new(),
        Format::Plain | Format::Envelope => format!("retry: {}\nid: {id}\n\n", retry.as_millis()).into(),
    }
}

/// `broker.gap`: events after `requested` are missing; the stream goes on with what is held after `resumed_after`.
#[must_use]
pub fn gap(format: Format, reason: GapReason, requested: &str, resumed_after: EventId) -> Bytes {
    let data = json!({"reason": reason.as_str(), "requested": requested, "resumed_after": resumed_after.to_string()});
    notice(format, "broker.gap", Some(resumed_after), &data)
}

/// `broker.deleted`: the topic was deleted and no longer belongs to this stream. It leaves the cursor below the deletion,
/// so that a client that comes back is recognised and told to stop.
#[must_use]
pub fn deleted(format: Format, topic: &TopicName) -> Bytes {
    notice(format, "broker.deleted", None, &json!({"topic": topic.as_str()}))
}

/// The whole stream of a refused subscription: come back after `retry`, why, and nothing more.
#[must_use]
pub fn refused(format: Format, retry: Duration, code: &str, message: &str) -> Bytes {
    let millis = u64::try_from(retry.as_millis()).unwrap_or(u64::MAX);
    let notice = notice(format, "broker.refused", None, &json!({"code": code, "message": message, "retry_ms": millis}));
    match format {
        Format::Lines => notice,
        Format::Plain | Format::Envelope => [format!("retry: {millis}\n\n").as_bytes(), &notice].concat().into(),
    }
}

/// A block of the broker's own. It carries no id when the cursor must stay where it is.
fn notice(format: Format, name: &str, id: Option<EventId>, data: &serde_json::Value) -> Bytes {
    match format {
        Format::Lines => {
            let id = id.map(|id| id.to_string());
            format!("{}\n", json!({"id": id, "event": name, "data": data})).into()
        }
        Format::Plain | Format::Envelope => {
            let id = id.map(|id| format!("id: {id}\n")).unwrap_or_default();
            format!("event: {name}\n{id}data: {data}\n\n").into()
        }
    }
}

fn start(out: &mut BytesMut, id: EventId, name: Option<&EventName>) {
    if let Some(name) = name {
        out.put_slice(b"event: ");
        out.put_slice(name.as_str().as_bytes());
        out.put_u8(b'\n');
    }
    out.put_slice(b"id: ");
    out.put_slice(id.epoch.as_str().as_bytes());
    out.put_u8(b'-');
    out.put_slice(itoa::Buffer::new().format(id.seq).as_bytes());
    out.put_u8(b'\n');
}

/// Writes `content` as `data` lines, one a line of it, and returns how many. The parser takes one blank after the
/// colon away and joins the lines with LF, so leading blanks and empty lines survive.
fn data(out: &mut BytesMut, content: &[u8]) -> usize {
    let (mut rest, mut lines) = (content, 0);
    loop {
        let end = memchr2(b'\r', b'\n', rest);
        let (line, tail) = rest.split_at(end.unwrap_or(rest.len()));
        out.reserve("data: \n".len() + line.len());
        out.put_slice(b"data: ");
        out.put_slice(line);
        out.put_u8(b'\n');
        lines += 1;
        rest = match tail {
            [] => return lines,
            [b'\r', b'\n', rest @ ..] | [_, rest @ ..] => rest,
        };
    }
}

/// The event as `{"id","topic","event","time","data"}`, compact; `event` is null when the publisher named none.
fn object(id: EventId, event: &Event) -> Vec<u8> {
    let time = std::time::UNIX_EPOCH + Duration::from_millis(event.time_ms);
    let object = json!({
        "id": id.to_string(),
        "topic": event.topic.as_str(),
        "event": event.name.as_ref().map(EventName::as_str),
        "time": humantime::format_rfc3339_millis(time).to_string(),
        // The edge let only UTF-8 in (`http::publish`).
        "data": String::from_utf8_lossy(&event.content),
    });
    object.to_string().into_bytes()
}
