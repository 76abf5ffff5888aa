//! The checklist of docs/security.md: what to decide before others can reach the broker. `tidings --check` asks about
//! the items that a configuration does not follow, and the table in the documentation is made from the same items.

use std::time::Duration;

use ipnet::IpNet;

use super::credentials::Anonymous;
use super::lists::is_loopback_address;
use super::sections::{Config, Engine, Origins};
use super::setting::Setting;
use super::size::Size;

/// An item of the checklist.
pub struct Item {
    /// What to do, for the documentation.
    pub advice: &'static str,
    /// The keys that the advice is about.
    pub keys: &'static [&'static str],
    /// When `--check` asks the question, in words for the documentation.
    pub asked: &'static str,
    /// The question of `--check`, if the configuration does not follow the advice.
    question: fn(&Facts<'_>) -> Option<String>,
}

/// What the checklist needs to know of this machine.
#[derive(Clone, Copy, Debug)]
pub struct Machine {
    /// The permission bits of the directory of the log; `None` if it does not exist.
    pub log_mode: Option<u32>,
    /// How many files the process may open.
    pub open_files: usize,
    /// How many files the limits on connections may need.
    pub open_files_needed: usize,
}

/// What decides about a question.
struct Facts<'a> {
    config: &'a Config,
    machine: Machine,
}

/// The result of [`review`].
pub struct Findings {
    /// One line for each item that the configuration does not follow.
    pub questions: Vec<String>,
    /// The advice that the reader must check: neither the configuration nor this machine shows whether it is followed.
    pub unseen: Vec<&'static str>,
    /// Whether clients of other machines can reach the server, as far as the configuration shows.
    pub is_exposed: bool,
}

/// Compares a configuration with the checklist. As long as only this machine can connect, most items do not matter, and
/// `--check` does not ask their questions.
#[must_use]
pub fn review(config: &Config, machine: Machine) -> Findings {
    let facts = Facts { config, machine };
    let is_exposed = facts.is_exposed();
    let (mut questions, mut unseen) = (Vec::new(), Vec::new());
    for item in ITEMS {
        if let Some(question) = (item.question)(&facts) {
            questions.push(format!("{}: {question}", item.values(config)));
        }
        if is_exposed && item.asked == UNSEEN {
            unseen.push(item.advice);
        }
    }
    Findings { questions, unseen, is_exposed }
}

impl Item {
    /// Its keys, with their values, except for tables, which may have secrets.
    fn values(&self, config: &Config) -> String {
        let value = |key: &&str| match Setting::find(key) {
            Some(setting) if !setting.is_tables() => format!("{key} = {}", setting.value(config)),
            _ => (*key).to_owned(),
        };
        self.keys.iter().map(value).collect::<Vec<String>>().join(", ")
    }
}

impl Facts<'_> {
    fn is_loopback(&self) -> bool {
        self.config.server.host.to_canonical().is_loopback()
    }

    /// Whether clients of other machines can connect, directly or through a proxy. A server has names or proxies only
    /// when other machines are to reach it.
    fn is_exposed(&self) -> bool {
        let server = &self.config.server;
        !self.is_loopback() || !server.hosts.is_empty() || !server.trusted_proxies.is_empty()
    }

    /// Whether the events cross a network to NATS, as far as the configuration shows, without TLS.
    fn has_plain_nats(&self) -> bool {
        let (log, cluster) = (&self.config.log, &self.config.cluster);
        log.engine == Engine::Cluster
            && !cluster.requires_tls()
            && !cluster.servers.iter().all(|server| is_loopback_address(server))
    }
}

/// `question`, if `is_asked`.
fn ask(is_asked: bool, question: &str) -> Option<String> {
    is_asked.then(|| question.to_owned())
}

/// The text of [`Item::asked`] for items that neither the configuration nor this machine shows.
const UNSEEN: &str = "never: it cannot see this";
const NO_RATE: &str = "a rate of 0 has no bound. Intended? Otherwise set one.";
/// A network of IPv4 with a shorter prefix has more addresses than one usually has proxies.
const PREFIX_MIN_V4: u8 = 24;
/// The same for IPv6.
const PREFIX_MIN_V6: u8 = 64;
/// The bits of the users that are not the owner.
const OTHERS: u32 = 0o077;
const HEAD_TIMEOUT_MAX: Duration = Duration::from_secs(30);
const WRITE_TIMEOUT_MAX: Duration = Duration::from_mins(5);
const UNSENT_BYTES_MAX: Size = Size::mib(1024);
const EVENT_BYTES_MAX: Size = Size::mib(1);

