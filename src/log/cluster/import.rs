//! Writes the events of another log into the stream, for `tidings import`.
//!
//! ```text
//!  item ─► sent ─► stored      (NATS has answered with the position)
//!           │ ▲
//!           └─┘ no answer or an error: everything after the stream's last position is sent again
//! ```
//!
//! Many messages are on their way at once. Three headers make sure that none is lost and none is there twice, also when
//! the import is killed and started again:
//! - `Nats-Msg-Id` has the id that the event had in the imported log. An import that was interrupted finds it in the
//!   stream's last message, and goes on after that event.
//! - `Nats-Expected-Last-Msg-Id` is the id of the message before. NATS stores the message directly after that one or not
//!   at all. So the messages are a chain: if one of them is in the stream, all before it are, in their order. Neither a
//!   loss on the way nor the message of another program can make a hole.
//! - `Nats-Expected-Last-Sequence` is the position of the message before. The first message has only this one.
//!
//! That NATS ignores a message with an id that it knows would not do, because it forgets ids after a minute.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use async_nats::{
    HeaderMap, Message, StatusCode, Subscriber, header,
    jetstream::stream::{Info, RawMessageErrorKind},
};
use bytes::Bytes;
use futures_util::StreamExt as _;
use tokio::time::interval;

use super::{
    answer::{Answer, FULL},
    connection::{ConnectError, InfoError, Link, text_of},
    envelope::{Envelope, OVERHEAD_MAX},
    error::ImportError,
    subject,
};
use crate::{
    config::{ClusterConfig, LogConfig},
    event::{Epoch, EventId},
};

/// The stream, and what is on its way into it.
pub(in crate::log) struct Importer {
    link: Link,
    ack_timeout: Duration,
    /// Where NATS sends its answers. The last two parts of a subject are the attempt and the position.
    inbox: String,
    answers: Subscriber,
    /// The stream has everything up to this position.
    stored: u64,
    /// The id of the message there; empty if it has none.
    stored_id: String,
    /// A part of the ids. Two runs may have messages of the same origin.
    nonce: u32,
    /// How many messages there were so far.
    count: u64,
    /// What NATS has not answered yet: the messages for the positions after `stored`.
    sent: VecDeque<Flight>,
    /// The size of `sent`.
    sent_bytes: usize,
    /// How often everything was sent again. Answers to earlier attempts do not count.
    attempt: u64,
    /// When NATS answered last, or when everything was sent again.
    heard_at: Instant,
    /// When NATS stored the last message.
    stored_at: Instant,
    done: Done,
}

/// What becomes one message.
pub(in crate::log) struct Item {
    /// The id of the event in the imported log. For other messages, that of the event before.
    pub(in crate::log) origin: EventId,
    pub(in crate::log) envelope: Envelope,
}

/// The events that the stream has, of those that were given to this importer.
#[derive(Clone, Copy, Default)]
pub(in crate::log) struct Done {
    pub(in crate::log) events: usize,
    /// The bytes of their contents.
    pub(in crate::log) bytes: u64,
}

/// A message.
struct Flight {
    id: String,
    subject: String,
    payload: Bytes,
    /// What its event adds to [`Done`].
    counts: Done,
}

/// What the ids of messages begin with. [`Item::origin`] and a dot follow.
const ID_PREFIX: &str = "import-";
/// How many messages may be on their way.
const SENT_MAX: usize = 2048;
/// How many bytes of messages may be on their way. One more message may follow.
const SENT_BYTES_MAX: usize = 16 << 20;
/// How often missing answers are looked for.
const TICK: Duration = Duration::from_millis(50);
/// The pause before everything is sent again, and between two attempts to reach NATS.
const PAUSE: Duration = Duration::from_millis(200);
/// An import ends when nothing was stored for this many times `cluster.ack_timeout`.
const TIMEOUTS_MAX: u32 = 10;

impl Importer {
    /// Connects to NATS, and creates the stream if it does not exist. Returns what the stream has.
    pub(in crate::log) async fn open(config: &ClusterConfig, log: &LogConfig) -> Result<(Self, Info), ImportError> {
        let started = Instant::now();
        let (link, info) = loop {
            match Link::open(config, log).await {
                Ok(opened) => break opened,
                Err(ConnectError::Refused(error)) => return Err(error.into()),
                Err(ConnectError::Later(why)) => pause(started, config.ack_timeout, why).await?,
            }
        };
        let inbox = link.client.new_inbox();
        let answers = link.client.subscribe(format!("{inbox}.*.*")).await;
        let importer = Self {
            answers: answers.map_err(|error| ImportError::Unreachable(text_of(&error)))?,
            link,
            ack_timeout: config.ack_timeout,
            inbox,
            stored: info.state.last_sequence,
            stored_id: String::new(),
            nonce: fastrand::u32(..),
            count: 0,
            sent: VecDeque::new(),
            sent_bytes: 0,
            attempt: 0,
            heard_at: started,
            stored_at: Instant::now(),
            done: Done::default(),
        };
        Ok((importer, info))
    }

