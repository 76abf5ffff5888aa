//! The fast path reads every request, and serves the simple ones. All others go to the fallback, a complete HTTP
//! server. [`request`] says which requests are simple.
//!
//! ```text
//!  accept ─► read ─► simple request? ─ yes ─► serve ─► response ───────────────────────► the next request
//!                          │                    └────► head, first bytes ─► the hub gets the socket
//!                          └─ no ─► the fallback gets the connection for one request ──► the next request
//! ```
//!
//! [`super::serve`] decides what a request means. The fast path only avoids the overhead of a complete HTTP server,
//! which is more than the publish itself costs. An idle connection has no buffer. If a client subscribes at once, its
//! socket is registered only with the hub's poll, never with the runtime's.
//!
//! Every connection waits here for its next request and for the rest of a head, even if the fallback then serves the
//! request. So the limits on connections, heads and waiting are all enforced here.

use std::{
    cell::RefCell,
    future::poll_fn,
    io::{self, ErrorKind},
    mem::MaybeUninit,
    net::{IpAddr, SocketAddr, TcpStream as BareStream},
    rc::Rc,
    task::{Poll, ready},
};

use futures_util::future::LocalBoxFuture;
use tokio::{
    io::ReadBuf,
    task::{spawn_local, yield_now},
};

use super::{
    app_state::AppState,
    payload::Body,
    pending::PendingSlot,
    problem::{Code, Problem},
    reply::Reply,
    serve::serve,
};
use crate::{
    hub::Subscription,
    later::{Known, NotYet},
    limits::{BytesPermit, LimitReached},
    transport::{Transport, is_not_tls},
};

mod rejected;
mod preamble;
mod fallback_request;
mod linger;
mod response;
mod connection;
mod deadline;
mod request;
mod unreadable;
mod raw_request;
mod bounds;
mod socket;

use bounds::{BYTES_MAX, HEADERS_MAX};
use connection::Connection;
use deadline::Wait;
use fallback_request::FallbackRequest;
use linger::linger;
use raw_request::RawRequest;
use rejected::RejectedConnections;
use request::{Parsed, Request};
use response::{AfterResponse, Responder, Response};
use socket::Socket;
use unreadable::not_tls;

pub use fallback_request::Fallback;
pub use linger::LINGER;

/// After this many steps, a connection lets the other tasks of its thread continue. Otherwise a client that sends
/// without a pause would keep the thread for itself: the thread would serve no other client, and miss the shutdown.
const STEPS_PER_YIELD: u32 = 32;

/// Serves the connections of one worker.
pub struct FastPath {
    app: Rc<AppState>,
    fallback: Fallback,
    /// Requests are read into this buffer. A connection has a buffer of its own only for an incomplete request, and for
    /// the bytes after a complete one.
    scratch: RefCell<Vec<u8>>,
    responder: Responder,
    rejected: RejectedConnections,
}

/// The next step on a connection.
enum Step<'a> {
    /// Read more: the next request has not arrived completely.
    Read,
    /// Wait for the reply, then send it.
    AwaitReply(LocalBoxFuture<'a, Reply>, AfterResponse),
    /// Send a response.
    Respond(Response),
    /// Send the head and the first bytes of a stream, then give the socket to the hub.
    Stream(Response, Box<Subscription>),
    /// Give the connection to the fallback for this request.
    FallBack(FallbackRequest),
    /// Close the connection without a response.
    Close,
}

impl FastPath {
    /// `fallback` serves the requests that are not simple.
    pub fn new(app: Rc<AppState>, fallback: Fallback) -> Rc<Self> {
        Rc::new(Self {
            app,
            fallback,
            scratch: RefCell::new(vec![0; BYTES_MAX]),
            responder: Responder::default(),
            rejected: RejectedConnections::default(),
        })
    }

    /// Rejects a connection that was not admitted. `/healthz` is answered nevertheless: otherwise a supervisor would
    /// restart a server that is only busy.
    pub fn reject(self: &Rc<Self>, socket: Transport<BareStream>, error: LimitReached) {
        let (eviction, problem) = (self.rejected.add(), Problem::from(error));
        self.app.own_counts.note_problem(problem.code());
        let fast = Rc::clone(self);
        spawn_local(async move {
            // An error means that the client has disconnected.
            rejected::answer(socket, problem, &eviction, &fast.responder, &fast.scratch).await.ok();
            fast.rejected.remove(&eviction);
            // A descriptor is free now. If the reserve is not complete, it gets this one.
            fast.app.descriptors.refill();
        });
    }

    /// Evicts the oldest rejected connection, if there are at least `n`. Returns false if there are fewer.
    pub fn evict_rejected_if_at_least(&self, n: usize) -> bool {
        self.rejected.len() >= n && self.rejected.evict_oldest()
    }

