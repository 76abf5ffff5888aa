//! What a message of the stream changes.

use std::sync::Arc;

use super::envelope::{Envelope, Missing, Sent};
use crate::{
    event::{Event, EventId, TopicName},
    frame,
    log::{clock::Moment, keys::KeyUse},
};

/// What a message changes.
pub(super) enum Change {
    Event {
        event: Arc<Event>,
        key: Option<KeyUse>,
        subscribers: usize,
        is_imported: bool,
    },
    Deletion {
        topic: TopicName,
        seq: u64,
    },
    /// The streams of the subject end on all servers.
    SubjectEnd {
        subject: String,
        seq: u64,
        /// When NATS has stored it.
        wall_ms: u64,
    },
    Marker {
        seq: u64,
    },
    /// It is no envelope. Its topic is known from the subject, if at all.
    Unreadable {
        topic: Option<TopicName>,
        seq: u64,
    },
    /// Events that an imported log had, with the key of the last one.
    Missing {
        missing: Missing,
        key: Option<KeyUse>,
        seq: u64,
    },
}

impl Change {
    /// What the message with this id changes. NATS has stored it at `wall_ms`. `last_ms` is the time of the last event.
    pub(super) fn new(envelope: Envelope, id: EventId, wall_ms: u64, last_ms: &mut u64) -> Self {
        let seq = id.seq;
        let (sent, wall_ms, is_imported) = match envelope {
            Envelope::Event(sent) => (sent, wall_ms, false),
            Envelope::Imported(sent, time_ms) => (sent, time_ms, true),
            Envelope::Deletion(topic) => return Self::Deletion { topic, seq },
            Envelope::SubjectEnd(subject) => return Self::SubjectEnd { subject, seq, wall_ms },
            Envelope::Marker => return Self::Marker { seq },
            Envelope::Missing(mut missing) => {
                let of_topic = missing.topic.clone().zip(missing.key.take());
                let key = of_topic.map(|(topic, (key, fingerprint))| KeyUse::of_event(topic, key, fingerprint));
                return Self::Missing { missing, key, seq };
            }
        };
        let Sent { topic, name, key, subscribers, content } = sent;
        *last_ms = Moment { mono_ms: 0, wall_ms }.stamp(*last_ms);
        let key = key.map(|(key, fingerprint)| KeyUse::of_event(topic.clone(), key, fingerprint));
        let event = frame::encode(id, *last_ms, topic, name, &content);
        Self::Event { event, key, subscribers, is_imported }
    }

    /// When it was committed, in monotonic time. While the server runs, only its own clock counts, except for what was
    /// committed elsewhere before.
    pub(super) fn mono_ms(&self, now: Moment, is_running: bool) -> u64 {
        match self {
            Self::Event { event, is_imported, .. } if *is_imported || !is_running => now.mono_ms_of(event.time_ms),
            Self::Missing { missing, .. } => now.mono_ms_of(missing.time_ms),
            _ => now.mono_ms,
        }
    }
}
