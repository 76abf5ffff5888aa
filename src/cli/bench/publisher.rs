//! Publishers: each is a connection that publishes one event at a time.

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
    tally::{error_text, nanos},
};
use crate::cli::response::{Response, problem_code};

/// All publishers. The token of a publisher is its index plus `first_token`.
#[derive(Debug)]
pub struct Publishers {
    all: Vec<Publisher>,
    first_token: usize,
    /// The publishers that wait for no answer.
    idle: VecDeque<usize>,
    /// The beginning of the request for each topic, up to the value of `Content-Length`.
    heads: Vec<String>,
    /// `None` if everything was sent.
    work: Option<Work>,
}

/// What is being published.
#[derive(Clone, Copy, Debug)]
struct Work {
    /// When it began, in nanoseconds since the run began.
    begun: u64,
    /// How many events were sent, for all topics.
    sent: u64,
    /// How many events are to be sent at most, for all topics.
    total: u64,
    /// When it ends at the latest, in nanoseconds since the run began.
    ends: u64,
}

/// One publisher.
#[derive(Debug, Default)]
struct Publisher {
    socket: Option<TcpStream>,
    request: Vec<u8>,
    /// How much of `request` was written.
    written: usize,
    response: Response,
    /// The event whose answer it waits for.
    pending: Option<Stamp>,
}

impl Publishers {
    pub fn new(shared: &Shared<'_>) -> Self {
        let plan = shared.plan;
        let all = (0..plan.publishers).map(|_| Publisher::default()).collect();
        let heads = (0..plan.topics).map(|topic| plan.publish_request(topic)).collect();
        Self { all, first_token: plan.subscribers, idle: (0..plan.publishers).collect(), heads, work: None }
    }

    /// Starts to publish `amount`.
    pub fn start(&mut self, amount: Amount, shared: &mut Shared<'_>) {
        let begun = shared.clock.now();
        let topics = u64::try_from(self.heads.len()).unwrap_or(u64::MAX);
        let (total, ends) = match amount {
            Amount::Messages(each) => (u64::from(each) * topics, u64::MAX),
            Amount::Duration(time) => (u64::MAX, begun.saturating_add(nanos(time))),
        };
        shared.tally.last_progress = begun;
        self.work = Some(Work { begun, sent: 0, total, ends });
    }

    /// Whether everything was sent and answered.
    pub fn are_done(&self) -> bool {
        self.work.is_none() && self.idle.len() == self.all.len()
    }

    /// How long until the next event must be sent; `None` if nothing can be sent before an answer arrives.
    pub fn next_send_in(&self, shared: &Shared<'_>) -> Option<Duration> {
        let work = self.work.filter(|_| !self.idle.is_empty())?;
        Some(Duration::from_nanos(
            work.next_send_time(shared.plan.rate, shared.clock.now()).saturating_sub(shared.clock.now()),
        ))
    }

    /// Sends the events whose time has come, as long as there are idle publishers.
    pub fn advance(&mut self, shared: &mut Shared<'_>) {
        while let Some(mut work) = self.work {
            let now = shared.clock.now();
            if work.sent == work.total || now >= work.ends {
                self.work = None;
                return;
            }
            let scheduled = work.next_send_time(shared.plan.rate, now);
            if scheduled > now {
                return;
            }
            let Some(key) = self.idle.pop_front() else { return };
            self.publish(key, work.sent, scheduled, shared);
            work.sent += 1;
            self.work = Some(work);
        }
    }

