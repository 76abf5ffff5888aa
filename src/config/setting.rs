//! The table of keys. Each row has the name of a key, the allowed values, the field that it sets, and a description.
//!
//! The file, the environment, the error messages and the documents all use this table.

use std::net::{IpAddr, Ipv4Addr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use ::config::ValueKind;

use super::sections::{Config, DiskDurability, Engine, Origins};
use super::size::Size;
// Without `Size` and `Origins`, which are also the names of types.
use Rule::{Bool, Count, Host, OneOf, Path, Port, Time, TimeOrZero};

/// One key of the configuration.
#[derive(Debug)]
pub struct Setting {
    /// The name with its section, `section.name`.
    pub key: &'static str,
    rule: Rule,
    /// The text of [`Setting::about`], with `{}` in the place of the range.
    about: &'static str,
}

/// The allowed values, and the field that is set.
#[derive(Debug)]
enum Rule {
    Host(Field<IpAddr>),
    Port(Field<u16>),
    Bool(Field<bool>),
    Count(RangeInclusive<usize>, Field<usize>),
    Size(RangeInclusive<Size>, Field<Size>),
    Time(RangeInclusive<Duration>, Field<Duration>),
    /// Zero is allowed, too, and the text says what it means.
    TimeOrZero(&'static str, RangeInclusive<Duration>, Field<Duration>),
    OneOf(&'static [Word]),
    Path(Field<PathBuf>),
    Origins(Field<Origins>),
}

/// A value that is a word, and the function that sets the field to it.
#[derive(Debug)]
struct Word(&'static str, fn(&mut Config));

type Field<T> = fn(&mut Config) -> &mut T;

const COUNT_MAX: usize = 10_000_000;
const MILLISECOND: Duration = Duration::from_millis(1);
const TENTH_SECOND: Duration = Duration::from_millis(100);
const SECOND: Duration = Duration::from_secs(1);
const TEN_MINUTES: Duration = Duration::from_mins(10);
const HOUR: Duration = Duration::from_hours(1);
const DAY: Duration = Duration::from_hours(24);
/// Ten years of 365.25 days, as `humantime` reads `10y`.
const TEN_YEARS: Duration = Duration::from_hours(87660);

const DURATION: &str = "a duration with its unit (ms, s, m, h, d or y)";

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
    row("log.engine",
        OneOf(&[
            Word("disk", |c| c.log.engine = Engine::Disk),
            Word("memory", |c| c.log.engine = Engine::Memory),
        ]),
        "Where the events are kept: disk, in a file; memory, until the process ends."),
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
        "Events kept in all topics together, {}; each needs memory, even if its content is on disk."),
    row("log.hot_bytes_max", Rule::Size(Size::new(0)..=Size::tib(1), |c| &mut c.log.hot_bytes_max),
        "Bytes of the newest events that the disk engine keeps in memory, too, {}."),
    row("log.queue_bytes_max", Rule::Size(Size::kib(64)..=Size::tib(1), |c| &mut c.log.queue_bytes_max),
        "Bytes of events that may wait to be written, {}; at least publish.event_bytes_max + 4KiB."),
    row("log.queue_wait", Time(Duration::ZERO..=TEN_MINUTES, |c| &mut c.log.queue_wait),
        "How long a publish waits for room in this queue before it is refused, {}."),
    row("log.age_max", TimeOrZero("no limit", SECOND..=TEN_YEARS, |c| &mut c.log.age_max),
        "How long an event is kept, {}; 0s is without limit."),
    row("stream.heartbeat", Time(TENTH_SECOND..=TEN_MINUTES, |c| &mut c.stream.heartbeat),
        "How often an idle stream gets a heartbeat, {}; choose less than the timeouts of proxies."),
    row("stream.retry", Time(TENTH_SECOND..=TEN_MINUTES, |c| &mut c.stream.retry),
        "How long subscribers are told to wait before they reconnect, {}; with jitter, so that not all come at once."),
    row("stream.lifetime_max", TimeOrZero("never", SECOND..=TEN_YEARS, |c| &mut c.stream.lifetime_max),
        "A stream is ended after this time, {}, so that load can move; 0s is never."),
    row("stream.coalesce_max", TimeOrZero("no pause", MILLISECOND..=SECOND, |c| &mut c.stream.coalesce_max),
        "The longest pause of a busy topic between two rounds of writes, {}: fewer writes, but later; 0s is none."),
    row("stream.write_timeout", Time(TENTH_SECOND..=HOUR, |c| &mut c.stream.write_timeout),
        "A subscriber that takes no waiting byte for this long, {}, is cut; a slow one must empty its receive buffer."),
    row("stream.unsent_bytes_max", Rule::Size(Size::mib(1)..=Size::tib(1), |c| &mut c.stream.unsent_bytes_max),
        "Bytes of partly sent events and notices for slow subscribers, {}; further events are read again."),
    row("stream.gone", Time(Duration::ZERO..=DAY, |c| &mut c.stream.gone),
        "How long a deleted topic tells reconnecting subscribers to stop, {}."),
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
        "Subscribers from one IP address, {}; behind a proxy all share one."),
    row("limits.subscribers_per_topic_max", Count(1..=COUNT_MAX, |c| &mut c.limits.subscribers_per_topic_max),
        "Subscribers of one topic, {}."),
    row("limits.topics_max", Count(1..=COUNT_MAX, |c| &mut c.limits.topics_max),
        "Topics in memory at once, {}: those with subscribers, and those whose deletion is remembered."),
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
        "The same from one IP address, {}; behind a proxy all share one."),
    row("limits.idempotency_keys_max", Count(1..=100_000_000, |c| &mut c.limits.idempotency_keys_max),
        "Idempotency keys remembered in all topics together, {}; above it the oldest of all is forgotten."),
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
            Host(_) | OneOf(_) | Path(_) | Rule::Origins(_) => String::new(),
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
            Rule::Origins(_) => format!(
                "[\"*\"], or up to {ORIGINS_MAX} origins as browsers send them, such as \
                 https://app.example.com: http or https, lower case, no path, no default port"
            ),
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
                // Setting the current value changes nothing.
                let is_current = |Word(_, set): &&Word| {
                    let mut other = config.clone();
                    set(&mut other);
                    other == config
                };
                words.iter().find(is_current).map_or_else(String::new, |Word(word, _)| format!("\"{word}\""))
            }
            Path(field) => format!("{:?}", field(&mut config).to_string_lossy()),
            Rule::Origins(field) => match field(&mut config) {
                Origins::Any => "[\"*\"]".to_owned(),
                Origins::Only(origins) => format!("{origins:?}"),
            },
        }
    }

    /// Converts the text of an environment variable or a flag to a value. Text that cannot be converted stays text,
    /// and [`Setting::apply`] refuses it.
    pub(super) fn read(&self, text: &str) -> ValueKind {
        let typed = match self.rule {
            Port(_) | Count(..) => text.parse::<i64>().ok().map(ValueKind::from),
            Bool(_) => text.parse::<bool>().ok().map(ValueKind::from),
            Rule::Origins(_) => {
                let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
                Some(ValueKind::from(items.collect::<Vec<&str>>()))
            }
            _ => None,
        };
        typed.unwrap_or_else(|| ValueKind::from(text))
    }

    /// Sets the field. Returns `None` if `value` is not allowed.
    pub(super) fn apply(&self, config: &mut Config, value: &ValueKind) -> Option<()> {
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
            Rule::Origins(field) => *field(config) = origins(value)?,
        }
        Some(())
    }
}

