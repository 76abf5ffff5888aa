//! The configuration: defaults < `config.toml` < environment < flags.
//!
//! [`Config::load`] checks every value against the allowed range in [`SETTINGS`], so other modules need not check it
//! again. Only this file reads the environment of the process, except for `RUST_LOG`.

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
    Config, CorsConfig, DiskDurability, Engine, LimitsConfig, LogConfig, Origins, PublishConfig, ServerConfig,
    ShutdownConfig, StreamConfig,
};
pub use setting::Setting;
pub use size::{NotASize, Size};
pub use table::SETTINGS;

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

    /// The keys of TLS that are set without another key that they need.
    fn incomplete_tls(&self, values: &Values) -> Vec<ConfigProblem> {
        let server = &self.server;
        let (cert, key) = (("server.tls_cert", &server.tls_cert), ("server.tls_key", &server.tls_key));
        let client_ca = ("server.tls_client_ca", &server.tls_client_ca);
        let needs = [(cert, key), (key, cert), (client_ca, cert)];
        let incomplete = needs.into_iter().filter(|((_, path), (_, needed))| path.is_some() && needed.is_none());
        let problem = |((key, _), (needed, _)): ((&str, _), (&str, _))| {
            Some(ConfigProblem::invalid(key, values.get(key)?, format!("only together with {needed}")))
        };
        let mut problems: Vec<ConfigProblem> = incomplete.filter_map(problem).collect();
        if let (Some(value), None) = (values.get(CERTIFICATE_KEY), &server.tls_client_ca)
            && !self.auth.certificates.is_empty()
        {
            let allowed = format!("only together with {}", client_ca.0);
            problems.push(ConfigProblem::hidden(CERTIFICATE_KEY, value, allowed));
        }
        problems
    }

    /// The values that are too small for the value of another key. Each value is within its own range.
    fn contradictions(&self, values: &Values) -> Vec<ConfigProblem> {
        let (log, limits, event) = (&self.log, &self.limits, self.publish.event_bytes_max);
        // For each key: its value, the smallest allowed value, and how the latter is calculated.
        let rules = [
            (
                "log.topic_bytes_max",
                log.topic_bytes_max,
                Size::new(EVENT_EXPANSION * event.get()) + TOPIC_EXTRA,
                format!("{EVENT_EXPANSION} x publish.event_bytes_max + {TOPIC_EXTRA}"),
            ),
            ("log.bytes_max", log.bytes_max, log.topic_bytes_max, "log.topic_bytes_max".to_owned()),
            (
                "log.queue_bytes_max",
                log.queue_bytes_max,
                event + QUEUE_EXTRA,
                format!("publish.event_bytes_max + {QUEUE_EXTRA}"),
            ),
            (
                "limits.request_bytes_in_flight_per_ip_max",
                limits.request_bytes_in_flight_per_ip_max,
                Size::new(ENCODED_FACTOR * event.get()) + ENCODED_EXTRA,
                format!("{ENCODED_FACTOR} x publish.event_bytes_max + {ENCODED_EXTRA}"),
            ),
            (
                "limits.request_bytes_in_flight_max",
                limits.request_bytes_in_flight_max,
                limits.request_bytes_in_flight_per_ip_max,
                "limits.request_bytes_in_flight_per_ip_max".to_owned(),
            ),
        ];
        let mut problems = self.incomplete_tls(values);
        for (key, actual, least, formula) in rules {
            if actual < least {
                let default = Value::new(Some(&"built-in default".to_owned()), actual.to_string());
                let value = values.get(key).unwrap_or(&default);
                problems.push(ConfigProblem::invalid(key, value, format!("at least {least} ({formula})")));
            }
        }
        for (key, allowed) in self.auth.mistakes() {
            let unknown = Value::new(None, "");
            problems.push(ConfigProblem::hidden(key, values.get(key).unwrap_or(&unknown), allowed));
        }
        problems
    }
}
