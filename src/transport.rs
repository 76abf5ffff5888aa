//! A client's connection, for all modules that read from it or write to it: a socket, and a session if it speaks TLS.
//!
//! The socket is non-blocking. A connection begins on a bare socket. Then the runtime may watch the socket, and later a
//! hub watches it with a poll of its own. So the type of the socket is a parameter.
//!
//! The handshake of TLS has no step of its own: the first read of a request continues the handshake until the request
//! is there. So the handshake has the limits and timeouts of a connection that has sent no request.

use std::{
    future::poll_fn,
    io::{self, ErrorKind},
    os::fd::AsFd,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead as _, Interest, ReadBuf},
    net::TcpStream,
};

// Each file uses only files below it.
mod acceptor;
mod outgoing;
mod certificates;
mod session;
mod client_certificate;
mod subject;
mod socket;

pub use acceptor::Acceptor;
pub use certificates::TlsError;
pub use client_certificate::ClientCertificate;
pub use outgoing::check_outgoing;
use session::{NotTls, Session};
pub(crate) use socket::{finish, recv, send};

/// A client's connection.
#[derive(Debug)]
pub struct Transport<S> {
    socket: S,
    /// `None` if the connection is not encrypted.
    session: Option<Box<Session>>,
}

/// Whether a read has failed because the client speaks HTTP without TLS. The answer must not be encrypted either.
pub fn is_not_tls(error: &io::Error) -> bool {
    error.get_ref().is_some_and(<dyn std::error::Error + Send + Sync>::is::<NotTls>)
}

impl<S> Transport<S> {
    /// A new connection on `socket`, which must be non-blocking.
    ///
    /// # Errors
    /// When TLS cannot begin.
    pub fn accept(socket: S, acceptor: &Acceptor) -> io::Result<Self> {
        Ok(Self { socket, session: acceptor.session()? })
    }

    /// The socket, if the connection is not encrypted.
    ///
    /// # Errors
    /// Returns the connection itself, if it is encrypted.
    pub fn into_plain(self) -> Result<S, Self> {
        if self.session.is_none() { Ok(self.socket) } else { Err(self) }
    }

    /// The client's certificate, which was verified; `None` if the client has shown none.
    pub fn certificate(&self) -> Option<&Arc<ClientCertificate>> {
        self.session.as_ref()?.certificate()
    }

    /// How many bytes of memory the connection itself keeps of what it has received.
    pub fn held(&self) -> usize {
        self.session.as_ref().map_or(0, |session| session.held())
    }

    /// Goes on without TLS, to answer a client that speaks HTTP without TLS.
    pub fn give_up_tls(&mut self) {
        self.session = None;
    }

    /// Prepares the connection of a new subscriber, who has nothing to send. Returns false if the client has closed it.
    pub fn begin_stream(&mut self) -> bool {
        let Some(session) = &mut self.session else { return true };
        session.begin_stream();
        !session.is_closed()
    }

    /// The socket, to register it with a poll.
    pub fn socket_mut(&mut self) -> &mut S {
        &mut self.socket
    }

    /// Converts the socket.
    pub fn map<T>(self, convert: impl FnOnce(S) -> T) -> Transport<T> {
        Transport { socket: convert(self.socket), session: self.session }
    }

    /// Converts the socket.
    ///
    /// # Errors
    /// The error of `convert`. The connection is then closed.
    pub fn try_map<T>(self, convert: impl FnOnce(S) -> io::Result<T>) -> io::Result<Transport<T>> {
        Ok(Transport { socket: convert(self.socket)?, session: self.session })
    }
}

impl<S: AsFd> Transport<S> {
    /// Reads what has arrived.
    ///
    /// # Errors
    /// When nothing has arrived (`WouldBlock`), or the socket fails.
    pub fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match &mut self.session {
            None => recv(&self.socket, buf),
            Some(session) => session.read(&self.socket, buf),
        }
    }

    /// Reads what has arrived, and discards it. Returns how many bytes came over the network.
    ///
    /// # Errors
    /// When nothing has arrived (`WouldBlock`), or the socket fails.
    pub fn discard(&mut self, scratch: &mut [u8]) -> io::Result<usize> {
        match &mut self.session {
            None => recv(&self.socket, scratch),
            Some(session) => session.discard(&self.socket),
        }
    }

    /// Writes as many bytes as the socket accepts. If these are not all, the caller must write the rest next: see
    /// [`Session::write`].
    ///
    /// # Errors
    /// When the kernel accepts none (`WouldBlock`), or the socket fails.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.session {
            None => send(&self.socket, bytes),
            Some(session) => session.write(&self.socket, bytes),
        }
    }

    /// Sends what is encrypted and not sent yet.
    ///
    /// # Errors
    /// When the kernel does not accept all of it (`WouldBlock`), or the socket fails.
    pub fn flush(&mut self) -> io::Result<()> {
        self.session.as_mut().map_or(Ok(()), |session| session.flush(&self.socket))
    }

    /// Tells the client that nothing more will come, if the connection is encrypted.
    pub fn end_session(&mut self) {
        if let Some(session) = &mut self.session {
            // If this fails, the client only misses the notice.
            session.finish(&self.socket).ok();
        }
    }

    /// Ends the sending side: the client gets all that was written, and then the end.
    ///
    /// # Errors
    /// When the client has disconnected.
    pub fn finish(&mut self) -> io::Result<()> {
        self.end_session();
        finish(&self.socket)
    }
}

impl Transport<TcpStream> {
    /// Reads what has arrived, or waits. A read counts against the runtime's budget of a task.
    pub fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Some(session) = &mut self.session else { return Pin::new(&mut self.socket).poll_read(cx, buf) };
        loop {
            let read = if session.has_read_ahead() {
                session.read(&self.socket, buf.initialize_unfilled())
            } else {
                ready!(self.socket.poll_read_ready(cx))?;
                let unfilled = buf.initialize_unfilled();
                self.socket.try_io(Interest::READABLE, || session.read(&self.socket, unfilled))
            };
            match read {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
                Ok(read) => {
                    buf.advance(read);
                    return Poll::Ready(Ok(()));
                }
            }
        }
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
            written = match &mut self.session {
                None => self.socket.try_io(Interest::WRITABLE, || send(&self.socket, bytes)),
                Some(session) => self.socket.try_io(Interest::WRITABLE, || session.write(&self.socket, bytes)),
            };
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
