//! The content of a message: one event, the deletion of a topic, the end of a subject's streams, or a marker.
//!
//! ```text
//! version    1 byte, 1
//! kind       1 byte: 0 for an event, 1 for a deletion, 3 for the end of a subject's streams, 4 for a marker
//! topic      its length, then its bytes; with kind 3, this is the subject; with kind 4, it is empty
//! and of an event:
//! name       its length, then its bytes; the length 0 stands for none
//! key        the length of the idempotency key, then its bytes; the length 0 stands for none
//! print      with a key only: the fingerprint of the event, 16 bytes, the highest first
//! subscribers
//! content    the rest
//! ```
//!
//! Lengths and `subscribers` are LEB128 numbers. A release that needs another form takes another version.

use std::sync::Arc;

use bytes::Bytes;

use crate::event::{EventName, TopicName};

#[cfg(test)]
mod fuzz;

/// What a message has besides its position and its time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Envelope {
    Event(Sent),
    Deletion(TopicName),
    /// All streams of this subject end.
    SubjectEnd(String),
    /// Only a position: what was stored before has a lower one.
    Marker,
}

/// An event as it was published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sent {
    pub(super) topic: TopicName,
    pub(super) name: Option<EventName>,
    /// The idempotency key, and the fingerprint of the event.
    pub(super) key: Option<(Arc<str>, u128)>,
    pub(super) subscribers: usize,
    pub(super) content: Bytes,
}

const VERSION: u8 = 1;
const EVENT: u8 = 0;
const DELETION: u8 = 1;
const SUBJECT_END: u8 = 3;
const MARKER: u8 = 4;
/// What an envelope adds to its content, at most: a topic of 1 KiB, a name, a key, and the headers of the message.
pub(super) const OVERHEAD_MAX: usize = 4 << 10;

impl Envelope {
    pub(super) fn encode(&self) -> Bytes {
        let mut out = Vec::new();
        match self {
            Self::Deletion(topic) => {
                out.extend([VERSION, DELETION]);
                write_text(&mut out, topic.as_str());
            }
            Self::SubjectEnd(subject) => {
                out.extend([VERSION, SUBJECT_END]);
                write_text(&mut out, subject);
            }
            Self::Marker => {
                out.extend([VERSION, MARKER]);
                write_text(&mut out, "");
            }
            Self::Event(Sent { topic, name, key, subscribers, content }) => {
                out.reserve(content.len() + topic.as_str().len() + 64);
                out.extend([VERSION, EVENT]);
                write_text(&mut out, topic.as_str());
                write_text(&mut out, name.as_ref().map_or("", EventName::as_str));
                write_text(&mut out, key.as_ref().map_or("", |(key, _)| key));
                if let Some((_, fingerprint)) = key {
                    out.extend(fingerprint.to_be_bytes());
                }
                write_number(&mut out, *subscribers);
                out.extend_from_slice(content);
            }
        }
        out.into()
    }

    /// `None` when these bytes are not an envelope of this version.
    pub(super) fn decode(bytes: &Bytes) -> Option<Self> {
        let mut rest: &[u8] = bytes;
        let [VERSION, kind] = *take(&mut rest, 2)? else { return None };
        let text = read_text(&mut rest)?;
        if kind == MARKER {
            return (text.is_empty() && rest.is_empty()).then_some(Self::Marker);
        }
        if kind == SUBJECT_END {
            return rest.is_empty().then(|| Self::SubjectEnd(text.to_owned()));
        }
        let topic = TopicName::parse(text, usize::MAX).ok()?;
        match kind {
            DELETION => rest.is_empty().then_some(Self::Deletion(topic)),
            EVENT => {
                let name = read_text(&mut rest)?;
                let name = if name.is_empty() { None } else { Some(EventName::parse(name).ok()?) };
                let key = read_text(&mut rest)?;
                let key = if key.is_empty() {
                    None
                } else {
                    Some((key.into(), u128::from_be_bytes(take(&mut rest, 16)?.try_into().ok()?)))
                };
                let subscribers = read_number(&mut rest)?;
                // A frame is text.
                std::str::from_utf8(rest).ok()?;
                let content = bytes.slice_ref(rest);
                Some(Self::Event(Sent { topic, name, key, subscribers, content }))
            }
            _ => None,
        }
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
