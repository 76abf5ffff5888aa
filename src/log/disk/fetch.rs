//! Pages out of memory and the file.

use super::{Shared, StoreError, reader::Reader};
use crate::log::{FetchError, Page, index::Plan, lock};

impl Shared {
    /// A page out of memory and the file. The index is not locked while the disk is read.
    pub(super) fn fetch(&self, plan: impl Fn(&Self) -> Plan) -> Result<Page, FetchError> {
        let reader = lock(&self.idle_readers).pop().map_or_else(|| Reader::open(&self.file), Ok);
        let fetched = reader.and_then(|reader| {
            let page = self.fetch_with(&reader, plan)?;
            lock(&self.idle_readers).push(reader);
            Ok(page)
        });
        fetched.map_err(|error| {
            self.fail("cannot be read", &error);
            FetchError
        })
    }

    fn fetch_with(&self, reader: &Reader, plan: impl Fn(&Self) -> Plan) -> Result<Page, StoreError> {
        let mut missing = None;
        'again: loop {
            let Plan { mut page, entries } = plan(self);
            for (topic, entry) in entries {
                let event = match entry.event {
                    Some(event) => Some(event),
                    None => reader.event(self.epoch, entry.seq, &topic)?,
                };
                // Removed since the plan was made, which the next plan knows; if not, the file has lost it.
                let Some(event) = event else {
                    if missing.replace(entry.seq) == Some(entry.seq) {
                        return Err(StoreError::Corrupt(format!("the event at position {} has gone", entry.seq)));
                    }
                    continue 'again;
                };
                page.events.push(event);
            }
            return Ok(page);
        }
    }
}
