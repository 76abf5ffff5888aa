//! Checks that each subscriber gets each event of its topic once, and that all get them in the same order.
//!
//! Each event has a position in the order of its topic. With one publisher, this is the event's number. With several
//! publishers, events that are published at the same time may arrive in any order. Then an event gets its position when
//! the first subscriber gets the event. But if event B was sent after the answer to event A had arrived, then B must
//! have a higher position than A.
//!
//! An example: events 0 and 1 are answered before event 2 is sent, so `answered_before` of event 2 is 2. When the first
//! subscriber gets event 2, `late_below` becomes 2. If no subscriber has got event 1 by then, event 1 is late.
//!
//! For each subscriber, only the next position is stored, and the positions that the subscriber has skipped.

use std::ops::Range;

use super::tally::wide;

/// The events of one topic.
#[derive(Debug, Default)]
pub struct Topic {
    /// All events, by their numbers.
    events: Vec<Event>,
    has_one_publisher: bool,
    /// How many events were acknowledged.
    pub acknowledged: usize,
    /// All events with lower numbers than this are answered.
    answered: usize,
    /// The lowest free position. It is only needed with several publishers.
    free_position: usize,
    /// The highest `answered_before` of the events that have arrived. An event with a lower number than this is late if
    /// it arrives for the first time now.
    late_below: usize,
}

/// One event.
#[derive(Debug)]
struct Event {
    outcome: Outcome,
    /// `None` until it has a position.
    position: Option<usize>,
    /// The topic's `answered` when this event was sent. All events with lower numbers must come before this one.
    answered_before: usize,
}

/// The outcome of publishing one event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// There is no answer yet.
    Pending,
    Acknowledged,
    /// The server refused the event, or the connection ended without an answer. The event may be delivered or not.
    Failed,
}

/// The events that one subscriber has got.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// The position that the subscriber should get next.
    next_position: usize,
    /// How many different events the subscriber has got.
    pub events: usize,
    /// The positions that the subscriber has skipped, in ascending order. Without errors, there are none.
    skipped: Vec<Range<usize>>,
}

/// The result of checking one delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    InOrder,
    OutOfOrder,
    /// The subscriber already had the event.
    Repeated,
    /// The event was never published.
    Unknown,
}

impl Topic {
    pub fn new(publishers: usize) -> Self {
        Self { has_one_publisher: publishers == 1, ..Self::default() }
    }

    /// Adds an event that is about to be sent, and returns its number.
    pub fn add_event(&mut self) -> usize {
        let number = self.events.len();
        let position = self.has_one_publisher.then_some(number);
        self.events.push(Event { outcome: Outcome::Pending, position, answered_before: self.answered });
        number
    }

    /// Stores the outcome of event `number`.
    pub fn set_outcome(&mut self, number: usize, is_acknowledged: bool) {
        let Some(event) = self.events.get_mut(number) else { return };
        event.outcome = if is_acknowledged { Outcome::Acknowledged } else { Outcome::Failed };
        self.acknowledged += usize::from(is_acknowledged);
        while self.events.get(self.answered).is_some_and(|event| event.outcome != Outcome::Pending) {
            self.answered += 1;
        }
    }

    /// How many acknowledged events the subscriber of `seen` has not got.
    pub fn lost(&self, seen: &Seen) -> u64 {
        if seen.events == self.events.len() {
            return 0;
        }
        let acknowledged = self.events.iter().filter(|event| event.outcome == Outcome::Acknowledged);
        wide(acknowledged.filter(|event| !event.position.is_some_and(|position| seen.has(position))).count())
    }
}

impl Seen {
    /// Checks the delivery of event `number` of `topic`.
    pub fn check(&mut self, topic: &mut Topic, number: usize) -> Delivery {
        let Some(event) = topic.events.get_mut(number) else { return Delivery::Unknown };
        // The first subscriber that gets an event gives it a position. For the others, the position tells the order.
        let is_late = event.position.is_none() && number < topic.late_below;
        topic.late_below = topic.late_below.max(event.answered_before);
        let position = *event.position.get_or_insert(topic.free_position);
        topic.free_position = topic.free_position.max(position + 1);
        if position < self.next_position {
            return self.check_earlier(position);
        }
        if position > self.next_position {
            self.skipped.push(self.next_position..position);
        }
        self.next_position = position + 1;
        self.events += 1;
        if is_late { Delivery::OutOfOrder } else { Delivery::InOrder }
    }

