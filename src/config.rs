//! The configuration: defaults < `config.toml` < environment < flags.
//!
//! [`Config::load`] checks every value against the allowed range in [`SETTINGS`], so other modules need not check it
//! again. Only this file reads the environment of the process, except for `RUST_LOG`.
//!
//! # Files
//! - [`sections`]: the types of the sections, with their defaults. [`credentials`], [`own_limits`] and [`size`] are
//!   parts of them.
//! - [`table`]: [`SETTINGS`], with one [`Setting`] for each key. [`setting`] and [`lists`] read and check the values.
//! - [`sources`]: reads the file, the environment and the flag into values by key.
//! - [`document`]: writes `config.toml` and the documentation from [`SETTINGS`].
//! - [`checklist`]: the security checklist of `--check`, which compares a valid configuration with advice.

use std::ffi::OsString;
use std::path::Path;

use ::config::Value;

pub mod checklist;
pub mod document;
mod sources;
mod table;
mod setting;
mod error;
mod lists;
mod sections;
mod credentials;
mod own_limits;
mod size;
#[cfg(test)]
mod tests;

pub use credentials::{
    Algorithm, Anonymous, ApiKeyConfig, AuthConfig, CERTIFICATE_KEY, CertificateConfig, KeyConfig, Secret, Sha256,
};
pub use error::{ConfigError, ConfigProblem};
pub use own_limits::{OWN_LIMIT_MAX, OwnLimits};
pub use sections::{
    ClusterConfig, ClusterStorage, Config, CorsConfig, DiskDurability, Engine, LimitsConfig, LogConfig, Origins,
    PublishConfig, ServerConfig, ShutdownConfig, StreamConfig,
};
pub use setting::Setting;
pub use size::{NotASize, Size};
pub use table::SETTINGS;

use credentials::Mistake;
use sources::Values;

/// The file that is read if the command line names none. It may be absent.
const FILE: &str = "config.toml";

/// How many times larger an event may be than its content. Each line break of the content becomes seven bytes on the
/// wire (`data: ` and the break), and the content is also kept as it was published.
pub const EVENT_EXPANSION: u64 = 8;
/// What a topic needs in addition to its largest event, so that no event is evicted when it is published.
const TOPIC_EXTRA: Size = Size::kib(64);

/// How many times larger a form or a JSON body may be than its content: JSON can write one byte as six (`\u0000`).
pub const ENCODED_FACTOR: u64 = 6;
/// What a form or a JSON body may contain in addition to the content.
pub const ENCODED_EXTRA: Size = Size::kib(64);

/// What the queue of the disk engine needs in addition to the largest event.
const QUEUE_EXTRA: Size = Size::kib(4);

impl Config {
    /// Loads from `file` (or `config.toml`, if it exists), from the environment of the process, and from the flag
    /// `--listen`.
    ///
    /// # Errors
    /// When a source cannot be read, or with all wrong keys and values.
    pub fn load(file: Option<&Path>, listen: Option<&str>) -> Result<Self, ConfigError> {
        Self::load_with(file, std::env::vars_os(), listen)
    }

    fn load_with(
        file: Option<&Path>,
        environment: impl Iterator<Item = (OsString, OsString)>,
        listen: Option<&str>,
    ) -> Result<Self, ConfigError> {
        let environment = sources::environment(environment)?;
        let mut values = sources::file(file.unwrap_or(Path::new(FILE)), file.is_some())?;
        values.extend(environment);
        values.extend(listen.map(sources::listen).unwrap_or_default());
        Self::from_values(&values)
    }

    fn from_values(values: &Values) -> Result<Self, ConfigError> {
        let mut problems = sources::unknown_keys(values);
        let mut config = Self::default();
        for setting in SETTINGS {
            if let Some(value) = values.get(setting.key)
                && let Err(allowed) = setting.apply(&mut config, value)
            {
                problems.push(setting.problem(value, allowed));
            }
        }
        if problems.is_empty() {
            problems = config.contradictions(values);
        }
        if problems.is_empty() { Ok(config) } else { Err(ConfigError::Invalid(problems)) }
    }