/// The checklist, in the order of docs/security.md.
#[rustfmt::skip]
pub const ITEMS: &[Item] = &[
    Item {
        advice: "Listen only where clients come from: loopback if a proxy is on the same machine.",
        keys: &["server.host"],
        asked: "it is `0.0.0.0` or `::`",
        question: |facts| ask(facts.config.server.host.is_unspecified(),
            "every network of this machine can connect. Do clients come from all of them? Otherwise name the address of one."),
    },
    Item {
        advice: "Say what callers without a token may do: `none`, or `subscribe` for public topics. `all` lets everybody publish.",
        keys: &["auth.anonymous"],
        asked: "it is `all` or `subscribe`, or it is `loopback` behind a proxy on this machine",
        question: anonymous,
    },
    Item {
        advice: "Give each service a key or a certificate of its own, with the fewest rights.",
        keys: &["auth.keys", "auth.api_keys", "auth.certificates"],
        asked: "a key or a certificate may publish to every topic, or manage every topic",
        question: widest_key,
    },
    Item {
        advice: "Keep tokens out of addresses, which servers and proxies log: a page can take a ticket.",
        keys: &["auth.query_token"],
        asked: "it is `true`",
        question: |facts| ask(facts.config.auth.query_token,
            "tokens in addresses end up in logs. Does a client need that, and do the logs stay private? Otherwise \
            set false."),
    },
    Item {
        advice: "Encrypt, here or in a proxy.",
        keys: &["server.tls_cert", "server.tls_key"],
        asked: "other machines can connect, and it is not set",
        question: |facts| ask(!facts.is_loopback() && facts.config.server.tls_cert.is_none(),
            "tokens and events cross the network unencrypted. Does a proxy encrypt, on a network \
            that is yours alone? Otherwise set both."),
    },
    Item {
        advice: "Encrypt the connections to NATS, which carry every event.",
        keys: &["cluster.servers", "cluster.tls_ca"],
        asked: "`log.engine` is `cluster`, a server of NATS is on another machine, and nothing asks for TLS",
        question: |facts| ask(facts.has_plain_nats(),
            "events cross the network unencrypted. Is it yours alone? Otherwise write tls:// or set the second one."),
    },
    Item {
        advice: "Name your proxies, and no other address: the addresses that you name may say who the client is.",
        keys: &["server.trusted_proxies"],
        asked: "a network in it is larger than a /24, or a /64 of IPv6; or a server on loopback has `server.hosts`, but no proxy",
        question: proxies,
    },
    Item {
        advice: "Let nobody go around your proxy: its clients must not reach the broker's port.",
        keys: &["server.host", "server.trusted_proxies"],
        asked: "there is a proxy, and other machines can connect",
        question: |facts| ask(!facts.is_loopback() && !facts.config.server.trusted_proxies.is_empty(),
            "other machines than the proxies can connect as well. Does a firewall stop them? Otherwise listen where only the \
            proxies connect."),
    },
    Item {
        advice: "Behind a proxy, let it pass `Host` on.",
        keys: &["server.hosts"],
        asked: UNSEEN,
        question: |_| None,
    },
    Item {
        advice: "List the names under which clients reach the broker, and no others.",
        keys: &["server.hosts"],
        asked: "it is empty",
        question: |facts| ask(facts.is_exposed() && facts.config.server.hosts.is_empty(),
            "the broker answers to IP addresses and localhost only. Do clients use no name? Otherwise list it."),
    },
    Item {
        advice: "List the exact origins of your own pages. `\"*\"` lets every page of every site read and publish.",
        keys: &["cors.origins"],
        asked: "it is `\"*\"`",
        question: |facts| ask(facts.config.cors.origins == Origins::Any,
            "every page of every site may read and publish with a visitor's browser. Intended? Otherwise list your origins."),
    },
    Item {
        advice: "Turn GET publishing off, unless a page or a script needs it: an address with content ends up in logs.",
        keys: &["publish.allow_get"],
        asked: "it is `true`",
        question: |facts| ask(facts.is_exposed() && facts.config.publish.allow_get,
            "content in addresses ends up in logs. Does a page or a script need it? Otherwise set false."),
    },
    Item {
        advice: "Bound what one event may weigh.",
        keys: &["publish.event_bytes_max"],
        asked: "it is more than the default",
        question: |facts| ask(facts.is_exposed() && facts.config.publish.event_bytes_max > EVENT_BYTES_MAX,
            "each subscriber gets events as large as this. Does a topic need them? Otherwise set less."),
    },
    Item {
        advice: "Bound how often one address may publish and subscribe. The default is no bound.",
        keys: &["limits.publishes_per_second_per_ip", "limits.subscribes_per_second_per_ip"],
        asked: "one of them is 0",
        question: |facts| {
            let limits = &facts.config.limits;
            let least = limits.publishes_per_second_per_ip.min(limits.subscribes_per_second_per_ip);
            ask(facts.is_exposed() && least == 0, NO_RATE)
        },
    },
    Item {
        advice: "Bound how often one key and subject may publish. The default is no bound.",
        keys: &["limits.publishes_per_second_per_key"],
        asked: "it is 0",
        question: |facts| ask(facts.is_exposed() && facts.config.limits.publishes_per_second_per_key == 0,
            "a key and subject may publish as often as it likes. Intended? Otherwise set a rate."),
    },
    Item {
        advice: "Bound how often one topic may be published to. The default is no bound.",
        keys: &["limits.publishes_per_second_per_topic"],
        asked: "it is 0",
        question: |facts| ask(facts.is_exposed() && facts.config.limits.publishes_per_second_per_topic == 0,
            "a topic may be published to without bound. Intended? Otherwise set a rate."),
    },
    Item {
        advice: "Bound how often the credentials of one address may fail: each failure costs the check of a signature.",
        keys: &["limits.failed_authentications_per_second_per_ip"],
        asked: "it is 0",
        question: |facts| ask(facts.is_exposed() && facts.config.limits.failed_authentications_per_second_per_ip == 0,
            "one address may have signatures checked without bound. Intended? Otherwise set a rate."),
    },
    Item {
        advice: "Bound the streams, of all and of one address. Behind a proxy that is not named, one address has all clients.",
        keys: &["limits.connections_max", "limits.connections_per_ip_max"],
        asked: "one address may have all of them",
        question: |facts| {
            let limits = &facts.config.limits;
            ask(facts.is_exposed() && limits.connections_per_ip_max >= limits.connections_max,
                "one address may take all places of subscribers. Intended? Otherwise set the second one lower.")
        },
    },
    Item {
        advice: "Bound the connections that have not subscribed.",
        keys: &["limits.pending_connections_max", "limits.pending_connections_per_ip_max"],
        asked: "one address may have all of them",
        question: |facts| {
            let limits = &facts.config.limits;
            ask(facts.is_exposed() && limits.pending_connections_per_ip_max >= limits.pending_connections_max,
                "one address may take all connections. Intended? Otherwise set the second one lower.")
        },
    },
    Item {
        advice: "Bound the topics, of all and of one address.",
        keys: &["limits.topics_max", "limits.topics_per_ip_max"],
        asked: "one address may start all of them",
        question: |facts| {
            let limits = &facts.config.limits;
            let is_bounded = (1..limits.topics_max).contains(&limits.topics_per_ip_max);
            ask(facts.is_exposed() && !is_bounded, "one address may start all live topics. Intended? Otherwise set the second one lower, and not to 0.")
        },
    },
    Item {
        advice: "Bound the memory of requests in progress.",
        keys: &["limits.request_bytes_in_flight_max", "limits.request_bytes_in_flight_per_ip_max"],
        asked: "one address may use all of it",
        question: |facts| {
            let limits = &facts.config.limits;
            ask(facts.is_exposed() && limits.request_bytes_in_flight_per_ip_max >= limits.request_bytes_in_flight_max,
                "the requests of one address may use all of it, and others are refused. Intended? Otherwise \
                set the second one lower.")
        },
    },
    Item {
        advice: "Bound how long a head may take, against clients that send byte by byte.",
        keys: &["server.head_timeout"],
        asked: "it is more than 30s",
        question: |facts| ask(facts.is_exposed() && facts.config.server.head_timeout > HEAD_TIMEOUT_MAX,
            "a client that sends byte by byte keeps its connection so long. Does a client need it? Otherwise set less."),
    },
    Item {
        advice: "Cut subscribers that read nothing.",
        keys: &["stream.write_timeout", "stream.unsent_bytes_max"],
        asked: "it is more than 5m, or 1GiB",
        question: |facts| {
            let stream = &facts.config.stream;
            let is_long = stream.write_timeout > WRITE_TIMEOUT_MAX || stream.unsent_bytes_max > UNSENT_BYTES_MAX;
            ask(facts.is_exposed() && is_long, "subscribers that read nothing keep memory so long, or so much. Needed? Otherwise \
                set less.")
        },
    },
    Item {
        advice: "Bound the history, so that publishers cannot fill the disk.",
        keys: &["log.bytes_max", "log.topic_bytes_max", "log.age_max"],
        asked: "one topic may have all of it, or `log.age_max` is 0",
        question: |facts| {
            let log = &facts.config.log;
            let is_open = log.topic_bytes_max >= log.bytes_max || log.age_max.is_zero();
            ask(facts.is_exposed() && is_open, "one topic may push out the history of all others, or events never expire. \
                Intended? Otherwise set the second one lower, and a time for the third.")
        },
    },
    Item {
        advice: "Keep the directory of the log readable for the broker's user only.",
        keys: &["log.path"],
        asked: "other users may read it, or it does not exist yet",
        question: log_directory,
    },
    Item {
        advice: "Allow as many open files as the limits on connections add up to; the start warns if there are fewer.",
        keys: &["limits.connections_max", "limits.pending_connections_max"],
        asked: "the system allows fewer",
        question: |facts| {
            let Machine { open_files, open_files_needed: needed, .. } = facts.machine;
            (facts.is_exposed() && open_files < needed).then(|| format!(
                "the system allows {open_files} open files here, and these may need {needed}. Will ulimit -n be higher? Otherwise raise \
                it."))
        },
    },
];

