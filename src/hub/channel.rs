//! One topic in one encoding on one hub: its members, and how far they have been visited.
//!
//! Streams of one topic and streams of several have channels of their own: a deletion ends the former, and is a frame
//! like any other for the latter, which go on with what is published to the topic later.

use std::time::{Duration, Instant};

use smallvec::SmallVec;

use super::window::Window;
use crate::{
    event::TopicName,
    frame::{self, Encoding, Frame},
    log::Page,
};

/// The subscribers of a topic in one encoding on this hub.
#[derive(Debug)]
pub(super) struct Channel {
    pub(super) topic: TopicName,
    pub(super) encoding: Encoding,
    /// Its members have no other topic.
    pub(super) single_topic: bool,
    pub(super) window: Window,
    /// Position of the last deletion of the topic that is known.
    pub(super) deleted_seq: u64,
    /// Position of the last event of the topic that is known: every one that has come in the feed, and of those that a
    /// member has read from the log each that came after the deletion.
    pub(super) event_seq: u64,
    /// Keys of its connections. A connection's slot has the index.
    pub(super) members: SmallVec<[usize; 2]>,
    round: Round,
}

/// One visit to each member, in the order of `members`.
#[derive(Debug)]
struct Round {
    started: Instant,
    /// Members before this index have been visited.
    visited: usize,
    /// At its end every member that is not blocked has everything up to here.
    target: u64,
}

/// Members that have moved into another index, and to which.
pub(super) type Moved = [Option<(usize, usize)>; 2];

impl Channel {
    /// A pause after a shorter round would be too short for any timer.
    const PAUSED_ROUND_MIN: Duration = Duration::from_millis(1);
    /// A round that takes this many times the longest pause has collected enough by itself.
    const PAUSED_ROUND_MAX: u32 = 4;
    /// With more than this the bytes of a write cost more than the write: nothing is gained by waiting.
    const PAUSE_BYTES_MAX: usize = 32 << 10;

    pub(super) fn new(topic: TopicName, encoding: Encoding, single_topic: bool, seen: u64, now: Instant) -> Self {
        Self {
            topic,
            encoding,
            single_topic,
            window: Window::new(seen),
            deleted_seq: 0,
            event_seq: 0,
            members: SmallVec::new(),
            round: Round { started: now, visited: 0, target: 0 },
        }
    }

    pub(super) fn push_event(&mut self, seq: u64, frame: Frame) {
        self.event_seq = self.event_seq.max(seq);
        self.window.push(seq, frame);
    }

    /// Puts the notice of the topic's deletion at its position.
    pub(super) fn push_deletion(&mut self, seq: u64) {
        self.window.push(seq, Frame::Made(frame::deleted(self.encoding, &self.topic)));
        self.deleted_seq = self.deleted_seq.max(seq);
    }

    /// Takes note of what a member has read from the log: the feed may have lost it, or not brought it yet.
    pub(super) fn note_page(&mut self, page: &Page) {
        let deleted = page.deleted.iter().filter(|(topic, _)| *topic == self.topic).map(|(_, seq)| *seq);
        self.deleted_seq = deleted.fold(self.deleted_seq, u64::max);
        if self.is_deleted() {
            let last = page.events.iter().rfind(|event| event.topic == self.topic);
            self.event_seq = last.map_or(self.event_seq, |event| event.seq.max(self.event_seq));
        }
    }

    /// Whether the topic has been deleted, and nothing is known to have been published to it since.
    pub(super) fn is_deleted(&self) -> bool {
        self.deleted_seq > self.event_seq
    }

    /// The next member to visit; `None` when the round is over. A round begins with its first member.
    pub(super) fn next_member(&mut self, seen: u64, now: Instant) -> Option<usize> {
        if self.round.visited == 0 {
            (self.round.target, self.round.started) = (seen, now);
        }
        let member = self.members.get(self.round.visited).copied()?;
        self.round.visited += 1;
        Some(member)
    }

    /// Ends the round and drops what all members have; whether nothing is left for another one.
    pub(super) fn end_round(&mut self) -> bool {
        debug_assert_eq!(self.round.visited, self.members.len(), "a round is over when each member has been visited");
        self.window.trim(self.round.target);
        self.round.visited = 0;
        // A window that has lost frames since is empty, too, but those who were visited before have not had them.
        self.window.is_empty() && self.window.covers(self.round.target)
    }

    /// Whether some members have been visited in a round, and others not yet.
    pub(super) fn is_within_a_round(&self) -> bool {
        self.round.visited > 0
    }

    /// How long to wait after a round that has ended and left frames: as long as it took, up to `max`.
    ///
    /// A topic that is always busy would otherwise be written to its members as fast as the thread can, a few frames at
    /// a time, and the write costs much more than the frames. In the pause the publishers have the thread, and what
    /// they publish goes out with the same write.
    pub(super) fn pause(&self, now: Instant, max: Duration) -> Duration {
        let took = now.saturating_duration_since(self.round.started);
        let range = Self::PAUSED_ROUND_MIN..max * Self::PAUSED_ROUND_MAX;
        let pauses = range.contains(&took) && self.window.bytes() <= Self::PAUSE_BYTES_MAX;
        if pauses { took.min(max) } else { Duration::ZERO }
    }

    /// Removes the member at `index`. The last member fills the gap, without letting the round skip anybody: a member
    /// that has been visited moves to the border first, so that only one that has not takes an index behind it.
    pub(super) fn remove_member(&mut self, mut index: usize) -> Moved {
        debug_assert!(index < self.members.len() && self.round.visited <= self.members.len());
        let mut moved = [None, None];
        if index < self.round.visited {
            self.round.visited -= 1;
            let border = self.round.visited;
            self.members.swap(index, border);
            moved[0] = self.members.get(index).map(|member| (*member, index)).filter(|_| index != border);
            index = border;
        }
        self.members.swap_remove(index);
        moved[1] = self.members.get(index).map(|member| (*member, index));
        moved
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        event::Epoch,
        frame::{Format, Framing},
    };

    /// A member reads a page that tells of the topic's deletion at `seq`.
    fn note(channel: &mut Channel, seq: u64) {
        let (epoch, deleted) = (Epoch::random(), vec![(channel.topic.clone(), seq)]);
        let page =
            Page { epoch, events: Vec::new(), to: seq, evicted_to: 0, is_damaged: false, deleted, removals_seen: 0 };
        channel.note_page(&page);
    }

    #[test]
    fn a_deletion_that_the_log_tells_of_counts_unless_something_was_published_since() {
        // Goal: a topic that lives again is not taken for deleted; its stream would end.
        let topic = TopicName::parse("topic", 255).expect("a name");
        let encoding = Encoding { format: Format::Plain, framing: Framing::Close };
        let mut channel = Channel::new(topic, encoding, false, 0, Instant::now());
        note(&mut channel, 2);
        assert_eq!((channel.deleted_seq, channel.is_deleted()), (2, true), "nothing has been published that is known");
        channel.push_event(5, Frame::Made("event".into()));
        note(&mut channel, 4);
        assert_eq!((channel.deleted_seq, channel.is_deleted()), (4, false), "5 was published since");
        note(&mut channel, 6);
        assert_eq!((channel.deleted_seq, channel.is_deleted()), (6, true));
    }
}
