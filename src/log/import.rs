//! Moves a log from the disk into the stream of a cluster, for `tidings import`.
//!
//! The stream gets what a server would hold that started on the files now: the events in their order, each with its
//! topic, name, content and time, and the idempotency keys that are still in their window. So `since=` and `log.age_max`
//! mean the same as before, and a retry of an earlier publish is recognized.
//!
//! The ids are new, and so is the epoch. A subscriber with an id of the old log gets one `broker.gap` with the reason
//! `reset`, and then all that is held. The old ids cannot be kept: NATS gives each message the next position, and
//! the positions of a log on the disk have holes.
//!
//! What the old log knows of removed events is moved, too, so that `since=` reports the same gaps. The stream begins with
//! these messages: for each topic, the time of its newest removed event, and the keys of removed events. An event that
//! is too large for NATS, or cannot be read, leaves a message that subscribers see as a gap.
//!
//! An import that was interrupted goes on where it was. The log on the disk may have changed meanwhile: then the later
//! events follow, and topics that were deleted since are deleted in the stream.

use std::{
    collections::{HashSet, VecDeque},
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use tokio::runtime::Builder;

use super::{
    KeyLimits,
    cluster::{self, Done, Envelope, Importer, Item, Missing, Sent},
    disk::{OpenError, StoppedLog, StoreError, UsedKey, directory_of},
};
use crate::{
    config::Config,
    event::{Event, EventId, TopicName},
};

/// Why a log was not imported.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The log on the disk cannot be opened.
    #[error(transparent)]
    Log(#[from] OpenError),
    /// The log on the disk cannot be read.
    #[error(transparent)]
    Read(#[from] StoreError),
    /// The stream cannot take it.
    #[error(transparent)]
    Stream(#[from] cluster::ImportError),
    /// Since an earlier run, the log has lost events, and it does not know of which topics.
    #[error(
        "the log has lost events since the import began; remove the stream {0} (nats stream rm {0}), and import again"
    )]
    Damaged(String),
    /// The system does not give what the import needs.
    #[error("the import cannot be started: {0}")]
    System(#[source] io::Error),
}

/// How far an import is.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// The events that NATS has stored in this run.
    pub stored: usize,
    /// The events of this run.
    pub events: usize,
}

/// What was imported.
#[derive(Debug)]
pub struct Report {
    /// The directory of the log on the disk.
    pub from: PathBuf,
    /// The id of the position after which this run began; `None` if the stream was empty.
    pub resumed_after: Option<EventId>,
    /// How many events were there from earlier runs.
    pub earlier: usize,
    /// How many events NATS has stored in this run.
    pub events: usize,
    /// The bytes of their contents.
    pub bytes: u64,
    /// How many topics the log has.
    pub topics: usize,
    /// How many idempotency keys were moved in this run.
    pub keys: usize,
    /// How many bytes of content an event may have in the stream.
    pub content_max: usize,
    /// The events that were left out.
    pub left_out: Vec<LeftOut>,
}

/// An event that was left out.
#[derive(Debug)]
pub struct LeftOut {
    /// Its id in the log on the disk.
    pub id: EventId,
    /// Its topic.
    pub topic: TopicName,
    /// Its size, if it is too large for NATS; `None` if it cannot be read.
    pub bytes: Option<usize>,
}

/// Moves the log at `from` into the stream of `config`. No server may use either of them.
///
/// # Errors
/// When one of them cannot be used. What NATS has stored until then stays, and another run goes on after it.
pub fn import(config: &Config, from: &Path, on_progress: &mut dyn FnMut(Progress)) -> Result<Report, ImportError> {
    let from = directory_of(from);
    let log = StoppedLog::open(&from, &config.log, KeyLimits::from(config))?;
    let runtime = Builder::new_current_thread().enable_all().build().map_err(ImportError::System)?;
    runtime.block_on(run(config, from, &log, on_progress))
}

async fn run(
    config: &Config,
    from: PathBuf,
    log: &StoppedLog,
    on_progress: &mut dyn FnMut(Progress),
) -> Result<Report, ImportError> {
    let (mut importer, info) = Importer::open(&config.cluster, &config.log).await?;
    let after = importer.resumes_after(log.epoch, &info).await?;
    let (all, events) = (log.held_after(0).count(), log.held_after(after).count());
    let (first, first_keys) = first_messages(log, after, &config.cluster.namespace)?;
    let mut items = Items {
        log,
        origin: EventId { epoch: log.epoch, seq: after },
        first,
        held: Box::new(log.held_after(after)),
        content_max: importer.content_max(),
        keys: first_keys,
        time_ms: 0,
        left_out: Vec::new(),
    };
    let mut done = Done::default();
    let mut note = |now: Done| {
        done = now;
        on_progress(Progress { stored: now.events, events });
    };
    importer.run(&mut items, &mut note).await?;
    let topics: HashSet<&TopicName> = log.held_after(0).map(|(_, topic)| topic).collect();
    Ok(Report {
        from,
        resumed_after: (info.state.messages > 0).then_some(EventId { epoch: log.epoch, seq: after }),
        earlier: all - events,
        events: done.events,
        bytes: done.bytes,
        topics: topics.len(),
        keys: items.keys,
        content_max: items.content_max,
        left_out: items.left_out,
    })
}

/// The messages that come before the events after `after`, and how many of them have a key. They say what is missing
/// after that position.
fn first_messages(log: &StoppedLog, after: u64, stream: &str) -> Result<(VecDeque<Envelope>, usize), ImportError> {
    let mut first = VecDeque::new();
    let missing = |topic, time_ms| Missing { topic, is_unreadable: false, time_ms, key: None, subscribers: 0 };
    let of_any = log.removed_of_any();
    if of_any.to > after {
        if after > 0 {
            // This message would hide what the stream has already of all topics.
            return Err(ImportError::Damaged(stream.to_owned()));
        }
        first.push_back(Envelope::Missing(missing(None, of_any.newest_ms)));
    }
    for (topic, removed, deleted_to) in log.removed() {
        if after > 0 && deleted_to > after {
            first.push_back(Envelope::Deletion(topic.clone()));
        }
        if removed.to > after {
            first.push_back(Envelope::Missing(missing(Some(topic.clone()), removed.newest_ms)));
        }
    }
    let mut count = 0;
    for used in log.keys_without_event().into_iter().filter(|used| used.seq > after) {
        let UsedKey { topic, key, fingerprint, subscribers, time_ms, .. } = used;
        let key = Some((key, fingerprint));
        first.push_back(Envelope::Missing(Missing { key, subscribers, ..missing(Some(topic), time_ms) }));
        count += 1;
    }
    Ok((first, count))
}

/// The messages of an import, in order.
struct Items<'a> {
    log: &'a StoppedLog,
    /// The id of the last event so far.
    origin: EventId,
    /// What comes before the events.
    first: VecDeque<Envelope>,
    held: Box<dyn Iterator<Item = (u64, &'a TopicName)> + 'a>,
    content_max: usize,
    /// How many keys there were so far.
    keys: usize,
    /// The time of the last event so far.
    time_ms: u64,
    left_out: Vec<LeftOut>,
}

impl Iterator for Items<'_> {
    type Item = Result<Item, ImportError>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(envelope) = self.first.pop_front() {
            return Some(Ok(Item { origin: self.origin, envelope }));
        }
        let (seq, topic) = self.held.next()?;
        self.origin.seq = seq;
        let envelope = match self.log.event(seq, topic) {
            Ok(event) => self.envelope(topic, event.as_ref()),
            Err(error) => return Some(Err(error.into())),
        };
        Some(Ok(Item { origin: self.origin, envelope }))
    }
}

impl Items<'_> {
    /// The message of an event; `None` stands for one that cannot be read.
    fn envelope(&mut self, topic: &TopicName, event: Option<&Arc<Event>>) -> Envelope {
        self.time_ms = event.map_or(self.time_ms, |event| event.time_ms);
        let Some(event) = event.filter(|event| event.content().len() <= self.content_max) else {
            let bytes = event.map(|event| event.content().len());
            self.left_out.push(LeftOut { id: self.origin, topic: topic.clone(), bytes });
            let (topic, time_ms) = (Some(topic.clone()), self.time_ms);
            // A retry of an event that is too large would be refused in any case. One of a damaged event is a new event.
            return Envelope::Missing(Missing { topic, is_unreadable: true, time_ms, key: None, subscribers: 0 });
        };
        let used = self.log.key_of(event);
        self.keys += usize::from(used.is_some());
        let (key, subscribers) = used.map_or((None, 0), |used| (Some((used.key, used.fingerprint)), used.subscribers));
        let (name, content) = (event.name.clone(), Bytes::copy_from_slice(event.content()));
        Envelope::Imported(Sent { topic: topic.clone(), name, key, subscribers, content }, event.time_ms)
    }
}
