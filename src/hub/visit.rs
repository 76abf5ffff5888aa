//! A visit: from a connection's cursor to the tail, as far as its socket and its turn allow.

use std::{io, num::NonZeroU32, sync::Arc};

use bytes::Bytes;

use super::{
    channel::{Channel, Settled, merge, settle},
    connection::{Connection, Cut, Peer, Run, Seat, Wrote},
    fanout::{Fanout, Wanted},
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
            if let Some(cut) = connection.cut() {
                if connection.fetching.is_some() || !self.write_rest(key, cut)? {
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
                    self.say_last(key, &frame::end(encoding.framing));
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
            let is_for_others = |c: &Channel| c.notice_at > cursor && connection.seldom.placed_at > cursor;
            let mut channels = connection.seats.iter().map(|seat| self.channels.get(seat.channel));
            let covered = channels.all(|c| c.is_some_and(|c| c.covers(cursor) && !is_for_others(c)));
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
        let (size, own) = (run.bytes.len(), connection.own());
        let wrote = connection.write(run, self.now)?;
        if own == 0 && wrote == Wrote::All {
            return Ok(size);
        }
        let settled = settle(channel.after(connection.cursor).map(|(seq, frame)| (*seq, frame)), wrote);
        self.wrote(key, own, wrote, settled)?;
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
        let Some(connection) = self.connections.get(key) else { return Ok(0) };
        let topics = self.topics(connection);
        let (after, told_to) = (connection.cursor, connection.seldom.told_to);
        let page = self.log.read(&topics, after, told_to, PAGE_BYTES);
        if page.is_cold {
            let ticket = self.ticket(key);
            self.wanted.push_back(Wanted { key, ticket, topics, after, told_to, bytes_max: PAGE_BYTES });
            return Ok(0);
        }
        self.write_given(key, page)
    }

    fn topics(&self, connection: &Connection<S>) -> Vec<TopicName> {
        connection.seats.iter().filter_map(|s| self.channels.get(s.channel)).map(|c| c.topic.clone()).collect()
    }

    /// The ticket under which a page is fetched for a connection.
    fn ticket(&mut self, key: usize) -> NonZeroU32 {
        self.tickets = self.tickets.checked_add(1).unwrap_or(NonZeroU32::MIN);
        self.connections.get_mut(key).into_iter().for_each(|connection| connection.fetching = Some(self.tickets));
        self.tickets
    }

    /// Takes a page that was wanted, and goes on with its connection, if that is still there.
    pub fn supply(&mut self, key: usize, ticket: NonZeroU32, page: Result<Page, FetchError>) {
        let Some(connection) = self.connections.get_mut(key).filter(|c| c.fetching == Some(ticket)) else { return };
        connection.fetching = None;
        let cut = connection.cut();
        let written = page.map_err(io::Error::other).and_then(|page| match cut {
            Some(cut) => self.write_rest_of(key, cut, page).map(drop),
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
    fn write_rest(&mut self, key: usize, cut: Cut) -> io::Result<bool> {
        let Some(connection) = self.connections.get(key) else { return Ok(false) };
        if let Some(frame) = self.unsent.frame((cut.seq, connection.encoding)) {
            return self.write_frame(key, cut, &frame);
        }
        // What is gone of these topics was said, or will be, when the cursor passes it.
        let (topics, after) = (self.topics(connection), cut.seq - 1);
        let page = self.log.read(&topics, after, u64::MAX, 1);
        if page.is_cold {
            let ticket = self.ticket(key);
            self.wanted.push_back(Wanted { key, ticket, topics, after, told_to: u64::MAX, bytes_max: 1 });
            return Ok(false);
        }
        self.write_rest_of(key, cut, page)
    }

    /// As [`write_rest`](Self::write_rest), when the event had to be read again: it is the first of `page`.
    fn write_rest_of(&mut self, key: usize, cut: Cut, page: Page) -> io::Result<bool> {
        let Some(connection) = self.connections.get(key) else { return Ok(false) };
        let (encoding, epoch) = (connection.encoding, self.log.epoch());
        let event = page.events.into_iter().next().filter(|event| event.seq == cut.seq);
        let notice = page.deleted.iter().find(|(_, seq)| *seq == cut.seq);
        let notice = notice.map(|(topic, _)| Frame::Made(frame::deleted(encoding, topic)));
        // The client has no id of it, so it comes back with the one before, and learns that this one is missing.
        let frame = event
            .map(|event| frame::event(encoding, epoch, event))
            .or(notice)
            .ok_or_else(|| io::Error::other("the event that it is in the middle of is not held any more"))?;
        self.unsent.keep((cut.seq, encoding), frame.clone());
        self.write_frame(key, cut, &frame)
    }

    fn write_frame(&mut self, key: usize, cut: Cut, frame: &Frame) -> io::Result<bool> {
        let Some(connection) = self.connections.get_mut(key) else { return Ok(false) };
        let own = connection.own();
        let wrote = connection.flush(frame, self.now)?;
        if connection.cut().is_none() {
            self.unsent.end((cut.seq, connection.encoding));
        }
        self.wrote(key, own, wrote, None)?;
        Ok(wrote == Wrote::All)
    }

    /// Writes what is left of the broker's own blocks; whether that is all out.
    pub(super) fn flush(&mut self, key: usize) -> io::Result<bool> {
        let Some(connection) = self.connections.get_mut(key) else { return Ok(false) };
        let own = connection.own();
        let wrote = connection.flush(&[], self.now)?;
        self.wrote(key, own, wrote, None)?;
        Ok(wrote == Wrote::All)
    }

    /// Keeps the books after a write to a connection that had `own` bytes of the broker's own to send. Then, since that may
    /// fail, lets it wait for its socket where that is full.
    fn wrote(&mut self, key: usize, own: usize, wrote: Wrote, settled: Option<Settled>) -> io::Result<()> {
        let Some(connection) = self.connections.get_mut(key) else { return Ok(()) };
        if own > 0 {
            self.unsent.settle(own - connection.own());
        }
        if let Some((seq, cut)) = settled {
            (connection.cursor, connection.marked) = (seq, seq);
            if let Some((frame, taken)) = cut {
                connection.begin(seq, taken);
                self.unsent.begin((seq, connection.encoding), frame);
            }
        }
        if wrote != Wrote::All {
            connection.wait(key, self.now)?;
            self.hasten(key);
        }
        Ok(())
    }

    /// Gives a connection a block of the broker's own, unless its stream has had its last. Where there is no room for it the
    /// connection is closed: its client comes back, and is told then.
    pub(super) fn say(&mut self, key: usize, block: &Bytes) {
        let Some(connection) = self.connections.get_mut(key).filter(|connection| !connection.ending) else { return };
        if block.is_empty() {
            return;
        }
        connection.say(block);
        if !self.unsent.owe(block) {
            self.close(key, "too much waits for subscribers that take nothing (stream.unsent_bytes_max)");
        }
    }

    fn write_given(&mut self, key: usize, mut page: Page) -> io::Result<usize> {
        let Some(connection) = self.connections.get_mut(key) else { return Ok(0) };
        let (epoch, encoding) = (self.log.epoch(), connection.encoding);
        page.deleted.retain(|(_, seq)| *seq > connection.seldom.placed_at);
        if !page.deleted.is_empty() && connection.seats.len() == 1 {
            // What is in the page is of the topic's next life.
            self.remove_topic(key);
            return Ok(0);
        }
        connection.seldom.told_to = page.told_to;
        for (topic, seq) in &page.deleted {
            for seat in &connection.seats {
                if let Some(channel) = self.channels.get_mut(seat.channel).filter(|channel| channel.topic == *topic) {
                    channel.note_deletion(*seq);
                }
            }
        }
        if page.evicted_to > 0 {
            let id = |seq| EventId { epoch, seq };
            let (requested, resumed_after) = (id(connection.cursor).to_string(), id(page.resumes_after()));
            (connection.cursor, connection.marked) = (resumed_after.seq, resumed_after.seq);
            // The gap moves the client's cursor: what was deleted before there comes first.
            for (topic, _) in page.deleted.extract_if(.., |(_, seq)| *seq <= resumed_after.seq) {
                self.say(key, &frame::deleted(encoding, &topic));
            }
            self.say(key, &frame::gap(encoding, page.reason(), &requested, resumed_after));
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
        let large = frames.first().filter(|(_, frame)| Channel::fills_a_run(frame));
        let merged;
        let (last, bytes): (u64, &[u8]) = if let Some((seq, frame)) = large {
            (*seq, frame)
        } else {
            merged = merge(in_order());
            (merged.0, &merged.1)
        };
        let complete = frames.last().is_none_or(|(seq, _)| *seq == last);
        let run = Run { bytes, last, to: if complete { to } else { last } };
        if bytes.is_empty() {
            connection.cursor = connection.cursor.max(run.to);
            return Ok(0);
        }
        let own = connection.own();
        let wrote = connection.write(run, self.now)?;
        let settled = settle(in_order(), wrote);
        self.wrote(key, own, wrote, settled)?;
        if let Some(connection) = self.connections.get_mut(key) {
            // A notice has no id: the next mark says something new.
            let is_notice =
                |seat: &Seat| self.channels.get(seat.channel).is_some_and(|c| c.notice_at == connection.marked);
            connection.marked -= u64::from(connection.seats.iter().any(is_notice) && connection.marked > 0);
        }
        Ok(bytes.len())
    }

    /// Gives a connection the last that it gets.
    pub(super) fn say_last(&mut self, key: usize, block: &Bytes) {
        self.say(key, block);
        if let Some(connection) = self.connections.get_mut(key) {
            connection.ending = true;
            // Nothing follows.
            connection.fetching = connection.fetching.filter(|_| connection.cut().is_some());
        }
    }

    pub(super) fn queue(&mut self, key: usize) {
        if let Some(connection) = self.connections.get_mut(key).filter(|connection| !connection.queued) {
            connection.queued = true;
            self.backlog.push_back(key);
        }
    }
}