    /// The values that do not fit together. Each value is within its own range.
    fn contradictions(&self, values: &Values) -> Vec<ConfigProblem> {
        let mut problems = self.incomplete_tls(values);
        for SizeRule { key, actual, least, formula } in self.size_rules() {
            if actual < least {
                let default = Value::new(Some(&"built-in default".to_owned()), actual.to_string());
                let value = values.get(key).unwrap_or(&default);
                problems.push(ConfigProblem::invalid(key, value, format!("at least {least} ({formula})")));
            }
        }
        for Mistake { key, allowed } in self.auth.mistakes() {
            let unknown = Value::new(None, "");
            problems.push(ConfigProblem::hidden(key, values.get(key).unwrap_or(&unknown), allowed));
        }
        problems
    }

    /// The keys of TLS that are set without another key that they need.
    fn incomplete_tls(&self, values: &Values) -> Vec<ConfigProblem> {
        let server = &self.server;
        let (has_cert, has_client_ca) = (server.tls_cert.is_some(), server.tls_client_ca.is_some());
        let pairs = [
            ("server.tls_cert", has_cert, "server.tls_key", server.tls_key.is_some()),
            ("cluster.tls_cert", self.cluster.tls_cert.is_some(), "cluster.tls_key", self.cluster.tls_key.is_some()),
        ];
        // A key, and the missing key that it needs.
        let mut missing = Vec::new();
        for (cert, has_cert, key, has_key) in pairs {
            if has_cert != has_key {
                missing.push(if has_cert { (cert, key) } else { (key, cert) });
            }
        }
        if has_client_ca && !has_cert {
            missing.push(("server.tls_client_ca", "server.tls_cert"));
        }
        if !self.auth.certificates.is_empty() && !has_client_ca {
            missing.push((CERTIFICATE_KEY, "server.tls_client_ca"));
        }
        let mut problems = Vec::new();
        for (key, needed) in missing {
            if let (Some(setting), Some(value)) = (Setting::find(key), values.get(key)) {
                problems.push(setting.problem(value, format!("only together with {needed}")));
            }
        }
        problems
    }

    /// The sizes whose smallest value depends on another key.
    fn size_rules(&self) -> [SizeRule; 5] {
        let (log, limits, event) = (&self.log, &self.limits, self.publish.event_bytes_max);
        [
            SizeRule {
                key: "log.topic_bytes_max",
                actual: log.topic_bytes_max,
                least: Size::new(EVENT_EXPANSION * event.get()) + TOPIC_EXTRA,
                formula: format!("{EVENT_EXPANSION} x publish.event_bytes_max + {TOPIC_EXTRA}"),
            },
            SizeRule {
                key: "log.bytes_max",
                actual: log.bytes_max,
                least: log.topic_bytes_max,
                formula: "log.topic_bytes_max".to_owned(),
            },
            SizeRule {
                key: "log.queue_bytes_max",
                actual: log.queue_bytes_max,
                least: event + QUEUE_EXTRA,
                formula: format!("publish.event_bytes_max + {QUEUE_EXTRA}"),
            },
            SizeRule {
                key: "limits.request_bytes_in_flight_per_ip_max",
                actual: limits.request_bytes_in_flight_per_ip_max,
                least: Size::new(ENCODED_FACTOR * event.get()) + ENCODED_EXTRA,
                formula: format!("{ENCODED_FACTOR} x publish.event_bytes_max + {ENCODED_EXTRA}"),
            },
            SizeRule {
                key: "limits.request_bytes_in_flight_max",
                actual: limits.request_bytes_in_flight_max,
                least: limits.request_bytes_in_flight_per_ip_max,
                formula: "limits.request_bytes_in_flight_per_ip_max".to_owned(),
            },
        ]
    }
}

/// A size with its smallest value, which depends on another key.
struct SizeRule {
    key: &'static str,
    actual: Size,
    least: Size,
    /// How `least` is calculated, for the error message.
    formula: String,
}
