//! Lists subscribers, and ends their streams: on command, or because their right has ended. These are methods of
//! [`Streams`], whose struct is in `streams`.
//!
//! Such a stream ends at once, at its cursor: its client gets the rest of a partly sent event and a notice, but no
//! further event. If the client may come back, it resumes at its cursor, so it misses nothing.

use super::{
    command::{Command, Listed, StreamId, time_of},
    connection::{Connection, Peer, Subscription},
    end::End,
    jitter::jitter,
    streams::Streams,
    walk::Walk,
};
use crate::{
    event::{EventId, StopId, TopicName},
    frame,
    log::wall_ms,
};

/// How many connections one step of a walk looks at.
const WALK_STEP: usize = 256;
/// How many streams one step of a walk ends. To end a stream takes far longer than to look at a connection.
const WALK_ENDS: usize = 16;
/// What a stream says when its right has ended.
const RIGHT_ENDED: &str = "the right to this stream has ended; come back with a new token or ticket";

impl<S: Peer> Streams<S> {
    /// Carries out a command. A command for all connections only begins here: [`step`](Self::step) goes on with it.
    pub fn command(&mut self, command: Command) {
        // An error means that nobody waits for the answer.
        match command {
            Command::List { topic, after, limit, answer } => {
                answer.send(self.list(&topic, after, limit)).ok();
            }
            Command::Find(id, answer) => {
                answer.send(self.find(id)).ok();
            }
            Command::End(id, answer) => {
                let key = self.open_stream(id).map(|(key, _)| key);
                if let Some(key) = key {
                    self.end_at_cursor(key, End::Ended);
                }
                answer.send(key.is_some()).ok();
            }
            Command::EndWhere(command, answer) => {
                self.recent_ends.push(command.clone());
                self.walks.push_back(Walk::new(command, answer));
            }
        }
        self.assert_invariants();
    }

    /// Why the stream of a subscription must end as soon as it is adopted; `None` if it need not.
    pub(super) fn end_on_arrival(&self, subscription: &Subscription) -> Option<End> {
        let right = subscription.right.as_ref()?;
        let has_ended = right.ends_at.is_some_and(|at| at <= self.now);
        if has_ended { Some(End::Unauthorized) } else { self.recent_ends.end_of(right) }
    }

    /// Notes that a connection was adopted, so that the walks leave it out.
    pub(super) fn note_adopted(&mut self, key: usize) {
        for walk in &mut self.walks {
            walk.adopted.insert(key);
        }
    }

    /// Makes a step of the first walk.
    pub(super) fn step_walk(&mut self) {
        let Some(mut walk) = self.walks.pop_front() else { return };
        let ended_before = walk.ended;
        let end = self.connections.capacity();
        let stop = end.min(walk.next + WALK_STEP);
        while walk.next < stop && walk.ended < ended_before + WALK_ENDS {
            let key = walk.next;
            walk.next += 1;
            let Some(connection) = self.connections.get(key).filter(|connection| !connection.is_ending()) else {
                continue;
            };
            let Some(identity) = &connection.cold.identity else { continue };
            if (walk.command.matches)(identity) && !walk.adopted.contains(&key) {
                walk.ended += 1;
                self.end_at_cursor(key, walk.command.end);
            }
        }
        if walk.next < end {
            self.walks.push_front(walk);
        } else {
            walk.answer.send(walk.ended).ok();
        }
    }

    /// Ends a stream at its cursor, because its right has ended or an operator ends it. Its client has
    /// `stream.write_timeout` to take what is left.
    pub(super) fn end_at_cursor(&mut self, key: usize, end: End) {
        let Some(connection) = self.connections.get(key).filter(|connection| !connection.is_ending()) else { return };
        if connection.slots.iter().any(|slot| self.channels.is_ending(slot.channel)) {
            // The stream's only topic was deleted. After another notice, the client would not learn of the deletion.
            self.push_deleted(key);
        } else {
            let (encoding, retry) = (connection.encoding, jitter(self.config.retry));
            let id = EventId { epoch: self.epoch, seq: connection.cursor };
            let notice = if end == End::Ended {
                let gone = u64::try_from(self.config.gone.as_millis()).unwrap_or(u64::MAX);
                frame::ended(encoding, retry, StopId { id, until_ms: wall_ms().saturating_add(gone) })
            } else {
                frame::unauthorized(encoding, retry, Some(id), RIGHT_ENDED)
            };
            self.push_last(key, &notice, end);
        }
        self.visit(key);
        if let Some(connection) = self.connections.get_mut(key) {
            // The write deadline alone would not close the connection: a peer may take one byte now and then.
            connection.cold.stage_ends_at = Some(self.now + self.config.write_timeout);
            self.set_timer(key);
        }
    }

    /// The connection with this id, unless its stream is ending.
    fn open_stream(&self, StreamId { key, salt }: StreamId) -> Option<(usize, &Connection<S>)> {
        let key = usize::try_from(key).ok()?;
        let connection = self.connections.get(key)?;
        (connection.cold.salt == salt && !connection.is_ending()).then_some((key, connection))
    }

    fn find(&self, id: StreamId) -> Option<(Listed<StreamId>, Vec<TopicName>)> {
        let (key, connection) = self.open_stream(id)?;
        let topics = self.channels_of(connection).map(|channel| channel.topic.clone()).collect();
        Some((self.listed(key, connection)?, topics))
    }

    /// The first `limit` subscribers of `topic` after `after`.
    ///
    /// This looks at the keys of all subscribers of the topic, which are together in memory: to look at 100,000 keys
    /// takes about as long as a request. But it looks at few connections, which are not together: at the first `limit`,
    /// and at the next ones if some of these are ending. Ending ones are left out.
    fn list(&self, topic: &TopicName, after: Option<StreamId>, limit: usize) -> Vec<Listed<StreamId>> {
        let after = after.and_then(|id| usize::try_from(id.key).ok());
        let members = self.channels.of_topic(topic).flat_map(|channel| channel.members.iter().copied());
        let mut keys: Vec<usize> = members.filter(|key| after.is_none_or(|after| *key > after)).collect();
        let mut listed = Vec::new();
        while listed.len() < limit && !keys.is_empty() {
            // The first `limit` keys stay in `keys`, without an order; the others go to `later`.
            let later = if keys.len() > limit {
                keys.select_nth_unstable(limit);
                keys.split_off(limit)
            } else {
                Vec::new()
            };
            keys.sort_unstable();
            let open = keys.iter().filter_map(|key| {
                let connection = self.connections.get(*key).filter(|connection| !connection.is_ending())?;
                self.listed(*key, connection)
            });
            listed.extend(open.take(limit - listed.len()));
            keys = later;
        }
        listed
    }

    fn listed(&self, key: usize, connection: &Connection<S>) -> Option<Listed<StreamId>> {
        let id = StreamId { key: key.try_into().ok()?, salt: connection.cold.salt };
        let cursor = EventId { epoch: self.epoch, seq: connection.cursor };
        Some(Listed { id, since: time_of(connection.cold.since_ms), cursor })
    }
}

#[cfg(test)]
mod tests;
