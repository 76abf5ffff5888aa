//! Receipts from before the start: which of them still answer a retry.

use std::{collections::HashMap, time::Duration};

use rusqlite::Row;

use super::{
    column::{number, position},
    error::StoreError,
    store::Store,
};
use crate::{
    config::Config,
    event::{Epoch, EventId, TopicName},
    log::{KeptReceipt, Receipt, clock::millis},
};

/// How long a receipt counts, and how many do.
#[derive(Clone, Copy, Debug)]
pub struct ReceiptLimits {
    /// `publish.idempotency_window`.
    pub window: Duration,
    /// `publish.idempotency_keys_max`: of one topic, the newest so many.
    pub of_topic_max: usize,
    /// `limits.idempotency_keys_max`: of all topics together.
    pub max: usize,
}

impl From<&Config> for ReceiptLimits {
    fn from(config: &Config) -> Self {
        Self {
            window: config.publish.idempotency_window,
            of_topic_max: config.publish.idempotency_keys_max,
            max: config.limits.idempotency_keys_max,
        }
    }
}

impl Store {
    /// The newest receipts that count at `now_ms`, the oldest first; `topics` is the name of each topic's row. The file
    /// may have many more: a row goes when its window is over, not when its topic has too many. So a topic that has
    /// enough is passed over, and only what is taken counts: one busy topic must not cost the others their keys.
    pub(super) fn receipts(
        &self,
        epoch: Epoch,
        now_ms: u64,
        limits: ReceiptLimits,
        topics: &HashMap<i64, (TopicName, u64)>,
    ) -> Result<Vec<(TopicName, KeptReceipt)>, StoreError> {
        // Those of a time to come were given when the wall clock was wrong; no window would ever end for them.
        let sql = "SELECT topic, key, seq, fingerprint, subscribers, time_ms, fingerprint_upper FROM receipt
            WHERE time_ms BETWEEN ?1 AND ?2 ORDER BY time_ms DESC, seq DESC";
        let window_ms = millis(limits.window);
        let (from, to) = (now_ms.saturating_sub(window_ms), now_ms.saturating_add(window_ms));
        let mut statement = self.connection.prepare(sql)?;
        let mut rows = statement.query([from, to].map(number))?;
        let (mut receipts, mut taken) = (Vec::new(), HashMap::<i64, usize>::new());
        while receipts.len() < limits.max
            && let Some(row) = rows.next()?
        {
            let id = row.get(0)?;
            let Some((topic, _)) = topics.get(&id) else { continue };
            let of_topic = taken.entry(id).or_default();
            if *of_topic >= limits.of_topic_max {
                continue;
            }
            match receipt(row, epoch) {
                Ok(kept) => {
                    *of_topic += 1;
                    receipts.push((topic.clone(), kept));
                }
                Err(error) => tracing::error!(%error, "an idempotency key in the log cannot be read and is forgotten"),
            }
        }
        receipts.reverse();
        Ok(receipts)
    }
}

fn receipt(row: &Row<'_>, epoch: Epoch) -> rusqlite::Result<KeptReceipt> {
    let (key, seq): (String, _) = (row.get(1)?, row.get(2)?);
    let (lower, upper): (i64, Option<i64>) = (row.get(3)?, row.get(6)?);
    Ok(KeptReceipt {
        key: key.into(),
        receipt: Receipt { id: EventId { epoch, seq: position(seq) } },
        fingerprint: upper.map(|upper| u128::from(upper.cast_unsigned()) << 64 | u128::from(lower.cast_unsigned())),
        subscribers: usize::try_from(row.get::<_, i64>(4)?).unwrap_or_default(),
        time_ms: position(row.get(5)?),
    })
}
