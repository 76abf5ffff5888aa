//! Writes to a connection the events from its cursor to the tail of the log.
//!
//! The main invariant: *a connection with cursor c has been given every event of its topics up to c, in order, once*. A
//! visit moves the cursor towards the tail. It gets the events from the windows of the connection's channels if they
//! reach back to the cursor, otherwise from the log. Events are written only here.

use std::{collections::VecDeque, io, num::NonZeroU32, sync::Arc};

use futures_util::future::{BoxFuture, Either};

use super::{
    channel::Channel,
    connection::{Partial, Peer, Slot},
    end::End,
    segment::{Segment, Written, fills_segment, merge, write_end},
    streams::Streams,
};
use crate::{
    event::{Event, EventId, TopicName},
    frame::{self, Frame},
    log::{Log, Page, ReadError, ReadFrom},
};

/// The streams of one hub, and the log.
pub(super) struct Delivery<S> {
    pub(super) streams: Streams<S>,
    pub(super) log: Arc<dyn Log>,
    /// Pages that the event loop must fetch, in order.
    page_requests: VecDeque<PageRequest>,
    /// The id of the newest page request.
    last_request_id: NonZeroU32,
}

/// A page of the log that a connection waits for. The event loop fetches it, and calls `supply` with the result.
pub struct PageRequest {
    /// The key of the connection.
    pub key: usize,
    /// Identifies the request. The page of an earlier request with the same key may arrive late, and must be ignored.
    pub id: NonZeroU32,
    /// Reads the page. The read begins when the future is polled.
    pub page: BoxFuture<'static, Result<Page, ReadError>>,
}

/// The result of a visit.
#[derive(PartialEq, Eq)]
pub(super) enum Visit {
    /// The connection is at the tail, or waits for its socket or for a page.
    Done,
    /// The connection has more to read, and was put into the backlog.
    More,
    /// The connection is closed.
    Closed,
}

/// Why [`Delivery::deliver`] stopped.
enum Progress {
    /// The connection is at the tail, or waits for its socket or for a page.
    Done,
    /// The visit has read [`VISIT_BYTES_MAX`], and more is left.
    More,
    /// The last block of the stream is sent.
    End,
}

/// A visit ends after this many bytes, because new events to other connections wait meanwhile. Twice as much does not
/// make a replay faster.
const VISIT_BYTES_MAX: usize = 128 << 10;
/// How many bytes one read of the log asks for.
const PAGE_BYTES: usize = 64 << 10;

impl<S: Peer> Delivery<S> {
    pub(super) fn new(streams: Streams<S>, log: Arc<dyn Log>) -> Self {
        Self { streams, log, page_requests: VecDeque::new(), last_request_id: NonZeroU32::MIN }
    }

    /// Writes to a connection what it is missing, as far as its socket accepts bytes, and up to [`VISIT_BYTES_MAX`].
    pub(super) fn visit(&mut self, key: usize) -> Visit {
        match self.deliver(key) {
            Ok(Progress::Done) => return Visit::Done,
            Ok(Progress::More) => {
                self.streams.queue(key);
                return Visit::More;
            }
            Ok(Progress::End) => self.streams.finish(key),
            Err(error) => self.streams.fail(key, &error),
        }
        Visit::Closed
    }

    fn deliver(&mut self, key: usize) -> io::Result<Progress> {
        let mut budget = VISIT_BYTES_MAX;
        while let Some(connection) = self.streams.connections.get_mut(key) {
            if connection.is_blocked() {
                return Ok(Progress::Done);
            }
            if let Some(partial) = connection.partial() {
                if connection.page_request.is_some() || !self.write_remainder(key, partial)? {
                    return Ok(Progress::Done);
                }
                continue;
            }
            if connection.is_ending() || connection.cursor >= self.streams.seen {
                let (ending, encoding) = (connection.is_ending(), connection.encoding);
                if !self.streams.flush(key)? {
                    return Ok(Progress::Done);
                }
                if ending {
                    return Ok(Progress::End);
                }
                if !self.has_only_deleted_topics(key) {
                    return Ok(Progress::Done);
                }
                self.streams.push_last(key, &frame::end(encoding.framing), End::Deleted);
                continue;
            }
            if connection.page_request.is_some() {
                return Ok(Progress::Done);
            }
            if budget == 0 {
                return Ok(Progress::More);
            }
            let cursor = connection.cursor;
            // A window may contain the notice of a deletion from before this connection subscribed. Reading from the
            // log leaves that out.
            let has_older_notice = |c: &Channel| c.deleted_seq > cursor && connection.cold.subscribed_at > cursor;
            let mut channels = connection.slots.iter().map(|slot| self.streams.channels.get(slot.channel));
            let covered = channels.all(|c| c.is_some_and(|c| c.window.covers(cursor) && !has_older_notice(c)));
            let only = connection.slots.first().copied().filter(|_| connection.slots.len() == 1);
            let written = match only {
                Some(slot) if covered => self.write_window(key, slot)?,
                _ if covered => self.write_windows(key)?,
                _ => self.write_from_log(key)?,
            };
            budget = budget.saturating_sub(written);
        }
        Ok(Progress::Done)
    }

