//! Decides when to run a checkpoint, which copies the write-ahead log (WAL) into the database file.
//!
//! Another connection that reads, such as a backup, can block a checkpoint. Each attempt goes through all of the WAL
//! and delays a batch, so a blocked checkpoint is not retried with each batch.

use std::time::{Duration, Instant};

use super::{error::StoreError, store::Store};

/// The state since the last complete checkpoint.
#[derive(Default)]
pub(super) struct Checkpoints {
    /// Bytes written, roughly.
    written: u64,
    /// The last attempt, if it was incomplete.
    blocked: Option<Blocked>,
}

/// An incomplete checkpoint.
struct Blocked {
    at: Instant,
    /// The value of [`Checkpoints::written`] then.
    written: u64,
}

/// A checkpoint is due after so many bytes. It does not wait for readers.
pub(super) const BYTES: u64 = 16 << 20;
/// After so many bytes a checkpoint waits for readers a little, and truncates the WAL, so that the WAL does not grow
/// without limit.
const BYTES_FORCED: u64 = 4 * BYTES;
/// An incomplete checkpoint is retried after [`BYTES`] more, or after this time.
const RETRY_AFTER: Duration = Duration::from_secs(10);

impl Checkpoints {
    /// Notes that `bytes` more have been written to the WAL.
    pub(super) fn note_written(&mut self, bytes: u64) {
        self.written += bytes;
    }

    /// Whether to run a checkpoint now.
    pub(super) fn is_due(&self) -> bool {
        match &self.blocked {
            None => self.written >= BYTES,
            Some(blocked) => self.written >= blocked.written + BYTES || blocked.at.elapsed() >= RETRY_AFTER,
        }
    }

    /// Runs a checkpoint if one is due.
    pub(super) fn run_if_due(&mut self, store: &Store) -> Result<(), StoreError> {
        if !self.is_due() {
            return Ok(());
        }
        let is_complete = match store.checkpoint(self.written >= BYTES_FORCED) {
            // The events are safe in the WAL. Only the copy into the database file needs more space.
            Err(error) if store.is_full(&error) => {
                tracing::warn!("the disk is too full for a checkpoint of the log");
                false
            }
            copied => copied?,
        };
        if is_complete {
            *self = Self::default();
        } else {
            self.blocked = Some(Blocked { at: Instant::now(), written: self.written });
        }
        Ok(())
    }
}
