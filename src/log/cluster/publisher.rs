//! Publishes the jobs of the queue, in their order, and answers them.
//!
//! ```text
//! job ─► sent ─► stored ─► answered
//!         │ ▲      (NATS has answered       (the follower has passed
//!         └─┘       with the position)       the position)
//!       lost: sent again, with the same id
//! ```
//!
//! Many messages are on their way at once. When the connection breaks, NATS may have stored some of them. All that have no
//! answer are sent again, in their order and with their ids, and NATS answers those that it has stored with the position
//! that they have. Only an event that is sent again can get a later position than an event that was queued after it.
//!
//! # Keys
//! The first event with an idempotency key is the one with the lowest position. This server knows the keys of all events
//! that it has followed. Another server may publish with the same key at the same time. So the id of a message with a key is
//! made from the topic and the key, and NATS takes only the first message with this id. The other one gets the position of
//! the first. The follower notes the key of that event, with its fingerprint, before the publisher answers.
//!
//! NATS may know an id whose key is already forgotten here, after a deletion of the topic or because of a limit. Then the
//! event is published with another id, which is made from the position of the forgotten event, too. All servers that
//! have forgotten the key try the same ids in the same order, so NATS again takes only one of their events.

use std::{
    collections::BTreeMap,
    mem,
    sync::Arc,
    time::{Duration, Instant},
};

use async_nats::{HeaderMap, Message, StatusCode, Subscriber, header};
use bytes::Bytes;
use futures_util::StreamExt as _;
use tokio::{sync::mpsc::Receiver, time::interval};
use twox_hash::XxHash3_128;

use super::{
    answer::{Answer, FULL, IN_PROCESS, Refusal},
    connection::{Link, text_of},
    envelope::{Envelope, Sent},
    shared::Shared,
    subject,
};
use crate::{
    event::{EventId, TopicName},
    log::{
        AppendError, Receipt,
        queue::{Job, Work},
    },
};

/// Publishes the jobs.
pub(super) struct Publisher {
    shared: Arc<Shared>,
    link: Arc<Link>,
    ack_timeout: Duration,
    /// Where NATS sends its answers. The number of a message is the last part of its subject.
    inbox: String,
    answers: Subscriber,
    /// A part of the ids of messages without a key.
    nonce: u64,
    next_number: u64,
    /// What NATS has not answered yet, by number.
    sent: BTreeMap<u64, Flight>,
    /// What NATS has stored and the follower has not passed yet, by position.
    stored: BTreeMap<u64, Vec<(Flight, bool)>>,
    /// Since when there is no connection.
    down_since: Option<Instant>,
    /// When NATS answered last, or when the client was told to look for another server.
    heard_at: Instant,
}

/// A message and its job.
struct Flight {
    job: Job,
    topic: TopicName,
    payload: Bytes,
    id: String,
    first_sent: Instant,
    last_sent: Instant,
    /// When it is sent again although NATS has answered: the answer was that NATS cannot store it now.
    again_at: Option<Instant>,
    attempts: u32,
    /// An attempt got no answer. So the message may be stored even if a later attempt fails.
    is_doubtful: bool,
    /// The follower's position when it was sent first. A new message must have a later one.
    position_then: u64,
}

/// How many messages may be on their way.
const SENT_MAX: usize = 4096;
/// How often messages without an answer are looked for.
const TICK: Duration = Duration::from_millis(50);
/// How long to wait when the stream has no leader.
const PAUSE: Duration = Duration::from_millis(200);
impl Publisher {
    pub(super) async fn new(shared: Arc<Shared>, link: Arc<Link>, ack_timeout: Duration) -> Result<Self, String> {
        let inbox = link.client.new_inbox();
        let answers = link.client.subscribe(format!("{inbox}.*")).await.map_err(|error| text_of(&error))?;
        Ok(Self {
            shared,
            link,
            ack_timeout,
            inbox,
            answers,
            nonce: fastrand::u64(..),
            next_number: 0,
            sent: BTreeMap::new(),
            stored: BTreeMap::new(),
            down_since: None,
            heard_at: Instant::now(),
        })
    }

