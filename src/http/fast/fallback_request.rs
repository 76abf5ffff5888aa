//! How a connection gets to the fallback for one request, and back.

use std::{cell::RefCell, future::poll_fn, io, net::SocketAddr, sync::Arc, time::Duration};

use futures_util::future::LocalBoxFuture;
use tokio::{net::TcpStream, time::sleep};

use super::{
    linger::{LINGER, linger},
    raw_request::RawRequest,
};
use crate::{
    hub::Carrier,
    limits::{BytesPermit, LimitReached},
    transport::{ClientCertificate, Transport},
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
    pub(super) fn new(mut permit: BytesPermit, request: &RawRequest<'_>) -> Result<Self, LimitReached> {
        let received = request.rewrite();
        permit.cover(received.len())?;
        Ok(Self { received, missing: request.missing_len(), permit })
    }

    /// The carrier of the request. The missing bytes come from `socket`, and `certificate` is the client's.
    pub(super) fn into_carrier(
        self,
        socket: Transport<TcpStream>,
        certificate: Option<Arc<ClientCertificate>>,
    ) -> Carrier {
        Carrier::new(socket, self.received, self.missing, Box::new(self.permit), certificate)
    }
}

/// Lets the fallback serve the request of `carrier`. Returns the socket if the client may send another request on it.
/// Otherwise the connection is closed, or the hub has its socket.
///
/// # Errors
/// When the client reads nothing of the response for too long.
pub(super) async fn serve_with(
    fallback: &Fallback,
    carrier: Carrier,
    remote: SocketAddr,
    write_timeout: Duration,
    scratch: &RefCell<Vec<u8>>,
) -> io::Result<Option<Transport<TcpStream>>> {
    let stalled = async {
        // Once the response has begun, the HTTP server waits only for the client.
        poll_fn(|cx| carrier.poll_begun(cx)).await;
        loop {
            // After a response, the HTTP server may discard the rest of the request's body for up to `LINGER`. It
            // writes nothing meanwhile, and that is no stall. So a stall is longer than `write_timeout` and `LINGER`
            // together.
            sleep(write_timeout + LINGER).await;
            if !carrier.take_progress() {
                return;
            }
        }
    };
    tokio::select! {
        biased;
        () = fallback(carrier.clone(), remote) => {}
        // If the end of the request is not known, the HTTP server reads on after its response, to find the end and the
        // next request, perhaps for ever. So its future is dropped when the answer is sent or the hub has the socket.
        () = poll_fn(|cx| carrier.poll_done(cx)), if !carrier.is_length_known() => {}
        () = stalled => return Err(io::ErrorKind::TimedOut.into()),
    }
    let Some((socket, is_kept_alive)) = carrier.reclaim() else { return Ok(None) };
    if is_kept_alive {
        return Ok(Some(socket));
    }
    linger(socket, scratch).await;
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::LimitsConfig,
        limits::{Quota, UNCOUNTED_MAX},
    };

    #[test]
    fn the_permit_covers_the_percent_encoded_target() {
        let bytes = Quota::request_bytes(&LimitsConfig::default());
        let target = "é".repeat(UNCOUNTED_MAX / 4);
        let request = RawRequest { bytes: target.as_bytes(), target: &target, headers: &[], len: None };
        let request = FallbackRequest::new(bytes.bytes_permit(None), &request).expect("there is room");
        assert_eq!((request.received.len(), bytes.reserved()), (3 * target.len(), 3 * target.len()));
    }
}