    /// Writes events of the only topic, whose window reaches back to the cursor. This is the common case. It returns
    /// how many bytes it tried to write, as the next functions do.
    fn write_window(&mut self, key: usize, slot: Slot) -> io::Result<usize> {
        let streams = &mut self.streams;
        let Some(connection) = streams.connections.get_mut(key) else { return Ok(0) };
        let Some(channel) = streams.channels.get_mut(slot.channel) else { return Ok(0) };
        let Some(segment) = channel.window.segment(connection.cursor, streams.seen) else {
            connection.move_cursor(streams.seen);
            return Ok(0);
        };
        let (size, control) = (segment.bytes.len(), connection.control_len());
        let written = connection.write(segment, streams.now)?;
        if control == 0 && written == Written::All {
            return Ok(size);
        }
        let frames = channel.window.after(connection.cursor).map(|(seq, frame)| (*seq, frame));
        let end = write_end(frames, written);
        streams.after_write(key, control, written, end)?;
        Ok(size)
    }

    /// Writes events of several topics, whose windows all reach back to the cursor.
    fn write_windows(&mut self, key: usize) -> io::Result<usize> {
        let Some(connection) = self.streams.connections.get(key) else { return Ok(0) };
        let channels = connection.slots.iter().filter_map(|slot| self.streams.channels.get(slot.channel));
        let mut frames: Vec<(u64, Frame)> =
            channels.flat_map(|channel| channel.window.after(connection.cursor).cloned()).collect();
        frames.sort_unstable_by_key(|(seq, _)| *seq);
        self.write_frames(key, &frames, self.streams.seen)
    }

    /// Writes a page of the log, because the windows do not reach back to the cursor. If the page is not in memory, it
    /// is only requested.
    fn write_from_log(&mut self, key: usize) -> io::Result<usize> {
        let Some(connection) = self.streams.connections.get(key) else { return Ok(0) };
        let from = ReadFrom { after: connection.cursor, removals_seen: connection.cold.removals_seen };
        match self.read(key, from, PAGE_BYTES)? {
            Some(page) => self.write_page(key, page),
            None => Ok(0),
        }
    }

    /// Reads a page of a connection's topics. If the page is not in memory, this requests it and returns `None`, and
    /// the connection waits for it.
    fn read(&mut self, key: usize, from: ReadFrom, bytes_max: usize) -> io::Result<Option<Page>> {
        let Some(connection) = self.streams.connections.get(key) else { return Ok(None) };
        let page = match self.log.read(&self.streams.topics(connection), from, bytes_max) {
            Either::Left(page) => return self.check_epoch(page.into_inner()).map(Some),
            Either::Right(page) => page,
        };
        self.last_request_id = self.last_request_id.checked_add(1).unwrap_or(NonZeroU32::MIN);
        let id = self.last_request_id;
        self.page_requests.push_back(PageRequest { key, id, page });
        if let Some(connection) = self.streams.connections.get_mut(key) {
            connection.page_request = Some(id);
        }
        Ok(None)
    }

    /// Rejects a page of another epoch. The epoch of these streams has ended, and the feed will report that soon.
    fn check_epoch(&self, page: Result<Page, ReadError>) -> io::Result<Page> {
        let page = page.map_err(io::Error::other)?;
        if page.epoch == self.streams.epoch { Ok(page) } else { Err(io::Error::other("the history has ended")) }
    }

    /// Removes and returns the next request whose connection still waits for the page.
    pub(super) fn next_page_request(&mut self) -> Option<PageRequest> {
        while let Some(request) = self.page_requests.pop_front() {
            let connection = self.streams.connections.get(request.key);
            if connection.is_some_and(|connection| connection.page_request == Some(request.id)) {
                return Some(request);
            }
        }
        None
    }

