//! Subscribers: each a stream that is checked as it is read.

use std::io::{self, ErrorKind, Read as _, Write as _};

use mio::{Interest, Token, event::Event, net::TcpStream};

use super::{
    blocks::{Block, Blocks},
    plan::Mode,
    shared::Shared,
    tally::{Tally, told},
    verify::{Arrival, Seen, Topic},
};
use crate::cli::response::{Response, problem_code};

/// Connections that have been begun and not been answered. More would overflow what the system queues for a server
/// that is slow to accept, and wait for seconds until the system tries again.
/// Fewer are as fast, and leave the server's memory, the kernel's too, in the order in which it will be visited.
const CONNECTING_MAX: usize = 16;

/// All subscribers; each has its place as its token.
#[derive(Debug)]
pub struct Subscribers {
    all: Vec<Subscriber>,
    /// The next one to connect.
    next: usize,
    connecting: usize,
    /// Answered with a stream that has not ended.
    pub open: usize,
    /// Events that the open ones have got, each once.
    got: u64,
    /// Events that the open ones should have got; counted anew when one comes or goes.
    due: Option<u64>,
    /// Those that may have more to read than was read at once.
    again: Vec<usize>,
}

#[derive(Debug)]
struct Subscriber {
    socket: Option<TcpStream>,
    topic: usize,
    /// The request has been sent.
    is_asked: bool,
    is_open: bool,
    response: Response,
    blocks: Blocks,
    seen: Seen,
    /// When it began to connect.
    since: u64,
}

impl Subscribers {
    pub fn new(shared: &Shared<'_>) -> Self {
        let plan = shared.plan;
        let one = |n: usize| Subscriber {
            socket: None,
            topic: n % plan.topics,
            is_asked: false,
            is_open: false,
            response: Response::default(),
            blocks: Blocks::new(plan.run, plan.mode == Mode::Storm),
            seen: Seen::default(),
            since: 0,
        };
        let all: Vec<_> = (0..plan.subscribers).map(one).collect();
        Self { next: all.len(), all, connecting: 0, open: 0, got: 0, due: None, again: Vec::new() }
    }

    /// From now on all connect, those that were connected before with their cursors.
    pub fn begin(&mut self) {
        self.next = 0;
    }

    /// Whether none is on its way.
    pub fn have_come(&self) -> bool {
        self.next == self.all.len() && self.connecting == 0
    }

    /// Whether there is something to do at once.
    pub fn is_busy(&self) -> bool {
        !self.again.is_empty() || (self.next < self.all.len() && self.connecting < CONNECTING_MAX)
    }

    /// Events that the open subscribers should have got by now, and have not. What is due is that which was acknowledged
    /// when it was asked for first, or when a subscriber came or went last.
    pub fn owed(&mut self, topics: &[Topic]) -> u64 {
        let open = self.all.iter().filter(|subscriber| subscriber.is_open);
        let each = open.filter_map(|subscriber| topics.get(subscriber.topic));
        let due = *self.due.get_or_insert_with(|| each.map(|topic| u64::from(topic.acknowledged())).sum());
        due.saturating_sub(self.got)
    }

    /// From now on more may be due.
    pub fn recount(&mut self) {
        self.due = None;
    }

    /// Events that any subscriber should have got, and has not.
    pub fn lost(&self, topics: &[Topic]) -> u64 {
        self.all.iter().filter_map(|one| topics.get(one.topic).map(|topic| topic.lost(&one.seen))).sum()
    }

    /// Ends all connections, from this side.
    pub fn drop_all(&mut self) {
        for subscriber in &mut self.all {
            subscriber.close();
        }
        // What they have got stays theirs; it counts again when they are back.
        (self.connecting, self.open, self.got, self.due) = (0, 0, 0, None);
        self.again.clear();
    }

    /// Connects some more, and reads on where there may be more.
    pub fn advance(&mut self, shared: &mut Shared<'_>) {
        while self.next < self.all.len() && self.connecting < CONNECTING_MAX {
            let key = self.next;
            self.next += 1;
            let Some(subscriber) = self.all.get_mut(key) else { return };
            match subscriber.connect(key, shared) {
                Ok(()) => self.connecting += 1,
                Err(error) => shared.tally.error(format!("subscribe: {}", told(&error))),
            }
        }
        for key in std::mem::take(&mut self.again) {
            self.read(key, false, shared);
        }
    }

