//! What the configuration promises, checked key by key against the table of settings.

use std::collections::BTreeSet;
use std::time::Duration;

use super::sources::parse;
use super::*;

mod lists;
mod values;

const SHIPPED: &str = include_str!("../../config.toml");

fn variables(environment: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
    environment.iter().map(|(name, text)| (name.into(), text.into())).collect()
}

/// Loads from a file's text, an environment and `--listen`.
fn load(text: &str, environment: &[(&str, &str)], listen: Option<&str>) -> Result<Config, ConfigError> {
    let mut values = parse(FILE.to_owned(), text)?;
    values.extend(sources::environment(variables(environment).into_iter())?);
    values.extend(listen.map(sources::listen).unwrap_or_default());
    Config::from_values(&values)
}

fn complaint(text: &str, environment: &[(&str, &str)]) -> String {
    load(text, environment, None).unwrap_err().to_string()
}

fn setting(key: &str) -> &'static Setting {
    Setting::find(key).unwrap()
}

#[test]
fn the_shipped_file_is_the_defaults() {
    assert_eq!(load(SHIPPED, &[], None).unwrap(), Config::default());
    assert_eq!(load("", &[], None).unwrap(), Config::default());
}

#[test]
fn every_key_says_in_one_line_what_it_is_for() {
    for setting in SETTINGS {
        let (key, about) = (setting.key, setting.about());
        assert!(about.starts_with(|c: char| c.is_ascii_uppercase()) && about.ends_with('.'), "{key}: {about}");
        // A comment of the file, and a cell of a table, must hold it.
        assert!(!about.contains(['\n', '|', '{', '}']) && about.len() <= 118, "{key}: {about}");
    }
    let keys: BTreeSet<&str> = SETTINGS.iter().map(|setting| setting.key).collect();
    assert_eq!(keys.len(), SETTINGS.len(), "each key has one row");
}

#[test]
fn the_rules_between_keys_are_what_the_keys_say() {
    let mut config = Config::default();
    config.log.topic_bytes_max = Size::new(1);
    config.log.bytes_max = Size::new(0);
    config.log.queue_bytes_max = Size::new(0);
    config.limits.request_bytes_in_flight_per_ip_max = Size::new(1);
    config.limits.request_bytes_in_flight_max = Size::new(0);
    let broken = config.contradictions(&Values::new());
    let told = SETTINGS.iter().filter(|setting| setting.about().contains("; at least ")).count();
    assert_eq!(broken.len(), told);
    for problem in broken {
        let ConfigProblem::Invalid { key, allowed, .. } = problem else { panic!("{problem}") };
        let (_, rule) = allowed.trim_end_matches(')').split_once(" (").unwrap();
        assert!(setting(&key).about().ends_with(&format!("; at least {rule}.")), "{key}: at least {rule}");
    }
}

#[test]
fn durations_are_written_in_the_largest_unit_that_divides_them() {
    for text in ["0s", "1ms", "1500ms", "75s", "1m", "90m", "24h", "10y"] {
        let mut config = Config::default();
        config.log.age_max = humantime::parse_duration(text).unwrap();
        assert_eq!(setting("log.age_max").value(&config), format!("\"{text}\""));
    }
}

#[test]
fn unknown_keys_are_named_with_the_nearest_known_one() {
    let cases = [
        ("[log]\nagemax = \"1h\"", "log.agemax; did you mean log.age_max?"),
        ("[logs]\nage_max = \"1h\"", "logs.age_max; did you mean log.age_max?"),
        ("[stream]\nage_max = \"1h\"", "stream.age_max; did you mean log.age_max?"),
        ("[server]\nprot = 1", "server.prot; did you mean server.port?"),
        ("port = 1", "port; did you mean server.port?"),
        ("[server]\ntls = true", "server.tls"),
        ("[database]\nurl = \"x\"", "database.url"),
        ("\"log.age_max\" = \"1h\"", "\"log.age_max\"; did you mean log.age_max?"),
        ("[extra]", "extra"),
        ("\"log[99999999999]\" = 1", "log[99999999999]"),
    ];
    for (text, said) in cases {
        let complaint = complaint(text, &[]);
        assert_eq!(complaint, format!("config.toml: unknown key {said}"));
    }
}

#[test]
fn unknown_variables_of_ours_are_named_and_others_ignored() {
    let cases = [
        ("TIDINGS__LOG__AGEMAX", "; did you mean TIDINGS__LOG__AGE_MAX?"),
        ("TIDINGS__LOG_AGE_MAX", "; did you mean TIDINGS__LOG__AGE_MAX?"),
        ("TIDINGS__log__age_max", "; did you mean TIDINGS__LOG__AGE_MAX?"),
        ("TIDINGS__PORT", "; did you mean TIDINGS__SERVER__PORT?"),
        ("TIDINGS__COLOUR__SCHEME", ""),
        ("TIDINGS__LOG[0]", ""),
        ("TIDINGS__", ""),
    ];
    for (name, hint) in cases {
        let said = complaint("", &[(name, "1h")]);
        assert_eq!(said, format!("environment: unknown key {name}{hint}"));
    }
    let others = [("TIDINGS_LOG", "x"), ("HOME", "/"), ("tidings__log__age_max", "x")];
    assert_eq!(load("", &others, None).unwrap(), Config::default());
}

