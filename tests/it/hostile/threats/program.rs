//! Threats that only the program itself can show: its defaults, its log and what it is made of.

use crate::{
    cli::run,
    harness::{DEADLINE, Process, process::program},
};

const SECRET: &str = "a secret of thirty-two bytes....";

/// The exit code of the program, and what it says.
async fn started(listen: &str, environment: &[(&str, &str)]) -> (i32, String) {
    let mut command = program();
    command.args(["--listen", listen]).envs(environment.iter().copied());
    let ended = tokio::time::timeout(DEADLINE, run(&mut command)).await.expect("it ends at once");
    (ended.0, ended.2)
}

/// Keys that are no keys, and a public address that nobody has thought about.
#[tokio::test]
async fn what_is_not_safe_does_not_start() {
    let key = |algorithm: &str, secret: &str| {
        format!("[{{ id = \"k\", algorithm = \"{algorithm}\", secret = \"{secret}\" }}]")
    };
    for (listen, keys, said) in [
        ("0.0.0.0:0", None, "auth.anonymous"),
        ("127.0.0.1:0", Some(key("HS256", "short")), "32"),
        ("127.0.0.1:0", Some(key("HS256", "")), "secret"),
        ("127.0.0.1:0", Some(key("none", SECRET)), "algorithm"),
        // The key of another kind of algorithm: a public key must never be taken for a secret.
        ("127.0.0.1:0", Some(key("RS256", SECRET)), "a public key"),
    ] {
        let environment: Vec<_> = keys.iter().map(|keys| ("TIDINGS__AUTH__KEYS", keys.as_str())).collect();
        let (code, report) = started(listen, &environment).await;
        assert_eq!(code, 78, "{listen} {keys:?}: {report}");
        assert!(report.contains(said), "{listen} {keys:?}: {report}");
        assert!(!report.contains(SECRET), "{report}");
    }
    // The control: by default it listens on loopback only, and starts.
    let server = Process::start(&[]).await;
    assert!(server.address.ip().is_loopback());
    assert!(tidings::config::Config::default().server.address().ip().is_loopback());
}

/// Names that look like lines of the log, and secrets in requests.
#[tokio::test]
async fn the_log_has_no_forged_line_and_no_secret() {
    let keys = format!("[{{ id = \"k\", algorithm = \"HS256\", secret = \"{SECRET}\" }}]");
    let settings =
        [("TIDINGS__AUTH__KEYS", keys.as_str()), ("TIDINGS__AUTH__QUERY_TOKEN", "true"), ("RUST_LOG", "tidings=debug")];
    let mut server = Process::start(&settings).await;
    let rights = serde_json::json!({"publish": ["**"], "manage": ["**"]});
    let token = crate::auth::token("ann", &rights, crate::auth::seconds_from_now(60));
    let client = reqwest::Client::new();
    let name = "x%22%20by%3D%22root%22%E2%80%AE";
    for path in
        [format!("/publish?topic={name}&content=x&access_token={token}"), "/publish?access_token=guessed".to_owned()]
    {
        client.post(server.url(&path)).send().await.expect("an answer");
    }
    for topic in [name, "a%0A2026-01-01T00:00:00Z%20INFO%20forged", "a%1B%5B2Jforged"] {
        let request = client.delete(server.url(&format!("/topics/{topic}"))).bearer_auth(&token);
        let status = request.send().await.expect("an answer").status();
        assert_eq!(status, if topic == name { 204 } else { 400 }, "{topic}");
    }
    server.signal("TERM").await;
    assert!(server.exit().await.success());
    let (_, log) = server.last_words().await;
    // The control: the deletion is in the log.
    let lines: Vec<&str> = log.lines().filter(|line| line.contains("by")).collect();
    assert!(lines.iter().any(|line| line.contains("tidings::audit")), "{log}");
    assert!(!log.contains("forged") && !log.contains("x\" by=\"root\""), "{log}");
    for secret in [token.as_str(), SECRET, "guessed"] {
        assert!(!log.contains(secret), "{log}");
    }
}

/// What others could bring into the program.
#[test]
fn the_source_is_safe_and_its_dependencies_are_checked() {
    let read = |path: &str| std::fs::read_to_string(format!("{}/{path}", env!("CARGO_MANIFEST_DIR"))).expect("a file");
    assert!(read("Cargo.toml").contains("\nunsafe_code = \"forbid\"\n"));
    let rules = read("deny.toml");
    for section in ["[licenses]", "[bans]", "[sources]"] {
        assert!(rules.contains(section), "{section}");
    }
    assert!(read(".ci/run").contains("deny"), "CI checks the dependencies");
    assert!(read(".ci/run").contains("--locked"), "CI builds with the versions of Cargo.lock");
}
