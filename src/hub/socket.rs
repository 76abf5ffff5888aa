//! A subscriber's socket: non-blocking, and registered with the hub's poll.

use std::{io, net, rc::Rc};

use mio::{Interest, Registry, Token, net::TcpStream};

use super::connection::Peer;
use crate::transport::Transport;

/// A subscriber's socket. The poll reports under its key when it is ready.
pub(super) struct Socket {
    transport: Transport<TcpStream>,
    registry: Rc<Registry>,
}

impl Socket {
    pub(super) fn new(transport: Transport<net::TcpStream>, registry: Rc<Registry>) -> Self {
        Self { transport: transport.map(TcpStream::from_std), registry }
    }

    /// From now on, the poll reports under `key` when the peer sends bytes or closes the connection.
    pub(super) fn watch_readable(&mut self, key: usize) -> io::Result<()> {
        self.registry.register(self.transport.socket_mut(), Token(key), Interest::READABLE)
    }
}

impl Peer for Socket {
    fn finish(&mut self) {
        // This fails if the peer has closed the connection. Then there is nothing to finish.
        self.transport.finish().ok();
    }

    fn watch_writable(&mut self, key: usize) -> io::Result<()> {
        let socket = self.transport.socket_mut();
        // From now on only `stream.write_timeout` applies. The user timeout of Linux would also end the connection of a
        // slow reader: it expires when the receive window stays too small for the first segment in the send queue
        // (`tcp_probe_timer`).
        #[cfg(target_os = "linux")]
        rustix::net::sockopt::set_tcp_user_timeout(&*socket, 0)?;
        self.registry.reregister(socket, Token(key), Interest::READABLE | Interest::WRITABLE)
    }
}

impl io::Read for Socket {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.transport.read(buf)
    }
}

impl io::Write for Socket {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.transport.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
