//! Writes to a connection the events from its cursor to the tail of the log. These are methods of [`Streams`], whose
//! struct is in `streams`.
//!
//! The main invariant: *a connection with cursor c has been given every event of its topics up to c, in order, once*. A
//! visit moves the cursor towards the tail. Events are written only here.
//!
//! A visit takes the events from the windows of the connection's channels, if the windows *cover* the connection: they
//! have all frames after its cursor, and no notice that the client must not get (see `channel`). Otherwise the visit
//! reads a *page* of the log. For example, the hub has seen position 9.
//! Topic `a` has events 3, 5 and 8, and its window has the frames after position 6:
//! - Cursor 6: the window covers the connection. Event 8 is written, and the cursor becomes 9: no event is missing up
//!   to there.
//! - Cursor 4: the window does not cover the connection. A page after position 4 has events 5 and 8.
//! - Cursor 2, and retention has removed event 3: the page reports that position 3 is missing, because the log has made
//!   more removals than the connection knows of (`removals_seen`). The client gets a gap notice, and then events 5 and
//!   8.

use std::{io, num::NonZeroU32};

use crate::{
    event::EventId,
    frame::{self, Frame},
    log::{Page, ReadError, ReadFrom},
};

use super::{
    channel::Channel,
    connection::{Connection, Partial, Peer, Slot},
    counts::{HubCounts, Written},
    end::End,
    segment::{Merge, Segment, WriteEnd, merge, write_end},
    streams::Streams,
};

/// Why a visit ended, and what leads to the next visit.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Visit {
    /// The connection has everything up to the tail. The next event or deletion of its topics makes a channel ready.
    AtTail,
    /// Its socket is full. [`Streams::writable`] will put it into the backlog.
    Blocked,
    /// It needs a page that is not in memory. [`Streams::supply`] will write the page, and visit it again.
    NeedsPage,
    /// The visit has written [`VISIT_BYTES_MAX`], and more is left. The connection is in the backlog.
    More,
    /// The connection is closed: its last block is sent, or it has failed.
    Closed,
}

/// What a visit does next.
enum NextStep {
    /// It ends.
    Wait(Visit),
    /// It writes the rest of a partly sent event.
    WriteRest(Partial),
    /// It writes the unsent control blocks.
    WriteControl,
    /// It closes the connection, whose last block is sent.
    Close,
    /// It queues the end of the stream, because all its topics were deleted.
    EndAsDeleted,
    /// It writes events.
    WriteEvents,
}

/// A visit ends after this many bytes, because new events to other connections wait meanwhile. Twice as much does not
/// make a replay faster.
const VISIT_BYTES_MAX: usize = 128 << 10;
/// How many bytes one read of the log asks for.
const PAGE_BYTES: usize = 64 << 10;

impl<S: Peer> Streams<S> {
    /// Writes to a connection what it is missing, as far as its socket accepts bytes. The visit also ends when it has
    /// written [`VISIT_BYTES_MAX`] or more.
    pub(super) fn visit(&mut self, key: usize) -> Visit {
        self.deliver(key).unwrap_or_else(|error| {
            self.cut_failed(key, &error);
            Visit::Closed
        })
    }

    fn deliver(&mut self, key: usize) -> io::Result<Visit> {
        let mut budget = VISIT_BYTES_MAX;
        while let Some(connection) = self.connections.get(key) {
            match self.next_step(connection) {
                NextStep::Wait(visit) => return Ok(visit),
                NextStep::WriteRest(partial) => self.write_rest(key, partial)?,
                NextStep::WriteControl => {
                    self.flush(key)?;
                }
                NextStep::Close => self.close_ended(key),
                NextStep::EndAsDeleted => {
                    let end = frame::end(connection.encoding.framing);
                    self.push_last(key, &end, End::Deleted);
                }
                NextStep::WriteEvents => {
                    if budget == 0 {
                        self.queue(key);
                        return Ok(Visit::More);
                    }
                    budget = budget.saturating_sub(self.write_events(key)?);
                }
            }
        }
        Ok(Visit::Closed)
    }

