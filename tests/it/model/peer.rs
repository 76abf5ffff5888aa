//! A socket in memory: as full, as slow, as broken as a test wants it.

use std::{
    cell::{Cell, RefCell},
    io::{self, ErrorKind, Read, Write},
    rc::Rc,
    time::{Duration, Instant},
};

use tidings::hub::Peer;

/// When it is: on the clock, and in changes of the log.
#[derive(Debug)]
pub struct Now {
    pub clock: Cell<Instant>,
    pub stamp: Cell<usize>,
}

/// The test's end of a connection, and what it has seen of the other one.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "a socket has that many independent states")]
pub struct Pipe {
    /// Bytes it takes before it is full.
    pub room: usize,
    /// Bytes it takes at once at most.
    pub gulp: usize,
    /// Taken, and not yet read by the client.
    arrived: Vec<u8>,
    /// Bytes of the client's that the hub has not read.
    pub chatter: usize,
    /// Bytes it has sent in all.
    pub said: usize,
    /// The client has closed its side.
    pub hung_up: bool,
    /// The next write fails.
    pub broken: bool,
    /// Its readiness cannot be watched.
    pub unwatched: bool,
    /// The hub ended the stream cleanly.
    pub finished: bool,
    /// The hub has let go of the socket.
    pub dropped: bool,
    /// A write or a read has failed, or ended, in a way that must close the connection.
    pub failed: bool,
    /// What the hub did that no hub may do.
    pub fault: Option<&'static str>,
    key: Option<usize>,
    watched: bool,
    /// It has become writable, readable since the hub was told last.
    writable: bool,
    readable: bool,
    /// Since when it has taken nothing of what it was offered.
    refusing_since: Option<Instant>,
    /// It has not taken all that it was offered.
    behind: bool,
    /// What has arrived was made when the log was at this stamp, or later.
    made_from: Option<usize>,
    /// What has been taken since it was last abreast was made at this stamp, or later.
    behind_from: usize,
    /// A page that it is given next, in part or whole, was read at this stamp.
    expected_from: Option<usize>,
    now: Rc<Now>,
}

impl Pipe {
    pub fn new(room: usize, gulp: usize, now: &Rc<Now>) -> Self {
        Self {
            room,
            gulp,
            arrived: Vec::new(),
            chatter: 0,
            said: 0,
            hung_up: false,
            broken: false,
            unwatched: false,
            finished: false,
            dropped: false,
            failed: false,
            fault: None,
            key: None,
            watched: false,
            writable: false,
            readable: false,
            refusing_since: None,
            behind: false,
            made_from: None,
            behind_from: 0,
            expected_from: None,
            now: Rc::clone(now),
        }
    }

    pub fn make_room(&mut self, room: usize) {
        self.room = room;
        self.writable |= room > 0;
    }

    pub fn say(&mut self, bytes: usize) {
        self.chatter += bytes;
        self.said += bytes;
        self.readable = true;
    }

    pub fn hang_up(&mut self) {
        self.hung_up = true;
        self.readable = true;
    }

    /// The hub has registered it under `key`.
    pub fn register(&mut self, key: usize) {
        self.key = Some(key);
    }

    /// Whether it is the hub's connection under `key`.
    pub fn is_under(&self, key: usize) -> bool {
        !self.dropped && self.key == Some(key)
    }

    /// A page for the socket under `key` comes, which was read when the log was at `stamp`.
    pub fn expect(&mut self, key: usize, stamp: usize) {
        if self.is_under(key) {
            self.expected_from = Some(self.expected_from.map_or(stamp, |from| from.min(stamp)));
        }
    }

    /// What a poll would report: the key, readable, writable. Each edge once.
    pub fn poll(&mut self) -> Option<(usize, bool, bool)> {
        let key = self.key.filter(|_| !self.dropped)?;
        let (readable, writable) = (std::mem::take(&mut self.readable), self.watched && self.writable);
        self.writable &= !writable;
        (readable || writable).then_some((key, readable, writable))
    }

    /// Whether a poll would report anything.
    pub fn is_ready(&self) -> bool {
        !self.dropped && self.key.is_some() && (self.readable || (self.watched && self.writable))
    }

    /// For how long it has taken nothing of what it was offered.
    pub fn refusing_for(&self) -> Duration {
        self.refusing_since.map_or(Duration::ZERO, |since| self.now.clock.get() - since)
    }

    /// What has arrived since the last call, and since when at the earliest the log was as the hub knew it then.
    pub fn read(&mut self) -> (Vec<u8>, usize) {
        let made_from = self.made_from.take().unwrap_or(self.behind_from);
        (std::mem::take(&mut self.arrived), made_from)
    }

    fn take(&mut self, buf: &[u8]) -> io::Result<usize> {
        if self.finished {
            self.fault = Some("it wrote after the end of the stream");
        }
        if self.broken {
            self.failed = true;
            return Err(ErrorKind::ConnectionReset.into());
        }
        let offered = buf.len();
        if offered == 0 {
            self.fault = Some("it wrote nothing");
        }
        if !self.behind {
            self.behind_from = self.now.stamp.get();
        }
        self.behind_from = self.expected_from.map_or(self.behind_from, |from| from.min(self.behind_from));
        self.made_from = Some(self.made_from.map_or(self.behind_from, |from| from.min(self.behind_from)));
        let taken = offered.min(self.room).min(self.gulp);
        self.arrived.extend_from_slice(&buf[..taken]);
        self.room -= taken;
        if taken > 0 {
            self.refusing_since = None;
        }
        self.behind = taken < offered;
        self.expected_from = self.expected_from.filter(|_| self.behind);
        if self.behind {
            self.refusing_since.get_or_insert(self.now.clock.get());
            // It only paused for breath: room is left, so readiness comes at once.
            self.writable |= self.room > 0;
        }
        if taken == 0 && offered > 0 { Err(ErrorKind::WouldBlock.into()) } else { Ok(taken) }
    }
}

/// The hub's end.
pub struct Wire(pub Rc<RefCell<Pipe>>);

impl Drop for Wire {
    fn drop(&mut self) {
        self.0.borrow_mut().dropped = true;
    }
}

impl Read for Wire {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let mut pipe = self.0.borrow_mut();
        let n = pipe.chatter.min(buf.len());
        pipe.chatter -= n;
        match (n, pipe.hung_up) {
            (0, true) => {
                pipe.failed = true;
                Ok(0)
            }
            (0, false) => Err(ErrorKind::WouldBlock.into()),
            (n, _) => Ok(n),
        }
    }
}

impl Write for Wire {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0.borrow_mut().take(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Peer for Wire {
    fn finish(&mut self) {
        self.0.borrow_mut().finished = true;
    }

    fn watch_writable(&mut self, _: usize) -> io::Result<()> {
        let mut pipe = self.0.borrow_mut();
        if pipe.unwatched {
            pipe.failed = true;
            return Err(ErrorKind::OutOfMemory.into());
        }
        pipe.watched = true;
        // As the system does: what is ready already is reported once.
        pipe.writable |= pipe.room > 0;
        Ok(())
    }
}
