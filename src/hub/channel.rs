//! A channel: the subscribers of one topic in one encoding on one hub, and the progress of their round.
//!
//! # Deletions
//! Streams of a single topic and streams of several topics are in different channels, because a deletion ends only the
//! former:
//! - *A single topic.* The channel's state becomes `Ending`. `Streams::end_deleted` gives each member the events from
//!   before the deletion that the window still has, the notice (`broker.deleted`), and the end of the stream.
//! - *Several topics.* The notice is one more frame of the window, and the stream goes on with later events. It ends
//!   when [`is_deleted`](Channel::is_deleted) is true for all its topics.
//! - *From the log.* A page reports deletions, too. `Streams::write_page` handles them in the same way, and notes them
//!   in the channel.
//! - *Before the subscription.* HTTP reports the deletions up to the member's `subscribed_seq`, so the hub must not
//!   report them again. All members share the frames of the window, so no frame can be left out for one member. Such a
//!   member reads from the log instead, and `Streams::write_page` leaves the notice out.
//!   For example, the topic was deleted at 6 and at 9, and the window has both notices. A member has cursor 4 and
//!   `subscribed_seq` 7: it must get the notice of 9, but not that of 6. When its cursor has reached 7, it may use the
//!   window.
//! - *No id.* The notice has no id, so `last_id_sent` must stay below its position.

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
    /// The newest frames.
    pub(super) window: Window,
    /// The position of the topic's last known deletion; 0 if there is none, and in channels of single-topic streams.
    pub(super) deleted_seq: u64,
    /// The position of the last event that the channel has noted, for [`Self::is_deleted`]; 0 if there is none.
    noted_event_seq: u64,
    /// The keys of its connections. Each connection stores its index here in a [`Slot`](super::connection::Slot).
    pub(super) members: SmallVec<[usize; 2]>,
    /// The current round, if one has begun.
    round: Option<Round>,
}

/// The progress of a round: one visit to each member, in the order of `members`.
#[derive(Debug)]
struct Round {
    started: Instant,
    /// Members before this index have been visited.
    visited: usize,
    /// The hub's `seen` when the round began. After the round, the window does not need the frames up to here: each
    /// member has got them, or reads them from the log later.
    target: u64,
}

/// What a channel does after a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AfterRound {
    /// It waits for an event: no frame is left.
    Wait,
    /// It begins another round.
    Continue,
    /// It pauses for this time, and then begins another round.
    Pause(Duration),
}

/// A member that has moved to another index.
pub(super) struct Moved {
    /// The key of its connection.
    pub(super) key: usize,
    /// Its new index.
    pub(super) index: usize,
}

impl Channel {
    /// No pause follows a shorter round: a pause of the same length would be too short for a timer.
    const PAUSED_ROUND_MIN: Duration = Duration::from_millis(1);
    /// No pause follows a round that took this many times `pause_max`, or longer: enough events came during the round.
    const PAUSED_ROUND_MAX_FACTOR: u32 = 4;
    /// No pause follows if the window has more bytes. Then the bytes of a write cost more than its system call, so to
    /// combine writes saves little.
    const PAUSE_BYTES_MAX: usize = 32 << 10;

    pub(super) fn new(topic: TopicName, encoding: Encoding, single_topic: bool, seen: u64) -> Self {
        Self {
            topic,
            encoding,
            single_topic,
            window: Window::new(seen),
            deleted_seq: 0,
            noted_event_seq: 0,
            members: SmallVec::new(),
            round: None,
        }
    }

    pub(super) fn push_event(&mut self, seq: u64, frame: Frame) {
        self.noted_event_seq = self.noted_event_seq.max(seq);
        self.window.push(seq, frame);
    }

    /// Puts the notice of the topic's deletion at its position.
    pub(super) fn push_deletion(&mut self, seq: u64) {
        self.window.push(seq, Frame::Made(frame::deleted(self.encoding, &self.topic)));
        self.deleted_seq = self.deleted_seq.max(seq);
    }

    /// Notes the deletions of a page that a member has read, and its last event of the topic. The feed may have dropped
    /// these commits, or may bring them later.
    pub(super) fn note_page(&mut self, page: &Page) {
        let deleted = page.deleted.iter().filter(|(topic, _)| *topic == self.topic).map(|(_, seq)| *seq);
        self.deleted_seq = deleted.fold(self.deleted_seq, u64::max);
        // While the topic is not deleted, a further event would not change `is_deleted`, so none is searched for.
        if self.is_deleted()
            && let Some(last) = page.events.iter().rfind(|event| event.topic == self.topic)
        {
            self.noted_event_seq = self.noted_event_seq.max(last.seq);
        }
    }

