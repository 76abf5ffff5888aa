//! The preamble of the PROXY protocol, version 2: a proxy that does not read HTTP says from which client it has got a
//! connection.
//!
//! The preamble comes before everything else, also before a handshake of TLS. So it is read from the socket below TLS,
//! and no byte after the preamble is read. It counts only from trusted proxies, because anyone could send one.

use std::{
    future::poll_fn,
    io::{self, ErrorKind},
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll, ready},
};

use proxy_header::{ParseConfig, Protocol, ProxyHeader};
use tokio::{
    io::{AsyncRead as _, ReadBuf},
    net::TcpStream,
};

use super::connection::Connection;

/// How a preamble begins.
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// How many bytes at the beginning of the signature are line breaks. Line breaks may also come before a request, where
/// they are ignored (RFC 9112, section 2.2).
const LINE_BREAKS: usize = 4;
/// The length of the part that each preamble has. The last two bytes of this part are the length of the rest.
const FIXED_LEN: usize = 16;
/// The longest rest. The rest has two addresses, and what the proxy says about TLS.
const REST_MAX: usize = 4096;

/// Reads the preamble with which a trusted proxy may begin a connection. Returns the client that the preamble names;
/// `None` if there is no preamble, or if it names no client. The preamble and the first request together must arrive
/// within `server.head_timeout`.
///
/// # Errors
/// When the preamble is broken, or does not arrive in time.
pub(super) async fn read(connection: &mut Connection) -> io::Result<Option<SocketAddr>> {
    let mut preamble = Preamble::default();
    connection.deadline.start();
    poll_fn(|cx| {
        if let Poll::Ready(read) = preamble.poll_read(connection.socket.watch()?.socket_mut(), cx) {
            return Poll::Ready(read);
        }
        // Without a request the connection is idle, so it may be evicted.
        if connection.slot.mark_idle(cx) {
            ready!(connection.deadline.poll(cx));
        }
        // It was evicted, or its time is over. The caller closes the connection in both cases.
        Poll::Ready(Err(ErrorKind::TimedOut.into()))
    })
    .await
}

/// A preamble while it is received.
#[derive(Default)]
struct Preamble {
    received: Vec<u8>,
}

impl Preamble {
    /// Reads the preamble. The result is the address of the client; `None` if there is no preamble, or if the proxy has
    /// opened the connection for itself, for example to check whether the server is alive.
    ///
    /// # Errors
    /// When the preamble is broken. The connection must be closed.
    fn poll_read(&mut self, socket: &mut TcpStream, cx: &mut Context<'_>) -> Poll<io::Result<Option<SocketAddr>>> {
        if !ready!(self.poll_signature(socket, cx))? {
            return Poll::Ready(Ok(None));
        }
        loop {
            let missing = self.len()?.saturating_sub(self.received.len());
            if missing == 0 {
                return Poll::Ready(self.client());
            }
            ready!(self.poll_append(missing, socket, cx))?;
        }
    }

    /// Reads the signature. The result is false if the connection does not begin with it.
    fn poll_signature(&mut self, socket: &mut TcpStream, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        while let Some(expected) = SIGNATURE.get(self.received.len()..).filter(|expected| !expected.is_empty()) {
            // Only what belongs to the signature is taken from the socket.
            let mut space = [0; SIGNATURE.len()];
            let mut seen = ReadBuf::new(space.get_mut(..expected.len()).unwrap_or_default());
            ready!(socket.poll_peek(cx, &mut seen))?;
            let seen = seen.filled();
            if seen.is_empty() {
                // The connection has ended.
                let is_incomplete = !self.received.is_empty();
                return Poll::Ready(if is_incomplete { Err(ErrorKind::UnexpectedEof.into()) } else { Ok(false) });
            }
            let matching = seen.iter().zip(expected).take_while(|(seen, expected)| seen == expected).count();
            let differs = matching < seen.len();
            if matching > 0 {
                ready!(self.poll_append(matching, socket, cx))?;
            }
            if differs {
                // After line breaks alone, this may be a request. After more of the signature, it is a broken preamble.
                let is_broken = self.received.len() > LINE_BREAKS;
                return Poll::Ready(if is_broken { Err(broken()) } else { Ok(false) });
            }
        }
        Poll::Ready(Ok(true))
    }

    /// Reads up to `most` bytes.
    fn poll_append(&mut self, most: usize, socket: &mut TcpStream, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut space = [0; 256];
        let most = most.min(space.len());
        let mut read = ReadBuf::new(space.get_mut(..most).unwrap_or_default());
        ready!(Pin::new(socket).poll_read(cx, &mut read))?;
        if read.filled().is_empty() {
            return Poll::Ready(Err(ErrorKind::UnexpectedEof.into()));
        }
        self.received.extend_from_slice(read.filled());
        Poll::Ready(Ok(()))
    }

    /// The length of the preamble. Before the fixed part has arrived, this is the length of the fixed part.
    fn len(&self) -> io::Result<usize> {
        let Some([.., high, low]) = self.received.get(..FIXED_LEN) else { return Ok(FIXED_LEN) };
        let rest = usize::from(u16::from_be_bytes([*high, *low]));
        if rest <= REST_MAX { Ok(FIXED_LEN + rest) } else { Err(broken()) }
    }

    /// The client that the complete preamble names.
    fn client(&self) -> io::Result<Option<SocketAddr>> {
        let config = ParseConfig { include_tlvs: false, allow_v1: false, allow_v2: true };
        let (header, _) = ProxyHeader::parse(&self.received, config).map_err(|_| broken())?;
        match header.proxied_address() {
            Some(address) if address.protocol == Protocol::Stream => Ok(Some(address.source)),
            Some(_) => Err(broken()),
            None => Ok(None),
        }
    }
}

fn broken() -> io::Error {
    io::Error::new(ErrorKind::InvalidData, "the preamble of the PROXY protocol is broken")
}
