//! The fast path: it reads every request, and has those served that are whole and plain. The others it leaves to the
//! fallback.
//!
//! ```text
//!  accept ─► read ─► plain request? ─ yes ─► serve ─► answer ─────────────────────────────► the next one
//!                         │                    └────► head, first bytes ─► the socket goes to the hub
//!                         └─ no ─► the fallback has the connection for this one request ─► the next one
//! ```
//!
//! What a request means is decided elsewhere ([`super::serve`]); what is spared is the machinery of an HTTP server around
//! it, which costs more than the event does. A connection that waits has no buffer, and one that subscribes at once is never
//! known to the runtime's poll, only to the hub's. What waits for a request, or for the rest of its head, waits here,
//! whichever server answers it: so the limits on connections, heads and waiting are in one place.

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
    Edge,
    pending::{Pending, Place},
    problem::{Code, Problem},
    serve::{Body, Reply, serve},
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
use fallback::ForFallback;
use framing::Framed;
use linger::linger;
use rejected::RejectedConnections;
use request::{Look, Request};
use response::{Responder, Response};
use socket::Socket;

pub use fallback::Fallback;

/// Requests of one connection that are served, or reads that bring none, before others have their turn. One that sends
/// without end would otherwise never have to wait, and nobody else on this thread would be served, or told to stop.
const TURN: u32 = 16;

/// Serves the connections of one worker.
pub struct FastPath {
    edge: Rc<Edge>,
    fallback: Fallback,
    pending: Rc<Pending>,
    /// What is read goes here first: only a request that comes in pieces gets memory of its own.
    scratch: RefCell<Vec<u8>>,
    responder: Responder,
    rejected: RejectedConnections,
}

/// What to do next on a connection.
enum Step<'a> {
    /// Answer, and go on unless it was the last request.
    Answer(Response),
    /// Send the first bytes of a stream, and give the socket to the hub.
    Stream(Response, Box<Subscription>),
    /// Wait for the reply. The connection ends with it, or not.
    Reply(LocalBoxFuture<'a, Reply>, bool),
    /// Wait for more.
    Wait,
    /// Give it to the fallback.
    FallBack(ForFallback),
    /// The peer has gone, or has to.
    End,
}

impl FastPath {
    /// `fallback` serves the requests that are not plain.
    pub fn new(edge: Rc<Edge>, fallback: Fallback, pending: Rc<Pending>) -> Rc<Self> {
        let scratch = RefCell::new(vec![0; BYTES_MAX]);
        Rc::new(Self {
            edge,
            fallback,
            pending,
            scratch,
            responder: Responder::default(),
            rejected: RejectedConnections::default(),
        })
    }

    /// A place for a new connection; if need be that of the oldest silent one.
    ///
    /// # Errors
    /// When a limit is reached, and none that could give way is silent.
    pub fn admit(&self, remote: SocketAddr) -> Result<Place, Problem> {
        Ok(self.pending.admit(remote.ip())?)
    }

    /// Has the oldest silent connection end; false when there is none.
    pub fn evict(&self) -> bool {
        self.pending.evict()
    }

    /// Answers a connection that there is no room for. A supervisor that asks for `/healthz` is answered all the same:
    /// it would otherwise restart a server that is only busy.
    pub fn reject(self: &Rc<Self>, socket: BareStream, problem: Problem) {
        let (key, gives_way) = self.rejected.enter();
        let fast = Rc::clone(self);
        spawn_local(async move {
            rejected::answer(socket, problem, &gives_way, &fast.responder, &fast.scratch).await.ok();
            fast.rejected.leave(key);
        });
    }

    /// Serves a connection to its end, or until it belongs to the hub.
    pub async fn serve(self: Rc<Self>, socket: BareStream, remote: SocketAddr, place: Place) {
        let connection = Connection::new(socket, remote, place, &self.edge.config.server);
        // An error means that the peer has gone, and nobody is left to be told.
        self.run(connection).await.ok();
    }

