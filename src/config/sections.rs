//! The sections of the configuration, and their defaults. The allowed values are in [`super::SETTINGS`].

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

use super::credentials::AuthConfig;
use super::size::Size;

/// The whole configuration, with one field for each section.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Config {
    /// `[server]`: where to listen.
    pub server: ServerConfig,
    /// `[log]`: which events are kept.
    pub log: LogConfig,
    /// `[cluster]`: the NATS servers of the cluster engine.
    pub cluster: ClusterConfig,
    /// `[stream]`: how a subscriber's stream behaves.
    pub stream: StreamConfig,
    /// `[publish]`: what a publisher may send.
    pub publish: PublishConfig,
    /// `[limits]`: limits on connections, topics and requests.
    pub limits: LimitsConfig,
    /// `[auth]`: who may publish, subscribe and manage.
    pub auth: AuthConfig,
    /// `[cors]`: which web pages may use the broker.
    pub cors: CorsConfig,
    /// `[shutdown]`: how the server stops.
    pub shutdown: ShutdownConfig,
}

/// `[server]`: where to listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerConfig {
    /// The address to listen on.
    pub host: IpAddr,
    /// The port to listen on. With 0, the system chooses a free one.
    pub port: u16,
    /// The number of worker threads. 0 means one for each core.
    pub workers: usize,
    /// How long an idle connection waits for its next request: at least this time, and at most twice as long.
    pub keep_alive: Duration,
    /// How long the head of a request may take. The time of a connection's first request begins when the connection is
    /// opened, that of another request with its first byte.
    pub head_timeout: Duration,
    /// The host names that the server answers to besides `localhost` and IP addresses.
    pub hosts: Vec<String>,
    /// The addresses of proxies. Only these may say who has sent a request, and to which host.
    pub trusted_proxies: Vec<IpNet>,
    /// The file of the certificate, and of the authorities between the certificate and the root. With this file,
    /// connections are encrypted.
    pub tls_cert: Option<PathBuf>,
    /// The file of the certificate's key. Both files are named, or none.
    pub tls_key: Option<PathBuf>,
    /// The file of the authorities whose client certificates are accepted. A client needs none.
    pub tls_client_ca: Option<PathBuf>,
}

impl ServerConfig {
    /// The address and port to listen on.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::new(self.host, self.port)
    }

    /// Whether `ip` is the address of a trusted proxy.
    pub fn trusts(&self, ip: IpAddr) -> bool {
        // A socket that accepts both IPv6 and IPv4 gives IPv4 addresses in the form of IPv6.
        let ip = ip.to_canonical();
        self.trusted_proxies.iter().any(|proxies| proxies.contains(&ip))
    }
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            host: IpAddr::V4(Ipv4Addr::LOCALHOST),
            port: 8080,
            workers: 0,
            keep_alive: Duration::from_secs(75),
            head_timeout: Duration::from_secs(10),
            hosts: Vec::new(),
            trusted_proxies: Vec::new(),
            tls_cert: None,
            tls_key: None,
            tls_client_ca: None,
        }
    }
}

/// `[log]`: which events are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// Where the events are kept.
    pub engine: Engine,
    /// The directory of the disk engine's files.
    pub path: PathBuf,
    /// When the disk engine acknowledges an event.
    pub durability: DiskDurability,
    /// Events kept per topic.
    pub topic_events_max: usize,
    /// Bytes kept per topic. At least 8 times the largest event plus 64 KiB.
    pub topic_bytes_max: Size,
    /// Bytes kept in all topics together. At least `topic_bytes_max`.
    pub bytes_max: Size,
    /// Events kept in all topics together.
    pub events_max: usize,
    /// Bytes of the newest events that the disk and the cluster engine keep in memory, too.
    pub hot_bytes_max: Size,
    /// Bytes of events that may wait to be written. At least the largest event plus 4 KiB.
    pub queue_bytes_max: Size,
    /// How long a publish waits for space in that queue.
    pub queue_wait: Duration,
    /// How long an event is kept. Zero means no limit.
    pub age_max: Duration,
    /// Whether this start begins a new epoch. This has no key, only the flag `--new-epoch`, because it is for one
    /// start.
    pub new_epoch: bool,
}

