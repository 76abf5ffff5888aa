//! What each key takes and refuses, at its bounds and beside them.

use super::*;

/// For each key: another value as the environment writes it, then values that are not allowed.
const SAMPLES: &[(&str, &str, &[&str])] = &[
    ("server.host", "::1", &["", "example.com", "127.0.0.1:80", "localhost "]),
    ("server.port", "0", &["", "-1", "65536", "http"]),
    ("server.workers", "256", &["-1", "257", "two", "1.5"]),
    ("server.keep_alive", "1h", &["", "0s", "999ms", "3601s", "75"]),
    ("server.head_timeout", "100ms", &["0s", "99ms", "601s", "10"]),
    ("server.hosts", "push.example.com, a-b", &["push.example.com:80", "http://a", "*", "a b", "é", "a..b"]),
    ("server.trusted_proxies", "10.0.0.0/8, ::1", &["10.0.0.0/33", "10.0.0.1/8", "proxy", "127.0.0.1:80", "*"]),
    ("server.tls_cert", "cert.pem", &[]),
    ("server.tls_key", "key.pem", &[]),
    ("server.tls_client_ca", "ca.pem", &[]),
    ("log.engine", "memory", &["", "redis", "Memory"]),
    ("log.path", "elsewhere", &[""]),
    ("log.durability", "os", &["", "memory", "OS"]),
    ("log.topic_events_max", "10000000", &["0", "10000001", "1e3"]),
    ("log.topic_bytes_max", "9MiB", &["0", "65535B", "1025GiB", "16777216", "16MB", "-1MiB"]),
    ("log.bytes_max", "1TiB", &["0", "65535B", "1025GiB", "1.5GiB", "99999999999TiB"]),
    ("log.events_max", "1000000000", &["0", "1000000001", "1e6"]),
    ("log.hot_bytes_max", "0B", &["1025GiB", "1"]),
    ("log.queue_bytes_max", "2MiB", &["0", "63KiB", "1025GiB"]),
    ("log.queue_wait", "0s", &["601s", "1"]),
    ("log.age_max", "10y", &["24", "999ms", "3653d", "tomorrow", "-1s"]),
    ("cluster.servers", "nats://10.0.0.1:4222, tls://b", &["", "http://a", "nats://u:p@a", "ws://a", "nats://"]),
    ("cluster.namespace", "other-1", &["", "a.b", "a b", "*", "é", "a23456789012345678901234567890123"]),
    ("cluster.replicas", "3", &["0", "6", "three"]),
    ("cluster.storage", "memory", &["", "disk", "File"]),
    ("cluster.credentials_file", "nats.creds", &[]),
    ("cluster.tls_ca", "ca.pem", &[]),
    ("cluster.tls_cert", "cert.pem", &[]),
    ("cluster.tls_key", "key.pem", &[]),
    ("cluster.ack_timeout", "20s", &["0s", "99ms", "21s", "5"]),
    ("cluster.watch_interval", "100ms", &["0s", "99ms", "6s", "5"]),
    ("stream.heartbeat", "100ms", &["0s", "99ms", "601s", "15"]),
    ("stream.retry", "10m", &["0", "99ms", "601s", "3"]),
    ("stream.lifetime_max", "1s", &["1ms", "11y", "never"]),
    ("stream.coalesce_max", "0s", &["", "999us", "1001ms", "2", "never"]),
    ("stream.write_timeout", "1h", &["0s", "99ms", "3601s"]),
    ("stream.unsent_bytes_max", "2MiB", &["0B", "1048575B", "1025GiB", "64"]),
    ("stream.gone", "0s", &["86401s", "60"]),
    ("publish.allow_get", "false", &["", "no", "0", "TRUE"]),
    ("publish.event_bytes_max", "1536KiB", &["0", "0B", "67108865B", "1024"]),
    ("publish.idempotency_window", "24h", &["0s", "999ms", "86401s"]),
    ("publish.idempotency_keys_max", "1", &["0", "10000001"]),
    ("publish.body_timeout", "10m", &["0s", "99ms", "601s"]),
    ("limits.connections_max", "1", &["0", "10000001", "99999999999999999999"]),
    ("limits.connections_per_ip_max", "1", &["0", "10000001"]),
    ("limits.subscribers_per_topic_max", "1", &["0", "10000001"]),
    ("limits.topics_max", "1", &["0", "10000001"]),
    ("limits.topics_per_ip_max", "0", &["-1", "10000001"]),
    ("limits.topics_per_request_max", "1024", &["0", "1025"]),
    ("limits.topic_bytes_max", "1KiB", &["0", "1025B", "255"]),
    ("limits.request_bytes_in_flight_max", "64MiB", &["0", "65535B", "1025GiB", "1024"]),
    ("limits.request_bytes_in_flight_per_ip_max", "256MiB", &["0", "65535B", "1025GiB", "1024"]),
    ("limits.pending_connections_max", "1", &["0", "10000001"]),
    ("limits.pending_connections_per_ip_max", "1", &["0", "10000001"]),
    ("limits.idempotency_keys_max", "1", &["0", "100000001"]),
    ("limits.publishes_per_second_per_ip", "1", &["-1", "10000001", "1/s"]),
    ("limits.publishes_per_second_per_key", "1", &["-1", "10000001"]),
    ("limits.publishes_per_second_per_topic", "1", &["-1", "10000001"]),
    ("limits.subscribes_per_second_per_ip", "1", &["-1", "10000001"]),
    ("limits.failed_authentications_per_second_per_ip", "1", &["-1", "10000001"]),
    ("auth.anonymous", "none", &["Loopback", "", "anyone"]),
    ("auth.query_token", "true", &["yes", "1", ""]),
    ("auth.cookie", "tidings-token", &["a b", "a;b", "a=b"]),
    ("auth.ticket_ttl", "10m", &["", "0s", "999ms", "601s", "30"]),
    ("auth.tickets_max", "1", &["0", "10000001"]),
    ("auth.tickets_per_key_max", "1", &["0", "10000001"]),
    ("auth.keys", "[{ id = \"k\", algorithm = \"EdDSA\", jwks_file = \"keys.json\" }]", &[]),
    (
        "auth.api_keys",
        "[{ name = \"k\", sha256 = \"00112233445566778899aabbccddeeff00112233445566778899AABBCCDDEEFF\" }]",
        &[],
    ),
    ("auth.certificates", "[{ subject = \"app\", publish = [\"**\"] }]", &[]),
    ("cors.origins", "https://a.example, http://localhost:3000", &["*,*", "null", "a.example"]),
    ("shutdown.drain", "0s", &["601s", "10"]),
];

