//! The end of a connection whose client may still be sending.

use std::{
    cell::RefCell,
    future::poll_fn,
    io,
    pin::Pin,
    task::{Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead as _, AsyncWriteExt as _, ReadBuf},
    net::TcpStream,
    time::timeout,
};

use super::socket::Socket;

/// How long a client that is refused may go on sending: the refusal would be lost to a reset if the socket were closed
/// before what it sends has been read.
pub(super) const LINGER: Duration = Duration::from_secs(2);

/// Ends a connection whose client may still be sending: it can read the answer, and what it sends is dropped.
pub(super) async fn linger(socket: Socket, scratch: &RefCell<Vec<u8>>) {
    let Ok(mut socket) = socket.into_watched() else { return };
    // Neither an error nor the time's end leaves anything to be done.
    timeout(LINGER, shut_down(&mut socket, scratch)).await.ok();
}

/// Ends our side, then reads and drops what the client still sends, until it ends its own: a reset would take the
/// answer away.
pub(super) async fn shut_down(socket: &mut TcpStream, scratch: &RefCell<Vec<u8>>) -> io::Result<()> {
    socket.shutdown().await?;
    while read_in_vain(socket, scratch).await? > 0 {}
    Ok(())
}

/// Reads with `poll_read`, which takes from the task's budget as `try_read` does not: a peer that sends as fast as it
/// is read would otherwise keep this thread to itself, and the end of its time would never be noticed.
async fn read_in_vain(socket: &mut TcpStream, scratch: &RefCell<Vec<u8>>) -> io::Result<usize> {
    poll_fn(|cx| {
        let mut scratch = scratch.borrow_mut();
        let mut dropped = ReadBuf::new(&mut scratch);
        ready!(Pin::new(&mut *socket).poll_read(cx, &mut dropped))?;
        Poll::Ready(Ok(dropped.filled().len()))
    })
    .await
}