/// When the disk engine acknowledges an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskDurability {
    /// `disk`: when the disk has it. So it survives a power cut.
    Disk,
    /// `os`: when the operating system has it. So it survives the end of the process. A power cut may lose the events
    /// of the last seconds.
    Os,
}

/// Where the events are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// `disk`: in a file.
    Disk,
    /// `memory`: in the memory of this process. A restart loses them.
    Memory,
    /// `cluster`: in a stream of NATS, for several servers together.
    Cluster,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            engine: Engine::Disk,
            path: PathBuf::from("tidings-data"),
            durability: DiskDurability::Disk,
            topic_events_max: 10_000,
            topic_bytes_max: Size::mib(16),
            bytes_max: Size::mib(256),
            events_max: 1_000_000,
            hot_bytes_max: Size::mib(64),
            queue_bytes_max: Size::mib(64),
            queue_wait: Duration::from_secs(1),
            age_max: Duration::from_hours(24),
            new_epoch: false,
        }
    }
}

/// `[cluster]`: the NATS servers of the cluster engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterConfig {
    /// The addresses of the NATS servers.
    pub servers: Vec<String>,
    /// The name of the stream, and the first part of its subjects. All servers of a cluster have the same one.
    pub namespace: String,
    /// How many NATS servers keep each event.
    pub replicas: usize,
    /// Where the NATS servers keep the events.
    pub storage: ClusterStorage,
    /// The file with the credentials for NATS.
    pub credentials_file: Option<PathBuf>,
    /// The file of the authorities that have signed the certificates of the NATS servers; `None` for those of the system.
    pub tls_ca: Option<PathBuf>,
    /// The file of the certificate that the server shows to NATS.
    pub tls_cert: Option<PathBuf>,
    /// The file of the certificate's key. Both files are named, or none.
    pub tls_key: Option<PathBuf>,
    /// How long one attempt to store an event waits for the answer of NATS.
    pub ack_timeout: Duration,
    /// How often the server compares its position with the stream's.
    pub watch_interval: Duration,
}

impl ClusterConfig {
    /// Whether every connection to NATS must be encrypted: one of the keys says that it is to be. NATS may list other
    /// servers of its own, whose addresses do not say it.
    pub fn requires_tls(&self) -> bool {
        let is_named = self.servers.iter().any(|server| server.starts_with("tls://"));
        is_named || self.tls_ca.is_some() || self.tls_cert.is_some()
    }
}

/// Where the NATS servers keep the events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClusterStorage {
    /// `file`: in files.
    File,
    /// `memory`: in the memory of the NATS servers. The events are lost when all of these have stopped.
    Memory,
}

impl Default for ClusterConfig {
    fn default() -> Self {
        Self {
            servers: vec!["nats://127.0.0.1:4222".to_owned()],
            namespace: "tidings".to_owned(),
            replicas: 1,
            storage: ClusterStorage::File,
            credentials_file: None,
            tls_ca: None,
            tls_cert: None,
            tls_key: None,
            ack_timeout: Duration::from_secs(2),
            watch_interval: Duration::from_secs(2),
        }
    }
}

/// `[stream]`: how a subscriber's stream behaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamConfig {
    /// How often an idle stream gets a heartbeat.
    pub heartbeat: Duration,
    /// After which time subscribers reconnect, before jitter.
    pub retry: Duration,
    /// After which time a stream is ended. Zero means never.
    pub lifetime_max: Duration,
    /// The longest pause of a busy topic between two rounds of writes. Zero means no pause.
    pub coalesce_max: Duration,
    /// A subscriber is disconnected if bytes wait for it and its socket accepts none for this time.
    pub write_timeout: Duration,
    /// Bytes of partly sent events and notices that wait for slow subscribers.
    pub unsent_bytes_max: Size,
    /// How long clients are told to stop when they come back after their topic was deleted, or their stream was ended.
    pub gone: Duration,
}

impl Default for StreamConfig {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_secs(15),
            retry: Duration::from_secs(3),
            lifetime_max: Duration::ZERO,
            coalesce_max: Duration::from_millis(2),
            write_timeout: Duration::from_mins(1),
            unsent_bytes_max: Size::mib(64),
            gone: Duration::from_mins(1),
        }
    }
}

