//! Topics as subjects of NATS.
//!
//! A subject consists of tokens with dots between them. Each part of a topic between two slashes becomes a token. A token
//! keeps the characters `A-Z a-z 0-9 _ -`. Each other byte becomes `=` and two hexadecimal digits, and an empty part
//! becomes `=`. For example, `tidings.t.room.=C3=A4.=` is the topic `room/ä/` in the namespace `tidings`.
//!
//! A subject that would be too long becomes `<namespace>.h.<hash>`. The message has the name of the topic in any case.
//!
//! `<namespace>.c` is the subject of commands to all servers, which belong to no topic.

use std::fmt::Write as _;

use twox_hash::XxHash3_128;

use crate::event::TopicName;

#[cfg(test)]
mod fuzz;

/// The longest subject of a topic, after the namespace. Longer subjects slow the server down.
const BYTES_MAX: usize = 200;
/// The most tokens of a topic, for the same reason.
const TOKENS_MAX: usize = 12;

/// The subject of `topic` in `namespace`.
pub(super) fn of_topic(namespace: &str, topic: &TopicName) -> String {
    let mut subject = format!("{namespace}.t.");
    let start = subject.len();
    for (at, part) in topic.as_str().split('/').enumerate() {
        if at > 0 {
            subject.push('.');
        }
        write_token(&mut subject, part);
    }
    let is_long = subject.len() - start > BYTES_MAX || topic.as_str().matches('/').count() >= TOKENS_MAX;
    if is_long {
        // Two topics with the same hash share a subject, and nothing else: all that matters is in the message.
        let hash = XxHash3_128::oneshot(topic.as_str().as_bytes());
        return format!("{namespace}.h.{hash:032x}");
    }
    subject
}

/// The topic of a subject, unless the subject has a hash or is not one of [`of_topic`].
pub(super) fn to_topic(namespace: &str, subject: &str) -> Option<TopicName> {
    let tokens = subject.strip_prefix(namespace)?.strip_prefix(".t.")?;
    let mut name = Vec::with_capacity(tokens.len());
    for (at, token) in tokens.split('.').enumerate() {
        if at > 0 {
            name.push(b'/');
        }
        read_token(&mut name, token)?;
    }
    let topic = TopicName::parse(&String::from_utf8(name).ok()?, usize::MAX).ok()?;
    // `=61` is `a`, but the subject of the topic `a` is another one.
    (of_topic(namespace, &topic) == subject).then_some(topic)
}

/// The subject of commands to all servers, and of other messages that concern more than one topic.
pub(super) fn of_commands(namespace: &str) -> String {
    format!("{namespace}.c")
}

/// All subjects of the stream.
pub(super) fn of_all(namespace: &str) -> Vec<String> {
    vec![format!("{namespace}.t.>"), format!("{namespace}.h.*"), of_commands(namespace)]
}

fn write_token(subject: &mut String, part: &str) {
    if part.is_empty() {
        subject.push('=');
    }
    for byte in part.bytes() {
        if byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-' {
            subject.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            write!(subject, "={byte:02X}").ok();
        }
    }
}

fn read_token(name: &mut Vec<u8>, token: &str) -> Option<()> {
    if token == "=" {
        return Some(());
    }
    let mut bytes = token.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'=' {
            let (high, low) = (hex(bytes.next()?)?, hex(bytes.next()?)?);
            name.push(high << 4 | low);
        } else {
            name.push(byte);
        }
    }
    Some(())
}

/// The value of a hexadecimal digit.
fn hex(digit: u8) -> Option<u8> {
    u8::try_from(char::from(digit).to_digit(16)?).ok()
}
