//! The socket's way from the HTTP server to the hub, or back to where the next request is read.
//!
//! The fallback is given a [`Carrier`] instead of the bare socket, and with it one request: the bytes that were
//! already read of it, and no more from the socket than it still has. The server reads the request and writes the
//! response through the carrier. The body of a stream takes the socket out of the carrier once the head is sent; after
//! any other response the socket is taken out when the server has finished with it:
//!
//! ```text
//!  HTTP server: head, first bytes ─► flush ─► body: Carrier::poll_take ─► hub
//!               a whole response  ─► flush ─► Carrier::reclaim ─► the next request
//!                                                └─ the carrier reads as closed, so the server's task and its
//!                                                   buffers are freed at once
//! ```
//!
//! It carries one request, because the bytes behind it may belong to a second one that is not complete yet: the
//! fallback would wait for the end of that for ever, and hold what is sent meanwhile.

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

/// What the server may send before its response.
const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// A connection's socket for as long as the HTTP server serves it. Clones share the one socket.
#[derive(Clone, Debug)]
pub struct Carrier(Rc<Inner>);

#[derive(Debug)]
struct Inner {
    /// `None` once it has been taken out.
    socket: RefCell<Option<TcpStream>>,
    read_ahead: RefCell<ReadAhead>,
    /// Bytes of the request that are still to be read from the socket; `None` when the request ends with the
    /// connection.
    unread: Cell<Option<usize>>,
    /// All that was written since [`Carrier::expect_flush`] is in the kernel's hands.
    flushed: Cell<bool>,
    /// Wakes who waits for that.
    flush_waker: RefCell<Option<Waker>>,
    /// Wakes who waits for bytes from the peer.
    read_waker: RefCell<Option<Waker>>,
    /// It reads as closed: what the peer still sends is of no interest.
    reads_as_closed: Cell<bool>,
    response: Cell<Response>,
    /// Wakes who waits for the response to begin, or to be sent.
    response_waker: RefCell<Option<Waker>>,
    /// The peer, or the kernel for it, has accepted bytes since [`Carrier::has_moved`] was called last.
    moved: Cell<bool>,
    /// Whether the response's head says that the connection ends with it; `None` until it has been written.
    closes: Cell<Option<bool>>,
}

/// Bytes that were read from the socket before the carrier got it.
#[derive(Debug)]
struct ReadAhead {
    bytes: Vec<u8>,
    /// Dropped with the last of the bytes.
    permit: Option<Box<dyn Any>>,
}

/// How far the response has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Response {
    /// It has not begun.
    None,
    /// It has begun. That of a stream stays here.
    Begun,
    /// The server has all of it, and is writing it.
    Whole,
    /// All of it is in the kernel's hands.
    Sent,
    /// And the server has read that no other request will come.
    Ended,
}

impl Carrier {
    /// Carries `socket` for one request. Of the request, the bytes `before` were already read, for which `hold` is
    /// held, and `rest` bytes are still to come; with `None` it has all that comes.
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

    /// Whether the end of the request is known, so that another one may follow.
    #[must_use]
    pub fn is_framed(&self) -> bool {
        self.0.unread.get().is_some()
    }

    /// The response is about to be written, whole or, of a stream, its head.
    pub fn begun(&self) {
        debug_assert_eq!(self.0.response.get(), Response::None, "a carrier carries one request");
        self.0.response.set(Response::Begun);
        wake(&self.0.response_waker);
    }

    /// The response, which has begun, is a whole one and no stream.
    pub fn answered(&self) {
        debug_assert_eq!(self.0.response.get(), Response::Begun, "a response begins before it is whole");
        self.0.response.set(Response::Whole);
    }

    /// Ready once the response has begun: from then on it is the client that is waited for.
    pub fn poll_begun(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.poll(self.has_begun(), cx)
    }

    /// Ready once the whole response has left for the kernel.
    pub fn poll_sent(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.poll(matches!(self.0.response.get(), Response::Sent | Response::Ended), cx)
    }

    fn poll(&self, is_so: bool, cx: &Context<'_>) -> Poll<()> {
        if is_so {
            return Poll::Ready(());
        }
        // One task watches a carrier.
        *self.0.response_waker.borrow_mut() = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Whether the peer has accepted some of the response since this was called last.
    #[must_use]
    pub fn has_moved(&self) -> bool {
        self.0.moved.replace(false)
    }

    /// Takes the socket out when the server has finished with it, and says whether another request may follow on it;
    /// `None` when the hub has the socket.
    #[must_use]
    pub fn reclaim(&self) -> Option<(TcpStream, bool)> {
        let follows = self.0.response.get() == Response::Ended && self.0.closes.get() == Some(false);
        self.0.socket.borrow_mut().take().map(|socket| (socket, follows))
    }

    /// [`poll_take`](Self::poll_take) must wait for a flush that comes after this: what was written before has been
    /// flushed already.
    pub fn expect_flush(&self) {
        self.0.flushed.set(false);
    }

    /// Takes the socket out once everything written to it has been flushed; `None` when somebody has it already.
    pub fn poll_take(&self, cx: &mut Context<'_>) -> Poll<Option<TcpStream>> {
        if self.0.flushed.get() {
            return Poll::Ready(self.0.socket.borrow_mut().take());
        }
        *self.0.flush_waker.borrow_mut() = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Whether the response has begun, whole or a stream: the server must take no other request from here.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.0.response.get() != Response::None
    }

    /// Makes the carrier read as closed. The HTTP server would wait for the end of a chunked body that it has already
    /// answered for as long as the sender likes, and would hold the connection.
    pub fn end_reading(&self) {
        self.0.reads_as_closed.set(true);
        wake(&self.0.read_waker);
    }

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

    /// Notes what the head of the response says about the connection.
    fn note(&self, sent: &[u8]) {
        let head = sent.strip_prefix(CONTINUE).unwrap_or(sent);
        if head.is_empty() || self.0.closes.get().is_some() {
            return;
        }
        // Where a head is not sent in one piece, the client is far behind: the connection ends with the response.
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
        // It tries at once: the runtime does not know yet whether a socket that it has just been given can be written
        // to, and the response to a request that breaks off would be lost.
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
            // The server closes because it has read that the peer has closed, but the peer has not.
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
