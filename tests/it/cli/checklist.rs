//! What `--check` asks about, item by item.

use std::{collections::BTreeSet, fs, os::unix::fs::PermissionsExt as _};

use tidings::config::checklist::ITEMS;
use tokio::process::Command;

use super::run;
use crate::{
    harness::{blocking::Directory, process::program},
    tls::client::Files,
};

const KEY: &str = r#"[{ id = "k", algorithm = "HS256", secret = "a secret of thirty-two bytes...." }]"#;
const FOLLOWS: &str = "it follows the checklist of docs/security.md";

type Settings<'a> = Vec<(&'a str, String)>;

/// A configuration that other machines can reach, and that follows every item.
fn hardened(files: &Files, log: &Directory) -> Settings<'static> {
    fs::set_permissions(&log.0, fs::Permissions::from_mode(0o700)).expect("its mode is set");
    let [cert, key] = files.settings();
    let mut settings: Settings<'_> = vec![cert, key, ("TIDINGS__LOG__PATH", log.0.to_string_lossy().into_owned())];
    let fixed = [
        ("TIDINGS__SERVER__HOST", "192.0.2.7"),
        ("TIDINGS__SERVER__HOSTS", "push.example.com"),
        ("TIDINGS__AUTH__ANONYMOUS", "none"),
        ("TIDINGS__AUTH__KEYS", KEY),
        ("TIDINGS__PUBLISH__ALLOW_GET", "false"),
        ("TIDINGS__LIMITS__PUBLISHES_PER_SECOND_PER_IP", "100"),
        ("TIDINGS__LIMITS__PUBLISHES_PER_SECOND_PER_KEY", "100"),
        ("TIDINGS__LIMITS__PUBLISHES_PER_SECOND_PER_TOPIC", "100"),
        ("TIDINGS__LIMITS__SUBSCRIBES_PER_SECOND_PER_IP", "100"),
        ("TIDINGS__LIMITS__CONNECTIONS_MAX", "100"),
        ("TIDINGS__LIMITS__CONNECTIONS_PER_IP_MAX", "99"),
        ("TIDINGS__LIMITS__PENDING_CONNECTIONS_MAX", "100"),
        ("TIDINGS__LIMITS__PENDING_CONNECTIONS_PER_IP_MAX", "99"),
    ];
    settings.extend(fixed.map(|(name, value)| (name, value.to_owned())));
    settings
}

/// What `--check` prints with these settings.
async fn check(settings: &[(&str, String)]) -> Vec<String> {
    let environment = settings.iter().map(|(name, value)| (*name, value.as_str()));
    let (code, out, error) = run(program().arg("--check").envs(environment)).await;
    assert_eq!((code, error.as_str()), (0, ""), "{out}");
    let mut lines = out.lines().map(str::to_owned);
    assert_eq!(lines.next().as_deref(), Some("the configuration is valid"));
    lines.collect()
}

