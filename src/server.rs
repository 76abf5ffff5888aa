//! The composition root: it creates all parts, listens, and shuts them down in order.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use actix_rt::Arbiter;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::spawn_local,
    time::{interval, timeout},
};

use crate::{
    auth::{Auth, AuthConfigError},
    config::{AuthConfig, Config, Engine},
    http::{Gate, SharedState},
    hub::{Drain, Hubs, Inbox, UnsentBytes},
    identity::Identity,
    limits::{Quota, Rates},
    log::{
        KeyLimits, Log,
        cluster::{self, ClusterLog},
        disk::{DiskLog, OpenError},
        memory::MemoryLog,
    },
    registry::Registry,
    topic::TopicLimits,
    transport::{Acceptor, TlsError},
};

// Each file uses only files below it.
mod worker;
mod accept;
mod tasks;
mod local;

use local::LocalParts;

/// A running server.
pub struct Server {
    address: SocketAddr,
    log: Arc<dyn Log>,
    registry: Arc<Registry>,
    hubs: Hubs,
    shared: SharedState,
    workers: Vec<Arbiter>,
    /// Begins the drain: it tells the hubs the time within which their streams must end.
    drain: watch::Sender<Option<Duration>>,
    /// Delays the end of the drain. The server drops this sender when the drain begins. Hubs and requests make clones
    /// through the weak sender in [`Drain`], and drop their clones when they have ended.
    delays_drain: mpsc::Sender<()>,
    /// Closes when all senders of `delays_drain` are dropped: then the drain has ended.
    drained: mpsc::Receiver<()>,
}

