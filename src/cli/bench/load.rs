//! The event loop: one thread and one poll for all connections.

use std::{
    io::ErrorKind,
    time::{Duration, Instant},
};

use mio::{Events, Poll, Token};

use super::{
    dial::Dialer,
    plan::Plan,
    publisher::Publishers,
    shared::Shared,
    subscriber::Subscribers,
    tally::{Tally, nanos},
    verify::Topic,
};
use crate::cli::progress::Progress;

/// The size of the read buffer.
const READ_BYTES: usize = 256 << 10;
/// How many readiness events one poll returns at most.
const EVENTS_PER_POLL: usize = 512;
/// The longest time that a poll waits.
const POLL_TIMEOUT: Duration = Duration::from_millis(20);

/// All connections, and the poll that drives them.
pub struct Load<'a> {
    pub shared: Shared<'a>,
    pub subscribers: Subscribers,
    publishers: Publishers,
    poll: Poll,
    events: Events,
    progress: Progress,
}

impl<'a> Load<'a> {
    pub fn new(plan: &'a Plan) -> Result<Self, String> {
        let poll = Poll::new().map_err(|error| error.to_string())?;
        let registry = poll.registry().try_clone().map_err(|error| error.to_string())?;
        let shared = Shared {
            plan,
            dialer: Dialer::new(registry, plan.url.resolve()?),
            topics: (0..plan.topics).map(|_| Topic::new(plan.publishers)).collect(),
            tally: Tally::new()?,
            begun: Instant::now(),
            buffer: vec![0; READ_BYTES],
        };
        let (subscribers, publishers) = (Subscribers::new(&shared), Publishers::new(&shared));
        let (events, progress) = (Events::with_capacity(EVENTS_PER_POLL), Progress::new());
        Ok(Self { shared, subscribers, publishers, poll, events, progress })
    }

    /// Connects all subscribers, and waits until each has been answered.
    pub fn connect(&mut self) -> Result<(), String> {
        self.subscribers.start_connecting();
        if !self.run_until("connecting", |load| load.subscribers.have_finished_connecting())? {
            self.shared.tally.count_error("subscribe: no answer".to_owned());
        }
        Ok(())
    }

    /// Publishes, and waits until all events are answered and delivered to the connected subscribers.
    pub fn publish(&mut self, messages: u32) -> Result<(), String> {
        self.publishers.start(messages, &mut self.shared);
        if !self.run_until("publishing", |load| load.publishers.are_done())? {
            self.shared.tally.count_error("publish: no answer".to_owned());
        }
        self.await_deliveries()
    }

    /// Waits until the connected subscribers have got all events, or until nothing arrives any more.
    pub fn await_deliveries(&mut self) -> Result<(), String> {
        self.subscribers.expect_more();
        self.run_until("delivering", |load| load.subscribers.are_up_to_date(&load.shared.topics))?;
        Ok(())
    }

    /// Runs the loop for a fixed time.
    pub fn run_for(&mut self, doing: &str, time: Duration) -> Result<(), String> {
        let until = self.shared.now().saturating_add(nanos(time));
        while self.shared.now() < until {
            self.step(doing)?;
        }
        Ok(())
    }

    /// Runs the loop until `is_done`. Returns false if nothing has arrived for the stall timeout.
    fn run_until(&mut self, doing: &str, is_done: impl Fn(&mut Self) -> bool) -> Result<bool, String> {
        let (begun, stall_timeout) = (self.shared.now(), nanos(self.shared.plan.stall_timeout));
        while !is_done(self) {
            self.step(doing)?;
            let last_progress = self.shared.tally.last_progress.max(begun);
            // With a low rate, a publisher may wait for a long time before it sends. That is not a stall.
            let is_send_scheduled = self.publishers.next_send_in(&self.shared).is_some();
            if !is_send_scheduled && self.shared.now().saturating_sub(last_progress) > stall_timeout {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Sends what is due, polls once, and handles the events of the poll.
    fn step(&mut self, doing: &str) -> Result<(), String> {
        let Self { shared, subscribers, publishers, poll, events, progress } = self;
        publishers.advance(shared);
        subscribers.advance(shared);
        let mut wait = publishers.next_send_in(shared).unwrap_or(POLL_TIMEOUT).min(POLL_TIMEOUT);
        if shared.plan.spin || subscribers.can_advance() || wait < Duration::from_millis(1) {
            // The poll waits for whole milliseconds, which is too long for an event that must be sent sooner.
            wait = Duration::ZERO;
        }
        if let Err(error) = poll.poll(events, Some(wait))
            && error.kind() != ErrorKind::Interrupted
        {
            return Err(error.to_string());
        }
        for event in &*events {
            let Token(token) = event.token();
            match token.checked_sub(shared.plan.subscribers) {
                None => subscribers.handle(token, event, shared),
                Some(publisher) => publishers.handle(publisher, event, shared),
            }
        }
        progress.report(shared.now(), || {
            let (open, Tally { acknowledged, delivered, .. }) = (subscribers.open, &shared.tally);
            format!("{doing}: {open} connected, {acknowledged} published, {delivered} delivered")
        });
        Ok(())
    }
}
