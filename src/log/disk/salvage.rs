//! Reads tables that have damaged pages: all readable rows, and which row ids could not be read. Rebuilds damaged
//! tables.

use rusqlite::{Connection, Row};

use super::{
    column::{get_u64, to_column},
    error::{StoreError, unless_damaged},
};

/// A range of row ids that cannot be read.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unreadable {
    first: u64,
    pub(super) last: u64,
}

/// About how many rows a page holds. The search for the next readable row makes no larger steps, so a readable page
/// between two damaged ones is hardly ever missed.
const PAGE_ROWS: u64 = 32;
/// About how many steps there may be. In a table with very large row ids, steps are larger than [`PAGE_ROWS`].
const STEPS_MAX: u64 = 1 << 18;

/// Calls `each` with every readable row of `select`, and returns the row ids that cannot be read, some perhaps twice.
/// `select` must return rows with `?1 <= id`, in order of the id, with the id in the first column. `last` is the
/// largest id. A row for which `each` returns an error of damage counts as unreadable.
pub(super) fn scan(
    connection: &Connection,
    select: &str,
    last: u64,
    mut each: impl FnMut(&Row<'_>) -> Result<(), StoreError>,
) -> Result<Vec<Unreadable>, StoreError> {
    let mut statement = connection.prepare(select)?;
    let (mut ranges, mut from) = (Vec::new(), 0);
    while from <= last {
        let mut rows = statement.query([to_column(from)])?;
        let error = loop {
            let row = match rows.next() {
                Ok(Some(row)) => row,
                Ok(None) => return Ok(ranges),
                Err(error) => break StoreError::from(error),
            };
            let id = get_u64(row, 0)?;
            // An id out of order is damage, too. Everything else relies on the order.
            let checked = if (from..=last).contains(&id) { each(row) } else { Err(out_of_order(id)) };
            match checked {
                Ok(()) => from = id + 1,
                // The id may be damaged, too. So the scan goes on after the last good row, not after `id`. And an `id`
                // above `last` is noted as `last`: the later events at the positions up to `id` must not count as
                // missing.
                Err(error) if error.is_damage() => {
                    let damaged = id.min(last);
                    ranges.push(Unreadable { first: damaged, last: damaged });
                }
                Err(error) => return Err(error),
            }
        };
        if !error.is_damage() {
            return Err(error);
        }
        let next = next_readable(connection, select, from, last)?;
        tracing::error!(from, to = next - 1, %error, "rows of the log cannot be read and are skipped");
        ranges.push(Unreadable { first: from, last: next - 1 });
        from = next;
    }
    Ok(ranges)
}

fn out_of_order(id: u64) -> StoreError {
    StoreError::Corrupt(format!("a row {id} out of order"))
}

/// The first row id after `from` from which rows can be read again; `last + 1` when there is none. Tries ids at growing
/// distances until one is readable. Then does a binary search between that id and the last unreadable one.
fn next_readable(connection: &Connection, select: &str, from: u64, last: u64) -> Result<u64, StoreError> {
    let select_first = format!("{select} LIMIT 1");
    let is_readable = |id: u64| {
        let first = connection.query_row(&select_first, [to_column(id)], |row| row.get::<_, i64>(0));
        unless_damaged(first).map(|id| id.is_some())
    };
    let step_max = PAGE_ROWS.max(last / STEPS_MAX);
    let (mut failed, mut found, mut step) = (from, from + 1, 1);
    while found <= last && !is_readable(found)? {
        step = step_max.min(step * 2);
        (failed, found) = (found, (last + 1).min(found + step));
    }
    while found - failed > 1 {
        let middle = failed + (found - failed) / 2;
        if is_readable(middle)? {
            found = middle;
        } else {
            failed = middle;
        }
    }
    Ok(found)
}

/// Whether `table` and its indexes are sound, as far as SQLite can tell.
pub(super) fn is_sound(connection: &Connection, table: &str) -> Result<bool, StoreError> {
    let sql = format!("PRAGMA integrity_check('{table}')");
    let verdict = unless_damaged(connection.query_row(&sql, [], |row| row.get::<_, String>(0)))?;
    Ok(verdict.is_some_and(|verdict| verdict == "ok"))
}

/// Replaces the table of topics by a new one with the rows in `readable`. The old table stays in the file under another
/// name: to drop it could free pages that, because of the damage, other tables use, too.
pub(super) fn rebuild_topics(connection: &mut Connection, readable: &[i64]) -> Result<(), StoreError> {
    let transaction = connection.transaction()?;
    let aside = set_aside(&transaction, "topic")?;
    let mut copy = transaction.prepare(&format!("INSERT OR IGNORE INTO topic SELECT * FROM {aside} WHERE id = ?1"))?;
    for id in readable {
        copy.execute([id])?;
    }
    drop(copy);
    // Another topic may get the id of a lost row, and would get the receipts with that id.
    transaction.execute("DELETE FROM receipt WHERE topic NOT IN (SELECT id FROM topic)", [])?;
    Ok(transaction.commit()?)
}

/// Replaces the table of receipts by an empty one.
pub(super) fn recreate_receipts(connection: &mut Connection) -> Result<(), StoreError> {
    let transaction = connection.transaction()?;
    let aside = set_aside(&transaction, "receipt")?;
    // The old table keeps its index, so the new index needs another name.
    transaction.execute_batch(&format!("CREATE INDEX new_age_beside_{aside} ON receipt (time_ms)"))?;
    Ok(transaction.commit()?)
}

/// Renames `table`, and creates an empty one in its place. Returns the new name of the old one. The name is unused,
/// because the number of objects in the file grows with each call.
fn set_aside(transaction: &Connection, table: &str) -> Result<String, StoreError> {
    let (sql, number): (String, i64) = transaction.query_row(
        "SELECT sql, (SELECT count(*) FROM sqlite_schema) FROM sqlite_schema WHERE type = 'table' AND name = ?1",
        [table],
        |row| Ok((row.get(0)?, row.get(1)?)),
    )?;
    let aside = format!("damaged_{table}_{number}");
    transaction.execute_batch(&format!("ALTER TABLE {table} RENAME TO {aside}; {sql}"))?;
    Ok(aside)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn row_ids_out_of_order_are_unreadable_and_within_the_table() {
        // Goal: a row whose id is too large or too small is skipped, and the rows after it are read. The range of the
        // large id does not go beyond the last id.
        let connection = Connection::open_in_memory().expect("a database");
        let select = "SELECT * FROM (VALUES (1), (1000), (3), (2), (4)) WHERE column1 >= ?1";
        let mut ids = Vec::new();
        let ranges = scan(&connection, select, 4, |row| {
            ids.push(get_u64(row, 0)?);
            Ok(())
        });
        let expected = [4, 2].map(|id| Unreadable { first: id, last: id });
        assert_eq!((ids, ranges.expect("it is scanned")), (vec![1, 3, 4], expected.into()));
    }
}
