//! A hub with a log and sockets in memory, and a clock that the tests set.

use std::{
    cell::RefCell,
    io::{self, ErrorKind, Read, Write},
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::FutureExt as _;
use tokio::sync::oneshot;

use super::super::*;
use crate::{
    config::{Config, LogConfig, StreamConfig},
    frame::{Encoding, Format, Framing, Marks},
    hub::{CheckedRight, UnsentBytes, command::EndWhere},
    identity::Identity,
    log::{Batch, Draft, Feed, KeyLimits, Log, Start, memory::MemoryLog},
};

pub(super) const HEARTBEAT: Duration = Duration::from_secs(15);
pub(super) const WRITE_TIMEOUT: Duration = Duration::from_secs(5);

/// What a client has got, and how many more bytes its socket accepts.
#[derive(Default)]
pub(super) struct Tap {
    pub(super) bytes: Vec<u8>,
    pub(super) room: usize,
    pub(super) finished: bool,
    pub(super) closed: bool,
}

/// The hub's end of it.
pub(super) struct HubEnd(Rc<RefCell<Tap>>);

impl Drop for HubEnd {
    fn drop(&mut self) {
        self.0.borrow_mut().closed = true;
    }
}

impl Read for HubEnd {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(ErrorKind::WouldBlock.into())
    }
}

impl Write for HubEnd {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let mut tap = self.0.borrow_mut();
        let taken = buf.len().min(tap.room);
        tap.room -= taken;
        tap.bytes.extend_from_slice(&buf[..taken]);
        if taken > 0 { Ok(taken) } else { Err(ErrorKind::WouldBlock.into()) }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Peer for HubEnd {
    fn finish(&mut self) {
        self.0.borrow_mut().finished = true;
    }

    fn watch_writable(&mut self, _: usize) -> io::Result<()> {
        Ok(())
    }
}

/// A hub, its log, and its clock.
pub(super) struct World {
    pub(super) log: Arc<dyn Log>,
    feed: Arc<Feed>,
    batch: Batch,
    pub(super) streams: Streams<HubEnd>,
    pub(super) now: Instant,
}

pub(super) fn topic(name: &str) -> TopicName {
    TopicName::parse(name, 255).expect("a name")
}

pub(super) fn identity(subject: &str) -> Arc<Identity> {
    Arc::new(Identity { key: "key".into(), subject: Some(subject.into()) })
}

/// A subscription as a test describes it.
#[derive(Clone)]
pub(super) struct Plan {
    pub(super) topics: &'static [&'static str],
    pub(super) format: Format,
    pub(super) marks: Marks,
    pub(super) right: Option<CheckedRight>,
    pub(super) room: usize,
}

impl World {
    pub(super) fn new() -> Self {
        let log: Arc<dyn Log> = Arc::new(MemoryLog::new(LogConfig::default(), KeyLimits::from(&Config::default())));
        let (feed, now) = (log.feed(), Instant::now());
        let config = StreamConfig { heartbeat: HEARTBEAT, write_timeout: WRITE_TIMEOUT, ..StreamConfig::default() };
        let streams = Streams::new(Arc::clone(&log), config, Arc::new(UnsentBytes::new(1 << 20)), now);
        Self { log, feed, batch: Batch::default(), streams, now }
    }

    pub(super) fn plan() -> Plan {
        Plan { topics: &["a"], format: Format::Plain, marks: Marks::Event, right: None, room: usize::MAX }
    }

    /// The right of `subject`, checked now, which ends after so many seconds.
    pub(super) fn right(&self, subject: &str, seconds: Option<u64>) -> CheckedRight {
        let ends_at = seconds.map(|seconds| self.now + Duration::from_secs(seconds));
        CheckedRight { identity: identity(subject), checked_at: self.now, ends_at }
    }

    pub(super) fn subscribe(&mut self, plan: &Plan) -> Rc<RefCell<Tap>> {
        let topics: Vec<TopicName> = plan.topics.iter().map(|name| topic(name)).collect();
        let start = self.log.resolve_start(&topics, &Start::Live, &[]).now_or_never().expect("now").expect("a start");
        let tap = Rc::new(RefCell::new(Tap { room: plan.room, ..Tap::default() }));
        let subscription = Subscription {
            topics: topics.into(),
            encoding: Encoding { format: plan.format, framing: Framing::Chunked },
            marks: plan.marks,
            start,
            ends_at: None,
            right: plan.right.clone(),
            guards: Box::new(()),
        };
        self.streams.adopt(HubEnd(Rc::clone(&tap)), subscription, |_, _| Ok(())).expect("it is adopted");
        tap
    }

    pub(super) fn publish(&mut self, name: &str, content: &str) -> String {
        let draft =
            Draft { topic: topic(name), name: None, content: content.to_owned().into(), subscribers: 0, key: None };
        self.log.append(draft).now_or_never().expect("now").expect("a receipt").id.to_string()
    }

    /// A turn of the hub after so many milliseconds, up to the point where it begins to make steps.
    pub(super) fn begin_turn(&mut self, after_ms: u64) {
        self.now += Duration::from_millis(after_ms);
        self.feed.take(&mut self.batch);
        self.streams.apply(&mut self.batch, self.now);
    }

    /// A whole turn.
    pub(super) fn turn(&mut self, after_ms: u64) {
        self.begin_turn(after_ms);
        while self.streams.has_work() {
            self.streams.step();
        }
    }

    pub(super) fn end_where(&mut self, subject: &'static str, end: End) -> oneshot::Receiver<usize> {
        let (answer, answered) = oneshot::channel();
        let matches = Arc::new(move |identity: &Identity| identity.subject.as_deref() == Some(subject));
        self.streams.command(Command::EndWhere(EndWhere { matches, at: self.now, end }, answer));
        answered
    }

    pub(super) fn list(&mut self, name: &str, after: Option<StreamId>, limit: usize) -> Vec<StreamId> {
        let (answer, mut answered) = oneshot::channel();
        self.streams.command(Command::List { topic: topic(name), after, limit, answer });
        answered.try_recv().expect("an answer").into_iter().map(|listed| listed.id).collect()
    }

    pub(super) fn end(&mut self, id: StreamId) -> bool {
        let (answer, mut answered) = oneshot::channel();
        self.streams.command(Command::End(id, answer));
        answered.try_recv().expect("an answer")
    }
}

/// The text of a stream, without the heads of its chunks.
pub(super) fn text(tap: &RefCell<Tap>) -> String {
    let bytes = tap.borrow().bytes.clone();
    let text = String::from_utf8(bytes).expect("UTF-8");
    let is_head = |line: &str| !line.is_empty() && line.bytes().all(|b| b.is_ascii_hexdigit());
    text.split("\r\n").filter(|part| !is_head(part)).collect()
}