    /// The position in the log with this epoch after which the import goes on: 0 if the stream is empty.
    pub(in crate::log) async fn resumes_after(&mut self, epoch: Epoch, info: &Info) -> Result<u64, ImportError> {
        if info.state.messages == 0 {
            return Ok(0);
        }
        self.stored_id = self.id_at(self.stored).await?;
        let origin = self.stored_id.strip_prefix(ID_PREFIX).and_then(|id| EventId::parse(id.split('.').next()?));
        match origin {
            Some(origin) if origin.epoch == epoch => Ok(origin.seq),
            _ => Err(ImportError::InUse { name: self.link.name.clone(), messages: info.state.messages }),
        }
    }

    /// How many bytes of content an event may have.
    pub(in crate::log) fn content_max(&self) -> usize {
        self.link.payload_max().saturating_sub(OVERHEAD_MAX)
    }

    /// Writes the items, and waits until NATS has stored all of them.
    pub(in crate::log) async fn run<E>(
        &mut self,
        items: impl Iterator<Item = Result<Item, E>>,
        on_progress: &mut dyn FnMut(Done),
    ) -> Result<(), E>
    where
        E: From<ImportError>,
    {
        let (mut items, mut ticks) = (items.fuse(), interval(TICK));
        let mut connections = self.link.connections.clone();
        connections.mark_unchanged();
        loop {
            while self.sent.len() < SENT_MAX
                && self.sent_bytes < SENT_BYTES_MAX
                && let Some(item) = items.next()
            {
                self.begin(item?).await;
            }
            on_progress(self.done);
            if self.sent.is_empty() {
                break;
            }
            tokio::select! {
                biased;
                Some(message) = self.answers.next() => self.take_answer(&message).await?,
                _ = connections.changed() => self.send_again("the connection was lost").await?,
                _ = ticks.tick() => if self.heard_at.elapsed() >= self.ack_timeout {
                    self.send_again("NATS does not answer").await?;
                },
            }
        }
        Ok(self.check_end().await?)
    }

    /// Makes sure that nobody else has written to the stream.
    async fn check_end(&self) -> Result<(), ImportError> {
        let asked_at = Instant::now();
        loop {
            let last = self.last_position().await?;
            if last == self.stored {
                return Ok(());
            }
            if last > self.stored {
                return Err(self.foreign(last));
            }
            // A server that has just become the leader may not have everything yet.
            let why = format!("the stream ends at {last}, before {}", self.stored);
            pause(asked_at, self.ack_timeout, why).await?;
        }
    }

    async fn begin(&mut self, Item { origin, envelope }: Item) {
        let name = &self.link.name;
        let subject =
            envelope.topic().map_or_else(|| subject::of_commands(name), |topic| subject::of_topic(name, topic));
        let id = format!("{ID_PREFIX}{origin}.{:x}-{:x}", self.nonce, self.count);
        self.count += 1;
        let counts = match &envelope {
            Envelope::Imported(sent, _) => {
                Done { events: 1, bytes: u64::try_from(sent.content.len()).unwrap_or_default() }
            }
            _ => Done::default(),
        };
        let flight = Flight { id, subject, payload: envelope.encode(), counts };
        if self.sent.is_empty() {
            self.heard_at = Instant::now();
        }
        self.sent_bytes += flight.payload.len();
        self.sent.push_back(flight);
        self.send(self.sent.len() - 1).await;
    }

    /// Sends the message at this place in `sent`. When it is lost, no answer comes.
    async fn send(&self, at: usize) {
        let Some(flight) = self.sent.get(at) else { return };
        let before = self.stored + u64::try_from(at).unwrap_or_default();
        let mut headers = HeaderMap::new();
        headers.insert(header::NATS_EXPECTED_STREAM, self.link.name.as_str());
        headers.insert(header::NATS_EXPECTED_LAST_SEQUENCE, before.to_string());
        headers.insert(header::NATS_MESSAGE_ID, flight.id.as_str());
        let id_before = at.checked_sub(1).and_then(|at| self.sent.get(at)).map_or(&self.stored_id, |flight| &flight.id);
        if !id_before.is_empty() {
            headers.insert(header::NATS_EXPECTED_LAST_MESSAGE_ID, id_before.as_str());
        }
        let (subject, reply) = (flight.subject.clone(), format!("{}.{}.{}", self.inbox, self.attempt, before + 1));
        let sending = self.link.client.publish_with_reply_and_headers(subject, reply, headers, flight.payload.clone());
        if let Err(error) = sending.await {
            tracing::warn!(error = text_of(&error), "a message cannot be sent to NATS");
        }
    }

