//! Rejected connections: those above a limit. Each gets one response and is closed. The response is an error, except to
//! `/healthz`.

use std::{cell::RefCell, collections::VecDeque, io, net::TcpStream as BareStream, rc::Rc, time::Duration};

use httparse::Status;
use tokio::{net::TcpStream, sync::Notify, time::timeout};

use super::{
    bounds::HEADERS_MAX,
    linger::shut_down,
    response::{AfterResponse, Responder},
};
use crate::{
    http::{answer::Answer, health::alive, problem::Problem},
    transport::Transport,
};

/// How long a rejected client may take to send its request, and then again to read the response.
const TIMEOUT: Duration = Duration::from_millis(250);
/// The most rejected connections that each worker keeps open. One more evicts the oldest.
const REJECTED_MAX: usize = 64;
/// The longest health check that is recognised.
const HEALTH_CHECK_BYTES_MAX: usize = 2 << 10;

/// The rejected connections of one worker that are still open, oldest first. For each, there is the `Notify` with which
/// its task learns that the connection is evicted.
#[derive(Default)]
pub(super) struct RejectedConnections(RefCell<VecDeque<Rc<Notify>>>);

impl RejectedConnections {
    /// Adds a connection, and returns the `Notify` of its eviction. At [`REJECTED_MAX`], this evicts the oldest.
    pub(super) fn add(&self) -> Rc<Notify> {
        if self.len() >= REJECTED_MAX {
            self.evict_oldest();
        }
        let eviction = Rc::new(Notify::new());
        self.0.borrow_mut().push_back(Rc::clone(&eviction));
        eviction
    }

    /// Evicts the oldest connection: its task ends at once. Returns false if there is none.
    pub(super) fn evict_oldest(&self) -> bool {
        let oldest = self.0.borrow_mut().pop_front();
        if let Some(oldest) = &oldest {
            oldest.notify_one();
        }
        oldest.is_some()
    }

    pub(super) fn len(&self) -> usize {
        self.0.borrow().len()
    }

    pub(super) fn remove(&self, eviction: &Rc<Notify>) {
        self.0.borrow_mut().retain(|other| !Rc::ptr_eq(other, eviction));
    }
}

/// Answers a rejected connection, and closes it.
pub(super) async fn answer(
    socket: Transport<BareStream>,
    problem: Problem,
    eviction: &Notify,
    responder: &Responder,
    scratch: &RefCell<Vec<u8>>,
) -> io::Result<()> {
    let mut socket = socket.try_map(TcpStream::from_std)?;
    let health_check = tokio::select! {
        biased;
        // A client that sends no request in time gets the problem, too.
        read = timeout(TIMEOUT, read_health_check(&mut socket)) => read.unwrap_or(Ok(None))?,
        () = eviction.notified() => {
            // An evicted connection must not wait: what cannot be written at once is not written.
            let response = responder.format(problem.answer(), AfterResponse::Close);
            return socket.write(&response.bytes).map(drop);
        }
    };
    let response = responder.format(health_check.unwrap_or_else(|| problem.answer()), AfterResponse::Close);
    socket.write(&response.bytes)?;
    tokio::select! {
        biased;
        _ = timeout(TIMEOUT, shut_down(&mut socket, scratch)) => {}
        () = eviction.notified() => {}
    }
    Ok(())
}

/// Reads one request. Returns the answer if it is a health check.
async fn read_health_check(socket: &mut Transport<TcpStream>) -> io::Result<Option<Answer>> {
    let (mut buffer, mut len) = (vec![0; HEALTH_CHECK_BYTES_MAX], 0);
    loop {
        match socket.read_some(buffer.get_mut(len..).unwrap_or_default()).await? {
            0 => return Ok(None),
            read => len += read,
        }
        let received = buffer.get(..len).unwrap_or_default();
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut request = httparse::Request::new(&mut headers);
        match request.parse(received) {
            Ok(Status::Partial) if len < HEALTH_CHECK_BYTES_MAX => {}
            Ok(Status::Complete(_)) if request.path == Some("/healthz") => {
                let is_head = request.method == Some("HEAD");
                let is_health_check = is_head || request.method == Some("GET");
                return Ok(is_health_check.then(|| Answer { is_head, ..alive() }));
            }
            _ => return Ok(None),
        }
    }
}
