//! How clients come, as `src/http/subscribe.rs` lets them in, how they leave, and how they come back.

use std::{cell::RefCell, rc::Rc, sync::Arc, time::Duration};

use tidings::{
    event::EventId,
    frame::{self, Encoding, Format, Opening},
    hub::{CheckedRight, Subscription},
    identity::Identity,
    log::Start,
};

use crate::harness::at_hand;

use super::{Client, HEARTBEAT, Hold, Manners, Pipe, Wire, World};

impl World {
    /// What `GET /subscribe` does.
    pub fn subscribe(
        &mut self,
        topics: &[usize],
        format: Format,
        start: &Start,
        manners: Manners,
    ) -> Result<(), String> {
        self.admit((topics, &[]), format, start, manners)
    }

    /// As above; the client is told of the topics in the second list that they were deleted.
    fn admit(
        &mut self,
        (topics, deleted): (&[usize], &[usize]),
        format: Format,
        start: &Start,
        manners: Manners,
    ) -> Result<(), String> {
        let name = |topic: &usize| self.history.names[*topic].clone();
        let (names, notices): (Vec<_>, Vec<_>) =
            (topics.iter().map(name).collect(), deleted.iter().map(name).collect());
        let is_ahead =
            matches!(start, Start::After(id) if id.epoch == self.history.epoch && id.seq > self.history.watermark);
        let uses_position = is_ahead && self.life.is_stream();
        let at_end = Start::After(self.id(true, self.history.watermark));
        let start = if uses_position && self.has_asked_ahead { &at_end } else { start };
        let point = self.life.wait(self.life.log.resolve_start(&names, start, &notices))?;
        let point = point.map_err(|error| error.to_string())?;
        let expected = if uses_position && !self.has_asked_ahead {
            // The engine has stored a marker, which has a position. For the next one it would wait, so this is done once.
            self.has_asked_ahead = true;
            self.history.watermark = self.life.log.watermark();
            self.history.place(topics, &Start::After(self.id(false, 0)), deleted)
        } else {
            self.history.place(topics, start, deleted)
        };
        if (point.from.after, point.gap) != expected {
            return Err(format!("{topics:?} from {start:?}: {point:?}, the model says {expected:?}"));
        }
        let requested = match start {
            Start::After(id) => id.to_string(),
            _ => "no id\r\n\r\ndata: of ours".to_owned(),
        };
        let id = EventId { epoch: self.history.epoch, seq: point.from.after };
        let encoding = Encoding { format, framing: manners.framing };
        let opening = Opening { retry: Duration::from_secs(3), cursor: id, topics: &names, heartbeat: HEARTBEAT };
        let mut first = frame::opening(encoding, manners.marks, opening).to_vec();
        let gap = point.gap.map(|reason| (reason, requested.as_str()));
        if let Some((reason, requested)) = gap {
            first.extend_from_slice(&frame::gap(encoding, reason, requested, id));
        }
        for topic in &notices {
            first.extend_from_slice(&frame::deleted(encoding, topic));
        }
        let pipe = Rc::new(RefCell::new(Pipe::new(manners.room, manners.gulp, &self.now)));
        let mut client =
            Client::new(Rc::clone(&pipe), (encoding, manners.marks), topics.to_vec(), point.from.after, &self.history);
        client.begin(&first, gap, deleted, &self.history)?;
        let now = self.now.clock.get();
        client.ends_at = manners.lifetime.map(|lifetime| now + lifetime);
        client.right_ends_at = manners.right.map(|right| now + right);
        let identity = Arc::new(Identity { key: "key".into(), subject: None });
        let right = CheckedRight { identity, checked_at: now, ends_at: client.right_ends_at };
        let subscription = Subscription {
            topics: names.into(),
            encoding,
            marks: manners.marks,
            start: point,
            ends_at: client.ends_at,
            right: Some(right),
            guards: Box::new(Hold(Rc::clone(&client.held))),
        };
        self.inbox.push((Wire(pipe), subscription));
        self.clients.push(client);
        Ok(())
    }

    /// A client closes its connection, wherever in its stream it is.
    pub fn hang_up(&mut self, at: usize) {
        let client = self.clients.remove(at);
        client.pipe.borrow_mut().hang_up();
        self.left.push(client);
    }

    /// One that has left comes back with the id that its own parser holds. While deletions are remembered it is told of
    /// those since, and to stop when they were its only topic, or all of its topics and none lives again.
    pub fn resume(&mut self, at: usize, deletions_are_remembered: bool, manners: Manners) -> Result<(), String> {
        let (topics, format, id) = {
            let client = &self.left[at];
            (client.asked.clone(), client.encoding.format, EventId::parse(client.last_id()).ok_or("an id")?)
        };
        let is_known = deletions_are_remembered && id.epoch == self.history.epoch;
        let is_deleted = |topic: &&usize| is_known && self.history.deleted_after(**topic, id.seq).is_some();
        let deleted: Vec<usize> = topics.iter().filter(is_deleted).copied().collect();
        let lives = |topic: &usize| {
            at_hand(self.life.log.held(&self.history.names[*topic])).is_some_and(|held| held.events > 0)
        };
        let is_over = deleted.len() == topics.len() && (topics.len() == 1 || !topics.iter().any(lives));
        if is_over { Ok(()) } else { self.admit((&topics, &deleted), format, &Start::After(id), manners) }
    }
}