    /// Whether the topic has been deleted, and no later event is known.
    pub(super) fn is_deleted(&self) -> bool {
        self.deleted_seq > self.noted_event_seq
    }

    /// Whether the window may have a notice that a member must not get: one after `cursor`, but not after
    /// `subscribed_seq`. The comment of this module has an example.
    pub(super) fn may_have_reported_notice(&self, cursor: u64, subscribed_seq: u64) -> bool {
        // Only the position of the last deletion is known. If it is after the cursor, an earlier one may be, too.
        self.deleted_seq > cursor && subscribed_seq > cursor
    }

    /// The next member to visit; `None` if the round is over. If no round has begun, this begins one.
    pub(super) fn next_member(&mut self, seen: u64, now: Instant) -> Option<usize> {
        let round = self.round.get_or_insert(Round { started: now, visited: 0, target: seen });
        let member = self.members.get(round.visited).copied()?;
        round.visited += 1;
        Some(member)
    }

    /// Ends the round, and drops its frames. Members that have not got all of them read the rest from the log.
    ///
    /// If frames are left, the channel pauses as long as the round took, up to `pause_max`. Without pauses, a hub with
    /// a busy topic would make many writes of a few frames each. A system call costs much more than a few frames.
    /// During the pause, requests to publish use the thread, and the next round sends their events together.
    pub(super) fn end_round(&mut self, now: Instant, pause_max: Duration) -> AfterRound {
        let Some(Round { started, visited, target }) = self.round.take() else { return AfterRound::Wait };
        debug_assert_eq!(visited, self.members.len(), "a round is over when each member has been visited");
        self.window.trim(target);
        // If the feed has dropped events during the round, the window is empty, but begins after `target`
        // (`Window::skip_to`). The members that were visited before the drop need another visit.
        if self.window.is_empty() && self.window.covers(target) {
            return AfterRound::Wait;
        }
        let took = now.saturating_duration_since(started);
        let range = Self::PAUSED_ROUND_MIN..pause_max * Self::PAUSED_ROUND_MAX_FACTOR;
        if range.contains(&took) && self.window.bytes() <= Self::PAUSE_BYTES_MAX {
            AfterRound::Pause(took.min(pause_max))
        } else {
            AfterRound::Continue
        }
    }

    /// Whether a round has begun and not ended.
    pub(super) fn is_within_a_round(&self) -> bool {
        self.round.is_some()
    }

    /// Removes the member at `index`. The last member takes the free index.
    ///
    /// The round must not skip a member. So if the removed member has been visited, it first changes places with the
    /// last visited one, and the free index is behind all visited members.
    pub(super) fn remove_member(&mut self, mut index: usize) -> [Option<Moved>; 2] {
        debug_assert!(index < self.members.len());
        let moved_to = |members: &[usize], index: usize| members.get(index).map(|key| Moved { key: *key, index });
        let mut moved = [None, None];
        if let Some(round) = self.round.as_mut().filter(|round| index < round.visited) {
            debug_assert!(round.visited <= self.members.len());
            round.visited -= 1;
            let last_visited = round.visited;
            if index != last_visited {
                self.members.swap(index, last_visited);
                moved[0] = moved_to(&self.members, index);
            }
            index = last_visited;
        }
        self.members.swap_remove(index);
        moved[1] = moved_to(&self.members, index);
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
        let page = Page {
            epoch,
            events: Vec::new(),
            to: seq,
            missing_to: 0,
            has_unreadable: false,
            deleted,
            removals_seen: 0,
        };
        channel.note_page(&page);
    }

    #[test]
    fn a_deletion_that_the_log_tells_of_counts_unless_something_was_published_since() {
        // Goal: a topic that lives again is not taken for deleted; its stream would end.
        let topic = TopicName::parse("topic", 255).expect("a name");
        let encoding = Encoding { format: Format::Plain, framing: Framing::Close };
        let mut channel = Channel::new(topic, encoding, false, 0);
        note(&mut channel, 2);
        assert_eq!((channel.deleted_seq, channel.is_deleted()), (2, true), "nothing has been published that is known");
        channel.push_event(5, Frame::Made("event".into()));
        note(&mut channel, 4);
        assert_eq!((channel.deleted_seq, channel.is_deleted()), (4, false), "5 was published since");
        note(&mut channel, 6);
        assert_eq!((channel.deleted_seq, channel.is_deleted()), (6, true));
    }
}
