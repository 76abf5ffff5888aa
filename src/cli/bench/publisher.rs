//! Publishers: each a connection with one event under way at a time.

use std::{
    collections::VecDeque,
    io::{self, ErrorKind, Read as _, Write as _},
    time::Duration,
};

use mio::{Interest, Token, event::Event, net::TcpStream};

use super::{
    plan::Amount,
    shared::Shared,
    stamp::Stamp,
    tally::{nanos, told},
};
use crate::cli::response::{Response, problem_code};

/// All publishers; their tokens follow those of the subscribers.
#[derive(Debug)]
pub struct Publishers {
    all: Vec<Publisher>,
    first_token: usize,
    /// Those that have nothing under way.
    idle: VecDeque<usize>,
    /// What stands before the length in each topic's request.
    heads: Vec<String>,
    work: Option<Work>,
}

/// What is being published.
#[derive(Clone, Copy, Debug)]
struct Work {
    begun: u64,
    /// Events of all topics together.
    sent: u64,
    total: u64,
    ends: u64,
}

#[derive(Debug, Default)]
struct Publisher {
    socket: Option<TcpStream>,
    request: Vec<u8>,
    written: usize,
    response: Response,
    pending: Option<Stamp>,
}

impl Publishers {
    pub fn new(shared: &Shared<'_>) -> Self {
        let plan = shared.plan;
        let all = (0..plan.publishers).map(|_| Publisher::default()).collect();
        let heads = (0..plan.topics).map(|topic| plan.publish_request(topic)).collect();
        Self { all, first_token: plan.subscribers, idle: (0..plan.publishers).collect(), heads, work: None }
    }

    /// From now on so much is published.
    pub fn begin(&mut self, amount: Amount, shared: &mut Shared<'_>) {
        let begun = shared.clock.now();
        let topics = u64::try_from(self.heads.len()).unwrap_or(u64::MAX);
        let (total, ends) = match amount {
            Amount::Messages(each) => (u64::from(each) * topics, u64::MAX),
            Amount::Duration(time) => (u64::MAX, begun.saturating_add(nanos(time))),
        };
        shared.tally.moved = begun;
        self.work = Some(Work { begun, sent: 0, total, ends });
    }

    /// Whether all has been sent and answered.
    pub fn are_done(&self) -> bool {
        self.work.is_none() && self.idle.len() == self.all.len()
    }

    /// How long until the next event is to be sent; `None` when only an answer can make it so.
    pub fn due_in(&self, shared: &Shared<'_>) -> Option<Duration> {
        let work = self.work.filter(|_| !self.idle.is_empty())?;
        Some(Duration::from_nanos(work.due(shared.plan.rate, shared.clock.now()).saturating_sub(shared.clock.now())))
    }

    /// Sends what is due, as far as there are publishers for it.
    pub fn advance(&mut self, shared: &mut Shared<'_>) {
        while let Some(mut work) = self.work {
            let now = shared.clock.now();
            if work.sent == work.total || now >= work.ends {
                self.work = None;
                return;
            }
            let due = work.due(shared.plan.rate, now);
            if due > now {
                return;
            }
            let Some(key) = self.idle.pop_front() else { return };
            self.publish(key, work.sent, due, shared);
            work.sent += 1;
            self.work = Some(work);
        }
    }

    fn publish(&mut self, key: usize, nth: u64, time: u64, shared: &mut Shared<'_>) {
        let topics = u64::try_from(self.heads.len()).unwrap_or(u64::MAX);
        let topic = usize::try_from(nth % topics).unwrap_or_default();
        let (Some(state), Some(head)) = (shared.topics.get_mut(topic), self.heads.get(topic)) else { return };
        let stamp = Stamp { topic: u32::try_from(topic).unwrap_or(u32::MAX), number: state.send(), time };
        let bytes = fastrand::usize(shared.plan.sizes.0.clone());
        shared.tally.sent += 1;
        shared.tally.first_sent.get_or_insert(time);
        let Some(publisher) = self.all.get_mut(key) else { return };
        publisher.request.clear();
        // Writing to memory that grows cannot fail.
        write!(publisher.request, "{head}{bytes}\r\n\r\n").ok();
        stamp.write(shared.plan.run, bytes, &mut publisher.request);
        (publisher.written, publisher.pending) = (0, Some(stamp));
        if let Err(error) = publisher.connect(self.first_token + key, shared).and_then(|()| publisher.write()) {
            self.end(key, &format!("publish: {}", told(&error)), shared);
        }
    }