    /// What a visit must do next. The order of the checks is the order of the bytes in the stream: the rest of an
    /// event, control blocks, then the end or further events.
    fn next_step(&self, connection: &Connection<S>) -> NextStep {
        if connection.is_blocked() {
            return NextStep::Wait(Visit::Blocked);
        }
        let waits_for_page = connection.page_request.is_some();
        if let Some(partial) = connection.partial() {
            return if waits_for_page { NextStep::Wait(Visit::NeedsPage) } else { NextStep::WriteRest(partial) };
        }
        if connection.has_control() {
            return NextStep::WriteControl;
        }
        if connection.is_ending() {
            return NextStep::Close;
        }
        let is_at_tail = connection.cursor >= self.seen;
        if is_at_tail && self.has_only_deleted_topics(connection) {
            NextStep::EndAsDeleted
        } else if is_at_tail {
            NextStep::Wait(Visit::AtTail)
        } else if waits_for_page {
            NextStep::Wait(Visit::NeedsPage)
        } else {
            NextStep::WriteEvents
        }
    }

    /// Writes some of the events that a connection is missing. Returns how many bytes it tried to write, as do the
    /// methods that it calls.
    fn write_events(&mut self, key: usize) -> io::Result<usize> {
        let Some(connection) = self.connections.get(key) else { return Ok(0) };
        if !self.is_covered(connection) {
            self.write_from_log(key)
        } else if let [slot] = *connection.slots {
            self.write_window(key, slot)
        } else {
            self.write_windows(key)
        }
    }

    /// Whether the windows of a connection's channels have all frames after its cursor, and no notice of a deletion
    /// that HTTP has already reported to the client.
    fn is_covered(&self, connection: &Connection<S>) -> bool {
        let cursor = connection.cursor;
        connection.slots.iter().all(|slot| {
            let Some(channel) = self.channels.get(slot.channel) else { return false };
            channel.window.covers(cursor) && !channel.may_have_reported_notice(cursor, connection.cold.subscribed_seq)
        })
    }

    /// Writes events of the only topic, whose window covers the connection. This is the common case.
    fn write_window(&mut self, key: usize, slot: Slot) -> io::Result<usize> {
        let Some(connection) = self.connections.get_mut(key) else { return Ok(0) };
        let Some(channel) = self.channels.get_mut(slot.channel) else { return Ok(0) };
        let Some(segment) = channel.window.segment(connection.cursor, self.seen) else {
            connection.move_cursor(self.seen);
            return Ok(0);
        };
        let (size, written) = (segment.bytes.len(), segment.written);
        let accepted = connection.write(segment, self.now)?;
        if accepted < size {
            let end = write_end(channel.window.after(connection.cursor), accepted);
            self.counts.note_written(completed(end.as_ref()), accepted);
            self.stop_at(key, end)?;
        } else {
            self.counts.note_written(written, accepted);
        }
        Ok(size)
    }

    /// Writes events of several topics, whose windows cover the connection.
    fn write_windows(&mut self, key: usize) -> io::Result<usize> {
        let Some(connection) = self.connections.get(key) else { return Ok(0) };
        let mut frames: Vec<(u64, Frame)> = Vec::new();
        for channel in self.channels_of(connection) {
            frames.extend(channel.window.after(connection.cursor).cloned());
        }
        frames.sort_unstable_by_key(|(seq, _)| *seq);
        self.write_frames(key, &frames, self.seen, HubCounts::note_written)
    }

    /// Writes a page of the log, because the windows do not cover the connection. If the page is not in memory, it is
    /// only requested.
    fn write_from_log(&mut self, key: usize) -> io::Result<usize> {
        let Some(connection) = self.connections.get(key) else { return Ok(0) };
        let from = ReadFrom { after: connection.cursor, removals_seen: connection.cold.removals_seen };
        let Some(page) = self.read(key, from, PAGE_BYTES)? else { return Ok(0) };
        self.write_page(key, page)
    }