/// For each item that can be seen: its first key, a setting that it asks about, and what the question says.
#[rustfmt::skip]
const CASES: &[(&str, &str, &str, &str)] = &[
    ("server.host", "TIDINGS__SERVER__HOST", "0.0.0.0", "\"0.0.0.0\": every network of this machine can connect"),
    ("server.host", "TIDINGS__SERVER__HOST", "::", "\"::\": every network"),
    ("auth.anonymous", "TIDINGS__AUTH__ANONYMOUS", "all", "\"all\": everybody who reaches the server may publish"),
    ("auth.anonymous", "TIDINGS__AUTH__ANONYMOUS", "subscribe", "\"subscribe\": everybody who reaches the server may read"),
    ("auth.keys", "TIDINGS__AUTH__API_KEYS",
        "[{ name = \"wide\", sha256 = \"0000000000000000000000000000000000000000000000000000000000000000\", publish = [\"**\"] }]",
        "\"wide\" may publish to every topic"),
    ("auth.query_token", "TIDINGS__AUTH__QUERY_TOKEN", "true", "true: tokens in addresses end up in logs"),
    ("server.tls_cert", "TIDINGS__SERVER__TLS_CERT", "", "tokens and events cross the network unencrypted"),
    ("cluster.servers", "TIDINGS__CLUSTER__SERVERS", "nats://127.0.0.1,nats://10.0.0.1", "events cross the network unencrypted"),
    ("server.trusted_proxies", "TIDINGS__SERVER__TRUSTED_PROXIES", "10.0.0.0/23", "every address in 10.0.0.0/23 may say"),
    ("server.trusted_proxies", "TIDINGS__SERVER__TRUSTED_PROXIES", "fd00::/63", "every address in fd00::/63 may say"),
    ("server.host", "TIDINGS__SERVER__TRUSTED_PROXIES", "10.0.0.0/24", "other machines than the proxies can connect"),
    ("server.host", "TIDINGS__SERVER__TRUSTED_PROXIES", "fd00::/64", "other machines than the proxies can connect"),
    ("server.host", "TIDINGS__SERVER__TRUSTED_PROXIES", "10.0.0.7", "other machines than the proxies can connect"),
    ("server.hosts", "TIDINGS__SERVER__HOSTS", "", "answers to IP addresses and localhost only"),
    ("cors.origins", "TIDINGS__CORS__ORIGINS", "*", "every page of every site may read and publish"),
    ("publish.allow_get", "TIDINGS__PUBLISH__ALLOW_GET", "true", "content in addresses ends up in logs"),
    ("publish.event_bytes_max", "TIDINGS__PUBLISH__EVENT_BYTES_MAX", "1048577B", "each subscriber gets events as large"),
    ("limits.publishes_per_second_per_ip", "TIDINGS__LIMITS__PUBLISHES_PER_SECOND_PER_IP", "0", "a rate of 0 has no bound"),
    ("limits.publishes_per_second_per_ip", "TIDINGS__LIMITS__SUBSCRIBES_PER_SECOND_PER_IP", "0", "a rate of 0 has no bound"),
    ("limits.publishes_per_second_per_key", "TIDINGS__LIMITS__PUBLISHES_PER_SECOND_PER_KEY", "0", "as often as it likes"),
    ("limits.publishes_per_second_per_topic", "TIDINGS__LIMITS__PUBLISHES_PER_SECOND_PER_TOPIC", "0", "without bound"),
    ("limits.failed_authentications_per_second_per_ip", "TIDINGS__LIMITS__FAILED_AUTHENTICATIONS_PER_SECOND_PER_IP", "0",
        "may have signatures checked without bound"),
    ("limits.connections_max", "TIDINGS__LIMITS__CONNECTIONS_PER_IP_MAX", "100", "may take all places of subscribers"),
    ("limits.pending_connections_max", "TIDINGS__LIMITS__PENDING_CONNECTIONS_PER_IP_MAX", "100", "may take all connections"),
    ("limits.topics_max", "TIDINGS__LIMITS__TOPICS_PER_IP_MAX", "0", "may start all live topics"),
    ("limits.topics_max", "TIDINGS__LIMITS__TOPICS_PER_IP_MAX", "200000", "may start all live topics"),
    ("limits.request_bytes_in_flight_max", "TIDINGS__LIMITS__REQUEST_BYTES_IN_FLIGHT_PER_IP_MAX", "256MiB", "may use all of it"),
    ("server.head_timeout", "TIDINGS__SERVER__HEAD_TIMEOUT", "31s", "sends byte by byte keeps its connection"),
    ("stream.write_timeout", "TIDINGS__STREAM__WRITE_TIMEOUT", "301s", "that read nothing keep memory"),
    ("stream.write_timeout", "TIDINGS__STREAM__UNSENT_BYTES_MAX", "1025MiB", "that read nothing keep memory"),
    ("log.bytes_max", "TIDINGS__LOG__BYTES_MAX", "16MiB", "one topic may push out the history"),
    ("log.bytes_max", "TIDINGS__LOG__AGE_MAX", "0s", "events never expire"),
    ("log.path", "TIDINGS__LOG__PATH", "no-such-directory", "it does not exist yet"),
];

/// Values at the bound of a question: nothing is asked.
#[rustfmt::skip]
const FINE: &[(&str, &str)] = &[
    ("TIDINGS__AUTH__ANONYMOUS", "loopback"),
    ("TIDINGS__PUBLISH__EVENT_BYTES_MAX", "1MiB"),
    ("TIDINGS__LIMITS__PUBLISHES_PER_SECOND_PER_IP", "1"),
    ("TIDINGS__LIMITS__FAILED_AUTHENTICATIONS_PER_SECOND_PER_IP", "1"),
    ("TIDINGS__LIMITS__TOPICS_PER_IP_MAX", "199999"),
    ("TIDINGS__SERVER__HEAD_TIMEOUT", "30s"),
    ("TIDINGS__STREAM__WRITE_TIMEOUT", "5m"),
    ("TIDINGS__STREAM__UNSENT_BYTES_MAX", "1GiB"),
    ("TIDINGS__CORS__ORIGINS", "https://app.example.com"),
    ("TIDINGS__LOG__BYTES_MAX", "17MiB"),
];

/// `settings` with another value for `name`.
fn with<'a>(settings: &Settings<'a>, name: &'a str, value: &str) -> Settings<'a> {
    let others = settings.iter().filter(|(other, _)| *other != name).cloned();
    others.chain([(name, value.to_owned())]).collect()
}