fn apply(key: &str, config: &mut Config, kind: ::config::ValueKind) -> Result<(), String> {
    setting(key).apply(config, &Value::new(None, kind))
}

#[test]
fn every_key_has_samples() {
    let sampled: Vec<&str> = SAMPLES.iter().map(|(key, ..)| *key).collect();
    let known: Vec<&str> = SETTINGS.iter().map(|setting| setting.key).collect();
    assert_eq!(sampled, known);
}

#[test]
fn every_key_is_set_by_its_variable_and_changes_only_its_field() {
    for (key, other, _) in SAMPLES {
        let needed: &[&str] = match *key {
            "server.tls_cert" => &["server.tls_key"],
            "server.tls_key" => &["server.tls_cert"],
            "cluster.tls_cert" => &["cluster.tls_key"],
            "cluster.tls_key" => &["cluster.tls_cert"],
            "auth.certificates" => &["server.tls_client_ca", "server.tls_cert", "server.tls_key"],
            "server.tls_client_ca" => &["server.tls_cert", "server.tls_key"],
            _ => &[],
        };
        let settings: Vec<_> = std::iter::once(key).chain(needed).map(|key| setting(key)).collect();
        let variables: Vec<String> = settings.iter().map(|setting| setting.variable()).collect();
        let variables: Vec<(&str, &str)> = variables.iter().map(|variable| (variable.as_str(), *other)).collect();
        let config = load(SHIPPED, &variables, None).unwrap();
        let mut expected = Config::default();
        for setting in settings {
            apply(setting.key, &mut expected, setting.read(other)).unwrap();
        }
        assert_eq!(config, expected, "{key}");
        assert_ne!(config, Config::default(), "{key}");
    }
}

