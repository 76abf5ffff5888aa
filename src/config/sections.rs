//! The configuration: its sections, and their defaults. What each key may be is in the table of keys.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use super::size::Size;

/// Everything that can be configured, one field a section.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Config {
    /// `[server]`: where to listen.
    pub server: ServerConfig,
    /// `[log]`: what history is kept.
    pub log: LogConfig,
    /// `[stream]`: how a subscriber's stream behaves.
    pub stream: StreamConfig,
    /// `[publish]`: what a publisher may send.
    pub publish: PublishConfig,
    /// `[limits]`: how much of everything.
    pub limits: LimitsConfig,
    /// `[cors]`: which pages may use the broker.
    pub cors: CorsConfig,
    /// `[shutdown]`: how to stop.
    pub shutdown: ShutdownConfig,
}

/// What the command line says; each flag beats every other source.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    /// `--listen`: `HOST:PORT`, or only a host; an IPv6 address with a port stands in brackets.
    pub listen: Option<String>,
}

/// `[server]`: where to listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerConfig {
    /// Address to listen on: an IP address, or `localhost` for 127.0.0.1.
    pub host: IpAddr,
    /// Port to listen on; 0 picks a free one.
    pub port: u16,
    /// Worker threads; 0 is one per core.
    pub workers: usize,
    /// How long an idle connection waits for its next request.
    pub keep_alive: Duration,
    /// How long a new connection has for the head of its first request, and a later request for its own.
    pub head_timeout: Duration,
}

impl ServerConfig {
    /// Where to listen, as sockets want it.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::new(self.host, self.port)
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
        }
    }
}

/// `[log]`: what history is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// What keeps the events.
    pub engine: Engine,
    /// Directory of the disk engine's files.
    pub path: PathBuf,
    /// What an acknowledgement of the disk engine survives.
    pub durability: DiskDurability,
    /// Events kept per topic.
    pub topic_events_max: usize,
    /// Bytes kept per topic; at least 8 times the largest event and 64 KiB.
    pub topic_bytes_max: Size,
    /// Bytes kept in all topics together; not less than `topic_bytes_max`.
    pub bytes_max: Size,
    /// Events kept in all topics together.
    pub events_max: usize,
    /// Bytes of the newest events that the disk engine keeps in memory, too.
    pub hot_bytes_max: Size,
    /// Bytes of events that may wait to be written; at least the largest event and 4 KiB.
    pub queue_bytes_max: Size,
    /// How long a publish waits for space in that queue.
    pub queue_wait: Duration,
    /// How long an event is kept; zero is without limit.
    pub age_max: Duration,
    /// Whether this start begins a new epoch. Not a key but a flag, `--new-epoch`: it is for one start.
    pub new_epoch: bool,
}

/// What an acknowledgement survives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskDurability {
    /// `disk`: a power cut; a commit waits until the disk has it.
    Disk,
    /// `os`: the end of the process; a power cut may take the last seconds.
    Os,
}

/// What keeps the events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Engine {
    /// `disk`: in a file; they survive what `durability` says.
    #[default]
    Disk,
    /// `memory`: in this process; a restart forgets them.
    Memory,
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

/// `[stream]`: how a subscriber's stream behaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamConfig {
    /// An idle stream gets a sign of life this often.
    pub heartbeat: Duration,
    /// The reconnection time offered to subscribers, before jitter.
    pub retry: Duration,
    /// A stream is ended politely after this; zero is never.
    pub lifetime_max: Duration,
    /// The longest pause of a busy topic between two rounds of writes; zero is none.
    pub coalesce_max: Duration,
    /// A subscriber that takes nothing for this long is cut.
    pub write_timeout: Duration,
    /// Bytes of events and notices that have been begun and wait for slow subscribers.
    pub unsent_bytes_max: Size,
    /// How long after its deletion a topic tells reconnecting subscribers to stop.
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
    /// Whether `GET /publish` publishes.
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

/// `[limits]`: how much of everything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitsConfig {
    /// Subscriber streams in all.
    pub connections_max: usize,
    /// Subscriber streams from one IP address.
    pub connections_per_ip_max: usize,
    /// Subscribers of one topic.
    pub subscribers_per_topic_max: usize,
    /// Topics alive at once: those with subscribers, and those whose deletion is remembered.
    pub topics_max: usize,
    /// Topics one request may name.
    pub topics_per_request_max: usize,
    /// The longest topic name, in bytes of UTF-8.
    pub topic_bytes_max: Size,
    /// Bytes of requests that are being received and read; at least `request_bytes_in_flight_per_ip_max`.
    pub request_bytes_in_flight_max: Size,
    /// The same from one IP address; at least the largest body.
    pub request_bytes_in_flight_per_ip_max: Size,
    /// Connections without a subscription: they publish, ask, or have not sent a request yet.
    pub pending_connections_max: usize,
    /// The same from one IP address.
    pub pending_connections_per_ip_max: usize,
    /// Idempotency keys remembered in all topics together.
    pub idempotency_keys_max: usize,
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            connections_max: 100_000,
            connections_per_ip_max: 20_000,
            subscribers_per_topic_max: 100_000,
            topics_max: 200_000,
            topics_per_request_max: 128,
            topic_bytes_max: Size::new(255),
            request_bytes_in_flight_max: Size::mib(256),
            request_bytes_in_flight_per_ip_max: Size::mib(64),
            pending_connections_max: 20_000,
            pending_connections_per_ip_max: 10_000,
            idempotency_keys_max: 500_000,
        }
    }
}

/// `[cors]`: which pages may use the broker.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CorsConfig {
    /// Origins whose pages may read what the broker answers.
    pub origins: Origins,
}

/// A set of origins, as browsers send them in `Origin`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origins {
    /// `["*"]`: every origin.
    Any,
    /// At most 1000 exact origins, such as `https://app.example.com`; none is the default.
    Only(Vec<String>),
}

impl Default for Origins {
    fn default() -> Self {
        Self::Only(Vec::new())
    }
}

/// `[shutdown]`: how to stop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShutdownConfig {
    /// How long streams and requests may take to end before they are cut.
    pub drain: Duration,
}

impl Default for ShutdownConfig {
    fn default() -> Self {
        Self { drain: Duration::from_secs(10) }
    }
}
