//! Follows the stream: each message goes to the index, to the feeds and to the keys, in order of position.
//!
//! One consumer delivers the messages. The follower checks that no position is left out: the positions of a stream have
//! no holes, because nobody may delete single messages from it. When a position is left out, its message was removed by
//! the stream's own limits, or the consumer is wrong and is made anew.
//!
//! The client library has a consumer that is made anew by itself. It is not used: it would go on without a question in
//! another stream of the same name.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use async_nats::jetstream::{
    Message,
    consumer::{AckPolicy, DeliverPolicy, pull},
    stream::Info,
};
use futures_util::{FutureExt as _, StreamExt as _};
use tokio::sync::Notify;

use super::{
    change::Change,
    connection::{Link, millis_of, text_of},
    envelope::{Envelope, Missing},
    shared::{Open, Shared, State},
    subject,
};
use crate::{
    event::{EventId, TopicName},
    frame,
    log::{
        Commit, Receipt,
        clock::{TOLERANCE_MS, millis},
        feed::Feeds,
        index::{Entry, Index},
        mutex::lock,
    },
};

/// Follows the stream.
pub(super) struct Follower {
    pub(super) shared: Arc<Shared>,
    pub(super) link: Arc<Link>,
    /// The watchdog asks for another consumer.
    pub(super) restart: Arc<Notify>,
    /// `publish.idempotency_window`.
    pub(super) key_window: Duration,
    /// The position of the last message.
    pub(super) position: u64,
    /// The time of the last event.
    pub(super) time_ms: u64,
    /// After this position, the consumer has left out a message once.
    pub(super) suspect: Option<u64>,
}

/// Why the follower needs another consumer.
struct Broken(String);

/// How many messages one lock of the index takes.
const BATCH_MAX: usize = 1024;
/// How many messages the client requests at once.
const REQUESTED: usize = 2000;
/// How often NATS says that the consumer still exists. When it has not said so for twice this time, the consumer has failed.
const HEARTBEAT: Duration = Duration::from_secs(2);
/// How long NATS keeps a consumer that nobody uses any more.
const KEPT_FOR: Duration = Duration::from_secs(30);
/// How long to wait after a consumer has failed.
const PAUSE: Duration = Duration::from_millis(100);
/// How often the start logs its progress.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);

impl Follower {
    /// Reads the stream up to its last position in `info` into `index`, and then opens the log with this index.
    pub(super) async fn load(&mut self, mut index: Index, info: &Info) {
        let (started, mut progress_at) = (Instant::now(), Instant::now() + PROGRESS_INTERVAL);
        let (first, last) = (info.state.first_sequence, info.state.last_sequence);
        self.lose_to(&mut index, first.saturating_sub(1), info);
        while self.position < last {
            let mut is_done = |follower: &Self| {
                if Instant::now() >= progress_at {
                    progress_at = Instant::now() + PROGRESS_INTERVAL;
                    let (position, first) = (follower.position, first.max(1));
                    let percent = position.saturating_sub(first) * 100 / (last - first + 1);
                    tracing::info!(position, percent, "reading the stream");
                }
                follower.position >= last
            };
            if let Err(Broken(why)) = self.read_messages(&mut Some(&mut index), &mut is_done).await {
                tracing::warn!(why, "the stream is read again from where it was");
                tokio::time::sleep(PAUSE).await;
            }
        }
        while index.enforce_retention(self.shared.clock.read(), &mut |_| ()) {}
        let (events, topics) = index.size();
        let (epoch, watermark) = (self.link.epoch, index.watermark());
        let mut state = lock(&self.shared.state);
        state.index = index;
        state.feeds.begin_epoch(epoch, watermark);
        self.shared.watermark.store(watermark, Ordering::Release);
        self.shared.open.set(Open { epoch, link: Arc::clone(&self.link) }).ok();
        drop(state);
        *lock(&self.shared.health.current_at) = started;
        self.shared.position.send_replace(self.position);
        tracing::info!(events, topics, took = ?started.elapsed(), "the log is open");
    }

