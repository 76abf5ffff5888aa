//! A visit: from a connection's cursor to the tail, as far as its socket and its turn allow.

use std::{io, num::NonZeroU32, sync::Arc};

use bytes::Bytes;

use super::{
    channel::Channel,
    connection::{Connection, Partial, Peer, Slot},
    fanout::{Fanout, PageRequest},
    segment::{Segment, WriteEnd, Written, fills_segment, merge, write_end},
};
use crate::{
    event::{Event, EventId, TopicName},
    frame::{self, Frame},
    log::{FetchError, Page},
};

/// What a visit left.
#[derive(PartialEq, Eq)]
pub(super) enum Visit {
    /// Nothing to do until something happens.
    Done,
    /// More to read at once.
    More,
    /// Everything is out and the stream is to end.
    End,
}

/// Having read this much, a visit leaves the rest to the next: live events wait meanwhile. Twice as much replays no faster.
const VISIT_BYTES_MAX: usize = 128 << 10;
/// What one read of the log asks for.
const PAGE_BYTES: usize = 64 << 10;

impl<S: Peer> Fanout<S> {
    /// Brings a connection to the tail, as far as its socket and its turn allow.
    pub(super) fn visit(&mut self, key: usize) -> Visit {
        match self.serve(key) {
            Ok(Visit::Done) => Visit::Done,
            Ok(Visit::More) => {
                self.queue(key);
                Visit::More
            }
            Ok(Visit::End) => {
                self.connections.get_mut(key).into_iter().for_each(|connection| connection.socket.finish());
                self.close(key, "it ended");
                Visit::End
            }
            Err(error) => {
                self.close(key, error);
                Visit::End
            }
        }
    }

    fn serve(&mut self, key: usize) -> io::Result<Visit> {
        let mut budget = VISIT_BYTES_MAX;
        while let Some(connection) = self.connections.get_mut(key) {
            if connection.is_blocked() {
                return Ok(Visit::Done);
            }
            if let Some(partial) = connection.partial() {
                if connection.fetching.is_some() || !self.write_remainder(key, partial)? {
                    return Ok(Visit::Done);
                }
                continue;
            }
            if connection.ending || connection.cursor >= self.seen {
                let (ending, encoding) = (connection.ending, connection.encoding);
                if !self.flush(key)? {
                    return Ok(Visit::Done);
                }
                if !ending && self.has_lost_all(key) {
                    self.push_last(key, &frame::end(encoding.framing));
                    continue;
                }
                return Ok(if ending { Visit::End } else { Visit::Done });
            }
            if connection.fetching.is_some() {
                return Ok(Visit::Done);
            }
            if budget == 0 {
                return Ok(Visit::More);
            }
            let cursor = connection.cursor;
            // A window may have the notice of a deletion from before the subscription: not for this one.
            let is_for_others = |c: &Channel| c.notice_seq > cursor && connection.cold.subscribed_at > cursor;
            let mut channels = connection.slots.iter().map(|slot| self.channels.get(slot.channel));
            let covered = channels.all(|c| c.is_some_and(|c| c.window.covers(cursor) && !is_for_others(c)));
            let only = connection.slots.first().copied().filter(|_| connection.slots.len() == 1);
            let written = match only {
                Some(slot) if covered => self.write_window(key, slot)?,
                _ if covered => self.write_merged(key)?,
                _ => self.write_page(key)?,
            };
            budget = budget.saturating_sub(written);
        }
        Ok(Visit::Done)
    }

    /// The common case: one topic, and its window reaches back to the cursor.
    fn write_window(&mut self, key: usize, slot: Slot) -> io::Result<usize> {
        let (Some(connection), Some(channel)) = (self.connections.get_mut(key), self.channels.get_mut(slot.channel))
        else {
            return Ok(0);
        };
        let Some(segment) = channel.window.segment(connection.cursor, self.seen) else {
            connection.cursor = self.seen;
            return Ok(0);
        };
        let (size, control) = (segment.bytes.len(), connection.control_len());
        let wrote = connection.write(segment, self.now)?;
        if control == 0 && wrote == Written::All {
            return Ok(size);
        }
        let end = write_end(channel.window.after(connection.cursor).map(|(seq, frame)| (*seq, frame)), wrote);
        self.after_write(key, control, wrote, end)?;
        Ok(size)
    }

