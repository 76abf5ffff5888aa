//! Connections that there is no room for: each is answered so and closed, unless it asks whether the server is alive.

use std::{
    io::{self, Write as _},
    net::TcpStream as BareStream,
    rc::Rc,
    time::Duration,
};

use actix_web::http::StatusCode;
use tokio::{io::AsyncWriteExt as _, net::TcpStream, task::spawn_local, time::timeout};

use super::{ShortWay, request};
use crate::http::{answer::Answer, problem::Problem};

/// How long such a connection may take for its question, and to read the answer.
const WITHIN: Duration = Duration::from_millis(250);
/// As many of them are waited for on each worker; the others are closed at once.
const TURNED_AWAY_MAX: usize = 64;
/// The longest question.
const QUESTION_BYTES_MAX: usize = 2 << 10;

impl ShortWay {
    /// Answers a connection that there is no room for. A supervisor that asks for `/healthz` is answered all the same:
    /// it would otherwise restart a server that is only busy.
    pub fn turn_away(self: &Rc<Self>, mut socket: BareStream, problem: Problem) {
        if self.turned_away.get() >= TURNED_AWAY_MAX {
            // What cannot be written at once is not written: nothing waits for a client that is turned away.
            drop(socket.write_all(&self.respond(Err(problem), true).bytes));
            return;
        }
        self.turned_away.set(self.turned_away.get() + 1);
        let way = Rc::clone(self);
        spawn_local(async move {
            way.answer(socket, problem).await.ok();
            way.turned_away.set(way.turned_away.get() - 1);
        });
    }

    async fn answer(&self, socket: BareStream, problem: Problem) -> io::Result<()> {
        let mut socket = TcpStream::from_std(socket)?;
        let asked = timeout(WITHIN, asks_for_life(&socket)).await.unwrap_or(Ok(None))?;
        let answer = match asked {
            None => Err(problem),
            Some(_) => Ok(Answer::new(StatusCode::OK).with("content-type", "text/plain; charset=utf-8").body("ok\n")),
        };
        let mut bytes = self.respond(answer, true).bytes;
        if asked == Some(Question::Head) {
            bytes.truncate(bytes.len().saturating_sub(3));
        }
        timeout(WITHIN, async {
            socket.write_all(&bytes).await?;
            self.shut_down(&mut socket).await
        })
        .await
        .unwrap_or(Ok(()))
    }
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
