//! Writes the rest of a partly sent event. These are methods of [`Streams`], whose struct is in `streams`.

use std::io;

use super::{
    connection::{Partial, Peer},
    streams::Streams,
};
use crate::{
    frame::{self, Frame},
    log::{Page, ReadFrom},
};

impl<S: Peer> Streams<S> {
    /// Writes the rest of a partly sent event. If the event is not in memory, its page is only requested.
    pub(super) fn write_rest(&mut self, key: usize, partial: Partial) -> io::Result<()> {
        let Some(connection) = self.connections.get(key) else { return Ok(()) };
        if let Some(frame) = self.unsent.frame((partial.seq, connection.encoding)) {
            return self.write_rest_of(key, partial, &frame);
        }
        // `u64::MAX` means that the reader knows of all removals, so this page reports no gap. The connection's own
        // `removals_seen` stays, so the page of the next events reports the gap.
        let from = ReadFrom { after: partial.seq - 1, removals_seen: u64::MAX };
        let Some(page) = self.read(key, from, 1)? else { return Ok(()) };
        self.write_rest_from_page(key, partial, page)
    }

    /// Writes the rest of what was partly sent. `page` has it: its first event, or the notice of a deletion.
    pub(super) fn write_rest_from_page(&mut self, key: usize, partial: Partial, page: Page) -> io::Result<()> {
        let Some(connection) = self.connections.get(key) else { return Ok(()) };
        let encoding = connection.encoding;
        let deletion = page.deleted.iter().find(|(_, seq)| *seq == partial.seq);
        let frame = if let Some(event) = page.events.into_iter().next().filter(|event| event.seq == partial.seq) {
            frame::event(encoding, self.epoch, event)
        } else if let Some((topic, _)) = deletion {
            Frame::Made(frame::deleted(encoding, topic))
        } else {
            // This error closes the stream. The client has not got the event's id, so it resumes before the event, and
            // is told of the gap.
            return Err(io::Error::other("the log has removed the event that was sent in part"));
        };
        self.unsent.keep((partial.seq, encoding), frame.clone());
        self.write_rest_of(key, partial, &frame)
    }

    /// Writes the rest of a partly sent event, whose whole frame is `frame`.
    fn write_rest_of(&mut self, key: usize, partial: Partial, frame: &Frame) -> io::Result<()> {
        let Some(connection) = self.connections.get_mut(key) else { return Ok(()) };
        let is_complete = connection.write_rest(partial, frame, self.now)?;
        let left = connection.partial().map_or(frame.len(), |partial| partial.sent);
        self.counts.note_rest(left.saturating_sub(partial.sent), is_complete && frame.time_ms().is_some());
        if !is_complete {
            return self.wait_writable(key);
        }
        self.unsent.remove_reader((partial.seq, connection.encoding));
        Ok(())
    }
}
