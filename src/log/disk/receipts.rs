//! Restores the idempotency keys from before the start: a row of the table `receipt` has a key and its receipt.

use std::collections::HashMap;

use rusqlite::Row;

use super::{
    column::{get_u64, to_column},
    error::StoreError,
    store::Store,
};
use crate::{
    event::{Epoch, EventId, TopicName},
    log::{
        KeyLimits, Receipt,
        clock::{Moment, millis},
        keys::{KeyEntry, Keys, Outcome},
    },
};

impl Store {
    /// The keys that have not expired, the newest first, up to the limits. `topics` has the name of each topic by its
    /// id. The file may have more keys than the limits allow: a row is removed when it expires, not when its topic has
    /// too many keys.
    pub(super) fn load_keys(
        &self,
        limits: KeyLimits,
        epoch: Epoch,
        now: Moment,
        topics: &HashMap<i64, TopicName>,
    ) -> Result<Keys, StoreError> {
        // Keys from the far future were stored while the wall clock was wrong. They would be remembered until that
        // time, so they are skipped.
        let sql = "SELECT topic, key, seq, fingerprint, subscribers, time_ms, fingerprint_upper FROM receipt
            WHERE time_ms BETWEEN ?1 AND ?2 ORDER BY time_ms DESC, seq DESC";
        let (keys, window_ms) = (Keys::new(limits), millis(limits.window));
        let (from, to) = (now.wall_ms.saturating_sub(window_ms), now.wall_ms.saturating_add(window_ms));
        let mut statement = self.connection.prepare(sql)?;
        let mut rows = statement.query([from, to].map(to_column))?;
        while let Some(row) = rows.next()? {
            let Some(topic) = topics.get(&row.get(0)?) else { continue };
            let entry = match read_row(row, topic, epoch, now, window_ms) {
                Ok(entry) => entry,
                Err(error) => {
                    tracing::error!(%error, "an idempotency key in the log cannot be read and is forgotten");
                    continue;
                }
            };
            if !keys.restore(entry) {
                break;
            }
        }
        Ok(keys)
    }
}

fn read_row(row: &Row<'_>, topic: &TopicName, epoch: Epoch, now: Moment, window_ms: u64) -> rusqlite::Result<KeyEntry> {
    let key: String = row.get(1)?;
    let id = EventId { epoch, seq: get_u64(row, 2)? };
    let (lower, upper): (i64, Option<i64>) = (row.get(3)?, row.get(6)?);
    let subscribers = usize::try_from(row.get::<_, i64>(4)?).unwrap_or_default();
    Ok(KeyEntry {
        topic: topic.clone(),
        key: key.into(),
        expires_mono_ms: now.mono_ms_of(get_u64(row, 5)?).saturating_add(window_ms),
        fingerprint: upper.map(|upper| u128::from(upper.cast_unsigned()) << 64 | u128::from(lower.cast_unsigned())),
        outcome: Outcome::Committed(Receipt { id, subscribers, replayed: false }),
    })
}