/// Why a server cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}{}", hint(.source))]
    Listen {
        /// The configured address.
        address: SocketAddr,
        /// The error of the system.
        source: io::Error,
    },
    /// The log cannot be opened.
    #[error(transparent)]
    Log(#[from] OpenError),
    /// The stream in NATS cannot be used.
    #[error(transparent)]
    Cluster(#[from] cluster::OpenError),
    /// The configuration of `[auth]` cannot be used.
    #[error(transparent)]
    Auth(#[from] AuthConfigError),
    /// TLS cannot be set up.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The system cannot create a worker's thread, or what the thread needs.
    #[error("cannot start a worker: {0}")]
    Worker(#[source] io::Error),
}

/// What the user can do about an error of listening.
fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => "; another process has the port: stop it, or choose another with --listen",
        io::ErrorKind::PermissionDenied => "; ports below 1024 are for privileged processes",
        io::ErrorKind::AddrNotAvailable => "; this machine does not have the address: see server.host",
        _ => "",
    }
}

/// How many connections may wait to be accepted. Many clients reconnect at the same time after a restart.
const BACKLOG: i32 = 4096;
/// The send buffer of a socket. Without a limit, the kernel would buffer several MiB for each subscriber that does not
/// read.
const SEND_BUFFER: usize = 128 << 10;
/// If a client acknowledges nothing for this many times `stream.write_timeout`, the kernel closes the connection.
const WRITE_TIMEOUTS_UNTIL_DEAD: u32 = 4;
/// How often maintenance runs: it enforces retention, removes expired keys and tickets, idle topics and unused keys of
/// rates, and looks at the files of TLS.
const MAINTENANCE_INTERVAL: Duration = Duration::from_secs(1);
/// The last part of the drain time. It is reserved for requests in progress: the streams end before it.
const DRAIN_FOR_REQUESTS: Duration = Duration::from_millis(250);
/// How long the last responses may take after the log has failed, and how long a worker may take to stop.
const STOP_TIMEOUT: Duration = Duration::from_secs(1);

impl Server {
    /// Opens the log, listens, and starts the workers. It must be called within an actix system.
    ///
    /// # Errors
    /// When TLS cannot be set up, the keys cannot be read, the address cannot be listened on, the log cannot be opened,
    /// or a worker cannot be started.
    pub fn listen(config: Config) -> Result<Self, StartError> {
        let acceptor = Acceptor::load(&config.server)?;
        let requested = config.server.address();
        let auth = Auth::load(&config.auth, requested)?;
        let listen_error = |source| StartError::Listen { address: requested, source };
        let (address, sockets) = bind_all(requested, &config).map_err(listen_error)?;
        let keys = KeyLimits::from(&config);
        let log: Arc<dyn Log> = match config.log.engine {
            Engine::Memory => Arc::new(MemoryLog::new(config.log.clone(), keys)),
            Engine::Disk => Arc::new(DiskLog::open(&config.log, keys)?),
            Engine::Cluster => Arc::new(ClusterLog::open(&config.cluster, &config.log, keys)?),
        };
        let limits = TopicLimits {
            subscribers_max: config.limits.subscribers_per_topic_max,
            deletion_kept_for: config.stream.gone,
        };
        let (drain, begin) = watch::channel(None);
        let (delays_drain, drained) = mpsc::channel(1);
        let (hubs, inboxes) = Hubs::new(sockets.len());
        let topics = Quota::topics(&config.limits);
        let registry = Arc::new(Registry::new(Arc::clone(&log), config.limits.topics_max, topics, limits));
        let auth = Arc::new(match log.peers() {
            Some(peers) => auth.in_cluster(peers.node()),
            None => auth,
        });
        if let Some(peers) = log.peers() {
            let (auth, registry, hubs) = (Arc::clone(&auth), Arc::downgrade(&registry), hubs.clone());
            peers.serve(Arc::new(LocalParts { auth, registry, hubs }));
        }
        let shared = SharedState {
            auth,
            gate: Gate::new(Arc::clone(&log), Arc::clone(&registry), hubs.clone()),
            subscribers: Quota::subscribers(&config.limits),
            own_streams: Arc::default(),
            pending: Quota::pending_connections(&config.limits),
            bytes: Quota::request_bytes(&config.limits),
            rates: Arc::new(Rates::new(&config.limits)),
            unsent: Arc::new(UnsentBytes::new(config.stream.unsent_bytes_max.to_usize())),
            drain: Drain { begin, delays_drain: delays_drain.downgrade() },
            descriptors: Arc::new(accept::reserve(sockets.len())),
            acceptor,
            counts: sockets.iter().map(|_| Arc::default()).collect(),
            config: Arc::new(config),
        };
        // Listen only when the log is open. Otherwise clients would connect to a server that may fail to start.
        for socket in &sockets {
            socket.listen(BACKLOG).map_err(listen_error)?;
        }
        let workers = start_workers(sockets, inboxes, &log, &shared).map_err(StartError::Worker)?;
        let (auth, rates, acceptor) = (Arc::clone(&shared.auth), Arc::clone(&shared.rates), shared.acceptor.clone());
        actix_rt::spawn(maintain(Arc::clone(&log), Arc::clone(&registry), auth, rates, acceptor));
        Ok(Self { address, log, registry, hubs, shared, workers, drain, delays_drain, drained })
    }

    /// The address on which the server listens. If port 0 was configured, it has the port that the system chose.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Whether connections are encrypted.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        self.shared.acceptor.is_tls()
    }

    /// Reads again what may change while the server runs: the files of TLS, and the keys of `config` with their files.
    /// The streams of keys that are gone or have changed end. What cannot be used stays as it was.
    ///
    /// # Errors
    /// When a key cannot be used.
    pub async fn reload(&self, config: &AuthConfig) -> Result<(), AuthConfigError> {
        self.shared.acceptor.reload();
        let gone = self.shared.auth.reload(config)?;
        if !gone.is_empty() {
            let keys = gone.clone();
            let is_gone = move |identity: &Identity| keys.iter().any(|key| key.covers(identity));
            let ended = self.hubs.end_where(Arc::new(is_gone)).await;
            tracing::info!(target: "tidings::audit", keys = ?gone, ended, "keys or certificates were removed or have changed");
        }
        Ok(())
    }

    /// The log.
    #[must_use]
    pub fn log(&self) -> &dyn Log {
        &*self.log
    }

    /// The topics in use.
    #[must_use]
    pub fn topics(&self) -> &Registry {
        &self.registry
    }

    /// How many subscribers are connected.
    #[must_use]
    pub fn subscribers(&self) -> usize {
        self.shared.subscribers.reserved()
    }

    /// Waits until the log has failed for good, and returns the reason. Then the process must be restarted.
    pub async fn failed(&self) -> String {
        self.log.failed().await
    }

    /// Ends every stream cleanly, then stops. The streams end one by one within `shutdown.drain`. Meanwhile, new
    /// publishes and streams are refused with a response that tells the client to retry.
    pub async fn shutdown(mut self) {
        let drain = self.shared.config.shutdown.drain;
        let streams = drain.saturating_sub(DRAIN_FOR_REQUESTS);
        self.drain.send_replace(Some(streams));
        drop(self.delays_drain);
        if timeout(drain, self.drained.recv()).await.is_err() {
            tracing::warn!("some streams or requests did not end within shutdown.drain and are aborted");
        }
        stop(self.workers).await;
        self.log.close().await;
    }

    /// Stops quickly after the log has failed. For a short time, waiting publishers still get the error that the
    /// outcome is unknown, and streams are ended cleanly.
    pub async fn abandon(mut self) {
        self.drain.send_replace(Some(Duration::ZERO));
        drop(self.delays_drain);
        if timeout(STOP_TIMEOUT, self.drained.recv()).await.is_err() {
            tracing::warn!("some streams or requests are aborted");
        }
        stop(self.workers).await;
    }
}

