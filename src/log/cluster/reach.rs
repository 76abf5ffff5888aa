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

/// How often this server stores a marker, at most. Otherwise clients with made-up cursors could fill the stream.
const MARKER_INTERVAL: Duration = Duration::from_secs(1);

impl Shared {
    /// Waits until this server has reached the cursor. Returns `false` when that takes too long. A cursor that the
    /// stream itself has not reached is not waited for: it is of another history.
    pub(super) async fn reach(&self, cursor: EventId, wait: Duration) -> bool {
        let reach = async {
            let open = self.open.wait().await;
            if open.epoch != cursor.epoch || cursor.seq <= *self.position.borrow() {
                return true;
            }
            // Without an answer, it is not known whose cursor it is. Then the client asks again later.
            let Ok(info) = open.link.info().await else { return false };
            if info.state.last_sequence < cursor.seq {
                match self.marker(&open.link).await {
                    None => return false,
                    Some(marker) if marker <= cursor.seq => return true,
                    Some(_) => {}
                }
            }
            self.position.subscribe().wait_for(|position| *position >= cursor.seq).await.is_ok()
        };
        timeout(wait, reach).await.unwrap_or(false)
    }

    /// The position of a marker that was sent after this call. `None` when NATS has not stored it.
    pub(super) async fn marker(&self, link: &Link) -> Option<u64> {
        let called_at = Instant::now();
        let mut last = self.marker.lock().await;
        if let Some(Marker { at, seq }) = *last {
            // Several callers share one marker.
            if at >= called_at {
                return seq;
            }
            sleep_until((at + MARKER_INTERVAL).into()).await;
        }
        let at = Instant::now();
        *last = Some(Marker { at, seq: None });
        let seq = store(link, &Envelope::Marker).await.ok();
        *last = Some(Marker { at, seq });
        seq
    }
}
