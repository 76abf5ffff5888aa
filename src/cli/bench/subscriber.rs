//! Subscribers: each is a stream whose events are checked as they arrive.

use std::io::{self, ErrorKind, Read as _, Write as _};

use mio::{event::Event, net::TcpStream};

use super::{
    blocks::{Block, Blocks},
    response::{Response, problem_code},
    shared::Shared,
    stamp::Stamp,
    tally::{Tally, error_text, wide},
    verify::{Delivery, Seen, Topic},
};

/// How many subscribers connect at the same time.
///
/// With more, the kernel's queue of new connections could overflow if the server is slow to accept. Then a connect
/// takes seconds, until the kernel retries it. A small number is as fast. With a small number, the server and the
/// kernel also allocate the memory of the subscribers in the order in which they are visited later, which is good for
/// the caches.
const CONNECTING_MAX: usize = 16;

/// All subscribers. The token of a subscriber is its index.
#[derive(Debug)]
pub struct Subscribers {
    all: Vec<Subscriber>,
    /// The index of the next subscriber to connect.
    next_to_connect: usize,
    /// How many are connecting and have no response yet.
    connecting: usize,
    /// How many have an open stream.
    pub open: usize,
    /// The open streams of the subscribers before this index have got as many events as were acknowledged.
    up_to_date: usize,
    /// The sockets that may have more to read.
    unread: Vec<Unread>,
}

/// A subscriber whose socket may have more to read.
#[derive(Debug)]
struct Unread {
    index: usize,
    /// The server has closed the connection.
    is_closed: bool,
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
    connect_time: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The request was not sent yet.
    Unsent,
    /// The request was sent.
    Requested,
    /// The server has answered with a stream.
    Open,
}

impl Subscribers {
    pub fn new(shared: &Shared<'_>) -> Self {
        let plan = shared.plan;
        let subscriber = |index: usize| Subscriber {
            socket: None,
            topic: index % plan.topics,
            state: State::Unsent,
            response: Response::default(),
            blocks: Blocks::new(plan.run_id, plan.storm),
            seen: Seen::default(),
            connect_time: 0,
        };
        let all: Vec<_> = (0..plan.subscribers).map(subscriber).collect();
        Self { next_to_connect: all.len(), all, connecting: 0, open: 0, up_to_date: 0, unread: Vec::new() }
    }

    /// Starts to connect all subscribers. Those that were connected before resume with their cursors.
    pub fn start_connecting(&mut self) {
        self.next_to_connect = 0;
    }

    /// Whether every connect has succeeded or failed.
    pub fn have_finished_connecting(&self) -> bool {
        self.next_to_connect == self.all.len() && self.connecting == 0
    }

    /// Whether [`Self::advance`] can do something now.
    pub fn can_advance(&self) -> bool {
        !self.unread.is_empty() || (self.next_to_connect < self.all.len() && self.connecting < CONNECTING_MAX)
    }

    /// Call this when more events were acknowledged: the open streams should get these, too.
    pub fn expect_more(&mut self) {
        self.up_to_date = 0;
    }

    /// Whether each open stream has got as many events as were acknowledged. A subscriber that is up to date is not
    /// checked again until [`Self::expect_more`], or until another stream opens.
    pub fn are_up_to_date(&mut self, topics: &[Topic]) -> bool {
        while let Some(subscriber) = self.all.get(self.up_to_date) {
            let expected = topics.get(subscriber.topic).map_or(0, |topic| topic.acknowledged);
            if subscriber.state == State::Open && subscriber.seen.events < expected {
                return false;
            }
            self.up_to_date += 1;
        }
        true
    }

    /// How many events all subscribers together should have got, and have not.
    pub fn lost(&self, topics: &[Topic]) -> u64 {
        self.all.iter().filter_map(|one| topics.get(one.topic).map(|topic| topic.lost(&one.seen))).sum()
    }

    /// Closes all connections. The subscribers keep their cursors.
    pub fn disconnect_all(&mut self) {
        for subscriber in &mut self.all {
            subscriber.close();
        }
        (self.connecting, self.open) = (0, 0);
        self.unread.clear();
    }

    /// Connects more subscribers, and continues to read where a read was not complete.
    pub fn advance(&mut self, shared: &mut Shared<'_>) {
        while self.connecting < CONNECTING_MAX
            && let Some(subscriber) = self.all.get_mut(self.next_to_connect)
        {
            let index = self.next_to_connect;
            self.next_to_connect += 1;
            match shared.dialer.dial(index) {
                Ok(socket) => {
                    subscriber.socket = Some(socket);
                    subscriber.connect_time = shared.now();
                    self.connecting += 1;
                }
                Err(error) => shared.tally.count_error(error_text("subscribe", &error)),
            }
        }
        for Unread { index, is_closed } in std::mem::take(&mut self.unread) {
            self.read(index, is_closed, shared);
        }
    }

