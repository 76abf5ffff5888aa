//! Cursors that this server has not reached yet.
//!
//! A server of NATS may be out of date: one that led the stream, and was paused or cut off, does not know for a while that
//! it no longer leads. What it says of the stream's last position proves nothing. But no server can store a message
//! without a majority, and a new message comes after all that is stored. So a cursor is ahead of the stream only if a
//! message that is stored now is not ahead of the cursor. Such a message is a marker.

use std::time::{Duration, Instant};

use tokio::time::{sleep_until, timeout};

use super::{
    commands::store,
    connection::Link,
    envelope::Envelope,
    shared::{Marker, Shared},
};
use crate::event::EventId;

/// The pause between two markers of this server.
const PAUSE: Duration = Duration::from_secs(1);
/// The pause grows up to this, as long as markers only prove that cursors are made up: clients with such cursors must not
/// fill the stream.
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// After this time without a marker, the pause is the short one again.
const PAUSE_KEPT: Duration = Duration::from_mins(1);

/// Where a cursor is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// This server has read up to it, or it is of another epoch.
    Reached,
    /// Ahead of the stream: it is of another history with the same epoch.
    Ahead,
    /// Not known yet. The client must ask again later.
    Unknown,
}

impl Shared {
    /// Waits until this server has reached the cursor, but not longer than `wait`. A cursor that the stream itself has
    /// not reached is not waited for.
    pub(super) async fn reach(&self, cursor: EventId, wait: Duration) -> Reach {
        let reach = async {
            let open = self.open.wait().await;
            if open.epoch != cursor.epoch || cursor.seq <= *self.position.borrow() {
                return Reach::Reached;
            }
            let Ok(info) = open.link.info().await else { return Reach::Unknown };
            let (mut to, mut then) = (cursor.seq, Reach::Reached);
            if info.state.last_sequence < cursor.seq {
                let Some(marker) = self.marker(&open.link, cursor.seq).await else { return Reach::Unknown };
                if marker <= cursor.seq {
                    // The marker itself may have the position of the cursor now, so the position says nothing any more.
                    (to, then) = (marker, Reach::Ahead);
                }
            }
            let is_read = self.position.subscribe().wait_for(|position| *position >= to).await.is_ok();
            if is_read { then } else { Reach::Unknown }
        };
        timeout(wait, reach).await.unwrap_or(Reach::Unknown)
    }

    /// The position of a marker that was sent after this call, to compare with `position`. `None` when NATS has not stored
    /// it.
    pub(super) async fn marker(&self, link: &Link, position: u64) -> Option<u64> {
        let called_at = Instant::now();
        let mut last = self.marker.lock().await;
        let mut pause = PAUSE;
        if let Some(marker) = *last {
            // Several callers share one marker.
            if marker.at >= called_at {
                return marker.seq;
            }
            if marker.at.elapsed() < PAUSE_KEPT {
                pause = marker.pause;
            }
            sleep_until((marker.at + pause).into()).await;
        }
        let at = Instant::now();
        *last = Some(Marker { at, seq: None, pause });
        let seq = store(link, &Envelope::Marker).await.ok();
        let is_ahead = seq.is_some_and(|seq| seq <= position);
        let pause = if is_ahead { PAUSE_MAX.min(2 * pause) } else { PAUSE };
        *last = Some(Marker { at, seq, pause });
        seq
    }
}
