//! The table of keys. Each row has the name of a key, the allowed values, the field that it sets, and a description.
//!
//! The file, the environment, the error messages and the documents all use this table.

use std::time::Duration;

use super::credentials::Anonymous;
use super::sections::{ClusterStorage, DiskDurability, Engine};
// `Rule::Size` and `Rule::Origins` keep their prefix: there are types of the same names.
use super::setting::Rule::{
    self, ApiKeys, Bool, Certificates, CookieName, Count, Host, Hosts, Keys, Namespace, Networks, OneOf, OptionalFile,
    Path, Port, Servers, Time, TimeOrZero,
};
use super::setting::{Setting, Word};
use super::size::Size;

const COUNT_MAX: usize = 10_000_000;
const MILLISECOND: Duration = Duration::from_millis(1);
const TENTH_SECOND: Duration = Duration::from_millis(100);
const SECOND: Duration = Duration::from_secs(1);
const TEN_MINUTES: Duration = Duration::from_mins(10);
const HOUR: Duration = Duration::from_hours(1);
const DAY: Duration = Duration::from_hours(24);
/// Ten years of 365.25 days, as `humantime` reads `10y`.
const TEN_YEARS: Duration = Duration::from_hours(87660);

/// Every key, in the order of the shipped `config.toml`.
#[rustfmt::skip]
pub const SETTINGS: &[Setting] = &[
    row("server.host", Host(|c| &mut c.server.host),
        "An IP address or localhost; 0.0.0.0 or :: lets other machines in."),
    row("server.port", Port(|c| &mut c.server.port),
        "The port, {}; 0 picks a free one and prints it."),
    row("server.workers", Count(0..=256, |c| &mut c.server.workers),
        "Threads, {}; 0 is one per core."),
    row("server.keep_alive", Time(SECOND..=HOUR, |c| &mut c.server.keep_alive),
        "How long an idle connection waits for its next request, {}; choose more than a proxy's own timeout."),
    row("server.head_timeout", Time(TENTH_SECOND..=TEN_MINUTES, |c| &mut c.server.head_timeout),
        "How long the head of a request may take, {}; for the first one, since the connection was opened."),
    row("server.hosts", Hosts(|c| &mut c.server.hosts),
        "Names under which clients reach the broker, such as \"push.example.com\"; localhost and IP addresses always work."),
    row("server.trusted_proxies", Networks(|c| &mut c.server.trusted_proxies),
        "Addresses of your proxies, such as \"10.0.0.0/8\": only these may say who the client is (X-Forwarded-For, Forwarded)."),
    row("server.tls_cert", OptionalFile(|c| &mut c.server.tls_cert),
        "A PEM file with the certificate, then its intermediates; with it, the port speaks TLS only."),
    row("server.tls_key", OptionalFile(|c| &mut c.server.tls_key),
        "The PEM file of the certificate's private key; both files are read again when they change."),
    row("server.tls_client_ca", OptionalFile(|c| &mut c.server.tls_client_ca),
        "A PEM file with the authorities of client certificates, which then are accepted, but not required."),
    row("log.engine",
        OneOf(&[
            Word("disk", |c| c.log.engine = Engine::Disk),
            Word("memory", |c| c.log.engine = Engine::Memory),
            Word("cluster", |c| c.log.engine = Engine::Cluster),
        ]),
        "Where the events are kept: disk, in a file; memory, until the process ends; cluster, in NATS, for several servers."),
    row("log.path", Path(|c| &mut c.log.path),
        "The directory of the disk engine's files."),
    row("log.durability",
        OneOf(&[
            Word("disk", |c| c.log.durability = DiskDurability::Disk),
            Word("os", |c| c.log.durability = DiskDurability::Os),
        ]),
        "What an acknowledgement of the disk engine survives: disk, a power cut; os, the end of the process only."),
    row("log.topic_events_max", Count(1..=COUNT_MAX, |c| &mut c.log.topic_events_max),
        "Events kept per topic, {}; the oldest are removed first."),
    row("log.topic_bytes_max", Rule::Size(Size::kib(64)..=Size::tib(1), |c| &mut c.log.topic_bytes_max),
        "Bytes kept per topic, {}; at least 8 x publish.event_bytes_max + 64KiB."),
    row("log.bytes_max", Rule::Size(Size::kib(64)..=Size::tib(1), |c| &mut c.log.bytes_max),
        "Bytes kept in all topics together, {}; at least log.topic_bytes_max."),
    row("log.events_max", Count(1..=1_000_000_000, |c| &mut c.log.events_max),
        "Events kept in all topics together, {}; each needs memory, even if its content is on disk or in NATS."),
    row("log.hot_bytes_max", Rule::Size(Size::new(0)..=Size::tib(1), |c| &mut c.log.hot_bytes_max),
        "Bytes of the newest events that the disk and the cluster engine keep in memory, too, {}."),
    row("log.queue_bytes_max", Rule::Size(Size::kib(64)..=Size::tib(1), |c| &mut c.log.queue_bytes_max),
        "Bytes of events that may wait to be written, {}; at least publish.event_bytes_max + 4KiB."),
    row("log.queue_wait", Time(Duration::ZERO..=TEN_MINUTES, |c| &mut c.log.queue_wait),
        "How long a publish waits for room in this queue before it is refused, {}."),
    row("log.age_max", TimeOrZero("no limit", SECOND..=TEN_YEARS, |c| &mut c.log.age_max),
        "How long an event is kept, {}; 0s is without limit."),
    row("cluster.servers", Servers(|c| &mut c.cluster.servers),
        "Addresses of the NATS servers of log.engine = \"cluster\", such as \"nats://10.0.0.1:4222\" or \"tls://nats.example.com\"."),
    row("cluster.namespace", Namespace(|c| &mut c.cluster.namespace),
        "The name of the stream in NATS and the start of its subjects; the same for all servers of a cluster."),
    row("cluster.replicas", Count(1..=5, |c| &mut c.cluster.replicas),
        "How many NATS servers keep each event, {}; 3 survives the loss of one."),
    row("cluster.storage",
        OneOf(&[
            Word("file", |c| c.cluster.storage = ClusterStorage::File),
            Word("memory", |c| c.cluster.storage = ClusterStorage::Memory),
        ]),
        "Where NATS keeps the events: file; memory, until all its servers have stopped."),
    row("cluster.credentials_file", OptionalFile(|c| &mut c.cluster.credentials_file),
        "The file with the credentials for NATS (.creds); empty for none."),
    row("cluster.tls_ca", OptionalFile(|c| &mut c.cluster.tls_ca),
        "A PEM file with the authorities of NATS' certificates; empty for those of the system, if NATS speaks TLS."),
    row("cluster.tls_cert", OptionalFile(|c| &mut c.cluster.tls_cert),
        "A PEM file with the certificate that NATS asks its clients for; with it or tls_ca, NATS must speak TLS."),
    row("cluster.tls_key", OptionalFile(|c| &mut c.cluster.tls_key),
        "The PEM file of that certificate's private key."),
    row("cluster.ack_timeout", Time(TENTH_SECOND..=Duration::from_secs(20), |c| &mut c.cluster.ack_timeout),
        "How long an event waits for the answer of NATS, {}; then it is sent again, for up to twice this time in all."),
    row("cluster.watch_interval", Time(TENTH_SECOND..=Duration::from_secs(5), |c| &mut c.cluster.watch_interval),
        "How often the position in the stream is compared with the stream's last one, {}."),
    row("stream.heartbeat", Time(TENTH_SECOND..=TEN_MINUTES, |c| &mut c.stream.heartbeat),
        "How often an idle stream gets a heartbeat, {}; choose less than the timeouts of proxies."),
    row("stream.retry", Time(TENTH_SECOND..=TEN_MINUTES, |c| &mut c.stream.retry),
        "How long subscribers are told to wait before they reconnect, {}; with jitter, so that not all come at once."),
    row("stream.lifetime_max", TimeOrZero("never", SECOND..=TEN_YEARS, |c| &mut c.stream.lifetime_max),
        "A stream is ended after this time, {}, so that load can move; 0s is never."),
    row("stream.coalesce_max", TimeOrZero("no pause", MILLISECOND..=SECOND, |c| &mut c.stream.coalesce_max),
        "The longest pause of a busy topic between two rounds of writes, {}: fewer writes, but later; 0s is none."),
    row("stream.write_timeout", Time(TENTH_SECOND..=HOUR, |c| &mut c.stream.write_timeout),
        "A subscriber whose socket takes no waiting byte for this long, {}, is cut; so is a very slow reader."),
    row("stream.unsent_bytes_max", Rule::Size(Size::mib(1)..=Size::tib(1), |c| &mut c.stream.unsent_bytes_max),
        "Bytes of partly sent events and notices for slow subscribers, {}; above it, the log is read again."),
    row("stream.gone", Time(Duration::ZERO..=DAY, |c| &mut c.stream.gone),
        "How long clients of a deleted topic, or whose stream was ended by hand, are told to stop, {}."),
    row("publish.allow_get", Bool(|c| &mut c.publish.allow_get),
        "Whether GET /publish publishes, {}; handy for a browser's address bar."),
    row("publish.event_bytes_max", Rule::Size(Size::new(1)..=Size::mib(64), |c| &mut c.publish.event_bytes_max),
        "The largest event, {}."),
    row("publish.idempotency_window", Time(SECOND..=DAY, |c| &mut c.publish.idempotency_window),
        "How long a repeated Idempotency-Key is recognised and not published twice, {}."),
    row("publish.idempotency_keys_max", Count(1..=COUNT_MAX, |c| &mut c.publish.idempotency_keys_max),
        "Idempotency keys remembered per topic, {}; above it the oldest is forgotten."),
    row("publish.body_timeout", Time(TENTH_SECOND..=TEN_MINUTES, |c| &mut c.publish.body_timeout),
        "The whole body must arrive within this time, {}; against slow-body attacks."),
    row("limits.connections_max", Count(1..=COUNT_MAX, |c| &mut c.limits.connections_max),
        "Subscribers of the whole server, {}; the open-files limit must allow as many."),
    row("limits.connections_per_ip_max", Count(1..=COUNT_MAX, |c| &mut c.limits.connections_per_ip_max),
        "Subscribers from one IP address, {}; behind a proxy all share one, unless server.trusted_proxies has it."),
    row("limits.subscribers_per_topic_max", Count(1..=COUNT_MAX, |c| &mut c.limits.subscribers_per_topic_max),
        "Subscribers of one topic, {}."),
    row("limits.topics_max", Count(1..=COUNT_MAX, |c| &mut c.limits.topics_max),
        "Topics in memory at once, {}: those with subscribers, and those whose deletion is remembered."),
    row("limits.topics_per_ip_max", Count(0..=COUNT_MAX, |c| &mut c.limits.topics_per_ip_max),
        "Of these, topics that one IP address has started, {}; 0 is without limit."),
    row("limits.topics_per_request_max", Count(1..=1024, |c| &mut c.limits.topics_per_request_max),
        "Topics one request may name, {}."),
    row("limits.topic_bytes_max", Rule::Size(Size::new(1)..=Size::kib(1), |c| &mut c.limits.topic_bytes_max),
        "The longest topic name in UTF-8, {}."),
    row("limits.request_bytes_in_flight_max",
        Rule::Size(Size::kib(64)..=Size::tib(1), |c| &mut c.limits.request_bytes_in_flight_max),
        "Bytes of requests in progress, {}; at least limits.request_bytes_in_flight_per_ip_max."),
    row("limits.request_bytes_in_flight_per_ip_max",
        Rule::Size(Size::kib(64)..=Size::tib(1), |c| &mut c.limits.request_bytes_in_flight_per_ip_max),
        "The same from one IP address, {}; at least 6 x publish.event_bytes_max + 64KiB."),
    row("limits.pending_connections_max", Count(1..=COUNT_MAX, |c| &mut c.limits.pending_connections_max),
        "Connections without a subscription, {}; above it the one that was idle longest is closed."),
    row("limits.pending_connections_per_ip_max", Count(1..=COUNT_MAX, |c| &mut c.limits.pending_connections_per_ip_max),
        "The same from one IP address, {}; not for the addresses in server.trusted_proxies."),
    row("limits.idempotency_keys_max", Count(1..=100_000_000, |c| &mut c.limits.idempotency_keys_max),
        "Idempotency keys remembered in all topics together, {}; above it the oldest of all is forgotten."),
    row("limits.publishes_per_second_per_ip", Count(0..=COUNT_MAX, |c| &mut c.limits.publishes_per_second_per_ip),
        "Publishes per second from one IP address, {}; 0 is without limit."),
    row("limits.publishes_per_second_per_key", Count(0..=COUNT_MAX, |c| &mut c.limits.publishes_per_second_per_key),
        "Publishes per second with one key and subject, {}; 0 is without limit."),
    row("limits.publishes_per_second_per_topic",
        Count(0..=COUNT_MAX, |c| &mut c.limits.publishes_per_second_per_topic),
        "Publishes per second to one topic, from all clients together, {}; 0 is without limit."),
    row("limits.subscribes_per_second_per_ip", Count(0..=COUNT_MAX, |c| &mut c.limits.subscribes_per_second_per_ip),
        "Subscriptions per second from one IP address, {}; 0 is without limit."),
    row("limits.failed_authentications_per_second_per_ip",
        Count(0..=COUNT_MAX, |c| &mut c.limits.failed_authentications_per_second_per_ip),
        "Refused tokens per second from one IP address, {}; past it, only known ones count; 0 is without limit."),
    row("auth.anonymous",
        OneOf(&[
            Word("loopback", |c| c.auth.anonymous = Anonymous::Loopback),
            Word("none", |c| c.auth.anonymous = Anonymous::None),
            Word("subscribe", |c| c.auth.anonymous = Anonymous::Subscribe),
            Word("all", |c| c.auth.anonymous = Anonymous::All),
        ]),
        "Without a token: loopback, everything from this machine only; none; subscribe; all, publish and subscribe."),
    row("auth.query_token", Bool(|c| &mut c.auth.query_token),
        "Whether a token may be in the query as access_token, {}; servers and proxies log such addresses."),
    row("auth.cookie", CookieName(|c| &mut c.auth.cookie),
        "The name of a cookie that carries a token; empty for none."),
    row("auth.ticket_ttl", Time(SECOND..=TEN_MINUTES, |c| &mut c.auth.ticket_ttl),
        "How long a ticket can be used, {}; a client takes it right before it subscribes."),
    row("auth.tickets_max", Count(1..=COUNT_MAX, |c| &mut c.auth.tickets_max),
        "Unused tickets of the whole server, {}; a ticket counts once for each of its topics."),
    row("auth.tickets_per_key_max", Count(1..=COUNT_MAX, |c| &mut c.auth.tickets_per_key_max),
        "Unused tickets of one key and subject, {}; a ticket counts once for each of its topics."),
    row("auth.keys", Keys(|c| &mut c.auth.keys),
        "Keys of tokens, as [[auth.keys]]: id, algorithm, secret, secret_file, public_key_file, jwks_file."),
    row("auth.api_keys", ApiKeys(|c| &mut c.auth.api_keys),
        "Fixed credentials, as [[auth.api_keys]]: name, sha256, publish, subscribe, manage."),
    row("auth.certificates", Certificates(|c| &mut c.auth.certificates),
        "What client certificates give, as [[auth.certificates]]: subject, publish, subscribe, manage."),
    row("cors.origins", Rule::Origins(|c| &mut c.cors.origins),
        "Pages of other origins that may use the broker: exact, as \"https://app.example.com\", or only \"*\"."),
    row("shutdown.drain", Time(Duration::ZERO..=TEN_MINUTES, |c| &mut c.shutdown.drain),
        "How long streams and requests may take to end before they are cut, {}."),
];

const fn row(key: &'static str, rule: Rule, about: &'static str) -> Setting {
    Setting { key, rule, about }
}

impl Setting {
    /// The setting with this key.
    pub(super) fn find(key: &str) -> Option<&'static Self> {
        SETTINGS.iter().find(|setting| setting.key == key)
    }
}
