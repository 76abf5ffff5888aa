//! Closes a connection whose client may still be sending.
//!
//! If a socket is closed before all received bytes were read, the kernel sends a reset. A reset makes the client's
//! kernel discard the response, if the client has not read it yet. So the server goes on reading for a short time, and
//! discards the bytes.

use std::{
    cell::RefCell,
    future::poll_fn,
    io,
    task::{Poll, ready},
    time::Duration,
};

use tokio::{io::ReadBuf, net::TcpStream, time::timeout};

use crate::transport::Transport;

/// How long a client may go on sending after the last response of its connection, from the fast path or from the
/// fallback.
pub const LINGER: Duration = Duration::from_secs(2);

/// Shuts the socket down, and discards what the client sends, for at most [`LINGER`].
pub(super) async fn linger(mut socket: Transport<TcpStream>, scratch: &RefCell<Vec<u8>>) {
    // After an error or a timeout there is nothing left to do: the socket is closed either way.
    timeout(LINGER, shut_down(&mut socket, scratch)).await.ok();
}

/// Shuts down the sending side, then reads and discards until the client closes its own side.
pub(super) async fn shut_down(socket: &mut Transport<TcpStream>, scratch: &RefCell<Vec<u8>>) -> io::Result<()> {
    socket.finish()?;
    while discard(socket, scratch).await? > 0 {}
    Ok(())
}

/// Reads once, and returns how many bytes it discarded.
///
/// It calls `poll_read`, because that counts against tokio's budget of a task, and `read` does not. Without the budget,
/// a client that sends as fast as it is read would block this thread, and the timeout would never fire.
async fn discard(socket: &mut Transport<TcpStream>, scratch: &RefCell<Vec<u8>>) -> io::Result<usize> {
    poll_fn(|cx| {
        let mut scratch = scratch.borrow_mut();
        let mut discarded = ReadBuf::new(&mut scratch);
        ready!(socket.poll_read(cx, &mut discarded))?;
        Poll::Ready(Ok(discarded.filled().len()))
    })
    .await
}
