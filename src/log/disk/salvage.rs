//! Reading a table of which pages are damaged: what can be read is, and what is passed over is known.

use rusqlite::{Connection, Row};

use super::{
    column::{number, position},
    error::StoreError,
};

/// Keys that cannot be read: from, to.
pub(super) type Range = (u64, u64);

/// The longest leap over keys that cannot be read. A page holds about as many rows, so hardly a readable one between two
/// damaged ones is missed; but the number of leaps is bounded.
const LEAP_MAX: u64 = 32;
const LEAPS_MAX: u64 = 1 << 18;

/// Gives every row of `select` in order of its key, the first column, which is compared as `?1 <= key`. A row that
/// `each` refuses counts as unreadable. `last` is the largest key.
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
                // A key out of order is damage, too, and the order is what all else is built on.
                let sound = if (from..=last).contains(&key) { each(row) } else { Err(out_of_order(key)) };
                match sound {
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
                tracing::error!(from, to = next - 1, %error, "rows of the log cannot be read and are passed over");
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

/// The first key after `from` from which rows can be read again; beyond `last` when there is none.
fn next_readable(connection: &Connection, select: &str, from: u64, last: u64) -> Result<u64, StoreError> {
    let readable = |key: u64| -> Result<bool, StoreError> {
        let first = connection.query_row(&format!("{select} LIMIT 1"), [number(key)], |row| row.get::<_, i64>(0));
        match first.map_err(StoreError::from) {
            Ok(_) => Ok(true),
            Err(error) if error.is_damage() => Ok(false),
            Err(error) => Err(error),
        }
    };
    let (mut failed, mut leap) = (from, 1);
    while failed <= last {
        let mut found = (last + 1).min(failed + leap);
        if found > last || readable(found)? {
            while found - failed > 1 {
                let middle = failed + (found - failed) / 2;
                let next = if readable(middle)? { &mut found } else { &mut failed };
                *next = middle;
            }
            return Ok(found);
        }
        failed = found;
        leap = LEAP_MAX.max(last / LEAPS_MAX).min(leap * 2);
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

/// Begins the table of topics anew with those rows that can be read. The old one stays aside: to remove it could give
/// pages free that others use.
pub(super) fn rebuild_topics(connection: &mut Connection, sound: &[i64]) -> Result<(), StoreError> {
    let transaction = connection.transaction()?;
    let aside = set_aside(&transaction, "topic")?;
    let mut copy = transaction.prepare(&format!("INSERT OR IGNORE INTO topic SELECT * FROM {aside} WHERE id = ?1"))?;
    for id in sound {
        copy.execute([id])?;
    }
    drop(copy);
    // They would be another topic's when that gets the row's number.
    transaction.execute("DELETE FROM receipt WHERE topic NOT IN (SELECT id FROM topic)", [])?;
    Ok(transaction.commit()?)
}

/// Begins the table of receipts anew, without any.
pub(super) fn recreate_receipts(connection: &mut Connection) -> Result<(), StoreError> {
    let transaction = connection.transaction()?;
    let aside = set_aside(&transaction, "receipt")?;
    transaction.execute_batch(&format!("CREATE INDEX new_age_beside_{aside} ON receipt (time_ms)"))?;
    Ok(transaction.commit()?)
}

/// Renames `table` and makes an empty one like it; the new name of the old one.
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
