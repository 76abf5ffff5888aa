//! A connection's socket, as the fast path holds it.

use std::{
    io::{self, ErrorKind, Write as _},
    net::TcpStream as BareStream,
};

use tokio::{io::Interest, net::TcpStream};

use crate::hub::send;

/// A connection's socket. The runtime's poll knows it only once it had to wait.
pub(super) enum Socket {
    Bare(BareStream),
    Watched(TcpStream),
    Gone,
}

impl Socket {
    pub(super) fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Bare(socket) => (&*socket).write(bytes),
            Self::Watched(socket) => socket.try_io(Interest::WRITABLE, || send(socket, bytes)),
            Self::Gone => Err(ErrorKind::NotConnected.into()),
        }
    }

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

    pub(super) fn watch(&mut self) -> io::Result<&mut TcpStream> {
        if !matches!(self, Self::Watched(_)) {
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
