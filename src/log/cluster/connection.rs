//! The connection to NATS, and the stream: it is created, or compared with the configuration.

use std::{
    collections::HashMap,
    fmt::{Debug, Display},
    time::Duration,
};

use async_nats::{
    Client, ConnectErrorKind, ConnectOptions, Event,
    jetstream::{
        self, Context, ErrorCode,
        context::{CreateStreamErrorKind, GetStreamErrorKind},
        stream::{self, DiscardPolicy, Info, RetentionPolicy, StorageType, Stream},
    },
};
use tokio::sync::watch;

use super::{error::OpenError, subject};
use crate::{
    config::{ClusterConfig, ClusterStorage, LogConfig},
    event::Epoch,
    transport::check_outgoing,
};

/// How long NATS remembers the id of a message. It is longer than all repetitions of a message take, and short, because
/// NATS keeps the ids in memory.
pub(super) const DUPLICATE_WINDOW: Duration = Duration::from_mins(1);
/// How long a request to NATS may take that no publisher waits for.
pub(super) const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);
/// How often the client asks whether the connection still works.
const PING_INTERVAL: Duration = Duration::from_secs(5);
/// The longest pause between two attempts to connect.
const RECONNECT_MAX: Duration = Duration::from_secs(1);
/// How many commands the client queues. It is more than the publisher ever has on the way.
const COMMANDS_MAX: usize = 1 << 16;

/// The stream keeps this much more than the limits of the log, because it also has what the index has removed from the
/// middle: events above the limits of a topic, and deletions.
const SPARE_MESSAGES: u64 = 1 << 16;
const SPARE_BYTES: u64 = 64 << 20;

/// The names of our entries in the metadata of the stream.
const FORMAT_KEY: &str = "tidings-format";
const EPOCH_KEY: &str = "tidings-epoch";
/// The form of subjects and messages.
const FORMAT: &str = "1";

/// A connection, and the stream that it was made for.
pub(super) struct Link {
    pub(super) client: Client,
    pub(super) context: Context,
    /// The name of the stream, and the first part of its subjects.
    pub(super) name: String,
    pub(super) epoch: Epoch,
    /// Counts the connections. Every change means that what was on its way may be lost.
    pub(super) connections: watch::Receiver<u64>,
}

/// Why there is no connection.
pub(super) enum ConnectError {
    /// A later attempt may succeed.
    Later(String),
    /// It will not.
    Refused(OpenError),
}

/// Why the stream says nothing.
pub(super) enum InfoError {
    /// The server says that there is no such stream.
    Missing,
    Other(String),
}

impl Link {
    /// Connects to NATS, and creates the stream if it does not exist.
    pub(super) async fn open(config: &ClusterConfig, log: &LogConfig) -> Result<(Self, Info), ConnectError> {
        let (connected, connections) = watch::channel(0);
        let client = connect(config, connected).await?;
        let version = client.server_info().version;
        if !client.is_server_compatible(2, 10, 0) {
            return Err(ConnectError::Refused(OpenError::Version(version)));
        }
        if !client.is_server_compatible(2, 12, 0) {
            tracing::warn!(
                version,
                "this release of NATS is old: known faults that lose events are fixed in 2.12.15 and 2.14.5"
            );
        }
        let context = jetstream::ContextBuilder::new().timeout(REQUEST_TIMEOUT).build(client.clone());
        let info = ensure_stream(&context, &wanted(config, log)).await?;
        let epoch = epoch_of(&info).ok_or_else(|| refused(config, "it was not made by Tidings (it has no epoch)"))?;
        tracing::info!(
            version, stream = config.namespace, replicas = info.config.num_replicas, storage = ?info.config.storage,
            payload_max = client.max_payload(),
            "connected to NATS; whether it writes to the disk before it answers (sync_interval) cannot be seen from here"
        );
        let name = config.namespace.clone();
        Ok((Self { client, context, name, epoch, connections }, info))
    }

    pub(super) fn is_connected(&self) -> bool {
        self.client.connection_state() == async_nats::connection::State::Connected
    }

    /// The largest message that the server accepts.
    pub(super) fn payload_max(&self) -> usize {
        self.client.max_payload()
    }

    /// Asks the stream's leader.
    pub(super) async fn info(&self) -> Result<Info, InfoError> {
        match self.context.get_stream(&self.name).await {
            Ok(stream) => Ok(stream.cached_info().clone()),
            Err(error) => Err(match error.kind() {
                GetStreamErrorKind::JetStream(error) if error.error_code() == ErrorCode::STREAM_NOT_FOUND => {
                    InfoError::Missing
                }
                _ => InfoError::Other(text_of(&error)),
            }),
        }
    }