    /// Checks the delivery of a position before the next one: the subscriber has skipped this position, or already has
    /// it.
    fn check_earlier(&mut self, position: usize) -> Delivery {
        let Some((at, Range { start, end })) = self.skipped_range(position) else { return Delivery::Repeated };
        let still_skipped = [start..position, position + 1..end];
        self.skipped.splice(at..=at, still_skipped.into_iter().filter(|range| !range.is_empty()));
        self.events += 1;
        Delivery::OutOfOrder
    }

    fn has(&self, position: usize) -> bool {
        position < self.next_position && self.skipped_range(position).is_none()
    }

    /// The range of skipped positions that contains `position`, and its index.
    fn skipped_range(&self, position: usize) -> Option<(usize, Range<usize>)> {
        let at = self.skipped.partition_point(|range| range.end <= position);
        self.skipped.get(at).filter(|range| range.contains(&position)).map(|range| (at, range.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use Delivery::{InOrder, OutOfOrder, Repeated, Unknown};

    /// A topic with `n` events, each acknowledged before the next.
    fn topic(publishers: usize, n: usize) -> Topic {
        let mut topic = Topic::new(publishers);
        for _ in 0..n {
            let number = topic.add_event();
            topic.set_outcome(number, true);
        }
        topic
    }

    /// Delivers `numbers` to a new subscriber. Returns the result for each, and how many events it has lost.
    fn deliver(topic: &mut Topic, numbers: &[usize]) -> (Vec<Delivery>, u64) {
        let mut seen = Seen::default();
        let deliveries = numbers.iter().map(|number| seen.check(topic, *number)).collect();
        (deliveries, topic.lost(&seen))
    }

    #[test]
    fn each_fault_is_distinguished() {
        for publishers in [1, 2] {
            let of = |numbers: &[usize]| deliver(&mut topic(publishers, 4), numbers);
            assert_eq!(of(&[0, 1, 2, 3]), (vec![InOrder; 4], 0));
            assert_eq!(of(&[0, 1, 3]), (vec![InOrder; 3], 1), "an event in the middle is lost");
            assert_eq!(of(&[0, 1]), (vec![InOrder; 2], 2), "the last events are lost");
            assert_eq!(of(&[]), (vec![], 4));
            assert_eq!(of(&[0, 1, 1, 2, 3]), (vec![InOrder, InOrder, Repeated, InOrder, InOrder], 0));
            assert_eq!(of(&[0, 2, 1, 3]), (vec![InOrder, InOrder, OutOfOrder, InOrder], 0));
            assert_eq!(of(&[3, 0, 2, 2, 1]), (vec![InOrder, OutOfOrder, OutOfOrder, Repeated, OutOfOrder], 0));
            assert_eq!(of(&[0, 1, 2, 3, 4]), (vec![InOrder, InOrder, InOrder, InOrder, Unknown], 0));
        }
    }

    #[test]
    fn concurrent_events_have_one_order_for_all() {
        let mut topic = Topic::new(2);
        let numbers = [topic.add_event(), topic.add_event(), topic.add_event()];
        for number in numbers {
            topic.set_outcome(number, true);
        }
        assert_eq!(deliver(&mut topic, &[1, 0, 2]), (vec![InOrder; 3], 0), "any order is right");
        assert_eq!(deliver(&mut topic, &[1, 0, 2]), (vec![InOrder; 3], 0));
        assert_eq!(
            deliver(&mut topic, &[0, 1, 2]),
            (vec![InOrder, OutOfOrder, InOrder], 0),
            "but it must be the same for all"
        );
        assert_eq!(deliver(&mut topic, &[1, 2]), (vec![InOrder; 2], 1));
    }

    #[test]
    fn failed_events_may_be_missing() {
        for publishers in [1, 2] {
            let mut topic = Topic::new(publishers);
            for is_acknowledged in [true, false, true] {
                let number = topic.add_event();
                topic.set_outcome(number, is_acknowledged);
            }
            assert_eq!(topic.acknowledged, 2);
            assert_eq!(deliver(&mut topic, &[0, 2]).1, 0);
            assert_eq!(deliver(&mut topic, &[0]).1, 1);
            assert_eq!(deliver(&mut topic, &[0, 1, 2]).1, 0, "a failed event may be delivered");
            assert_eq!(deliver(&mut topic, &[0, 2]).1, 0, "and another subscriber need not get it");
        }
    }
}
