//! The system calls that read and write.

use std::{io, os::fd::AsFd};

use rustix::net::{RecvFlags, SendFlags, Shutdown};

/// Reads from a socket what has arrived.
pub(crate) fn recv(socket: impl AsFd, buf: &mut [u8]) -> io::Result<usize> {
    let (received, _) = rustix::net::recv(socket, buf, RecvFlags::empty())?;
    Ok(received)
}

/// Writes to a socket with a direct system call. The function of the C library is slower, because it supports thread
/// cancellation, and that is measurable if each event has one subscriber. If the peer has closed the connection, this
/// returns an error and no signal is raised, because Rust's runtime ignores `SIGPIPE`.
pub(crate) fn send(socket: impl AsFd, bytes: &[u8]) -> io::Result<usize> {
    Ok(rustix::net::send(socket, bytes, SendFlags::empty())?)
}

/// Ends the sending side of a socket: the peer gets all that was written, and then the end.
pub(crate) fn finish(socket: impl AsFd) -> io::Result<()> {
    Ok(rustix::net::shutdown(socket, Shutdown::Write)?)
}
