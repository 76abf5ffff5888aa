//! The composition root: puts the parts together, listens, and takes them apart again.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    sync::Arc,
    time::Duration,
};

use actix_rt::Arbiter;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::spawn_local,
    time::{interval, timeout},
};

use crate::{
    config::{Config, Engine},
    hub::{Drain, Unsent},
    limits::{Connections, PendingConnections, RequestBytes},
    log::{
        KeyLimits, Log,
        disk::{DiskLog, OpenError},
        memory::MemoryLog,
    },
    registry::Registry,
    topic::TopicLimits,
};

mod worker;

use worker::Parts;

/// A server that listens.
pub struct Server {
    address: SocketAddr,
    config: Arc<Config>,
    log: Arc<dyn Log>,
    registry: Arc<Registry>,
    connections: Arc<Connections>,
    workers: Vec<Arbiter>,
    drain: watch::Sender<Option<Duration>>,
    done: mpsc::Sender<()>,
    drained: mpsc::Receiver<()>,
}

/// Why a server does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}{}", hint(.source))]
    Listen {
        /// The address asked for.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// The log cannot be opened.
    #[error(transparent)]
    Log(#[from] OpenError),
    /// The system gives no thread, or nothing to wait with.
    #[error("cannot start a worker: {0}")]
    Worker(#[source] io::Error),
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => "; another process has the port: stop it, or choose another with --listen",
        io::ErrorKind::PermissionDenied => "; ports below 1024 are for privileged processes",
        io::ErrorKind::AddrNotAvailable => "; this machine does not have the address: see server.host",
        _ => "",
    }
}

/// Connections that wait to be accepted, in a reconnect storm.
const BACKLOG: i32 = 4096;
/// What the kernel holds of a subscriber that does not read; it would grow to several MiB each by itself.
const SEND_BUFFER: usize = 128 << 10;
/// A peer that acknowledges nothing for this many times `stream.write_timeout` has vanished.
const VANISHED: u32 = 4;
/// How often retention, expired keys and idle topics are looked after.
const TEND: Duration = Duration::from_secs(1);
/// What is left of the drain time, at least, for requests that are under way.
const LAST_REQUESTS: Duration = Duration::from_millis(250);
/// How long the last answers may take after the log has failed.
const LAST_ANSWERS: Duration = Duration::from_secs(1);

impl Server {
    /// Listens and serves. Runs within an actix system, whose workers it starts.
    ///
    /// # Errors
    /// When the address cannot be listened on.
    pub fn listen(config: Config) -> Result<Self, StartError> {
        let requested = config.server.address();
        let failed = |source| StartError::Listen { address: requested, source };
        let sockets = sockets(requested, &config).map_err(failed)?;
        let config = Arc::new(config);
        let keys = KeyLimits::from(&*config);
        let log: Arc<dyn Log> = match config.log.engine {
            Engine::Memory => Arc::new(MemoryLog::new(config.log.clone(), keys)),
            Engine::Disk => Arc::new(DiskLog::open(&config.log, keys)?),
        };
        let limits = TopicLimits { subscribers_max: config.limits.subscribers_per_topic_max, gone: config.stream.gone };
        let registry = Arc::new(Registry::new(Arc::clone(&log), config.limits.topics_max, limits));
        let connections = Connections::new(&config.limits);
        let (drain, begin) = watch::channel(None);
        let (done, drained) = mpsc::channel(1);
        let parts = Parts {
            config: Arc::clone(&config),
            log: Arc::clone(&log),
            registry: Arc::clone(&registry),
            connections: Arc::clone(&connections),
            unsent: Arc::new(Unsent::new(config.stream.unsent_bytes_max.to_usize())),
            drain: Drain { begin, done: done.downgrade() },
            bytes: RequestBytes::new(&config.limits),
            pending: PendingConnections::new(&config.limits),
        };
        // Not before the log is open: nobody shall wait for a server that does not start.
        let listeners: io::Result<Vec<TcpListener>> = sockets.into_iter().map(listen).collect();
        let listeners = listeners.map_err(failed)?;
        let address = listeners.first().map_or(Ok(requested), TcpListener::local_addr).map_err(failed)?;
        let workers = start_workers(listeners, &parts).map_err(StartError::Worker)?;
        actix_rt::spawn(tend(Arc::clone(&log), Arc::clone(&registry)));
        Ok(Self { address, config, log, registry, connections, workers, drain, done, drained })
    }

    /// Where it listens; the port is the system's choice when 0 was asked for.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The log.
    #[must_use]
    pub fn log(&self) -> &dyn Log {
        &*self.log
    }

    /// Live topics.
    #[must_use]
    pub fn topics(&self) -> &Registry {
        &self.registry
    }

    /// The subscribers' connections.
    #[must_use]
    pub fn connections(&self) -> &Connections {
        &self.connections
    }

    /// Completes when the log has failed for good, with the reason: the process must end, and start anew.
    pub async fn failed(&self) -> String {
        self.log.failed().await
    }

    /// Ends every stream within `shutdown.drain`, cleanly and spread over that time, then stops. From the start, new
    /// publishes and streams are refused in a way that makes clients come back.
    pub async fn shutdown(mut self) {
        let drain = self.config.shutdown.drain;
        let streams = drain.saturating_sub(LAST_REQUESTS);
        self.drain.send_replace(Some(streams));
        // Every hub drops its sender when its streams have ended, every publish when it is answered; the drain time has
        // an end all the same.
        drop(self.done);
        if timeout(drain, self.drained.recv()).await.is_err() {
            tracing::warn!("some streams or requests did not end within shutdown.drain and are cut");
        }
        stop(self.workers).await;
        self.log.close().await;
    }

    /// Stops after the log has failed. Publishers that wait are told that the outcome is unknown, and streams end where
    /// they are, as far as a moment allows.
    pub async fn abandon(mut self) {
        self.drain.send_replace(Some(Duration::ZERO));
        drop(self.done);
        if timeout(LAST_ANSWERS, self.drained.recv()).await.is_err() {
            tracing::warn!("some streams or requests are cut");
        }
        stop(self.workers).await;
    }
}

/// A socket for each worker, bound and not yet listening.
///
/// On Linux each has a queue of its own and the kernel spreads the connections (`SO_REUSEPORT`): accepting costs no other
/// thread anything. Elsewhere they share one.
fn sockets(address: SocketAddr, config: &Config) -> io::Result<Vec<Socket>> {
    let workers = match config.server.workers {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        workers => workers,
    };
    let shared = cfg!(target_os = "linux") && workers > 1;
    if shared {
        // A port that is shared would be shared with another Tidings, too: this fails when there is one.
        bind(address, config, false)?;
    }
    let first = bind(address, config, shared)?;
    let address = first.local_addr()?.as_socket().unwrap_or(address);
    let others: io::Result<Vec<Socket>> =
        (1..workers).map(|_| if shared { bind(address, config, shared) } else { first.try_clone() }).collect();
    Ok(std::iter::once(first).chain(others?).collect())
}

fn bind(address: SocketAddr, config: &Config, shared: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if shared {
        socket.set_reuse_port(true)?;
    }
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    // Accepted sockets inherit what is set here.
    socket.set_tcp_nodelay(true)?;
    socket.set_keepalive(true)?;
    socket.set_send_buffer_size(SEND_BUFFER)?;
    // A peer that has vanished acknowledges nothing; without this the kernel tries for a quarter of an hour. Longer than
    // our own deadline: the kernel counts a slow reader as vanished, too (see `Peer::watch_writable`).
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(config.stream.write_timeout * VANISHED))?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

fn listen(socket: Socket) -> io::Result<TcpListener> {
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Starts the workers, each on a thread of its own, and waits until they serve.
fn start_workers(listeners: Vec<TcpListener>, parts: &Parts) -> io::Result<Vec<Arbiter>> {
    let (started, starts) = std::sync::mpsc::channel();
    let mut workers = Vec::with_capacity(listeners.len());
    for listener in listeners {
        let (worker, parts, started) = (Arbiter::try_new()?, parts.clone(), started.clone());
        worker.spawn_fn(move || drop(spawn_local(worker::run(listener, parts, started))));
        workers.push(worker);
    }
    drop(started);
    starts.iter().collect::<io::Result<()>>()?;
    Ok(workers)
}

/// Ends the workers' threads, and every connection with them.
async fn stop(workers: Vec<Arbiter>) {
    let (ended, end) = oneshot::channel();
    // Not a task that blocks: the process could not end without it.
    let joiner = std::thread::Builder::new().name("stop".to_owned()).spawn(move || {
        // All are told before one is waited for: a worker must not go on with the topics of another that has gone.
        for worker in &workers {
            worker.stop();
        }
        for worker in workers {
            // An error is a worker that has panicked, which was reported when it did.
            worker.join().ok();
        }
        ended.send(()).ok();
    });
    if joiner.is_ok() && timeout(LAST_ANSWERS, end).await.is_err() {
        tracing::warn!("a worker does not stop, and is left behind");
    }
}

async fn tend(log: Arc<dyn Log>, registry: Arc<Registry>) {
    let mut ticks = interval(TEND);
    loop {
        ticks.tick().await;
        log.tend();
        registry.retire_idle();
    }
}