    /// Serves a connection until it is closed, or the hub has its socket.
    pub async fn serve(self: &Rc<Self>, socket: Transport<BareStream>, remote: SocketAddr, slot: PendingSlot) {
        // A task is as large as the largest future that it awaits. So the connection, and the futures that few
        // connections need, are in boxes.
        let mut connection = Box::new(Connection::new(socket, remote, slot, &self.app.config.server));
        if connection.is_remote_a_proxy() {
            // An error means that the preamble is broken, or has not arrived in time.
            let Ok(client) = Box::pin(preamble::read(&mut connection)).await else { return };
            if let Some(client) = client
                && let Err(limit) = connection.set_client(client, &self.app.config.server)
            {
                // An error means that the socket cannot be used, so it is closed.
                connection.socket.into_bare().map(|socket| self.reject(socket, limit)).ok();
                return;
            }
        }
        // After an error, there is no answer: the client has disconnected, or does not read.
        self.run(connection).await.ok();
    }

    /// Takes one step after another, until the connection is closed or the hub has its socket.
    async fn run(&self, mut connection: Box<Connection>) -> io::Result<()> {
        let write_timeout = self.app.config.stream.write_timeout;
        let (mut step, mut steps) = (Step::Read, 0);
        loop {
            steps += 1;
            if steps % STEPS_PER_YIELD == 0 {
                yield_now().await;
            }
            match step {
                Step::Read => {
                    step = self.read(&mut connection).await?;
                    continue;
                }
                Step::AwaitReply(reply, after) => {
                    step = self.respond(reply.await, after);
                    continue;
                }
                Step::Respond(response) => {
                    let after = response.after;
                    if after == AfterResponse::Linger {
                        // The client may retry on another connection. By then, this buffer must not count against its
                        // limits.
                        connection.free_buffer();
                    }
                    self.responder.send(&mut connection.socket, response.bytes, write_timeout).await?;
                    match after {
                        AfterResponse::KeepAlive => {}
                        AfterResponse::Close => {
                            step = Step::Close;
                            continue;
                        }
                        AfterResponse::Linger => {
                            Box::pin(linger(connection.socket.into_watched()?, &self.scratch)).await;
                            return Ok(());
                        }
                    }
                }
                Step::Stream(response, subscription) => {
                    self.responder.send(&mut connection.socket, response.bytes, write_timeout).await?;
                    self.app.hub.adopt(connection.socket.into_bare()?, *subscription);
                    return Ok(());
                }
                Step::FallBack(request) => {
                    let (remote, certificate) = (connection.remote, connection.certificate().cloned());
                    let carrier = request.into_carrier(connection.socket.into_watched()?, certificate);
                    let (fallback, scratch) = (&self.fallback, &self.scratch);
                    let served = fallback_request::serve_with(fallback, carrier, remote, write_timeout, scratch);
                    match Box::pin(served).await? {
                        Some(socket) => connection.socket = Socket::Watched(socket),
                        None => return Ok(()),
                    }
                }
                Step::Close => {
                    connection.socket.end_session();
                    return Ok(());
                }
            }
            // The request was served. Go on with the next one.
            connection.deadline.finish_request();
            step = match connection.next_refusal.take() {
                Some(problem) => self.refuse(&problem),
                // It may be in the buffer already.
                None => self.parse(&mut connection, &[]),
            };
        }
    }