    /// Does the jobs until the queue is closed and all are answered.
    pub(super) async fn run(mut self, jobs: &mut Receiver<Job>) {
        let (mut position, mut connections) = (self.shared.position.subscribe(), self.link.connections.clone());
        let (mut ticks, mut is_closed) = (interval(TICK), false);
        while !(is_closed && self.sent.is_empty() && self.stored.is_empty()) {
            // While there is no connection, the client would keep the messages and send them later, when nobody waits
            // for them any more.
            let takes_jobs =
                !is_closed && (self.is_refusing() || (self.down_since.is_none() && self.sent.len() < SENT_MAX));
            tokio::select! {
                biased;
                _ = position.changed() => self.answer_passed().await,
                Some(message) = self.answers.next() => self.take_answer(&message).await,
                _ = connections.changed() => self.send_all_again().await,
                _ = ticks.tick() => self.look_after_lost().await,
                job = jobs.recv(), if takes_jobs => match job {
                    Some(job) => self.begin(job).await,
                    None => is_closed = true,
                },
            }
        }
    }

    /// Whether there has been no connection for so long that publishes are refused.
    fn is_refusing(&self) -> bool {
        self.down_since.is_some_and(|since| since.elapsed() >= self.ack_timeout)
    }

    /// Sends the message of a job for the first time.
    async fn begin(&mut self, job: Job) {
        if self.is_refusing() {
            return refuse(&self.shared, job, AppendError::Unavailable);
        }
        let (topic, envelope, id) = match &job.work {
            Work::Delete { topic, .. } => (topic.clone(), Envelope::Deletion(topic.clone()), None),
            Work::Append { draft, claim, .. } => {
                let key = claim.as_ref().map(|claim| (Arc::clone(&claim.key), claim.fingerprint));
                let id = claim.as_ref().map(|claim| id_of_key(&draft.topic, &claim.key, 0));
                let (topic, name, content) = (draft.topic.clone(), draft.name.clone(), draft.content.clone());
                let sent = Sent { topic, name, key, subscribers: draft.subscribers, content };
                (draft.topic.clone(), Envelope::Event(sent), id)
            }
        };
        let now = Instant::now();
        let flight = Flight {
            topic,
            job,
            payload: envelope.encode(),
            id: id.unwrap_or_else(|| format!("{:016x}-{:x}", self.nonce, self.next_number)),
            first_sent: now,
            last_sent: now,
            again_at: None,
            attempts: 0,
            is_doubtful: false,
            position_then: *self.shared.position.borrow(),
        };
        self.send(self.next_number, flight).await;
        self.next_number += 1;
    }

    async fn send(&mut self, number: u64, mut flight: Flight) {
        let mut headers = HeaderMap::new();
        headers.insert(header::NATS_MESSAGE_ID, flight.id.as_str());
        headers.insert(header::NATS_EXPECTED_STREAM, self.link.name.as_str());
        let (subject, reply) = (subject::of_topic(&self.link.name, &flight.topic), format!("{}.{number}", self.inbox));
        let sending = self.link.client.publish_with_reply_and_headers(subject, reply, headers, flight.payload.clone());
        if let Err(error) = sending.await {
            // It was not given to the connection.
            tracing::warn!(error = text_of(&error), "a message cannot be sent to NATS");
            return self.refuse_flight(flight, AppendError::Unavailable);
        }
        (flight.last_sent, flight.again_at) = (Instant::now(), None);
        flight.attempts += 1;
        self.sent.insert(number, flight);
    }

