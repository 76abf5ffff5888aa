//! Opens connections. There may be more of them than one source address has ports.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use mio::{Interest, Registry, Token, net::TcpStream};
use socket2::{Domain, Protocol, Socket, Type};

/// How many connections a run opens from one source address, before it takes the next one.
///
/// An address has about 28,000 ports. When few are free, the system searches for one for a long time. And the port of a
/// closed connection stays in use for a minute, so each run starts at a random address.
const CONNECTIONS_PER_SOURCE: u32 = 4_000;
/// A run chooses its first source address at random from this range, and uses the 65,536 addresses from there.
const FIRST_SOURCES: [Ipv4Addr; 2] = [Ipv4Addr::new(127, 1, 0, 0), Ipv4Addr::new(127, 250, 0, 0)];

/// Opens connections to the server.
#[derive(Debug)]
pub struct Dialer {
    /// Where the poll registers connections.
    registry: Registry,
    target: SocketAddr,
    /// The source address of the first connections, as a number.
    first_source: u32,
    /// How many connections were opened.
    dialed: u32,
}

impl Dialer {
    pub fn new(registry: Registry, target: SocketAddr) -> Self {
        let [from, to] = FIRST_SOURCES.map(u32::from);
        Self { registry, target, first_source: fastrand::u32(from..to), dialed: 0 }
    }

    /// Starts to connect. The poll reports the events of the socket with `token`. The connection is established when
    /// the socket is writable.
    pub fn dial(&mut self, token: usize) -> io::Result<TcpStream> {
        let socket = Socket::new(Domain::for_address(self.target), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_nonblocking(true)?;
        socket.set_tcp_nodelay(true)?;
        // Linux accepts each address of 127.0.0.0/8 as a source, if the server is on the same machine.
        let is_loopback = matches!(self.target.ip(), IpAddr::V4(address) if address.is_loopback());
        if is_loopback && cfg!(target_os = "linux") {
            let source = Ipv4Addr::from(self.first_source + (self.dialed / CONNECTIONS_PER_SOURCE) % 0x1_0000);
            socket.bind(&SocketAddr::from((source, 0)).into())?;
        }
        self.dialed = self.dialed.wrapping_add(1);
        match socket.connect(&self.target.into()) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
            result => result?,
        }
        let mut socket = TcpStream::from_std(socket.into());
        self.registry.register(&mut socket, Token(token), Interest::READABLE | Interest::WRITABLE)?;
        Ok(socket)
    }
}
