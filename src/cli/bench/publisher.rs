//! Publishers: each is a connection that publishes one event at a time.

use std::{
    collections::VecDeque,
    io::{self, ErrorKind, Read as _, Write as _},
    time::Duration,
};

use mio::{event::Event, net::TcpStream};

use super::{
    response::{Response, problem_code},
    shared::Shared,
    stamp::Stamp,
    tally::{error_text, nanos, ratio, wide},
    verify::Topic,
};

/// All publishers. Their tokens follow those of the subscribers.
#[derive(Debug)]
pub struct Publishers {
    all: Vec<Publisher>,
    /// The publishers without a pending event.
    idle: VecDeque<usize>,
    /// For each topic, the request up to its last header, `Content-Length`, without the value.
    heads: Vec<String>,
    /// `None` if everything was sent.
    work: Option<Work>,
}

/// What is being published. Times are in nanoseconds since the run began.
#[derive(Clone, Copy, Debug)]
struct Work {
    begun: u64,
    /// How many events were sent, for all topics.
    sent: u64,
    /// How many events to send at most, for all topics.
    total: u64,
    /// The time after which no event is sent.
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
    /// The event that was sent and not answered.
    pending: Option<Stamp>,
}

impl Publishers {
    pub fn new(shared: &Shared<'_>) -> Self {
        let plan = shared.plan;
        let all = (0..plan.publishers).map(|_| Publisher::default()).collect();
        let heads = (0..plan.topics).map(|topic| plan.publish_request(topic)).collect();
        Self { all, idle: (0..plan.publishers).collect(), heads, work: None }
    }

    /// Starts to publish this many events to each topic; with `--duration`, as many as possible in that time.
    pub fn start(&mut self, messages: u32, shared: &mut Shared<'_>) {
        let begun = shared.now();
        let (total, ends) = match shared.plan.duration {
            None => (u64::from(messages) * wide(self.heads.len()), u64::MAX),
            Some(time) => (u64::MAX, begun.saturating_add(nanos(time))),
        };
        shared.tally.last_progress = begun;
        self.work = Some(Work { begun, sent: 0, total, ends });
    }

    /// Whether everything was sent and answered.
    pub fn are_done(&self) -> bool {
        self.work.is_none() && self.idle.len() == self.all.len()
    }

    /// How long until the next event must be sent; `None` if all were sent, or if every publisher waits for an answer.
    pub fn next_send_in(&self, shared: &Shared<'_>) -> Option<Duration> {
        let work = self.work.filter(|_| !self.idle.is_empty())?;
        let now = shared.now();
        Some(Duration::from_nanos(work.next_send_time(shared.plan.rate, now).saturating_sub(now)))
    }

    /// Sends the events whose time has come, as long as there are idle publishers.
    pub fn advance(&mut self, shared: &mut Shared<'_>) {
        while let Some(work) = self.work {
            let now = shared.now();
            if work.sent == work.total || now >= work.ends {
                self.work = None;
                return;
            }
            let scheduled = work.next_send_time(shared.plan.rate, now);
            if scheduled > now {
                return;
            }
            let Some(index) = self.idle.pop_front() else { return };
            self.work = Some(Work { sent: work.sent + 1, ..work });
            let topic = usize::try_from(work.sent % wide(self.heads.len())).unwrap_or_default();
            self.publish(index, topic, scheduled, shared);
        }
    }

