//! The way to the fallback and back.

use std::{
    cell::RefCell,
    future::{pending, poll_fn},
    io,
    net::SocketAddr,
    pin::pin,
    time::Duration,
};

use futures_util::future::{Either, LocalBoxFuture, select};
use tokio::time::sleep;

use super::{
    connection::Connection,
    framing::Framed,
    linger::{LINGER, linger},
    socket::Socket,
};
use crate::{
    hub::Carrier,
    limits::{BytesPermit, TooManyBytes},
};

/// Serves one request of a connection as an HTTP server does.
pub type Fallback = Box<dyn Fn(Carrier, SocketAddr) -> LocalBoxFuture<'static, ()>>;

/// A request for the fallback.
pub(super) struct ForFallback {
    /// What was read of it.
    before: Vec<u8>,
    /// What is still to come.
    rest: Option<usize>,
    /// For what was read.
    permit: BytesPermit,
}

impl ForFallback {
    /// The request at the beginning of `bytes`; `used` of them are of it.
    pub(super) fn new(
        mut permit: BytesPermit,
        framed: &Framed,
        bytes: &[u8],
        used: usize,
    ) -> Result<Self, TooManyBytes> {
        permit.cover(used)?;
        Ok(Self { before: framed.bytes(bytes, used), rest: framed.rest(used), permit })
    }
}

/// Has the fallback answer one request; whether another one may follow.
pub(super) async fn give(
    fallback: &Fallback,
    connection: &mut Connection,
    request: ForFallback,
    write_timeout: Duration,
    scratch: &RefCell<Vec<u8>>,
) -> io::Result<bool> {
    let socket = std::mem::replace(&mut connection.socket, Socket::Gone).into_watched()?;
    let carrier = Carrier::new(socket, request.before, request.rest, Some(Box::new(request.permit)));
    let served = fallback(carrier.clone(), connection.remote);
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
            sleep(write_timeout + LINGER).await;
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
            linger(Socket::Watched(socket), scratch).await;
            Ok(false)
        }
        None => Ok(false),
    }
}
