//! The errors of a configuration. Each says where the mistake is, and what is allowed there.

use ::config::{Value, ValueKind};

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read, or is not TOML.
    #[error("{path}: {reason}")]
    File {
        /// The path of the file.
        path: String,
        /// The error of the system, or of the TOML parser.
        reason: String,
    },
    /// An environment variable of the broker is not UTF-8.
    #[error("environment variable {0}: its name and value must be UTF-8")]
    NotUnicode(String),
    /// Keys or values are wrong. All of them are reported, each on its own line.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Invalid(Vec<ConfigProblem>),
}

/// One wrong key or value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigProblem {
    /// The key does not exist.
    #[error("{origin}: unknown key {key}{}", hint(.suggestion.as_deref()))]
    Unknown {
        /// The file, or the environment.
        origin: String,
        /// The unknown key.
        key: String,
        /// The key that was probably meant.
        suggestion: Option<String>,
    },
    /// The value is not allowed for this key.
    #[error("{origin}: {key} = {value}; allowed: {allowed}")]
    Invalid {
        /// The file, the environment variable, the flag, or the built-in default.
        origin: String,
        /// The key, `section.key`.
        key: String,
        /// The wrong value.
        value: String,
        /// The values that are allowed, in words.
        allowed: String,
    },
}

impl ConfigProblem {
    pub(super) fn unknown(key: &str, value: &Value, suggestion: Option<String>) -> Self {
        Self::Unknown { origin: origin(value), key: key.to_owned(), suggestion }
    }

    pub(super) fn invalid(key: &str, value: &Value, allowed: String) -> Self {
        Self::Invalid { origin: origin(value), key: key.to_owned(), value: shown(&value.kind), allowed }
    }

    /// The value may have secrets, so it is not shown.
    pub(super) fn hidden(key: &str, value: &Value, allowed: String) -> Self {
        Self::Invalid { origin: origin(value), key: key.to_owned(), value: "…".to_owned(), allowed }
    }
}

fn origin(value: &Value) -> String {
    value.origin().unwrap_or("configuration").to_owned()
}

/// The value as a configuration file would write it.
fn shown(value: &ValueKind) -> String {
    match value {
        ValueKind::String(text) => format!("{text:?}"),
        ValueKind::Array(items) => {
            let items: Vec<String> = items.iter().map(|item| shown(&item.kind)).collect();
            format!("[{}]", items.join(", "))
        }
        ValueKind::Table(_) => "a table".to_owned(),
        number_or_bool => number_or_bool.to_string(),
    }
}

fn hint(suggestion: Option<&str>) -> String {
    suggestion.map(|key| format!("; did you mean {key}?")).unwrap_or_default()
}
