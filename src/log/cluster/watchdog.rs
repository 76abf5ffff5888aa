//! Compares the stream with what this server has of it, again and again.
//!
//! The consumer of a client library can stop without an error. And the stream may be another one than before: made anew,
//! or restored from a copy. Then positions would have other events than clients know, so the process must end.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use async_nats::jetstream::stream::Info;
use tokio::{sync::Notify, time::interval};

use super::{
    connection::{InfoError, Link},
    shared::Shared,
};
use crate::log::mutex::lock;

/// The state of the watchdog.
pub(super) struct Watchdog {
    pub(super) shared: Arc<Shared>,
    pub(super) link: Arc<Link>,
    /// Asks the follower for another consumer.
    pub(super) restart: Arc<Notify>,
    pub(super) interval: Duration,
    /// The stream's last position when it was asked before, and when that was.
    pub(super) goal: Option<(u64, Instant)>,
    /// How many times in a row the stream was not the one of before. A server that has lost its place in the cluster may
    /// say so by mistake.
    pub(super) suspicions: u32,
    /// How many times in a row there was no answer, or the follower was behind without progress.
    pub(super) failures: u32,
}

/// Why the stream may be another one.
struct Suspicion {
    text: String,
    /// Its last position is lower than it was.
    has_lower_position: bool,
}

/// After so many suspicions the log has failed.
const SUSPICIONS_MAX: u32 = 3;
/// After so many failures no events are accepted.
const FAILURES_MAX: u32 = 2;

impl Watchdog {
    pub(super) async fn run(mut self) {
        let mut ticks = interval(self.interval);
        loop {
            ticks.tick().await;
            let position = *self.shared.position.borrow();
            let suspicion = match self.link.info().await {
                Ok(info) => self.compare(&info, position),
                Err(InfoError::Missing) => Some(Suspicion { text: "it is gone".to_owned(), has_lower_position: false }),
                Err(InfoError::Other(why)) => {
                    tracing::debug!(why, "the stream does not answer");
                    self.note_failure();
                    continue;
                }
            };
            self.suspicions = if suspicion.is_some() { self.suspicions + 1 } else { 0 };
            if let Some(Suspicion { text, has_lower_position }) = suspicion {
                tracing::error!(stream = self.link.name, suspicion = text, "the stream is not the one of before");
                if self.suspicions >= SUSPICIONS_MAX {
                    if has_lower_position {
                        if !self.has_gone_back(position).await {
                            continue;
                        }
                        self.link.renew_epoch().await;
                    }
                    self.shared.fail(format!("the stream {} is not the one of before: {text}", self.link.name));
                    return;
                }
            }
            // A full NATS may have space again, and only a publish would show it.
            self.shared.health.full.store(false, Ordering::Relaxed);
        }
    }

    /// Whether the stream no longer has `position`. A server of NATS that says so may be out of date, but a new message
    /// is certain to come after all that are stored.
    async fn has_gone_back(&mut self, position: u64) -> bool {
        let Some(marker) = self.shared.marker(&self.link, position).await else {
            self.note_failure();
            return false;
        };
        self.suspicions = 0;
        marker <= position
    }

    /// Compares the stream with `position`, where the follower was before the stream was asked. Returns why the stream
    /// may be another one.
    fn compare(&mut self, info: &Info, position: u64) -> Option<Suspicion> {
        let (first, last) = (info.state.first_sequence, info.state.last_sequence);
        if self.link.is_other(info) {
            return Some(Suspicion { text: "it was made anew".to_owned(), has_lower_position: false });
        }
        if last < position {
            let text = format!("its last position is {last}, and {position} was read before");
            return Some(Suspicion { text, has_lower_position: true });
        }
        self.shared.note_removed(first.saturating_sub(1));
        let reached = *self.shared.position.borrow();
        match self.goal {
            Some((goal, at)) if reached >= goal => *lock(&self.shared.health.current_at) = at,
            Some(_) if reached <= position => {
                tracing::warn!(position, last, "the follower makes no progress: it gets another consumer");
                self.restart.notify_one();
                self.note_failure();
                return None;
            }
            _ => {}
        }
        self.goal = Some((last, Instant::now()));
        self.failures = 0;
        self.shared.health.follows.store(true, Ordering::Relaxed);
        None
    }

    fn note_failure(&mut self) {
        self.failures += 1;
        if self.failures >= FAILURES_MAX {
            self.shared.health.follows.store(false, Ordering::Relaxed);
        }
    }
}