/// `[publish]`: what a publisher may send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublishConfig {
    /// Whether `GET /publish` is allowed.
    pub allow_get: bool,
    /// The largest event.
    pub event_bytes_max: Size,
    /// How long a repeated `Idempotency-Key` is recognised.
    pub idempotency_window: Duration,
    /// Idempotency keys remembered per topic.
    pub idempotency_keys_max: usize,
    /// The whole body of a request must arrive within this time.
    pub body_timeout: Duration,
}

impl Default for PublishConfig {
    fn default() -> Self {
        Self {
            allow_get: true,
            event_bytes_max: Size::mib(1),
            idempotency_window: Duration::from_mins(5),
            idempotency_keys_max: 10_000,
            body_timeout: Duration::from_secs(10),
        }
    }
}

/// `[limits]`: limits on connections, topics and requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitsConfig {
    /// Subscribers of the whole server.
    pub connections_max: usize,
    /// Subscribers from one IP address.
    pub connections_per_ip_max: usize,
    /// Subscribers of one topic.
    pub subscribers_per_topic_max: usize,
    /// Topics in memory: those with subscribers, and those whose deletion is remembered.
    pub topics_max: usize,
    /// Topics in memory that one IP address has started. 0 is without limit.
    pub topics_per_ip_max: usize,
    /// Topics that one request may name.
    pub topics_per_request_max: usize,
    /// The longest name of a topic.
    pub topic_bytes_max: Size,
    /// Bytes of requests that are being received or processed. At least `request_bytes_in_flight_per_ip_max`.
    pub request_bytes_in_flight_max: Size,
    /// The same from one IP address. At least the largest body.
    pub request_bytes_in_flight_per_ip_max: Size,
    /// Connections without a subscription.
    pub pending_connections_max: usize,
    /// The same from one IP address.
    pub pending_connections_per_ip_max: usize,
    /// Idempotency keys remembered in all topics together.
    pub idempotency_keys_max: usize,
    /// Publishes per second from one IP address. 0 is without limit, here and for the other rates.
    pub publishes_per_second_per_ip: usize,
    /// Publishes per second with one key and subject.
    pub publishes_per_second_per_key: usize,
    /// Publishes per second to one topic.
    pub publishes_per_second_per_topic: usize,
    /// Subscriptions per second from one IP address.
    pub subscribes_per_second_per_ip: usize,
    /// Credentials per second from one IP address that are refused after their signature was checked.
    pub failed_authentications_per_second_per_ip: usize,
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            connections_max: 100_000,
            connections_per_ip_max: 20_000,
            subscribers_per_topic_max: 100_000,
            topics_max: 200_000,
            topics_per_ip_max: 100_000,
            topics_per_request_max: 128,
            topic_bytes_max: Size::new(255),
            request_bytes_in_flight_max: Size::mib(256),
            request_bytes_in_flight_per_ip_max: Size::mib(64),
            pending_connections_max: 20_000,
            pending_connections_per_ip_max: 10_000,
            idempotency_keys_max: 500_000,
            publishes_per_second_per_ip: 0,
            publishes_per_second_per_key: 0,
            publishes_per_second_per_topic: 0,
            subscribes_per_second_per_ip: 0,
            failed_authentications_per_second_per_ip: 1000,
        }
    }
}

/// `[cors]`: which web pages may use the broker.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CorsConfig {
    /// The origins of these pages.
    pub origins: Origins,
}

/// A set of origins, in the form of the header `Origin`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origins {
    /// `["*"]`: every origin.
    Any,
    /// At most 1000 origins, such as `https://app.example.com`.
    Only(Vec<String>),
}

impl Default for Origins {
    fn default() -> Self {
        Self::Only(Vec::new())
    }
}

/// `[shutdown]`: how the server stops.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShutdownConfig {
    /// How long streams and requests may take to end before their connections are closed.
    pub drain: Duration,
}

impl Default for ShutdownConfig {
    fn default() -> Self {
        Self { drain: Duration::from_secs(10) }
    }
}