    /// Several topics, and all their windows reach back to the cursor.
    fn write_merged(&mut self, key: usize) -> io::Result<usize> {
        let Some(connection) = self.connections.get(key) else { return Ok(0) };
        let channels = connection.slots.iter().filter_map(|slot| self.channels.get(slot.channel));
        let mut frames: Vec<(u64, Frame)> =
            channels.flat_map(|channel| channel.window.after(connection.cursor).cloned()).collect();
        frames.sort_unstable_by_key(|(seq, _)| *seq);
        self.write_frames(key, &frames, self.seen)
    }

    /// The windows do not reach back to the cursor: out of the log, as any replay.
    fn write_page(&mut self, key: usize) -> io::Result<usize> {
        let Some(connection) = self.connections.get(key) else { return Ok(0) };
        let topics = self.topics(connection);
        let (after, removals_seen) = (connection.cursor, connection.cold.removals_seen);
        let page = self.log.read(&topics, after, removals_seen, PAGE_BYTES);
        if page.is_cold {
            let id = self.new_request_id(key);
            self.page_requests.push_back(PageRequest { key, id, topics, after, removals_seen, bytes_max: PAGE_BYTES });
            return Ok(0);
        }
        self.write_given(key, page)
    }

    fn topics(&self, connection: &Connection<S>) -> Vec<TopicName> {
        connection.slots.iter().filter_map(|s| self.channels.get(s.channel)).map(|c| c.topic.clone()).collect()
    }

    /// The ticket under which a page is fetched for a connection.
    fn new_request_id(&mut self, key: usize) -> NonZeroU32 {
        self.last_request_id = self.last_request_id.checked_add(1).unwrap_or(NonZeroU32::MIN);
        self.connections
            .get_mut(key)
            .into_iter()
            .for_each(|connection| connection.fetching = Some(self.last_request_id));
        self.last_request_id
    }

    /// Takes a page that was wanted, and goes on with its connection, if that is still there.
    pub fn supply(&mut self, key: usize, id: NonZeroU32, page: Result<Page, FetchError>) {
        let Some(connection) = self.connections.get_mut(key).filter(|c| c.fetching == Some(id)) else { return };
        connection.fetching = None;
        let partial = connection.partial();
        let written = page.map_err(io::Error::other).and_then(|page| match partial {
            Some(partial) => self.write_remainder_from(key, partial, page).map(drop),
            None => self.write_given(key, page).map(drop),
        });
        match written {
            // At once: as a rule this only asks for the next page. Behind all that a busy hub has in its backlog each page
            // would wait as long as the whole backlog takes.
            Ok(()) => {
                self.visit(key);
                self.close_overdue(key);
            }
            Err(error) => self.close(key, error),
        }
    }

    /// Goes on with an event that the socket has taken in part; whether it has all of it now.
    fn write_remainder(&mut self, key: usize, partial: Partial) -> io::Result<bool> {
        let Some(connection) = self.connections.get(key) else { return Ok(false) };
        if let Some(frame) = self.unsent.frame((partial.seq, connection.encoding)) {
            return self.write_frame(key, partial, &frame);
        }
        // What is gone of these topics was said, or will be, when the cursor passes it.
        let (topics, after) = (self.topics(connection), partial.seq - 1);
        let page = self.log.read(&topics, after, u64::MAX, 1);
        if page.is_cold {
            let id = self.new_request_id(key);
            self.page_requests.push_back(PageRequest { key, id, topics, after, removals_seen: u64::MAX, bytes_max: 1 });
            return Ok(false);
        }
        self.write_remainder_from(key, partial, page)
    }

