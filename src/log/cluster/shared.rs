//! The state of the log that the workers' threads and the engine's own tasks share.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::{SetOnce, watch};

use super::{connection::Link, envelope::OVERHEAD_MAX, others::Others};
use crate::{
    event::Epoch,
    log::{
        LogTimes,
        clock::Clock,
        feed::Feeds,
        index::Index,
        keys::Keys,
        mutex::{lock, unlock_fair},
        queue::KeyHolder,
    },
};

/// The shared state of the log.
pub(super) struct Shared {
    /// The epoch until the stream has been read.
    pub(super) provisional: Epoch,
    /// The stream, once this server has read it.
    pub(super) open: SetOnce<Open>,
    pub(super) clock: Clock,
    /// The wall clock when the log was opened.
    pub(super) started_wall_ms: u64,
    /// A copy of the index's watermark, which can be read without the lock.
    pub(super) watermark: AtomicU64,
    pub(super) state: Mutex<State>,
    pub(super) keys: Keys,
    /// Everything up to this position is in the index, in the feeds and in the keys.
    pub(super) position: watch::Sender<u64>,
    pub(super) health: Health,
    /// The last marker.
    pub(super) marker: tokio::sync::Mutex<Option<Marker>>,
    /// The other servers of the cluster.
    pub(super) others: Others,
    /// The reason, once the log has failed for good. The process must then end.
    pub(super) failed: Arc<SetOnce<String>>,
    /// How long NATS takes.
    pub(super) times: LogTimes,
    /// How many events could not be read since the server started.
    pub(super) unreadable: AtomicU64,
    /// For how long a publish with a key may rely on the keys that this server has read from the stream.
    pub(super) keys_valid: Duration,
}

/// A marker in the stream.
#[derive(Clone, Copy)]
pub(super) struct Marker {
    /// When it was sent.
    pub(super) at: Instant,
    /// Its position; `None` if it is not certain to be in the stream.
    pub(super) seq: Option<u64>,
    /// How long after it the next one may be sent.
    pub(super) pause: Duration,
}

/// What is known once the stream has been read.
pub(super) struct Open {
    pub(super) epoch: Epoch,
    pub(super) link: Arc<Link>,
}

/// The part of the state that is locked as a whole.
pub(super) struct State {
    pub(super) index: Index,
    pub(super) feeds: Feeds,
}

/// Whether events can be published now, as far as the tasks know.
pub(super) struct Health {
    /// The stream answers, and this server follows it.
    pub(super) follows: AtomicBool,
    /// NATS had no space for the last event.
    pub(super) full: AtomicBool,
    /// When the stream had nothing that this server has not read by now.
    pub(super) current_at: Mutex<Instant>,
    /// When NATS last left a message without an answer, if it has stored none since.
    unanswered_at: Mutex<Option<Instant>>,
}

/// For how long a message without an answer makes the server not ready.
const UNANSWERED_FOR: Duration = Duration::from_secs(30);

impl Shared {
    /// Notes that the log has failed for good.
    pub(super) fn fail(&self, reason: String) {
        tracing::error!(%reason, "the log has failed");
        self.failed.set(reason).ok();
    }

    /// How many bytes of content an event may have; `None` as long as that is not known.
    pub(super) fn content_max(&self) -> Option<usize> {
        Some(self.open.get()?.link.payload_max().saturating_sub(OVERHEAD_MAX))
    }

    /// Whether another server may have used a key that this one does not know, and NATS no longer knows it either.
    pub(super) fn are_keys_outdated(&self) -> bool {
        lock(&self.health.current_at).elapsed() > self.keys_valid
    }

    /// Removes from the index what the stream has removed by its own limits, up to `seq`. The follower itself notes what
    /// it can no longer read.
    pub(super) fn note_removed(&self, seq: u64) {
        loop {
            let mut state = lock(&self.state);
            let seq = seq.min(state.index.watermark());
            if !state.index.remove_to(seq, 0) {
                return;
            }
            unlock_fair(state);
        }
    }
}

impl Health {
    pub(super) fn new() -> Self {
        let (follows, full) = (AtomicBool::new(true), AtomicBool::new(false));
        Self { follows, full, current_at: Mutex::new(Instant::now()), unanswered_at: Mutex::default() }
    }

    /// Notes that NATS has not answered a message in time. On a full disk it answers none, although it can be reached.
    pub(super) fn note_unanswered(&self) {
        *lock(&self.unanswered_at) = Some(Instant::now());
    }

    /// Notes that NATS has stored a message.
    pub(super) fn note_stored(&self) {
        *lock(&self.unanswered_at) = None;
        self.set_full(false);
    }

    /// Whether NATS did not answer lately. After a while only another message can show it.
    pub(super) fn is_unanswered(&self) -> bool {
        lock(&self.unanswered_at).is_some_and(|at| at.elapsed() < UNANSWERED_FOR)
    }

    /// Notes whether NATS has space. Logs when it has none.
    pub(super) fn set_full(&self, is_full: bool) {
        if !self.full.swap(is_full, Ordering::Relaxed) && is_full {
            tracing::error!("NATS has no space for events: publishes are refused");
        }
    }
}

impl KeyHolder for Shared {
    fn keys(&self) -> &Keys {
        &self.keys
    }

    fn mono_ms(&self) -> u64 {
        self.clock.read().mono_ms
    }
}
