//! Whether every subscriber has got every event of its topic once, and all of them in one order.
//!
//! A subscriber is a place in its topic's order and, once something has gone wrong, the places that it has passed over.
//! Where one publisher alone publishes, the order is that of the numbers. Where several do, events that are published at
//! the same time may come in either order, but all must see the same one, and never one against the acknowledgements:
//! what is published after another's answer comes after it. The subscriber that is ahead tells the order.

use std::ops::Range;

/// What is known of one topic's events.
#[derive(Debug)]
pub struct Topic {
    /// One for each number.
    fates: Vec<Fate>,
    order: Order,
    acknowledged: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Sent,
    Acknowledged,
    /// Or without an answer: it may come, and need not.
    Refused,
}

#[derive(Debug)]
enum Order {
    /// That of the numbers.
    Given,
    /// As the first subscriber to see an event has seen it.
    Observed(Observed),
}

#[derive(Debug, Default)]
struct Observed {
    /// The place of each number, once it has been seen.
    places: Vec<Option<u32>>,
    /// Places given.
    len: u32,
    /// For each number: all below this one had been answered when it was sent.
    settled: Vec<u32>,
    /// All below have been answered by now.
    settled_now: u32,
    /// Of all that have been seen, the largest of `settled`.
    settled_seen: u32,
}

/// What one subscriber has got.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// The place that comes next.
    next: u32,
    /// Events got, each counted once.
    pub events: u32,
    /// Places passed over; never anything while all is well.
    missing: Vec<Range<u32>>,
}

/// What an arrival is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    InOrder,
    OutOfOrder,
    Repeated,
    /// It was never published.
    Unknown,
}

impl Topic {
    pub fn new(publishers: usize) -> Self {
        let order = if publishers == 1 { Order::Given } else { Order::Observed(Observed::default()) };
        Self { fates: Vec::new(), order, acknowledged: 0 }
    }

    /// Gives a new event its number.
    pub fn send(&mut self) -> u32 {
        self.fates.push(Fate::Sent);
        if let Order::Observed(order) = &mut self.order {
            order.places.push(None);
            order.settled.push(order.settled_now);
        }
        u32::try_from(self.fates.len() - 1).unwrap_or(u32::MAX)
    }

    /// Notes how the publishing of `number` has ended.
    pub fn answer(&mut self, number: u32, is_acknowledged: bool) {
        if let Some(fate) = self.fates.get_mut(index(number)) {
            *fate = if is_acknowledged { Fate::Acknowledged } else { Fate::Refused };
            self.acknowledged += u32::from(is_acknowledged);
        }
        if let Order::Observed(order) = &mut self.order {
            let unsettled = self.fates.iter().skip(index(order.settled_now));
            let settled = unsettled.take_while(|fate| **fate != Fate::Sent).count();
            order.settled_now += u32::try_from(settled).unwrap_or_default();
        }
    }

    /// Events that every subscriber must get.
    pub fn acknowledged(&self) -> u32 {
        self.acknowledged
    }

    /// The place of an event that has come, and whether its coming now is against the acknowledgements.
    fn place(&mut self, number: u32) -> Option<(u32, bool)> {
        if index(number) >= self.fates.len() {
            return None;
        }
        let Order::Observed(order) = &mut self.order else { return Some((number, false)) };
        let place = order.places.get_mut(index(number))?;
        if let Some(place) = *place {
            return Some((place, false));
        }
        *place = Some(order.len);
        order.len += 1;
        let is_late = number < order.settled_seen;
        order.settled_seen = order.settled_seen.max(order.settled.get(index(number)).copied().unwrap_or_default());
        Some((order.len - 1, is_late))
    }

    /// Events that `seen` should have got, and has not.
    pub fn lost(&self, seen: &Seen) -> u64 {
        let passed = |end: u32| seen.missing.iter().cloned().chain(std::iter::once(seen.next..end));
        match &self.order {
            Order::Given => {
                let end = u32::try_from(self.fates.len()).unwrap_or(u32::MAX);
                let fates = passed(end).filter_map(|range| self.fates.get(index(range.start)..index(range.end)));
                count(fates.flatten().filter(|fate| **fate == Fate::Acknowledged).count())
            }
            Order::Observed(order) => {
                let unseen = self.fates.iter().zip(&order.places);
                let unseen = unseen.filter(|(fate, place)| **fate == Fate::Acknowledged && place.is_none()).count();
                count(unseen) + passed(order.len).map(|range| count(range.len())).sum::<u64>()
            }
        }
    }
}

