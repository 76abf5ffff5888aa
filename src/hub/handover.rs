//! Moves a socket from the fallback HTTP server to the hub, or back to the reader of the next request.
//!
//! The fallback server gets a [`Carrier`] instead of the socket. Through it, the server reads one request and writes
//! the response: the carrier returns the bytes that were already read, and then reads no further than the end of the
//! request. If the response is a stream, its body takes the socket out of the carrier after the head is sent. After any
//! other response, the socket is taken out when the server has finished:
//!
//! ```text
//!  HTTP server: head, first bytes ─► flush ─► body: Carrier::poll_take ─► hub
//!               a whole response  ─► flush ─► Carrier::reclaim ─► the next request
//!                                                └─ the carrier reads as closed, so the server's task and its
//!                                                   buffers are freed at once
//! ```
//!
//! A carrier is for one request only. The bytes after it may belong to a second request that is not complete. The
//! fallback server would wait for the end of that, and keep back the first response.

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

/// The interim response that the server may send before its response.
const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// A connection's socket while the fallback server uses it. Clones share the same socket.
#[derive(Clone, Debug)]
pub struct Carrier(Rc<Inner>);

#[derive(Debug)]
struct Inner {
    /// `None` after it has been taken out.
    socket: RefCell<Option<TcpStream>>,
    /// Bytes that the server reads before those of the socket.
    read_ahead: RefCell<ReadAhead>,
    /// How many bytes of the request are still to be read from the socket; `None` if the request's end is not known.
    unread: Cell<Option<usize>>,
    /// Everything written since [`Carrier::expect_flush`] has been given to the kernel.
    flushed: Cell<bool>,
    /// The task that waits for `flushed`.
    flush_waker: RefCell<Option<Waker>>,
    /// The task that waits for bytes from the peer.
    read_waker: RefCell<Option<Waker>>,
    /// Reads return the end of the stream, whatever the peer still sends.
    reads_as_closed: Cell<bool>,
    /// The progress of the response.
    response: Cell<Response>,
    /// The task that waits for the response to begin, or to be sent.
    response_waker: RefCell<Option<Waker>>,
    /// The socket has accepted bytes since the last call to [`Carrier::has_moved`].
    moved: Cell<bool>,
    /// Whether the response's head contains `Connection: close`; `None` until the head has been written.
    closes: Cell<Option<bool>>,
}

/// Bytes that were read from the socket before the carrier got it.
#[derive(Debug)]
struct ReadAhead {
    bytes: Vec<u8>,
    /// The permit for the bytes. It is dropped when all of them have been read.
    permit: Option<Box<dyn Any>>,
}

/// The progress of the response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Response {
    /// It has not begun.
    None,
    /// It has begun. A stream stays in this state.
    Begun,
    /// It is no stream, and the server is writing it.
    Whole,
    /// All of it has been given to the kernel.
    Sent,
    /// The server has also read the end of the request, and so knows that no other request will come.
    Ended,
}

impl Carrier {
    /// Creates a carrier of `socket` for one request. The bytes `before` of the request were already read, and `permit`
    /// is their permit. `rest` more bytes will come; with `None`, everything that comes belongs to the request.
    #[must_use]
    pub fn new(socket: TcpStream, before: Vec<u8>, rest: Option<usize>, permit: Option<Box<dyn Any>>) -> Self {
        Self(Rc::new(Inner {
            socket: RefCell::new(Some(socket)),
            read_ahead: RefCell::new(ReadAhead { bytes: before, permit }),
            unread: Cell::new(rest),
            flushed: Cell::new(false),
            flush_waker: RefCell::default(),
            read_waker: RefCell::default(),
            reads_as_closed: Cell::new(false),
            response: Cell::new(Response::None),
            response_waker: RefCell::default(),
            moved: Cell::new(false),
            closes: Cell::new(None),
        }))
    }

    /// Whether the length of the request is known, so that another one may follow.
    #[must_use]
    pub fn is_framed(&self) -> bool {
        self.0.unread.get().is_some()
    }

    /// Notes that the server is about to write the response.
    pub fn begun(&self) {
        debug_assert_eq!(self.0.response.get(), Response::None, "a carrier carries one request");
        self.0.response.set(Response::Begun);
        wake(&self.0.response_waker);
    }

    /// Notes that the response, which has begun, is not a stream.
    pub fn answered(&self) {
        debug_assert_eq!(self.0.response.get(), Response::Begun, "a response begins before it is whole");
        self.0.response.set(Response::Whole);
    }

    /// Ready when the response has begun. From then on, the server waits only for the client.
    pub fn poll_begun(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.poll(self.has_begun(), cx)
    }

    /// Ready when the whole response has been given to the kernel.
    pub fn poll_sent(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.poll(matches!(self.0.response.get(), Response::Sent | Response::Ended), cx)
    }

