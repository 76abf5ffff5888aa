//! Checks that each subscriber gets each event of its topic once, and that all get them in the same order.
//!
//! For a subscriber, only its next position in the topic's order is stored, and the positions that it has skipped. With
//! one publisher, the order is that of the event numbers. With several publishers, events that are published at the
//! same time may arrive in any order, but it must be the same for all subscribers. The first subscriber to get an event
//! determines the event's position. An event that was sent after the answer to another event must come after that
//! event.

use std::ops::Range;

/// The events of one topic.
#[derive(Debug)]
pub struct Topic {
    /// The outcome of each event, by its number.
    outcomes: Vec<Outcome>,
    order: Order,
    /// How many events were acknowledged.
    acknowledged: u32,
}

/// The outcome of publishing one event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// There is no answer yet.
    Pending,
    Acknowledged,
    /// It was refused, or the connection was closed without an answer. It may be delivered or not.
    Failed,
}

/// The order in which all subscribers must get the events.
#[derive(Debug)]
enum Order {
    /// The order of the numbers: there is one publisher.
    ByNumber,
    /// The order in which the events arrived first: there are several publishers.
    Observed(Observed),
}

/// The order in which events have arrived so far.
#[derive(Debug, Default)]
struct Observed {
    /// The position of each event, by its number; `None` until it has arrived.
    positions: Vec<Option<u32>>,
    /// How many positions are assigned.
    len: u32,
    /// For each event, by its number: when it was sent, all events with lower numbers than this had been answered.
    answered_before: Vec<u32>,
    /// All events with lower numbers than this have been answered by now.
    answered: u32,
    /// The largest `answered_before` of the events that have arrived. All events with lower numbers should have arrived
    /// before.
    must_have_arrived: u32,
}

/// The events that one subscriber has got.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// The position that it should get next.
    next: u32,
    /// How many different events it has got.
    pub events: u32,
    /// The positions that it has skipped. Without errors, there are none.
    skipped: Vec<Range<u32>>,
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
        let order = if publishers == 1 { Order::ByNumber } else { Order::Observed(Observed::default()) };
        Self { outcomes: Vec::new(), order, acknowledged: 0 }
    }

    /// Adds a new event, which is about to be sent, and returns its number.
    pub fn add_event(&mut self) -> u32 {
        self.outcomes.push(Outcome::Pending);
        if let Order::Observed(order) = &mut self.order {
            order.positions.push(None);
            order.answered_before.push(order.answered);
        }
        u32::try_from(self.outcomes.len() - 1).unwrap_or(u32::MAX)
    }

    /// Notes the answer to event `number`.
    pub fn answer(&mut self, number: u32, is_acknowledged: bool) {
        if let Some(outcome) = self.outcomes.get_mut(index(number)) {
            *outcome = if is_acknowledged { Outcome::Acknowledged } else { Outcome::Failed };
            self.acknowledged += u32::from(is_acknowledged);
        }
        if let Order::Observed(order) = &mut self.order {
            let outcomes = self.outcomes.iter().skip(index(order.answered));
            let newly_answered = outcomes.take_while(|outcome| **outcome != Outcome::Pending).count();
            order.answered += u32::try_from(newly_answered).unwrap_or_default();
        }
    }

    /// How many events each subscriber must get.
    pub fn acknowledged(&self) -> u32 {
        self.acknowledged
    }

    /// The position of a delivered event, and whether it comes too late: after an event that was sent only when this
    /// one had been answered. `None` if it was never published. The first delivery of an event assigns its position.
    fn position(&mut self, number: u32) -> Option<(u32, bool)> {
        if index(number) >= self.outcomes.len() {
            return None;
        }
        let Order::Observed(order) = &mut self.order else { return Some((number, false)) };
        let position = order.positions.get_mut(index(number))?;
        if let Some(position) = *position {
            return Some((position, false));
        }
        *position = Some(order.len);
        order.len += 1;
        let is_late = number < order.must_have_arrived;
        order.must_have_arrived =
            order.must_have_arrived.max(order.answered_before.get(index(number)).copied().unwrap_or_default());
        Some((order.len - 1, is_late))
    }

    /// How many events the subscriber of `seen` should have got, and has not.
    pub fn lost(&self, seen: &Seen) -> u64 {
        let not_got = |end: u32| seen.skipped.iter().cloned().chain(std::iter::once(seen.next..end));
        match &self.order {
            Order::ByNumber => {
                let end = u32::try_from(self.outcomes.len()).unwrap_or(u32::MAX);
                let outcomes = not_got(end).filter_map(|range| self.outcomes.get(index(range.start)..index(range.end)));
                count(outcomes.flatten().filter(|outcome| **outcome == Outcome::Acknowledged).count())
            }
            Order::Observed(order) => {
                // Events that no subscriber has got have no position.
                let without_position = self
                    .outcomes
                    .iter()
                    .zip(&order.positions)
                    .filter(|(outcome, position)| **outcome == Outcome::Acknowledged && position.is_none());
                count(without_position.count()) + not_got(order.len).map(|range| count(range.len())).sum::<u64>()
            }
        }
    }
}

impl Seen {
    /// Checks the delivery of event `number` of `topic`.
    pub fn check(&mut self, topic: &mut Topic, number: u32) -> Delivery {
        let Some((position, is_late)) = topic.position(number) else { return Delivery::Unknown };
        if position < self.next {
            return self.check_earlier(position);
        }
        if position > self.next {
            self.skipped.push(self.next..position);
        }
        self.next = position + 1;
        self.events += 1;
        if is_late { Delivery::OutOfOrder } else { Delivery::InOrder }
    }

    /// Checks a delivery before the next position: the subscriber has skipped it, or already has it.
    fn check_earlier(&mut self, position: u32) -> Delivery {
        let Some(at) = self.skipped.iter().position(|range| range.contains(&position)) else {
            return Delivery::Repeated;
        };
        let range = self.skipped.swap_remove(at);
        self.skipped
            .extend([range.start..position, position + 1..range.end].into_iter().filter(|range| !range.is_empty()));
        self.events += 1;
        Delivery::OutOfOrder
    }
}

fn index(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

fn count(n: usize) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    use Delivery::{InOrder, OutOfOrder, Repeated, Unknown};

    /// A topic with `n` events, each acknowledged before the next.
    fn topic(publishers: usize, n: u32) -> Topic {
        let mut topic = Topic::new(publishers);
        for _ in 0..n {
            let number = topic.add_event();
            topic.answer(number, true);
        }
        topic
    }

    /// Delivers `numbers` to a new subscriber. Returns the result for each, and how many events it has lost.
    fn deliver(topic: &mut Topic, numbers: &[u32]) -> (Vec<Delivery>, u64) {
        let mut seen = Seen::default();
        let deliveries = numbers.iter().map(|number| seen.check(topic, *number)).collect();
        (deliveries, topic.lost(&seen))
    }

    #[test]
    fn each_fault_is_distinguished() {
        for publishers in [1, 2] {
            let of = |numbers: &[u32]| deliver(&mut topic(publishers, 4), numbers);
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
            topic.answer(number, true);
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
                topic.answer(number, is_acknowledged);
            }
            assert_eq!(topic.acknowledged(), 2);
            assert_eq!(deliver(&mut topic, &[0, 2]).1, 0);
            assert_eq!(deliver(&mut topic, &[0]).1, 1);
            assert_eq!(deliver(&mut topic, &[0, 1, 2]).1, 0, "a failed event may be delivered");
        }
    }
}
