//! What the subscribers and the publishers of a run share.

use std::time::Instant;

use super::{
    dial::Dialer,
    plan::Plan,
    stamp::Stamp,
    tally::{Tally, nanos},
    verify::Topic,
};

pub struct Shared<'a> {
    pub plan: &'a Plan,
    pub dialer: Dialer,
    pub topics: Vec<Topic>,
    pub tally: Tally,
    pub begun: Instant,
    /// Every read goes into this buffer.
    pub buffer: Vec<u8>,
}

impl Shared<'_> {
    /// Nanoseconds since the run began.
    pub fn now(&self) -> u64 {
        nanos(self.begun.elapsed())
    }

    /// Stores the outcome of publishing an event.
    pub fn set_outcome(&mut self, stamp: Stamp, is_acknowledged: bool) {
        if let Some(topic) = self.topics.get_mut(stamp.topic) {
            topic.set_outcome(stamp.number, is_acknowledged);
        }
    }
}
