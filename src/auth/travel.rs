//! A ticket on its way to another server of the cluster. The server that gave the ticket says what it stands for, and the
//! other one opens the stream.

use std::{
    num::NonZeroU32,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};

use super::{
    caller::{Ticket, Verified},
    rights::Rights,
};
use crate::{config::OwnLimits, event::TopicName, identity::Identity};

/// What a ticket stands for, as the servers send it to each other in JSON.
#[derive(Serialize, Deserialize)]
struct Travelling {
    key: Box<str>,
    subject: Option<Box<str>>,
    /// When the credential ends with which the ticket was taken, in milliseconds since the Unix epoch.
    expires_ms: Option<u64>,
    topics: Vec<String>,
    publishes_per_second: Option<NonZeroU32>,
    subscribers_max: Option<NonZeroU32>,
}

pub(super) fn encode(ticket: &Ticket) -> Option<String> {
    let Verified { identity, limits, .. } = &*ticket.verified;
    let expires_ms = match ticket.expires_at {
        Some(at) => Some(u64::try_from(at.duration_since(UNIX_EPOCH).ok()?.as_millis()).ok()?),
        None => None,
    };
    let travelling = Travelling {
        key: identity.key.clone(),
        subject: identity.subject.clone(),
        expires_ms,
        topics: ticket.topics.iter().map(TopicName::to_string).collect(),
        publishes_per_second: limits.publishes_per_second,
        subscribers_max: limits.subscribers_max,
    };
    serde_json::to_string(&travelling).ok()
}

/// `None` if the text cannot be read. A ticket without some of its topics would be another ticket.
pub(super) fn decode(text: &str) -> Option<Ticket> {
    let Travelling { key, subject, expires_ms, topics, publishes_per_second, subscribers_max } =
        serde_json::from_str(text).ok()?;
    let expires_at: Option<SystemTime> = match expires_ms {
        Some(ms) => Some(UNIX_EPOCH.checked_add(Duration::from_millis(ms))?),
        None => None,
    };
    let topics = topics.iter().map(|topic| TopicName::parse(topic, usize::MAX).ok()).collect::<Option<Vec<_>>>()?;
    let verified = Arc::new(Verified {
        identity: Arc::new(Identity { key, subject }),
        // The topics are all that a ticket allows.
        rights: Rights::default(),
        limits: OwnLimits { publishes_per_second, subscribers_max },
        starts_at: None,
        expires_at,
    });
    Some(Ticket::for_topics(verified, expires_at, topics))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_is_the_same_at_the_other_server() {
        // Goal: whose it is, until when, for which topics and with which limits; and text that is no ticket opens nothing.
        let topics = ["b", "a/ä", "\"quoted\""].map(|name| TopicName::parse(name, 255).expect("a name")).to_vec();
        let expires_at = UNIX_EPOCH.checked_add(Duration::from_millis(1_234_567));
        for (subject, expires_at) in [(Some("ann".into()), expires_at), (None, None)] {
            let verified = Arc::new(Verified {
                identity: Arc::new(Identity { key: "key".into(), subject }),
                rights: Rights::default(),
                limits: OwnLimits { publishes_per_second: None, subscribers_max: NonZeroU32::new(7) },
                starts_at: None,
                expires_at,
            });
            let ticket = Ticket::for_topics(verified, expires_at, topics.clone());
            let text = encode(&ticket).expect("it can be written");
            let other = decode(&text).expect("it can be read");
            assert_eq!((&other.topics, other.expires_at), (&ticket.topics, ticket.expires_at));
            assert_eq!(other.verified.identity, ticket.verified.identity);
            assert_eq!(other.verified.limits, ticket.verified.limits);
            assert!(decode("").is_none() && decode(&text.replace("a/ä", "")).is_none());
        }
    }
}
