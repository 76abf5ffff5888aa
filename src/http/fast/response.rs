//! A response as bytes, and how it is sent.

use std::{
    cell::{Ref, RefCell},
    io::{self, ErrorKind},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::time::timeout;

use super::socket::Socket;
use crate::http::answer::Answer;

/// What goes over the wire.
pub(super) struct Response {
    pub(super) bytes: Vec<u8>,
    /// The connection ends with it.
    pub(super) is_last: bool,
    /// The client may not know that yet, and goes on sending.
    pub(super) is_sudden: bool,
}

/// Makes the responses of one worker, and sends them.
#[derive(Default)]
pub(super) struct Responder {
    /// Memory for the next response.
    spare: RefCell<Vec<u8>>,
    date: RefCell<(u64, String)>,
}

impl Responder {
    pub(super) fn respond(&self, mut answer: Answer, is_last: bool) -> Response {
        answer.is_last |= is_last;
        let mut bytes = self.spare.take();
        answer.write(&self.date(), &mut bytes);
        Response { bytes, is_last: answer.is_last, is_sudden: false }
    }

    pub(super) async fn send(
        &self,
        socket: &mut Socket,
        mut bytes: Vec<u8>,
        write_timeout: Duration,
    ) -> io::Result<()> {
        let sent = match socket.try_write(&bytes) {
            Ok(sent) => sent,
            Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
            Err(error) => return Err(error),
        };
        if let Some(rest) = bytes.get(sent..).filter(|rest| !rest.is_empty()) {
            // It sends requests and does not read the answers.
            return timeout(write_timeout, socket.write_all(rest))
                .await
                .unwrap_or_else(|_| Err(ErrorKind::TimedOut.into()));
        }
        bytes.clear();
        self.spare.replace(bytes);
        Ok(())
    }

    /// The time as headers have it, formatted once a second.
    fn date(&self) -> Ref<'_, str> {
        let now = SystemTime::now();
        let second = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        if self.date.borrow().0 != second {
            *self.date.borrow_mut() = (second, httpdate::fmt_http_date(now));
        }
        Ref::map(self.date.borrow(), |(_, date)| &**date)
    }
}