    async fn take_answer(&mut self, message: &Message) {
        self.heard_at = Instant::now();
        let number = message.subject.rsplit('.').next().and_then(|number| number.parse::<u64>().ok());
        let Some(number) = number.filter(|number| self.sent.contains_key(number)) else { return };
        if message.status == Some(StatusCode::NO_RESPONDERS) {
            return self.postpone(number);
        }
        let answer: Answer = match serde_json::from_slice(&message.payload) {
            Ok(answer) => answer,
            Err(error) => {
                tracing::warn!(%error, "an answer of NATS cannot be read");
                return self.postpone(number);
            }
        };
        match answer {
            Answer { error: Some(Refusal { err_code: IN_PROCESS, .. }), .. } => self.postpone(number),
            Answer { error: Some(refusal), .. } => {
                let Some(flight) = self.sent.remove(&number) else { return };
                tracing::warn!(code = refusal.err_code, reason = refusal.description, "NATS has refused an event");
                let is_full = FULL.contains(&refusal.err_code);
                self.shared.health.set_full(is_full);
                self.refuse_flight(flight, if is_full { AppendError::DiskFull } else { AppendError::Unavailable });
            }
            Answer { seq: Some(seq), duplicate, .. } => {
                let Some(flight) = self.sent.remove(&number) else { return };
                self.shared.health.note_stored();
                self.shared.times.commit.add(flight.first_sent.elapsed(), 1);
                let is_event = matches!(flight.job.work, Work::Append { .. }) && !duplicate;
                self.shared.times.events.add(u64::from(is_event));
                if !duplicate && seq <= flight.position_then {
                    let (then, name) = (flight.position_then, &self.link.name);
                    let reason = format!("the stream {name} has gone back: {seq} comes after {then}. Was it restored?");
                    self.refuse_flight(flight, AppendError::Unknown);
                    self.link.renew_epoch().await;
                    return self.shared.fail(reason);
                }
                self.stored.entry(seq).or_default().push((flight, duplicate));
                self.answer_passed().await;
            }
            Answer { seq: None, .. } => self.postpone(number),
        }
    }

    /// Sends the message again in a moment: NATS has not stored this attempt.
    fn postpone(&mut self, number: u64) {
        if let Some(flight) = self.sent.get_mut(&number) {
            flight.again_at = Some(Instant::now() + PAUSE);
        }
    }

    /// Answers what the follower has passed.
    async fn answer_passed(&mut self) {
        let position = *self.shared.position.borrow();
        while let Some(first) = self.stored.first_entry().filter(|first| *first.key() <= position) {
            let (seq, flights) = first.remove_entry();
            for (flight, is_duplicate) in flights {
                self.answer(seq, flight, is_duplicate).await;
            }
        }
    }

    /// Answers a message that is in the stream at `seq`. A duplicate was there before.
    async fn answer(&mut self, seq: u64, mut flight: Flight, is_duplicate: bool) {
        let id = EventId { epoch: self.link.epoch, seq };
        let (claim, draft, done) = match flight.job.work {
            // Sending fails when the publisher no longer waits for the answer. Its event is published in any case.
            Work::Delete { done, .. } => {
                done.send(Ok(id)).ok();
                return;
            }
            Work::Append { claim, draft, done } => (claim, draft, done),
        };
        let own = Receipt { id, subscribers: draft.subscribers, replayed: false };
        let Some(claim) = claim else {
            done.send(Ok(own)).ok();
            return;
        };
        let answer = match self.shared.keys.first(claim.number) {
            Some((first, _)) if first.id.seq == seq && !is_duplicate => Ok(own),
            Some((first, fingerprint)) if fingerprint == claim.fingerprint => {
                // This server's own first attempt is no retry of the publisher.
                Ok(Receipt { replayed: flight.attempts == 1, ..first })
            }
            Some(_) => Err(AppendError::KeyReused),
            // The key was forgotten before this event was sent first, so it may be used again.
            None if is_duplicate && seq <= flight.position_then => {
                flight.id = id_of_key(&flight.topic, &claim.key, seq);
                (flight.attempts, flight.is_doubtful) = (0, false);
                flight.job.work = Work::Append { claim: Some(claim), draft, done };
                let number = self.next_number;
                self.next_number += 1;
                return self.send(number, flight).await;
            }
            // A limit or a deletion has forgotten the key since.
            None => Ok(own),
        };
        self.shared.keys.settle(claim.number, answer);
        done.send(answer).ok();
    }

