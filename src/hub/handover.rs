//! The socket's way from the HTTP server to the hub.
//!
//! The full HTTP server is given a [`Carrier`] instead of the bare socket. It reads the request and writes the response
//! head through it; once the head is out, the response body takes the socket away:
//!
//! ```text
//!  HTTP server: head, first bytes ─► flush ─► body: Carrier::take ─► hub
//!                                                     └─ the empty carrier reads as closed, so the connection's
//!                                                        task and its buffers are freed at once
//! ```

use std::{
    cell::{Cell, RefCell},
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    task::spawn_local,
    time::sleep,
};

/// A connection's socket for as long as the HTTP server serves it. Clones share the one socket.
#[derive(Clone, Debug)]
pub struct Carrier(Rc<Inner>);

#[derive(Debug)]
struct Inner {
    socket: RefCell<Option<TcpStream>>,
    /// What was read from it before, to be read again.
    before: RefCell<Vec<u8>>,
    /// All that was written since [`Carrier::expect_flush`] has left for the kernel.
    flushed: Cell<bool>,
    waiting: RefCell<Option<Waker>>,
    /// Who waits for the peer to say something.
    reader: RefCell<Option<Waker>>,
    /// What the peer still has to say is of no interest.
    deaf: Cell<bool>,
}

impl Carrier {
    /// Carries `socket`, from which `before` has been read already.
    #[must_use]
    pub fn new(socket: TcpStream, before: Vec<u8>) -> Self {
        Self(Rc::new(Inner {
            socket: RefCell::new(Some(socket)),
            before: RefCell::new(before),
            flushed: Cell::new(false),
            waiting: RefCell::default(),
            reader: RefCell::default(),
            deaf: Cell::new(false),
        }))
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

    /// Reads as closed after `time`. The HTTP server would wait for the end of a chunked body that has been answered
    /// already as long as its sender likes, and with it the connection would be held.
    pub fn end_reading_in(&self, time: Duration) {
        let inner = Rc::clone(&self.0);
        spawn_local(async move {
            sleep(time).await;
            inner.deaf.set(true);
            inner.reader.take().into_iter().for_each(Waker::wake);
        });
    }

    fn with<T>(&self, none: T, f: impl FnOnce(Pin<&mut TcpStream>) -> Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        match self.0.socket.borrow_mut().as_mut() {
            Some(socket) => f(Pin::new(socket)),
            None => Poll::Ready(Ok(none)),
        }
    }
}

impl AsyncRead for Carrier {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.0.deaf.get() {
            return Poll::Ready(Ok(()));
        }
        let mut before = self.0.before.borrow_mut();
        if !before.is_empty() {
            let fits = before.len().min(buf.remaining());
            let rest = before.split_off(fits);
            buf.put_slice(&std::mem::replace(&mut *before, rest));
            return Poll::Ready(Ok(()));
        }
        drop(before);
        let read = self.with((), |socket| socket.poll_read(cx, buf));
        if read.is_pending() && self.0.reader.borrow().as_ref().is_none_or(|reader| !reader.will_wake(cx.waker())) {
            *self.0.reader.borrow_mut() = Some(cx.waker().clone());
        }
        read
    }
}

impl AsyncWrite for Carrier {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.with(buf.len(), |socket| socket.poll_write(cx, buf))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = self.with((), |socket| socket.poll_flush(cx));
        if matches!(flushed, Poll::Ready(Ok(()))) {
            self.0.flushed.set(true);
            if let Some(waiting) = self.0.waiting.borrow_mut().take() {
                waiting.wake();
            }
        }
        flushed
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with((), |socket| socket.poll_shutdown(cx))
    }
}
