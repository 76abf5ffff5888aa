//! The short way: what comes by the thousand, publishes and subscriptions, without the full HTTP server.
//!
//! ```text
//!  accept ─► read ─► plain request? ─ yes ─► publish ─► answer ─► the next one
//!                         │                  subscribe ─► head, first bytes ─► the socket goes to the hub
//!                         └─ no ─► the full HTTP server has the connection, and every byte read so far
//! ```
//!
//! The routes are the same ([`super::publish`], [`super::subscribe`]); what is spared is the machinery around them, which
//! costs more than the event does. A connection that waits has no buffer, and one that subscribes at once is never
//! known to the runtime's poll, only to the hub's.

use std::{
    cell::RefCell,
    future::poll_fn,
    io::{self, ErrorKind, Read as _},
    net::{SocketAddr, TcpStream as BareStream},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use actix_web::web;
use futures_util::{
    FutureExt as _,
    future::{Either, LocalBoxFuture},
};
use tokio::{
    io::{AsyncRead as _, ReadBuf},
    task::yield_now,
    time::{Instant, Sleep, sleep, timeout},
};

use super::{
    Edge,
    answer::Answer,
    problem::Problem,
    publish::Order,
    subscribe::{Granted, Wish},
};
use crate::{config::Origins, hub::Carrier};

mod request;
mod socket;

use request::{BYTES_MAX, Look, Request, Route};
use socket::Socket;

/// What is not a whole request by then is left to the full HTTP server and its time limits.
const WHOLE_WITHIN: Duration = Duration::from_secs(1);
/// Requests of one connection that are served, or reads that bring none, before others have their turn. One that sends
/// without end would otherwise never have to wait, and nobody else on this thread would be served, or told to stop.
const TURN: u32 = 16;

/// Serves the connections of one worker.
pub struct ShortWay {
    edge: web::Data<Edge>,
    full: FullServer,
    /// What is read goes here first: only a request that comes in pieces gets memory of its own.
    scratch: RefCell<Vec<u8>>,
    /// Memory for the next response.
    spare: RefCell<Vec<u8>>,
    date: RefCell<(u64, String)>,
}

/// Serves a connection to its end as an HTTP server does.
pub type FullServer = Box<dyn Fn(Carrier, SocketAddr) -> LocalBoxFuture<'static, ()>>;

/// What to do next on a connection.
enum Step<'a> {
    /// Answer, and go on unless it was the last request.
    Answer(Response),
    /// Likewise, once the log has the event.
    Publish(LocalBoxFuture<'a, Result<Answer, Problem>>, bool),
    /// Subscribe; likewise when that is refused.
    Subscribe(LocalBoxFuture<'a, Result<Granted, Problem>>, bool),
    /// Wait for more.
    Wait,
    /// Give it to the full server.
    Full,
    /// The peer has gone.
    End,
}

/// What goes over the wire.
struct Response {
    bytes: Vec<u8>,
    /// The connection ends with it.
    is_last: bool,
}

impl ShortWay {
    /// `full` serves what is not plain.
    pub fn new(edge: web::Data<Edge>, full: FullServer) -> Rc<Self> {
        let scratch = RefCell::new(vec![0; BYTES_MAX]);
        Rc::new(Self { edge, full, scratch, spare: RefCell::default(), date: RefCell::default() })
    }

    /// Serves a connection to its end, or until it belongs to the hub.
    pub async fn serve(self: Rc<Self>, socket: BareStream, remote: SocketAddr) {
        // An error means that the peer has gone, and nobody is left to be told.
        self.run(Socket::Bare(socket), remote).await.ok();
    }

    async fn run(&self, mut socket: Socket, remote: SocketAddr) -> io::Result<()> {
        // What was read and is not done with; and whether it has been looked at since.
        let (mut held, mut looked) = (Vec::new(), true);
        let mut patience = Patience::new(self.edge.config.server.keep_alive);
        let mut turns = 0;
        loop {
            turns += 1;
            if turns % TURN == 0 {
                yield_now().await;
            }
            let step = if looked {
                self.next(&mut socket, &mut held, &mut patience, remote).await?
            } else {
                self.look(&mut held, &[], remote)
            };
            let response = match step {
                Step::Answer(response) => response,
                Step::Publish(answer, is_last) => self.respond(answer.await, is_last),
                Step::Subscribe(granted, is_last) => match granted.await {
                    Ok(Granted::Stream(first, subscription)) => {
                        self.send(&mut socket, self.respond(Ok(first), true).bytes).await?;
                        self.edge.hub.adopt(socket.into_bare()?, *subscription);
                        return Ok(());
                    }
                    Ok(Granted::Answer(answer)) => self.respond(Ok(answer), is_last),
                    Err(problem) => self.respond(Err(problem), is_last),
                },
                Step::Wait => {
                    looked = true;
                    continue;
                }
                Step::Full => return self.give_up(socket, held, remote).await,
                Step::End => return Ok(()),
            };
            self.send(&mut socket, response.bytes).await?;
            if response.is_last {
                return Ok(());
            }
            patience.met();
            looked = held.is_empty();
        }
    }

    /// Waits for something to read, and looks at it.
    async fn next(
        &self,
        socket: &mut Socket,
        held: &mut Vec<u8>,
        patience: &mut Patience,
        remote: SocketAddr,
    ) -> io::Result<Step<'_>> {
        if let Socket::Bare(bare) = socket {
            let mut scratch = self.scratch.borrow_mut();
            match bare.read(&mut scratch) {
                Ok(0) => return Ok(Step::End),
                Ok(n) => return Ok(self.look(held, scratch.get(..n).unwrap_or_default(), remote)),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
                Err(error) => return Err(error),
            }
        }
        let socket = socket.watch()?;
        patience.begin(held.is_empty());
        poll_fn(|cx| {
            let mut scratch = self.scratch.borrow_mut();
            let mut buffer = ReadBuf::new(&mut scratch);
            if let Poll::Ready(read) = Pin::new(&mut *socket).poll_read(cx, &mut buffer) {
                return Poll::Ready(read.map(|()| match buffer.filled() {
                    [] => Step::End,
                    new => self.look(held, new, remote),
                }));
            }
            ready!(patience.poll(cx));
            // A connection that is idle between requests ends without a word.
            Poll::Ready(Ok(if held.is_empty() { Step::End } else { Step::Full }))
        })
        .await
    }

    /// Looks at `held` and `new` after it; what is not used stays in `held`.
    fn look(&self, held: &mut Vec<u8>, new: &[u8], remote: SocketAddr) -> Step<'_> {
        let whole = if held.is_empty() {
            new
        } else {
            held.extend_from_slice(new);
            &**held
        };
        if whole.iter().all(|b| matches!(b, b'\r' | b'\n')) {
            // Empty lines before a request are nothing (RFC 9112, section 2.2): nobody has begun to ask.
            *held = Vec::new();
            return Step::Wait;
        }
        let (step, used) = match request::look(whole, Some(remote.ip()), |request| self.take(request)) {
            Look::Plain(step, used) => (step, used),
            Look::More => (Step::Wait, 0),
            Look::Other => (Step::Full, 0),
        };
        if held.is_empty() {
            held.extend_from_slice(new.get(used..).unwrap_or_default());
        } else {
            held.drain(..used);
        }
        if held.is_empty() {
            // A connection that waits keeps nothing.
            *held = Vec::new();
        }
        step
    }

    fn take(&self, request: &Request<'_>) -> Step<'_> {
        let (edge, is_last) = (&*self.edge, request.is_last);
        let refused = |problem| Step::Answer(self.respond(Err(problem), is_last));
        match request.route {
            Route::Publish => match Order::whole(edge, request, request.body) {
                Ok(order) => match order.carry_out(edge) {
                    Either::Left(answer) => Step::Answer(self.respond(answer.into_inner(), is_last)),
                    Either::Right(answer) => Step::Publish(answer, is_last),
                },
                Err(problem) => refused(problem),
            },
            // In memory of its own: a connection that publishes need not hold room for it.
            Route::Subscribe => match Wish::read(edge, request) {
                Ok(wish) => Step::Subscribe(wish.grant(edge).boxed_local(), is_last),
                Err(problem) => refused(problem),
            },
        }
    }

    fn respond(&self, answer: Result<Answer, Problem>, is_last: bool) -> Response {
        let mut answer = answer.unwrap_or_else(|problem| problem.answer());
        answer.is_last |= is_last;
        let mut bytes = self.spare.take();
        let varies = self.edge.config.cors.origins != Origins::default();
        answer.write(&self.date(), varies, &mut bytes);
        Response { bytes, is_last: answer.is_last }
    }

    async fn send(&self, socket: &mut Socket, mut bytes: Vec<u8>) -> io::Result<()> {
        let sent = match socket.try_write(&bytes) {
            Ok(sent) => sent,
            Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
            Err(error) => return Err(error),
        };
        if let Some(rest) = bytes.get(sent..).filter(|rest| !rest.is_empty()) {
            // It sends requests and does not read the answers.
            let write_timeout = self.edge.config.stream.write_timeout;
            return timeout(write_timeout, socket.write_all(rest))
                .await
                .unwrap_or_else(|_| Err(ErrorKind::TimedOut.into()));
        }
        bytes.clear();
        self.spare.replace(bytes);
        Ok(())
    }

    async fn give_up(&self, socket: Socket, held: Vec<u8>, remote: SocketAddr) -> io::Result<()> {
        (self.full)(Carrier::new(socket.into_watched()?, held), remote).await;
        Ok(())
    }

    /// The time as headers have it, formatted once a second.
    fn date(&self) -> std::cell::Ref<'_, str> {
        let now = SystemTime::now();
        let second = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        if self.date.borrow().0 != second {
            *self.date.borrow_mut() = (second, httpdate::fmt_http_date(now));
        }
        std::cell::Ref::map(self.date.borrow(), |(_, date)| &**date)
    }
}

