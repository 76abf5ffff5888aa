//! Pages out of memory and the file.

use std::sync::atomic::Ordering;

use super::{Shared, StoreError, reader::Reader};
use crate::{
    event::TopicName,
    log::{Page, ReadError, index::Plan, lock},
};

/// Lines about single events that cannot be read, before only their number is said now and then.
const REPORTS_MAX: u64 = 20;

impl Shared {
    /// A page out of memory and the file. The index is not locked while the disk is read.
    pub(super) fn fetch(&self, plan: impl Fn(&Self) -> Plan) -> Result<Page, ReadError> {
        let reader = lock(&self.idle_readers).pop().map_or_else(|| Reader::open(&self.file), Ok);
        let fetched = reader.and_then(|reader| {
            let page = self.fetch_with(&reader, plan)?;
            lock(&self.idle_readers).push(reader);
            Ok(page)
        });
        fetched.map_err(|error| {
            // It may be over the next moment, as when there was no memory; the stream comes back and asks again.
            tracing::error!(%error, "the log cannot be read: a stream ends");
            ReadError
        })
    }

    fn fetch_with(&self, reader: &Reader, plan: impl Fn(&Self) -> Plan) -> Result<Page, StoreError> {
        let mut missing = None;
        'again: loop {
            let Plan { mut page, entries } = plan(self);
            let mut lost = false;
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
                    // Removed since the plan was made, which the next plan knows; if not, the file has lost it.
                    Ok(None) if missing.replace(entry.seq) != Some(entry.seq) => continue 'again,
                    Ok(None) => StoreError::Corrupt(format!("the event at position {} has gone", entry.seq)),
                    Err(error) if error.is_damage() => error,
                    Err(error) => return Err(error),
                };
                self.lose(&topic, entry.seq, &why);
                lost = true;
                if !page.events.is_empty() {
                    page.end(entry.seq - 1);
                    return Ok(page);
                }
            }
            // Nothing before them: the next plan tells of the gap.
            if !lost {
                return Ok(page);
            }
        }
    }

    /// Takes an event that cannot be read out of what is held. The row stays in the file: a disk may find it again.
    fn lose(&self, topic: &TopicName, seq: u64, why: &StoreError) {
        if !lock(&self.state).index.lose(topic, seq) {
            return;
        }
        let lost = self.unreadable.fetch_add(1, Ordering::Relaxed) + 1;
        if lost <= REPORTS_MAX {
            tracing::error!(position = seq, %topic, %why, "an event cannot be read: its streams are told of a gap");
        } else if lost.is_power_of_two() {
            tracing::error!(events = lost, "events cannot be read: their streams are told of gaps");
        }
    }
}
