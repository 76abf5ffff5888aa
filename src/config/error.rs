//! What can be wrong with a configuration, said so that the reader knows what to change and where.

use std::fmt::Display;

use ::config::{Value, ValueKind};

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read or is not TOML.
    #[error(transparent)]
    File(#[from] ::config::ConfigError),
    /// This environment variable is meant for the broker but is not UTF-8.
    #[error("environment variable {0}: its name and value must be UTF-8")]
    NotUnicode(String),
    /// Keys or values are wrong: all of them, one a line.
    #[error("{}", lines(.0))]
    Invalid(Vec<ConfigProblem>),
}

/// One wrong key or value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigProblem {
    /// There is no such key.
    #[error("{origin}: unknown key {key}{}", hint(.nearest.as_deref()))]
    Unknown {
        /// The file or environment that has it.
        origin: String,
        /// The key as given.
        key: String,
        /// The known key that was probably meant.
        nearest: Option<String>,
    },
    /// The value is not allowed for this key.
    #[error("{origin}: {key} = {value}; allowed: {allowed}")]
    Invalid {
        /// The file, environment variable or flag that gave it.
        origin: String,
        /// The key, `section.key`.
        key: String,
        /// The value as given.
        value: String,
        /// What would be right.
        allowed: String,
    },
}

impl ConfigProblem {
    pub(super) fn unknown(key: &str, value: &Value, nearest: Option<String>) -> Self {
        Self::Unknown { origin: origin(value), key: key.to_owned(), nearest }
    }

    pub(super) fn invalid(key: &str, value: &Value, allowed: String) -> Self {
        Self::Invalid { origin: origin(value), key: key.to_owned(), value: shown(&value.kind), allowed }
    }

    /// For a default that another key's value rules out.
    pub(super) fn invalid_default(key: &str, value: &impl Display, allowed: String) -> Self {
        Self::Invalid {
            origin: "built-in default".to_owned(),
            key: key.to_owned(),
            value: format!("\"{value}\""),
            allowed,
        }
    }
}

fn origin(value: &Value) -> String {
    value.origin().unwrap_or("configuration").to_owned()
}

/// A value as a configuration file would write it.
fn shown(value: &ValueKind) -> String {
    match value {
        ValueKind::String(text) => format!("{text:?}"),
        ValueKind::Array(items) => {
            let items: Vec<String> = items.iter().map(|item| shown(&item.kind)).collect();
            format!("[{}]", items.join(", "))
        }
        ValueKind::Table(_) => "a table".to_owned(),
        plain => plain.to_string(),
    }
}

fn hint(nearest: Option<&str>) -> String {
    nearest.map(|key| format!("; did you mean {key}?")).unwrap_or_default()
}

fn lines(problems: &[ConfigProblem]) -> String {
    let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
    lines.join("\n")
}
