//! The channels of one hub, and their states.
//!
//! ```text
//!            a frame comes               its pause is over
//!    Quiet ─────────────────► Ready ◄─────────────────────── Paused
//!      ▲                      │   │                             ▲
//!      └──────────────────────┘   └─────────────────────────────┘
//!       nothing is left to write    frames are left to write
//!
//!    Any state     ──► Ending, when the topic of single-topic streams is deleted
//!    Quiet, Paused ──► Ready, when the topic of other streams is deleted
//!    Quiet         ──► Ready, when the feed has dropped events
//! ```
//!
//! The state of a channel says which queue it is in. Only this file changes states.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, VecDeque},
    iter::repeat_n,
    sync::Arc,
    time::{Duration, Instant},
};

use slab::Slab;
use smallvec::SmallVec;

use super::channel::{AfterRound, Channel, Moved};
use crate::{
    event::{Epoch, Event, TopicName},
    frame::{self, Encoding, Frame},
};

/// A channel with at most this many members is small. To write to all of them takes no longer than a request.
pub(super) const SMALL_CHANNEL_MEMBERS_MAX: usize = 4;

/// All channels of a hub.
pub(super) struct Channels {
    /// All channels, each under its key.
    entries: Slab<Entry>,
    /// The channels of each topic, except those that are ending. An encoding has up to two of them: one for
    /// streams of this topic alone, and one for streams of several topics. They are next to each other, so that
    /// [`push_event`](Self::push_event) encodes an event once for both.
    by_topic: HashMap<TopicName, SmallVec<[usize; 1]>>,
    /// The queue of channels that are ready or ending, each once. The first one has its turn.
    ready: VecDeque<usize>,
    /// The channels that are paused, each once, and until when.
    paused: BinaryHeap<Reverse<(Instant, usize)>>,
}

struct Entry {
    channel: Channel,
    state: State,
}

impl Entry {
    /// Puts a quiet channel into the queue `ready`. A paused channel stays paused.
    fn wake(&mut self, key: usize, ready: &mut VecDeque<usize>) {
        if self.state == State::Quiet {
            self.state = State::Ready;
            ready.push_back(key);
        }
    }
}

/// What a channel waits for, and in which queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// It waits for an event, in no queue. Its window is empty, and no round has begun.
    Quiet,
    /// It waits in `ready` for its turn, to do a round.
    Ready,
    /// It waits in `paused` for the end of a pause between two rounds.
    Paused,
    /// It waits in `ready` for its turn, to end its members' streams one by one, because its topic was deleted.
    Ending,
}

/// The next thing to do in a channel's turn.
pub(super) enum Next {
    /// Visit this member.
    Visit(usize),
    /// End this member's stream.
    End(usize),
    /// End the round: each member has been visited.
    RoundOver,
}

impl Channels {
    pub(super) fn new() -> Self {
        Self { entries: Slab::new(), by_topic: HashMap::new(), ready: VecDeque::new(), paused: BinaryHeap::new() }
    }

    pub(super) fn get(&self, key: usize) -> Option<&Channel> {
        self.entries.get(key).map(|entry| &entry.channel)
    }

    pub(super) fn get_mut(&mut self, key: usize) -> Option<&mut Channel> {
        self.entries.get_mut(key).map(|entry| &mut entry.channel)
    }

    /// The channels of a topic, except those that are ending.
    pub(super) fn of_topic(&self, topic: &TopicName) -> impl Iterator<Item = &Channel> {
        self.by_topic.get(topic).into_iter().flatten().filter_map(|key| self.get(*key))
    }

    /// Whether the streams of a channel's members must end, because its topic was deleted.
    pub(super) fn is_ending(&self, key: usize) -> bool {
        self.entries.get(key).is_some_and(|entry| entry.state == State::Ending)
    }

    /// Finds or creates the channel of `topic` in `encoding`, for streams of a single topic or of several. The caller
    /// must add a member to the channel.
    pub(super) fn open(&mut self, topic: TopicName, encoding: Encoding, single_topic: bool, seen: u64) -> usize {
        let known = self.by_topic.entry(topic.clone()).or_default();
        let mut index = known.len();
        for (at, key) in known.iter().enumerate() {
            let Some(Entry { channel, .. }) = self.entries.get(*key) else { continue };
            if channel.encoding != encoding {
                continue;
            }
            if channel.single_topic == single_topic {
                return *key;
            }
            // The new channel stands beside the other one of its encoding.
            index = at;
        }
        let channel = Channel::new(topic, encoding, single_topic, seen);
        let key = self.entries.insert(Entry { channel, state: State::Quiet });
        known.insert(index, key);
        key
    }