    /// Writes a fetched page to the connection that requested it, unless the connection no longer waits for it.
    pub(super) fn supply(&mut self, key: usize, id: NonZeroU32, page: Result<Page, ReadError>) {
        let Some(connection) = self.streams.connections.get_mut(key).filter(|c| c.page_request == Some(id)) else {
            return;
        };
        connection.page_request = None;
        let partial = connection.partial();
        debug_assert!(partial.is_some() || !connection.is_ending(), "a stream that ends needs no other page");
        let written = self.check_epoch(page).and_then(|page| match partial {
            Some(partial) => self.write_remainder_from(key, partial, page).map(drop),
            None => self.write_page(key, page).map(drop),
        });
        match written {
            // Visit it now, not from the backlog. Usually this only requests the next page. In the backlog of a busy
            // hub, each page of a replay would wait for all other connections.
            Ok(()) => {
                self.visit(key);
                self.streams.close_overdue(key);
            }
            Err(error) => self.streams.fail(key, &error),
        }
    }

    /// Writes the remainder of a connection, which begins with the rest of a partly sent event. Returns whether all of
    /// it is sent now.
    fn write_remainder(&mut self, key: usize, partial: Partial) -> io::Result<bool> {
        let Some(connection) = self.streams.connections.get(key) else { return Ok(false) };
        if let Some(frame) = self.streams.unsent.frame((partial.seq, connection.encoding)) {
            return self.write_partial(key, partial, &frame);
        }
        // `u64::MAX`: this read must not report gaps. The subscriber is told of them when its cursor moves on.
        let from = ReadFrom { after: partial.seq - 1, removals_seen: u64::MAX };
        match self.read(key, from, 1)? {
            Some(page) => self.write_remainder_from(key, partial, page),
            None => Ok(false),
        }
    }

    /// Does the same as [`write_remainder`](Self::write_remainder), with the event from `page`, where it is the first
    /// one.
    fn write_remainder_from(&mut self, key: usize, partial: Partial, page: Page) -> io::Result<bool> {
        let Some(connection) = self.streams.connections.get(key) else { return Ok(false) };
        let (encoding, epoch) = (connection.encoding, self.streams.epoch);
        let event = page.events.into_iter().next().filter(|event| event.seq == partial.seq);
        let notice = page.deleted.iter().find(|(_, seq)| *seq == partial.seq);
        let notice = notice.map(|(topic, _)| Frame::Made(frame::deleted(encoding, topic)));
        // If the event has been removed from the log, the stream is closed. The client has not got the event's id, so
        // it resumes before the event, and is told of the gap.
        let frame = event
            .map(|event| frame::event(encoding, epoch, event))
            .or(notice)
            .ok_or_else(|| io::Error::other("the log has removed the event that was sent in part"))?;
        self.streams.unsent.keep((partial.seq, encoding), frame.clone());
        self.write_partial(key, partial, &frame)
    }

    fn write_partial(&mut self, key: usize, partial: Partial, frame: &Frame) -> io::Result<bool> {
        let Some(connection) = self.streams.connections.get_mut(key) else { return Ok(false) };
        let control = connection.control_len();
        let written = connection.flush(frame, self.streams.now)?;
        if connection.partial().is_none() {
            self.streams.unsent.remove_reader((partial.seq, connection.encoding));
        }
        self.streams.after_write(key, control, written, None)?;
        Ok(written == Written::All)
    }

    /// Writes a page of the log, with the notices of the gap and the deletions that it reports.
    fn write_page(&mut self, key: usize, mut page: Page) -> io::Result<usize> {
        let streams = &mut self.streams;
        let Some(connection) = streams.connections.get_mut(key) else { return Ok(0) };
        let (epoch, encoding) = (streams.epoch, connection.encoding);
        page.deleted.retain(|(_, seq)| *seq > connection.cold.subscribed_at);
        if !page.deleted.is_empty() && connection.slots.len() == 1 {
            // The events of the page were published after the deletion.
            self.end_after_deletion(key);
            return Ok(0);
        }
        connection.cold.removals_seen = page.removals_seen;
        for slot in &connection.slots {
            if let Some(channel) = streams.channels.get_mut(slot.channel) {
                channel.note_page(&page);
            }
        }
        if page.missing_to > 0 {
            let id = |seq| EventId { epoch, seq };
            let (requested, resumed_after) = (id(connection.cursor).to_string(), id(page.resumes_after()));
            connection.move_cursor(resumed_after.seq);
            connection.last_id_sent = resumed_after.seq;
            // The gap notice moves the client's cursor. So it must be told first of deletions before that position.
            for (topic, _) in page.deleted.extract_if(.., |(_, seq)| *seq <= resumed_after.seq) {
                streams.push_control(key, &frame::deleted(encoding, &topic));
            }
            streams.push_control(key, &frame::gap(encoding, page.reason(), &requested, resumed_after));
        }
        // A large event may be in `unsent`, because another connection has it in part. Then it is not encoded again,
        // and is in memory only once.
        let encode = |event: Arc<Event>| {
            let is_large = event.frame.len() >= PAGE_BYTES;
            let known = is_large.then(|| streams.unsent.frame((event.seq, encoding))).flatten();
            (event.seq, known.unwrap_or_else(|| frame::event(encoding, epoch, event)))
        };
        let notice = |(topic, seq): &(TopicName, u64)| (*seq, Frame::Made(frame::deleted(encoding, topic)));
        let mut frames: Vec<(u64, Frame)> = page.events.into_iter().map(encode).collect();
        frames.extend(page.deleted.iter().map(notice));
        frames.sort_unstable_by_key(|(seq, _)| *seq);
        self.write_frames(key, &frames, page.to)
    }

