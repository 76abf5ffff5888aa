//! The fast path: it reads every request, and serves those that are complete and simple. All others go to the fallback.
//!
//! ```text
//!  accept ─► read ─► simple request? ─ yes ─► serve ─► response ───────────────────────► the next request
//!                          │                    └────► head, first bytes ─► the hub gets the socket
//!                          └─ no ─► the fallback gets the connection for one request ──► the next request
//! ```
//!
//! [`super::serve`] decides what a request means. The fast path only avoids the overhead of a complete HTTP server,
//! which costs more than the event itself. An idle connection has no buffer. A connection whose client subscribes at
//! once is registered only with the hub's poll, never with the runtime's.
//!
//! Every connection waits here for its next request and for the rest of a head, no matter which server answers. So the
//! limits on connections, heads and waiting are all enforced here.

use std::{
    cell::RefCell,
    future::poll_fn,
    io::{self, ErrorKind, Read as _},
    net::{SocketAddr, TcpStream as BareStream},
    pin::Pin,
    rc::Rc,
    task::{Poll, ready},
};

use futures_util::future::{Either, LocalBoxFuture};
use tokio::{
    io::{AsyncRead as _, ReadBuf},
    task::{spawn_local, yield_now},
};

use super::{
    app_state::AppState,
    payload::Body,
    pending::{PendingSlot, PendingSlots},
    problem::{Code, Problem},
    reply::Reply,
    serve::serve,
};
use crate::{hub::Subscription, limits::BytesPermit};

mod rejected;
mod fallback;
mod linger;
mod response;
mod connection;
mod deadline;
mod request;
mod unreadable;
mod framing;
mod bounds;
mod socket;

use bounds::BYTES_MAX;
use connection::Connection;
use deadline::Wait;
use fallback::{AfterFallback, FallbackRequest};
use framing::Framing;
use linger::linger;
use rejected::RejectedConnections;
use request::{Parsed, Request};
use response::{AfterResponse, Responder, Response};
use socket::Socket;

pub use fallback::Fallback;

/// A connection lets the other tasks of its thread continue after so many steps. Without this, a client that sends
/// without a pause would never have to wait, and the thread would serve nobody else and miss the shutdown.
const STEPS_PER_YIELD: u32 = 16;

/// Serves the connections of one worker.
pub struct FastPath {
    app: Rc<AppState>,
    fallback: Fallback,
    pending: Rc<PendingSlots>,
    /// Every read goes into this buffer. Only a request that arrives in pieces gets a buffer of its own.
    scratch: RefCell<Vec<u8>>,
    responder: Responder,
    rejected: RejectedConnections,
}

/// What to do next on a connection.
enum Step<'a> {
    /// Send a response.
    Respond(Response),
    /// Send the head and the first bytes of a stream, then give the socket to the hub.
    Stream(Response, Box<Subscription>),
    /// Wait for the reply, then send it.
    AwaitReply(LocalBoxFuture<'a, Reply>, AfterResponse),
    /// Read more: the request is not complete.
    Read,
    /// Give the connection to the fallback for this request.
    FallBack(FallbackRequest),
    /// Close the connection without a response.
    Close,
}

impl FastPath {
    /// `fallback` serves the requests that are not simple.
    pub fn new(app: Rc<AppState>, fallback: Fallback, pending: Rc<PendingSlots>) -> Rc<Self> {
        let scratch = RefCell::new(vec![0; BYTES_MAX]);
        Rc::new(Self {
            app,
            fallback,
            pending,
            scratch,
            responder: Responder::default(),
            rejected: RejectedConnections::default(),
        })
    }

    /// Admits a new connection. At a limit, this evicts the connection that has been idle longest.
    ///
    /// # Errors
    /// When a limit is reached and no connection that counts against it is idle.
    pub fn admit(&self, remote: SocketAddr) -> Result<PendingSlot, Problem> {
        Ok(self.pending.admit(remote.ip())?)
    }

    /// Evicts the connection that has been idle longest. Returns false if none is idle.
    pub fn evict_idle(&self) -> bool {
        self.pending.evict_idle()
    }

    /// Rejects a connection that was not admitted. `/healthz` is answered nevertheless: otherwise a supervisor would
    /// restart a server that is only busy.
    pub fn reject(self: &Rc<Self>, socket: BareStream, problem: Problem) {
        let (key, evicted) = self.rejected.add();
        let fast = Rc::clone(self);
        spawn_local(async move {
            rejected::answer(socket, problem, &evicted, &fast.responder, &fast.scratch).await.ok();
            fast.rejected.remove(key);
        });
    }

