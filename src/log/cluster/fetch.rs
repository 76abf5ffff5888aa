//! Fetches pages: hot events come from memory, cold ones from the stream.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use async_nats::jetstream::{
    message::StreamMessage,
    stream::{DirectGetErrorKind, RawMessageErrorKind, Stream},
};
use futures_util::{StreamExt as _, stream};
use tokio::time::sleep;

use super::{
    connection::{Link, millis_of, text_of},
    envelope::{Envelope, Sent},
    shared::Shared,
};
use crate::{
    event::{Event, EventId, TopicName},
    frame,
    log::{
        Page, ReadFrom,
        clock::TOLERANCE_MS,
        index::{Entry, Plan},
        mutex::lock,
    },
};

/// How many events of one page are fetched at once.
const AT_ONCE: usize = 32;
/// How often the leader is asked for an event that it does not have.
const LEADER_ATTEMPTS: usize = 3;
const LEADER_PAUSE: Duration = Duration::from_millis(200);

/// Why a page cannot be read.
pub(super) struct FetchError(pub(super) String);

/// What the stream has at a position.
enum Found {
    Event(Arc<Event>),
    /// Nothing, because the stream's limits have removed everything up to this position.
    RemovedTo(u64),
    /// Nothing that is the event.
    Unreadable,
}

impl Shared {
    /// Reads the page of [`Log::read`](crate::log::Log::read).
    pub(super) async fn fetch(
        &self,
        link: &Link,
        topics: &[TopicName],
        from: ReadFrom,
        bytes_max: usize,
    ) -> Result<Page, FetchError> {
        let stream = link.stream().await.ok_or_else(|| FetchError("the stream has no valid name".to_owned()))?;
        loop {
            // The index is not locked while the stream is read.
            let Plan { mut page, entries } = lock(&self.state).index.plan(topics, from, bytes_max);
            let mut begins_with_gap = false;
            let mut events = stream::iter(entries)
                .map(|(topic, entry)| {
                    let stream = &stream;
                    async move {
                        let found = match &entry.event {
                            Some(event) => Ok(Found::Event(Arc::clone(event))),
                            None => find(link, stream, &topic, &entry).await,
                        };
                        (topic, entry.seq, found)
                    }
                })
                .buffered(AT_ONCE);
            while let Some((topic, seq, found)) = events.next().await {
                match found? {
                    Found::Event(event) => {
                        if begins_with_gap {
                            break;
                        }
                        page.events.push(event);
                        continue;
                    }
                    Found::RemovedTo(to) => self.note_removed(to),
                    Found::Unreadable => self.mark_unreadable(&topic, seq),
                }
                if page.events.is_empty() {
                    // The loop goes on, so that all missing events at the beginning are noted at once.
                    begins_with_gap = true;
                } else {
                    page.end(seq - 1);
                    break;
                }
            }
            if !begins_with_gap {
                return Ok(page);
            }
            // The page must report the gap before its events. A new plan has the gap, because the entries without an
            // event are now marked or removed.
        }
    }

    fn mark_unreadable(&self, topic: &TopicName, seq: u64) {
        if lock(&self.state).index.mark_unreadable(topic, seq) {
            self.unreadable.fetch_add(1, Ordering::Relaxed);
            tracing::error!(position = seq, %topic, "an event cannot be read: its subscribers are told of a gap");
        }
    }
}

/// Reads the event of `entry` from the stream.
async fn find(link: &Link, stream: &Stream<()>, topic: &TopicName, entry: &Entry) -> Result<Found, FetchError> {
    let seq = entry.seq;
    let message = match stream.direct_get(seq).await {
        Ok(message) if message.sequence == seq => message,
        // A server that is behind says so of everything that it does not have yet.
        Ok(_) => return find_at_leader(link, stream, topic, entry).await,
        Err(error) if matches!(error.kind(), DirectGetErrorKind::NotFound) => {
            return find_at_leader(link, stream, topic, entry).await;
        }
        Err(error) => return Err(FetchError(text_of(&error))),
    };
    Ok(read(link, &message, topic, entry))
}

/// The same, from the leader of the stream, which has everything. For a while, a server may believe by mistake that it is
/// the leader, so it is asked several times before an event counts as unreadable.
async fn find_at_leader(
    link: &Link,
    stream: &Stream<()>,
    topic: &TopicName,
    entry: &Entry,
) -> Result<Found, FetchError> {
    for _ in 0..LEADER_ATTEMPTS {
        match stream.get_raw_message(entry.seq).await {
            Ok(message) if message.sequence == entry.seq => return Ok(read(link, &message, topic, entry)),
            Err(error) if !matches!(error.kind(), RawMessageErrorKind::NoMessageFound) => {
                return Err(FetchError(text_of(&error)));
            }
            _ => {}
        }
        let info = link.info().await.map_err(|error| FetchError(error.to_string()))?;
        let (first, last) = (info.state.first_sequence, info.state.last_sequence);
        if first > entry.seq {
            return Ok(Found::RemovedTo(first - 1));
        }
        // This server has read the event from the stream.
        if last < entry.seq {
            return Err(FetchError(format!("the server of NATS that was asked has only read up to {last}")));
        }
        sleep(LEADER_PAUSE).await;
    }
    Ok(Found::Unreadable)
}

fn read(link: &Link, message: &StreamMessage, topic: &TopicName, entry: &Entry) -> Found {
    let (Sent { topic: found, name, content, .. }, time_ms) = match Envelope::decode(&message.payload) {
        Some(Envelope::Event(sent)) => (sent, millis_of(message.time)),
        Some(Envelope::Imported(sent, time_ms)) => (sent, time_ms),
        _ => return Found::Unreadable,
    };
    // The times differ when the clock has gone back a little. When they differ by more, the stream was restored, and this
    // is another event.
    if found != *topic || time_ms.abs_diff(entry.time_ms) > TOLERANCE_MS {
        return Found::Unreadable;
    }
    let id = EventId { epoch: link.epoch, seq: entry.seq };
    Found::Event(frame::encode(id, entry.time_ms, found, name, &content))
}