/// Binds one socket for each worker, and returns them with their address. The sockets do not listen yet.
///
/// On Linux, each socket has its own queue of new connections, and the kernel distributes the connections
/// (`SO_REUSEPORT`). So the workers do not compete for them. On other systems, all workers share one queue.
fn bind_all(address: SocketAddr, config: &Config) -> io::Result<(SocketAddr, Vec<Socket>)> {
    let workers = match config.server.workers {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        workers => workers,
    };
    let has_own_queues = cfg!(target_os = "linux") && workers > 1;
    if has_own_queues {
        // With `SO_REUSEPORT`, `bind` succeeds even if another Tidings uses the port. That must be an error, so bind
        // once without it.
        bind(address, config, Port::Exclusive)?;
    }
    let port = if has_own_queues { Port::Shared } else { Port::Exclusive };
    let first = bind(address, config, port)?;
    // The system may have chosen the port.
    let address = first.local_addr()?.as_socket().unwrap_or(address);
    let mut sockets = Vec::with_capacity(workers);
    for _ in 1..workers {
        sockets.push(if has_own_queues { bind(address, config, port)? } else { first.try_clone()? });
    }
    sockets.push(first);
    Ok((address, sockets))
}

/// Whether other sockets may have the same port.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Port {
    Exclusive,
    /// `SO_REUSEPORT`.
    Shared,
}

fn bind(address: SocketAddr, config: &Config, port: Port) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if port == Port::Shared {
        socket.set_reuse_port(true)?;
    }
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    // Accepted sockets inherit these options.
    socket.set_tcp_nodelay(true)?;
    socket.set_keepalive(true)?;
    socket.set_send_buffer_size(SEND_BUFFER)?;
    // Without this, the kernel retransmits for a quarter of an hour to a client that has vanished. The timeout is
    // longer than `write_timeout`, because it also hits clients that read slowly (see `hub/socket.rs`).
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(config.stream.write_timeout * WRITE_TIMEOUTS_UNTIL_DEAD))?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// Starts each worker on its own thread, and waits until all of them serve.
fn start_workers(
    sockets: Vec<Socket>,
    inboxes: Vec<Inbox>,
    log: &Arc<dyn Log>,
    shared: &SharedState,
) -> io::Result<Vec<Arbiter>> {
    let (report, reports) = std::sync::mpsc::channel();
    let mut workers = Vec::with_capacity(sockets.len());
    for (socket, inbox) in sockets.into_iter().zip(inboxes) {
        let (worker, log) = (Arbiter::try_new()?, Arc::clone(log));
        let (shared, report) = (shared.clone(), report.clone());
        worker.spawn_fn(move || drop(spawn_local(worker::run(socket.into(), log, shared, inbox, report))));
        workers.push(worker);
    }
    // The loop ends when each worker has dropped its sender.
    drop(report);
    let mut started = 0;
    for report in reports {
        let () = report?;
        started += 1;
    }
    if started < workers.len() {
        return Err(io::Error::other("a worker died while it started"));
    }
    Ok(workers)
}

/// Stops the threads of the workers. All connections are closed.
async fn stop(workers: Vec<Arbiter>) {
    let (all_joined, joined) = oneshot::channel();
    // `join` blocks, so it needs a thread of its own. With a blocking task of the runtime instead, the end of the
    // runtime would wait for `join`, even after the timeout.
    let thread = std::thread::Builder::new().name("stop".to_owned()).spawn(move || {
        // Stop all workers before waiting for one. Otherwise a worker that still runs would answer requests with
        // errors: the actor of a requested topic may have run on a worker that is stopped.
        for worker in &workers {
            worker.stop();
        }
        for worker in workers {
            // An error means that the worker has panicked, which was reported at that time.
            worker.join().ok();
        }
        all_joined.send(()).ok();
    });
    if thread.is_ok() && timeout(STOP_TIMEOUT, joined).await.is_err() {
        tracing::warn!("a worker does not stop; the process ends without waiting for it");
    }
}

/// Runs the regular maintenance until the runtime ends.
async fn maintain(log: Arc<dyn Log>, registry: Arc<Registry>, auth: Arc<Auth>, rates: Arc<Rates>, acceptor: Acceptor) {
    let mut ticks = interval(MAINTENANCE_INTERVAL);
    loop {
        ticks.tick().await;
        log.enforce_retention();
        registry.retire_idle();
        rates.forget_unused();
        auth.remove_expired_tickets();
        acceptor.reload_if_changed();
    }
}
