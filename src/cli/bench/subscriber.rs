//! Subscribers: each is a stream whose events are checked as they arrive.

use std::io::{self, ErrorKind, Read as _, Write as _};

use mio::{Interest, Token, event::Event, net::TcpStream};

use super::{
    blocks::{Block, Blocks},
    plan::Mode,
    shared::Shared,
    tally::{Tally, error_text, wide},
    verify::{Delivery, Seen, Topic},
};
use crate::cli::response::{Response, problem_code};

/// How many subscribers connect at the same time.
///
/// With more, the kernel's queue of new connections could overflow if the server is slow to accept. Then a connect
/// takes seconds, until the kernel retries it. A small number is as fast. And it makes the server, and the kernel,
/// allocate the memory of the subscribers in the order in which they are visited later, which is good for the caches.
const CONNECTING_MAX: usize = 16;

/// All subscribers. The token of a subscriber is its index.
#[derive(Debug)]
pub struct Subscribers {
    all: Vec<Subscriber>,
    /// The next subscriber to connect.
    next: usize,
    /// How many are connecting and have no response yet.
    connecting: usize,
    /// How many have an open stream.
    pub open: usize,
    /// How many different events the open streams have got.
    received: u64,
    /// How many events the open streams should have got; `None` if that must be counted again.
    expected: Option<u64>,
    /// Subscribers whose socket may have more to read.
    unread: Vec<usize>,
}

/// One subscriber.
#[derive(Debug)]
struct Subscriber {
    socket: Option<TcpStream>,
    topic: usize,
    state: State,
    response: Response,
    blocks: Blocks,
    seen: Seen,
    /// When it began to connect.
    since: u64,
}

/// How far a subscriber has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The request was not sent.
    Connecting,
    /// The request was sent.
    Requested,
    /// The server has answered with a stream.
    Open,
}

impl Subscribers {
    pub fn new(shared: &Shared<'_>) -> Self {
        let plan = shared.plan;
        let one = |n: usize| Subscriber {
            socket: None,
            topic: n % plan.topics,
            state: State::Connecting,
            response: Response::default(),
            blocks: Blocks::new(plan.run, plan.mode == Mode::Storm),
            seen: Seen::default(),
            since: 0,
        };
        let all: Vec<_> = (0..plan.subscribers).map(one).collect();
        Self { next: all.len(), all, connecting: 0, open: 0, received: 0, expected: None, unread: Vec::new() }
    }

    /// Starts to connect all subscribers. Those that were connected before resume with their cursors.
    pub fn start_connecting(&mut self) {
        self.next = 0;
    }

    /// Whether every connect has succeeded or failed.
    pub fn have_finished_connecting(&self) -> bool {
        self.next == self.all.len() && self.connecting == 0
    }

    /// Whether there is something to do without waiting.
    pub fn is_busy(&self) -> bool {
        !self.unread.is_empty() || (self.next < self.all.len() && self.connecting < CONNECTING_MAX)
    }

    /// How many events the open streams should have got, and have not. The expected number is counted once, and again
    /// after [`Self::recount_expected`], or after a subscriber has connected or disconnected.
    pub fn missing(&mut self, topics: &[Topic]) -> u64 {
        let open = self.all.iter().filter(|subscriber| subscriber.state == State::Open);
        let topics = open.filter_map(|subscriber| topics.get(subscriber.topic));
        let expected = *self.expected.get_or_insert_with(|| topics.map(|topic| wide(topic.acknowledged)).sum());
        expected.saturating_sub(self.received)
    }

    /// Counts the expected events again, because more were acknowledged.
    pub fn recount_expected(&mut self) {
        self.expected = None;
    }

    /// How many events all subscribers together should have got, and have not.
    pub fn lost(&self, topics: &[Topic]) -> u64 {
        self.all.iter().filter_map(|one| topics.get(one.topic).map(|topic| topic.lost(&one.seen))).sum()
    }

    /// Closes all connections.
    pub fn disconnect_all(&mut self) {
        for subscriber in &mut self.all {
            subscriber.close();
        }
        // Each subscriber remembers its events. They count again when it is back.
        (self.connecting, self.open, self.received, self.expected) = (0, 0, 0, None);
        self.unread.clear();
    }

    /// Connects more subscribers, and continues to read where a read was not complete.
    pub fn advance(&mut self, shared: &mut Shared<'_>) {
        while self.next < self.all.len() && self.connecting < CONNECTING_MAX {
            let key = self.next;
            self.next += 1;
            let Some(subscriber) = self.all.get_mut(key) else { return };
            match subscriber.connect(key, shared) {
                Ok(()) => self.connecting += 1,
                Err(error) => shared.tally.error(format!("subscribe: {}", error_text(&error))),
            }
        }
        for key in std::mem::take(&mut self.unread) {
            self.read(key, false, shared);
        }
    }

    /// Handles a readiness event of subscriber `key`.
    pub fn handle(&mut self, key: usize, event: &Event, shared: &mut Shared<'_>) {
        let Some(subscriber) = self.all.get_mut(key) else { return };
        if subscriber.state == State::Connecting
            && (event.is_writable() || event.is_error())
            && let Err(error) = subscriber.send_request(shared)
        {
            self.disconnected(key, &format!("subscribe: {}", error_text(&error)), shared);
            return;
        }
        if event.is_readable() || event.is_read_closed() {
            self.read(key, event.is_read_closed(), shared);
        }
    }

