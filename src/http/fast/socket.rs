//! The socket of a connection while the fast path owns it.

use std::{
    io::{self, ErrorKind},
    net::TcpStream as BareStream,
    sync::Arc,
};

use tokio::net::TcpStream;

use crate::transport::{ClientCertificate, Transport};

/// The socket of a connection.
pub(super) enum Socket {
    /// Not registered with the runtime's poll. A client that subscribes at once never needs that.
    Bare(Transport<BareStream>),
    /// Registered, because the connection had to wait.
    Watched(Transport<TcpStream>),
    /// The registration with the runtime's poll has failed, and the socket is closed.
    Gone,
}

impl Socket {
    /// Writes as many bytes as the kernel accepts at once.
    pub(super) fn try_write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Bare(socket) => socket.write(bytes),
            Self::Watched(socket) => socket.write(bytes),
            Self::Gone => Err(ErrorKind::NotConnected.into()),
        }
    }

    /// Tells the client that nothing more will come, if the connection is encrypted.
    pub(super) fn end_session(&mut self) {
        match self {
            Self::Bare(socket) => socket.end_session(),
            Self::Watched(socket) => socket.end_session(),
            Self::Gone => {}
        }
    }

    /// Continues without TLS, to answer a client that speaks HTTP without TLS.
    pub(super) fn give_up_tls(&mut self) {
        match self {
            Self::Bare(socket) => socket.give_up_tls(),
            Self::Watched(socket) => socket.give_up_tls(),
            Self::Gone => {}
        }
    }

    /// The client's certificate, which was verified; `None` if the client has shown none.
    pub(super) fn certificate(&self) -> Option<&Arc<ClientCertificate>> {
        match self {
            Self::Bare(socket) => socket.certificate(),
            Self::Watched(socket) => socket.certificate(),
            Self::Gone => None,
        }
    }

    /// How many bytes TLS keeps: usually those of an incomplete record.
    pub(super) fn held(&self) -> usize {
        match self {
            Self::Bare(socket) => socket.held(),
            Self::Watched(socket) => socket.held(),
            Self::Gone => 0,
        }
    }

    /// Writes all bytes. Waits when the kernel accepts no more.
    pub(super) async fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.watch()?.write_all(bytes).await
    }

    /// Registers the socket with the runtime's poll, unless it is registered already.
    pub(super) fn watch(&mut self) -> io::Result<&mut Transport<TcpStream>> {
        if let Self::Bare(_) = self {
            *self = Self::Watched(std::mem::replace(self, Self::Gone).into_watched()?);
        }
        match self {
            Self::Watched(socket) => Ok(socket),
            _ => Err(ErrorKind::NotConnected.into()),
        }
    }

    pub(super) fn into_watched(self) -> io::Result<Transport<TcpStream>> {
        match self {
            Self::Bare(socket) => socket.try_map(TcpStream::from_std),
            Self::Watched(socket) => Ok(socket),
            Self::Gone => Err(ErrorKind::NotConnected.into()),
        }
    }

    pub(super) fn into_bare(self) -> io::Result<Transport<BareStream>> {
        match self {
            Self::Bare(socket) => Ok(socket),
            Self::Watched(socket) => socket.try_map(TcpStream::into_std),
            Self::Gone => Err(ErrorKind::NotConnected.into()),
        }
    }
}
