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

/// A subscriber's socket, registered for readiness under its key.
pub(super) struct Socket {
    socket: TcpStream,
    registry: Rc<Registry>,
}

impl Socket {
    /// `socket` does not block.
    pub(super) fn new(socket: net::TcpStream, registry: Rc<Registry>) -> Self {
        Self { socket: TcpStream::from_std(socket), registry }
    }

    /// From now on reports under `key` what the peer sends, and when it goes.
    pub(super) fn watch_readable(&mut self, key: usize) -> io::Result<()> {
        self.registry.register(&mut self.socket, Token(key), Interest::READABLE)
    }
}

impl Peer for Socket {
    fn finish(&mut self) {
        // It fails when the peer has gone already, and then there is nothing to finish.
        self.socket.shutdown(Shutdown::Write).ok();
    }

    fn watch_writable(&mut self, key: usize) -> io::Result<()> {
        // From now on our deadline decides alone. Linux ends a connection whose window has been too small for what is
        // first in its send queue for that time, though the peer accepts bytes all the while (`tcp_probe_timer`).
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

    fn write_vectored(&mut self, bufs: &[io::IoSlice<'_>]) -> io::Result<usize> {
        self.socket.write_vectored(bufs)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes to a socket, by the system call itself: the C library's wrapper prepares for the thread being cancelled and
/// back, which none here ever is, and that shows where an event has one subscriber. A peer that has gone is an error,
/// not a signal: Rust's runtime ignores `SIGPIPE`.
pub(crate) fn send(socket: impl AsFd, bytes: &[u8]) -> io::Result<usize> {
    Ok(rustix::net::send(socket, bytes, SendFlags::empty())?)
}