impl Seen {
    /// Takes event `number` of `topic`.
    pub fn take(&mut self, topic: &mut Topic, number: u32) -> Arrival {
        let Some((place, is_late)) = topic.place(number) else { return Arrival::Unknown };
        if place < self.next {
            return self.catch_up(place);
        }
        if place > self.next {
            self.missing.push(self.next..place);
        }
        self.next = place + 1;
        self.events += 1;
        if is_late { Arrival::OutOfOrder } else { Arrival::InOrder }
    }

    /// Takes what it had passed over, or has had already.
    fn catch_up(&mut self, place: u32) -> Arrival {
        let Some(at) = self.missing.iter().position(|range| range.contains(&place)) else { return Arrival::Repeated };
        let range = self.missing.swap_remove(at);
        self.missing.extend([range.start..place, place + 1..range.end].into_iter().filter(|range| !range.is_empty()));
        self.events += 1;
        Arrival::OutOfOrder
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

    use Arrival::{InOrder, OutOfOrder, Repeated, Unknown};

    /// A topic with `n` events, each acknowledged before the next.
    fn topic(publishers: usize, n: u32) -> Topic {
        let mut topic = Topic::new(publishers);
        for _ in 0..n {
            let number = topic.send();
            topic.answer(number, true);
        }
        topic
    }

    fn take(topic: &mut Topic, numbers: &[u32]) -> (Vec<Arrival>, u64) {
        let mut seen = Seen::default();
        let arrivals = numbers.iter().map(|number| seen.take(topic, *number)).collect();
        (arrivals, topic.lost(&seen))
    }

    #[test]
    fn each_fault_is_told_from_the_others() {
        for publishers in [1, 2] {
            let of = |numbers: &[u32]| take(&mut topic(publishers, 4), numbers);
            assert_eq!(of(&[0, 1, 2, 3]), (vec![InOrder; 4], 0));
            assert_eq!(of(&[0, 1, 3]), (vec![InOrder; 3], 1), "one in the middle is lost");
            assert_eq!(of(&[0, 1]), (vec![InOrder; 2], 2), "the last are lost");
            assert_eq!(of(&[]), (vec![], 4));
            assert_eq!(of(&[0, 1, 1, 2, 3]), (vec![InOrder, InOrder, Repeated, InOrder, InOrder], 0));
            assert_eq!(of(&[0, 2, 1, 3]), (vec![InOrder, InOrder, OutOfOrder, InOrder], 0));
            assert_eq!(of(&[3, 0, 2, 2, 1]), (vec![InOrder, OutOfOrder, OutOfOrder, Repeated, OutOfOrder], 0));
            assert_eq!(of(&[0, 1, 2, 3, 4]), (vec![InOrder, InOrder, InOrder, InOrder, Unknown], 0));
        }
    }

    #[test]
    fn what_is_published_together_has_one_order_for_all() {
        let mut topic = Topic::new(2);
        let numbers = [topic.send(), topic.send(), topic.send()];
        for number in numbers {
            topic.answer(number, true);
        }
        assert_eq!(take(&mut topic, &[1, 0, 2]), (vec![InOrder; 3], 0), "either order will do");
        assert_eq!(take(&mut topic, &[1, 0, 2]), (vec![InOrder; 3], 0));
        assert_eq!(take(&mut topic, &[0, 1, 2]), (vec![InOrder, OutOfOrder, InOrder], 0), "but the same for all");
        assert_eq!(take(&mut topic, &[1, 2]), (vec![InOrder; 2], 1));
    }

    #[test]
    fn what_was_refused_is_not_missed() {
        for publishers in [1, 2] {
            let mut topic = Topic::new(publishers);
            for is_acknowledged in [true, false, true] {
                let number = topic.send();
                topic.answer(number, is_acknowledged);
            }
            assert_eq!(topic.acknowledged(), 2);
            assert_eq!(take(&mut topic, &[0, 2]).1, 0);
            assert_eq!(take(&mut topic, &[0]).1, 1);
            assert_eq!(take(&mut topic, &[0, 1, 2]).1, 0, "it may come all the same");
        }
    }
}
