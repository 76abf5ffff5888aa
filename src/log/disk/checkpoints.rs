//! When the write-ahead log is moved into the file.

use std::time::{Duration, Instant};

use super::{error::StoreError, store::Store};

/// What has been written since the last checkpoint.
#[derive(Default)]
pub(super) struct Checkpoints {
    /// Bytes, roughly.
    written: u64,
    /// How many they were when the last attempt could not finish, and when that was.
    blocked: Option<(u64, Instant)>,
}

/// Bytes written after which the log is moved, as far as readers allow.
pub(super) const BYTES: u64 = 16 << 20;
/// Bytes written after which it has to become small again, because it could grow without end.
const BYTES_FORCED: u64 = 4 * BYTES;
/// After an attempt that could not finish, the next one comes when as much has been written again, or after this long:
/// each goes through all of the log, and who reads on, such as a backup, would hold up every batch.
const RETRY_AFTER: Duration = Duration::from_secs(10);

impl Checkpoints {
    pub(super) fn note_written(&mut self, bytes: u64) {
        self.written += bytes;
    }

    pub(super) fn is_due(&self) -> bool {
        let can_retry = |(written, at): (u64, Instant)| self.written >= written + BYTES || at.elapsed() >= RETRY_AFTER;
        self.written >= BYTES && self.blocked.is_none_or(can_retry)
    }

    /// Moves the log if it is time to.
    pub(super) fn run_if_due(&mut self, store: &Store) -> Result<(), StoreError> {
        if !self.is_due() {
            return Ok(());
        }
        match store.checkpoint(self.written >= BYTES_FORCED) {
            Ok(true) => *self = Self::default(),
            // Readers hold it up: the log grows on.
            Ok(false) => self.blocked = Some((self.written, Instant::now())),
            // The events are safe in the write-ahead log; what is missing is room to move them.
            Err(error) if store.is_full(&error) => {
                self.blocked = Some((self.written, Instant::now()));
                tracing::warn!("the disk is too full to tidy the log");
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }
}
