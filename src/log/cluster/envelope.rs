//! The content of a message: one event, the deletion of a topic, the end of a subject's streams, what an imported log
//! has lost, or a marker.
//!
//! ```text
//! version    1 byte, 1
//! kind       1 byte: 0 an event, 1 a deletion, 2 an imported event, 3 the end of a subject's streams,
//!            4 missing events of an imported log, 5 a marker
//! topic      its length, then its bytes; with kind 3, this is the subject; with kind 4, the length 0 stands for any topic;
//!            with kind 5, it is 0
//! and of missing events:
//! reason     1 byte: 0 if they were removed, 1 if they could not be read or moved
//! and of missing events and of an imported event:
//! time       the milliseconds since the Unix epoch, 8 bytes, the highest first
//! and of an event:
//! name       its length, then its bytes; the length 0 stands for none
//! and of an event and of missing events:
//! key        the length of the idempotency key, then its bytes; the length 0 stands for none
//! print      with a key only: the fingerprint of the event, 16 bytes, the highest first
//! subscribers
//! and of an event:
//! content    the rest
//! ```
//!
//! Lengths and `subscribers` are LEB128 numbers. A release that needs another form takes another version.

use std::sync::Arc;

use bytes::Bytes;

use crate::event::{EventName, TopicName};

#[cfg(test)]
mod fuzz;

/// What a message has besides its position, and mostly besides its time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::log) enum Envelope {
    Event(Sent),
    /// An event of the log that was imported, and when it was committed there, in milliseconds since the Unix epoch.
    Imported(Sent, u64),
    Deletion(TopicName),
    /// All streams of this subject end.
    SubjectEnd(String),
    Missing(Missing),
    /// Only a position: what was stored before has a lower one.
    Marker,
}

/// An event as it was published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::log) struct Sent {
    pub(in crate::log) topic: TopicName,
    pub(in crate::log) name: Option<EventName>,
    /// The idempotency key, and the fingerprint of the event.
    pub(in crate::log) key: Option<(Arc<str>, u128)>,
    pub(in crate::log) subscribers: usize,
    pub(in crate::log) content: Bytes,
}

/// Events that the imported log had, and that are not in the stream. They come after all other events of their topic so
/// far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::log) struct Missing {
    /// `None` if they may be of any topic.
    pub(in crate::log) topic: Option<TopicName>,
    /// Whether it is one event that could not be read or moved. Otherwise the log has removed them.
    pub(in crate::log) is_unreadable: bool,
    /// The time of the newest one.
    pub(in crate::log) time_ms: u64,
    /// The key of the last one, and its fingerprint.
    pub(in crate::log) key: Option<(Arc<str>, u128)>,
    pub(in crate::log) subscribers: usize,
}

const VERSION: u8 = 1;
const EVENT: u8 = 0;
const DELETION: u8 = 1;
const IMPORTED: u8 = 2;
const SUBJECT_END: u8 = 3;
const MISSING: u8 = 4;
const MARKER: u8 = 5;
/// What an envelope adds to its content, at most: a topic of 1 KiB, a name, a key, and the headers of the message.
pub(super) const OVERHEAD_MAX: usize = 4 << 10;

impl Envelope {
    /// The topic; `None` if it concerns more than one.
    pub(super) fn topic(&self) -> Option<&TopicName> {
        match self {
            Self::Event(Sent { topic, .. }) | Self::Imported(Sent { topic, .. }, _) | Self::Deletion(topic) => {
                Some(topic)
            }
            Self::Missing(missing) => missing.topic.as_ref(),
            Self::SubjectEnd(_) | Self::Marker => None,
        }
    }

    pub(super) fn encode(&self) -> Bytes {
        let mut out = Vec::new();
        let begin = |out: &mut Vec<u8>, kind: u8| {
            out.extend([VERSION, kind]);
            write_text(out, self.topic().map_or("", TopicName::as_str));
        };
        match self {
            Self::Deletion(_) => begin(&mut out, DELETION),
            Self::Marker => begin(&mut out, MARKER),
            Self::SubjectEnd(subject) => {
                out.extend([VERSION, SUBJECT_END]);
                write_text(&mut out, subject);
            }
            Self::Event(sent) => {
                out.reserve(sent.content.len() + sent.topic.as_str().len() + 64);
                begin(&mut out, EVENT);
                sent.encode(&mut out);
            }
            Self::Imported(sent, time_ms) => {
                out.reserve(sent.content.len() + sent.topic.as_str().len() + 64);
                begin(&mut out, IMPORTED);
                out.extend(time_ms.to_be_bytes());
                sent.encode(&mut out);
            }
            Self::Missing(Missing { is_unreadable, time_ms, key, subscribers, .. }) => {
                begin(&mut out, MISSING);
                out.push(u8::from(*is_unreadable));
                out.extend(time_ms.to_be_bytes());
                write_key(&mut out, key.as_ref());
                write_number(&mut out, *subscribers);
            }
        }
        out.into()
    }

