//! The socket's way from the HTTP server to the hub, or back to the fast path.
//!
//! The fallback is given a [`Carrier`] instead of the bare socket, and with it one request: what was read of it
//! already, and no more from the socket than is left of it. It reads the request and writes the response through the
//! carrier. A stream's body takes the socket away once the head is out; any other response leaves it where it is:
//!
//! ```text
//!  HTTP server: head, first bytes ─► flush ─► body: Carrier::poll_take ─► hub
//!               a whole response  ─► flush ─► Carrier::reclaim ─► the next request
//!                                                └─ the carrier reads as closed, so the server's task and its
//!                                                   buffers are freed at once
//! ```
//!
//! One request at a time, because what follows it is not yet anybody's: the fallback would wait for the rest of a
//! second request for ever, and hold what is sent meanwhile.

use std::{
    any::Any,
    cell::{Cell, RefCell},
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker},
};

use memchr::memmem;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use super::socket::send;

/// What the server may say before it answers.
const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// A connection's socket for as long as the HTTP server serves it. Clones share the one socket.
#[derive(Clone, Debug)]
pub struct Carrier(Rc<Inner>);

#[derive(Debug)]
struct Inner {
    socket: RefCell<Option<TcpStream>>,
    before: RefCell<Before>,
    /// What the socket still has of the request; `None` when it ends with the connection.
    rest: Cell<Option<usize>>,
    /// All that was written since [`Carrier::expect_flush`] has left for the kernel.
    flushed: Cell<bool>,
    waiting: RefCell<Option<Waker>>,
    /// Who waits for the peer to say something.
    reader: RefCell<Option<Waker>>,
    /// What the peer still has to say is of no interest.
    deaf: Cell<bool>,
    /// The response has begun.
    begun: Cell<bool>,
    answer: Cell<Progress>,
    /// Who waits for the response to begin, or to be sent.
    watcher: RefCell<Option<Waker>>,
    /// The peer, or the kernel for it, has taken something of the response.
    moved: Cell<bool>,
    /// The response's head says that the connection ends with it; `None` until it has been written.
    closes: Cell<Option<bool>>,
}

/// What was read from the socket before, to be read again.
#[derive(Debug)]
struct Before {
    bytes: Vec<u8>,
    /// Freed with the last of the bytes.
    hold: Option<Box<dyn Any>>,
}

/// How far the response has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    /// There is none yet.
    None,
    /// The response is being written.
    Written,
    /// It has left for the kernel.
    Flushed,
    /// And the server has read that no other request will come.
    Ended,
}

impl Carrier {
    /// Carries `socket` for one request: `before` was read of it already, together with `hold`; `rest` bytes of it are
    /// still to come, or all that comes.
    #[must_use]
    pub fn new(socket: TcpStream, before: Vec<u8>, rest: Option<usize>, hold: Option<Box<dyn Any>>) -> Self {
        Self(Rc::new(Inner {
            socket: RefCell::new(Some(socket)),
            before: RefCell::new(Before { bytes: before, hold }),
            rest: Cell::new(rest),
            flushed: Cell::new(false),
            waiting: RefCell::default(),
            reader: RefCell::default(),
            deaf: Cell::new(false),
            begun: Cell::new(false),
            answer: Cell::new(Progress::None),
            watcher: RefCell::default(),
            moved: Cell::new(false),
            closes: Cell::new(None),
        }))
    }

    /// Whether the end of the request is known, so that another one may follow.
    #[must_use]
    pub fn is_framed(&self) -> bool {
        self.0.rest.get().is_some()
    }

    /// The response is about to be written, whole or, of a stream, its head.
    pub fn begun(&self) {
        self.0.begun.set(true);
        self.0.watcher.take().into_iter().for_each(Waker::wake);
    }

    /// It is whole.
    pub fn answered(&self) {
        self.0.answer.set(Progress::Written);
    }

    /// Ready once the response has begun: from then on it is the client that is waited for.
    pub fn poll_begun(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.poll(self.0.begun.get(), cx)
    }

    /// Ready once the whole response has left for the kernel.
    pub fn poll_sent(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.poll(matches!(self.0.answer.get(), Progress::Flushed | Progress::Ended), cx)
    }