/// A duration as a configuration file writes it, in the largest of the units y, h, m, s and ms that gives a whole
/// number.
fn written(time: Duration) -> String {
    let millis = time.as_millis();
    let units = [TEN_YEARS / 10, HOUR, Duration::from_mins(1), SECOND].map(|unit| unit.as_millis());
    let unit =
        units.into_iter().zip(["y", "h", "m", "s"]).find(|(unit, _)| millis >= *unit && millis.is_multiple_of(*unit));
    match unit {
        Some((unit, name)) => format!("{}{name}", millis / unit),
        None if millis == 0 => "0s".to_owned(),
        None => format!("{millis}ms"),
    }
}

fn text(value: &ValueKind) -> Option<&str> {
    match value {
        ValueKind::String(text) => Some(text),
        // Zero needs no unit.
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

const ORIGINS_MAX: usize = 1000;

fn origins(value: &ValueKind) -> Option<Origins> {
    let ValueKind::Array(items) = value else { return None };
    let items: Vec<&str> = items.iter().map(|item| text(&item.kind)).collect::<Option<_>>()?;
    if items == ["*"] {
        return Some(Origins::Any);
    }
    if items.len() > ORIGINS_MAX || !items.iter().all(|item| is_origin(item)) {
        return None;
    }
    Some(Origins::Only(items.into_iter().map(str::to_owned).collect()))
}

/// Whether a browser could send this text as `Origin`. Another spelling of an origin would never match.
fn is_origin(text: &str) -> bool {
    let (authority, default_port) = match text.split_once("://") {
        Some(("https", authority)) => (authority, 443),
        Some(("http", authority)) => (authority, 80),
        _ => return false,
    };
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !authority.ends_with(']') => (host, Some(port)),
        _ => (authority, None),
    };
    let port_fits = port.is_none_or(|text| {
        let number = text.parse::<u16>().unwrap_or(0);
        number != 0 && number != default_port && number.to_string() == text
    });
    port_fits && is_host(host)
}

fn is_host(host: &str) -> bool {
    if let Some(inside) = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        return inside.parse::<std::net::Ipv6Addr>().is_ok_and(|ip| ip.to_string() == inside);
    }
    let is_allowed = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || b"-_".contains(&c);
    host.split('.').all(|label| !label.is_empty() && label.bytes().all(is_allowed))
}