    /// The connection is another one, so answers are lost: sends everything again.
    async fn send_all_again(&mut self) {
        self.down_since = None;
        for (number, mut flight) in mem::take(&mut self.sent) {
            flight.is_doubtful = true;
            self.send(number, flight).await;
        }
    }

    /// Sends again what has no answer, or gives it up.
    async fn look_after_lost(&mut self) {
        let now = Instant::now();
        if self.link.is_connected() {
            self.down_since = None;
        } else {
            self.down_since.get_or_insert(now);
        }
        let is_late = |flight: &Flight| now.duration_since(flight.last_sent) >= self.ack_timeout;
        let is_overdue = |flight: &Flight| now.duration_since(flight.first_sent) >= 2 * self.ack_timeout;
        let due =
            |flight: &Flight| is_late(flight) || is_overdue(flight) || flight.again_at.is_some_and(|at| at <= now);
        let numbers: Vec<u64> = self.sent.iter().filter(|(_, flight)| due(flight)).map(|(number, _)| *number).collect();
        for number in numbers {
            let Some(mut flight) = self.sent.remove(&number) else { continue };
            flight.is_doubtful |= flight.again_at.is_none();
            if now.duration_since(flight.first_sent) >= 2 * self.ack_timeout {
                if self.down_since.is_none() {
                    self.shared.health.note_unanswered();
                }
                self.refuse_flight(flight, AppendError::Unavailable);
            } else if self.down_since.is_none() {
                self.look_for_another_server(now).await;
                self.send(number, flight).await;
            } else {
                self.sent.insert(number, flight);
            }
        }
        self.give_up_stored(now);
    }

    /// When the server has answered nothing for a while, another one may.
    async fn look_for_another_server(&mut self, now: Instant) {
        if now.duration_since(self.heard_at) >= self.ack_timeout {
            self.heard_at = now;
            tracing::warn!("NATS does not answer: the client connects anew");
            self.link.client.force_reconnect().await.ok();
        }
    }

    /// Gives up what is stored, if the follower does not pass it. It is not certain to stay.
    fn give_up_stored(&mut self, now: Instant) {
        let is_overdue = |flight: &Flight| now.duration_since(flight.first_sent) >= 4 * self.ack_timeout;
        for flights in self.stored.values_mut() {
            for (mut flight, _) in flights.extract_if(.., |(flight, _)| is_overdue(flight)) {
                flight.is_doubtful = true;
                refuse_flight(&self.shared, flight, AppendError::Unknown);
            }
        }
        self.stored.retain(|_, flights| !flights.is_empty());
    }

    fn refuse_flight(&self, flight: Flight, error: AppendError) {
        refuse_flight(&self.shared, flight, error);
    }
}

/// Answers with `error`, unless an earlier attempt may have been stored.
fn refuse_flight(shared: &Shared, flight: Flight, error: AppendError) {
    refuse(shared, flight.job, if flight.is_doubtful { AppendError::Unknown } else { error });
}

/// Answers a job with `error`.
pub(super) fn refuse(shared: &Shared, job: Job, error: AppendError) {
    match job.work {
        Work::Append { claim, done, .. } => {
            if let Some(claim) = claim {
                shared.keys.settle(claim.number, Err(error));
            }
            done.send(Err(error)).ok();
        }
        Work::Delete { done, .. } => drop(done.send(Err(error))),
    }
}

/// The id of a message with a key. `forgotten` is the position of the event that had the same id, and whose key is
/// forgotten; 0 when there is none. Equal ids of different keys do no harm: the second event gets another id.
fn id_of_key(topic: &TopicName, key: &str, forgotten: u64) -> String {
    let text = format!("{}:{topic}{key}", topic.as_str().len());
    format!("k-{:032x}-{forgotten:x}", XxHash3_128::oneshot(text.as_bytes()))
}