    /// Lets publisher `key` send the `nth` event, whose scheduled time is `time`.
    fn publish(&mut self, key: usize, nth: u64, time: u64, shared: &mut Shared<'_>) {
        let topics = u64::try_from(self.heads.len()).unwrap_or(u64::MAX);
        let topic = usize::try_from(nth % topics).unwrap_or_default();
        let (Some(state), Some(head)) = (shared.topics.get_mut(topic), self.heads.get(topic)) else { return };
        let stamp = Stamp { topic, number: state.add_event(), time };
        let bytes = fastrand::usize(shared.plan.sizes.0.clone());
        shared.tally.sent += 1;
        shared.tally.first_sent.get_or_insert(time);
        let Some(publisher) = self.all.get_mut(key) else { return };
        publisher.request.clear();
        // Writing to a vector cannot fail.
        write!(publisher.request, "{head}{bytes}\r\n\r\n").ok();
        stamp.write(shared.plan.run, bytes, &mut publisher.request);
        (publisher.written, publisher.pending) = (0, Some(stamp));
        if let Err(error) = publisher.connect(self.first_token + key, shared).and_then(|()| publisher.write()) {
            self.disconnected(key, &format!("publish: {}", error_text(&error)), shared);
        }
    }

    /// Handles a readiness event of publisher `key`.
    pub fn handle(&mut self, key: usize, event: &Event, shared: &mut Shared<'_>) {
        let Some(publisher) = self.all.get_mut(key) else { return };
        if (event.is_writable() || event.is_error())
            && let Err(error) = publisher.write()
        {
            return self.disconnected(key, &format!("publish: {}", error_text(&error)), shared);
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
                    // The end of the connection is the end of the response.
                    publisher.socket = None;
                    return self.answered(key, "", shared);
                }
                Ok(0) => return self.disconnected(key, "publish: closed by the server", shared),
                Ok(n) => n,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) => return self.disconnected(key, &format!("publish: {}", error_text(&error)), shared),
            };
            let bytes = shared.buffer.get(..n).unwrap_or_default();
            if publisher.pending.is_none() || publisher.response.feed(bytes, |_| {}).is_err() {
                return self.disconnected(key, "publish: the answer is not HTTP", shared);
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

    /// Handles a complete response. `code` is the code of an error, for the report.
    fn answered(&mut self, key: usize, code: &str, shared: &mut Shared<'_>) {
        let Some(publisher) = self.all.get_mut(key) else { return };
        let Some(stamp) = publisher.pending.take() else { return };
        let status = publisher.response.status.unwrap_or_default();
        publisher.response.reset();
        self.idle.push_back(key);
        let now = shared.clock.now();
        let is_acknowledged = (200..300).contains(&status);
        shared.set_outcome(stamp, is_acknowledged);
        (shared.tally.last_answered, shared.tally.last_progress) = (now, now);
        if is_acknowledged {
            shared.tally.acknowledged += 1;
            shared.tally.answers.saturating_record(now.saturating_sub(stamp.time) / 1_000);
        } else {
            shared.tally.error(format!("publish: HTTP {status}{code}"));
        }
    }

    /// Handles the end of a connection. A pending event may have been published or not.
    fn disconnected(&mut self, key: usize, reason: &str, shared: &mut Shared<'_>) {
        let Some(publisher) = self.all.get_mut(key) else { return };
        publisher.socket = None;
        publisher.response.reset();
        if let Some(stamp) = publisher.pending.take() {
            shared.set_outcome(stamp, false);
            shared.tally.error(reason.to_owned());
            self.idle.push_back(key);
        }
    }
}

impl Work {
    /// When the next event must be sent. With a rate, this does not depend on the server. If the server is slow, the
    /// event is sent late, and the delay counts as latency.
    fn next_send_time(&self, rate: f64, now: u64) -> u64 {
        if rate <= 0.0 {
            return now;
        }
        let sent = Duration::from_secs(self.sent).as_secs_f64();
        let after = Duration::try_from_secs_f64(sent / rate).map_or(u64::MAX, nanos);
        self.begun.saturating_add(after)
    }
}

impl Publisher {
    /// Opens a connection, unless there is one.
    fn connect(&mut self, token: usize, shared: &mut Shared<'_>) -> io::Result<()> {
        if self.socket.is_none() {
            let mut socket = shared.dialer.dial()?;
            socket.set_nodelay(true)?;
            shared.registry.register(&mut socket, Token(token), Interest::READABLE | Interest::WRITABLE)?;
            self.socket = Some(socket);
        }
        Ok(())
    }

    /// Writes as much of the request as the socket accepts. It accepts nothing until it is connected.
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
