//! What must hold between the parts of [`Streams`], whose struct is in `streams`.

use std::cmp::Reverse;

use super::{connection::Peer, streams::Streams};

/// A debug build asserts the invariants after each change, if there are at most this many connections.
const CHECKED_MAX: usize = 32;

impl<S: Peer> Streams<S> {
    /// In a debug build, panics if connections, channels, backlog and timers contradict each other. Each call checks
    /// everything, so larger hubs are not checked.
    pub(super) fn assert_invariants(&self) {
        if !cfg!(debug_assertions) || self.len() > CHECKED_MAX {
            return;
        }
        self.channels.assert_invariants();
        let backlog: Vec<usize> = self.backlog.iter().collect();
        let mut slots = 0;
        for (key, connection) in &self.connections {
            slots += connection.slots.len();
            for slot in &connection.slots {
                let member = self.channels.get(slot.channel).and_then(|channel| channel.members.get(slot.index));
                assert_eq!(member, Some(&key), "a connection is a member where its slots say");
            }
            let queued = backlog.iter().filter(|other| **other == key).count();
            assert_eq!(queued, usize::from(connection.is_queued), "`is_queued` tells whether it is in the backlog");
            let timer = Reverse((connection.cold.timer_at, key));
            assert!(self.timers.iter().any(|other| *other == timer), "each connection has a timer");
            assert!(connection.last_id_sent <= connection.cursor, "the last id sent is not after the cursor");
            let ends = connection.is_ending() || connection.cold.stage_ends_at.is_some();
            assert!(ends || self.drain_ends_at.is_none(), "in a drain each stream has an end");
        }
        assert_eq!(slots, self.channels.memberships(), "each member of a channel is a connection with a slot there");
        assert!(backlog.iter().all(|key| self.connections.contains(*key)), "no closed connection is in the backlog");
    }
}
