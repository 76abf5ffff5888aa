//! A subscriber's socket: non-blocking, and registered with the hub's poll.

use std::{
    io,
    net::{self, Shutdown},
    os::fd::AsFd,
    rc::Rc,
};

use mio::{Interest, Registry, Token, net::TcpStream};
use rustix::net::SendFlags;

use super::connection::Peer;

/// A subscriber's socket. The poll reports under its key when it is ready.
pub(super) struct Socket {
    socket: TcpStream,
    registry: Rc<Registry>,
}

impl Socket {
    /// `socket` must be non-blocking.
    pub(super) fn new(socket: net::TcpStream, registry: Rc<Registry>) -> Self {
        Self { socket: TcpStream::from_std(socket), registry }
    }

    /// From now on, the poll reports under `key` when the peer sends bytes or closes the connection.
    pub(super) fn watch_readable(&mut self, key: usize) -> io::Result<()> {
        self.registry.register(&mut self.socket, Token(key), Interest::READABLE)
    }
}

impl Peer for Socket {
    fn finish(&mut self) {
        // This fails if the peer has closed the connection. Then there is nothing to finish.
        self.socket.shutdown(Shutdown::Write).ok();
    }

    fn watch_writable(&mut self, key: usize) -> io::Result<()> {
        // From now on only `stream.write_timeout` applies. The user timeout of Linux would also end the connection of a
        // slow reader: it expires when the receive window stays too small for the first segment in the send queue
        // (`tcp_probe_timer`).
        #[cfg(target_os = "linux")]
        rustix::net::sockopt::set_tcp_user_timeout(&self.socket, 0)?;
        self.registry.reregister(&mut self.socket, Token(key), Interest::READABLE | Interest::WRITABLE)
    }
}

impl io::Read for Socket {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.socket.read(buf)
    }
}

impl io::Write for Socket {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        send(&self.socket, buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes to a socket with a direct system call. The function of the C library is slower, because it supports thread
/// cancellation, and that is measurable if each event has one subscriber. If the peer has closed the connection, this
/// returns an error and no signal is raised, because Rust's runtime ignores `SIGPIPE`.
pub(crate) fn send(socket: impl AsFd, bytes: &[u8]) -> io::Result<usize> {
    Ok(rustix::net::send(socket, bytes, SendFlags::empty())?)
}