    /// Writes one segment with the first of `frames`, which are in order. A subscriber that has got all of `frames` has
    /// everything up to `to`.
    fn write_frames(&mut self, key: usize, frames: &[(u64, Frame)], to: u64) -> io::Result<usize> {
        let streams = &mut self.streams;
        let Some(connection) = streams.connections.get_mut(key) else { return Ok(0) };
        debug_assert!(frames.is_sorted_by(|(a, _), (b, _)| a < b), "frames are in order of position, each once");
        debug_assert!(frames.first().is_none_or(|(seq, _)| *seq > connection.cursor), "they come after the cursor");
        debug_assert!(frames.last().is_none_or(|(seq, _)| *seq <= to), "no frame is after `to`");
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
            connection.move_cursor(segment.to);
            return Ok(0);
        }
        let control = connection.control_len();
        let written = connection.write(segment, streams.now)?;
        let end = write_end(in_order(), written);
        streams.after_write(key, control, written, end)?;
        let Some(connection) = streams.connections.get_mut(key) else { return Ok(bytes.len()) };
        let last_id = connection.last_id_sent;
        let is_notice = |slot: &Slot| streams.channels.get(slot.channel).is_some_and(|c| c.deleted_seq == last_id);
        if last_id > 0 && connection.slots.iter().any(is_notice) {
            // A deletion notice has no id, so the client does not know this position yet. A heartbeat may tell it.
            connection.last_id_sent -= 1;
        }
        Ok(bytes.len())
    }

    /// Whether a stream of several topics must end: each topic has been deleted since the stream subscribed, and
    /// nothing has been published to it since.
    ///
    /// This is called only when the connection has everything up to `seen`, so the channels know every event that it
    /// has got. If a later event is published to one of the topics, the client gets it when it resumes.
    fn has_only_deleted_topics(&self, key: usize) -> bool {
        let Some(connection) = self.streams.connections.get(key) else { return false };
        if connection.slots.len() < 2 {
            return false;
        }
        let mut channels = connection.slots.iter().filter_map(|slot| self.streams.channels.get(slot.channel));
        let since = connection.cold.subscribed_at + 1..=connection.cursor;
        channels.all(|channel| channel.is_deleted() && since.contains(&channel.deleted_seq))
    }

    /// Ends the stream of a connection whose only topic was deleted. It first gets the events from before the deletion that
    /// the window still has, as far as its socket accepts them. Returns whether this visit was the last one.
    pub(super) fn end_member(&mut self, key: usize) -> bool {
        if self.visit(key) == Visit::More {
            return false;
        }
        self.end_after_deletion(key);
        self.visit(key);
        true
    }

    /// Queues the deletion notice of the only topic, and the end of the stream.
    fn end_after_deletion(&mut self, key: usize) {
        let streams = &mut self.streams;
        let Some(connection) = streams.connections.get_mut(key) else { return };
        debug_assert!(connection.slots.len() <= 1, "a deletion ends only streams of a single topic");
        let Some(slot) = connection.slots.pop() else { return };
        let encoding = connection.encoding;
        connection.page_request = None;
        let notice = streams.channels.get(slot.channel).map(|channel| frame::deleted(encoding, &channel.topic));
        streams.leave(slot);
        streams.push_control(key, &notice.unwrap_or_default());
        streams.push_last(key, &frame::end(encoding.framing), End::Deleted);
    }
}
