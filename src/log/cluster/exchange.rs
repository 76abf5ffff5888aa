//! Talks to the other servers of the cluster, outside of the stream: about numbers of subscribers, and about tickets.
//!
//! These messages may be lost. Numbers are said again when that happens, and a request for a ticket gets an error. What
//! all servers must do is in the stream: the end of a subject's streams.
//!
//! | subject | message |
//! |---|---|
//! | `<namespace>.n.counts` | the numbers of subscribers of one server: see [`counts`](super::counts) |
//! | `<namespace>.n.hello` | a server asks all others to begin again with their numbers |
//! | `<namespace>.n.ticket.<node>` | a server asks another one about a ticket: [`TicketRequest`] |

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use async_nats::{Message, Request, RequestErrorKind, Subscriber};
use futures_util::{StreamExt as _, future::BoxFuture};
use serde::{Deserialize, Serialize};
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::{
    connection::{Link, REQUEST_TIMEOUT, text_of},
    counts::{self, INTERVAL, Speaker, farewell},
    shared::Shared,
};
use crate::{
    event::TopicName,
    log::mutex::lock,
    peers::{Local, Node, PeerError, TicketHash, TicketUse},
};

/// A question about a ticket.
#[derive(Serialize, Deserialize)]
struct TicketRequest {
    hash: TicketHash,
    /// The ticket is used up.
    spend: bool,
    /// Where the asking server is in the stream. The other one first reads up to there, so that it knows of all ended
    /// subjects that the asking one knows of.
    position: u64,
}

/// The answer; `None` if there is no such ticket.
#[derive(Serialize, Deserialize)]
struct TicketAnswer {
    ticket: Option<String>,
}

/// How often a server begins again, at most. Each time, it says the numbers of all its topics.
const BEGIN_INTERVAL: Duration = Duration::from_secs(2);
/// How long a server waits for the answer to a question. It is longer than the other one waits for its position.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);

/// How long a server that stops tries to say so.
const LEAVE_TIMEOUT: Duration = Duration::from_millis(500);

