//! What a client was given, against what was published.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

/// An event may reach a connected client this much later than its publisher was answered.
pub const LATE: Duration = Duration::from_millis(100);

/// An acknowledged event, the same for every client's topic.
#[derive(Clone, Debug)]
pub struct Published {
    pub content: String,
    /// When the publisher was answered.
    pub at: Instant,
    /// For each client, whether it was connected.
    pub connected: Vec<bool>,
}

/// A message that a client gave to its application.
#[derive(Clone, Debug)]
pub struct Message {
    /// `message` when it has no name.
    pub event: String,
    pub data: String,
    pub at: Instant,
}

/// All that was published.
#[derive(Clone, Debug, Default)]
pub struct Record {
    pub published: Vec<Published>,
    /// When the broker was killed or asked to end.
    pub ends: Vec<Instant>,
}

/// What a client must not do to its application. Events are told by their number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    Missing(usize),
    Twice(usize),
    OutOfOrder(usize),
    Late(usize, Duration),
    /// A message without content; none such was published.
    Empty,
    /// Content that nobody published.
    Altered(String),
    /// The broker said something that the course gives no reason for.
    Unexpected(String),
}

/// What is not a client's doing, on a machine that is busy with other things.
#[derive(Clone, Debug, Default)]
pub struct Machine {
    /// How late each event was for a subscriber without a library.
    pub reference: Vec<Duration>,
    /// How long the client has had to wait for a processor in all, at these moments.
    pub waited: Vec<(Instant, Duration)>,
}

impl Machine {
    /// How late it can have made event `n`, which was due and came at these moments.
    fn late(&self, n: usize, due: Instant, at: Instant) -> Duration {
        let around = n.saturating_sub(3)..(n + 4).min(self.reference.len());
        let reference = self.reference.get(around).into_iter().flatten().max().copied().unwrap_or_default();
        let before = self.waited.iter().rev().find(|(moment, _)| *moment <= due);
        let after = self.waited.iter().find(|(moment, _)| *moment >= at).or(self.waited.last());
        let waited = |of: Option<&(Instant, Duration)>| of.map(|(_, waited)| *waited).unwrap_or_default();
        reference + waited(after).saturating_sub(waited(before))
    }
}

impl Record {
    /// Everything that is wrong with what `client` was given.
    pub fn faults(&self, client: usize, messages: &[Message], machine: &Machine) -> Vec<Fault> {
        let mut faults = Vec::new();
        let numbers: HashMap<&str, usize> =
            self.published.iter().enumerate().map(|(n, event)| (event.content.as_str(), n)).collect();
        let (mut seen, mut next) = (vec![false; self.published.len()], 0);
        for message in messages {
            if message.data.is_empty() {
                faults.push(Fault::Empty);
            } else if message.event.starts_with("broker.") {
                let expected = ["broker.open", "broker.refused"].contains(&message.event.as_str());
                faults.extend((!expected).then(|| Fault::Unexpected(format!("{}: {}", message.event, message.data))));
            } else if let Some(&n) = numbers.get(message.data.as_str()) {
                if std::mem::replace(&mut seen[n], true) {
                    faults.push(Fault::Twice(n));
                    continue;
                }
                faults.extend((n < next).then_some(Fault::OutOfOrder(n)));
                next = next.max(n + 1);
                let late = self.lateness(client, n, message.at).saturating_sub(
                    self.due(client, n).map(|due| machine.late(n, due, message.at)).unwrap_or_default(),
                );
                faults.extend((late > LATE).then_some(Fault::Late(n, late)));
            } else {
                faults.push(Fault::Altered(message.data.chars().take(80).collect()));
            }
        }
        faults.extend(seen.iter().enumerate().filter(|(_, seen)| !**seen).map(|(n, _)| Fault::Missing(n)));
        faults
    }

    /// How late each event reached `client`; nothing for those that did not.
    pub fn all_lateness(&self, client: usize, messages: &[Message]) -> Vec<Duration> {
        let at: HashMap<&str, Instant> = messages.iter().map(|message| (message.data.as_str(), message.at)).collect();
        let late = |(n, event): (usize, &Published)| {
            at.get(event.content.as_str()).map(|at| self.lateness(client, n, *at)).unwrap_or_default()
        };
        self.published.iter().enumerate().map(late).collect()
    }

    /// How long after it was due event `n` reached `client` at the moment `at`.
    fn lateness(&self, client: usize, n: usize, at: Instant) -> Duration {
        self.due(client, n).map(|due| at.saturating_duration_since(due)).unwrap_or_default()
    }

