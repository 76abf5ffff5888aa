//! Reads tables that have damaged pages: all readable rows, and which keys could not be read. Rebuilds damaged tables.

use rusqlite::{Connection, Row};

use super::{
    column::{number, position},
    error::StoreError,
};

/// The first and the last of some keys that cannot be read.
pub(super) type Range = (u64, u64);

/// The largest step over keys that cannot be read, unless [`STEPS_MAX`] asks for larger ones. A page holds about as many rows, so a readable page between two
/// damaged ones is hardly ever missed.
const STEP_MAX: u64 = 32;
/// About how many steps there may be at most. So in a table with very large keys the steps are larger than [`STEP_MAX`].
const STEPS_MAX: u64 = 1 << 18;

/// Calls `each` with every readable row of `select`, and returns the keys that cannot be read. `select` must return
/// rows with `?1 <= key`, in order of the key, with the key in the first column. `last` is the largest key. A row for
/// which `each` returns an error of damage counts as unreadable.
pub(super) fn scan(
    connection: &Connection,
    select: &str,
    last: u64,
    mut each: impl FnMut(&Row<'_>) -> Result<(), StoreError>,
) -> Result<Vec<Range>, StoreError> {
    let mut statement = connection.prepare(select)?;
    let (mut ranges, mut from) = (Vec::new(), 0);
    loop {
        let mut read = || -> Result<(), StoreError> {
            let mut rows = statement.query([number(from)])?;
            while let Some(row) = rows.next()? {
                let key = position(row.get(0)?);
                // A key out of order is damage, too. Everything else relies on the order.
                let checked = if (from..=last).contains(&key) { each(row) } else { Err(out_of_order(key)) };
                match checked {
                    Ok(()) => from = key + 1,
                    Err(error) if error.is_damage() => ranges.push((key, key)),
                    Err(error) => return Err(error),
                }
            }
            Ok(())
        };
        match read() {
            Ok(()) => return Ok(ranges),
            Err(error) if !error.is_damage() => return Err(error),
            Err(error) => {
                let next = next_readable(connection, select, from, last)?;
                tracing::error!(from, to = next - 1, %error, "rows of the log cannot be read and are skipped");
                ranges.push((from, next - 1));
                from = next;
                if from > last {
                    return Ok(ranges);
                }
            }
        }
    }
}

fn out_of_order(key: u64) -> StoreError {
    StoreError::Corrupt(format!("a row {key} out of order"))
}

/// The first key after `from` from which rows can be read again; `last + 1` when there is none. It tries keys at
/// growing distances until one is readable, then searches between that key and the last unreadable one.
fn next_readable(connection: &Connection, select: &str, from: u64, last: u64) -> Result<u64, StoreError> {
    let is_readable = |key: u64| -> Result<bool, StoreError> {
        let first = connection.query_row(&format!("{select} LIMIT 1"), [number(key)], |row| row.get::<_, i64>(0));
        match first.map_err(StoreError::from) {
            Ok(_) => Ok(true),
            Err(error) if error.is_damage() => Ok(false),
            Err(error) => Err(error),
        }
    };
    let (mut failed, mut step) = (from, 1);
    while failed <= last {
        let mut found = (last + 1).min(failed + step);
        if found > last || is_readable(found)? {
            while found - failed > 1 {
                let middle = failed + (found - failed) / 2;
                if is_readable(middle)? {
                    found = middle;
                } else {
                    failed = middle;
                }
            }
            return Ok(found);
        }
        failed = found;
        step = STEP_MAX.max(last / STEPS_MAX).min(step * 2);
    }
    Ok(last + 1)
}

/// Whether `table` and its indexes are sound, as far as SQLite can tell.
pub(super) fn is_sound(connection: &Connection, table: &str) -> Result<bool, StoreError> {
    let verdict =
        connection.query_row(&format!("PRAGMA integrity_check('{table}')"), [], |row| row.get::<_, String>(0));
    match verdict.map_err(StoreError::from) {
        Ok(verdict) => Ok(verdict == "ok"),
        Err(error) if error.is_damage() => Ok(false),
        Err(error) => Err(error),
    }
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
    // Another topic may get the id of a lost row, and would get these receipts with it.
    transaction.execute("DELETE FROM receipt WHERE topic NOT IN (SELECT id FROM topic)", [])?;
    Ok(transaction.commit()?)
}

/// Replaces the table of receipts by an empty one.
pub(super) fn recreate_receipts(connection: &mut Connection) -> Result<(), StoreError> {
    let transaction = connection.transaction()?;
    let aside = set_aside(&transaction, "receipt")?;
    transaction.execute_batch(&format!("CREATE INDEX new_age_beside_{aside} ON receipt (time_ms)"))?;
    Ok(transaction.commit()?)
}

/// Renames `table`, and creates an empty one in its place. Returns the new name of the old one.
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