    /// Gives the stream another epoch if it is still this one. It is called when the stream has gone back: its next
    /// positions had other events before, and must not get the same ids.
    pub(super) async fn renew_epoch(&self) {
        let mut config = match self.info().await {
            Ok(info) if !self.is_other(&info) => info.config,
            _ => return,
        };
        let epoch = Epoch::random();
        config.metadata.insert(EPOCH_KEY.to_owned(), epoch.as_str().to_owned());
        match self.context.update_stream(config).await {
            Ok(_) => tracing::warn!(epoch = epoch.as_str(), "the stream has a new epoch, so that no id is given twice"),
            Err(error) => {
                let error = text_of(&error);
                tracing::error!(error, "the stream keeps its epoch: its next ids may be those of lost events");
            }
        }
    }

    /// The stream, without a request.
    pub(super) async fn stream(&self) -> Option<Stream<()>> {
        self.context.get_stream_no_info(&self.name).await.ok()
    }

    /// Whether `info` is of another stream of the same name.
    pub(super) fn is_other(&self, info: &Info) -> bool {
        epoch_of(info) != Some(self.epoch)
    }
}

async fn connect(config: &ClusterConfig, connected: watch::Sender<u64>) -> Result<Client, ConnectError> {
    let mut options = ConnectOptions::new();
    if let Some(file) = &config.credentials_file {
        options = options
            .credentials_file(file)
            .await
            .map_err(|source| ConnectError::Refused(OpenError::Credentials { path: file.clone(), source }))?;
    }
    check_outgoing(config).map_err(|error| ConnectError::Refused(error.into()))?;
    if let Some(file) = &config.tls_ca {
        options = options.add_root_certificates(file.clone());
    }
    if let Some((cert, key)) = config.tls_cert.as_ref().zip(config.tls_key.as_ref()) {
        options = options.add_client_certificate(cert.clone(), key.clone());
    }
    let options = options
        .name("tidings")
        .require_tls(config.requires_tls())
        .ping_interval(PING_INTERVAL)
        .connection_timeout(REQUEST_TIMEOUT)
        .client_capacity(COMMANDS_MAX)
        .subscription_capacity(COMMANDS_MAX)
        .reconnect_delay_callback(|attempts| {
            let exponent = u32::try_from(attempts).unwrap_or(u32::MAX).min(8);
            RECONNECT_MAX.min(Duration::from_millis(10) * 2_u32.pow(exponent))
        })
        .event_callback(move |event| {
            match event {
                Event::Connected => connected.send_modify(|count| *count += 1),
                Event::Disconnected => tracing::warn!("the connection to NATS is lost"),
                event => tracing::debug!(%event, "NATS"),
            }
            std::future::ready(())
        });
    options.connect(&config.servers).await.map_err(|error| match error.kind() {
        ConnectErrorKind::Authentication | ConnectErrorKind::AuthorizationViolation => {
            ConnectError::Refused(OpenError::Denied(text_of(&error)))
        }
        _ => {
            let text = text_of(&error);
            let hint = if text.contains("certificate") {
                "; see cluster.tls_ca"
            } else if config.requires_tls() {
                "; this configuration asks for TLS: does NATS speak it?"
            } else {
                ""
            };
            ConnectError::Later(text + hint)
        }
    })
}

/// The stream as this configuration needs it.
fn wanted(config: &ClusterConfig, log: &LogConfig) -> stream::Config {
    let double =
        |limit: u64, spare: u64| i64::try_from(limit.saturating_mul(2).saturating_add(spare)).unwrap_or(i64::MAX);
    let events_max = u64::try_from(log.events_max).unwrap_or(u64::MAX);
    // The index removes events that are too old by itself, so the stream may keep them longer.
    let max_age = if log.age_max.is_zero() { Duration::ZERO } else { log.age_max + DUPLICATE_WINDOW };
    stream::Config {
        name: config.namespace.clone(),
        description: Some("The log of a Tidings cluster. Do not edit, purge or publish to it.".to_owned()),
        subjects: subject::of_all(&config.namespace),
        retention: RetentionPolicy::Limits,
        discard: DiscardPolicy::Old,
        max_messages: double(events_max, SPARE_MESSAGES),
        max_bytes: double(log.bytes_max.get(), SPARE_BYTES),
        max_messages_per_subject: -1,
        max_message_size: -1,
        max_consumers: -1,
        max_age,
        storage: match config.storage {
            ClusterStorage::File => StorageType::File,
            ClusterStorage::Memory => StorageType::Memory,
        },
        num_replicas: config.replicas,
        duplicate_window: DUPLICATE_WINDOW,
        allow_direct: true,
        deny_delete: true,
        deny_purge: true,
        metadata: HashMap::from([
            (FORMAT_KEY.to_owned(), FORMAT.to_owned()),
            (EPOCH_KEY.to_owned(), Epoch::random().as_str().to_owned()),
        ]),
        ..stream::Config::default()
    }
}