    /// Lets the idle publisher `index` send the next event of a topic.
    fn publish(&mut self, index: usize, topic: usize, scheduled: u64, shared: &mut Shared<'_>) {
        let (Some(publisher), Some(head)) = (self.all.get_mut(index), self.heads.get(topic)) else { return };
        let Some(number) = shared.topics.get_mut(topic).map(Topic::add_event) else { return };
        let stamp = Stamp { topic, number, time: scheduled };
        let size = fastrand::usize(shared.plan.sizes.clone());
        publisher.request.clear();
        // Writing to a vector cannot fail.
        write!(publisher.request, "{head}{size}\r\n\r\n").ok();
        stamp.write(shared.plan.run_id, size, &mut publisher.request);
        (publisher.written, publisher.pending) = (0, Some(stamp));
        shared.tally.sent += 1;
        shared.tally.first_sent.get_or_insert(scheduled);
        if let Err(error) = publisher.send(shared.plan.subscribers + index, shared) {
            publisher.disconnected(error_text("publish", &error), shared);
            self.idle.push_back(index);
        }
    }

    /// Handles a readiness event of publisher `index`.
    pub fn handle(&mut self, index: usize, event: &Event, shared: &mut Shared<'_>) {
        let Some(publisher) = self.all.get_mut(index) else { return };
        let was_idle = publisher.pending.is_none();
        if (event.is_writable() || event.is_error())
            && let Err(error) = publisher.write()
        {
            publisher.disconnected(error_text("publish", &error), shared);
        }
        if event.is_readable() || event.is_read_closed() {
            publisher.read(shared);
        }
        if !was_idle && publisher.pending.is_none() {
            self.idle.push_back(index);
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
        let after = Duration::try_from_secs_f64(ratio(self.sent, 1) / rate).map_or(u64::MAX, nanos);
        self.begun.saturating_add(after)
    }
}

impl Publisher {
    /// Begins to send the request, on a new connection if there is none.
    fn send(&mut self, token: usize, shared: &mut Shared<'_>) -> io::Result<()> {
        if self.socket.is_none() {
            self.socket = Some(shared.dialer.dial(token)?);
        }
        self.write()
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

    /// Reads until the response is complete, or until nothing more has arrived.
    fn read(&mut self, shared: &mut Shared<'_>) {
        while let Some(socket) = &mut self.socket {
            let n = match socket.read(&mut shared.buffer) {
                Ok(n) => n,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) => return self.disconnected(error_text("publish", &error), shared),
            };
            if n == 0 {
                if self.response.ends_with_connection() {
                    return self.answered(0, shared);
                }
                return self.disconnected("publish: closed by the server".to_owned(), shared);
            }
            let bytes = shared.buffer.get(..n).unwrap_or_default();
            // Without a pending event, the server should send nothing. Then `disconnected` only closes the connection:
            // it counts an error only if an event is pending.
            if self.pending.is_none() || self.response.skip_body(bytes).is_err() {
                return self.disconnected("publish: the answer is not HTTP".to_owned(), shared);
            }
            if self.response.is_complete() {
                return self.answered(n, shared);
            }
        }
    }

    /// Handles a complete response. Its last `n` bytes are in the buffer.
    fn answered(&mut self, n: usize, shared: &mut Shared<'_>) {
        let response = std::mem::take(&mut self.response);
        if !response.keeps_alive {
            self.socket = None;
        }
        let Some(stamp) = self.pending.take() else { return };
        let now = shared.now();
        let status = response.status.unwrap_or_default();
        let is_acknowledged = (200..300).contains(&status);
        shared.set_outcome(stamp, is_acknowledged);
        (shared.tally.last_answered, shared.tally.last_progress) = (now, now);
        if is_acknowledged {
            shared.tally.acknowledged += 1;
            shared.tally.answer_times.saturating_record(now.saturating_sub(stamp.time) / 1_000);
        } else {
            let code = problem_code(shared.buffer.get(..n).unwrap_or_default());
            shared.tally.count_error(format!("publish: HTTP {status}{code}"));
        }
    }

    /// Handles the end of a connection. A pending event may have been published or not.
    fn disconnected(&mut self, reason: String, shared: &mut Shared<'_>) {
        self.socket = None;
        self.response = Response::default();
        if let Some(stamp) = self.pending.take() {
            shared.set_outcome(stamp, false);
            shared.tally.count_error(reason);
        }
    }
}
