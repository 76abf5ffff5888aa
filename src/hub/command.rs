//! Commands to the hubs, from any thread: list subscribers, and end their streams.
//!
//! ```text
//!  Hubs: one sender for each hub ─► Inbox: commands that wait ─► Hub: one at a time ─► Streams::command
//! ```
//!
//! The subscribers are not listed anywhere else. The id of a subscriber says which hub has it, and under which key.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use futures_util::future::join_all;
use tokio::sync::{mpsc, oneshot};

use super::{counts::HubCounts, end::End};
use crate::{
    event::{EventId, TopicName},
    identity::Identity,
};

/// How many commands may wait for a hub. With more, the senders wait.
const INBOX: usize = 16;

/// The id of a subscriber, `<worker>-<key>-<salt>`. Clients must not interpret it. All parts have a fixed length, so
/// the order of the texts is the order of the ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SubscriberId {
    /// The number of the hub.
    worker: u16,
    stream: StreamId,
}

/// A connection of one hub.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct StreamId {
    /// Its key in the hub.
    pub key: u32,
    /// A random number, because the key will belong to another connection later.
    pub salt: u32,
}

impl SubscriberId {
    /// Parses what [`Display`](fmt::Display) wrote.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.splitn(3, '-');
        let mut number = || u32::from_str_radix(parts.next()?, 16).ok();
        let (worker, key, salt) = (number()?, number()?, number()?);
        let id = Self { worker: worker.try_into().ok()?, stream: StreamId { key, salt } };
        // Other texts, such as `+1-2-3`, have the same numbers, but name no subscriber.
        (id.to_string() == text).then_some(id)
    }
}

impl fmt::Display for SubscriberId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { worker, stream: StreamId { key, salt } } = self;
        write!(f, "{worker:04x}-{key:08x}-{salt:08x}")
    }
}

/// A subscriber, as its hub knows it.
#[derive(Clone, Debug)]
pub struct Listed<Id> {
    /// Its id.
    pub id: Id,
    /// When it subscribed.
    pub since: SystemTime,
    /// It has been given every event of its topics up to this position.
    pub cursor: EventId,
}

/// Says whose streams are ended.
pub type Matches = Arc<dyn Fn(&Identity) -> bool + Send + Sync>;

/// Ends the streams of some identities.
#[derive(Clone)]
pub struct EndWhere {
    /// Whose streams are ended. Streams of anonymous clients never are.
    pub matches: Matches,
    /// The moment of the command. A stream that is adopted later ends only if its right was checked before this moment.
    pub at: Instant,
    /// Why they are ended: [`End::Unauthorized`] or [`End::Ended`].
    pub end: End,
}

/// What a hub must do. The hub does it even if nobody waits for the answer any more.
pub enum Command {
    /// List the subscribers of a topic whose ids are after `after`: the first `limit` of them.
    List {
        /// The topic.
        topic: TopicName,
        /// The last id of the page before, if any.
        after: Option<StreamId>,
        /// The most subscribers to list.
        limit: usize,
        /// Gets the subscribers, in order.
        answer: oneshot::Sender<Vec<Listed<StreamId>>>,
    },
    /// Find a subscriber, and its topics.
    Find(StreamId, oneshot::Sender<Option<(Listed<StreamId>, Vec<TopicName>)>>),
    /// End the stream of a subscriber, and answer whether there was one.
    End(StreamId, oneshot::Sender<bool>),
    /// End the streams of some identities, and then answer how many.
    EndWhere(EndWhere, oneshot::Sender<usize>),
}

/// What a hub is started with, besides what all hubs share.
#[derive(Debug)]
pub struct Inbox {
    /// The number of the hub, and of its worker.
    pub worker: usize,
    /// The commands that wait for the hub.
    pub(super) commands: mpsc::Receiver<Command>,
    pub(super) counts: Arc<HubCounts>,
}

/// The way to all hubs, from any thread. Cheap to clone.
///
/// A hub that has ended has no subscribers, so the answers leave it out.
#[derive(Clone, Debug)]
pub struct Hubs {
    senders: Arc<[mpsc::Sender<Command>]>,
    counts: Arc<[Arc<HubCounts>]>,
}

impl Hubs {
    /// The way to `workers` hubs, and the inbox of each.
    #[must_use]
    pub fn new(workers: usize) -> (Self, Vec<Inbox>) {
        let counts: Arc<[Arc<HubCounts>]> = (0..workers).map(|_| Arc::default()).collect();
        let hubs = counts.iter().enumerate().map(|(worker, counts)| {
            let (sender, commands) = mpsc::channel(INBOX);
            (sender, Inbox { worker, commands, counts: Arc::clone(counts) })
        });
        let (senders, inboxes): (Vec<_>, Vec<_>) = hubs.unzip();
        (Self { senders: senders.into(), counts }, inboxes)
    }

