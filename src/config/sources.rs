//! Reads the file, the environment and the flag `--listen`. Each value keeps its origin, for the error messages.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::IpAddr;
use std::path::Path;
use std::{fs, io};

use ::config::{FileFormat, Format, Value, ValueKind};
use strsim::levenshtein;

use super::error::{ConfigError, ConfigProblem};
use super::setting::Setting;
use super::table::SETTINGS;

/// The values of one or several sources, by `section.key`. They may have unknown keys, which [`unknown_keys`]
/// reports.
pub(super) type Values = BTreeMap<String, Value>;

/// How the environment variables of the broker begin.
const PREFIX: &str = "TIDINGS__";

/// Hosting platforms tell a program its port in this environment variable.
const PLATFORM_PORT: &str = "PORT";

/// Reads a TOML file. A file that is not `required` may be absent.
pub(super) fn file(path: &Path, required: bool) -> Result<Values, ConfigError> {
    let path_text = path.display().to_string();
    match fs::read_to_string(path) {
        Ok(text) => parse(path_text, &text),
        Err(error) if error.kind() == io::ErrorKind::NotFound && !required => Ok(Values::new()),
        Err(error) => Err(ConfigError::File { path: path_text, reason: error.to_string() }),
    }
}

/// Reads TOML.
pub(super) fn parse(path: String, text: &str) -> Result<Values, ConfigError> {
    let sections = match FileFormat::Toml.parse(Some(&path), text) {
        Ok(sections) => sections,
        Err(error) => return Err(ConfigError::File { path, reason: error.to_string().trim_end().to_owned() }),
    };
    let mut values = Values::new();
    for (name, value) in sections {
        // In TOML, the quoted key `"log.age_max"` is one name that contains a dot. It does not mean the key `age_max`
        // of the section `[log]`. The parser has removed the quotes, so put them back to keep the two apart.
        let name = if name.contains('.') { format!("\"{name}\"") } else { name };
        match value.kind {
            // A known section may be empty. An empty section that is not known is kept, and reported as unknown.
            ValueKind::Table(table) if !table.is_empty() || is_section(&name) => {
                values.extend(table.into_iter().map(|(key, value)| (format!("{name}.{key}"), value)));
            }
            _ => drop(values.insert(name, value)),
        }
    }
    Ok(values)
}

/// Reads the environment variables of the broker. The key of an unknown variable is the variable's name.
pub(super) fn environment(variables: impl Iterator<Item = (OsString, OsString)>) -> Result<Values, ConfigError> {
    let mut values = Values::new();
    // The variables are sorted, so that `TIDINGS__SERVER__PORT` comes after `PORT`, and replaces its value.
    let variables: BTreeMap<OsString, OsString> = variables.collect();
    for (name, text) in variables {
        let shown = name.to_string_lossy().into_owned();
        if shown != PLATFORM_PORT && !shown.starts_with(PREFIX) {
            continue;
        }
        let (Ok(name), Ok(text)) = (name.into_string(), text.into_string()) else {
            return Err(ConfigError::NotUnicode(shown));
        };
        let origin = format!("environment variable {name}");
        if name == PLATFORM_PORT {
            // Many platforms set a variable to the empty text when it has no value.
            if !text.is_empty() {
                insert(&mut values, "server.port", &text, &origin);
            }
            continue;
        }
        match SETTINGS.iter().find(|setting| setting.variable() == name) {
            Some(setting) => insert(&mut values, setting.key, &text, &origin),
            None => insert(&mut values, &name, &text, "environment"),
        }
    }
    Ok(values)
}

/// Reads the flag `--listen`: `HOST:PORT`, or only a host. An IPv6 address with a port is in brackets.
pub(super) fn listen(text: &str) -> Values {
    let is_host = text.ends_with(']') || text.parse::<IpAddr>().is_ok();
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !is_host => (host, Some(port)),
        _ => (text, None),
    };
    let without_brackets = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let mut values = Values::new();
    insert(&mut values, "server.host", without_brackets.unwrap_or(host), "flag --listen");
    if let Some(port) = port {
        insert(&mut values, "server.port", port, "flag --listen");
    }
    values
}

fn insert(values: &mut Values, key: &str, text: &str, origin: &str) {
    let kind = Setting::find(key).map_or_else(|| ValueKind::from(text), |setting| setting.read(text));
    values.insert(key.to_owned(), Value::new(Some(&origin.to_owned()), kind));
}

fn is_section(name: &str) -> bool {
    SETTINGS.iter().any(|setting| setting.section() == name)
}

/// A problem for each key that does not exist.
pub(super) fn unknown_keys(values: &Values) -> Vec<ConfigProblem> {
    let mut problems = Vec::new();
    for (key, value) in values.iter().filter(|(key, _)| Setting::find(key).is_none()) {
        problems.push(if is_section(key) {
            ConfigProblem::invalid(key, value, format!("a section, [{key}]"))
        } else {
            ConfigProblem::unknown(key, value, suggestion(key))
        });
    }
    problems
}

/// The key, or the environment variable, that was probably meant.
fn suggestion(unknown: &str) -> Option<String> {
    match unknown.strip_prefix(PREFIX) {
        Some(name) => nearest(&name.to_lowercase().replace("__", ".")).map(Setting::variable),
        None => nearest(unknown).map(|setting| setting.key.to_owned()),
    }
}

/// The setting with the key most similar to `key`. `None` if more letters differ than a third of the name, rounded up.
fn nearest(key: &str) -> Option<&'static Setting> {
    let name = key.rsplit('.').next().unwrap_or(key);
    // A correct name in a wrong section counts as one wrong letter.
    let distance = |setting: &&Setting| levenshtein(key, setting.key).min(levenshtein(name, setting.name()) + 1);
    let nearest = SETTINGS.iter().min_by_key(&distance)?;
    (distance(&nearest) <= name.chars().count().div_ceil(3)).then_some(nearest)
}
