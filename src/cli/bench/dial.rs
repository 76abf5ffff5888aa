//! Opens connections. There may be more of them than one source address has ports.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use mio::net::TcpStream;
use socket2::{Domain, Protocol, Socket, Type};

/// How many connections use the same source address of 127.0.0.0/8.
///
/// An address has about 28,000 ports. The fewer are free, the longer the system searches for one. After a connection
/// has ended, its port stays in use for a minute. So each run starts at a random address.
const CONNECTIONS_PER_SOURCE: u32 = 4_000;

/// Opens connections to the server.
#[derive(Debug)]
pub struct Dialer {
    target: SocketAddr,
    /// The source address of the first connections, as a number.
    first_source: u32,
    /// How many connections were opened.
    dialed: u32,
}

impl Dialer {
    pub fn new(target: SocketAddr) -> Self {
        let [from, to] = [[127, 1, 0, 0], [127, 250, 0, 0]].map(|bytes| u32::from(Ipv4Addr::from(bytes)));
        Self { target, first_source: fastrand::u32(from..to), dialed: 0 }
    }

    /// Starts to connect. The connection is established when its socket is writable.
    pub fn dial(&mut self) -> io::Result<TcpStream> {
        let socket = Socket::new(Domain::for_address(self.target), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_nonblocking(true)?;
        if let Some(source) = self.source() {
            socket.bind(&SocketAddr::from((source, 0)).into())?;
        }
        self.dialed = self.dialed.wrapping_add(1);
        match socket.connect(&self.target.into()) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
            Err(error) => return Err(error),
        }
        Ok(TcpStream::from_std(socket.into()))
    }

    /// The source address for the next connection; `None` lets the system choose. Linux accepts each address of
    /// 127.0.0.0/8 as a source, if the server is on the same machine.
    fn source(&self) -> Option<Ipv4Addr> {
        let is_loopback = matches!(self.target.ip(), IpAddr::V4(address) if address.is_loopback());
        let source = self.first_source + self.dialed / CONNECTIONS_PER_SOURCE % 0x0001_0000;
        (is_loopback && cfg!(target_os = "linux")).then(|| source.into())
    }
}
