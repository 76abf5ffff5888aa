//! Moves a socket from the fallback HTTP server to the hub, or back to the reader of the next request.
//!
//! The fallback server gets a [`Carrier`] instead of the socket. Through it, the server reads one request and writes
//! the response: the carrier returns the bytes that were already read, and then reads no further than the end of the
//! request. A response is a *stream* or an *answer*. The body of a stream takes the socket out of the carrier after the
//! head is sent. After an answer, the socket is taken out when the server has finished:
//!
//! ```text
//!  HTTP server: head, first bytes ─► flush ─► body: Carrier::poll_take ─► hub
//!               a whole answer    ─► flush ─► end of input ─► Carrier::reclaim ─► the next request
//! ```
//!
//! The carrier reports the end of the input to the server, so the server's task and its buffers are freed at once.
//!
//! A carrier is for one request only. Bytes after the request may belong to a second request that is not complete. With
//! these bytes, the fallback server would wait for the end of the second request, and keep back the first response.

use std::{
    any::Any,
    cell::{Cell, RefCell},
    io,
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use memchr::memmem;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use crate::transport::{ClientCertificate, Transport};

/// The interim response that the server may send before its response.
const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// A connection's socket while the fallback server uses it. Clones share the same socket.
///
/// One task runs the server and waits for its progress, so one waker is enough.
#[derive(Clone, Debug)]
pub struct Carrier(Rc<Inner>);

#[derive(Debug)]
struct Inner {
    /// `None` after it has been taken out.
    socket: RefCell<Option<Transport<TcpStream>>>,
    /// The client's certificate, if it counts.
    certificate: Option<Arc<ClientCertificate>>,
    /// Bytes that the server reads before those of the socket.
    read_ahead: RefCell<Option<ReadAhead>>,
    /// How many bytes of the request are still to be read from the socket; `None` if the request's length is not known.
    unread: Cell<Option<usize>>,
    /// How far the response is.
    stage: Cell<ResponseStage>,
    /// Whether the response's head contains `Connection: close`; `None` until the head has been written.
    closes: Cell<Option<bool>>,
    /// The socket has accepted bytes since the last call of [`Carrier::take_progress`].
    has_progress: Cell<bool>,
    /// The task that waits for bytes from the peer, or for the progress of the response.
    waker: RefCell<Option<Waker>>,
}

/// Bytes that were read from the socket before the carrier got it, and their permit.
#[derive(Debug)]
struct ReadAhead {
    bytes: Vec<u8>,
    _permit: Box<dyn Any>,
}

/// How far the response is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ResponseStage {
    /// The response has not begun.
    NotBegun,
    /// The server is writing the head and the first bytes of a stream.
    StreamBegun,
    /// The head and the first bytes of the stream have been given to the kernel.
    StreamFlushed,
    /// The server is writing an answer.
    AnswerBegun,
    /// The whole answer has been given to the kernel.
    AnswerFlushed,
    /// After the answer, the carrier has reported the end of the input. The server knows that no other request comes.
    InputEnded,
}

impl Carrier {
    /// Creates a carrier of `socket` for one request. The bytes `before` of the request were already read, and `permit`
    /// is their permit. `rest` more bytes of the request will come; with `None`, everything that comes belongs to the
    /// request. `certificate` is the client's, if it counts.
    #[must_use]
    pub fn new(
        socket: Transport<TcpStream>,
        before: Vec<u8>,
        rest: Option<usize>,
        permit: Box<dyn Any>,
        certificate: Option<Arc<ClientCertificate>>,
    ) -> Self {
        debug_assert!(!before.is_empty(), "a request has begun");
        Self(Rc::new(Inner {
            socket: RefCell::new(Some(socket)),
            certificate,
            read_ahead: RefCell::new(Some(ReadAhead { bytes: before, _permit: permit })),
            unread: Cell::new(rest),
            stage: Cell::new(ResponseStage::NotBegun),
            closes: Cell::new(None),
            has_progress: Cell::new(false),
            waker: RefCell::default(),
        }))
    }

    /// The client's certificate, if it counts.
    #[must_use]
    pub fn certificate(&self) -> Option<&ClientCertificate> {
        self.0.certificate.as_deref()
    }

    /// Whether the length of the request is known. If it is not, no other request can follow.
    #[must_use]
    pub fn is_length_known(&self) -> bool {
        self.0.unread.get().is_some()
    }

    /// Notes that the server has been given the first bytes of a stream: its next flush sends the head and these bytes.
    pub fn begin_stream(&self) {
        self.begin(ResponseStage::StreamBegun);
    }

    /// Notes that the server has been given a whole answer.
    ///
    /// If the length of the request is not known, the carrier now reports the end of the input: without this report,
    /// the server would wait for the end of a chunked body, and a client could keep the connection for ever.
    pub fn begin_answer(&self) {
        self.begin(ResponseStage::AnswerBegun);
    }

    fn begin(&self, stage: ResponseStage) {
        debug_assert!(!self.has_begun(), "a carrier carries one request");
        self.set_stage(stage);
    }

    fn set_stage(&self, stage: ResponseStage) {
        self.0.stage.set(stage);
        if let Some(waker) = self.0.waker.take() {
            waker.wake();
        }
    }