    /// As [`write_remainder`](Self::write_remainder), when the event had to be read again: it is the first of `page`.
    fn write_remainder_from(&mut self, key: usize, partial: Partial, page: Page) -> io::Result<bool> {
        let Some(connection) = self.connections.get(key) else { return Ok(false) };
        let (encoding, epoch) = (connection.encoding, self.log.epoch());
        let event = page.events.into_iter().next().filter(|event| event.seq == partial.seq);
        let notice = page.deleted.iter().find(|(_, seq)| *seq == partial.seq);
        let notice = notice.map(|(topic, _)| Frame::Made(frame::deleted(encoding, topic)));
        // The client has no id of it, so it comes back with the one before, and learns that this one is missing.
        let frame = event
            .map(|event| frame::event(encoding, epoch, event))
            .or(notice)
            .ok_or_else(|| io::Error::other("the event that it is in the middle of is not held any more"))?;
        self.unsent.keep((partial.seq, encoding), frame.clone());
        self.write_frame(key, partial, &frame)
    }

    fn write_frame(&mut self, key: usize, partial: Partial, frame: &Frame) -> io::Result<bool> {
        let Some(connection) = self.connections.get_mut(key) else { return Ok(false) };
        let control = connection.control_len();
        let wrote = connection.flush(frame, self.now)?;
        if connection.partial().is_none() {
            self.unsent.remove_reader((partial.seq, connection.encoding));
        }
        self.after_write(key, control, wrote, None)?;
        Ok(wrote == Written::All)
    }

    /// Writes what is left of the broker's own blocks; whether that is all out.
    pub(super) fn flush(&mut self, key: usize) -> io::Result<bool> {
        let Some(connection) = self.connections.get_mut(key) else { return Ok(false) };
        let control = connection.control_len();
        let wrote = connection.flush(&[], self.now)?;
        self.after_write(key, control, wrote, None)?;
        Ok(wrote == Written::All)
    }

    /// Keeps the books after a write to a connection that had `control` bytes of the broker's own to send. Then, since that may
    /// fail, lets it wait for its socket where that is full.
    fn after_write(&mut self, key: usize, control: usize, wrote: Written, end: Option<WriteEnd>) -> io::Result<()> {
        let Some(connection) = self.connections.get_mut(key) else { return Ok(()) };
        if control > 0 {
            self.unsent.remove_control(control - connection.control_len());
        }
        if let Some(WriteEnd { seq, partial }) = end {
            (connection.cursor, connection.last_id_sent) = (seq, seq);
            if let Some((frame, sent)) = partial {
                connection.set_partial(seq, sent);
                self.unsent.add_reader((seq, connection.encoding), frame);
            }
        }
        if wrote != Written::All {
            connection.wait_writable(key, self.now)?;
            self.hasten(key);
        }
        Ok(())
    }

    /// Gives a connection a block of the broker's own, unless its stream has had its last. Where there is no room for it the
    /// connection is closed: its client comes back, and is told then.
    pub(super) fn push_control(&mut self, key: usize, block: &Bytes) {
        let Some(connection) = self.connections.get_mut(key).filter(|connection| !connection.ending) else { return };
        if block.is_empty() {
            return;
        }
        connection.push_control(block);
        if !self.unsent.add_control(block) {
            self.close(key, "too much waits for subscribers that take nothing (stream.unsent_bytes_max)");
        }
    }

