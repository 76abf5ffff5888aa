//! A hub and a log driven as `src/hub.rs` and `src/http/subscribe.rs` drive them, one step at a time.

use std::{
    cell::Cell,
    io,
    num::NonZeroU32,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use tidings::{
    config::{LogConfig, StreamConfig},
    event::{Epoch, EventId, EventName, TopicName},
    frame::{Format, Framing, Marks},
    hub::{PageRequest, Streams, Subscription, UnsentBytes},
    log::{Batch, Draft, Feed, Page},
};

use super::{
    client::Client,
    engine::{End, Engine, Life},
    fault::{Breaker, Fault},
    history::{Fact, History},
    peer::{Now, Pipe, Wire},
};

mod admission;
mod endings;
mod epoch;

pub use epoch::NEXT;

pub const TOPICS: usize = 6;
pub const HEARTBEAT: Duration = Duration::from_secs(2);
pub const WRITE_TIMEOUT: Duration = Duration::from_secs(3);
/// What the hub keeps for those who are in the middle of events.
pub const UNSENT_MAX: usize = 100_000;
/// The hub looks after nobody more often than this.
pub const GRAIN: Duration = Duration::from_millis(10);
/// What a peer may send before it must be cut.
const CHATTER_MAX: usize = 64 << 10;

/// What bounds a subscriber's socket and stream.
#[derive(Clone, Copy, Debug)]
pub struct Manners {
    pub room: usize,
    pub gulp: usize,
    pub lifetime: Option<Duration>,
    /// After which time its right ends.
    pub right: Option<Duration>,
    pub framing: Framing,
    pub marks: Marks,
}

/// Everything.
pub struct World {
    pub history: History,
    pub clients: Vec<Client>,
    /// Those whose stream has ended or who have hung up: they may come back.
    pub left: Vec<Client>,
    pub now: Rc<Now>,
    pub life: Life,
    topic_events_max: usize,
    /// The longest pause of a busy topic.
    coalesce_max: Duration,
    feed: Arc<Feed>,
    batch: Batch,
    /// The hub has taken everything up to here from its feed.
    fed: u64,
    fanout: Streams<Wire>,
    /// What the fan-out's connections have begun and not sent.
    unsent: Arc<UnsentBytes>,
    /// Handed over by HTTP, not yet adopted.
    inbox: Vec<(Wire, Subscription)>,
    /// Pages that were read from the disk, and have yet to reach the hub.
    fetched: Vec<Fetched>,
    /// How many turns that takes.
    pub delay: usize,
    breaker: Breaker,
    /// A client has come with a cursor ahead of the stream.
    has_asked_ahead: bool,
}

/// A page on its way to the connection that wants it.
struct Fetched {
    key: usize,
    id: NonZeroU32,
    page: Page,
    /// The log was at this stamp when it was read.
    stamp: usize,
    turns_left: usize,
}

/// Released with the stream that holds it.
struct Hold(Rc<Cell<bool>>);

impl Drop for Hold {
    fn drop(&mut self) {
        self.0.set(false);
    }
}

impl World {
    pub fn new(engine: Engine, retention: &LogConfig, fault: Fault) -> Self {
        Self::coalescing(engine, retention, fault, StreamConfig::default().coalesce_max)
    }

    pub fn coalescing(engine: Engine, retention: &LogConfig, fault: Fault, coalesce_max: Duration) -> Self {
        let life = Life::first(engine, retention);
        let now = Rc::new(Now { clock: Cell::new(Instant::now()), stamp: Cell::new(0) });
        let (fanout, unsent) = fanout(&life, &now, coalesce_max);
        let names = (0..TOPICS).map(|n| TopicName::parse(&format!("topic {n}"), 255).expect("a valid name")).collect();
        Self {
            history: History::new(life.log.epoch(), names),
            clients: Vec::new(),
            left: Vec::new(),
            feed: life.log.feed(),
            fanout,
            unsent,
            now,
            life,
            topic_events_max: retention.topic_events_max,
            coalesce_max,
            batch: Batch::default(),
            fed: 0,
            inbox: Vec::new(),
            fetched: Vec::new(),
            delay: 0,
            breaker: Breaker::new(fault),
            has_asked_ahead: false,
        }
    }

    /// Publishes `content` as often, all at once.
    pub fn publish(&mut self, topic: usize, name: Option<&str>, content: &str, times: usize) -> Result<(), String> {
        let draft = Draft {
            topic: self.history.names[topic].clone(),
            name: name.map(|name| EventName::parse(name).expect("a valid name")),
            content: content.to_owned().into(),
            subscribers: 0,
            key: None,
        };
        let appends: Vec<_> = (0..times).map(|_| self.life.log.append(draft.clone())).collect();
        for receipt in self.life.wait(join_all(appends))? {
            let seq = receipt.map_err(|error| error.to_string())?.id.seq;
            self.history.give(seq)?;
            let name = name.map(str::to_owned);
            self.history.facts.push(Fact { seq, topic, name, content: content.to_owned(), removed: None });
        }
        self.look()
    }

    pub fn delete(&mut self, topic: usize) -> Result<(), String> {
        let deleted = self.life.wait(self.life.log.delete(&self.history.names[topic]))?;
        let seq = deleted.map_err(|error| error.to_string())?.seq;
        self.history.give(seq)?;
        self.history.deletions.push((topic, seq));
        self.look()
    }

    /// The process ends, and with it every stream; another one starts on what it left. In memory nothing happens.
    pub fn restart(&mut self, end: End) -> Result<(), String> {
        let Some(next) = self.life.next(end) else { return Ok(()) };
        for client in self.clients.iter().chain(&self.left) {
            client.pipe.borrow_mut().failed = true;
        }
        self.life = next?;
        (self.feed, self.batch) = (self.life.log.feed(), Batch::default());
        self.inbox.clear();
        self.fetched.clear();
        (self.fanout, self.unsent) = fanout(&self.life, &self.now, self.coalesce_max);
        self.check()?;
        self.history.reopened(&*self.life.log, end)?;
        self.fed = self.history.watermark;
        self.look()
    }

    fn look(&mut self) -> Result<(), String> {
        let looked = self.history.look(&*self.life.log, self.topic_events_max);
        self.now.stamp.set(self.history.stamp);
        looked
    }

    /// An id of this history, or of another one.
    pub fn id(&self, ours: bool, seq: u64) -> EventId {
        EventId { epoch: if ours { self.history.epoch } else { Epoch::random() }, seq }
    }

    /// A turn of the hub that takes what waits in its inbox and in its feed, of which the first `lost` commits have
    /// been lost, and makes at most `visits` steps.
    pub fn turn(&mut self, lost: usize, visits: usize) -> Result<bool, String> {
        let arrivals = std::mem::take(&mut self.inbox);
        self.feed.take(&mut self.batch);
        self.fed = self.history.watermark;
        self.lose(lost);
        self.breaker.break_feed(&mut self.batch);
        self.fanout.apply(&mut self.batch, self.now.clock.get());
        for (wire, subscription) in arrivals {
            let register = |wire: &mut Wire, key| {
                let mut pipe = wire.0.borrow_mut();
                pipe.register(key);
                if pipe.broken { Err(io::ErrorKind::NotConnected.into()) } else { Ok(()) }
            };
            let pipe = Rc::clone(&wire.0);
            if self.fanout.adopt(wire, subscription, register).is_err() {
                pipe.borrow_mut().failed = true;
            }
        }
        let busy = self.work(visits)?;
        if !busy && self.fanout.is_empty() {
            // The inbox is empty, too: it was emptied above.
            self.feed.pause();
        }
        Ok(busy)
    }

    /// When the hub wants to be called next, if nothing comes before.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.fanout.next_deadline()
    }

    /// The hub is to end its streams.
    pub fn drain(&mut self, within: Duration) {
        self.fanout.drain(within);
    }

    /// A turn in which the hub does not get to its feed.
    pub fn idle_turn(&mut self, visits: usize) -> Result<bool, String> {
        self.fanout.advance(self.now.clock.get());
        self.work(visits)
    }

    fn work(&mut self, visits: usize) -> Result<bool, String> {
        self.supply();
        for client in self.clients.iter().chain(&self.left) {
            let ready = client.pipe.borrow_mut().poll();
            if let Some((key, readable, writable)) = ready {
                if readable {
                    self.fanout.readable(key);
                }
                if writable {
                    self.fanout.writable(key);
                }
            }
        }
        let busy = self.steps(visits);
        self.fetch()?;
        self.check()?;
        Ok(busy
            || self.breaker.is_holding()
            || !self.fetched.is_empty()
            || self.clients.iter().chain(&self.left).any(|client| client.pipe.borrow().is_ready()))
    }

    /// At most `steps` less one; whether work is left.
    fn steps(&mut self, mut steps: usize) -> bool {
        while self.fanout.has_work() {
            steps = steps.saturating_sub(1);
            if steps == 0 {
                return true;
            }
            self.fanout.step();
        }
        false
    }

    /// Reads the pages that connections wait for.
    fn fetch(&mut self) -> Result<(), String> {
        while let Some(PageRequest { key, id, page }) = self.fanout.next_page_request() {
            let mut page = self.life.wait(page)?.map_err(|error| error.to_string())?;
            self.breaker.break_page(&mut page);
            let (stamp, turns_left) = (self.history.stamp, self.delay);
            self.fetched.push(Fetched { key, id, page, stamp, turns_left });
        }
        Ok(())
    }

    /// Hands the pages to the hub whose time has come.
    fn supply(&mut self) {
        for fetched in std::mem::take(&mut self.fetched) {
            if fetched.turns_left > 0 {
                self.fetched.push(Fetched { turns_left: fetched.turns_left - 1, ..fetched });
                continue;
            }
            for client in self.clients.iter().chain(&self.left) {
                client.pipe.borrow_mut().expect(fetched.key, fetched.stamp);
            }
            self.fanout.supply(fetched.key, fetched.id, Ok(fetched.page));
        }
    }

    /// As a feed that overflowed: the first `lost` commits are left out, and the hub is told.
    fn lose(&mut self, lost: usize) {
        let lost = lost.min(self.batch.commits.len());
        if let Some(last) = self.batch.commits.drain(..lost).next_back() {
            self.batch.dropped_to = last.seq();
        }
    }

    /// Lets every client read, and asks why each stream that has ended did.
    fn check(&mut self) -> Result<(), String> {
        let now = self.now.clock.get();
        for (at, client) in self.clients.iter_mut().enumerate() {
            let told = |error: String| format!("client {at}: {error}");
            client.receive(&self.history).map_err(told)?;
            let pipe = client.pipe.borrow();
            if let Some(fault) = pipe.fault {
                return Err(told(fault.to_owned()));
            }
            if pipe.dropped == client.held.get() {
                return Err(told("what it holds goes with its socket".to_owned()));
            }
            let stalled = pipe.refusing_for();
            if pipe.dropped && pipe.finished {
                client.ended_well(now, self.fed, &self.history).map_err(told)?;
            } else if pipe.dropped
                && !pipe.failed
                && stalled < WRITE_TIMEOUT
                && pipe.said <= CHATTER_MAX
                && !client.is_within_a_lost_event(&self.history)
                && !client.may_be_cut(now)
            {
                return Err(told(format!("it was cut without a reason, stalled for {stalled:?}")));
            } else if !pipe.dropped
                && stalled >= WRITE_TIMEOUT + GRAIN
                && !self.fetched.iter().any(|page| pipe.is_under(page.key))
            {
                return Err(told(format!("it has taken nothing for {stalled:?} and was not cut")));
            }
        }
        self.left.extend(self.clients.extract_if(.., |client| client.pipe.borrow().dropped));
        let open = self.clients.iter().chain(&self.left).filter(|client| !client.pipe.borrow().dropped).count();
        let (waiting, held) = (self.inbox.len(), self.fanout.len());
        let told = held + waiting == open && self.fanout.is_empty() == (open == waiting);
        if told { Ok(()) } else { Err(format!("{open} sockets are open, {waiting} wait, {held} are held")) }
    }

    /// Turns until nothing is left to do at once.
    pub fn finish(&mut self) -> Result<(), String> {
        for _ in 0..1000 {
            if !self.turn(0, usize::MAX)? {
                return Ok(());
            }
        }
        Err("the hub is never done".to_owned())
    }

    /// Every peer takes whatever there is, and all that can be done is done: everybody must be at the tail. Then an
    /// idle stream's heartbeat must move its cursor there.
    pub fn settle(&mut self) -> Result<(), String> {
        self.delay = 0;
        for client in self.clients.iter().chain(&self.left) {
            let mut pipe = client.pipe.borrow_mut();
            (pipe.gulp, pipe.broken) = (usize::MAX, false);
            pipe.make_room(usize::MAX);
        }
        self.finish()?;
        // A topic may be paused between two rounds.
        self.now.clock.set(self.now.clock.get() + self.coalesce_max);
        self.finish()?;
        self.no_stream_is_left_over()?;
        for (at, client) in self.clients.iter().enumerate() {
            client.at_the_tail(&self.history).map_err(|error| format!("client {at}, at the end: {error}"))?;
        }
        self.now.clock.set(self.now.clock.get() + HEARTBEAT + GRAIN);
        self.turn(0, usize::MAX)?;
        if !self.unsent.is_empty() {
            return Err(format!("all is sent, and this is kept: {:?}", self.unsent));
        }
        let tail = self.id(true, self.history.watermark).to_string();
        let moves = |client: &&Client| client.marks == Marks::Id && client.encoding.format != Format::Lines;
        match self.clients.iter().filter(moves).find(|client| client.last_id() != tail) {
            Some(client) => Err(format!("after a heartbeat a cursor is {}, the tail is {tail}", client.last_id())),
            None => Ok(()),
        }
    }
}

fn fanout(life: &Life, now: &Now, coalesce_max: Duration) -> (Streams<Wire>, Arc<UnsentBytes>) {
    // One large event is kept for those who are in the middle of it, and not two.
    let unsent = Arc::new(UnsentBytes::new(UNSENT_MAX));
    let (heartbeat, write_timeout) = (HEARTBEAT, WRITE_TIMEOUT);
    let config = StreamConfig { heartbeat, write_timeout, coalesce_max, ..StreamConfig::default() };
    (Streams::new(Arc::clone(&life.log), config, Arc::clone(&unsent), now.clock.get()), unsent)
}