/// The stream, which is created if it does not exist.
async fn ensure_stream(context: &Context, wanted: &stream::Config) -> Result<Info, ConnectError> {
    let error = match context.get_stream(&wanted.name).await {
        Ok(stream) => return compare(stream.cached_info(), wanted),
        Err(error) => error,
    };
    match error.kind() {
        GetStreamErrorKind::JetStream(error) if error.error_code() == ErrorCode::STREAM_NOT_FOUND => {}
        _ => return Err(ConnectError::Later(text_of(&error))),
    }
    match context.create_stream(wanted.clone()).await {
        Ok(stream) => compare(stream.cached_info(), wanted),
        Err(error) => Err(match error.kind() {
            CreateStreamErrorKind::JetStream(source)
                if source.error_code() == ErrorCode::STREAM_REPLICAS_NOT_SUPPORTED =>
            {
                let differences = format!("replicas = {} needs a cluster of NATS servers", wanted.num_replicas);
                ConnectError::Refused(OpenError::Stream { name: wanted.name.clone(), differences })
            }
            // Perhaps another server has created it at the same time, with another epoch.
            _ => ConnectError::Later(text_of(&error)),
        }),
    }
}

/// Compares a stream with the one that this configuration needs.
fn compare(info: &Info, wanted: &stream::Config) -> Result<Info, ConnectError> {
    let is = &info.config;
    let mut differences = Vec::new();
    let mut note = |key: &str, is: &dyn Debug, wanted: &dyn Debug| {
        let (is, wanted) = (format!("{is:?}"), format!("{wanted:?}"));
        if is != wanted {
            differences.push(format!("its {key} is {is}, and this configuration needs {wanted}"));
        }
    };
    let sorted = |subjects: &[String]| {
        let mut subjects = subjects.to_vec();
        subjects.sort();
        subjects
    };
    note("subjects", &sorted(&is.subjects), &sorted(&wanted.subjects));
    note("retention", &is.retention, &wanted.retention);
    note("discard", &is.discard, &wanted.discard);
    note("max_msgs", &is.max_messages, &wanted.max_messages);
    note("max_bytes", &is.max_bytes, &wanted.max_bytes);
    note("max_msgs_per_subject", &is.max_messages_per_subject, &wanted.max_messages_per_subject);
    note("max_msg_size", &is.max_message_size, &wanted.max_message_size);
    note("max_age", &is.max_age, &wanted.max_age);
    note("storage", &is.storage, &wanted.storage);
    note("num_replicas", &is.num_replicas, &wanted.num_replicas);
    note("duplicate_window", &is.duplicate_window, &wanted.duplicate_window);
    note("allow_direct", &is.allow_direct, &wanted.allow_direct);
    note("deny_delete", &is.deny_delete, &wanted.deny_delete);
    note("deny_purge", &is.deny_purge, &wanted.deny_purge);
    note("no_ack", &is.no_ack, &false);
    note("sealed", &is.sealed, &false);
    note("first_seq", &is.first_sequence.unwrap_or_default(), &0);
    note("metadata tidings-format", &is.metadata.get(FORMAT_KEY), &wanted.metadata.get(FORMAT_KEY));
    if differences.is_empty() {
        return Ok(info.clone());
    }
    let differences = differences.join("; ");
    Err(ConnectError::Refused(OpenError::Stream { name: wanted.name.clone(), differences }))
}

/// The epoch that the server noted that has created the stream.
fn epoch_of(info: &Info) -> Option<Epoch> {
    let text = info.config.metadata.get(EPOCH_KEY)?;
    let epoch = Epoch::from_number(u64::from_str_radix(text, 36).ok()?)?;
    (epoch.as_str() == text).then_some(epoch)
}

fn refused(config: &ClusterConfig, differences: &str) -> ConnectError {
    let (name, differences) = (config.namespace.clone(), differences.to_owned());
    ConnectError::Refused(OpenError::Stream { name, differences })
}

/// A time of NATS, in milliseconds since the Unix epoch.
pub(super) fn millis_of(time: async_nats::datetime::DateTime) -> u64 {
    u64::try_from(time.unix_timestamp_nanos() / 1_000_000).unwrap_or_default()
}

/// An error with its causes.
pub(super) fn text_of(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // Some errors repeat their cause.
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

impl Display for InfoError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Missing => f.write_str("the stream does not exist"),
            Self::Other(text) => f.write_str(text),
        }
    }
}
