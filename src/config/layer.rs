//! The sources of values, each value carrying where it came from, and how they are put together.
//!
//! Sources only collect; what is unknown is found once, in the merged values.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::{fs, io};

use ::config::{FileFormat, Format, Map, Source, Value, ValueKind};
use strsim::levenshtein;

use super::error::{ConfigError, ConfigProblem};
use super::sections::Overrides;
use super::setting::{SETTINGS, Setting};

/// How a variable of ours begins.
const PREFIX: &str = "TIDINGS__";

/// The variable in which hosting platforms say where to listen.
const PLATFORM_PORT: &str = "PORT";

/// One source of values.
#[derive(Clone, Debug)]
pub(super) enum Layer {
    File { path: PathBuf, required: bool },
    Values(Map<String, Value>),
}

impl Layer {
    pub(super) fn file(path: &Path, required: bool) -> Self {
        Self::File { path: path.to_owned(), required }
    }

    /// A variable that only begins like ours stays under its own name, which is no known key.
    pub(super) fn environment(variables: impl Iterator<Item = (String, String)>) -> Self {
        let mut values = Map::new();
        // Sorted, `PORT` comes before `TIDINGS__SERVER__PORT` and so yields to it.
        let variables: BTreeMap<String, String> = variables.collect();
        for (name, text) in variables {
            // Set but empty is how many a platform writes "not set".
            if name == PLATFORM_PORT && !text.is_empty() {
                insert(&mut values, "server.port", &text, &variable(&name));
            } else if name.starts_with(PREFIX) {
                match SETTINGS.iter().find(|setting| setting.variable() == name) {
                    Some(setting) => insert(&mut values, setting.key, &text, &variable(&name)),
                    None => insert(&mut values, &name, &text, "environment"),
                }
            }
        }
        Self::Values(values)
    }

    pub(super) fn flags(overrides: &Overrides) -> Self {
        let mut values = Map::new();
        if let Some(listen) = &overrides.listen {
            let (host, port) = host_and_port(listen);
            insert(&mut values, "server.host", host, "flag --listen");
            if let Some(port) = port {
                insert(&mut values, "server.port", port, "flag --listen");
            }
        }
        Self::Values(values)
    }
}

fn variable(name: &str) -> String {
    format!("environment variable {name}")
}

fn insert(values: &mut Map<String, Value>, key: &str, text: &str, origin: &str) {
    let kind = match SETTINGS.iter().find(|setting| setting.key == key) {
        Some(setting) => setting.read(text),
        None => ValueKind::from(text),
    };
    values.insert(key.to_owned(), Value::new(Some(&origin.to_owned()), kind));
}

fn host_and_port(listen: &str) -> (&str, Option<&str>) {
    let host_only = listen.ends_with(']') || listen.parse::<IpAddr>().is_ok();
    let (host, port) = match listen.rsplit_once(':') {
        Some((host, port)) if !host_only => (host, Some(port)),
        _ => (listen, None),
    };
    let inside = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    (inside.unwrap_or(host), port)
}

impl Source for Layer {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Map<String, Value>, ::config::ConfigError> {
        match self {
            Self::Values(values) => Ok(values.clone()),
            Self::File { path, required } => {
                let origin = path.display().to_string();
                let text = match fs::read_to_string(path) {
                    Ok(text) => text,
                    Err(error) if error.kind() == io::ErrorKind::NotFound && !required => {
                        return Ok(Map::new());
                    }
                    Err(error) => return Err(unusable(&origin, &error)),
                };
                parse(&origin, &text)
            }
        }
    }

    /// Names are taken as they stand: the crate's own way reads them as paths into the values.
    fn collect_to(&self, values: &mut Value) -> Result<(), ::config::ConfigError> {
        if let ValueKind::Table(table) = &mut values.kind {
            table.extend(self.collect()?);
        }
        Ok(())
    }
}

/// Reads TOML into `section.key` and its value.
pub(super) fn parse(origin: &String, text: &str) -> Result<Map<String, Value>, ::config::ConfigError> {
    let sections = FileFormat::Toml.parse(Some(origin), text).map_err(|error| unusable(origin, &error))?;
    let mut values = Map::new();
    for (name, value) in sections {
        // Quoted again, or a quoted `"log.age_max"` would pass for `age_max` in `[log]`.
        let name = if name.contains('.') { format!("\"{name}\"") } else { name };
        match value.kind {
            // A known section may be empty; a stranger is told of either way.
            ValueKind::Table(table) if !table.is_empty() || is_section(&name) => {
                values.extend(table.into_iter().map(|(key, value)| (format!("{name}.{key}"), value)));
            }
            _ => {
                values.insert(name, value);
            }
        }
    }
    Ok(values)
}

fn is_section(name: &str) -> bool {
    SETTINGS.iter().any(|setting| setting.section() == name)
}

fn unusable(path: &str, error: &dyn std::fmt::Display) -> ::config::ConfigError {
    ::config::ConfigError::Foreign(format!("{path}: {}", error.to_string().trim_end()).into())
}

/// Puts the sources together, a later one over an earlier one, as `section.key` to value.
pub(super) fn merge(layers: Vec<Layer>) -> Result<BTreeMap<String, Value>, ConfigError> {
    let mut values = Value::from(Map::<String, Value>::new());
    for layer in layers {
        layer.collect_to(&mut values)?;
    }
    Ok(values.into_table()?.into_iter().collect())
}

/// The keys that are none of ours.
pub(super) fn unknown(values: &BTreeMap<String, Value>) -> Vec<ConfigProblem> {
    let unknown = values.iter().filter(|(key, _)| SETTINGS.iter().all(|s| s.key != key.as_str()));
    unknown
        .map(|(key, value)| {
            if is_section(key) {
                return ConfigProblem::invalid(key, value, format!("a section, [{key}]"));
            }
            let nearest = match key.strip_prefix(PREFIX) {
                Some(name) => nearest(&name.to_lowercase().replace("__", ".")).map(Setting::variable),
                None => nearest(key).map(|setting| setting.key.to_owned()),
            };
            ConfigProblem::unknown(key, value, nearest)
        })
        .collect()
}

/// The setting whose key, with or without its section, is at most a third of its name away.
fn nearest(name: &str) -> Option<&'static Setting> {
    let last = name.rsplit('.').next().unwrap_or(name);
    let far = |setting: &Setting| {
        // A right name in a wrong section is one mistake.
        levenshtein(name, setting.key).min(levenshtein(last, setting.name()) + 1)
    };
    let (distance, setting) = SETTINGS.iter().map(|setting| (far(setting), setting)).min_by_key(|(far, _)| *far)?;
    (distance <= last.chars().count().div_ceil(3)).then_some(setting)
}

/// The variables as text; those meant for others may be anything, and are left out if they are.
pub(super) fn readable(
    variables: impl Iterator<Item = (OsString, OsString)>,
) -> Result<Vec<(String, String)>, ConfigError> {
    let mut readable = Vec::new();
    for (name, value) in variables {
        let shown = name.to_string_lossy().into_owned();
        match (name.into_string(), value.into_string()) {
            (Ok(name), Ok(value)) => readable.push((name, value)),
            _ if shown.starts_with(PREFIX) || shown == PLATFORM_PORT => {
                return Err(ConfigError::NotUnicode(shown));
            }
            _ => {}
        }
    }
    Ok(readable)
}