#[test]
fn every_value_reads_back_as_it_is_written() {
    for (key, other, _) in SAMPLES.iter().filter(|(key, ..)| !setting(key).is_tables()) {
        let mut config = Config::default();
        apply(key, &mut config, setting(key).read(other)).unwrap();
        let text = format!("[{}]\n{} = {}", setting(key).section(), setting(key).name(), setting(key).value(&config));
        let values = parse(FILE.to_owned(), &text).unwrap();
        let mut read = Config::default();
        apply(key, &mut read, values[*key].kind.clone()).unwrap();
        assert_eq!(read, config, "{text}");
    }
}

#[test]
fn every_bad_value_names_its_variable_key_value_and_what_is_allowed() {
    for (key, _, bad) in SAMPLES {
        let setting = setting(key);
        let variable = setting.variable();
        for value in *bad {
            let said = complaint(SHIPPED, &[(variable.as_str(), *value)]);
            assert!(said.starts_with(&format!("environment variable {variable}: {key} = ")));
            assert!(said.ends_with(&format!("; allowed: {}", setting.allowed())), "{said}");
            let pieces: Vec<&str> = value.split(',').collect();
            assert!(pieces.iter().all(|piece| said.contains(piece)), "{said}");
        }
    }
}

#[test]
fn a_mistake_in_a_key_is_named_and_no_secret_is_shown() {
    let secret = "correct horse battery staple, and more";
    let with = |entry: &str| complaint(&format!("[[auth.keys]]\n{entry}"), &[]);
    let key = |rest: &str| with(&format!("id = \"k\"\nalgorithm = \"HS256\"\n{rest}"));
    let says = |said: String, expected: &str| {
        assert_eq!(said, format!("config.toml: auth.keys = …; allowed: {expected}"));
    };
    says(key(""), "in the key \"k\": one of secret, secret_file, public_key_file and jwks_file");
    says(
        key("secret = \"x\"\nsecret_file = \"x\""),
        "in the key \"k\": one of secret, secret_file, public_key_file and jwks_file",
    );
    says(key("public_key_file = \"x\""), "in the key \"k\": a secret, because the algorithm is HS256");
    says(
        with(&format!("id = \"k\"\nalgorithm = \"RS256\"\nsecret = \"{secret}\"")),
        "in the key \"k\": a public key, because the algorithm is RS256",
    );
    says(
        with(&format!("id = \"\"\nalgorithm = \"HS256\"\nsecret = \"{secret}\"")),
        "in the key \"\": an id of 1 to 128 printable ASCII characters",
    );
    assert!(with("id = \"k\"\nalgorithm = \"none\"\nsecret = \"x\"").contains("in the table 1: "));
    for bad in [&format!("secrets = \"{secret}\""), "secret = [\"correct horse\"]"] {
        let said = key(bad);
        assert!(said.contains("in the table 1: ") && !said.contains("horse"), "{said}");
    }
    let twice = "[[auth.keys]]\nid = \"k\"\nalgorithm = \"EdDSA\"\njwks_file = \"x\"\n".repeat(2);
    says(complaint(&twice, &[]), "a name for each key; \"k\" is given twice");
    let said = complaint(&format!("[auth]\nkeys = \"{secret}\""), &[]);
    says(said, "tables [[auth.keys]] with id, algorithm and a secret or a public key");
    for sha256 in [secret, &"0".repeat(63), &"0".repeat(66), &"+1".repeat(32)] {
        let said = complaint(&format!("[[auth.api_keys]]\nname = \"k\"\nsha256 = \"{sha256}\""), &[]);
        assert!(said.contains("sha256 must be text of 64 hexadecimal digits") && !said.contains(sha256), "{said}");
    }
    let config = load(&format!("[[auth.keys]]\nid = \"k\"\nalgorithm = \"HS256\"\nsecret = \"{secret}\""), &[], None);
    assert!(!format!("{config:?}").contains(secret));
}

