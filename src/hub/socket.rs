//! A subscriber's socket: non-blocking, and registered with the hub's poll.

use std::{io, net, rc::Rc};

use mio::{Interest, Registry, Token, net::TcpStream};

use super::connection::Peer;
use crate::transport::{Transport, finish, recv, send};

/// A subscriber's socket, and the poll that reports when the socket is ready. It is small, because a
/// [`Connection`](super::connection::Connection) must fit in two cache lines.
pub(super) enum Socket {
    /// Not encrypted.
    Plain(TcpStream, Rc<Registry>),
    /// Encrypted. A session is large anyway.
    Tls(Box<(Transport<TcpStream>, Rc<Registry>)>),
}

// A debug build of mio keeps more beside a socket.
#[cfg(all(target_pointer_width = "64", not(debug_assertions)))]
const _: () = assert!(size_of::<Socket>() == 16);

impl Socket {
    pub(super) fn new(transport: Transport<net::TcpStream>, registry: Rc<Registry>) -> Self {
        match transport.map(TcpStream::from_std).into_plain() {
            Ok(socket) => Self::Plain(socket, registry),
            Err(transport) => Self::Tls(Box::new((transport, registry))),
        }
    }

    /// From now on, the poll reports under `key` when the peer sends bytes or closes the connection.
    pub(super) fn watch_readable(&mut self, key: usize) -> io::Result<()> {
        let (socket, registry) = self.parts();
        registry.register(socket, Token(key), Interest::READABLE)
    }

    fn parts(&mut self) -> (&mut TcpStream, &Registry) {
        match self {
            Self::Plain(socket, registry) => (socket, registry),
            Self::Tls(tls) => (tls.0.socket_mut(), &tls.1),
        }
    }
}

impl Peer for Socket {
    fn finish(&mut self) {
        // This fails if the peer has closed the connection. Then there is nothing to finish.
        match self {
            Self::Plain(socket, _) => finish(socket).ok(),
            Self::Tls(tls) => tls.0.finish().ok(),
        };
    }

    fn watch_writable(&mut self, key: usize) -> io::Result<()> {
        let (socket, registry) = self.parts();
        // From now on only `stream.write_timeout` applies. The user timeout of Linux would also end the connection of a
        // slow reader: it expires when the receive window stays too small for the first segment in the send queue
        // (`tcp_probe_timer`).
        #[cfg(target_os = "linux")]
        rustix::net::sockopt::set_tcp_user_timeout(&*socket, 0)?;
        registry.reregister(socket, Token(key), Interest::READABLE | Interest::WRITABLE)
    }
}

impl io::Read for Socket {
    /// The hub does not look at the bytes that a subscriber sends, and only counts them. So under TLS, this returns the
    /// number of encrypted bytes, and puts nothing into `buf`.
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket, _) => recv(socket, buf),
            Self::Tls(tls) => tls.0.discard(buf),
        }
    }
}

impl io::Write for Socket {
    #[inline]
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket, _) => send(socket, buf),
            Self::Tls(tls) => tls.0.write(buf),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(..) => Ok(()),
            Self::Tls(tls) => tls.0.flush(),
        }
    }
}