    /// Serves a connection until it is closed, or the hub has its socket.
    pub async fn serve(self: Rc<Self>, socket: BareStream, remote: SocketAddr, slot: PendingSlot) {
        let connection = Connection::new(socket, remote, slot, &self.app.config.server);
        // An error means that the client has disconnected, or reads nothing. So it cannot be told.
        self.run(connection).await.ok();
    }

    async fn run(&self, mut connection: Connection) -> io::Result<()> {
        let mut steps = 0;
        // The bytes after a request may already be the next request. Then they are parsed before more is read.
        let mut has_unparsed = false;
        loop {
            steps += 1;
            if steps % STEPS_PER_YIELD == 0 {
                yield_now().await;
            }
            let step = match connection.next_refusal.take() {
                Some(problem) => self.refuse(&problem),
                None if has_unparsed => self.parse(&mut connection, &[]),
                None => self.read(&mut connection).await?,
            };
            let step = match step {
                Step::AwaitReply(reply, after) => self.reply(reply.await, after),
                step => step,
            };
            match step {
                Step::Respond(response) => {
                    let after = response.after;
                    if after == AfterResponse::Linger {
                        // The client may retry on another connection. Its byte budget must be free by then.
                        connection.free_buffer();
                    }
                    self.send(&mut connection.socket, response.bytes).await?;
                    match after {
                        AfterResponse::KeepAlive => {}
                        AfterResponse::Close => return Ok(()),
                        AfterResponse::Linger => {
                            linger(connection.socket, &self.scratch).await;
                            return Ok(());
                        }
                    }
                }
                Step::Stream(response, subscription) => {
                    self.send(&mut connection.socket, response.bytes).await?;
                    self.app.hub.adopt(connection.socket.into_bare()?, *subscription);
                    return Ok(());
                }
                Step::FallBack(request) => {
                    let write_timeout = self.app.config.stream.write_timeout;
                    let answered =
                        fallback::answer(&self.fallback, &mut connection, request, write_timeout, &self.scratch);
                    if answered.await? == AfterFallback::Gone {
                        return Ok(());
                    }
                }
                Step::Read => {
                    has_unparsed = false;
                    continue;
                }
                Step::AwaitReply(..) | Step::Close => return Ok(()),
            }
            connection.finish_request();
            has_unparsed = !connection.buffer.is_empty();
        }
    }