#[test]
fn bad_values_of_a_file_are_said_exactly() {
    let cases = [
        ("[server]\nport = 70000", "server.port = 70000; allowed: a whole number from 0 to 65535"),
        ("[server]\nport = \"80\"", "server.port = \"80\"; allowed: a whole number from 0 to 65535"),
        ("[log]\nengine = \"redis\"", "log.engine = \"redis\"; allowed: disk or memory or cluster"),
        (
            "[log]\nage_max = 24",
            "log.age_max = 24; allowed: a duration with its unit (ms, s, m, h, d or y) \
             from 1s to 10y, or 0s for no limit",
        ),
        (
            "[publish]\nevent_bytes_max = 1024",
            "publish.event_bytes_max = 1024; allowed: a size with its unit \
             (B, KiB, MiB, GiB or TiB) from 1B to 64MiB",
        ),
        ("[publish]\nallow_get = 1", "publish.allow_get = 1; allowed: true or false"),
        ("[publish.allow_get]\nx = 1", "publish.allow_get = a table; allowed: true or false"),
        ("log = 5", "log = 5; allowed: a section, [log]"),
        ("[server]\ntls_cert = 1", "server.tls_cert = 1; allowed: the path of a file, or \"\" for none"),
        ("[server]\ntls_cert = \"a\"", "server.tls_cert = \"a\"; allowed: only together with server.tls_key"),
    ];
    for (text, said) in cases {
        assert_eq!(complaint(text, &[]), format!("config.toml: {said}"));
    }
    let said = complaint("[cors]\norigins = [\"*\", 1]", &[]);
    assert!(said.starts_with("config.toml: cors.origins = [\"*\", 1]; allowed: [\"*\"], or"));
}

#[test]
fn values_at_a_bound_are_taken_and_one_past_it_refused() {
    let cases = [
        ("server.port", "0", "-1", "65535", "65536"),
        ("server.workers", "0", "-1", "256", "257"),
        ("server.keep_alive", "1s", "999ms", "1h", "3601s"),
        ("server.head_timeout", "100ms", "99ms", "10m", "601s"),
        ("log.topic_events_max", "1", "0", "10000000", "10000001"),
        ("log.topic_bytes_max", "64KiB", "65535B", "1TiB", "1099511627777B"),
        ("log.bytes_max", "64KiB", "65535B", "1TiB", "1099511627777B"),
        ("log.events_max", "1", "0", "1000000000", "1000000001"),
        ("log.age_max", "1s", "999ms", "10y", "10y 1s"),
        ("stream.heartbeat", "100ms", "99ms", "10m", "601s"),
        ("stream.retry", "100ms", "99ms", "10m", "601s"),
        ("stream.lifetime_max", "1s", "999ms", "10y", "10y 1s"),
        ("stream.coalesce_max", "1ms", "999us", "1s", "1001ms"),
        ("stream.write_timeout", "100ms", "99ms", "1h", "3601s"),
        ("stream.unsent_bytes_max", "1MiB", "1048575B", "1TiB", "1025GiB"),
        ("stream.gone", "0s", "-1s", "24h", "24h 1ms"),
        ("publish.event_bytes_max", "1B", "0B", "64MiB", "67108865B"),
        ("publish.idempotency_window", "1s", "999ms", "24h", "24h 1ms"),
        ("publish.idempotency_keys_max", "1", "0", "10000000", "10000001"),
        ("publish.body_timeout", "100ms", "99ms", "10m", "601s"),
        ("limits.connections_max", "1", "0", "10000000", "10000001"),
        ("limits.connections_per_ip_max", "1", "0", "10000000", "10000001"),
        ("limits.subscribers_per_topic_max", "1", "0", "10000000", "10000001"),
        ("limits.topics_max", "1", "0", "10000000", "10000001"),
        ("limits.topics_per_ip_max", "0", "-1", "10000000", "10000001"),
        ("limits.topics_per_request_max", "1", "0", "1024", "1025"),
        ("limits.topic_bytes_max", "1B", "0B", "1KiB", "1025B"),
        ("limits.request_bytes_in_flight_max", "64KiB", "65535B", "1TiB", "1099511627777B"),
        ("limits.request_bytes_in_flight_per_ip_max", "64KiB", "65535B", "1TiB", "1099511627777B"),
        ("limits.pending_connections_max", "1", "0", "10000000", "10000001"),
        ("limits.pending_connections_per_ip_max", "1", "0", "10000000", "10000001"),
        ("limits.idempotency_keys_max", "1", "0", "100000000", "100000001"),
        ("limits.publishes_per_second_per_ip", "0", "-1", "10000000", "10000001"),
        ("limits.publishes_per_second_per_key", "0", "-1", "10000000", "10000001"),
        ("limits.publishes_per_second_per_topic", "0", "-1", "10000000", "10000001"),
        ("limits.subscribes_per_second_per_ip", "0", "-1", "10000000", "10000001"),
        ("limits.failed_authentications_per_second_per_ip", "0", "-1", "10000000", "10000001"),
        ("shutdown.drain", "0s", "-1s", "10m", "601s"),
    ];
    for (key, least, below, most, above) in cases {
        let takes = |text: &str| apply(key, &mut Config::default(), setting(key).read(text)).is_ok();
        assert!(takes(least) && takes(most), "{key}");
        assert!(!takes(below) && !takes(above), "{key}");
    }
}

