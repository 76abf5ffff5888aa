//! The end of a history, which its log's process and the hub outlive.

use bytes::Bytes;
use tidings::log::Draft;

use super::{Fact, History, World};

/// The content of the events that the next history begins with.
pub const NEXT: &str = "of the next history";

impl World {
    /// The history ends, and with it every stream. Another one begins, with as many events of the first topic. Only a
    /// log in another process does that.
    pub fn end_epoch(&mut self, events: usize) -> Result<(), String> {
        let Some(remote) = &self.life.remote else { return Ok(()) };
        let topic = self.history.names[0].clone();
        let draft =
            Draft { topic, name: None, content: Bytes::from_static(NEXT.as_bytes()), subscribers: 0, key: None };
        let positions = remote.end_epoch(vec![draft; events]);
        let stamp = self.history.stamp;
        self.history = History::new(self.life.log.epoch(), std::mem::take(&mut self.history.names));
        self.history.stamp = stamp;
        for seq in positions {
            self.history.give(seq)?;
            let content = NEXT.to_owned();
            self.history.facts.push(Fact { seq, topic: 0, name: None, content, removed: None });
        }
        self.breaker.end_epoch();
        // They take in no more of it: what there is to say in their streams is that they end.
        self.left.append(&mut self.clients);
        self.look()
    }

    /// Fails when a stream goes on that has ended.
    pub(super) fn no_stream_is_left_over(&self) -> Result<(), String> {
        match self.left.iter().find(|client| !client.pipe.borrow().dropped) {
            Some(client) => Err(format!("the stream of a history that has ended goes on: {client:?}")),
            None => Ok(()),
        }
    }
}