    /// Takes what the system says of a socket.
    pub fn ready(&mut self, key: usize, event: &Event, shared: &mut Shared<'_>) {
        let Some(publisher) = self.all.get_mut(key) else { return };
        if (event.is_writable() || event.is_error())
            && let Err(error) = publisher.write()
        {
            return self.end(key, &format!("publish: {}", told(&error)), shared);
        }
        if event.is_readable() || event.is_read_closed() {
            self.read(key, shared);
        }
    }

    fn read(&mut self, key: usize, shared: &mut Shared<'_>) {
        let Some(publisher) = self.all.get_mut(key) else { return };
        while let Some(socket) = &mut publisher.socket {
            let n = match socket.read(&mut shared.buffer) {
                Ok(0) if publisher.response.status.is_some_and(|_| !publisher.response.keeps_alive) => {
                    // Its end is the end of the answer.
                    publisher.socket = None;
                    return self.answered(key, "", shared);
                }
                Ok(0) => return self.end(key, "publish: closed by the server", shared),
                Ok(n) => n,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) => return self.end(key, &format!("publish: {}", told(&error)), shared),
            };
            let bytes = shared.buffer.get(..n).unwrap_or_default();
            if publisher.pending.is_none() || publisher.response.feed(bytes, |_| {}).is_err() {
                return self.end(key, "publish: the answer is not HTTP", shared);
            }
            if publisher.response.is_complete() {
                if !publisher.response.keeps_alive {
                    publisher.socket = None;
                }
                let code = if publisher.response.status == Some(200) { String::new() } else { problem_code(bytes) };
                return self.answered(key, &code, shared);
            }
        }
    }

    fn answered(&mut self, key: usize, code: &str, shared: &mut Shared<'_>) {
        let Some(publisher) = self.all.get_mut(key) else { return };
        let Some(stamp) = publisher.pending.take() else { return };
        let status = publisher.response.status.unwrap_or_default();
        publisher.response.reset();
        self.idle.push_back(key);
        let now = shared.clock.now();
        let is_acknowledged = (200..300).contains(&status);
        shared.answer(stamp, is_acknowledged);
        (shared.tally.last_answered, shared.tally.moved) = (now, now);
        if is_acknowledged {
            shared.tally.acknowledged += 1;
            shared.tally.answers.saturating_record(now.saturating_sub(stamp.time) / 1_000);
        } else {
            shared.tally.error(format!("publish: HTTP {status}{code}"));
        }
    }

    /// The connection has gone. What was under way may have been published, or not.
    fn end(&mut self, key: usize, reason: &str, shared: &mut Shared<'_>) {
        let Some(publisher) = self.all.get_mut(key) else { return };
        publisher.socket = None;
        publisher.response.reset();
        if let Some(stamp) = publisher.pending.take() {
            shared.answer(stamp, false);
            shared.tally.error(reason.to_owned());
            self.idle.push_back(key);
        }
    }
}

impl Work {
    /// When the next event is to be sent. With a rate that is by the clock, whatever the server does: what waits for it
    /// is late, and its waiting is measured.
    fn due(&self, rate: f64, now: u64) -> u64 {
        if rate <= 0.0 {
            return now;
        }
        let sent = Duration::from_secs(self.sent).as_secs_f64();
        let after = Duration::try_from_secs_f64(sent / rate).map_or(u64::MAX, nanos);
        self.begun.saturating_add(after)
    }
}

impl Publisher {
    /// Opens its connection, unless there is one.
    fn connect(&mut self, token: usize, shared: &mut Shared<'_>) -> io::Result<()> {
        if self.socket.is_none() {
            let mut socket = shared.dialer.dial()?;
            socket.set_nodelay(true)?;
            shared.registry.register(&mut socket, Token(token), Interest::READABLE | Interest::WRITABLE)?;
            self.socket = Some(socket);
        }
        Ok(())
    }

    /// Writes what the socket takes of the request; a new one takes nothing until it is connected.
    fn write(&mut self) -> io::Result<()> {
        let Some(socket) = &mut self.socket else { return Ok(()) };
        while let Some(rest) = self.request.get(self.written..).filter(|rest| !rest.is_empty()) {
            match socket.write(rest) {
                Ok(n) => self.written += n,
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