    /// Writes a fetched page to the connection that requested it, if the connection still waits for the page.
    pub fn supply(&mut self, key: usize, id: NonZeroU32, page: Result<Page, ReadError>) {
        let Some(connection) = self.connections.get_mut(key).filter(|c| c.page_request == Some(id)) else {
            return;
        };
        connection.page_request = None;
        let partial = connection.partial();
        debug_assert!(partial.is_some() || !connection.is_ending(), "an ending stream gets no further events");
        let written = self.check_epoch(page).and_then(|page| match partial {
            Some(partial) => self.write_rest_from_page(key, partial, page),
            None => self.write_page(key, page).map(drop),
        });
        match written {
            // Visit the connection now, not from the backlog: usually the visit only requests the next page. From the
            // backlog of a busy hub, each page of a replay would be requested after visits to all other connections.
            Ok(()) => {
                self.visit(key);
                self.cut_overdue(key);
            }
            Err(error) => self.cut_failed(key, &error),
        }
        self.assert_invariants();
    }

    /// Writes a page of the log, with the notices of the gap and the deletions that it reports.
    fn write_page(&mut self, key: usize, mut page: Page) -> io::Result<usize> {
        let Some(connection) = self.connections.get_mut(key) else { return Ok(0) };
        let (epoch, encoding) = (self.epoch, connection.encoding);
        page.deleted.retain(|(_, seq)| *seq > connection.cold.subscribed_seq);
        if !page.deleted.is_empty() && connection.slots.len() == 1 {
            // The deletion ends the stream. It has removed all events before it, so the page has only events that this
            // stream must not get.
            self.push_deleted(key);
            return Ok(0);
        }
        connection.cold.removals_seen = page.removals_seen;
        for slot in &connection.slots {
            if let Some(channel) = self.channels.get_mut(slot.channel) {
                channel.note_page(&page);
            }
        }
        if page.missing_to > 0 {
            self.push_gap(key, &mut page);
        }
        if !self.flush(key)? {
            // The socket is full. The page is read again when it accepts bytes.
            return Ok(0);
        }
        let mut frames = Vec::with_capacity(page.events.len() + page.deleted.len());
        for event in page.events {
            let seq = event.seq;
            // A large event may be in `unsent`, because it is partly sent to another connection. Use the frame from
            // there, so that the event is not encoded again, and is in memory only once.
            let is_large = event.frame.len() >= PAGE_BYTES;
            let known = if is_large { self.unsent.frame((seq, encoding)) } else { None };
            frames.push((seq, known.unwrap_or_else(|| frame::event(encoding, epoch, event))));
        }
        for (topic, seq) in &page.deleted {
            frames.push((*seq, Frame::Made(frame::deleted(encoding, topic))));
        }
        frames.sort_unstable_by_key(|(seq, _)| *seq);
        self.write_frames(key, &frames, page.to, HubCounts::note_replayed)
    }