    /// Reads once. If a read does not fill the buffer, the socket is empty, and the next bytes cause a new readiness
    /// event.
    fn read(&mut self, key: usize, is_closed: bool, shared: &mut Shared<'_>) {
        let Some(subscriber) = self.all.get_mut(key) else { return };
        let Some(socket) = &mut subscriber.socket else { return };
        let n = match socket.read(&mut shared.buffer) {
            Ok(0) => return self.disconnected(key, "stream: closed by the server", shared),
            Ok(n) => n,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return,
            Err(error) => return self.disconnected(key, &format!("stream: {}", error_text(&error)), shared),
        };
        let was_open = subscriber.state == State::Open;
        let before = subscriber.seen.events;
        let bytes = shared.buffer.get(..n).unwrap_or_default();
        let fed = subscriber.feed(bytes, shared.clock.now(), &mut shared.topics, &mut shared.tally);
        if subscriber.state == State::Open {
            // If it was disconnected before, its earlier events count again.
            let counted = if was_open { subscriber.seen.events - before } else { subscriber.seen.events };
            self.received += wide(counted);
            if !was_open {
                self.open += 1;
                self.connecting -= 1;
                self.expected = None;
            }
        }
        if let Err(reason) = fed {
            return self.disconnected(key, &reason, shared);
        }
        if is_closed || n == shared.buffer.len() {
            self.unread.push(key);
        }
    }

    /// Handles the end of a connection.
    fn disconnected(&mut self, key: usize, reason: &str, shared: &mut Shared<'_>) {
        let Some(subscriber) = self.all.get_mut(key) else { return };
        if subscriber.state == State::Open {
            self.open -= 1;
            self.received -= wide(subscriber.seen.events);
            self.expected = None;
        } else {
            self.connecting -= 1;
        }
        subscriber.close();
        shared.tally.error(reason.to_owned());
    }
}

impl Subscriber {
    fn connect(&mut self, key: usize, shared: &mut Shared<'_>) -> io::Result<()> {
        let mut socket = shared.dialer.dial()?;
        shared.registry.register(&mut socket, Token(key), Interest::READABLE | Interest::WRITABLE)?;
        self.socket = Some(socket);
        self.since = shared.clock.now();
        Ok(())
    }

    /// Sends the request once the connection is established.
    fn send_request(&mut self, shared: &mut Shared<'_>) -> io::Result<()> {
        let Some(socket) = &mut self.socket else { return Ok(()) };
        if let Some(error) = socket.take_error()? {
            return Err(error);
        }
        let request = shared.plan.subscribe_request(self.topic, self.blocks.cursor());
        // The send buffer of a new connection is empty, so this does not block.
        socket.write_all(&request)?;
        self.state = State::Requested;
        shared.tally.last_progress = shared.clock.now();
        Ok(())
    }

    /// Parses and checks received bytes.
    fn feed(&mut self, bytes: &[u8], now: u64, topics: &mut [Topic], tally: &mut Tally) -> Result<(), String> {
        let Self { topic: own, response, blocks, seen, since, .. } = self;
        let Some(topic) = topics.get_mut(*own) else { return Ok(()) };
        tally.last_progress = now;
        tally.bytes += u64::try_from(bytes.len()).unwrap_or_default();
        let mut fault = None;
        let fed = response.feed(bytes, |body| {
            blocks.feed(body, |block| match block {
                Block::Event(stamp) if stamp.topic != *own => {
                    fault = Some("stream: an event of another topic");
                }
                Block::Event(stamp) => match seen.check(topic, stamp.number) {
                    Delivery::Repeated => tally.repeated += 1,
                    Delivery::Unknown => fault = Some("stream: an event that was never published"),
                    delivery @ (Delivery::InOrder | Delivery::OutOfOrder) => {
                        tally.delivered += 1;
                        tally.out_of_order += u64::from(delivery == Delivery::OutOfOrder);
                        tally.last_delivered = now;
                        tally.latency.saturating_record(now.saturating_sub(stamp.time.max(*since)) / 1_000);
                    }
                },
                Block::Gap => tally.error("stream: a gap, the server no longer has some events".to_owned()),
                Block::Refused => fault = Some("subscribe: refused by the broker"),
                Block::Other => tally.quiet_blocks += 1,
            });
        });
        fed.map_err(|_| "subscribe: the answer is not HTTP".to_owned())?;
        match self.response.status {
            None => return Ok(()),
            Some(200) => self.state = State::Open,
            Some(status) => return Err(format!("subscribe: HTTP {status}{}", problem_code(bytes))),
        }
        if let Some(fault) = fault {
            return Err(fault.to_owned());
        }
        if self.response.is_complete() { Err("stream: closed by the server".to_owned()) } else { Ok(()) }
    }

    fn close(&mut self) {
        self.socket = None;
        self.state = State::Connecting;
        self.response = Response::default();
        self.blocks.disconnect();
    }
}
