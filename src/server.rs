//! The composition root: puts the parts together, listens, and takes them apart again.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    sync::Arc,
    time::Duration,
};

use actix_http::{HttpService, KeepAlive, Protocol};
use actix_server::ServerHandle;
use actix_service::{IntoServiceFactory as _, ServiceFactoryExt as _, fn_service, map_config};
use actix_web::{App, dev::AppConfig, middleware::Condition, web};
use socket2::{Domain, Protocol as SocketProtocol, Socket, Type};
use tokio::{
    net::TcpStream,
    sync::{mpsc, watch},
    time::{interval, timeout},
};

use crate::{
    config::{Config, Engine, Origins},
    http::{self, Edge},
    hub::{Carrier, Drain, Hub},
    limits::Connections,
    log::{
        Log,
        disk::{DiskLog, OpenError},
        memory::MemoryLog,
    },
    registry::Registry,
    topic::TopicLimits,
};

/// A server that listens.
pub struct Server {
    address: SocketAddr,
    config: Arc<Config>,
    log: Arc<dyn Log>,
    registry: Arc<Registry>,
    connections: Arc<Connections>,
    workers: ServerHandle,
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
/// How often retention and idle topics are looked after.
const TEND: Duration = Duration::from_secs(1);
/// Connections that publish or ask, beside the subscribers', before the system keeps new ones waiting.
const OTHER_CONNECTIONS: usize = 10_000;
/// How long a client may go on sending a body that has been answered already.
const LINGER: Duration = Duration::from_secs(2);
/// What is left of the drain time, at least, for requests that are under way.
const LAST_REQUESTS: Duration = Duration::from_millis(250);

impl Server {
    /// Listens and serves. Runs within an actix system, whose workers it starts.
    ///
    /// # Errors
    /// When the address cannot be listened on.
    pub fn listen(config: Config) -> Result<Self, StartError> {
        let requested = config.server.address();
        let failed = |source| StartError::Listen { address: requested, source };
        let listener = bind(requested, &config).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let config = Arc::new(config);
        let log: Arc<dyn Log> = match config.log.engine {
            Engine::Memory => Arc::new(MemoryLog::new(config.log.clone())),
            Engine::Disk => Arc::new(DiskLog::open(&config.log, config.publish.idempotency_window)?),
        };
        let limits = TopicLimits {
            subscribers_max: config.limits.subscribers_per_topic_max,
            idempotency_window: config.publish.idempotency_window,
            idempotency_keys_max: config.publish.idempotency_keys_max,
            gone: config.stream.gone,
        };
        let registry = Arc::new(Registry::new(Arc::clone(&log), config.limits.topics_max, limits));
        let connections = Connections::new(&config.limits);
        let (drain, begin) = watch::channel(None);
        let (done, drained) = mpsc::channel(1);
        let parts = Parts {
            config: Arc::clone(&config),
            log: Arc::clone(&log),
            registry: Arc::clone(&registry),
            connections: Arc::clone(&connections),
            drain: Drain { begin, done: done.downgrade() },
        };
        let workers = serve(listener, parts).map_err(failed)?;
        actix_rt::spawn(tend(Arc::clone(&log), Arc::clone(&registry)));
        Ok(Self { address, config, log, registry, connections, workers, drain, done, drained })
    }

    /// Where it listens; the port is the system's choice when 0 was asked for.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
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
        self.workers.stop(false).await;
        self.log.close().await;
    }
}

/// What a worker is made from.
#[derive(Clone)]
struct Parts {
    config: Arc<Config>,
    log: Arc<dyn Log>,
    registry: Arc<Registry>,
    connections: Arc<Connections>,
    drain: Drain,
}

fn bind(address: SocketAddr, config: &Config) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(SocketProtocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    // Accepted sockets inherit what is set here.
    socket.set_tcp_nodelay(true)?;
    socket.set_keepalive(true)?;
    socket.set_send_buffer_size(SEND_BUFFER)?;
    // A peer that has vanished acknowledges nothing; without this the kernel tries for a quarter of an hour.
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(config.stream.write_timeout))?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Starts the workers: each thread has an HTTP server and a hub, and the topics it was the first to use.
fn serve(listener: TcpListener, parts: Parts) -> io::Result<ServerHandle> {
    let config = Arc::clone(&parts.config);
    let workers = match config.server.workers {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        workers => workers,
    };
    let server = actix_server::Server::build()
        .workers(workers)
        .max_concurrent_connections(config.limits.connections_max.saturating_add(OTHER_CONNECTIONS))
        .disable_signals()
        .listen("tidings", listener, move || {
            let edge = parts.start_worker().map(web::Data::new);
            let cors = parts.config.cors.clone();
            let app = move || {
                let app = App::new().configure(http::routes);
                let app = edge.iter().fold(app, |app, edge| app.app_data(web::Data::clone(edge)));
                app.wrap(Condition::new(cors.origins != Origins::default(), http::cors(&cors)))
            };
            let app = app().into_factory().map_err(|error: actix_web::Error| error.error_response());
            fn_service(|socket: TcpStream| async move {
                let remote = socket.peer_addr().ok();
                Ok((Carrier::new(socket), Protocol::Http1, remote))
            })
            .and_then(
                HttpService::build()
                    .keep_alive(KeepAlive::Timeout(parts.config.server.keep_alive))
                    .h1_allow_half_closed(false)
                    // An answer that comes before the body is through, such as a 413, would be lost to a reset; so the
                    // rest is read and dropped, for so long.
                    .client_disconnect_timeout(LINGER)
                    .on_connect_ext(|carrier: &Carrier, data| drop(data.insert(carrier.clone())))
                    .finish(map_config(app, |()| AppConfig::default())),
            )
        })?
        .run();
    let handle = server.handle();
    actix_rt::spawn(server);
    Ok(handle)
}

impl Parts {
    fn start_worker(&self) -> io::Result<Edge> {
        let hub = Hub::start(&self.log, &self.config.stream, self.drain.clone())?;
        Ok(Edge {
            config: Arc::clone(&self.config),
            log: Arc::clone(&self.log),
            registry: Arc::clone(&self.registry),
            connections: Arc::clone(&self.connections),
            hub,
            under_way: self.drain.done.clone(),
            draining: self.drain.begin.clone(),
        })
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