    async fn run(&self, mut connection: Connection) -> io::Result<()> {
        let (mut turns, mut is_new) = (0, false);
        loop {
            turns += 1;
            if turns % TURN == 0 {
                yield_now().await;
            }
            // What follows a request that has been served may be another one.
            let step = match connection.refused.take() {
                Some(problem) => self.refuse(&problem),
                None if is_new => self.look(&mut connection, &[]),
                None => self.next(&mut connection).await?,
            };
            let step = match step {
                Step::Reply(reply, is_last) => self.reply(reply.await, is_last),
                step => step,
            };
            let response = match step {
                Step::Answer(response) => response,
                Step::Stream(first, subscription) => {
                    self.send(&mut connection.socket, first.bytes).await?;
                    self.edge.hub.adopt(connection.socket.into_bare()?, *subscription);
                    return Ok(());
                }
                Step::Wait => {
                    is_new = false;
                    continue;
                }
                Step::FallBack(request) => {
                    let write_timeout = self.edge.config.stream.write_timeout;
                    let given = fallback::give(&self.fallback, &mut connection, request, write_timeout, &self.scratch);
                    if !given.await? {
                        return Ok(());
                    }
                    connection.served();
                    is_new = !connection.held.is_empty();
                    continue;
                }
                Step::Reply(..) | Step::End => return Ok(()),
            };
            if response.is_sudden {
                // Its client may try again elsewhere, and would find its own bytes in the way.
                connection.release();
            }
            self.send(&mut connection.socket, response.bytes).await?;
            if response.is_sudden {
                linger(connection.socket, &self.scratch).await;
                return Ok(());
            }
            if response.is_last {
                return Ok(());
            }
            connection.served();
            is_new = !connection.held.is_empty();
        }
    }

