//! One transaction of the writer, and the SQL statements in it. SQLite applies all of it or nothing.

use rusqlite::{OptionalExtension as _, Params, Row, params};

use super::{
    column::{checksum, get_u64, to_column},
    error::StoreError,
};
use crate::{
    event::{Event, EventName, TopicName},
    log::{Receipt, keys::Claim},
};

/// How many rows of each kind one transaction removes. This is more than a batch adds, so removal keeps up with the
/// publishers.
pub(super) const PORTION: usize = 8192;

/// Times of receipts, in milliseconds since the Unix epoch. Receipts from outside this range have expired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TimeRange {
    pub(super) first_ms: u64,
    pub(super) last_ms: u64,
}

/// What is known of a topic's removed events.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct LastRemoved {
    /// Position of the last one.
    pub(super) seq: u64,
    /// Time of the newest one.
    pub(super) time_ms: u64,
}

/// An open transaction. It is rolled back when it is dropped without a [`commit`](Self::commit).
pub(super) struct Transaction<'a> {
    pub(super) inner: rusqlite::Transaction<'a>,
    /// A new topic gets an id above this: events in the file may still have the id of a topic whose row was lost.
    pub(super) topic_id_floor: i64,
}

impl Transaction<'_> {
    fn execute(&self, sql: &str, params: impl Params) -> Result<(), StoreError> {
        self.inner.prepare_cached(sql)?.execute(params)?;
        Ok(())
    }

    /// The row id of the topic `name`. Adds its row if it has none.
    pub(super) fn topic_id(&self, name: &TopicName) -> Result<i64, StoreError> {
        let mut find = self.inner.prepare_cached("SELECT id FROM topic WHERE name = ?1")?;
        if let Some(id) = find.query_row([name.as_str()], |row| row.get(0)).optional()? {
            return Ok(id);
        }
        // The topic may have had a row before. Then `forget_topic` has removed that row, and has noted in `meta` the
        // last removed event of all such topics together. The new row begins with that event, so that no gap is missed.
        let sql = "INSERT INTO topic (id, name, evicted_to, evicted_ms) VALUES (
            max(?2, (SELECT coalesce(max(id), 0) FROM topic)) + 1, ?1,
            (SELECT value FROM meta WHERE name = 'forgotten_to'),
            (SELECT value FROM meta WHERE name = 'forgotten_ms'))";
        self.execute(sql, params![name.as_str(), self.topic_id_floor])?;
        Ok(self.inner.last_insert_rowid())
    }

    /// Adds the row of an event. `cost` is its share of the retention limits.
    pub(super) fn insert_event(&self, topic: i64, event: &Event, cost: u64) -> Result<(), StoreError> {
        let sql = "INSERT INTO event (seq, topic, time_ms, cost, checksum, name, content)
            VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
        let name = event.name.as_ref().map(EventName::as_str);
        let checksum = checksum(event.seq, event.topic.as_str(), event.time_ms, name, event.content());
        let (seq, time_ms, cost) = (to_column(event.seq), to_column(event.time_ms), to_column(cost));
        self.execute(sql, params![seq, topic, time_ms, cost, checksum, name, event.content()])
    }

    /// Adds the row of a receipt, or replaces the one that the key had.
    pub(super) fn insert_receipt(
        &self,
        topic: i64,
        claim: &Claim,
        receipt: &Receipt,
        time_ms: u64,
    ) -> Result<(), StoreError> {
        let sql = "INSERT OR REPLACE INTO receipt
            (topic, key, seq, fingerprint, subscribers, time_ms, fingerprint_upper)
            VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
        let subscribers = i64::try_from(receipt.subscribers).unwrap_or(i64::MAX);
        let (seq, time_ms) = (to_column(receipt.id.seq), to_column(time_ms));
        let (upper, lower) = (bits_from(64, claim.fingerprint), bits_from(0, claim.fingerprint));
        self.execute(sql, params![topic, &*claim.key, seq, lower, subscribers, time_ms, upper])
    }

    /// Removes the rows of events, which are given in order of position.
    pub(super) fn remove_events(&self, seqs: &[u64]) -> Result<(), StoreError> {
        let mut delete = self.inner.prepare_cached("DELETE FROM event WHERE seq BETWEEN ?1 AND ?2")?;
        for range in seqs.chunk_by(|a, b| *a + 1 == *b) {
            if let (Some(first), Some(last)) = (range.first(), range.last()) {
                delete.execute([to_column(*first), to_column(*last)])?;
            }
        }
        Ok(())
    }

    /// Writes the last removed event of `topic` into the row of the topic.
    pub(super) fn mark_removed(&self, topic: &TopicName, last: LastRemoved) -> Result<(), StoreError> {
        let sql = "UPDATE topic SET evicted_to = max(evicted_to, ?2), evicted_ms = max(evicted_ms, ?3) WHERE name = ?1";
        self.execute(sql, params![topic.as_str(), to_column(last.seq), to_column(last.time_ms)])
    }

    /// Notes that `topic` was deleted at position `seq`, and removes its receipts.
    pub(super) fn mark_deleted(&self, topic: &TopicName, seq: u64, time_ms: u64) -> Result<(), StoreError> {
        let id = self.topic_id(topic)?;
        let sql = "UPDATE topic SET deleted_to = ?2, deleted_ms = ?3 WHERE id = ?1";
        self.execute(sql, [id, to_column(seq), to_column(time_ms)])?;
        self.execute("DELETE FROM receipt WHERE topic = ?1", [id])
    }

    /// Removes the row of a topic without events. Its last removed event is noted in `meta`, which has one value for
    /// all topics without a row. A topic that has receipts keeps its row: otherwise another topic could get the same
    /// id, and with the id these receipts.
    pub(super) fn forget_topic(&self, topic: &TopicName, last: LastRemoved) -> Result<(), StoreError> {
        // The topic's deletion may have the highest position in the file. The next start must still find that position.
        let sql = "UPDATE meta SET value = max(value, (SELECT coalesce(max(deleted_to), 0) FROM topic WHERE name = ?1))
            WHERE name = 'deleted_to'";
        self.execute(sql, [topic.as_str()])?;
        let sql =
            "DELETE FROM topic WHERE name = ?1 AND NOT EXISTS (SELECT 1 FROM receipt WHERE receipt.topic = topic.id)";
        self.execute(sql, [topic.as_str()])?;
        for (name, value) in [("forgotten_to", last.seq), ("forgotten_ms", last.time_ms)] {
            let sql = "UPDATE meta SET value = max(value, ?2) WHERE name = ?1";
            self.execute(sql, params![name, to_column(value)])?;
        }
        Ok(())
    }

    /// Removes receipts from outside `kept_times`, at most [`PORTION`], and returns whether there may be more. A topic
    /// that has no receipts afterwards loses its row, too, unless it `keeps_row`: [`forget_topic`](Self::forget_topic)
    /// may have left the row because of these receipts.
    pub(super) fn expire_receipts(
        &self,
        kept_times: TimeRange,
        keeps_row: impl Fn(&TopicName) -> bool,
    ) -> Result<bool, StoreError> {
        let mut old = self.receipts_outside(kept_times)?;
        // In order of the key, so that each page is written once. One statement for each row, because with a list of
        // keys SQLite would visit all keys of the topic.
        old.sort_unstable();
        let mut delete = self.inner.prepare_cached("DELETE FROM receipt WHERE topic = ?1 AND key = ?2")?;
        for (topic, key) in &old {
            delete.execute(params![topic, key])?;
        }
        let has_more = old.len() >= PORTION;
        old.dedup_by_key(|(topic, _)| *topic);
        for (topic, _) in old {
            if let Some((name, last)) = self.topic_without_receipts(topic)?
                && !keeps_row(&name)
            {
                self.forget_topic(&name, last)?;
            }
        }
        Ok(has_more)
    }

    /// The topic id and key of receipts from outside `kept_times`, at most [`PORTION`].
    fn receipts_outside(&self, kept_times: TimeRange) -> Result<Vec<(i64, String)>, StoreError> {
        let sql = "SELECT topic, key FROM receipt WHERE time_ms < ?1
            UNION ALL SELECT topic, key FROM receipt WHERE time_ms > ?2 LIMIT ?3";
        let most = i64::try_from(PORTION).unwrap_or(i64::MAX);
        let (first_ms, last_ms) = (to_column(kept_times.first_ms), to_column(kept_times.last_ms));
        let mut select = self.inner.prepare_cached(sql)?;
        let rows = select.query_map([first_ms, last_ms, most], |row| Ok((row.get(0)?, row.get(1)?)))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// The name of the topic with this row id, and its last removed event; `None` when the topic has receipts.
    fn topic_without_receipts(&self, id: i64) -> Result<Option<(TopicName, LastRemoved)>, StoreError> {
        let sql = "SELECT name, evicted_to, evicted_ms FROM topic
            WHERE id = ?1 AND NOT EXISTS (SELECT 1 FROM receipt WHERE topic = ?1)";
        let mut select = self.inner.prepare_cached(sql)?;
        let read_row = |row: &Row<'_>| {
            let last = LastRemoved { seq: get_u64(row, 1)?, time_ms: get_u64(row, 2)? };
            Ok((row.get::<_, String>(0)?, last))
        };
        let Some((name, last)) = select.query_row([id], read_row).optional()? else { return Ok(None) };
        Ok(TopicName::parse(&name, usize::MAX).ok().map(|name| (name, last)))
    }

    /// Changes a row that nobody reads, so that the commit has to write something. On a full disk the commit fails.
    pub(super) fn probe(&self) -> Result<(), StoreError> {
        self.execute("UPDATE meta SET value = value + 1 WHERE name = 'probe'", [])
    }

    /// Commits. When this returns, the changes are as durable as `log.durability` promises.
    pub(super) fn commit(self) -> Result<(), StoreError> {
        Ok(self.inner.commit()?)
    }
}

/// The 64 bits of `value` from the bit `first` up.
fn bits_from(first: u32, value: u128) -> i64 {
    u64::try_from((value >> first) & u128::from(u64::MAX)).unwrap_or_default().cast_signed()
}
