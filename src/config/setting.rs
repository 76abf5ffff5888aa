//! One key of the configuration: how its values are read, checked and shown.

use std::net::{IpAddr, Ipv4Addr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use ::config::{FileFormat, Format as _, Value, ValueKind};
use ipnet::IpNet;
use serde::de::DeserializeOwned;

use super::credentials::{ApiKeyConfig, CertificateConfig, KeyConfig};
use super::error::ConfigProblem;
use super::lists::{HOSTS_MAX, NETWORKS_MAX, ORIGINS_MAX, SERVERS_MAX, hosts, networks, origins, servers};
use super::sections::{Config, Origins};
use super::size::Size;
// `Rule::Size` and `Rule::Origins` keep their prefix: there are types of the same names.
use Rule::{
    ApiKeys, Bool, Certificates, CookieName, Count, Host, Hosts, Keys, Namespace, Networks, OneOf, OptionalFile, Path,
    Port, Servers, Time, TimeOrZero,
};

/// One key of the configuration.
#[derive(Debug)]
pub struct Setting {
    /// The name with its section, `section.name`.
    pub key: &'static str,
    pub(super) rule: Rule,
    /// The text of [`Setting::about`], with `{}` in the place of the range.
    pub(super) about: &'static str,
}

/// The allowed values, and the field that is set.
#[derive(Debug)]
pub(super) enum Rule {
    Host(Field<IpAddr>),
    Port(Field<u16>),
    Bool(Field<bool>),
    Count(RangeInclusive<usize>, Field<usize>),
    Size(RangeInclusive<Size>, Field<Size>),
    Time(RangeInclusive<Duration>, Field<Duration>),
    /// Zero is allowed, too. The text says what zero means.
    TimeOrZero(&'static str, RangeInclusive<Duration>, Field<Duration>),
    OneOf(&'static [Word]),
    Path(Field<PathBuf>),
    /// Empty text means none.
    OptionalFile(Field<Option<PathBuf>>),
    Origins(Field<Origins>),
    Hosts(Field<Vec<String>>),
    Networks(Field<Vec<IpNet>>),
    Servers(Field<Vec<String>>),
    Namespace(Field<String>),
    CookieName(Field<String>),
    Keys(Field<Vec<KeyConfig>>),
    ApiKeys(Field<Vec<ApiKeyConfig>>),
    Certificates(Field<Vec<CertificateConfig>>),
}

/// A value that is a word, and the function that sets the field to it.
#[derive(Debug)]
pub(super) struct Word(pub(super) &'static str, pub(super) fn(&mut Config));

pub(super) type Field<T> = fn(&mut Config) -> &mut T;

const DURATION: &str = "a duration with its unit (ms, s, m, h, d or y)";

impl Setting {
    /// The part of the key before the dot.
    pub fn section(&self) -> &'static str {
        self.key.split_once('.').map_or(self.key, |(section, _)| section)
    }

    /// The part of the key after the dot.
    pub fn name(&self) -> &'static str {
        self.key.split_once('.').map_or(self.key, |(_, name)| name)
    }

    /// The environment variable that sets the key, `TIDINGS__SECTION__NAME`.
    pub fn variable(&self) -> String {
        format!("TIDINGS__{}", self.key.to_uppercase().replace('.', "__"))
    }

    /// A sentence that describes the key.
    pub fn about(&self) -> String {
        self.about.replace("{}", &self.range())
    }

    /// The smallest and the largest value of numbers, sizes and durations; `true or false` of a switch. Empty for the
    /// other rules.
    fn range(&self) -> String {
        match &self.rule {
            Port(_) => format!("{} to {}", u16::MIN, u16::MAX),
            Count(range, _) => format!("{} to {}", range.start(), range.end()),
            Rule::Size(range, _) => format!("{} to {}", range.start(), range.end()),
            Time(range, _) | TimeOrZero(_, range, _) => {
                format!("{} to {}", written(*range.start()), written(*range.end()))
            }
            Bool(_) => "true or false".to_owned(),
            Host(_)
            | OneOf(_)
            | Path(_)
            | OptionalFile(_)
            | Rule::Origins(_)
            | Hosts(_)
            | Networks(_)
            | Servers(_)
            | Namespace(_)
            | CookieName(_)
            | Keys(_)
            | ApiKeys(_)
            | Certificates(_) => String::new(),
        }
    }

    /// The allowed values, in words.
    pub fn allowed(&self) -> String {
        let range = self.range();
        match &self.rule {
            Host(_) => "an IP address or localhost".to_owned(),
            Bool(_) => range,
            Port(_) | Count(..) => format!("a whole number from {range}"),
            Rule::Size(..) => format!("a size with its unit (B, KiB, MiB, GiB or TiB) from {range}"),
            Time(..) => format!("{DURATION} from {range}"),
            TimeOrZero(zero, ..) => format!("{DURATION} from {range}, or 0s for {zero}"),
            OneOf(words) => words.iter().map(|Word(word, _)| *word).collect::<Vec<_>>().join(" or "),
            Path(_) => "the path of a directory".to_owned(),
            OptionalFile(_) => "the path of a file, or \"\" for none".to_owned(),
            Servers(_) => format!(
                "1 to {SERVERS_MAX} addresses of NATS servers, such as nats://10.0.0.1:4222, without user and password"
            ),
            Namespace(_) => "1 to 32 letters, digits, - and _".to_owned(),
            CookieName(_) => "the name of a cookie, of letters, digits, - and _; or \"\" for none".to_owned(),
            Keys(_) => "tables [[auth.keys]] with id, algorithm and a secret or a public key".to_owned(),
            ApiKeys(_) => "tables [[auth.api_keys]] with name, sha256 and patterns of topics".to_owned(),
            Certificates(_) => "tables [[auth.certificates]] with subject and patterns of topics".to_owned(),
            Rule::Origins(_) => format!(
                "[\"*\"], or up to {ORIGINS_MAX} origins as browsers send them, such as \
                 https://app.example.com: http or https, lower case, no path, no default port"
            ),
            Hosts(_) => format!("up to {HOSTS_MAX} host names such as push.example.com, without scheme and port"),
            Networks(_) => format!("up to {NETWORKS_MAX} IP addresses or networks, such as 192.0.2.1 or 10.0.0.0/8"),
        }
    }

    /// The value in `config`, as a configuration file writes it.
    pub fn value(&self, config: &Config) -> String {
        // A `Field` needs a mutable configuration.
        let mut config = config.clone();
        match &self.rule {
            Host(field) => format!("\"{}\"", field(&mut config)),
            Port(field) => field(&mut config).to_string(),
            Bool(field) => field(&mut config).to_string(),
            Count(_, field) => field(&mut config).to_string(),
            Rule::Size(_, field) => format!("\"{}\"", field(&mut config)),
            Time(_, field) | TimeOrZero(_, _, field) => format!("\"{}\"", written(*field(&mut config))),
            OneOf(words) => {
                // The current word is the one that changes nothing when it is set.
                let is_current = |Word(_, set): &&Word| {
                    let mut other = config.clone();
                    set(&mut other);
                    other == config
                };
                words.iter().find(is_current).map_or_else(String::new, |Word(word, _)| format!("\"{word}\""))
            }
            Path(field) => format!("{:?}", field(&mut config).to_string_lossy()),
            OptionalFile(field) => format!("{:?}", field(&mut config).take().unwrap_or_default().to_string_lossy()),
            Rule::Origins(field) => match field(&mut config) {
                Origins::Any => "[\"*\"]".to_owned(),
                Origins::Only(origins) => format!("{origins:?}"),
            },
            Hosts(field) | Servers(field) => format!("{:?}", field(&mut config)),
            Networks(field) => {
                format!("{:?}", field(&mut config).iter().map(ToString::to_string).collect::<Vec<String>>())
            }
            CookieName(field) | Namespace(field) => format!("{:?}", field(&mut config)),
            // The tables may have secrets.
            Keys(_) | ApiKeys(_) | Certificates(_) => "[]".to_owned(),
        }
    }

    /// Whether its value is a list of tables, which may have secrets. In a file, each table has a heading of its own.
    pub(super) fn is_tables(&self) -> bool {
        matches!(self.rule, Keys(_) | ApiKeys(_) | Certificates(_))
    }

    /// The problem of a value that is not allowed.
    pub(super) fn problem(&self, value: &Value, allowed: String) -> ConfigProblem {
        if self.is_tables() {
            ConfigProblem::hidden(self.key, value, allowed)
        } else {
            ConfigProblem::invalid(self.key, value, allowed)
        }
    }

    /// Converts the text of an environment variable or a flag to a value. Text that cannot be converted stays text,
    /// and [`Setting::apply`] refuses it.
    pub(super) fn read(&self, text: &str) -> ValueKind {
        let typed = match self.rule {
            Port(_) | Count(..) => text.parse::<i64>().ok().map(ValueKind::from),
            Bool(_) => text.parse::<bool>().ok().map(ValueKind::from),
            Rule::Origins(_) | Hosts(_) | Networks(_) | Servers(_) => {
                let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
                Some(ValueKind::from(items.collect::<Vec<&str>>()))
            }
            // As the value would be in a file: `[{ id = "…", … }]`.
            Keys(_) | ApiKeys(_) | Certificates(_) => {
                let file = FileFormat::Toml.parse(None, &format!("value = {text}")).ok();
                file.and_then(|mut file| file.remove("value")).map(|value| value.kind)
            }
            _ => None,
        };
        typed.unwrap_or_else(|| ValueKind::from(text))
    }

    /// Sets the field to `value`.
    ///
    /// # Errors
    /// If `value` is not allowed: says what is.
    pub(super) fn apply(&self, config: &mut Config, value: &Value) -> Result<(), String> {
        match &self.rule {
            Keys(field) => *field(config) = self.entries(value)?,
            ApiKeys(field) => *field(config) = self.entries(value)?,
            Certificates(field) => *field(config) = self.entries(value)?,
            _ => self.set(config, &value.kind).ok_or_else(|| self.allowed())?,
        }
        Ok(())
    }

    /// The entries of a list of tables. The error says which entry is wrong.
    fn entries<T: DeserializeOwned>(&self, value: &Value) -> Result<Vec<T>, String> {
        let ValueKind::Array(items) = &value.kind else { return Err(self.allowed()) };
        let mut entries = Vec::with_capacity(items.len());
        for (number, item) in (1..).zip(items) {
            let entry = item.clone().try_deserialize();
            entries.push(entry.map_err(|error| format!("in the table {number}: {error}"))?);
        }
        Ok(entries)
    }

    /// Sets the field. Returns `None` if `value` is not allowed.
    fn set(&self, config: &mut Config, value: &ValueKind) -> Option<()> {
        match &self.rule {
            Host(field) => *field(config) = host(text(value)?)?,
            Port(field) => *field(config) = whole(value)?.try_into().ok()?,
            Bool(field) => match value {
                ValueKind::Boolean(value) => *field(config) = *value,
                _ => return None,
            },
            Count(range, field) => *field(config) = within(range, whole(value)?.try_into().ok()?)?,
            Rule::Size(range, field) => *field(config) = within(range, text(value)?.parse().ok()?)?,
            Time(range, field) => *field(config) = within(range, time(value)?)?,
            TimeOrZero(_, range, field) => {
                let time = time(value)?;
                *field(config) = if time.is_zero() { time } else { within(range, time)? };
            }
            OneOf(words) => {
                let text = text(value)?;
                let Word(_, set) = words.iter().find(|Word(word, _)| *word == text)?;
                set(config);
            }
            Path(field) => *field(config) = Some(text(value)?).filter(|path| !path.is_empty())?.into(),
            OptionalFile(field) => {
                *field(config) = Some(text(value)?).filter(|path| !path.is_empty()).map(PathBuf::from);
            }
            Rule::Origins(field) => *field(config) = origins(value)?,
            Hosts(field) => *field(config) = hosts(value)?,
            Networks(field) => *field(config) = networks(value)?,
            Servers(field) => *field(config) = servers(value)?,
            Namespace(field) => text(value).filter(|name| is_word(name, 1..=32))?.clone_into(field(config)),
            CookieName(field) => text(value).filter(|name| is_word(name, 0..=128))?.clone_into(field(config)),
            Keys(_) | ApiKeys(_) | Certificates(_) => return None,
        }
        Some(())
    }
}

/// Whether `text` can be the name of a cookie and a token of NATS. `lengths` are those that are allowed.
fn is_word(text: &str, lengths: RangeInclusive<usize>) -> bool {
    lengths.contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
}

/// A duration as a configuration file writes it, in the largest of the units y, h, m, s and ms that gives a whole
/// number.
fn written(time: Duration) -> String {
    let millis = time.as_millis();
    if millis == 0 {
        return "0s".to_owned();
    }
    // A year of 365.25 days, as `humantime` reads `1y`.
    let (year, hour, minute, second) =
        (Duration::from_hours(8766), Duration::from_hours(1), Duration::from_mins(1), Duration::from_secs(1));
    for (name, unit) in [("y", year), ("h", hour), ("m", minute), ("s", second)] {
        if millis.is_multiple_of(unit.as_millis()) {
            return format!("{}{name}", millis / unit.as_millis());
        }
    }
    format!("{millis}ms")
}

fn text(value: &ValueKind) -> Option<&str> {
    match value {
        ValueKind::String(text) => Some(text),
        // A time or a size of zero needs no unit, so it may be a number. For other rules, the text "0" is checked.
        ValueKind::I64(0) => Some("0"),
        _ => None,
    }
}

fn whole(value: &ValueKind) -> Option<i64> {
    match value {
        ValueKind::I64(number) => Some(*number),
        _ => None,
    }
}

fn time(value: &ValueKind) -> Option<Duration> {
    humantime::parse_duration(text(value)?).ok()
}

fn within<T: PartialOrd>(range: &RangeInclusive<T>, value: T) -> Option<T> {
    range.contains(&value).then_some(value)
}

fn host(text: &str) -> Option<IpAddr> {
    if text == "localhost" { Some(Ipv4Addr::LOCALHOST.into()) } else { text.parse().ok() }
}