    /// Waits for something to read, and looks at it.
    async fn next(&self, connection: &mut Connection) -> io::Result<Step<'_>> {
        if let Socket::Bare(bare) = &mut connection.socket {
            let mut scratch = self.scratch.borrow_mut();
            match bare.read(&mut scratch) {
                Ok(0) => return Ok(Step::End),
                Ok(n) => return Ok(self.look(connection, scratch.get(..n).unwrap_or_default())),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
                Err(error) => return Err(error),
            }
        }
        connection.socket.watch()?;
        connection.deadline.begin(connection.wait);
        let is_silent = connection.held.is_empty();
        poll_fn(|cx| {
            let mut scratch = self.scratch.borrow_mut();
            let mut buffer = ReadBuf::new(&mut scratch);
            let Socket::Watched(socket) = &mut connection.socket else { return Poll::Ready(Ok(Step::End)) };
            if let Poll::Ready(read) = Pin::new(socket).poll_read(cx, &mut buffer) {
                return Poll::Ready(read.map(|()| match buffer.filled() {
                    [] => Step::End,
                    new => self.look(connection, new),
                }));
            }
            if is_silent && !connection.place.wait(cx) {
                return Poll::Ready(Ok(Step::End));
            }
            ready!(connection.deadline.poll(cx));
            Poll::Ready(Ok(self.overdue(connection)))
        })
        .await
    }

    /// What becomes of a connection whose wait is over.
    fn overdue(&self, connection: &mut Connection) -> Step<'_> {
        match connection.wait {
            // A connection that has not begun to ask ends without a word.
            Wait::First | Wait::Next => Step::End,
            Wait::Head => {
                let within = humantime::format_duration(self.edge.config.server.head_timeout);
                let detail = format!("the head of the request did not arrive within {within}");
                self.refuse(&Problem::new(Code::HeadTimeout, detail))
            }
            Wait::Body => self.hand_over(connection),
        }
    }

    /// Looks at the bytes that are held, and at `new` behind them; holds those that it does not use.
    fn look(&self, connection: &mut Connection, new: &[u8]) -> Step<'_> {
        if !connection.held.is_empty()
            && let Err(problem) = connection.hold(&self.edge.bytes, new)
        {
            return self.refuse(&problem);
        }
        let is_held = !connection.held.is_empty();
        let whole = if is_held { &*connection.held } else { new };
        if whole.iter().all(|b| matches!(b, b'\r' | b'\n')) {
            // Empty lines before a request are nothing (RFC 9112, section 2.2): nobody has begun to ask.
            connection.release();
            return Step::Wait;
        }
        connection.place.begin();
        let looked =
            request::look(whole, connection.looked, Some(connection.remote.ip()), |request| self.take(request));
        let (step, used) = match looked {
            Look::Plain(step, used) => (step, used),
            Look::Head => {
                connection.wait = Wait::Head;
                (Step::Wait, 0)
            }
            Look::Body => {
                connection.wait = Wait::Body;
                (Step::Wait, 0)
            }
            Look::Other(framed) => {
                let used = framed.used(whole);
                let permit = connection.permit.take_if(|_| used == whole.len());
                let permit = permit.unwrap_or_else(|| self.edge.bytes.permit(Some(connection.remote.ip())));
                (self.fall_back(permit, &framed, whole, used), used)
            }
            Look::Bad(problem) => (self.refuse(&problem), whole.len()),
        };
        let kept = if is_held {
            connection.held.drain(..used);
            Ok(())
        } else {
            connection.hold(&self.edge.bytes, new.get(used..).unwrap_or_default())
        };
        if connection.held.is_empty() {
            connection.release();
        }
        connection.looked = if connection.wait == Wait::Head && used == 0 { connection.held.len() } else { 0 };
        match kept {
            Ok(()) => step,
            Err(problem) if used == 0 => self.refuse(&problem),
            // The request that was whole is answered, and the next one, which cannot be held, is refused.
            Err(problem) => {
                connection.refused = Some(problem);
                step
            }
        }
    }

    /// The step that gives the request at the beginning of `bytes` to the fallback; `used` of them are of it.
    fn fall_back(&self, permit: BytesPermit, framed: &Framed, bytes: &[u8], used: usize) -> Step<'_> {
        match ForFallback::new(permit, framed, bytes, used) {
            Ok(request) => Step::FallBack(request),
            Err(error) => self.refuse(&error.into()),
        }
    }

    /// Gives a request whose body does not come in time to the fallback.
    fn hand_over(&self, connection: &mut Connection) -> Step<'_> {
        let Some(framed) = request::framed(&connection.held) else { return Step::End };
        // All of it: what is held is not yet the whole request.
        let held = std::mem::take(&mut connection.held);
        let permit = connection.permit.take().unwrap_or_else(|| self.edge.bytes.permit(Some(connection.remote.ip())));
        self.fall_back(permit, &framed, &held, held.len())
    }

    fn take(&self, request: &Request<'_>) -> Step<'_> {
        match serve(&self.edge, request, Body::Whole(request.body)) {
            Either::Left(reply) => self.reply(reply.into_inner(), request.is_last),
            Either::Right(reply) => Step::Reply(reply, request.is_last),
        }
    }

    fn reply(&self, reply: Reply, is_last: bool) -> Step<'_> {
        match reply {
            Reply::Answer(answer) => Step::Answer(self.responder.respond(answer, is_last)),
            Reply::Stream(head, subscription) => Step::Stream(self.responder.respond(head, true), subscription),
        }
    }

    /// Refuses a request that is not whole, or whose end is not known: the connection ends with the answer.
    fn refuse(&self, problem: &Problem) -> Step<'_> {
        let mut response = self.responder.respond(problem.answer(), true);
        response.is_sudden = true;
        Step::Answer(response)
    }

    async fn send(&self, socket: &mut Socket, bytes: Vec<u8>) -> io::Result<()> {
        self.responder.send(socket, bytes, self.edge.config.stream.write_timeout).await
    }
}