    /// Waits until bytes arrive, and parses them. It ends early when the deadline passes or the connection is evicted.
    async fn read(&self, connection: &mut Connection) -> io::Result<Step<'_>> {
        if let Socket::Bare(bare) = &mut connection.socket {
            let mut scratch = self.scratch.borrow_mut();
            match bare.read(&mut scratch) {
                Ok(0) => return Ok(Step::Close),
                Ok(n) => return Ok(self.parse(connection, scratch.get(..n).unwrap_or_default())),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
                Err(error) => return Err(error),
            }
        }
        connection.socket.watch()?;
        connection.deadline.start(connection.wait);
        let is_idle = connection.buffer.is_empty();
        poll_fn(|cx| {
            let mut scratch = self.scratch.borrow_mut();
            let mut received = ReadBuf::new(&mut scratch);
            let Socket::Watched(socket) = &mut connection.socket else { return Poll::Ready(Ok(Step::Close)) };
            if let Poll::Ready(read) = Pin::new(socket).poll_read(cx, &mut received) {
                return Poll::Ready(read.map(|()| match received.filled() {
                    [] => Step::Close,
                    new => self.parse(connection, new),
                }));
            }
            if is_idle && !connection.slot.mark_idle(cx) {
                return Poll::Ready(Ok(Step::Close));
            }
            ready!(connection.deadline.poll(cx));
            Poll::Ready(Ok(self.time_out(connection)))
        })
        .await
    }

    /// What to do when the deadline has passed.
    fn time_out(&self, connection: &mut Connection) -> Step<'_> {
        match connection.wait {
            // The client has sent no request, so there is nothing to answer.
            Wait::FirstRequest | Wait::NextRequest => Step::Close,
            Wait::Head => {
                let within = humantime::format_duration(self.app.config.server.head_timeout);
                let detail = format!("the head of the request did not arrive within {within}");
                self.refuse(&Problem::new(Code::HeadTimeout, detail))
            }
            Wait::Body => self.fall_back_with_partial_body(connection),
        }
    }

    /// Parses the request at the beginning of the buffer and of `new`, which follows the buffer. It buffers the bytes
    /// that do not belong to the request.
    fn parse(&self, connection: &mut Connection, new: &[u8]) -> Step<'_> {
        let is_buffered = !connection.buffer.is_empty();
        if is_buffered && let Err(problem) = connection.append(&self.app.bytes, new) {
            return self.refuse(&problem);
        }
        let bytes = if is_buffered { &*connection.buffer } else { new };
        if bytes.iter().all(|b| matches!(b, b'\r' | b'\n')) {
            // Empty lines before a request are ignored (RFC 9112, section 2.2), so the connection stays idle.
            connection.free_buffer();
            return Step::Read;
        }
        connection.slot.mark_busy();
        let parsed = request::parse(bytes, connection.searched, Some(connection.remote.ip()), |request| {
            self.serve_simple(request)
        });
        let (step, used) = match parsed {
            Parsed::Served(step, len) => (step, len),
            Parsed::PartialHead => {
                connection.wait = Wait::Head;
                (Step::Read, 0)
            }
            Parsed::PartialBody => {
                connection.wait = Wait::Body;
                (Step::Read, 0)
            }
            Parsed::ForFallback(framing) => {
                let len = framing.received(bytes);
                let permit = connection.permit.take_if(|_| len == bytes.len());
                let permit = permit.unwrap_or_else(|| self.app.bytes.bytes_permit(Some(connection.remote.ip())));
                (self.fall_back(permit, &framing, bytes, len), len)
            }
            Parsed::Refused(problem) => (self.refuse(&problem), bytes.len()),
        };
        let buffered = if is_buffered {
            connection.buffer.drain(..used);
            Ok(())
        } else {
            connection.append(&self.app.bytes, new.get(used..).unwrap_or_default())
        };
        if connection.buffer.is_empty() {
            connection.free_buffer();
        }
        connection.searched = if connection.wait == Wait::Head && used == 0 { connection.buffer.len() } else { 0 };
        match buffered {
            Ok(()) => step,
            Err(problem) if used == 0 => self.refuse(&problem),
            // The complete request is answered first. The next one, which could not be buffered, is refused after it.
            Err(problem) => {
                connection.next_refusal = Some(problem);
                step
            }
        }
    }

    /// Gives the first `len` of `bytes` to the fallback.
    fn fall_back(&self, permit: BytesPermit, framing: &Framing, bytes: &[u8], len: usize) -> Step<'_> {
        match FallbackRequest::new(permit, framing, bytes, len) {
            Ok(request) => Step::FallBack(request),
            Err(error) => self.refuse(&error.into()),
        }
    }

    /// Gives a simple request to the fallback because its body arrives too slowly.
    fn fall_back_with_partial_body(&self, connection: &mut Connection) -> Step<'_> {
        let Some(framing) = request::parse_framing(&connection.buffer) else { return Step::Close };
        // The request is not complete, so the whole buffer belongs to it.
        let buffer = std::mem::take(&mut connection.buffer);
        let permit =
            connection.permit.take().unwrap_or_else(|| self.app.bytes.bytes_permit(Some(connection.remote.ip())));
        self.fall_back(permit, &framing, &buffer, buffer.len())
    }

    fn serve_simple(&self, request: &Request<'_>) -> Step<'_> {
        let after = if request.is_last { AfterResponse::Close } else { AfterResponse::KeepAlive };
        match serve(&self.app, request, Body::Whole(request.body)) {
            Either::Left(reply) => self.reply(reply.into_inner(), after),
            Either::Right(reply) => Step::AwaitReply(reply, after),
        }
    }

    fn reply(&self, reply: Reply, after: AfterResponse) -> Step<'_> {
        match reply {
            Reply::Answer(answer) => Step::Respond(self.responder.respond(answer, after)),
            Reply::Stream(head, subscription) => {
                Step::Stream(self.responder.respond(head, AfterResponse::Close), subscription)
            }
        }
    }

    /// Refuses a request whose end is not known or has not arrived, so the connection must be closed after the
    /// response.
    fn refuse(&self, problem: &Problem) -> Step<'_> {
        Step::Respond(self.responder.respond(problem.answer(), AfterResponse::Linger))
    }

    async fn send(&self, socket: &mut Socket, bytes: Vec<u8>) -> io::Result<()> {
        self.responder.send(socket, bytes, self.app.config.stream.write_timeout).await
    }
}