#[test]
fn all_problems_are_told_together() {
    let text = "[log]\nengine = \"redis\"\n[server]\nport = -1\nbanner = true";
    let said = complaint(text, &[("TIDINGS__SHUTDOWN__DRAIN", "soon")]);
    let starts: Vec<String> = said.lines().map(|line| line.chars().take(30).collect()).collect();
    assert_eq!(
        starts,
        [
            "config.toml: unknown key serve",
            "config.toml: server.port = -1;",
            "config.toml: log.engine = \"red",
            "environment variable TIDINGS__",
        ]
    );
}

#[test]
fn flags_beat_the_environment_which_beats_the_file_which_beats_the_defaults() {
    let file = "[server]\nport = 1\nworkers = 1\n[log]\nage_max = \"1h\"";
    let environment = [("TIDINGS__SERVER__PORT", "2"), ("TIDINGS__SERVER__WORKERS", "2")];
    let config = load(file, &environment, Some("0.0.0.0:3")).unwrap();
    assert_eq!(config.server.address().to_string(), "0.0.0.0:3");
    assert_eq!(config.server.workers, 2);
    assert_eq!(config.log.age_max, Duration::from_hours(1));
    assert_eq!(config.stream, StreamConfig::default());
    // An overridden mistake does no harm.
    assert!(load("[server]\nport = -1", &environment, None).is_ok());
}

#[test]
fn the_platforms_port_beats_the_file_and_yields_to_ours() {
    let port = |environment: &[(&str, &str)]| load("[server]\nport = 1", environment, None).unwrap().server.port;
    assert_eq!(port(&[("PORT", "2")]), 2);
    assert_eq!(port(&[("PORT", "0")]), 0);
    assert_eq!(port(&[("PORT", "")]), 1);
    assert_eq!(port(&[("TIDINGS__SERVER__PORT", "3"), ("PORT", "2")]), 3);
    assert_eq!(
        complaint("", &[("PORT", "tcp://10.0.0.1:80")]),
        "environment variable PORT: server.port = \"tcp://10.0.0.1:80\"; \
         allowed: a whole number from 0 to 65535"
    );
}

#[test]
fn listen_is_a_host_with_or_without_a_port() {
    let cases = [
        ("0.0.0.0:9000", "0.0.0.0:9000"),
        ("localhost:0", "127.0.0.1:0"),
        ("10.1.2.3", "10.1.2.3:8080"),
        ("[::1]:9000", "[::1]:9000"),
        ("[::]", "[::]:8080"),
        ("::1", "[::1]:8080"),
    ];
    for (listen, address) in cases {
        let config = load("", &[], Some(listen)).unwrap();
        assert_eq!(config.server.address().to_string(), address);
    }
    for bad in ["", ":9000", "9000", "example.com:80", "127.0.0.1:", "127.0.0.1:http", "::1:x"] {
        let said = load("", &[], Some(bad)).unwrap_err().to_string();
        assert!(said.starts_with("flag --listen: server."), "{said}");
    }
}

#[test]
fn a_named_file_must_exist_and_be_toml_and_the_usual_one_need_not() {
    let load = |path: &str| Config::load_with(Some(Path::new(path)), std::iter::empty(), None);
    assert_eq!(load("config.toml").unwrap(), Config::default());
    assert!(load("absent.toml").unwrap_err().to_string().starts_with("absent.toml: "));
    assert!(load("src").unwrap_err().to_string().starts_with("src: "));
    assert!(load("src/lib.rs").unwrap_err().to_string().starts_with("src/lib.rs: TOML parse"));
    assert!(sources::file(Path::new("absent.toml"), false).unwrap().is_empty());
}

#[cfg(unix)]
#[test]
fn only_our_variables_must_be_utf8() {
    use std::os::unix::ffi::OsStringExt;

    let broken = || OsString::from_vec(vec![b'x', 0xff]);
    let read = |name: OsString, value: OsString| sources::environment([(name, value)].into_iter());
    assert!(read("OTHER".into(), broken()).unwrap().is_empty());
    assert!(read(broken(), "x".into()).unwrap().is_empty());
    assert_eq!(read("PORT".into(), "1".into()).unwrap()["server.port"].kind, setting("server.port").read("1"));
    for name in ["PORT", "TIDINGS__LOG__ENGINE"] {
        assert_eq!(
            read(name.into(), broken()).unwrap_err().to_string(),
            format!("environment variable {name}: its name and value must be UTF-8")
        );
    }
}
