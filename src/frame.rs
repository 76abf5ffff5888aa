//! An event to bytes: total and pure. Every stream's bytes after the response head are made here.
//!
//! The format is the event stream of the HTML standard, section 9.2 "Server-sent events". A field ends at CRLF, CR or LF
//! alike, so content is split at all three; names cannot hold any of them ([`crate::event`]). That is
//! what makes a second field or a second event impossible to inject.

use std::{ops::Deref, sync::Arc, time::Duration};

use bytes::Bytes;
use memchr::memchr2;
use serde_json::json;

use crate::event::{Content, Epoch, Event, EventId, EventName, TopicName};

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

/// A block on its way to subscribers: an event's own, or one made of it for their format. Cheap to clone.
#[derive(Clone, Debug)]
pub enum Frame {
    /// [`Event::frame`].
    Plain(Arc<Event>),
    /// One of its own.
    Made(Bytes),
}

impl Frame {
    /// What follows its first `taken` bytes; it shares the frame's memory.
    #[must_use]
    pub fn after(&self, taken: usize) -> Bytes {
        match self {
            Self::Plain(_) => Bytes::from_owner(self.clone()).slice(taken..),
            Self::Made(bytes) => bytes.slice(taken..),
        }
    }
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

/// The plain block of a new event, and where its content is.
#[must_use]
pub fn plain(id: EventId, name: Option<&EventName>, content: &[u8]) -> (Box<[u8]>, Content) {
    let fields = "id: \ndata: \n\n".len() + id.text_len();
    let name_field = name.map_or(0, |name| "event: \n".len() + name.as_str().len());
    // Exact for a single line: whatever is too much would be held with every event.
    let mut out = Vec::with_capacity(name_field + fields + content.len());
    start(&mut out, id, name);
    let at = out.len() + "data: ".len();
    let lines = data(&mut out, content);
    out.push(b'\n');
    let within = (u32::try_from(at).ok().zip(u32::try_from(at + content.len()).ok())).filter(|_| lines == 1);
    (out.into(), within.map_or_else(|| Content::Apart(content.into()), |(start, end)| Content::Within(start..end)))
}

/// `event` as one block (or line) of a stream in `format`.
#[must_use]
pub fn event(format: Format, epoch: Epoch, event: Arc<Event>) -> Frame {
    let id = EventId { epoch, seq: event.seq };
    match format {
        Format::Plain => Frame::Plain(event),
        Format::Envelope => {
            let mut out = Vec::with_capacity(event.frame.len() * 2);
            start(&mut out, id, event.name.as_ref());
            data(&mut out, &object(id, &event));
            out.push(b'\n');
            Frame::Made(out.into())
        }
        Format::Lines => {
            let mut line = object(id, &event);
            line.push(b'\n');
            Frame::Made(line.into())
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

fn start(out: &mut Vec<u8>, id: EventId, name: Option<&EventName>) {
    if let Some(name) = name {
        out.extend_from_slice(b"event: ");
        out.extend_from_slice(name.as_str().as_bytes());
        out.push(b'\n');
    }
    out.extend_from_slice(b"id: ");
    id.write(out);
    out.push(b'\n');
}

/// Writes `content` as `data` lines, one a line of it, and returns how many. The parser takes one blank after the
/// colon away and joins the lines with LF, so leading blanks and empty lines survive.
fn data(out: &mut Vec<u8>, content: &[u8]) -> usize {
    let (mut rest, mut lines) = (content, 0);
    loop {
        let end = memchr2(b'\r', b'\n', rest);
        let (line, tail) = rest.split_at(end.unwrap_or(rest.len()));
        out.reserve("data: \n".len() + line.len());
        out.extend_from_slice(b"data: ");
        out.extend_from_slice(line);
        out.push(b'\n');
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
        "data": String::from_utf8_lossy(event.content()),
    });
    object.to_string().into_bytes()
}