/// Goal: each item is asked about by a configuration that does not follow it, alone and with the key, and not by one
/// that does; the exit code is 0.
#[tokio::test]
async fn each_item_is_asked_about_when_it_is_not_followed() {
    let (files, log) = (Files::new(), Directory::new());
    let follows = hardened(&files, &log);
    let said = check(&follows).await;
    assert_eq!(said[0], FOLLOWS, "the control: {said:?}");
    assert!(said[1..].iter().all(|line| line.starts_with("what --check cannot see: ")) && said.len() > 1, "{said:?}");
    for (key, name, value, expected) in CASES {
        let mut settings = with(&follows, name, value);
        if *key == "server.tls_cert" {
            settings = with(&settings, "TIDINGS__SERVER__TLS_KEY", "");
        }
        if *key == "cluster.servers" {
            settings = with(&settings, "TIDINGS__LOG__ENGINE", "cluster");
        }
        let said = check(&settings).await;
        let questions: Vec<&String> = said.iter().filter(|line| line.starts_with("  ")).collect();
        let asked = questions.iter().find(|line| line.contains(expected));
        let asked = asked.unwrap_or_else(|| panic!("{name}={value}: {said:?}"));
        assert!(asked.starts_with(&format!("  {key}")), "{asked}");
        // On a server that is not on loopback, any proxy is asked about.
        let more = usize::from(*key == "server.trusted_proxies");
        assert_eq!(questions.len(), 1 + more, "{name}={value}: {said:?}");
        assert!(!said.contains(&FOLLOWS.to_owned()), "{said:?}");
        assert!(!said.concat().contains("a secret"), "{said:?}");
    }
    for (name, value) in FINE {
        assert_eq!(check(&with(&follows, name, value)).await[0], FOLLOWS, "{name}={value}");
    }
    let tried: BTreeSet<&str> = CASES.iter().map(|(key, ..)| *key).collect();
    for item in ITEMS.iter().filter(|item| !item.asked.starts_with("never")) {
        assert!(tried.contains(item.keys[0]), "{:?} has a case", item.keys);
    }
}

/// Goal: a directory that other users may reach is asked about, one of the broker's user is not.
#[tokio::test]
async fn the_mode_of_the_directory_is_looked_at() {
    let (files, log) = (Files::new(), Directory::new());
    let settings = hardened(&files, &log);
    for (mode, is_asked) in [(0o755, true), (0o750, true), (0o701, true), (0o700, false), (0o500, false)] {
        fs::set_permissions(&log.0, fs::Permissions::from_mode(mode)).expect("its mode is set");
        let said = check(&settings).await;
        assert_eq!(said.iter().any(|line| line.contains(&format!("(mode {mode:o})"))), is_asked, "{mode:o}: {said:?}");
    }
    fs::set_permissions(&log.0, fs::Permissions::from_mode(0o755)).expect("its mode is set");
    let said = check(&with(&settings, "TIDINGS__LOG__ENGINE", "memory")).await;
    assert_eq!(said[0], FOLLOWS, "there is no directory in use");
}

/// Goal: as many open files as the limits on connections may need are enough, one fewer is asked about.
#[tokio::test]
async fn the_limit_of_open_files_is_looked_at() {
    let (files, log) = (Files::new(), Directory::new());
    let settings = hardened(&files, &log);
    // 100 subscribers, 100 other connections, and 200 for everything else.
    for (limit, is_asked) in [(399, true), (400, false)] {
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("ulimit -n {limit}; exec \"$0\" --check"), env!("CARGO_BIN_EXE_tidings")]);
        shell.current_dir(env!("CARGO_TARGET_TMPDIR")).envs(settings.iter().map(|(name, value)| (*name, value)));
        let (code, out, error) = run(&mut shell).await;
        assert_eq!((code, error.as_str()), (0, ""), "{out}");
        let question = format!("the system allows {limit} open files here, and these may need 400");
        assert_eq!((out.contains(&question), out.contains(FOLLOWS)), (is_asked, !is_asked), "{out}");
    }
}

/// Goal: the defaults on loopback ask nothing; what harms a server on loopback, too, is asked about; and behind a proxy
/// on the same machine the checklist counts.
#[tokio::test]
async fn on_loopback_little_is_asked() {
    let nothing = "only this machine can connect, so the checklist of docs/security.md asks nothing";
    assert_eq!(check(&[]).await, [nothing]);
    let origins = ("TIDINGS__CORS__ORIGINS", "*".to_owned());
    let said = check(std::slice::from_ref(&origins)).await;
    assert_eq!(said.len(), 2, "{said:?}");
    assert!(said[1].starts_with("  cors.origins = [\"*\"]: every page"), "{said:?}");
    let hosts = ("TIDINGS__SERVER__HOSTS", "push.example.com".to_owned());
    let said = check(std::slice::from_ref(&hosts)).await.join("\n");
    for expected in [
        "auth.anonymous = \"loopback\": a proxy that adds no header makes all its clients local",
        "server.trusted_proxies = []: if a proxy is in front",
        "limits.publishes_per_second_per_ip = 0",
        "what --check cannot see: Behind a proxy, let it pass `Host` on",
    ] {
        assert!(said.contains(expected), "{expected}: {said}");
    }
    assert!(!said.contains("unencrypted") && !said.contains("other machines than"), "{said}");
}
