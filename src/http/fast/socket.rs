//! The socket of a connection while the fast path owns it.

use std::{
    io::{self, ErrorKind},
    net::TcpStream as BareStream,
};

use tokio::{io::Interest, net::TcpStream};

use crate::hub::send;

/// The socket of a connection.
pub(super) enum Socket {
    /// Not registered with the runtime's poll. A client that subscribes at once never needs that.
    Bare(BareStream),
    /// Registered, because the connection had to wait.
    Watched(TcpStream),
    /// The registration with the runtime's poll has failed, and the socket is closed.
    Gone,
}

impl Socket {
    /// Writes as many bytes as the kernel accepts at once.
    pub(super) fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Bare(socket) => send(socket, bytes),
            Self::Watched(socket) => socket.try_io(Interest::WRITABLE, || send(socket, bytes)),
            Self::Gone => Err(ErrorKind::NotConnected.into()),
        }
    }

    /// Writes all bytes. Waits when the kernel accepts no more.
    pub(super) async fn write_all(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        let socket = self.watch()?;
        while !bytes.is_empty() {
            socket.writable().await?;
            match socket.try_write(bytes) {
                Ok(sent) => bytes = bytes.get(sent..).unwrap_or_default(),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Registers the socket with the runtime's poll, unless it is registered already.
    pub(super) fn watch(&mut self) -> io::Result<&mut TcpStream> {
        if let Self::Bare(_) = self {
            *self = Self::Watched(std::mem::replace(self, Self::Gone).into_watched()?);
        }
        match self {
            Self::Watched(socket) => Ok(socket),
            _ => Err(ErrorKind::NotConnected.into()),
        }
    }

    pub(super) fn into_watched(self) -> io::Result<TcpStream> {
        match self {
            Self::Bare(socket) => TcpStream::from_std(socket),
            Self::Watched(socket) => Ok(socket),
            Self::Gone => Err(ErrorKind::NotConnected.into()),
        }
    }

    pub(super) fn into_bare(self) -> io::Result<BareStream> {
        match self {
            Self::Bare(socket) => Ok(socket),
            Self::Watched(socket) => socket.into_std(),
            Self::Gone => Err(ErrorKind::NotConnected.into()),
        }
    }
}