/// How long a connection may wait for the rest of a request, or for the next one.
struct Patience {
    keep_alive: Duration,
    timer: Option<Pin<Box<Sleep>>>,
    /// A request is under way since the timer was set for it.
    pressed: bool,
    /// There were requests since the timer was set.
    active: bool,
    /// The timer has been polled since it was set.
    armed: bool,
}

impl Patience {
    fn new(keep_alive: Duration) -> Self {
        Self { keep_alive, timer: None, pressed: false, active: false, armed: false }
    }

    /// A wait begins, for the next request or for the rest of one. Between requests the timer runs on as it is: to set it
    /// anew for each would cost more than to let it ring once in vain.
    fn begin(&mut self, idle: bool) {
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(self.keep_alive)));
        if !idle && !self.pressed {
            (self.pressed, self.armed) = (true, false);
            timer.as_mut().reset(Instant::now() + WHOLE_WITHIN);
        }
    }

    /// A request was whole.
    fn met(&mut self) {
        (self.active, self.pressed) = (true, false);
    }

    /// Ready when it is over.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(timer) = &mut self.timer else { return Poll::Pending };
        // It knows whom to wake since it was set, and this is asked for each request.
        if self.armed && !timer.is_elapsed() {
            return Poll::Pending;
        }
        loop {
            self.armed = true;
            ready!(timer.as_mut().poll(cx));
            if self.pressed || !std::mem::take(&mut self.active) {
                return Poll::Ready(());
            }
            timer.as_mut().reset(Instant::now() + self.keep_alive);
        }
    }
}