    fn poll(&self, is_so: bool, cx: &Context<'_>) -> Poll<()> {
        if is_so {
            return Poll::Ready(());
        }
        // One task watches a carrier.
        *self.0.watcher.borrow_mut() = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Whether some of the response was taken since this was asked last.
    #[must_use]
    pub fn has_moved(&self) -> bool {
        self.0.moved.replace(false)
    }

    /// Takes the socket back after the server has done with it, and whether another request may follow on it; `None`
    /// when it is the hub's.
    #[must_use]
    pub fn reclaim(&self) -> Option<(TcpStream, bool)> {
        let follows = self.0.answer.get() == Progress::Ended && self.0.closes.get() == Some(false);
        self.0.socket.borrow_mut().take().map(|socket| (socket, follows))
    }

    /// From here on a flush counts: earlier responses on this connection have been flushed, too.
    pub fn expect_flush(&self) {
        self.0.flushed.set(false);
    }

    /// Takes the socket once everything written to it has been flushed; `None` when it is gone.
    pub fn poll_take(&self, cx: &mut Context<'_>) -> Poll<Option<TcpStream>> {
        if self.0.flushed.get() {
            return Poll::Ready(self.0.socket.borrow_mut().take());
        }
        *self.0.waiting.borrow_mut() = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Whether the response has begun, whole or a stream: the server must take no other request from here.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.0.begun.get()
    }

    /// Reads as closed from here on. The HTTP server would wait for the end of a chunked body that has been answered
    /// already as long as its sender likes, and with it the connection would be held.
    pub fn end_reading(&self) {
        self.0.deaf.set(true);
        self.0.reader.take().into_iter().for_each(Waker::wake);
    }

    fn with<T>(&self, none: T, f: impl FnOnce(Pin<&mut TcpStream>) -> Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        match self.0.socket.borrow_mut().as_mut() {
            Some(socket) => f(Pin::new(socket)),
            None => Poll::Ready(Ok(none)),
        }
    }

    /// Reads from the socket, not beyond the request.
    fn read_rest(&self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Some(rest) = self.0.rest.get() else { return self.with((), |socket| socket.poll_read(cx, buf)) };
        let most = rest.min(buf.remaining());
        let mut part = ReadBuf::new(buf.initialize_unfilled_to(most));
        let read = self.with((), |socket| socket.poll_read(cx, &mut part));
        let got = part.filled().len();
        buf.advance(got);
        self.0.rest.set(Some(rest - got));
        read
    }

    /// Notes what a response's head says of the connection.
    fn note(&self, sent: &[u8]) {
        let head = sent.strip_prefix(CONTINUE).unwrap_or(sent);
        if head.is_empty() || self.0.closes.get().is_some() {
            return;
        }
        // A head that does not go out in one piece is taken for a last one: its client is far behind.
        let end = memmem::find(head, b"\r\n\r\n").map(|end| head.get(..end + 2).unwrap_or_default());
        let closes = end.is_none_or(|head| memmem::find(head, b"\r\nconnection: close\r\n").is_some());
        self.0.closes.set(Some(closes));
    }
}

impl AsyncRead for Carrier {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let inner = &*self.0;
        if inner.deaf.get() || inner.socket.borrow().is_none() {
            return Poll::Ready(Ok(()));
        }
        let mut before = inner.before.borrow_mut();
        if !before.bytes.is_empty() {
            let fits = before.bytes.len().min(buf.remaining());
            let rest = before.bytes.split_off(fits);
            buf.put_slice(&std::mem::replace(&mut before.bytes, rest));
            if before.bytes.is_empty() {
                (before.bytes, before.hold) = (Vec::new(), None);
            }
            return Poll::Ready(Ok(()));
        }
        drop(before);
        let read = match inner.rest.get() {
            Some(0) if matches!(inner.answer.get(), Progress::Flushed | Progress::Ended) => {
                inner.answer.set(Progress::Ended);
                return Poll::Ready(Ok(()));
            }
            Some(0) => Poll::Pending,
            _ => self.read_rest(cx, buf),
        };
        if read.is_pending() && inner.reader.borrow().as_ref().is_none_or(|reader| !reader.will_wake(cx.waker())) {
            *inner.reader.borrow_mut() = Some(cx.waker().clone());
        }
        read
    }
}

impl AsyncWrite for Carrier {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        // At once: the runtime does not know yet whether a socket that it has just been given can be written to, and an
        // answer to a request that breaks off would be lost.
        let written = self.with(buf.len(), |socket| match send(&*socket, buf) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => socket.poll_write(cx, buf),
            sent => Poll::Ready(sent),
        });
        if let Poll::Ready(Ok(n)) = written {
            self.0.moved.set(true);
            self.note(buf.get(..n).unwrap_or_default());
        }
        written
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = self.with((), |socket| socket.poll_flush(cx));
        if matches!(flushed, Poll::Ready(Ok(()))) {
            self.0.flushed.set(true);
            self.0.waiting.take().into_iter().for_each(Waker::wake);
            if self.0.answer.get() == Progress::Written {
                self.0.answer.set(Progress::Flushed);
                [&self.0.reader, &self.0.watcher].into_iter().filter_map(RefCell::take).for_each(Waker::wake);
            }
        }
        flushed
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.0.answer.get() == Progress::Ended && self.0.closes.get() == Some(false) {
            // The server believes that the peer has closed, and closes; the peer has not.
            return Poll::Ready(Ok(()));
        }
        self.with((), |socket| socket.poll_shutdown(cx))
    }
}
