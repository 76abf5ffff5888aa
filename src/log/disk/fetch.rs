//! Fetches pages: hot events come from memory, cold ones from the file.

use std::sync::atomic::Ordering;

use super::{error::StoreError, reader::Reader, shared::Shared};
use crate::{
    event::TopicName,
    log::{Page, ReadError, index::Plan, mutex::lock},
};

/// How many unreadable events are logged one by one. After these only the total is logged, each time it has doubled.
const REPORTS_MAX: u64 = 20;

impl Shared {
    /// Fetches a page. `plan` asks the index which events it consists of. The index is not locked while the disk is
    /// read.
    pub(super) fn fetch(&self, plan: impl Fn(&Self) -> Plan) -> Result<Page, ReadError> {
        let reader = lock(&self.idle_readers).pop().map_or_else(|| Reader::open(&self.file), Ok);
        let fetched = reader.and_then(|reader| {
            let page = self.fetch_with(&reader, plan)?;
            lock(&self.idle_readers).push(reader);
            Ok(page)
        });
        fetched.map_err(|error| {
            // The cause may be short, such as a lack of memory. The stream ends; its client comes back and asks again.
            tracing::error!(%error, "the log cannot be read: a stream ends");
            ReadError
        })
    }

    /// Fetches a page with `reader`.
    fn fetch_with(&self, reader: &Reader, plan: impl Fn(&Self) -> Plan) -> Result<Page, StoreError> {
        let mut missing = None;
        'again: loop {
            let Plan { mut page, entries } = plan(self);
            let mut has_marked = false;
            for (topic, entry) in entries {
                let event = match entry.event {
                    Some(event) => Ok(Some(event)),
                    None => reader.event(self.epoch, entry.seq, &topic),
                };
                let why = match event {
                    Ok(Some(event)) => {
                        page.events.push(event);
                        continue;
                    }
                    // It may have been removed after the plan was made: a new plan tells. If that has it, too, the row
                    // is missing.
                    Ok(None) if missing.replace(entry.seq) != Some(entry.seq) => continue 'again,
                    Ok(None) => StoreError::Corrupt(format!("the event at position {} is missing", entry.seq)),
                    Err(error) if error.is_damage() => error,
                    Err(error) => return Err(error),
                };
                self.mark_unreadable(&topic, entry.seq, &why);
                has_marked = true;
                if !page.events.is_empty() {
                    page.end(entry.seq - 1);
                    return Ok(page);
                }
            }
            // No event comes before the marked entries, so the page has to report the gap. A new plan does.
            if !has_marked {
                return Ok(page);
            }
        }
    }

    /// Marks the entry of an event that cannot be read. Its row stays in the file, because the disk may be able to read it
    /// later.
    fn mark_unreadable(&self, topic: &TopicName, seq: u64, why: &StoreError) {
        if !lock(&self.state).index.mark_unreadable(topic, seq) {
            return;
        }
        let lost = self.unreadable.fetch_add(1, Ordering::Relaxed) + 1;
        if lost <= REPORTS_MAX {
            tracing::error!(position = seq, %topic, %why, "an event cannot be read: its subscribers are told of a gap");
        } else if lost.is_power_of_two() {
            tracing::error!(events = lost, "events cannot be read: their subscribers are told of gaps");
        }
    }
}
