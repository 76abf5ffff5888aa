//! The bytes of a client's connection: its socket, for all modules that read from it or write to it.
//!
//! The socket is non-blocking. A connection begins on a bare socket, may have to be watched by the runtime, and ends in
//! a hub, which watches it with a poll of its own. So the type of the socket is a parameter.

use std::{
    future::poll_fn,
    io::{self, ErrorKind},
    os::fd::AsFd,
    pin::Pin,
    task::{Context, Poll, ready},
};

use rustix::net::{RecvFlags, SendFlags, Shutdown};
use tokio::{
    io::{AsyncRead as _, Interest, ReadBuf},
    net::TcpStream,
};

/// A client's connection.
#[derive(Debug)]
pub struct Transport<S> {
    socket: S,
}

impl<S> Transport<S> {
    /// A connection on `socket`, which must be non-blocking.
    pub fn new(socket: S) -> Self {
        Self { socket }
    }

    /// The socket, to register it with a poll.
    pub fn socket_mut(&mut self) -> &mut S {
        &mut self.socket
    }

    /// Converts the socket.
    pub fn map<T>(self, convert: impl FnOnce(S) -> T) -> Transport<T> {
        Transport { socket: convert(self.socket) }
    }

    /// Converts the socket.
    ///
    /// # Errors
    /// The error of `convert`. The connection is then closed.
    pub fn try_map<T>(self, convert: impl FnOnce(S) -> io::Result<T>) -> io::Result<Transport<T>> {
        Ok(Transport { socket: convert(self.socket)? })
    }
}

impl<S: AsFd> Transport<S> {
    /// Reads what has arrived.
    ///
    /// # Errors
    /// When nothing has arrived (`WouldBlock`), or the socket fails.
    pub fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        recv(&self.socket, buf)
    }

    /// Writes as many bytes as the kernel accepts.
    ///
    /// # Errors
    /// When the kernel accepts none (`WouldBlock`), or the socket fails.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        send(&self.socket, bytes)
    }

    /// Ends the sending side: the client gets all that was written, and then the end.
    ///
    /// # Errors
    /// When the client has disconnected.
    pub fn finish(&mut self) -> io::Result<()> {
        Ok(rustix::net::shutdown(&self.socket, Shutdown::Write)?)
    }
}

impl Transport<TcpStream> {
    /// Reads what has arrived, or waits. It counts against the runtime's budget of a task.
    pub fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_read(cx, buf)
    }

    /// Reads what has arrived, or waits.
    ///
    /// # Errors
    /// When the socket fails.
    pub async fn read_some(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        poll_fn(|cx| {
            let mut read = ReadBuf::new(buf);
            ready!(self.poll_read(cx, &mut read))?;
            Poll::Ready(Ok(read.filled().len()))
        })
        .await
    }

    /// Writes as many bytes as the kernel accepts, or waits until it accepts some.
    pub fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        // Write now. The runtime may not know yet that a new socket is ready, and would wait.
        let mut written = self.write(bytes);
        while matches!(&written, Err(error) if error.kind() == ErrorKind::WouldBlock) {
            ready!(self.socket.poll_write_ready(cx))?;
            written = self.socket.try_io(Interest::WRITABLE, || send(&self.socket, bytes));
        }
        Poll::Ready(written)
    }

    /// Writes all bytes. Waits when the kernel accepts no more.
    ///
    /// # Errors
    /// When the socket fails.
    pub async fn write_all(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let written = poll_fn(|cx| self.poll_write(cx, bytes)).await?;
            bytes = bytes.get(written..).unwrap_or_default();
        }
        Ok(())
    }
}

fn recv(socket: impl AsFd, buf: &mut [u8]) -> io::Result<usize> {
    let (received, _) = rustix::net::recv(socket, buf, RecvFlags::empty())?;
    Ok(received)
}

/// Writes to a socket with a direct system call. The function of the C library is slower, because it supports thread
/// cancellation, and that is measurable if each event has one subscriber. If the peer has closed the connection, this
/// returns an error and no signal is raised, because Rust's runtime ignores `SIGPIPE`.
fn send(socket: impl AsFd, bytes: &[u8]) -> io::Result<usize> {
    Ok(rustix::net::send(socket, bytes, SendFlags::empty())?)
}