    /// `None` when these bytes are not an envelope of this version.
    pub(super) fn decode(bytes: &Bytes) -> Option<Self> {
        let mut rest: &[u8] = bytes;
        let [VERSION, kind] = *take(&mut rest, 2)? else { return None };
        let text = read_text(&mut rest)?;
        if kind == SUBJECT_END {
            return rest.is_empty().then(|| Self::SubjectEnd(text.to_owned()));
        }
        let topic = if text.is_empty() { None } else { Some(TopicName::parse(text, usize::MAX).ok()?) };
        match kind {
            DELETION => rest.is_empty().then_some(Self::Deletion(topic?)),
            EVENT => Some(Self::Event(Sent::decode(topic?, rest, bytes)?)),
            IMPORTED => {
                let time_ms = read_time(&mut rest)?;
                Some(Self::Imported(Sent::decode(topic?, rest, bytes)?, time_ms))
            }
            MISSING => {
                let [reason @ 0..=1] = *take(&mut rest, 1)? else { return None };
                let (is_unreadable, time_ms) = (reason == 1, read_time(&mut rest)?);
                let (key, subscribers) = (read_key(&mut rest)?, read_number(&mut rest)?);
                let missing = Missing { topic, is_unreadable, time_ms, key, subscribers };
                rest.is_empty().then_some(Self::Missing(missing))
            }
            MARKER => (topic.is_none() && rest.is_empty()).then_some(Self::Marker),
            _ => None,
        }
    }
}

impl Sent {
    /// Writes all but the topic.
    fn encode(&self, out: &mut Vec<u8>) {
        write_text(out, self.name.as_ref().map_or("", EventName::as_str));
        write_key(out, self.key.as_ref());
        write_number(out, self.subscribers);
        out.extend_from_slice(&self.content);
    }

    /// Reads all but the topic. `rest` is the end of `bytes`.
    fn decode(topic: TopicName, mut rest: &[u8], bytes: &Bytes) -> Option<Self> {
        let name = read_text(&mut rest)?;
        let name = if name.is_empty() { None } else { Some(EventName::parse(name).ok()?) };
        let (key, subscribers) = (read_key(&mut rest)?, read_number(&mut rest)?);
        // A frame is text.
        std::str::from_utf8(rest).ok()?;
        Some(Self { topic, name, key, subscribers, content: bytes.slice_ref(rest) })
    }
}

fn take<'a>(rest: &mut &'a [u8], len: usize) -> Option<&'a [u8]> {
    let (taken, left) = rest.split_at_checked(len)?;
    *rest = left;
    Some(taken)
}

fn write_text(out: &mut Vec<u8>, text: &str) {
    write_number(out, text.len());
    out.extend_from_slice(text.as_bytes());
}

fn read_text<'a>(rest: &mut &'a [u8]) -> Option<&'a str> {
    let len = read_number(rest)?;
    std::str::from_utf8(take(rest, len)?).ok()
}

fn write_key(out: &mut Vec<u8>, key: Option<&(Arc<str>, u128)>) {
    write_text(out, key.map_or("", |(key, _)| key));
    if let Some((_, fingerprint)) = key {
        out.extend(fingerprint.to_be_bytes());
    }
}

/// The inner `None` stands for no key.
#[expect(clippy::option_option, reason = "the outer one is that of all that can fail to be read")]
fn read_key(rest: &mut &[u8]) -> Option<Option<(Arc<str>, u128)>> {
    let key = read_text(rest)?;
    if key.is_empty() {
        return Some(None);
    }
    Some(Some((key.into(), u128::from_be_bytes(take(rest, 16)?.try_into().ok()?))))
}

fn read_time(rest: &mut &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(take(rest, 8)?.try_into().ok()?))
}

fn write_number(out: &mut Vec<u8>, mut number: usize) {
    loop {
        let low = u8::try_from(number & 0x7f).unwrap_or_default();
        number >>= 7;
        if number == 0 {
            out.push(low);
            return;
        }
        out.push(low | 0x80);
    }
}

/// Reads a number in its shortest form only, so that each envelope has one form.
fn read_number(rest: &mut &[u8]) -> Option<usize> {
    let mut number: usize = 0;
    // Longer numbers would not fit into 64 bits.
    for shift in (0..63).step_by(7) {
        let [byte] = *take(rest, 1)? else { return None };
        number |= usize::from(byte & 0x7f).checked_shl(shift)?;
        if byte & 0x80 == 0 {
            return (byte != 0 || shift == 0).then_some(number);
        }
    }
    None
}
