//! Accepts the connections of one worker.
//!
//! When the process has no file descriptor left, the connection that has been idle longest is evicted. If none is idle,
//! a descriptor of the reserve is used to accept the new connection and to reject it with a response. Otherwise the
//! connection would wait in the queue of the kernel: its client would learn nothing, and a health check would fail.

use std::{
    io,
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use mio::net::{TcpListener, TcpStream};
use tokio::{io::unix::AsyncFd, task::yield_now, time::sleep};

use super::tasks::{Admitted, Tasks};
use crate::{
    config::Config,
    http::{FastPath, PendingSlots},
    limits::{DescriptorReserve, LimitReached},
    transport::{Acceptor, Transport},
};

/// After this many accepted connections, other tasks continue: the connections must be served, and that takes far
/// longer than to accept them.
const ACCEPTS_PER_YIELD: usize = 16;
/// How long a worker waits when there is no file descriptor left, not even in the reserve. Without this pause, the
/// worker would use a whole processor to try again and again.
const RETRY_ACCEPT_AFTER: Duration = Duration::from_millis(100);
/// How often the log says that there is no file descriptor left.
const REPORT_EVERY: Duration = Duration::from_secs(10);
/// How many descriptors of the reserve each worker may use for rejected connections. One more connection evicts the
/// oldest. So a worker with a flood of new connections cannot use up the descriptors of the other workers.
const RESERVE_PER_WORKER: usize = 16;
/// The most descriptors of the reserve, for any number of workers.
const RESERVE_MAX: usize = 64;

/// Accepts the connections of one worker.
pub(super) struct AcceptLoop {
    pub(super) listener: AsyncFd<TcpListener>,
    pub(super) fast: Rc<FastPath>,
    pub(super) tasks: Rc<Tasks>,
    pub(super) pending: Rc<PendingSlots>,
    pub(super) acceptor: Acceptor,
    pub(super) descriptors: Arc<DescriptorReserve>,
    pub(super) config: Arc<Config>,
}

/// Opens the reserve of a server with so many workers.
pub(super) fn reserve(workers: usize) -> DescriptorReserve {
    DescriptorReserve::open(RESERVE_MAX.min(workers * RESERVE_PER_WORKER))
}

impl AcceptLoop {
    /// Accepts connections until the runtime ends.
    pub(super) async fn run(&self) {
        let (mut accepted, mut reported) = (0, None);
        loop {
            match accept_one(&self.listener).await {
                Ok((socket, remote)) => self.admit(socket, remote).await,
                Err(error) if is_exhaustion(&error) => {
                    if reported.is_none_or(|reported: Instant| reported.elapsed() >= REPORT_EVERY) {
                        tracing::error!(%error, "new connections are refused; raise the limit of open files (ulimit -n)");
                        reported = Some(Instant::now());
                    }
                    self.free_descriptor().await;
                    continue;
                }
                // The client has disconnected already, or the runtime ends.
                Err(_) => continue,
            }
            accepted += 1;
            if accepted % ACCEPTS_PER_YIELD == 0 {
                yield_now().await;
            }
        }
    }

    /// Serves a new connection, or rejects it.
    async fn admit(&self, socket: TcpStream, remote: SocketAddr) {
        // An error means that the system has no randomness. The connection is closed.
        let Ok(socket) = Transport::accept(socket.into(), &self.acceptor) else { return };
        // While the reserve is not complete, the new connection may have a descriptor of the reserve. It is served only
        // when the reserve is complete again: otherwise the reserve would become smaller with each such connection.
        while !self.descriptors.refill() {
            if !self.pending.evict_idle() {
                self.fast.reject(socket, LimitReached::OpenFiles);
                return;
            }
            yield_now().await;
        }
        // The clients of a proxy do not share the limit of its address.
        let counted_ip = (!self.config.server.trusts(remote.ip())).then(|| remote.ip());
        match self.pending.admit(counted_ip) {
            Ok(slot) => self.tasks.serve(Admitted { socket, remote, slot }),
            Err(error) => self.fast.reject(socket, error),
        }
    }

    /// Frees a descriptor for the next connection, or waits. Does the first of these that is possible:
    /// 1. Evict the connection that has been idle longest.
    /// 2. If this worker has [`RESERVE_PER_WORKER`] rejected connections, evict the oldest of them.
    /// 3. Release a descriptor of the reserve.
    /// 4. Evict the oldest rejected connection: the other workers use the whole reserve.
    async fn free_descriptor(&self) {
        let is_evicted = self.pending.evict_idle() || self.fast.evict_rejected_if_at_least(RESERVE_PER_WORKER);
        if !is_evicted && self.descriptors.release() {
            return;
        }
        if is_evicted || self.fast.evict_rejected_if_at_least(1) {
            // The descriptor of an evicted connection is free only after the task of the connection has run.
            yield_now().await;
        } else {
            sleep(RETRY_ACCEPT_AFTER).await;
        }
    }
}

async fn accept_one(listener: &AsyncFd<TcpListener>) -> io::Result<(TcpStream, SocketAddr)> {
    loop {
        let mut ready = listener.readable().await?;
        if let Ok(accepted) = ready.try_io(|listener| listener.get_ref().accept()) {
            return accepted;
        }
    }
}

/// Whether the process or the system has no descriptors or memory left for another connection.
fn is_exhaustion(error: &io::Error) -> bool {
    let codes = [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM];
    error.raw_os_error().is_some_and(|code| codes.contains(&code))
}