    /// Takes what the system says of a socket.
    pub fn ready(&mut self, key: usize, event: &Event, shared: &mut Shared<'_>) {
        let Some(subscriber) = self.all.get_mut(key) else { return };
        if !subscriber.is_asked
            && (event.is_writable() || event.is_error())
            && let Err(error) = subscriber.ask(shared)
        {
            self.end(key, &format!("subscribe: {}", told(&error)), shared);
            return;
        }
        if event.is_readable() || event.is_read_closed() {
            self.read(key, event.is_read_closed(), shared);
        }
    }

    /// Reads once. A read that fills less than the buffer has emptied the socket: the system will tell of more.
    fn read(&mut self, key: usize, is_closed: bool, shared: &mut Shared<'_>) {
        let Some(subscriber) = self.all.get_mut(key) else { return };
        let Some(socket) = &mut subscriber.socket else { return };
        let n = match socket.read(&mut shared.buffer) {
            Ok(0) => return self.end(key, "stream: closed by the server", shared),
            Ok(n) => n,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return,
            Err(error) => return self.end(key, &format!("stream: {}", told(&error)), shared),
        };
        let was_open = subscriber.is_open;
        let before = subscriber.seen.events;
        let bytes = shared.buffer.get(..n).unwrap_or_default();
        let fed = subscriber.feed(bytes, shared.clock.now(), &mut shared.topics, &mut shared.tally);
        if subscriber.is_open {
            // What it had got before it came back counts again.
            let fresh = if was_open { subscriber.seen.events - before } else { subscriber.seen.events };
            self.got += u64::from(fresh);
            if !was_open {
                self.open += 1;
                self.connecting -= 1;
                self.due = None;
            }
        }
        if let Err(reason) = fed {
            return self.end(key, &reason, shared);
        }
        if is_closed || n == shared.buffer.len() {
            self.again.push(key);
        }
    }

    fn end(&mut self, key: usize, reason: &str, shared: &mut Shared<'_>) {
        let Some(subscriber) = self.all.get_mut(key) else { return };
        if subscriber.is_open {
            self.open -= 1;
            self.got -= u64::from(subscriber.seen.events);
            self.due = None;
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

    /// Sends the request, once the connection is there.
    fn ask(&mut self, shared: &mut Shared<'_>) -> io::Result<()> {
        let Some(socket) = &mut self.socket else { return Ok(()) };
        if let Some(error) = socket.take_error()? {
            return Err(error);
        }
        let request = shared.plan.subscribe_request(self.topic, self.blocks.cursor());
        // A new connection's buffer has room for it.
        socket.write_all(&request)?;
        self.is_asked = true;
        shared.tally.moved = shared.clock.now();
        Ok(())
    }

    fn feed(&mut self, bytes: &[u8], now: u64, topics: &mut [Topic], tally: &mut Tally) -> Result<(), String> {
        let Self { topic: own, response, blocks, seen, since, .. } = self;
        let Some(topic) = topics.get_mut(*own) else { return Ok(()) };
        tally.moved = now;
        tally.bytes += u64::try_from(bytes.len()).unwrap_or_default();
        let mut fault = None;
        let fed = response.feed(bytes, |body| {
            blocks.feed(body, |block| match block {
                Block::Event(stamp) if usize::try_from(stamp.topic) != Ok(*own) => {
                    fault = Some("stream: an event of another topic");
                }
                Block::Event(stamp) => match seen.take(topic, stamp.number) {
                    Arrival::Repeated => tally.repeated += 1,
                    Arrival::Unknown => fault = Some("stream: an event that was never published"),
                    arrival => {
                        tally.delivered += 1;
                        tally.out_of_order += u64::from(arrival == Arrival::OutOfOrder);
                        tally.last_delivered = now;
                        tally.latency.saturating_record(now.saturating_sub(stamp.time.max(*since)) / 1_000);
                    }
                },
                Block::Gap => tally.error("stream: a gap, events are no longer held".to_owned()),
                Block::Refused => fault = Some("subscribe: refused by the broker"),
                Block::Other => tally.quiet_blocks += 1,
            });
        });
        fed.map_err(|_| "subscribe: the answer is not HTTP".to_owned())?;
        match self.response.status {
            None => return Ok(()),
            Some(200) => self.is_open = true,
            Some(status) => return Err(format!("subscribe: HTTP {status}{}", problem_code(bytes))),
        }
        if let Some(fault) = fault {
            return Err(fault.to_owned());
        }
        if self.response.is_complete() { Err("stream: closed by the server".to_owned()) } else { Ok(()) }
    }

    fn close(&mut self) {
        self.socket = None;
        (self.is_asked, self.is_open) = (false, false);
        self.response = Response::default();
        self.blocks.cut();
    }
}