    /// Handles a readiness event of subscriber `index`.
    pub fn handle(&mut self, index: usize, event: &Event, shared: &mut Shared<'_>) {
        let Some(subscriber) = self.all.get_mut(index) else { return };
        if subscriber.state == State::Unsent
            && (event.is_writable() || event.is_error())
            && let Err(error) = subscriber.send_request(shared)
        {
            return self.disconnected(index, error_text("subscribe", &error), shared);
        }
        if event.is_readable() || event.is_read_closed() {
            self.read(index, event.is_read_closed(), shared);
        }
    }

    /// Reads once. If the bytes do not fill the buffer, the socket is empty, and the next bytes cause a new readiness
    /// event. But if the server has closed the connection, there is no new event, and the end must be read, too.
    fn read(&mut self, index: usize, is_closed: bool, shared: &mut Shared<'_>) {
        let Some(subscriber) = self.all.get_mut(index) else { return };
        let Some(socket) = &mut subscriber.socket else { return };
        let n = match socket.read(&mut shared.buffer) {
            Ok(0) => return self.disconnected(index, "stream: closed by the server".to_owned(), shared),
            Ok(n) => n,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return,
            Err(error) => return self.disconnected(index, error_text("stream", &error), shared),
        };
        let was_open = subscriber.state == State::Open;
        let bytes = shared.buffer.get(..n).unwrap_or_default();
        let result = subscriber.receive(bytes, shared.now(), &mut shared.topics, &mut shared.tally);
        if !was_open && subscriber.state == State::Open {
            self.open += 1;
            self.connecting -= 1;
            self.up_to_date = 0;
        }
        if let Err(reason) = result {
            return self.disconnected(index, reason, shared);
        }
        if is_closed || n == shared.buffer.len() {
            self.unread.push(Unread { index, is_closed });
        }
    }

    /// Handles the end of a connection.
    fn disconnected(&mut self, index: usize, reason: String, shared: &mut Shared<'_>) {
        let Some(subscriber) = self.all.get_mut(index) else { return };
        match subscriber.state {
            State::Open => self.open -= 1,
            State::Unsent | State::Requested => self.connecting -= 1,
        }
        subscriber.close();
        shared.tally.count_error(reason);
    }
}

impl Subscriber {
    /// Sends the request once the connection is established.
    fn send_request(&mut self, shared: &mut Shared<'_>) -> io::Result<()> {
        let Some(socket) = &mut self.socket else { return Ok(()) };
        if let Some(error) = socket.take_error()? {
            return Err(error);
        }
        let request = shared.plan.subscribe_request(self.topic, &self.blocks.cursor);
        // The send buffer of a new connection is empty, so this does not block.
        socket.write_all(&request)?;
        self.state = State::Requested;
        shared.tally.last_progress = shared.now();
        Ok(())
    }

    /// Parses and checks received bytes.
    fn receive(&mut self, bytes: &[u8], now: u64, topics: &mut [Topic], tally: &mut Tally) -> Result<(), String> {
        let Some(topic) = topics.get_mut(self.topic) else { return Ok(()) };
        tally.last_progress = now;
        tally.bytes += wide(bytes.len());
        let malformed = |_| "subscribe: the answer is not HTTP".to_owned();
        let mut rest = bytes;
        match self.response.parse_head(&mut rest).map_err(malformed)? {
            None => return Ok(()),
            Some(200) => self.state = State::Open,
            Some(status) => return Err(format!("subscribe: HTTP {status}{}", problem_code(bytes))),
        }
        while let Some(mut piece) = self.response.next_piece(&mut rest).map_err(malformed)? {
            while let Some(block) = self.blocks.next(&mut piece) {
                match block {
                    Block::Event(stamp) => self.check(stamp, now, topic, tally)?,
                    Block::Gap => tally.count_error("stream: a gap, the server no longer has some events".to_owned()),
                    Block::Refused => return Err("subscribe: refused by the broker".to_owned()),
                    Block::Other => tally.other_blocks += 1,
                }
            }
        }
        if self.response.is_complete() { Err("stream: closed by the server".to_owned()) } else { Ok(()) }
    }

    /// Checks the delivery of an event, and counts it.
    fn check(&mut self, stamp: Stamp, now: u64, topic: &mut Topic, tally: &mut Tally) -> Result<(), String> {
        if stamp.topic != self.topic {
            return Err("stream: an event of another topic".to_owned());
        }
        match self.seen.check(topic, stamp.number) {
            Delivery::Unknown => return Err("stream: an event that was never published".to_owned()),
            Delivery::Repeated => {
                tally.repeated += 1;
                return Ok(());
            }
            Delivery::OutOfOrder => tally.out_of_order += 1,
            Delivery::InOrder => {}
        }
        tally.delivered += 1;
        tally.last_delivered = now;
        tally.latency.saturating_record(now.saturating_sub(stamp.time.max(self.connect_time)) / 1_000);
        Ok(())
    }

    fn close(&mut self) {
        self.socket = None;
        self.state = State::Unsent;
        self.response = Response::default();
        self.blocks.disconnect();
    }
}