    /// Follows the stream until the runtime ends.
    pub(super) async fn run(mut self) {
        loop {
            if let Err(Broken(why)) = self.read_messages(&mut None, &mut |_| false).await {
                tracing::debug!(why, "the consumer is made anew");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }

    /// Reads messages with one consumer, until `is_done` or until the connection is another one.
    async fn read_messages(
        &mut self,
        index: &mut Option<&mut Index>,
        is_done: &mut (dyn FnMut(&Self) -> bool + Send),
    ) -> Result<(), Broken> {
        let (restart, mut connections) = (Arc::clone(&self.restart), self.link.connections.clone());
        connections.mark_unchanged();
        let mut messages = self.consume().await?;
        while !is_done(self) {
            let first = tokio::select! {
                biased;
                () = restart.notified() => return Ok(()),
                // What was on its way is lost. The consumer itself would notice that only after a while.
                _ = connections.changed() => return Ok(()),
                first = messages.next() => first,
            };
            let mut batch = Vec::new();
            let mut next = first;
            while let Some(message) = next {
                batch.push(message.map_err(|error| Broken(text_of(&error)))?);
                next = if batch.len() < BATCH_MAX { messages.next().now_or_never().flatten() } else { None };
            }
            if batch.is_empty() {
                return Err(Broken("the consumer has ended".to_owned()));
            }
            if let Some(found) = self.take(&batch, index) {
                return self.explain_hole(found, index).await;
            }
        }
        Ok(())
    }

    /// A consumer of everything after the position.
    async fn consume(&self) -> Result<pull::Stream, Broken> {
        let info = self.link.info().await.map_err(|error| Broken(error.to_string()))?;
        if self.link.is_other(&info) || info.state.last_sequence < self.position {
            // The watchdog makes sure of it, and ends the process.
            return Err(Broken("the stream is not the one of before".to_owned()));
        }
        let stream = self.link.stream().await.ok_or_else(|| Broken("the stream has no valid name".to_owned()))?;
        let config = pull::Config {
            deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: self.position + 1 },
            ack_policy: AckPolicy::None,
            inactive_threshold: KEPT_FOR,
            num_replicas: 1,
            memory_storage: true,
            ..pull::Config::default()
        };
        let consumer = stream.create_consumer(config).await.map_err(|error| Broken(text_of(&error)))?;
        let messages = consumer.stream().max_messages_per_batch(REQUESTED).heartbeat(HEARTBEAT).messages();
        messages.await.map_err(|error| Broken(text_of(&error)))
    }

    /// Takes the messages. Returns the position of the first one that does not follow the one before.
    fn take(&mut self, batch: &[Message], index: &mut Option<&mut Index>) -> Option<u64> {
        let mut changes = Vec::with_capacity(batch.len());
        let mut found = None;
        for message in batch {
            let Ok(info) = message.info() else { continue };
            let seq = info.stream_sequence;
            if seq <= self.position {
                continue;
            }
            if seq > self.position + 1 {
                found = Some(seq);
                break;
            }
            self.position = seq;
            let wall_ms = millis_of(info.published);
            changes.push(self.read(message, seq, wall_ms));
        }
        if let Some(index) = index {
            self.apply(&changes, index, None);
        } else {
            let mut state = lock(&self.shared.state);
            let State { index, feeds } = &mut *state;
            self.apply(&changes, index, Some(feeds));
            self.shared.watermark.store(index.watermark(), Ordering::Release);
        }
        self.obey(changes);
        if self.shared.open.initialized() {
            self.shared.position.send_replace(self.position);
        }
        found
    }

    fn read(&mut self, message: &Message, seq: u64, wall_ms: u64) -> Change {
        if let Some(envelope) = Envelope::decode(&message.payload) {
            return Change::new(envelope, EventId { epoch: self.link.epoch, seq }, wall_ms, &mut self.time_ms);
        }
        let topic = subject::to_topic(&self.link.name, &message.subject);
        tracing::error!(position = seq, subject = %message.subject, "a message in the stream cannot be read");
        self.shared.unreadable.fetch_add(1, Ordering::Relaxed);
        Change::Unreadable { topic, seq }
    }

    /// Adds what was read to the index and the feeds.
    fn apply(&self, changes: &[Change], index: &mut Index, mut feeds: Option<&mut Feeds>) {
        let now = self.shared.clock.read();
        index.begin_step();
        for change in changes {
            let mono_ms = change.mono_ms(now, self.shared.open.initialized());
            let skipped = match change {
                Change::Event { event, .. } => {
                    index.push(&event.topic, Entry::hot(Arc::clone(event), mono_ms), &mut |_| ());
                    if let Some(feeds) = &mut feeds {
                        feeds.push(Commit::Event(Arc::clone(event)));
                    }
                    continue;
                }
                Change::Deletion { topic, seq } => {
                    index.delete(topic, *seq, mono_ms);
                    if let Some(feeds) = &mut feeds {
                        feeds.push(Commit::Deleted(topic.clone(), *seq));
                    }
                    continue;
                }
                Change::SubjectEnd { seq, .. } | Change::Marker { seq } => {
                    index.pass(*seq);
                    if let Some(feeds) = &mut feeds {
                        feeds.push(Commit::Other(*seq));
                    }
                    continue;
                }
                Change::Unreadable { topic, seq } => {
                    self.lose_event(topic.as_ref(), *seq, (self.time_ms, mono_ms), index);
                    seq
                }
                Change::Missing { missing: Missing { topic, is_unreadable, time_ms, .. }, seq, .. } => {
                    match topic {
                        Some(topic) if !is_unreadable => index.remove_topic(topic, *seq, *time_ms),
                        topic => self.lose_event(topic.as_ref(), *seq, (*time_ms, mono_ms), index),
                    }
                    seq
                }
            };
            if let Some(feeds) = &mut feeds {
                // The hubs read it from the log, and so report the gap.
                feeds.skip(*skipped);
            }
        }
    }

    /// Adds the gap of an event that cannot be read. Its times are those of both clocks.
    fn lose_event(&self, topic: Option<&TopicName>, seq: u64, (time_ms, mono_ms): (u64, u64), index: &mut Index) {
        let Some(topic) = topic else {
            index.remove_to(seq, time_ms);
            return;
        };
        let id = EventId { epoch: self.link.epoch, seq };
        index.push(topic, Entry::hot(frame::encode(id, time_ms, topic.clone(), None, b""), mono_ms), &mut |_| ());
        index.mark_unreadable(topic, seq);
    }

    /// Notes the keys of the events, forgets those of deleted topics, and ends the streams of subjects. It comes after the
    /// feeds, because a noted key answers a retry.
    fn obey(&self, changes: Vec<Change>) {
        let (epoch, now) = (self.link.epoch, self.shared.clock.read());
        for change in changes {
            let expires_mono_ms =
                change.mono_ms(now, self.shared.open.initialized()).saturating_add(millis(self.key_window));
            let (key, seq, subscribers) = match change {
                Change::Event { event, key: Some(key), subscribers, .. } => (key, event.seq, subscribers),
                Change::Missing { missing, key: Some(key), seq } => (key, seq, missing.subscribers),
                Change::Deletion { topic, seq } => {
                    self.shared.keys.forget(&topic, seq);
                    continue;
                }
                Change::SubjectEnd { subject, wall_ms, .. } => {
                    // While the stream is read at the start, there may be tickets, and subscribers that wait. They are
                    // not older than the process.
                    let is_new = self.shared.open.initialized()
                        || wall_ms.saturating_add(TOLERANCE_MS) >= self.shared.started_wall_ms;
                    if let Some(local) = self.shared.others.local().filter(|_| is_new) {
                        tokio::spawn(local.end_subject(subject));
                    }
                    continue;
                }
                Change::Event { .. } | Change::Marker { .. } | Change::Unreadable { .. } | Change::Missing { .. } => {
                    continue;
                }
            };
            if expires_mono_ms > now.mono_ms {
                let receipt = Receipt { id: EventId { epoch, seq }, subscribers, replayed: false };
                self.shared.keys.note(key, receipt, expires_mono_ms);
            }
        }
    }

    /// Finds out why the message after the position is missing. `found` is the position of the one that came instead.
    async fn explain_hole(&mut self, found: u64, index: &mut Option<&mut Index>) -> Result<(), Broken> {
        let info = self.link.info().await.map_err(|error| Broken(error.to_string()))?;
        let first = info.state.first_sequence.min(found);
        let lost_to = if first > self.position + 1 {
            first - 1
        } else if self.suspect == Some(self.position) {
            tracing::error!(
                after = self.position,
                to = found - 1,
                "the stream has lost messages: subscribers are told"
            );
            found - 1
        } else {
            self.suspect = Some(self.position);
            return Err(Broken("the consumer has left out a message".to_owned()));
        };
        if let Some(index) = index {
            self.lose_to(index, lost_to, &info);
            return Ok(());
        }
        let shared = Arc::clone(&self.shared);
        let mut state = lock(&shared.state);
        let State { index, feeds } = &mut *state;
        self.lose_to(index, lost_to, &info);
        feeds.skip(lost_to);
        shared.watermark.store(index.watermark(), Ordering::Release);
        drop(state);
        shared.position.send_replace(self.position);
        Ok(())
    }

    /// Notes that what the stream had up to `seq` is lost.
    fn lose_to(&mut self, index: &mut Index, seq: u64, info: &Info) {
        if seq > self.position {
            // The lost events were before the first one that is left.
            let is_empty = info.state.messages == 0;
            let newest_ms =
                if is_empty { self.shared.clock.read().wall_ms } else { millis_of(info.state.first_timestamp) };
            index.remove_to(seq, newest_ms);
            self.position = seq;
        }
    }
}