    fn write_given(&mut self, key: usize, mut page: Page) -> io::Result<usize> {
        let Some(connection) = self.connections.get_mut(key) else { return Ok(0) };
        let (epoch, encoding) = (self.log.epoch(), connection.encoding);
        page.deleted.retain(|(_, seq)| *seq > connection.cold.subscribed_at);
        if !page.deleted.is_empty() && connection.slots.len() == 1 {
            // What is in the page is of the topic's next life.
            self.remove_topic(key);
            return Ok(0);
        }
        connection.cold.removals_seen = page.told_to;
        for (topic, seq) in &page.deleted {
            for slot in &connection.slots {
                if let Some(channel) = self.channels.get_mut(slot.channel).filter(|channel| channel.topic == *topic) {
                    channel.note_deletion(*seq);
                }
            }
        }
        if page.evicted_to > 0 {
            let id = |seq| EventId { epoch, seq };
            let (requested, resumed_after) = (id(connection.cursor).to_string(), id(page.resumes_after()));
            (connection.cursor, connection.last_id_sent) = (resumed_after.seq, resumed_after.seq);
            // The gap moves the client's cursor: what was deleted before there comes first.
            for (topic, _) in page.deleted.extract_if(.., |(_, seq)| *seq <= resumed_after.seq) {
                self.push_control(key, &frame::deleted(encoding, &topic));
            }
            self.push_control(key, &frame::gap(encoding, page.reason(), &requested, resumed_after));
        }
        // What somebody is in the middle of need not be encoded, or held, again.
        let encode = |event: Arc<Event>| {
            let begun = (event.frame.len() >= PAGE_BYTES).then(|| self.unsent.frame((event.seq, encoding))).flatten();
            (event.seq, begun.unwrap_or_else(|| frame::event(encoding, epoch, event)))
        };
        let notice = |(topic, seq): &(TopicName, u64)| (*seq, Frame::Made(frame::deleted(encoding, topic)));
        let mut frames: Vec<(u64, Frame)> = page.events.into_iter().map(encode).collect();
        frames.extend(page.deleted.iter().map(notice));
        frames.sort_unstable_by_key(|(seq, _)| *seq);
        self.write_frames(key, &frames, page.to)
    }

    /// Writes `frames`, in order, up to the limit of a run. With the last of them the subscriber has everything up to
    /// `to`.
    fn write_frames(&mut self, key: usize, frames: &[(u64, Frame)], to: u64) -> io::Result<usize> {
        let Some(connection) = self.connections.get_mut(key) else { return Ok(0) };
        let in_order = || frames.iter().map(|(seq, frame)| (*seq, frame));
        let large = frames.first().filter(|(_, frame)| fills_segment(frame));
        let merged;
        let (last, bytes): (u64, &[u8]) = if let Some((seq, frame)) = large {
            (*seq, frame)
        } else {
            merged = merge(in_order());
            (merged.0, &merged.1)
        };
        let complete = frames.last().is_none_or(|(seq, _)| *seq == last);
        let segment = Segment { bytes, last, to: if complete { to } else { last } };
        if bytes.is_empty() {
            connection.cursor = connection.cursor.max(segment.to);
            return Ok(0);
        }
        let control = connection.control_len();
        let wrote = connection.write(segment, self.now)?;
        let end = write_end(in_order(), wrote);
        self.after_write(key, control, wrote, end)?;
        if let Some(connection) = self.connections.get_mut(key) {
            // A notice has no id: the next mark says something new.
            let is_notice =
                |slot: &Slot| self.channels.get(slot.channel).is_some_and(|c| c.notice_seq == connection.last_id_sent);
            connection.last_id_sent -= u64::from(connection.slots.iter().any(is_notice) && connection.last_id_sent > 0);
        }
        Ok(bytes.len())
    }

    /// Gives a connection the last that it gets.
    pub(super) fn push_last(&mut self, key: usize, block: &Bytes) {
        self.push_control(key, block);
        if let Some(connection) = self.connections.get_mut(key) {
            connection.ending = true;
            // Nothing follows.
            connection.fetching = connection.fetching.filter(|_| connection.partial().is_some());
        }
    }

    pub(super) fn queue(&mut self, key: usize) {
        if let Some(connection) = self.connections.get_mut(key).filter(|connection| !connection.queued) {
            connection.queued = true;
            self.backlog.push_back(key);
        }
    }
}
