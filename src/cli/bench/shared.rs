//! What the subscribers and the publishers of a run share.

use mio::Registry;

use super::{
    dial::Dialer,
    plan::Plan,
    stamp::Stamp,
    tally::{Clock, Tally},
    verify::Topic,
};

/// What the subscribers and the publishers of a run share.
pub struct Shared<'a> {
    pub plan: &'a Plan,
    pub registry: Registry,
    pub dialer: Dialer,
    pub topics: Vec<Topic>,
    pub tally: Tally,
    pub clock: Clock,
    /// Every read goes into this buffer.
    pub buffer: Vec<u8>,
}

impl Shared<'_> {
    /// Stores the outcome of publishing an event.
    pub fn set_outcome(&mut self, stamp: Stamp, is_acknowledged: bool) {
        if let Some(topic) = self.topics.get_mut(stamp.topic) {
            topic.set_outcome(stamp.number, is_acknowledged);
        }
    }
}
