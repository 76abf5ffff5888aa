//! The TLS session of a connection.
//!
//! rustls has the protocol and the keys, but no buffers and no socket: this file moves the bytes between rustls and the
//! socket. A session has a buffer only while bytes wait in it, so an idle session needs little memory.

use std::{
    cell::RefCell,
    fmt,
    io::{self, ErrorKind},
    os::fd::{AsFd, BorrowedFd},
    sync::Arc,
};

use rustls::{
    ServerConfig,
    server::UnbufferedServerConnection,
    unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus},
};

use super::{
    client_certificate::ClientCertificate,
    socket::{recv, send},
};

/// How many bytes are encrypted at once: the most that fits into one record. The session keeps those that the kernel
/// does not accept, so a slow reader costs this much memory.
const PLAINTEXT_MAX: usize = 16 << 10;
/// The longest incomplete record, or incomplete message of the handshake, that is kept. A record has up to 18 KiB.
const INCOMPLETE_MAX: usize = 20 << 10;
/// The same for a subscriber, who has nothing to send. Some clients pipeline one or two requests.
const SUBSCRIBER_INCOMPLETE_MAX: usize = 4 << 10;
/// What a record has beside the plaintext: a guess that is nearly always enough.
const RECORD_EXTRA: usize = 64;
/// How many bytes are received at once.
const RECEIVED_MAX: usize = 16 << 10;

thread_local! {
    /// Memory for bytes on their way to or from a socket. No session keeps any of it.
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// The client speaks HTTP without TLS.
#[derive(Debug, thiserror::Error)]
#[error("this is not TLS, but HTTP")]
pub(super) struct NotTls;

/// The TLS session of a connection.
pub(super) struct Session {
    tls: UnbufferedServerConnection,
    /// Received bytes of a record, or of a message of the handshake, that is not complete.
    incomplete: Vec<u8>,
    /// The most that `incomplete` may have.
    incomplete_max: usize,
    /// Decrypted bytes that were not read yet.
    plaintext: Vec<u8>,
    /// Encrypted bytes that the kernel has not accepted yet.
    unsent: Vec<u8>,
    /// The last byte of the last write is encrypted, but was not reported as written: see [`Session::write`].
    is_byte_withheld: bool,
    /// The client has sent its first bytes.
    has_begun: bool,
    /// The client will send nothing more.
    is_closed: bool,
    /// The client's certificate; `None` if there is none.
    certificate: Option<Arc<ClientCertificate>>,
}

/// Without keys and plaintext.
impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("certificate", &self.certificate).finish_non_exhaustive()
    }
}

impl Session {
    pub(super) fn new(config: Arc<ServerConfig>) -> io::Result<Self> {
        Ok(Self {
            tls: UnbufferedServerConnection::new(config).map_err(io::Error::other)?,
            incomplete: Vec::new(),
            incomplete_max: INCOMPLETE_MAX,
            plaintext: Vec::new(),
            unsent: Vec::new(),
            is_byte_withheld: false,
            has_begun: false,
            is_closed: false,
            certificate: None,
        })
    }

    /// Whether [`read`](Self::read) needs no bytes from the socket: there is plaintext, or the end has come.
    pub(super) fn has_read_ahead(&self) -> bool {
        !self.plaintext.is_empty() || self.is_closed
    }

    /// Whether the client will send nothing more.
    pub(super) fn is_closed(&self) -> bool {
        self.is_closed
    }

    /// How many bytes of memory the session keeps for what it has received: an incomplete record, and plaintext that
    /// was not read yet.
    pub(super) fn held(&self) -> usize {
        self.incomplete.capacity() + self.plaintext.capacity()
    }

    /// The client's certificate, which was verified; `None` if the client has shown none.
    pub(super) fn certificate(&self) -> Option<&Arc<ClientCertificate>> {
        self.certificate.as_ref()
    }

    /// Reads plaintext. Until the handshake is complete, this only continues the handshake.
    pub(super) fn read(&mut self, socket: impl AsFd, buf: &mut [u8]) -> io::Result<usize> {
        let socket = socket.as_fd();
        while !self.has_read_ahead() {
            self.receive(socket)?;
        }
        let read = self.plaintext.len().min(buf.len());
        let (now, later) = self.plaintext.split_at(read);
        buf.get_mut(..read).unwrap_or_default().copy_from_slice(now);
        self.plaintext = later.to_vec();
        Ok(read)
    }

    /// Receives bytes and discards the plaintext. Returns how many encrypted bytes were received, because records
    /// without plaintext cost time, too.
    pub(super) fn discard(&mut self, socket: impl AsFd) -> io::Result<usize> {
        if self.is_closed {
            return Ok(0);
        }
        let received = self.receive(socket.as_fd())?;
        self.plaintext = Vec::new();
        Ok(if self.is_closed { 0 } else { received })
    }

