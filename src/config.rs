//! Configuration: defaults < `config.toml` < environment < flags, validated once.
//!
//! A [`Config`] that came out of [`Config::load`] lies within the range that [`SETTINGS`] states for each key, so nobody
//! checks again. Only this file reads the process environment.

use std::collections::BTreeMap;
use std::path::Path;

use ::config::Value;

pub mod document;
mod layer;
mod error;
mod setting;
mod sections;
mod size;
#[cfg(test)]
mod tests;

pub use error::{ConfigError, ConfigProblem};
pub use sections::{
    Config, CorsConfig, DiskDurability, Engine, LimitsConfig, LogConfig, Origins, Overrides, PublishConfig,
    ServerConfig, ShutdownConfig, StreamConfig,
};
pub use setting::{SETTINGS, Setting};
pub use size::{NotASize, Size};

use layer::Layer;

/// The file read when none is named: in the working directory, if it exists.
const FILE: &str = "config.toml";

/// By which factor an event may be larger than its content. Each line break in the content becomes seven bytes on the
/// wire (`data: ` and the break), and the content is also kept as it was published.
const EVENT_EXPANSION: u64 = 8;
/// What a topic must be able to hold besides its largest event, so that no event is evicted when it is published.
const TOPIC_ROOM: Size = Size::kib(64);

/// By which factor a form or a JSON body may be larger than its content: JSON can write one byte as six (`\u0000`).
pub const ENCODED_FACTOR: u64 = 6;
/// What a form or a JSON body may hold besides the content.
pub const ENCODED_EXTRA: Size = Size::kib(64);

/// What the queue needs beside the largest event.
const QUEUE_ROOM: Size = Size::kib(4);

impl Config {
    /// Loads from `file` (or `config.toml`, if there is one), this process' environment and flags.
    pub fn from_environment(file: Option<&Path>, overrides: &Overrides) -> Result<Self, ConfigError> {
        let environment = layer::readable(std::env::vars_os())?;
        Self::load(file, environment.into_iter(), overrides)
    }

    /// Loads from `file` (or `config.toml`, if there is one), `environment` and flags.
    ///
    /// All problems found in readable sources are reported together.
    pub fn load(
        file: Option<&Path>,
        environment: impl Iterator<Item = (String, String)>,
        overrides: &Overrides,
    ) -> Result<Self, ConfigError> {
        let file = match file {
            Some(path) => Layer::file(path, true),
            None => Layer::file(Path::new(FILE), false),
        };
        let environment = Layer::environment(environment);
        Self::resolve(vec![file, environment, Layer::flags(overrides)])
    }

    fn resolve(layers: Vec<Layer>) -> Result<Self, ConfigError> {
        let values = layer::merge(layers)?;
        let mut problems = layer::unknown(&values);
        let mut config = Self::default();
        for setting in SETTINGS {
            if let Some(value) = values.get(setting.key)
                && setting.apply(&mut config, &value.kind).is_none()
            {
                problems.push(ConfigProblem::invalid(setting.key, value, setting.allowed()));
            }
        }
        if problems.is_empty() {
            problems = config.contradictions(&values);
        }
        if problems.is_empty() { Ok(config) } else { Err(ConfigError::Invalid(problems)) }
    }

    /// The rules between keys; each value alone is already known to be in its range.
    fn contradictions(&self, values: &BTreeMap<String, Value>) -> Vec<ConfigProblem> {
        let smallest_topic = Size::new(self.publish.event_bytes_max.get() * EVENT_EXPANSION) + TOPIC_ROOM;
        let largest_body = Size::new(self.publish.event_bytes_max.get() * ENCODED_FACTOR) + ENCODED_EXTRA;
        let rules = [
            (
                "log.topic_bytes_max",
                self.log.topic_bytes_max,
                smallest_topic,
                format!("{EVENT_EXPANSION} x publish.event_bytes_max + {TOPIC_ROOM}"),
            ),
            ("log.bytes_max", self.log.bytes_max, self.log.topic_bytes_max, "log.topic_bytes_max".to_owned()),
            (
                "log.queue_bytes_max",
                self.log.queue_bytes_max,
                self.publish.event_bytes_max + QUEUE_ROOM,
                format!("publish.event_bytes_max + {QUEUE_ROOM}"),
            ),
            (
                "limits.request_bytes_in_flight_per_ip_max",
                self.limits.request_bytes_in_flight_per_ip_max,
                largest_body,
                format!("{ENCODED_FACTOR} x publish.event_bytes_max + {ENCODED_EXTRA}"),
            ),
            (
                "limits.request_bytes_in_flight_max",
                self.limits.request_bytes_in_flight_max,
                self.limits.request_bytes_in_flight_per_ip_max,
                "limits.request_bytes_in_flight_per_ip_max".to_owned(),
            ),
        ];
        rules
            .into_iter()
            .filter(|(_, actual, least, _)| actual < least)
            .map(|(key, actual, least, why)| {
                let allowed = format!("at least {least} ({why})");
                match values.get(key) {
                    Some(value) => ConfigProblem::invalid(key, value, allowed),
                    None => ConfigProblem::invalid_default(key, &actual, allowed),
                }
            })
            .collect()
    }
}