fn anonymous(facts: &Facts<'_>) -> Option<String> {
    let question = match facts.config.auth.anonymous {
        Anonymous::All => {
            "everybody who reaches the server may publish and subscribe. Intended? Otherwise set \"subscribe\" or \"none\"."
        }
        Anonymous::Subscribe => {
            "everybody who reaches the server may read every topic. Intended? Otherwise set \"none\"."
        }
        Anonymous::Loopback if facts.is_loopback() && facts.is_exposed() => {
            "a proxy that adds no header makes all its clients local, and they may do everything. Set \"none\"?"
        }
        Anonymous::Loopback | Anonymous::None => return None,
    };
    Some(question.to_owned())
}

/// Asks about the first key or certificate that may publish to every topic, or manage every topic.
fn widest_key(facts: &Facts<'_>) -> Option<String> {
    let auth = &facts.config.auth;
    if !facts.is_exposed() {
        return None;
    }
    let is_wide = |publish: &[String], manage: &[String]| publish.iter().chain(manage).any(|pattern| pattern == "**");
    let key = auth.api_keys.iter().find(|key| is_wide(&key.publish, &key.manage)).map(|key| &key.name);
    let certificate = auth.certificates.iter().find(|row| is_wide(&row.publish, &row.manage)).map(|row| &row.subject);
    let name = key.or(certificate)?;
    Some(format!(
        "{name:?} may publish to every topic, or manage every topic. Does it need that? Otherwise name its topics."
    ))
}

fn proxies(facts: &Facts<'_>) -> Option<String> {
    let server = &facts.config.server;
    let is_large = |network: &&IpNet| match network {
        IpNet::V4(network) => network.prefix_len() < PREFIX_MIN_V4,
        IpNet::V6(network) => network.prefix_len() < PREFIX_MIN_V6,
    };
    if let Some(network) = server.trusted_proxies.iter().find(is_large) {
        return Some(format!(
            "every address in {network} may say who the client is. Is each of them a proxy of yours? Otherwise name only these."
        ));
    }
    ask(
        facts.is_loopback() && !server.hosts.is_empty() && server.trusted_proxies.is_empty(),
        "if a proxy is in front, all its clients share the limits of its address. Name it?",
    )
}

fn log_directory(facts: &Facts<'_>) -> Option<String> {
    if !facts.is_exposed() || facts.config.log.engine != Engine::Disk {
        return None;
    }
    match facts.machine.log_mode {
        None => Some("it does not exist yet. Create it for the broker's user only (mode 700).".to_owned()),
        Some(mode) if mode & OTHERS != 0 => {
            Some(format!("other users of this machine may reach it (mode {:o}). Set mode 700?", mode & 0o777))
        }
        Some(_) => None,
    }
}
