//! A visit: from a connection's cursor to the tail, as far as its socket and its turn allow.

use std::{io, num::NonZeroU32};

use smallvec::SmallVec;

use super::{
    channel::{merge, settle},
    connection::{Peer, Run, Seat, Wrote},
    fanout::{Fanout, Wanted},
};
use crate::{
    event::{EventId, TopicName},
    frame::{self, Frame, GapReason},
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
            if connection.ending || connection.cursor >= self.seen {
                if connection.flush(key, self.now)? != Wrote::All {
                    self.hasten(key);
                    return Ok(Visit::Done);
                }
                return Ok(if connection.ending { Visit::End } else { Visit::Done });
            }
            if connection.fetching.is_some() {
                return Ok(Visit::Done);
            }
            if budget == 0 {
                return Ok(Visit::More);
            }
            let cursor = connection.cursor;
            let covered =
                connection.seats.iter().all(|seat| self.channels.get(seat.channel).is_some_and(|c| c.covers(cursor)));
            let only = connection.seats.first().copied().filter(|_| connection.seats.len() == 1);
            let written = match only {
                Some(seat) if covered => self.write_window(key, seat)?,
                _ if covered => self.write_merged(key)?,
                _ => self.write_page(key)?,
            };
            budget = budget.saturating_sub(written);
        }
        Ok(Visit::Done)
    }

    /// The common case: one topic, and its window reaches back to the cursor.
    fn write_window(&mut self, key: usize, seat: Seat) -> io::Result<usize> {
        let (Some(connection), Some(channel)) = (self.connections.get_mut(key), self.channels.get_mut(seat.channel))
        else {
            return Ok(0);
        };
        let Some(run) = channel.run(connection.cursor, self.seen) else {
            connection.cursor = self.seen;
            return Ok(0);
        };
        let size = run.bytes.len();
        if let Wrote::Part { taken } = connection.write(run, key, self.now)? {
            let frames = channel.after(connection.cursor).map(|(seq, frame)| (*seq, frame));
            if let Some((seq, tail)) = settle(frames, taken) {
                connection.cursor = seq;
                connection.keep(tail);
            }
            self.hasten(key);
        }
        Ok(size)
    }

    /// Several topics, and all their windows reach back to the cursor.
    fn write_merged(&mut self, key: usize) -> io::Result<usize> {
        let Some(connection) = self.connections.get(key) else { return Ok(0) };
        let channels = connection.seats.iter().filter_map(|seat| self.channels.get(seat.channel));
        let mut frames: Vec<(u64, Frame)> =
            channels.flat_map(|channel| channel.after(connection.cursor).cloned()).collect();
        frames.sort_unstable_by_key(|(seq, _)| *seq);
        self.write_frames(key, &frames, self.seen)
    }

    /// The windows do not reach back to the cursor: out of the log, as any replay.
    fn write_page(&mut self, key: usize) -> io::Result<usize> {
        let Some(connection) = self.connections.get_mut(key) else { return Ok(0) };
        let topics: SmallVec<[TopicName; 4]> =
            connection.seats.iter().filter_map(|s| self.channels.get(s.channel)).map(|c| c.topic.clone()).collect();
        let page = self.log.read(&topics, connection.cursor, connection.seldom.told_to, PAGE_BYTES);
        if page.is_cold {
            self.tickets = self.tickets.checked_add(1).unwrap_or(NonZeroU32::MIN);
            connection.fetching = Some(self.tickets);
            let (ticket, after, told_to) = (self.tickets, connection.cursor, connection.seldom.told_to);
            let topics = topics.to_vec();
            self.wanted.push_back(Wanted { key, ticket, topics, after, told_to, bytes_max: PAGE_BYTES });
            return Ok(0);
        }
        self.write_given(key, page)
    }

    /// Takes a page that was wanted, and goes on with its connection, if that is still there.
    pub fn supply(&mut self, key: usize, ticket: NonZeroU32, page: Result<Page, FetchError>) {
        let Some(connection) = self.connections.get_mut(key).filter(|c| c.fetching == Some(ticket)) else { return };
        connection.fetching = None;
        match page.map_err(io::Error::other).and_then(|page| self.write_given(key, page)) {
            // At once: as a rule this only asks for the next page. Behind all that a busy hub has in its backlog each page
            // would wait as long as the whole backlog takes.
            Ok(_) => drop(self.visit(key)),
            Err(error) => self.close(key, error),
        }
    }

    fn write_given(&mut self, key: usize, page: Page) -> io::Result<usize> {
        let Some(connection) = self.connections.get_mut(key) else { return Ok(0) };
        let (epoch, format) = (self.log.epoch(), connection.format);
        connection.seldom.told_to = page.told_to;
        if page.evicted_to > 0 {
            let id = |seq| EventId { epoch, seq };
            let (requested, resumed_after) = (id(connection.cursor).to_string(), id(page.resumes_after()));
            connection.say(&frame::gap(format, GapReason::Evicted, &requested, resumed_after));
            connection.cursor = resumed_after.seq;
        }
        let frames: Vec<(u64, Frame)> =
            page.events.into_iter().map(|event| (event.seq, frame::event(format, epoch, event))).collect();
        for topic in &page.deleted {
            self.remove_topic(key, topic);
        }
        self.write_frames(key, &frames, page.to)
    }

    /// Writes `frames`, in order, up to the limit of a run. With the last of them the subscriber has everything up to
    /// `to`.
    fn write_frames(&mut self, key: usize, frames: &[(u64, Frame)], to: u64) -> io::Result<usize> {
        let Some(connection) = self.connections.get_mut(key) else { return Ok(0) };
        let in_order = || frames.iter().map(|(seq, frame)| (*seq, frame));
        let (merged_to, bytes) = merge(in_order());
        let complete = frames.last().is_none_or(|(seq, _)| *seq == merged_to);
        let run = Run { bytes: &bytes, to: if complete { to } else { merged_to } };
        if run.bytes.is_empty() {
            connection.cursor = connection.cursor.max(run.to);
            return Ok(0);
        }
        if let Wrote::Part { taken } = connection.write(run, key, self.now)? {
            if let Some((seq, tail)) = settle(in_order(), taken) {
                connection.cursor = seq;
                connection.keep(tail);
            }
            self.hasten(key);
        }
        Ok(bytes.len())
    }

    pub(super) fn queue(&mut self, key: usize) {
        if let Some(connection) = self.connections.get_mut(key).filter(|connection| !connection.queued) {
            connection.queued = true;
            self.backlog.push_back(key);
        }
    }
}