    /// Whether the response has begun. If so, the server must not read another request from this carrier.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.0.stage.get() != ResponseStage::NotBegun
    }

    /// Whether the whole answer has been given to the kernel.
    fn is_answer_flushed(&self) -> bool {
        matches!(self.0.stage.get(), ResponseStage::AnswerFlushed | ResponseStage::InputEnded)
    }

    /// Whether the response is complete and another request may follow.
    fn is_kept_alive(&self) -> bool {
        self.0.stage.get() == ResponseStage::InputEnded && self.0.closes.get() == Some(false)
    }

    /// Ready when the response has begun. From then on, the server waits only for the client.
    pub fn poll_begun(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.has_begun() { Poll::Ready(()) } else { self.wait(cx) }
    }

    /// Ready when the whole answer has been given to the kernel, or the socket was taken out.
    pub fn poll_done(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.is_answer_flushed() || self.0.socket.borrow().is_none() { Poll::Ready(()) } else { self.wait(cx) }
    }

    /// Takes the socket out when the first bytes of the stream have been flushed. The result is `None` if the socket
    /// was taken out before.
    pub fn poll_take(&self, cx: &mut Context<'_>) -> Poll<Option<Transport<TcpStream>>> {
        if self.0.stage.get() == ResponseStage::StreamFlushed {
            Poll::Ready(self.0.socket.take())
        } else {
            self.wait(cx)
        }
    }

    fn wait<T>(&self, cx: &Context<'_>) -> Poll<T> {
        self.0.waker.replace(Some(cx.waker().clone()));
        Poll::Pending
    }

    /// Whether the socket has accepted bytes of the response since the last call.
    #[must_use]
    pub fn take_progress(&self) -> bool {
        self.0.has_progress.take()
    }

    /// Takes the socket out after the server has finished, and returns it with whether another request may follow.
    /// Returns `None` if the socket was taken out before.
    #[must_use]
    pub fn reclaim(&self) -> Option<(Transport<TcpStream>, bool)> {
        self.0.socket.take().map(|socket| (socket, self.is_kept_alive()))
    }

    /// Calls `f` with the socket, or returns `if_taken` if the socket was taken out.
    fn with<T>(
        &self,
        if_taken: T,
        f: impl FnOnce(&mut Transport<TcpStream>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        match self.0.socket.borrow_mut().as_mut() {
            Some(socket) => f(socket),
            None => Poll::Ready(Ok(if_taken)),
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
    fn inspect_head(&self, sent: &[u8]) {
        let head = sent.strip_prefix(CONTINUE).unwrap_or(sent);
        if head.is_empty() || self.0.closes.get().is_some() {
            return;
        }
        // If the socket did not accept the whole head at once, the end of the head is not in `sent`. The client reads
        // slowly, so close its connection after the response.
        let fields = memmem::find(head, b"\r\n\r\n").map(|at| head.get(..at + 2).unwrap_or_default());
        let closes = fields.is_none_or(|fields| memmem::find(fields, b"\r\nconnection: close\r\n").is_some());
        self.0.closes.set(Some(closes));
    }
}

impl AsyncRead for Carrier {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let stage = self.0.stage.get();
        let is_answer =
            matches!(stage, ResponseStage::AnswerBegun | ResponseStage::AnswerFlushed | ResponseStage::InputEnded);
        if self.0.socket.borrow().is_none() || (is_answer && !self.is_length_known()) {
            return Poll::Ready(Ok(()));
        }
        let mut ahead = self.0.read_ahead.borrow_mut();
        if let Some(ReadAhead { bytes, .. }) = &mut *ahead {
            let fits = bytes.len().min(buf.remaining());
            buf.put_slice(bytes.drain(..fits).as_slice());
            if bytes.is_empty() {
                *ahead = None;
            }
            return Poll::Ready(Ok(()));
        }
        drop(ahead);
        let read = match self.0.unread.get() {
            Some(0) if self.is_answer_flushed() => {
                self.0.stage.set(ResponseStage::InputEnded);
                return Poll::Ready(Ok(()));
            }
            Some(0) => Poll::Pending,
            _ => self.read_unread(cx, buf),
        };
        if read.is_pending() { self.wait(cx) } else { read }
    }
}

impl AsyncWrite for Carrier {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        // This writes at once, even if the runtime does not know yet that a new socket is ready. If a client has ended
        // its request too early, the server does not wait for a write that is pending, and the response would be lost.
        let written = self.with(buf.len(), |socket| socket.poll_write(cx, buf));
        if let Poll::Ready(Ok(n)) = written {
            self.0.has_progress.set(true);
            self.inspect_head(buf.get(..n).unwrap_or_default());
        }
        written
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The kernel has all bytes that were written, or the TLS session has the last of them and sends them before
        // others.
        match self.0.stage.get() {
            ResponseStage::StreamBegun => self.set_stage(ResponseStage::StreamFlushed),
            ResponseStage::AnswerBegun => self.set_stage(ResponseStage::AnswerFlushed),
            _ => {}
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.is_kept_alive() {
            // The server ends the connection, because the carrier has reported the end of the input. But the client has
            // not closed the connection: keep it open for the next request.
            return Poll::Ready(Ok(()));
        }
        self.with((), |socket| Poll::Ready(socket.finish()))
    }
}
