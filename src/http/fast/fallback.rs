//! How a connection gets to the fallback for one request, and back.

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
    framing::Framing,
    linger::{LINGER, linger},
    socket::Socket,
};
use crate::{
    hub::Carrier,
    limits::{BytesPermit, LimitReached},
};

/// Serves one request of a connection with a complete HTTP server.
pub type Fallback = Box<dyn Fn(Carrier, SocketAddr) -> LocalBoxFuture<'static, ()>>;

/// A request for the fallback.
pub(super) struct FallbackRequest {
    /// The part of the request that was received, rewritten for the fallback.
    received: Vec<u8>,
    /// How many bytes are still to be received; `None` if the fallback has to find the end of the request.
    missing: Option<usize>,
    /// Covers `received`.
    permit: BytesPermit,
}

impl FallbackRequest {
    /// The request whose first `len` bytes are at the beginning of `bytes`.
    pub(super) fn new(
        mut permit: BytesPermit,
        framing: &Framing,
        bytes: &[u8],
        len: usize,
    ) -> Result<Self, LimitReached> {
        permit.cover(len)?;
        Ok(Self { received: framing.rewrite(bytes, len), missing: framing.missing(len), permit })
    }
}

/// What happens to the connection after the fallback has answered.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum AfterFallback {
    /// It is back, and may send the next request.
    KeepAlive,
    /// It is closed, or the hub has its socket.
    Gone,
}

/// Lets the fallback answer one request.
///
/// # Errors
/// When the client reads nothing of the response for `write_timeout` and the time of lingering.
pub(super) async fn answer(
    fallback: &Fallback,
    connection: &mut Connection,
    request: FallbackRequest,
    write_timeout: Duration,
    scratch: &RefCell<Vec<u8>>,
) -> io::Result<AfterFallback> {
    let socket = std::mem::replace(&mut connection.socket, Socket::Gone).into_watched()?;
    let carrier = Carrier::new(socket, request.received, request.missing, Box::new(request.permit));
    let served = fallback(carrier.clone(), connection.remote);
    let sent = async {
        if carrier.is_length_known() {
            return pending().await;
        }
        // The end of this request is not known, so the HTTP server reads on after its response, to find the end and the
        // next request. That may never end. Once the response is sent, the server is no longer needed.
        poll_fn(|cx| carrier.poll_sent(cx)).await;
    };
    let stuck = async {
        poll_fn(|cx| carrier.poll_begun(cx)).await;
        loop {
            // The HTTP server lingers, too, if it has not read the whole body.
            sleep(write_timeout + LINGER).await;
            if !carrier.take_progress() {
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
            Ok(AfterFallback::KeepAlive)
        }
        Some((socket, false)) => {
            linger(Socket::Watched(socket), scratch).await;
            Ok(AfterFallback::Gone)
        }
        None => Ok(AfterFallback::Gone),
    }
}