    fn poll(&self, is_ready: bool, cx: &Context<'_>) -> Poll<()> {
        if is_ready {
            return Poll::Ready(());
        }
        // Only one task waits, so one waker is enough.
        *self.0.response_waker.borrow_mut() = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Whether the socket has accepted bytes of the response since the last call.
    #[must_use]
    pub fn has_moved(&self) -> bool {
        self.0.moved.replace(false)
    }

    /// Takes the socket out after the server has finished, and returns it with whether another request may follow.
    /// Returns `None` if the socket was taken out before.
    #[must_use]
    pub fn reclaim(&self) -> Option<(TcpStream, bool)> {
        let follows = self.0.response.get() == Response::Ended && self.0.closes.get() == Some(false);
        self.0.socket.borrow_mut().take().map(|socket| (socket, follows))
    }

    /// Makes [`poll_take`](Self::poll_take) wait for the next flush. Earlier flushes do not count.
    pub fn expect_flush(&self) {
        self.0.flushed.set(false);
    }

    /// Takes the socket out when everything written to it has been flushed. The result is `None` if the socket was
    /// taken out before.
    pub fn poll_take(&self, cx: &mut Context<'_>) -> Poll<Option<TcpStream>> {
        if self.0.flushed.get() {
            return Poll::Ready(self.0.socket.borrow_mut().take());
        }
        *self.0.flush_waker.borrow_mut() = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Whether the response has begun. If so, the server must not read another request from this carrier.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.0.response.get() != Response::None
    }

    /// Makes all reads return the end of the stream. Otherwise, after it has answered a request with a chunked body,
    /// the server would wait for the end of the body, and a client could keep the connection for ever.
    pub fn end_reading(&self) {
        self.0.reads_as_closed.set(true);
        wake(&self.0.read_waker);
    }

    /// Calls `f` with the socket, or returns `none` if the socket was taken out.
    fn with<T>(&self, none: T, f: impl FnOnce(Pin<&mut TcpStream>) -> Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        match self.0.socket.borrow_mut().as_mut() {
            Some(socket) => f(Pin::new(socket)),
            None => Poll::Ready(Ok(none)),
        }
    }

    /// Reads from the socket, but not beyond the request.
    fn read_unread(&self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Some(unread) = self.0.unread.get() else { return self.with((), |socket| socket.poll_read(cx, buf)) };
        let most = unread.min(buf.remaining());
        let mut part = ReadBuf::new(buf.initialize_unfilled_to(most));
        let read = self.with((), |socket| socket.poll_read(cx, &mut part));
        let got = part.filled().len();
        buf.advance(got);
        debug_assert!(got <= unread, "nothing beyond the request is read");
        self.0.unread.set(Some(unread - got));
        read
    }

    /// Finds out whether the head of the response closes the connection. `sent` are the first bytes of the response.
    fn note(&self, sent: &[u8]) {
        let head = sent.strip_prefix(CONTINUE).unwrap_or(sent);
        if head.is_empty() || self.0.closes.get().is_some() {
            return;
        }
        // If the socket did not accept the whole head at once, the client reads slowly. Then close the connection after
        // the response.
        let end = memmem::find(head, b"\r\n\r\n").map(|end| head.get(..end + 2).unwrap_or_default());
        let closes = end.is_none_or(|head| memmem::find(head, b"\r\nconnection: close\r\n").is_some());
        self.0.closes.set(Some(closes));
    }
}

impl AsyncRead for Carrier {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let inner = &*self.0;
        if inner.reads_as_closed.get() || inner.socket.borrow().is_none() {
            return Poll::Ready(Ok(()));
        }
        let mut ahead = inner.read_ahead.borrow_mut();
        if !ahead.bytes.is_empty() {
            let fits = ahead.bytes.len().min(buf.remaining());
            let left = ahead.bytes.split_off(fits);
            buf.put_slice(&std::mem::replace(&mut ahead.bytes, left));
            if ahead.bytes.is_empty() {
                (ahead.bytes, ahead.permit) = (Vec::new(), None);
            }
            return Poll::Ready(Ok(()));
        }
        drop(ahead);
        let read = match inner.unread.get() {
            Some(0) if matches!(inner.response.get(), Response::Sent | Response::Ended) => {
                inner.response.set(Response::Ended);
                return Poll::Ready(Ok(()));
            }
            Some(0) => Poll::Pending,
            _ => self.read_unread(cx, buf),
        };
        if read.is_pending() && inner.read_waker.borrow().as_ref().is_none_or(|waker| !waker.will_wake(cx.waker())) {
            *inner.read_waker.borrow_mut() = Some(cx.waker().clone());
        }
        read
    }
}

impl AsyncWrite for Carrier {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        // Write now, without asking the runtime whether the socket is ready. The runtime does not know that yet for a
        // new socket, and then the response to a request that breaks off would be lost.
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
            wake(&self.0.flush_waker);
            if self.0.response.get() == Response::Whole {
                self.0.response.set(Response::Sent);
                wake(&self.0.read_waker);
                wake(&self.0.response_waker);
            }
        }
        flushed
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.0.response.get() == Response::Ended && self.0.closes.get() == Some(false) {
            // The server believes that the peer has closed the connection, because the carrier said so. Keep it open
            // for the next request.
            return Poll::Ready(Ok(()));
        }
        self.with((), |socket| socket.poll_shutdown(cx))
    }
}

fn wake(waker: &RefCell<Option<Waker>>) {
    if let Some(waker) = waker.take() {
        waker.wake();
    }
}