    /// Queues the gap notice for the events that are missing according to `page`, and moves the cursor past the gap.
    fn push_gap(&mut self, key: usize, page: &mut Page) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        let encoding = connection.encoding;
        let id = |seq| EventId { epoch: page.epoch, seq };
        let (requested, resumed_after) = (id(connection.cursor).to_string(), id(page.resumes_after()));
        connection.move_cursor(resumed_after.seq);
        connection.last_id_sent = resumed_after.seq;
        // The gap notice moves the client's cursor past these deletions, so their notices come first.
        for (topic, _) in page.deleted.extract_if(.., |(_, seq)| *seq <= resumed_after.seq) {
            self.push_control(key, &frame::deleted(encoding, &topic));
        }
        self.counts.note_gap(page.reason());
        self.push_control(key, &frame::gap(encoding, page.reason(), &requested, resumed_after));
    }

    /// Writes as many of `frames` as fit into a segment, from the first one. A subscriber that has got all of `frames`
    /// has everything up to `to`. `note` counts what was accepted.
    fn write_frames(
        &mut self,
        key: usize,
        frames: &[(u64, Frame)],
        to: u64,
        note: fn(&HubCounts, Written, usize),
    ) -> io::Result<usize> {
        let Some(connection) = self.connections.get_mut(key) else { return Ok(0) };
        debug_assert!(frames.is_sorted_by(|(a, _), (b, _)| a < b), "frames are in order of position, each once");
        debug_assert!(frames.first().is_none_or(|(seq, _)| *seq > connection.cursor), "they come after the cursor");
        debug_assert!(frames.last().is_none_or(|(seq, _)| *seq <= to), "no frame is after `to`");
        let Some((last_of_all, _)) = frames.last() else {
            connection.move_cursor(to);
            return Ok(0);
        };
        let Merge { last, bytes, written } = merge(frames.iter());
        let segment = Segment { bytes: &bytes, last, to: if last == *last_of_all { to } else { last }, written };
        let accepted = connection.write(segment, self.now)?;
        if accepted < bytes.len() {
            let end = write_end(frames.iter(), accepted);
            note(&self.counts, completed(end.as_ref()), accepted);
            self.stop_at(key, end)?;
        } else {
            note(&self.counts, written, accepted);
        }
        self.lower_last_id_below_notice(key);
        Ok(bytes.len())
    }

    /// Lowers `last_id_sent` if it is the position of a deletion notice, because a notice has no id.
    ///
    /// For example, event 6 and the notice of deletion 8 were written. The cursor and `last_id_sent` are 8, but the
    /// client knows only id 6. With 7 instead of 8, `last_id_sent` is below the cursor, so the next heartbeat tells the
    /// client position 8 (`Streams::send_heartbeat`). Any value below 8 would do.
    fn lower_last_id_below_notice(&mut self, key: usize) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        let last_id = connection.last_id_sent;
        let is_notice = |slot: &Slot| self.channels.get(slot.channel).is_some_and(|c| c.deleted_seq == last_id);
        if last_id > 0 && connection.slots.iter().any(is_notice) {
            connection.last_id_sent = last_id - 1;
        }
    }

    /// Whether a stream of several topics must end: each topic has been deleted since the stream subscribed, and no
    /// event was published after that deletion.
    ///
    /// This is called only when the connection has everything up to `seen`, so the channels know every event that the
    /// client has got. If an event is published to one of the topics after this call, the client gets that event when
    /// it resumes.
    fn has_only_deleted_topics(&self, connection: &Connection<S>) -> bool {
        let received = connection.cold.subscribed_seq + 1..=connection.cursor;
        let is_deleted = |channel: &Channel| channel.is_deleted() && received.contains(&channel.deleted_seq);
        connection.slots.len() > 1 && self.channels_of(connection).all(is_deleted)
    }

    /// Ends the stream of a connection whose only topic was deleted. The client first gets the events from before the
    /// deletion that the window still has, as far as its socket accepts them. If these events need several visits, this
    /// method makes one visit and returns [`Visit::More`]. Then it must be called again.
    pub(super) fn end_deleted(&mut self, key: usize) -> Visit {
        if self.visit(key) == Visit::More {
            return Visit::More;
        }
        self.push_deleted(key);
        self.visit(key)
    }

    /// Queues the deletion notice of the only topic, and the end of the stream. The connection leaves the channel.
    pub(super) fn push_deleted(&mut self, key: usize) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        debug_assert!(connection.slots.len() <= 1, "a deletion ends only streams of a single topic");
        let Some(slot) = connection.slots.pop() else { return };
        let encoding = connection.encoding;
        connection.page_request = None;
        let notice = self.channels.get(slot.channel).map(|channel| frame::deleted(encoding, &channel.topic));
        self.leave(slot);
        self.push_control(key, &notice.unwrap_or_default());
        self.push_last(key, &frame::end(encoding.framing), End::Deleted);
    }
}

/// The events that a partial write has sent to their last byte.
fn completed(end: Option<&WriteEnd>) -> Written {
    end.map(|end| end.written).unwrap_or_default()
}