    /// When `client` could have had event `n`: at once if it was connected and stayed so, else when it was connected
    /// again for the first time.
    fn due(&self, client: usize, n: usize) -> Option<Instant> {
        let event = &self.published[n];
        let end = self.ends.iter().find(|end| **end > event.at).copied();
        if event.connected[client] && end.is_none_or(|end| end > event.at + LATE) {
            return Some(event.at);
        }
        let from = end.filter(|_| event.connected[client]).unwrap_or(event.at);
        let later = self.published[n..].iter().find(|later| later.at >= from && later.connected[client]);
        later.map(|later| later.at)
    }
}

/// Ten events 50 ms apart; the broker is killed 20 ms after the fourth, and the client is back at the seventh.
fn sample() -> (Record, Vec<Message>) {
    let start = Instant::now();
    let at = |ms: u64| start + Duration::from_millis(ms);
    let connected = |n: u64| !(4..6).contains(&n);
    let published = (0..10)
        .map(|n| Published { content: format!("event {n}"), at: at(n * 50), connected: vec![connected(n)] })
        .collect();
    let record = Record { published, ends: vec![at(3 * 50 + 20)] };
    let message = |event: &str, data: &str, ms| Message { event: event.to_owned(), data: data.to_owned(), at: at(ms) };
    let mut messages = vec![message("broker.open", "{}", 0)];
    for n in 0..10 {
        // The fourth died with its connection, the next two came meanwhile.
        let due = if (3..6).contains(&n) { 300 } else { n * 50 };
        messages.push(message("message", &format!("event {n}"), due + 90));
    }
    (record, messages)
}

#[test]
fn the_checker_takes_what_is_whole_in_order_and_on_time() {
    let (record, messages) = sample();
    assert_eq!(record.faults(0, &messages, &Machine::default()), []);
}

#[test]
fn the_checker_finds_each_fault() {
    // The control of all that follows: one thing at a time is wrong with what a client was given.
    let faults = |spoil: &dyn Fn(&mut Vec<Message>)| {
        let (record, mut messages) = sample();
        spoil(&mut messages);
        record.faults(0, &messages, &Machine::default())
    };
    let ms = Duration::from_millis;
    assert_eq!(faults(&|all| drop(all.remove(1 + 4))), [Fault::Missing(4)]);
    assert_eq!(faults(&|all| drop(all.pop())), [Fault::Missing(9)]);
    assert_eq!(faults(&|all| all.insert(7, all[2].clone())), [Fault::Twice(1)]);
    assert_eq!(faults(&|all| all.swap(1, 2)), [Fault::OutOfOrder(0)]);
    assert_eq!(faults(&|all| all[3].data.clear()), [Fault::Empty, Fault::Missing(2)]);
    assert_eq!(faults(&|all| all[0].data.clear()), [Fault::Empty]);
    assert_eq!(faults(&|all| all[3].data.truncate(6)), [Fault::Altered("event ".to_owned()), Fault::Missing(2)]);
    assert_eq!(faults(&|all| all[0].event = "broker.gap".to_owned()), [Fault::Unexpected("broker.gap: {}".to_owned())]);
    // On time is 90 ms after it was due in the sample.
    assert_eq!(faults(&|all| all[1].at += ms(10)), []);
    assert_eq!(faults(&|all| all[1].at += ms(11)), [Fault::Late(0, ms(101))]);
    for missed in [3, 5] {
        assert_eq!(faults(&|all| all[1 + missed].at += ms(11)), [Fault::Late(missed, ms(101))], "due when it was back");
    }
}

#[test]
fn what_the_machine_is_late_is_not_held_against_a_client() {
    let ms = Duration::from_millis;
    let (record, mut messages) = sample();
    messages[1 + 6].at += ms(40);
    let faults = |machine: &Machine| record.faults(0, &messages, machine);
    let mut machine = Machine { reference: vec![Duration::ZERO; 10], waited: Vec::new() };
    assert_eq!(faults(&machine), [Fault::Late(6, ms(130))]);
    machine.reference[5] = ms(29);
    assert_eq!(faults(&machine), [Fault::Late(6, ms(101))]);
    machine.reference[5] = ms(30);
    assert_eq!(faults(&machine), []);
    // Only what it waited between the moments when the event was due and when it came.
    let (before, due) = (record.published[5].at, record.published[6].at);
    let waited = [(before, ms(500)), (due, ms(501)), (due + ms(90), ms(520)), (due + ms(130), ms(530))].to_vec();
    let late = |waited: Vec<_>| faults(&Machine { reference: Vec::new(), waited });
    assert_eq!(late(waited.clone()), [Fault::Late(6, ms(101))]);
    assert_eq!(late(waited.into_iter().filter(|(moment, _)| *moment != due).collect()), [], "seen 50 ms before");
}