    /// Waits until bytes arrive, and parses them. The wait also ends when the deadline passes or the connection is
    /// evicted.
    async fn read(&self, connection: &mut Connection) -> io::Result<Step<'_>> {
        if let Socket::Bare(bare) = &mut connection.socket {
            let mut scratch = self.scratch.borrow_mut();
            match bare.read(&mut scratch) {
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
                read => return self.receive(connection, read.map(|n| scratch.get(..n).unwrap_or_default())),
            }
        }
        connection.deadline.start();
        poll_fn(|cx| {
            let mut scratch = self.scratch.borrow_mut();
            let mut received = ReadBuf::new(&mut scratch);
            if let Poll::Ready(read) = connection.socket.watch()?.poll_read(cx, &mut received) {
                return Poll::Ready(self.receive(connection, read.map(|()| received.filled())));
            }
            if connection.cover_incomplete_record(&self.app.bytes).is_err() {
                // There is no room for the incomplete record, and no request to answer yet.
                return Poll::Ready(Ok(Step::Close));
            }
            let is_idle = connection.buffer.is_empty();
            if is_idle && !connection.slot.mark_idle(cx) {
                // The connection was evicted.
                return Poll::Ready(Ok(Step::Close));
            }
            ready!(connection.deadline.poll(cx));
            Poll::Ready(Ok(self.time_out(connection)))
        })
        .await
    }

    /// The step after a read.
    fn receive(&self, connection: &mut Connection, read: io::Result<&[u8]>) -> io::Result<Step<'_>> {
        match read {
            Ok([]) => Ok(Step::Close),
            Ok(new) => Ok(self.parse(connection, new)),
            Err(error) if is_not_tls(&error) => {
                connection.socket.give_up_tls();
                Ok(self.refuse(&not_tls()))
            }
            Err(error) => Err(error),
        }
    }

    /// The step after the deadline has passed.
    fn time_out(&self, connection: &mut Connection) -> Step<'_> {
        match connection.deadline.current_wait() {
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

    /// Parses the request that begins in the buffer and continues in `new`. Keeps in the buffer an incomplete request,
    /// and what follows a complete one.
    fn parse(&self, connection: &mut Connection, new: &[u8]) -> Step<'_> {
        let is_buffered = !connection.buffer.is_empty();
        if is_buffered && let Err(problem) = connection.append(&self.app.bytes, new) {
            return self.refuse(&problem);
        }
        let bytes = if is_buffered { &*connection.buffer } else { new };
        if bytes.iter().all(|b| matches!(b, b'\r' | b'\n')) {
            // There are no bytes, as usual after a request, or only empty lines, which are ignored before a request
            // (RFC 9112, section 2.2). So the connection is idle.
            connection.free_buffer();
            return Step::Read;
        }
        if !connection.slot.mark_busy() {
            // It was evicted before these bytes arrived, so it no longer counts against the limit.
            return Step::Close;
        }
        let searched = std::mem::take(&mut connection.searched_for_end);
        let (remote, counted_ip) = (connection.remote.ip(), connection.counted_ip());
        let mut space = [const { MaybeUninit::uninit() }; HEADERS_MAX];
        let (step, end) = match request::parse(bytes, &mut space, searched, remote) {
            Ok(Parsed::PartialHead) => {
                connection.searched_for_end = bytes.len();
                return self.read_more(connection, new, Wait::Head);
            }
            Ok(Parsed::PartialBody(_)) => return self.read_more(connection, new, Wait::Body),
            Ok(Parsed::Simple(mut request, len)) => {
                request.certificate = connection.certificate().map(|certificate| &**certificate);
                (self.serve_simple(&request), len)
            }
            Ok(Parsed::ForFallback(request)) => {
                (self.fall_back(&request, &mut connection.permit, counted_ip), request.received_len())
            }
            Err(problem) => (self.refuse(&problem), bytes.len()),
        };
        connection.keep_after(end, &self.app.bytes, new);
        step
    }

    /// Keeps an incomplete request in the buffer, and reads its rest. If there is no room, the request is refused.
    fn read_more(&self, connection: &mut Connection, new: &[u8], wait: Wait) -> Step<'_> {
        connection.deadline.wait_for(wait);
        // If the buffer was not empty, it has `new` already.
        if connection.buffer.is_empty()
            && let Err(problem) = connection.append(&self.app.bytes, new)
        {
            return self.refuse(&problem);
        }
        Step::Read
    }

    /// Gives a request to the fallback.
    fn fall_back(
        &self,
        request: &RawRequest<'_>,
        buffer_permit: &mut Option<BytesPermit>,
        counted_ip: Option<IpAddr>,
    ) -> Step<'_> {
        // The fallback gets a copy of the request. If the buffer contains nothing else, `Connection::keep_after` frees
        // the buffer later, and the copy gets the buffer's permit. Otherwise the copy gets a permit of its own.
        let permit = buffer_permit.take_if(|_| request.received_len() == request.bytes.len());
        let permit = permit.unwrap_or_else(|| self.app.bytes.bytes_permit(counted_ip));
        match FallbackRequest::new(permit, request) {
            Ok(request) => Step::FallBack(request),
            Err(error) => self.refuse(&error.into()),
        }
    }

    /// Gives a request to the fallback because its body arrives too slowly.
    fn fall_back_with_partial_body(&self, connection: &mut Connection) -> Step<'_> {
        let (remote, counted_ip) = (connection.remote.ip(), connection.counted_ip());
        let mut space = [const { MaybeUninit::uninit() }; HEADERS_MAX];
        let Ok(Parsed::PartialBody(request)) = request::parse(&connection.buffer, &mut space, 0, remote) else {
            return Step::Close;
        };
        let step = self.fall_back(&request, &mut connection.permit, counted_ip);
        connection.free_buffer();
        step
    }

    fn serve_simple(&self, request: &Request<'_>) -> Step<'_> {
        let after = if request.is_last { AfterResponse::Close } else { AfterResponse::KeepAlive };
        match serve(&self.app, request, Body::Whole(request.body)) {
            Known(reply) => self.respond(reply.into_inner(), after),
            NotYet(reply) => Step::AwaitReply(reply, after),
        }
    }

    /// The step that sends a reply.
    fn respond(&self, reply: Reply, after: AfterResponse) -> Step<'_> {
        match reply {
            Reply::Answer(answer) => Step::Respond(self.responder.format(answer, after)),
            Reply::Stream(head, subscription) => {
                Step::Stream(self.responder.format(head, AfterResponse::Close), subscription)
            }
        }
    }

    /// Refuses a request, and closes the connection after the response: the end of the request may not be known, or may
    /// not have arrived.
    fn refuse(&self, problem: &Problem) -> Step<'_> {
        self.app.own_counts.note_problem(problem.code());
        Step::Respond(self.responder.format(problem.answer(), AfterResponse::Linger))
    }
}