    /// Removes the member at `index` of a channel. Returns which other members have moved. A quiet channel is removed
    /// with its last member. A channel that is in a queue is removed later, when it has its turn.
    pub(super) fn leave(&mut self, key: usize, index: usize) -> [Option<Moved>; 2] {
        let Some(entry) = self.entries.get_mut(key) else { return [None, None] };
        let moved = entry.channel.remove_member(index);
        if entry.channel.members.is_empty() && entry.state == State::Quiet {
            self.remove(key);
        }
        moved
    }

    /// Puts an event into the channels of its topic.
    pub(super) fn push_event(&mut self, event: Arc<Event>, epoch: Epoch) {
        let Some(keys) = self.by_topic.get(&event.topic) else { return };
        let seq = event.seq;
        let mut previous: Option<(Encoding, Frame)> = None;
        // `repeat_n` moves the event into its last item, so an event for one channel is not cloned.
        for (key, event) in keys.iter().zip(repeat_n(event, keys.len())) {
            let Some(entry) = self.entries.get_mut(*key) else { continue };
            let encoding = entry.channel.encoding;
            let frame = match previous.take() {
                Some((other, frame)) if other == encoding => frame,
                _ => frame::event(encoding, epoch, event),
            };
            if keys.len() > 1 {
                previous = Some((encoding, frame.clone()));
            }
            entry.channel.push_event(seq, frame);
            entry.wake(*key, &mut self.ready);
        }
    }

    /// Handles the deletion of a topic (see [`channel`](super::channel)). The channel of single-topic streams begins to
    /// end, and is removed from `by_topic`, so that it gets no new members and no later events.
    pub(super) fn push_deletion(&mut self, topic: &TopicName, seq: u64) {
        let mut remaining = SmallVec::new();
        for key in self.by_topic.remove(topic).unwrap_or_default() {
            let Some(channel) = self.get_mut(key) else { continue };
            if channel.single_topic {
                self.end_wait(key, State::Ending);
            } else {
                channel.push_deletion(seq);
                self.end_wait(key, State::Ready);
                remaining.push(key);
            }
        }
        if !remaining.is_empty() {
            self.by_topic.insert(topic.clone(), remaining);
        }
    }

    /// Empties all windows, because the feed has dropped events up to `seq`: all members must read from the log.
    pub(super) fn skip_to(&mut self, seq: u64) {
        for (key, entry) in &mut self.entries {
            entry.channel.window.skip_to(seq);
            entry.wake(key, &mut self.ready);
        }
    }

