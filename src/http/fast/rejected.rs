//! Connections that there is no room for: each is answered so and closed, unless it asks whether the server is alive.

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

use super::{linger::shut_down, request, response::Responder};
use crate::{
    http::{problem::Problem, serve::alive},
    hub::send,
};

/// How long such a connection may take for its question, and to read the answer.
const WITHIN: Duration = Duration::from_millis(250);
/// As many of them are waited for on each worker; past it the oldest gives way.
const REJECTED_MAX: usize = 64;
/// The longest question.
const QUESTION_BYTES_MAX: usize = 2 << 10;

/// Connections that are being turned away, oldest first.
#[derive(Default)]
pub(super) struct RejectedConnections {
    waiting: RefCell<BTreeMap<u64, Rc<Notify>>>,
    newest: Cell<u64>,
}

impl RejectedConnections {
    /// Another one; what it is told when it must give way.
    pub(super) fn enter(&self) -> (u64, Rc<Notify>) {
        let mut waiting = self.waiting.borrow_mut();
        if waiting.len() >= REJECTED_MAX {
            waiting.pop_first().into_iter().for_each(|(_, oldest)| oldest.notify_one());
        }
        self.newest.set(self.newest.get() + 1);
        let gives_way = Rc::default();
        waiting.insert(self.newest.get(), Rc::clone(&gives_way));
        (self.newest.get(), gives_way)
    }

    pub(super) fn leave(&self, key: u64) {
        self.waiting.borrow_mut().remove(&key);
    }
}

/// Answers a connection that there is no room for.
pub(super) async fn answer(
    socket: BareStream,
    problem: Problem,
    gives_way: &Notify,
    responder: &Responder,
    scratch: &RefCell<Vec<u8>>,
) -> io::Result<()> {
    let mut socket = TcpStream::from_std(socket)?;
    // One for both waits: of two that are alive the first would hear it, which nobody polls any more.
    let mut gave_way = pin!(gives_way.notified());
    let asked = match select(pin!(timeout(WITHIN, asks_for_life(&socket))), gave_way.as_mut()).await {
        Either::Left((asked, _)) => asked.unwrap_or(Ok(None))?,
        // What cannot be written at once is not written: nothing waits for it any more.
        Either::Right(_) => return send(&socket, &responder.respond(problem.answer(), true).bytes).map(drop),
    };
    let mut answer = if asked.is_some() { alive() } else { problem.answer() };
    answer.is_head = asked == Some(Question::Head);
    let bytes = responder.respond(answer, true).bytes;
    send(&socket, &bytes)?;
    let ended = pin!(timeout(WITHIN, shut_down(&mut socket, scratch)));
    select(ended, gave_way).await;
    Ok(())
}

/// How the question is asked.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Question {
    Get,
    Head,
}

/// Waits for a whole request; whether it asks for `/healthz`.
async fn asks_for_life(socket: &TcpStream) -> io::Result<Option<Question>> {
    let mut held = Vec::with_capacity(QUESTION_BYTES_MAX);
    loop {
        socket.readable().await?;
        match socket.try_read_buf(&mut held) {
            Ok(0) => return Ok(None),
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
            _ => {}
        }
        match request::line(&held) {
            request::Line::Whole("GET", "/healthz") => return Ok(Some(Question::Get)),
            request::Line::Whole("HEAD", "/healthz") => return Ok(Some(Question::Head)),
            request::Line::More if held.len() < QUESTION_BYTES_MAX => {}
            _ => return Ok(None),
        }
    }
}
