//! The way to the fallback and back, and a connection's end.

use std::{
    any::Any,
    future::{pending, poll_fn},
    io,
    net::SocketAddr,
    pin::{Pin, pin},
    task::{Poll, ready},
    time::Duration,
};

use futures_util::future::{Either, LocalBoxFuture, select};
use tokio::{
    io::{AsyncRead as _, AsyncWriteExt as _, ReadBuf},
    net::TcpStream,
    time::{sleep, timeout},
};

use super::{FastPath, Step, connection::Connection, framing::Framed, request, socket::Socket};
use crate::{hub::Carrier, limits::BytesPermit};

/// How long a client that is refused may go on sending: the refusal would be lost to a reset if the socket were closed
/// before what it sends has been read.
pub(super) const LINGER: Duration = Duration::from_secs(2);

/// Serves one request of a connection as an HTTP server does.
pub type Fallback = Box<dyn Fn(Carrier, SocketAddr) -> LocalBoxFuture<'static, ()>>;

impl FastPath {
    /// The step that gives the request at the beginning of `bytes` to the fallback; `used` of them are of it.
    pub(super) fn fall_back(&self, mut permit: BytesPermit, framed: &Framed, bytes: &[u8], used: usize) -> Step<'_> {
        if let Err(error) = permit.cover(used) {
            return self.refuse(&error.into());
        }
        Step::FallBack(framed.bytes(bytes, used), framed.rest(used), Box::new(permit))
    }

    /// Gives a request whose body does not come in time to the fallback.
    pub(super) fn hand_over(&self, connection: &mut Connection) -> Step<'_> {
        let Some(framed) = request::framed(&connection.held) else { return Step::End };
        // All of it: what is held is not yet the whole request.
        let held = std::mem::take(&mut connection.held);
        let permit = connection.permit.take().unwrap_or_else(|| self.edge.bytes.permit(Some(connection.remote.ip())));
        self.fall_back(permit, &framed, &held, held.len())
    }

    /// Has the fallback answer one request; whether another one may follow.
    pub(super) async fn give(
        &self,
        connection: &mut Connection,
        before: Vec<u8>,
        rest: Option<usize>,
        hold: Box<dyn Any>,
    ) -> io::Result<bool> {
        let socket = std::mem::replace(&mut connection.socket, Socket::Gone).into_watched()?;
        let carrier = Carrier::new(socket, before, rest, Some(hold));
        let served = (self.fallback)(carrier.clone(), connection.remote);
        let sent = async {
            if carrier.is_framed() {
                return pending().await;
            }
            // The server reads on to find the end of the request, and beyond it, and it may neither get there nor wait.
            poll_fn(|cx| carrier.poll_sent(cx)).await;
        };
        let stuck = async {
            poll_fn(|cx| carrier.poll_begun(cx)).await;
            loop {
                // The server lingers, too, when it has not read the whole body.
                sleep(self.edge.config.stream.write_timeout + LINGER).await;
                if !carrier.has_moved() {
                    return;
                }
            }
        };
        if matches!(select(select(served, pin!(sent)), pin!(stuck)).await, Either::Right(_)) {
            return Err(io::ErrorKind::TimedOut.into());
        }
        match carrier.reclaim() {
            Some((socket, true)) => {
                connection.socket = Socket::Watched(socket);
                Ok(true)
            }
            Some((socket, false)) => {
                self.linger(Socket::Watched(socket)).await;
                Ok(false)
            }
            None => Ok(false),
        }
    }

    /// Ends a connection whose client may still be sending: it can read the answer, and what it sends is dropped.
    pub(super) async fn linger(&self, socket: Socket) {
        let Ok(mut socket) = socket.into_watched() else { return };
        // Neither an error nor the time's end leaves anything to be done.
        timeout(LINGER, self.shut_down(&mut socket)).await.ok();
    }

    /// Ends our side, then reads and drops what the client still sends, until it ends its own: a reset would take the
    /// answer away.
    pub(super) async fn shut_down(&self, socket: &mut TcpStream) -> io::Result<()> {
        socket.shutdown().await?;
        while self.read_in_vain(socket).await? > 0 {}
        Ok(())
    }

    /// Reads with `poll_read`, which takes from the task's budget as `try_read` does not: a peer that sends as fast as it
    /// is read would otherwise keep this thread to itself, and the end of its time would never be noticed.
    async fn read_in_vain(&self, socket: &mut TcpStream) -> io::Result<usize> {
        poll_fn(|cx| {
            let mut scratch = self.scratch.borrow_mut();
            let mut dropped = ReadBuf::new(&mut scratch);
            ready!(Pin::new(&mut *socket).poll_read(cx, &mut dropped))?;
            Poll::Ready(Ok(dropped.filled().len()))
        })
        .await
    }
}
