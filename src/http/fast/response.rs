//! A response as bytes, and how it is sent.

use std::{
    cell::{Ref, RefCell},
    io::{self, ErrorKind},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::time::timeout;

use super::socket::Socket;
use crate::http::answer::Answer;

/// A response in the form in which it is sent.
pub(super) struct Response {
    pub(super) bytes: Vec<u8>,
    pub(super) after: AfterResponse,
}

/// What happens to the connection after a response.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum AfterResponse {
    /// It waits for the next request.
    KeepAlive,
    /// It is closed. The client knows that and sends nothing more.
    Close,
    /// It is closed a short time later. The client may still be sending, and might not get the response if the
    /// connection were closed at once: see [`super::linger`].
    Linger,
}

/// Creates and sends the responses of one worker.
#[derive(Default)]
pub(super) struct Responder {
    /// An empty buffer. Its memory is used again for the next response.
    spare: RefCell<Vec<u8>>,
    /// The time of the last response.
    date: RefCell<Date>,
}

#[derive(Default)]
struct Date {
    /// In seconds since the Unix epoch.
    second: u64,
    /// The second in the format of the `Date` header.
    text: String,
}

impl Responder {
    /// Formats a response. If the answer is the last one of the connection, `KeepAlive` becomes `Close`.
    pub(super) fn format(&self, mut answer: Answer, mut after: AfterResponse) -> Response {
        if after != AfterResponse::KeepAlive {
            answer.is_last = true;
        } else if answer.is_last {
            after = AfterResponse::Close;
        }
        let mut bytes = self.spare.take();
        answer.write(&self.date(), &mut bytes);
        Response { bytes, after }
    }

    /// Sends the bytes of a response. Fails after `write_timeout`, so that a client cannot send requests for ever
    /// without reading the responses.
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
        let unsent = bytes.get(sent..).unwrap_or_default();
        if !unsent.is_empty() {
            timeout(write_timeout, socket.write_all(unsent)).await??;
        }
        bytes.clear();
        self.spare.replace(bytes);
        Ok(())
    }

    /// The text of the current second. It is formatted only once per second.
    fn date(&self) -> Ref<'_, str> {
        let now = SystemTime::now();
        let second = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        if self.date.borrow().second != second {
            *self.date.borrow_mut() = Date { second, text: httpdate::fmt_http_date(now) };
        }
        Ref::map(self.date.borrow(), |date| &*date.text)
    }
}
