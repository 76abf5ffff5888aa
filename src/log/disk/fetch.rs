//! Fetches pages: hot events come from memory, cold ones from the file.

use std::sync::{Arc, atomic::Ordering};

use super::{error::StoreError, reader::Reader, shared::Shared};
use crate::{
    event::{Event, TopicName},
    log::{Page, ReadFrom, index::Plan, mutex::lock},
};

/// How many unreadable events are logged one by one. After these only the total is logged, each time it has doubled.
const REPORTS_MAX: u64 = 20;

impl Shared {
    /// Reads the page of [`Log::read`](crate::log::Log::read). This blocks while it reads from the disk.
    pub(super) fn fetch(&self, topics: &[TopicName], from: ReadFrom, bytes_max: usize) -> Result<Page, StoreError> {
        let idle = lock(&self.idle_readers).pop();
        let reader = idle.map_or_else(|| Reader::open(&self.file), Ok)?;
        loop {
            // The index is not locked while the disk is read.
            let Plan { mut page, entries } = lock(&self.state).index.plan(topics, from, bytes_max);
            let mut begins_with_gap = false;
            for (topic, entry) in entries {
                let event = match entry.event {
                    Some(event) => Some(event),
                    None => self.read_event(&reader, &topic, entry.seq)?,
                };
                match event {
                    Some(event) => page.events.push(event),
                    // The loop goes on, so that all unreadable events at the beginning are marked at once.
                    None if page.events.is_empty() => begins_with_gap = true,
                    None => {
                        page.end(entry.seq - 1);
                        break;
                    }
                }
            }
            if !begins_with_gap {
                lock(&self.idle_readers).push(reader);
                return Ok(page);
            }
            // The page must report the gap before its events. A new plan has the gap, because the entries without an
            // event are now marked or removed.
        }
    }

    /// Reads a cold event; `None` when it cannot be read, or was removed after the plan was made.
    fn read_event(&self, reader: &Reader, topic: &TopicName, seq: u64) -> Result<Option<Arc<Event>>, StoreError> {
        match reader.event(self.epoch, seq, topic) {
            Err(error) if error.is_damage() => {
                self.mark_unreadable(topic, seq, &error);
                Ok(None)
            }
            read => read.map(Some),
        }
    }

    /// Marks the entry of an event that cannot be read. Its row stays in the file, because the disk may be able to read
    /// it later.
    fn mark_unreadable(&self, topic: &TopicName, seq: u64, why: &StoreError) {
        // An event leaves the index before its row leaves the file. So when the row was removed, the index returns
        // `false`, and nothing is reported.
        if !lock(&self.state).index.mark_unreadable(topic, seq) {
            return;
        }
        let count = self.unreadable.fetch_add(1, Ordering::Relaxed) + 1;
        if count <= REPORTS_MAX {
            tracing::error!(position = seq, %topic, %why, "an event cannot be read: its subscribers are told of a gap");
        } else if count.is_power_of_two() {
            tracing::error!(events = count, "events cannot be read: their subscribers are told of gaps");
        }
    }
}
