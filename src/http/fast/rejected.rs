//! Connections above the limit. Each gets an error response and is closed, unless it asks for `/healthz`.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    io,
    net::TcpStream as BareStream,
    pin::pin,
    rc::Rc,
    time::Duration,
};

use futures_util::future::{Either, select};
use tokio::{net::TcpStream, sync::Notify, time::timeout};

use super::{
    linger::shut_down,
    request,
    response::{AfterResponse, Responder},
};
use crate::{
    http::{health::alive, problem::Problem},
    hub::send,
};

/// How long a rejected client may take to send its request, and then again to read the response.
const DEADLINE: Duration = Duration::from_millis(250);
/// The most rejected connections that each worker keeps open. One more evicts the oldest.
const REJECTED_MAX: usize = 64;
/// The longest health check that is recognised.
const HEALTH_CHECK_BYTES_MAX: usize = 2 << 10;

/// The rejected connections of one worker that are still open, oldest first.
#[derive(Default)]
pub(super) struct RejectedConnections {
    open: RefCell<BTreeMap<u64, Rc<Notify>>>,
    newest: Cell<u64>,
}

impl RejectedConnections {
    /// Adds a connection, and returns its key and what notifies it when it is evicted.
    pub(super) fn add(&self) -> (u64, Rc<Notify>) {
        let mut open = self.open.borrow_mut();
        if open.len() >= REJECTED_MAX
            && let Some((_, oldest)) = open.pop_first()
        {
            oldest.notify_one();
        }
        self.newest.set(self.newest.get() + 1);
        let evicted = Rc::default();
        open.insert(self.newest.get(), Rc::clone(&evicted));
        (self.newest.get(), evicted)
    }

    pub(super) fn remove(&self, key: u64) {
        self.open.borrow_mut().remove(&key);
    }
}

/// Answers a rejected connection, and closes it.
pub(super) async fn answer(
    socket: BareStream,
    problem: Problem,
    evicted: &Notify,
    responder: &Responder,
    scratch: &RefCell<Vec<u8>>,
) -> io::Result<()> {
    let mut socket = TcpStream::from_std(socket)?;
    // Both waits below share this future. With a future for each, the notification could go to the first, which is no
    // longer polled.
    let mut evicted = pin!(evicted.notified());
    let health_check = match select(pin!(timeout(DEADLINE, read_health_check(&socket))), evicted.as_mut()).await {
        Either::Left((health_check, _)) => health_check.unwrap_or(Ok(None))?,
        Either::Right(_) => {
            // It was evicted, so it must not wait: what cannot be written at once is not written.
            let response = responder.respond(problem.answer(), AfterResponse::Close);
            return send(&socket, &response.bytes).map(drop);
        }
    };
    let mut answer = if health_check.is_some() { alive() } else { problem.answer() };
    answer.is_head = health_check == Some(HealthCheck::Head);
    let response = responder.respond(answer, AfterResponse::Close);
    send(&socket, &response.bytes)?;
    let closed = pin!(timeout(DEADLINE, shut_down(&mut socket, scratch)));
    select(closed, evicted).await;
    Ok(())
}

/// The method of a health check.
#[derive(Clone, Copy, PartialEq, Eq)]
enum HealthCheck {
    Get,
    Head,
}

/// Reads one request. Returns `None` if it is not a health check.
async fn read_health_check(socket: &TcpStream) -> io::Result<Option<HealthCheck>> {
    let mut buffer = Vec::with_capacity(HEALTH_CHECK_BYTES_MAX);
    loop {
        socket.readable().await?;
        match socket.try_read_buf(&mut buffer) {
            Ok(0) => return Ok(None),
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
            _ => {}
        }
        match request::parse_target(&buffer) {
            request::Target::Complete("GET", "/healthz") => return Ok(Some(HealthCheck::Get)),
            request::Target::Complete("HEAD", "/healthz") => return Ok(Some(HealthCheck::Head)),
            request::Target::Partial if buffer.len() < HEALTH_CHECK_BYTES_MAX => {}
            _ => return Ok(None),
        }
    }
}