/// Says this server's numbers and takes those of the others, until the runtime ends.
pub(super) async fn run(shared: Arc<Shared>, link: Arc<Link>) {
    loop {
        match exchange(&shared, &link).await {
            Ok(()) => tracing::debug!("the subscriptions to the other servers have ended"),
            Err(error) => tracing::warn!(error, "the other servers of the cluster cannot be heard"),
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

async fn exchange(shared: &Arc<Shared>, link: &Arc<Link>) -> Result<(), String> {
    let others = &shared.others;
    let mut heard = subscribe(link, "counts").await?;
    let mut hellos = subscribe(link, "hello").await?;
    let mut questions = subscribe(link, &format!("ticket.{}", others.own)).await?;
    let mut connections = link.connections.clone();
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut speaker = Speaker::new(others.own);
    let (mut must_begin, mut must_greet, mut began_at) = (true, true, None::<Instant>);
    loop {
        tokio::select! {
            message = heard.next() => match message {
                Some(message) => {
                    // Outside of the lock, for which publishes wait.
                    let said = counts::read(&message.payload);
                    must_greet |= said.is_some_and(|said| lock(&others.counts).take(said, others.own, Instant::now()));
                }
                None => return Ok(()),
            },
            hello = hellos.next() => match hello {
                Some(_) => must_begin = true,
                None => return Ok(()),
            },
            question = questions.next() => match question {
                Some(question) => drop(tokio::spawn(answer(Arc::clone(shared), Arc::clone(link), question))),
                None => return Ok(()),
            },
            // What was said meanwhile is lost, on both sides.
            _ = connections.changed() => (must_begin, must_greet) = (true, true),
            _ = ticks.tick() => {
                lock(&others.counts).forget_gone(Instant::now());
                let Some(local) = others.local() else { continue };
                if std::mem::take(&mut must_greet) {
                    link.say("hello", Vec::new()).await?;
                }
                let changes = lock(&others.changes).take();
                must_begin |= changes.is_none();
                let may_begin = began_at.is_none_or(|at| at.elapsed() >= BEGIN_INTERVAL);
                let messages = if must_begin && may_begin {
                    (must_begin, began_at) = (false, Some(Instant::now()));
                    let messages;
                    (speaker, messages) = say_all(speaker, Arc::clone(local)).await?;
                    messages
                } else {
                    let count = |topic: TopicName| (topic.clone(), local.subscribers(topic.as_str()));
                    speaker.say(changes.into_iter().flatten().map(count).collect(), false)
                };
                for message in messages {
                    link.say("counts", message).await?;
                }
            }
        }
    }
}

/// Begins again. It looks at all topics, which may take longer than the tasks of this thread can wait.
async fn say_all(mut speaker: Speaker, local: Arc<dyn Local>) -> Result<(Speaker, Vec<Vec<u8>>), String> {
    let say = move || {
        let messages = speaker.say(local.all_subscribers(), true);
        (speaker, messages)
    };
    tokio::task::spawn_blocking(say).await.map_err(|error| error.to_string())
}

/// Tells the others that this server stops.
pub(super) async fn leave(shared: &Shared, link: &Link) {
    let said = async {
        link.say("counts", farewell(shared.others.own)).await?;
        link.client.flush().await.map_err(|error| text_of(&error))
    };
    // If it cannot be said, the others notice the silence.
    timeout(LEAVE_TIMEOUT, said).await.ok();
}

async fn subscribe(link: &Link, what: &str) -> Result<Subscriber, String> {
    link.client.subscribe(link.exchange_subject(what)).await.map_err(|error| text_of(&error))
}

impl Link {
    fn exchange_subject(&self, what: &str) -> String {
        format!("{}.n.{what}", self.name)
    }

    async fn say(&self, what: &str, message: Vec<u8>) -> Result<(), String> {
        self.client.publish(self.exchange_subject(what), message.into()).await.map_err(|error| text_of(&error))
    }
}

/// Asks `node` about a ticket.
pub(super) fn ask(
    shared: Arc<Shared>,
    node: Node,
    hash: TicketHash,
    ticket_use: TicketUse,
) -> BoxFuture<'static, Result<Option<String>, PeerError>> {
    Box::pin(async move {
        let link = Arc::clone(&shared.open.get().ok_or(PeerError::Unavailable)?.link);
        let position = *shared.position.borrow();
        let question = TicketRequest { hash, spend: ticket_use == TicketUse::Spend, position };
        let question = serde_json::to_vec(&question).map_err(|_| PeerError::Unavailable)?;
        let subject = link.exchange_subject(&format!("ticket.{node}"));
        let request = Request::new().payload(question.into()).timeout(Some(ANSWER_TIMEOUT));
        let answer = match link.client.send_request(subject, request).await {
            Ok(answer) => answer,
            // A server that was heard lately is about to connect anew. Any other one has ended, and its tickets with it.
            Err(error) if error.kind() == RequestErrorKind::NoResponders => {
                let is_known = lock(&shared.others.counts).knows(node);
                return if is_known { Err(PeerError::Unavailable) } else { Ok(None) };
            }
            Err(error) => {
                tracing::warn!(error = text_of(&error), %node, "another server does not say what a ticket stands for");
                // It may have used the ticket up.
                return Err(PeerError::Unknown);
            }
        };
        let answer: TicketAnswer = serde_json::from_slice(&answer.payload).map_err(|_| PeerError::Unknown)?;
        Ok(answer.ticket)
    })
}

/// Answers a question about a ticket of this server.
async fn answer(shared: Arc<Shared>, link: Arc<Link>, question: Message) {
    let Some(reply) = question.reply else { return };
    let Ok(TicketRequest { hash, spend, position }) = serde_json::from_slice(&question.payload) else { return };
    let mut reached = shared.position.subscribe();
    if timeout(REQUEST_TIMEOUT, reached.wait_for(|reached| *reached >= position)).await.is_err() {
        // The other server gets no answer, and so an error. The ticket stays.
        return;
    }
    let ticket_use = if spend { TicketUse::Spend } else { TicketUse::Look };
    let ticket = shared.others.local().and_then(|local| local.ticket(&hash, ticket_use));
    if let Ok(answer) = serde_json::to_vec(&TicketAnswer { ticket }) {
        link.client.publish(reply, answer.into()).await.ok();
    }
}
