//! Opens connections, more of them than one pair of addresses has ports for.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use mio::net::TcpStream;
use socket2::{Domain, Protocol, Socket, Type};

/// Connections from one address of 127.0.0.0/8. The system has some 28,000 ports for each address, seeks longer for one
/// the fewer are left, and keeps those of connections that have ended for a minute: so each run begins elsewhere.
const EACH: u32 = 4_000;

#[derive(Debug)]
pub struct Dialer {
    target: SocketAddr,
    /// The source of the first connections, if sources are chosen.
    first: u32,
    dialed: u32,
}

impl Dialer {
    pub fn new(target: SocketAddr) -> Self {
        let [from, to] = [[127, 1, 0, 0], [127, 250, 0, 0]].map(|bytes| u32::from(Ipv4Addr::from(bytes)));
        Self { target, first: fastrand::u32(from..to), dialed: 0 }
    }

    /// Begins a connection; it is there when its socket takes bytes.
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

    /// Only where the server is on this machine, and the system takes all of 127.0.0.0/8 for it.
    fn source(&self) -> Option<Ipv4Addr> {
        let is_near = matches!(self.target.ip(), IpAddr::V4(address) if address.is_loopback());
        let near = self.first + self.dialed / EACH % 0x0001_0000;
        (is_near && cfg!(target_os = "linux")).then(|| near.into())
    }
}