    /// What each hub has counted.
    #[must_use]
    pub fn counts(&self) -> &[Arc<HubCounts>] {
        &self.counts
    }

    /// The first `limit` subscribers of a topic whose ids are after `after`, in order.
    pub async fn list(
        &self,
        topic: &TopicName,
        after: Option<SubscriberId>,
        limit: usize,
    ) -> Vec<Listed<SubscriberId>> {
        let first = after.map_or(0, |id| id.worker);
        let pages = (first..).zip(self.senders.iter().skip(first.into())).map(async |(worker, hub)| {
            let after = after.filter(|id| id.worker == worker).map(|id| id.stream);
            let list = |answer| Command::List { topic: topic.clone(), after, limit, answer };
            let listed = ask(hub, list).await.unwrap_or_default();
            let with_worker =
                |Listed { id, since, cursor }| Listed { id: SubscriberId { worker, stream: id }, since, cursor };
            listed.into_iter().map(with_worker).collect::<Vec<_>>()
        });
        // The ids begin with the number of the hub, so the pages are in order.
        join_all(pages).await.into_iter().flatten().take(limit).collect()
    }

    /// The subscriber with this id, and its topics.
    pub async fn find(&self, id: SubscriberId) -> Option<(Listed<SubscriberId>, Vec<TopicName>)> {
        let hub = self.senders.get(usize::from(id.worker))?;
        let (Listed { since, cursor, .. }, topics) = ask(hub, |answer| Command::Find(id.stream, answer)).await??;
        Some((Listed { id, since, cursor }, topics))
    }

    /// Ends the stream of one subscriber. Its client is told to stop. Returns whether there was such a subscriber.
    pub async fn end(&self, id: SubscriberId) -> bool {
        let Some(hub) = self.senders.get(usize::from(id.worker)) else { return false };
        ask(hub, |answer| Command::End(id.stream, answer)).await.unwrap_or(false)
    }

    /// Ends the streams of a subject. Their clients are told to stop. Returns how many there were.
    pub async fn end_subject(&self, subject: &str) -> usize {
        let subject: Box<str> = subject.into();
        let matches = move |identity: &Identity| identity.subject.as_ref() == Some(&subject);
        self.end_all(Arc::new(matches), End::Ended).await
    }

    /// Ends the streams of the identities whose right has ended, for example because their key was removed. Their
    /// clients may come back with another credential. Returns how many there were.
    ///
    /// Call this after the key was removed. Then this also ends streams that begin later, if their right was checked
    /// before this call.
    pub async fn end_where(&self, matches: Matches) -> usize {
        self.end_all(matches, End::Unauthorized).await
    }

    async fn end_all(&self, matches: Matches, end: End) -> usize {
        let command = EndWhere { matches, at: Instant::now(), end };
        let ended = self.senders.iter().map(|hub| ask(hub, |answer| Command::EndWhere(command.clone(), answer)));
        join_all(ended).await.into_iter().flatten().sum()
    }
}

/// Sends a command to a hub, and waits for the answer. The result is `None` if the hub has ended.
async fn ask<T>(hub: &mpsc::Sender<Command>, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Option<T> {
    let (answer, answered) = oneshot::channel();
    hub.send(command(answer)).await.ok()?;
    answered.await.ok()
}

/// The time that [`wall_ms`](crate::log::wall_ms) has returned as a number.
pub(super) fn time_of(wall_ms: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(wall_ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_of_a_subscriber_reads_back_and_nothing_else_does() {
        // Goal: only an id that the server has made names a subscriber, and the texts sort as the ids do.
        let id = |worker, key, salt| SubscriberId { worker, stream: StreamId { key, salt } };
        let ids = [id(0, 0, u32::MAX), id(0, 9, 1), id(0, 10, 0), id(0, u32::MAX, 0), id(9, 1, 0), id(256, 0, 0)];
        let texts = ids.map(|id| id.to_string());
        assert!(ids.is_sorted() && texts.is_sorted(), "{texts:?}");
        for (id, text) in ids.iter().zip(&texts) {
            assert_eq!(SubscriberId::parse(text), Some(*id));
            assert!(text.bytes().all(|b| b.is_ascii_digit() || b.is_ascii_lowercase() || b == b'-'), "{text}");
        }
        let last = texts[3].as_str();
        let broken = [
            "",
            "0-0-0",
            "0000-00000000",
            "0000-00000000-0000000G",
            "0000-00000000-0000000A",
            "0000-+0000000-00000000",
            "10000-00000000-00000000",
            &format!("{last} "),
            &format!("{last}-0"),
        ];
        for text in broken {
            assert_eq!(SubscriberId::parse(text), None, "{text}");
        }
    }
}