    /// Prepares the session of a new subscriber, who has nothing to send.
    pub(super) fn begin_stream(&mut self) {
        self.incomplete_max = SUBSCRIBER_INCOMPLETE_MAX;
        self.plaintext = Vec::new();
    }

    /// Receives bytes, and processes them. Returns how many.
    fn receive(&mut self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        let received = with_scratch(|scratch| {
            scratch.resize(RECEIVED_MAX, 0);
            let received = recv(socket, scratch)?;
            let bytes = scratch.get(..received).unwrap_or_default();
            if !self.has_begun && bytes.first().is_some_and(u8::is_ascii_alphabetic) {
                // A method begins with a letter, and a TLS record with a number below 32.
                return Err(io::Error::new(ErrorKind::InvalidData, NotTls));
            }
            self.has_begun = true;
            self.is_closed |= received == 0;
            self.incomplete.extend_from_slice(bytes);
            Ok(received)
        })?;
        let processed = self.process();
        // The next write sends what this flush does not send. If the connection is broken, the next read reports that.
        self.flush(socket).ok();
        processed?;
        Ok(received)
    }

    /// Processes the received records. The answers to them, such as those of the handshake, go to `unsent`.
    fn process(&mut self) -> io::Result<()> {
        let was_handshaking = self.tls.is_handshaking();
        let mut is_done = false;
        while !is_done {
            let UnbufferedStatus { mut discard, state } = self.tls.process_tls_records(&mut self.incomplete);
            let failure = match state {
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    while let Some(record) = traffic.next_record() {
                        let record = record.map_err(io::Error::other)?;
                        discard += record.discard;
                        self.plaintext.extend_from_slice(record.payload);
                    }
                    None
                }
                Ok(ConnectionState::EncodeTlsData(mut data)) => {
                    append(&mut self.unsent, 0, |buf| data.encode(buf).map_err(|error| needed_to_encode(&error)))?;
                    None
                }
                Ok(ConnectionState::TransmitTlsData(data)) => {
                    data.done();
                    None
                }
                Ok(ConnectionState::PeerClosed | ConnectionState::Closed) => {
                    self.is_closed = true;
                    is_done = true;
                    None
                }
                Ok(ConnectionState::BlockedHandshake | ConnectionState::WriteTraffic(_)) => {
                    is_done = true;
                    None
                }
                // There is no early data: the configuration does not allow it.
                Ok(_) => Some(io::Error::other("an unknown state of TLS")),
                Err(error) => Some(io::Error::new(ErrorKind::InvalidData, error)),
            };
            self.incomplete.drain(..discard.min(self.incomplete.len()));
            if let Some(failure) = failure {
                self.encode_alerts();
                return Err(failure);
            }
        }
        if self.incomplete.is_empty() || self.is_closed {
            self.incomplete = Vec::new();
        }
        if self.incomplete.len() > self.incomplete_max {
            return Err(io::Error::new(ErrorKind::InvalidData, "a record or a message of TLS is too long"));
        }
        if was_handshaking && !self.tls.is_handshaking() {
            self.certificate = self.tls.peer_certificates().and_then(|chain| ClientCertificate::read(chain.first()?));
        }
        Ok(())
    }

    /// After an error, appends the alerts for the client to `unsent`.
    fn encode_alerts(&mut self) {
        loop {
            let UnbufferedStatus { state, .. } = self.tls.process_tls_records(&mut self.incomplete);
            let Ok(ConnectionState::EncodeTlsData(mut data)) = state else { return };
            if append(&mut self.unsent, 0, |buf| data.encode(buf).map_err(|error| needed_to_encode(&error))).is_err() {
                return;
            }
        }
    }

    /// Writes plaintext. Returns how many bytes are written.
    ///
    /// If the kernel does not accept all encrypted bytes, the rest of them waits in `unsent`. Then this must return
    /// fewer bytes than the caller has offered: so the caller learns that the socket is full.
    ///
    /// For example, the caller offers 100 bytes. All are encrypted, and the kernel accepts some. This *withholds* one
    /// byte: it returns 99. The caller offers the last byte again. That call sends `unsent`, does not encrypt the byte
    /// again, and returns 1.
    ///
    /// So two things must hold for a caller:
    /// - If not all bytes were written, it offers the rest next, unchanged.
    /// - It does so even after `WouldBlock`, which a block of one byte may get although the byte is encrypted already.
    ///   The only such block is a heartbeat, and the hub keeps a heartbeat until it is written.
    pub(super) fn write(&mut self, socket: impl AsFd, bytes: &[u8]) -> io::Result<usize> {
        let socket = socket.as_fd();
        self.flush(socket)?;
        // A byte that was withheld is the first of `bytes`, and is encrypted already.
        let mut written = usize::from(std::mem::take(&mut self.is_byte_withheld)).min(bytes.len());
        while let Some(rest) = bytes.get(written..).filter(|rest| !rest.is_empty()) {
            let piece = rest.get(..PLAINTEXT_MAX).unwrap_or(rest);
            self.encrypt(socket, Some(piece))?;
            written += piece.len();
            if !self.unsent.is_empty() {
                self.is_byte_withheld = written == bytes.len();
                let reported = if self.is_byte_withheld { written - 1 } else { written };
                return if reported == 0 { Err(ErrorKind::WouldBlock.into()) } else { Ok(reported) };
            }
        }
        Ok(written)
    }

    /// Sends the bytes in `unsent`.
    ///
    /// # Errors
    /// When the kernel does not accept all of them (`WouldBlock`), or the socket fails.
    pub(super) fn flush(&mut self, socket: impl AsFd) -> io::Result<()> {
        if self.unsent.is_empty() {
            return Ok(());
        }
        let sent = send_all(socket.as_fd(), &self.unsent)?;
        if sent < self.unsent.len() {
            self.unsent.drain(..sent);
            return Err(ErrorKind::WouldBlock.into());
        }
        self.unsent = Vec::new();
        Ok(())
    }

    /// Tells the client that nothing more will come (`close_notify`). So the client knows that nothing was cut off.
    pub(super) fn finish(&mut self, socket: impl AsFd) -> io::Result<()> {
        self.flush(&socket)?;
        if self.tls.is_handshaking() {
            return Ok(());
        }
        self.encrypt(socket.as_fd(), None)
    }

    /// Encrypts and sends `piece`, or the end of the session if `piece` is `None`. The bytes that the kernel does not
    /// accept go to `unsent`, which must be empty before.
    fn encrypt(&mut self, socket: BorrowedFd<'_>, piece: Option<&[u8]>) -> io::Result<()> {
        debug_assert!(self.unsent.is_empty(), "bytes are sent in the order in which they were encrypted");
        with_scratch(|scratch| {
            scratch.clear();
            let mut is_written = false;
            while !is_written {
                let UnbufferedStatus { discard, state } = self.tls.process_tls_records(&mut self.incomplete);
                match state.map_err(|error| io::Error::new(ErrorKind::InvalidData, error))? {
                    ConnectionState::WriteTraffic(mut traffic) => {
                        append(scratch, RECORD_EXTRA + piece.map_or(0, <[u8]>::len), |buf| {
                            let written = match piece {
                                Some(piece) => traffic.encrypt(piece, buf),
                                None => traffic.queue_close_notify(buf),
                            };
                            written.map_err(|error| needed_to_encrypt(&error))
                        })?;
                        is_written = true;
                    }
                    // The answer to a change of keys, for example.
                    ConnectionState::EncodeTlsData(mut data) => {
                        append(scratch, 0, |buf| data.encode(buf).map_err(|error| needed_to_encode(&error)))?;
                    }
                    ConnectionState::TransmitTlsData(data) => data.done(),
                    ConnectionState::PeerClosed => self.is_closed = true,
                    _ => return Err(ErrorKind::NotConnected.into()),
                }
                self.incomplete.drain(..discard.min(self.incomplete.len()));
            }
            let sent = send_all(socket, scratch)?;
            self.unsent = scratch.get(sent..).unwrap_or_default().to_vec();
            Ok(())
        })
    }
}

