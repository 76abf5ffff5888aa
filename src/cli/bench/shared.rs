//! What the subscribers and the publishers of a load share.

use mio::Registry;

use super::{
    dial::Dialer,
    plan::Plan,
    stamp::Stamp,
    tally::{Clock, Tally},
    verify::Topic,
};

/// What subscribers and publishers work with, and what they report to.
pub struct Shared<'a> {
    pub plan: &'a Plan,
    pub registry: Registry,
    pub dialer: Dialer,
    pub topics: Vec<Topic>,
    pub tally: Tally,
    pub clock: Clock,
    pub buffer: Vec<u8>,
}

impl Shared<'_> {
    /// Notes how the publishing of an event has ended.
    pub fn answer(&mut self, stamp: Stamp, is_acknowledged: bool) {
        if let Some(topic) = usize::try_from(stamp.topic).ok().and_then(|topic| self.topics.get_mut(topic)) {
            topic.answer(stamp.number, is_acknowledged);
        }
    }
}
