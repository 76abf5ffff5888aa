//! An operator ends the stream of one subscriber.

use tidings::hub::{Command, StreamId};
use tokio::sync::oneshot;

use super::World;

impl World {
    /// What `DELETE /subscribers/{id}` does, if the hub has adopted the subscriber.
    pub fn end(&mut self, at: usize) -> Result<(), String> {
        let Some(id) = self.id_of(at)? else { return Ok(()) };
        self.fanout.advance(self.now.clock.get());
        let client = &mut self.clients[at];
        if client.pipe.borrow().dropped {
            return self.check();
        }
        let is_due = client.right_ends_at.is_some_and(|at| at <= self.now.clock.get());
        client.ended_at = Some(self.now.clock.get());
        let (answer, mut answered) = oneshot::channel();
        self.fanout.command(Command::End(id, answer));
        let ended = answered.try_recv().map_err(|error| error.to_string())?;
        if !ended && !is_due && self.clients[at].ends_at.is_none() {
            return Err("it was listed, and could not be ended".to_owned());
        }
        self.check()
    }

    /// The id of a subscriber, from the list of its first topic; `None` if it is not listed, because it ends.
    fn id_of(&mut self, at: usize) -> Result<Option<StreamId>, String> {
        let topic = self.history.names[self.clients[at].asked[0]].clone();
        let (answer, mut answered) = oneshot::channel();
        self.fanout.command(Command::List { topic, after: None, limit: usize::MAX, answer });
        let listed = answered.try_recv().map_err(|error| error.to_string())?;
        let pipe = self.clients[at].pipe.borrow();
        let is_it = |id: &StreamId| usize::try_from(id.key).is_ok_and(|key| pipe.is_under(key));
        Ok(listed.into_iter().map(|listed| listed.id).find(is_it))
    }
}