/// Calls `f` with the scratch memory of this thread.
fn with_scratch<T>(f: impl FnOnce(&mut Vec<u8>) -> T) -> T {
    SCRATCH.with_borrow_mut(f)
}

/// Appends to `out` what `write` writes. `write` gets space for `len` bytes, and returns how many bytes it has written.
/// If it needs more space, it returns how many bytes it needs, and is called again. With `None`, it cannot write at
/// all.
fn append(
    out: &mut Vec<u8>,
    mut len: usize,
    mut write: impl FnMut(&mut [u8]) -> Result<usize, Option<usize>>,
) -> io::Result<()> {
    let start = out.len();
    loop {
        out.resize(start + len, 0);
        let written = write(out.get_mut(start..).unwrap_or_default());
        match written {
            Ok(written) => {
                out.truncate(start + written);
                return Ok(());
            }
            Err(Some(needed)) if needed > len => len = needed,
            Err(_) => {
                out.truncate(start);
                return Err(io::Error::other("the keys of this TLS session are used up"));
            }
        }
    }
}

fn needed_to_encode(error: &EncodeError) -> Option<usize> {
    match error {
        EncodeError::InsufficientSize(size) => Some(size.required_size),
        EncodeError::AlreadyEncoded => None,
    }
}

fn needed_to_encrypt(error: &EncryptError) -> Option<usize> {
    match error {
        EncryptError::InsufficientSize(size) => Some(size.required_size),
        EncryptError::EncryptExhausted => None,
    }
}

/// Sends until the kernel accepts no more. Returns how many bytes it has accepted.
fn send_all(socket: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<usize> {
    let mut sent = 0;
    while let Some(rest) = bytes.get(sent..).filter(|rest| !rest.is_empty()) {
        match send(socket, rest) {
            Ok(accepted) => sent += accepted,
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(sent)
}
