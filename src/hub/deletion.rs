//! What a topic's deletion does to its streams: those of it alone end, all others are told at its place in the order, and
//! go on with the topic's next life.

use super::{connection::Peer, fanout::Fanout, visit::Visit};
use crate::frame;

impl<S: Peer> Fanout<S> {
    /// Tells a member that the channel's topic, its only one, was deleted, after all that was published before. That may
    /// take several visits, and others have their turn between them; whether this was the last.
    pub(super) fn dismiss(&mut self, member: usize) -> bool {
        if self.visit(member) == Visit::More {
            return false;
        }
        self.remove_topic(member);
        self.visit(member);
        true
    }

    /// Tells a connection that its only topic was deleted, and that this is the end.
    pub(super) fn remove_topic(&mut self, key: usize) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        let Some(slot) = connection.slots.pop() else { return };
        let encoding = connection.encoding;
        connection.fetching = None;
        let notice = self.channels.get(slot.channel).map(|channel| frame::deleted(encoding, &channel.topic));
        self.leave(slot);
        self.push_control(key, &notice.unwrap_or_default());
        self.push_last(key, &frame::end(encoding.framing));
    }

    /// Whether each of a stream's several topics has been deleted since it subscribed, and none lives again. Asked when
    /// it has everything, notices included.
    pub(super) fn has_lost_all(&self, key: usize) -> bool {
        let Some(connection) = self.connections.get(key).filter(|connection| connection.slots.len() > 1) else {
            return false;
        };
        let channels = || connection.slots.iter().filter_map(|slot| self.channels.get(slot.channel));
        let holds = |topic| self.log.held(topic).is_some_and(|held| held.events > 0);
        let between = connection.cold.subscribed_at + 1..=connection.cursor;
        channels().all(|channel| between.contains(&channel.deleted_seq))
            && !channels().any(|channel| holds(&channel.topic))
    }
}