    async fn take_answer(&mut self, message: &Message) -> Result<(), ImportError> {
        let mut parts = message.subject.rsplit('.').map(str::parse::<u64>);
        let (Some(Ok(position)), Some(Ok(attempt))) = (parts.next(), parts.next()) else { return Ok(()) };
        if attempt != self.attempt || position <= self.stored {
            return Ok(());
        }
        self.heard_at = Instant::now();
        if message.status == Some(StatusCode::NO_RESPONDERS) {
            return self.send_again("the stream has no leader").await;
        }
        match serde_json::from_slice(&message.payload) {
            Ok(Answer { error: Some(refusal), .. }) if FULL.contains(&refusal.err_code) => {
                Err(ImportError::Full(refusal.description))
            }
            Ok(Answer { error: Some(refusal), .. }) => self.send_again(&refusal.description).await,
            Ok(Answer { seq: Some(seq), .. }) if seq == position => {
                self.note_stored(position);
                Ok(())
            }
            Ok(Answer { seq: Some(seq), .. }) => Err(self.foreign(seq)),
            Ok(Answer { seq: None, .. }) => self.send_again("an answer without a position").await,
            Err(error) => self.send_again(&error.to_string()).await,
        }
    }

    /// Notes that the stream has everything up to `position`.
    fn note_stored(&mut self, position: u64) {
        while self.stored < position
            && let Some(flight) = self.sent.pop_front()
        {
            self.stored += 1;
            self.sent_bytes -= flight.payload.len();
            self.done.events += flight.counts.events;
            self.done.bytes += flight.counts.bytes;
            self.stored_id = flight.id;
        }
        self.stored_at = Instant::now();
    }

    /// Asks the stream for its last position, and sends everything after it again.
    async fn send_again(&mut self, why: &str) -> Result<(), ImportError> {
        let mut why = why.to_owned();
        let last = loop {
            pause(self.stored_at, self.ack_timeout, why).await?;
            let last = self.last_position().await?;
            // A server that has just become the leader may not have everything yet.
            if last >= self.stored {
                break last;
            }
            why = format!("the stream had the position {}, and now it ends at {last}", self.stored);
        };
        if last > self.stored {
            let at = usize::try_from(last - self.stored - 1).unwrap_or(usize::MAX);
            let id = self.id_at(last).await?;
            if self.sent.get(at).is_none_or(|flight| flight.id != id) {
                return Err(self.foreign(last));
            }
            self.note_stored(last);
        }
        self.attempt += 1;
        self.heard_at = Instant::now();
        for at in 0..self.sent.len() {
            self.send(at).await;
        }
        Ok(())
    }

    async fn last_position(&self) -> Result<u64, ImportError> {
        let asked_at = Instant::now();
        loop {
            match self.link.info().await {
                Ok(info) if self.link.is_other(&info) => return Err(ImportError::Replaced(self.link.name.clone())),
                Ok(info) => return Ok(info.state.last_sequence),
                Err(InfoError::Missing) => return Err(ImportError::Replaced(self.link.name.clone())),
                Err(InfoError::Other(why)) => pause(asked_at.max(self.stored_at), self.ack_timeout, why).await?,
            }
        }
    }

    /// The id of the message at `position`; empty if it has none.
    async fn id_at(&self, position: u64) -> Result<String, ImportError> {
        let asked_at = Instant::now();
        loop {
            let Some(stream) = self.link.stream().await else { return Ok(String::new()) };
            match stream.get_raw_message(position).await {
                Ok(message) => {
                    let id = message.headers.get(header::NATS_MESSAGE_ID);
                    return Ok(id.map(|id| id.as_str().to_owned()).unwrap_or_default());
                }
                Err(error) if matches!(error.kind(), RawMessageErrorKind::NoMessageFound) => return Ok(String::new()),
                Err(error) => pause(asked_at, self.ack_timeout, text_of(&error)).await?,
            }
        }
    }

    fn foreign(&self, position: u64) -> ImportError {
        ImportError::Foreign { name: self.link.name.clone(), position }
    }
}

/// Waits a moment before the next attempt, unless there was no success for too long.
async fn pause(since: Instant, ack_timeout: Duration, why: String) -> Result<(), ImportError> {
    if since.elapsed() >= TIMEOUTS_MAX * ack_timeout {
        return Err(ImportError::Unreachable(why));
    }
    tokio::time::sleep(PAUSE).await;
    Ok(())
}