    /// Makes a channel ready or ending, because its topic was deleted. This ends a pause, so that the members learn of
    /// the deletion without delay. A channel that was paused has its turn next, because its frames have waited longest.
    fn end_wait(&mut self, key: usize, state: State) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        match std::mem::replace(&mut entry.state, state) {
            State::Quiet => self.ready.push_back(key),
            State::Paused => {
                self.paused.retain(|Reverse((_, other))| *other != key);
                self.ready.push_front(key);
            }
            State::Ready | State::Ending => {}
        }
    }

    /// The channel that has its turn.
    pub(super) fn first_ready(&self) -> Option<usize> {
        self.ready.front().copied()
    }

    /// Whether exactly one channel is ready, and it is small.
    pub(super) fn is_single_small_channel_ready(&self) -> bool {
        let only = self.ready.front().filter(|_| self.ready.len() == 1);
        only.and_then(|key| self.get(*key)).is_some_and(|channel| channel.members.len() <= SMALL_CHANNEL_MEMBERS_MAX)
    }

    /// The next thing to do in the turn of `key`, the first channel in `ready`.
    pub(super) fn next(&mut self, key: usize, seen: u64, now: Instant) -> Next {
        let Some(entry) = self.entries.get_mut(key) else { return Next::RoundOver };
        let next = match entry.state {
            State::Ending => entry.channel.members.last().copied().map(Next::End),
            _ => entry.channel.next_member(seen, now).map(Next::Visit),
        };
        next.unwrap_or(Next::RoundOver)
    }

    /// Ends a round of `key`, the first channel in `ready`. Returns whether its turn continues with another round.
    pub(super) fn end_round(&mut self, key: usize, now: Instant, pause_max: Duration) -> bool {
        let Some(entry) = self.entries.get_mut(key) else {
            debug_assert!(false, "a channel in `ready` exists");
            self.ready.pop_front();
            return false;
        };
        debug_assert_eq!(self.ready.front(), Some(&key), "the first channel has its turn");
        let after = entry.channel.end_round(now, pause_max);
        if entry.channel.members.is_empty() {
            self.ready.pop_front();
            self.remove(key);
            return false;
        }
        entry.state = match after {
            AfterRound::Continue => return true,
            AfterRound::Wait => State::Quiet,
            AfterRound::Pause(pause) => {
                debug_assert_eq!(entry.state, State::Ready, "only a channel that is ready is paused");
                self.paused.push(Reverse((now + pause, key)));
                State::Paused
            }
        };
        debug_assert!(after != AfterRound::Wait || entry.channel.window.is_empty(), "a quiet channel has no frame");
        self.ready.pop_front();
        false
    }

    /// Ends the turn of the first channel in `ready`, and moves it to the end of the queue.
    pub(super) fn end_turn(&mut self) {
        if let Some(key) = self.ready.pop_front() {
            self.ready.push_back(key);
        }
    }

    /// When the next pause ends.
    pub(super) fn next_pause_end(&self) -> Option<Instant> {
        self.paused.peek().map(|Reverse((end, _))| *end)
    }

    /// Ends the pauses that are over.
    pub(super) fn end_pauses(&mut self, now: Instant) {
        while let Some(Reverse((end, key))) = self.paused.peek().copied()
            && end <= now
        {
            self.paused.pop();
            if let Some(entry) = self.entries.get_mut(key) {
                debug_assert_eq!(entry.state, State::Paused, "a channel that waits for the end of a pause is paused");
                entry.state = State::Ready;
                self.ready.push_back(key);
            }
        }
    }

    fn remove(&mut self, key: usize) {
        let Some(Entry { channel, state }) = self.entries.try_remove(key) else { return };
        debug_assert!(channel.members.is_empty(), "a channel with members stays");
        debug_assert!(!self.ready.contains(&key), "a channel in a queue stays");
        if state == State::Ending {
            return;
        }
        if let Some(known) = self.by_topic.get_mut(&channel.topic) {
            known.retain(|known| *known != key);
            if known.is_empty() {
                self.by_topic.remove(&channel.topic);
            }
        }
    }

    /// Panics if a state, a queue and `by_topic` contradict each other. It checks everything, so it is for debug
    /// builds.
    pub(super) fn assert_invariants(&self) {
        for (key, Entry { channel, state }) in &self.entries {
            let in_ready = self.ready.iter().filter(|other| **other == key).count();
            let in_paused = self.paused.iter().filter(|Reverse((_, other))| *other == key).count();
            let queues = match state {
                State::Quiet => (0, 0),
                State::Ready | State::Ending => (1, 0),
                State::Paused => (0, 1),
            };
            assert_eq!((in_ready, in_paused), queues, "the queues that a channel is in tell its state: {state:?}");
            let is_known = self.by_topic.get(&channel.topic).is_some_and(|known| known.contains(&key));
            assert_eq!(is_known, *state != State::Ending, "a topic leads to its channels, unless they are ending");
            assert!(channel.single_topic || *state != State::Ending, "a deletion ends only streams of a single topic");
            let is_idle = matches!(state, State::Quiet | State::Paused);
            assert!(!is_idle || !channel.is_within_a_round(), "no round is under way: {state:?}");
            if *state == State::Quiet {
                assert!(!channel.members.is_empty() && channel.window.is_empty(), "it has members and no frames");
            }
        }
        let known: usize = self.by_topic.values().map(SmallVec::len).sum();
        let ending = self.entries.iter().filter(|(_, entry)| entry.state == State::Ending).count();
        assert_eq!(known + ending, self.entries.len(), "each channel is listed once, and no other");
        assert!(self.by_topic.values().all(|known| !known.is_empty()), "a topic without channels is not listed");
    }

    /// The number of members of all channels together.
    pub(super) fn memberships(&self) -> usize {
        self.entries.iter().map(|(_, entry)| entry.channel.members.len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        event::EventId,
        frame::{Format, Framing},
    };

    #[test]
    fn an_event_is_encoded_once_for_all_channels_of_an_encoding() {
        // Goal: they stand beside each other, in whatever order they came, and share one frame.
        let topic = TopicName::parse("topic", 255).expect("a name");
        let mut channels = Channels::new();
        let mut open = |format, single_topic| {
            let encoding = Encoding { format, framing: Framing::Close };
            channels.open(topic.clone(), encoding, single_topic, 0)
        };
        let lone = [Format::Envelope, Format::Lines].map(|format| open(format, true));
        let shared = [Format::Envelope, Format::Lines].map(|format| open(format, false));
        assert_eq!([Format::Envelope, Format::Lines].map(|format| open(format, false)), shared, "they are there");
        let (epoch, seq) = (Epoch::random(), 1);
        let event = frame::encode(EventId { epoch, seq }, 0, topic.clone(), None, b"content");
        channels.push_event(event, epoch);
        let memory = |key: usize| {
            let channel = channels.get(key).expect("it is there");
            channel.window.after(0).map(|(_, frame)| frame.as_ptr()).next().expect("the event")
        };
        assert_eq!(lone.map(memory), shared.map(memory));
        assert_ne!(memory(lone[0]), memory(lone[1]), "the encodings differ");
    }
}