#[test]
fn zero_needs_no_unit_where_zero_is_allowed() {
    for text in ["0", "\"0\"", "\"0s\""] {
        let config = load(&format!("[log]\nage_max = {text}"), &[], None).unwrap();
        assert_eq!(config.log.age_max, Duration::ZERO);
    }
    assert!(load("[stream]\nheartbeat = 0", &[], None).is_err());
}

#[test]
fn a_topic_holds_its_largest_event_and_the_log_its_largest_topic() {
    let topic = |size: &str| load(&format!("[publish]\nevent_bytes_max = \"1MiB\"\n[log]\n{size}"), &[], None);
    assert!(topic("topic_bytes_max = \"8256KiB\"").is_ok());
    assert_eq!(
        topic("topic_bytes_max = \"8454143B\"").unwrap_err().to_string(),
        "config.toml: log.topic_bytes_max = \"8454143B\"; \
         allowed: at least 8256KiB (8 x publish.event_bytes_max + 64KiB)"
    );
    assert!(topic("bytes_max = \"16MiB\"").is_ok());
    assert_eq!(
        topic("bytes_max = \"16777215B\"").unwrap_err().to_string(),
        "config.toml: log.bytes_max = \"16777215B\"; allowed: at least 16MiB (log.topic_bytes_max)"
    );
    assert_eq!(
        complaint("", &[("TIDINGS__PUBLISH__EVENT_BYTES_MAX", "32MiB")]),
        "built-in default: log.topic_bytes_max = \"16MiB\"; \
         allowed: at least 262208KiB (8 x publish.event_bytes_max + 64KiB)\n\
         built-in default: limits.request_bytes_in_flight_per_ip_max = \"64MiB\"; \
         allowed: at least 196672KiB (6 x publish.event_bytes_max + 64KiB)"
    );
}

#[test]
fn the_largest_body_fits_into_what_may_be_received_at_once() {
    let limits = |text: &str| load(&format!("[limits]\n{text}"), &[], None);
    assert!(limits("request_bytes_in_flight_per_ip_max = \"6208KiB\"").is_ok());
    assert_eq!(
        limits("request_bytes_in_flight_per_ip_max = \"6356991B\"").unwrap_err().to_string(),
        "config.toml: limits.request_bytes_in_flight_per_ip_max = \"6356991B\"; \
         allowed: at least 6208KiB (6 x publish.event_bytes_max + 64KiB)"
    );
    assert!(limits("request_bytes_in_flight_max = \"64MiB\"").is_ok());
    assert_eq!(
        limits("request_bytes_in_flight_max = \"67108863B\"").unwrap_err().to_string(),
        "config.toml: limits.request_bytes_in_flight_max = \"67108863B\"; \
         allowed: at least 64MiB (limits.request_bytes_in_flight_per_ip_max)"
    );
}

#[test]
fn sizes_print_with_the_largest_unit_that_fits_and_read_back() {
    for (bytes, text) in [(0, "0B"), (1, "1B"), (1023, "1023B"), (1536, "1536B"), (65536, "64KiB")] {
        assert_eq!(Size::new(bytes).to_string(), text);
        assert_eq!(text.parse(), Ok(Size::new(bytes)));
    }
    assert_eq!("2 MiB".parse(), Ok(Size::mib(2)));
    for bad in ["", "1", "MiB", "1mib", "1MB", "1.5MiB", "+1B", "-1B", " 1B", "1Bx", "1é"] {
        assert_eq!(bad.parse::<Size>(), Err(NotASize), "{bad}");
    }
}
