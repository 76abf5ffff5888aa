//! The loop: one thread, one poll, all connections.

use std::{io::ErrorKind, time::Duration};

use mio::{Events, Poll, Token};

use super::{
    dial::Dialer,
    plan::{Amount, Plan},
    progress::Progress,
    publisher::Publishers,
    shared::Shared,
    subscriber::Subscribers,
    tally::{Clock, Tally, nanos},
    verify::Topic,
};

/// What is read from a socket at once.
const BUFFER: usize = 256 << 10;
/// Readiness events taken from the system at once.
const EVENTS: usize = 512;
/// How often it looks up when nothing happens.
const LOOK: Duration = Duration::from_millis(20);

pub struct Load<'a> {
    pub shared: Shared<'a>,
    pub subscribers: Subscribers,
    publishers: Publishers,
    poll: Poll,
    events: Events,
    progress: Progress,
}

impl<'a> Load<'a> {
    pub fn new(plan: &'a Plan, progress: Progress) -> Result<Self, String> {
        let poll = Poll::new().map_err(|error| error.to_string())?;
        let shared = Shared {
            plan,
            registry: poll.registry().try_clone().map_err(|error| error.to_string())?,
            dialer: Dialer::new(plan.address),
            topics: (0..plan.topics).map(|_| Topic::new(plan.publishers)).collect(),
            tally: Tally::new()?,
            clock: Clock::start(),
            buffer: vec![0; BUFFER],
        };
        let (subscribers, publishers) = (Subscribers::new(&shared), Publishers::new(&shared));
        Ok(Self { shared, subscribers, publishers, poll, events: Events::with_capacity(EVENTS), progress })
    }

    /// Connects all subscribers, and waits until each has been answered.
    pub fn connect(&mut self) -> Result<(), String> {
        self.subscribers.begin();
        if !self.wait("connecting", |load| load.subscribers.have_come())? {
            self.shared.tally.error("subscribe: no answer".to_owned());
        }
        Ok(())
    }

    /// Publishes, and waits until all is answered and every subscriber that is there has everything.
    pub fn publish(&mut self, amount: Amount) -> Result<(), String> {
        self.publishers.begin(amount, &mut self.shared);
        if !self.wait("publishing", |load| load.publishers.are_done())? {
            self.shared.tally.error("publish: no answer".to_owned());
        }
        self.deliver()
    }

    /// Waits until every subscriber that is there has everything, or nothing comes any more.
    pub fn deliver(&mut self) -> Result<(), String> {
        self.subscribers.recount();
        self.wait("delivering", |load| load.subscribers.owed(&load.shared.topics) == 0).map(drop)
    }

    /// Goes on for a time, whatever comes.
    pub fn hold(&mut self, doing: &str, time: Duration) -> Result<(), String> {
        let until = self.shared.clock.now().saturating_add(nanos(time));
        while self.shared.clock.now() < until {
            self.turn(doing)?;
        }
        Ok(())
    }

    /// Goes on until `is_done`; false when nothing has happened for as long as patience lasts.
    fn wait(&mut self, doing: &str, is_done: impl Fn(&mut Self) -> bool) -> Result<bool, String> {
        let (begun, patience) = (self.shared.clock.now(), nanos(self.shared.plan.patience));
        while !is_done(self) {
            self.turn(doing)?;
            let moved = self.shared.tally.moved.max(begun);
            let is_waiting = self.publishers.due_in(&self.shared).is_none();
            if is_waiting && self.shared.clock.now().saturating_sub(moved) > patience {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn turn(&mut self, doing: &str) -> Result<(), String> {
        let Self { shared, subscribers, publishers, poll, events, progress } = self;
        publishers.advance(shared);
        subscribers.advance(shared);
        let mut wait = publishers.due_in(shared).unwrap_or(LOOK).min(LOOK);
        if shared.plan.spin || subscribers.is_busy() || wait < Duration::from_millis(1) {
            // The system waits in whole milliseconds, which would be late for what is due sooner.
            wait = Duration::ZERO;
        }
        match poll.poll(events, Some(wait)) {
            Err(error) if error.kind() != ErrorKind::Interrupted => return Err(error.to_string()),
            _ => {}
        }
        let streams = shared.plan.subscribers;
        for event in &*events {
            let Token(token) = event.token();
            match token.checked_sub(streams) {
                None => subscribers.ready(token, event, shared),
                Some(publisher) => publishers.ready(publisher, event, shared),
            }
        }
        progress.tell(shared.clock.now(), || {
            let Tally { acknowledged, delivered, .. } = shared.tally;
            format!("{doing}: {} connected, {acknowledged} published, {delivered} delivered", subscribers.open)
        });
        Ok(())
    }
}
