//! The command line: what it teaches, what it refuses, and where it says it serves.

use std::{
    fs,
    net::{TcpListener, TcpStream},
    path::PathBuf,
    process::Output,
};

use tokio::{process::Command, time::timeout};

use crate::harness::{DEADLINE, Process, process::program};

mod checklist;

/// Runs `command` to its end.
pub async fn run(command: &mut Command) -> (i32, String, String) {
    let Output { status, stdout, stderr } =
        timeout(DEADLINE, command.output()).await.expect("it ends in time").expect("it runs");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    (status.code().expect("an exit code"), text(stdout), text(stderr))
}

/// A new directory with a `config.toml`.
fn directory(name: &str, config: &str) -> PathBuf {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("cli-{name}-{}", std::process::id()));
    fs::create_dir_all(&path).expect("a directory");
    fs::write(path.join("config.toml"), config).expect("a file");
    path
}

/// A port that was free a moment ago.
fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("its address").port()
}

/// Goal: `--help` is enough to serve, subscribe and publish.
#[tokio::test]
async fn help_teaches() {
    let (code, out, error) = run(program().arg("--help")).await;
    assert_eq!((code, error.as_str()), (0, ""));
    for word in [
        "Server-Sent Events",
        "--config <FILE>",
        "--listen <HOST:PORT>",
        "--check",
        "--new-epoch",
        "--version",
        "serve",
        "bench",
        "import",
        "tidings config",
        "config.toml",
        "TIDINGS__",
        "curl -N 'http://127.0.0.1:8080/subscribe?topic=news'",
        "/publish?topic=news",
    ] {
        assert!(out.contains(word), "`{word}` is missing in:\n{out}");
    }
    let (code, serve, _) = run(program().args(["serve", "--help"])).await;
    assert_eq!(code, 0);
    assert!(serve.contains("--listen") && serve.contains("--check"), "{serve}");
    let (code, import, _) = run(program().args(["import", "--help"])).await;
    assert_eq!(code, 0);
    for word in ["--from <PATH>", "--config <FILE>", "tidings import --from", "TIDINGS__CLUSTER__SERVERS=", "reset"] {
        assert!(import.contains(word), "`{word}` is missing in:\n{import}");
    }
}

/// Goal: `tidings config` prints a file that may be kept as `config.toml`: the shipped one, whatever is set around it.
#[tokio::test]
async fn the_defaults_are_printed() {
    let around = directory("printed", "[log]\nage_max = \"10 bananas\"\n");
    let mut command = program();
    command.arg("config").current_dir(&around).env("TIDINGS__LOG__AGE_MAX", "1h");
    let (code, out, error) = run(&mut command).await;
    assert_eq!((code, error.as_str()), (0, ""));
    assert_eq!(out, include_str!("../../config.toml"));
    let kept = directory("kept", &out);
    let (code, _, error) = run(program().arg("--check").current_dir(&kept)).await;
    assert_eq!((code, error.as_str()), (0, ""));
    let (code, help, _) = run(program().args(["config", "--help"])).await;
    assert_eq!(code, 0);
    assert!(help.contains("tidings config > config.toml") && help.contains("tidings --check"), "{help}");
}

/// Goal: `--version` says which one.
#[tokio::test]
async fn version_is_told() {
    let (code, out, _) = run(program().arg("--version")).await;
    assert_eq!((code, out.trim()), (0, concat!("tidings ", env!("CARGO_PKG_VERSION"))));
}

/// Goal: a command line that is not understood is refused with a hint, not served.
#[tokio::test]
async fn unknown_arguments_are_refused() {
    for arguments in [&["--lisen", "127.0.0.1:0"][..], &["sevre"], &["--listen"]] {
        let (code, out, error) = run(program().args(arguments)).await;
        assert_eq!((code, out.as_str()), (2, ""), "{arguments:?}: {error}");
        assert!(error.contains(arguments[0]) && error.contains("--help"), "{arguments:?}: {error}");
    }
}

/// Goal: `--check` tells a good configuration from a bad one, and starts nothing.
#[tokio::test]
async fn check_tells_good_from_bad() {
    let good = directory("good", "[log]\nage_max = \"10m\"\n");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    // The port is taken, which a check has no business to notice.
    let listen = listener.local_addr().expect("its address").to_string();
    for arguments in [&["--check", "--listen", &listen][..], &["serve", "--check", "--listen", &listen]] {
        let (code, out, error) = run(program().args(arguments).current_dir(&good)).await;
        assert_eq!((code, error.as_str()), (0, ""), "{arguments:?}");
        assert!(out.contains("the configuration is valid"), "{out}");
    }
    let bad = directory("bad", "[log]\nage_max = \"10 bananas\"\n");
    let (code, out, error) = run(program().arg("--check").current_dir(&bad)).await;
    assert_eq!((code, out.as_str()), (78, ""));
    assert!(error.contains("log.age_max"), "{error}");
    let missing = bad.join("missing.toml");
    let (code, _, error) = run(program().arg("--check").arg("--config").arg(&missing)).await;
    assert_eq!(code, 78, "a file that was asked for must be there: {error}");
    assert!(error.contains("missing.toml"), "{error}");
}

/// Goal: a bad value is refused wherever it comes from, naming the key, the value, what is allowed and where it stands,
/// and the program ends with 78 before it has taken a port.
#[tokio::test]
async fn bad_values_are_named_before_any_socket_is_bound() {
    let cases = [
        ("server", "port", "70000", "65535"),
        ("server", "workers", "1000", "256"),
        ("stream", "write_timeout", "\"soon\"", "100ms"),
        ("stream", "coalesce_max", "\"1001ms\"", "1s, or 0s for no pause"),
        ("log", "bytes_max", "\"1 furlong\"", "64KiB"),
        ("log", "engine", "\"papyrus\"", "disk"),
        ("publish", "allow_get", "\"perhaps\"", "true or false"),
        ("cors", "origins", "[\"https://example.com/path\"]", "\"*\""),
    ];
    for (section, key, value, allowed) in cases {
        let directory = directory(&format!("value-{key}"), &format!("[{section}]\n{key} = {value}\n"));
        // Held by the test: if it tried to bind first, that is what it would complain about.
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let mut command = program();
        command.current_dir(&directory);
        if section != "server" {
            command.args(["--listen", &listener.local_addr().expect("its address").to_string()]);
        }
        let (code, out, error) = run(&mut command).await;
        assert_eq!((code, out.as_str()), (78, ""), "{error}");
        for word in [&format!("{section}.{key}"), value, allowed, "config.toml", "tidings: "] {
            assert!(error.contains(word), "`{word}` is missing in: {error}");
        }
        let variable = format!("TIDINGS__{}__{}", section.to_uppercase(), key.to_uppercase());
        // A variable has no quotes and brackets; a list is separated by commas.
        let text = value.trim_matches(['[', '"', ']']);
        let (code, _, error) = run(program().env(&variable, text)).await;
        assert_eq!(code, 78, "{variable}: {error}");
        for word in [&format!("{section}.{key}"), text, allowed, &variable] {
            assert!(error.contains(word), "`{word}` is missing in: {error}");
        }
    }
    let (code, _, error) = run(program().args(["--listen", "nowhere"])).await;
    assert_eq!(code, 78);
    assert!(error.contains("--listen") && error.contains("nowhere"), "{error}");
}

/// Goal: a key that does not exist is a mistake, not a comment; the nearest one is offered; all mistakes come at once.
#[tokio::test]
async fn unknown_keys_are_refused() {
    let directory = directory("unknown", "[stream]\nheartbaet = \"5s\"\n\n[limits]\ntopics_max = -1\n");
    let (code, out, error) = run(program().current_dir(&directory).env("TIDINGS__LOG__ENGIN", "memory")).await;
    assert_eq!((code, out.as_str()), (78, ""));
    for word in
        ["heartbaet", "stream.heartbeat", "TIDINGS__LOG__ENGIN", "TIDINGS__LOG__ENGINE", "limits.topics_max", "-1"]
    {
        assert!(error.contains(word), "`{word}` is missing in: {error}");
    }
}

/// Goal: a port in use is told in one readable line that says what to do, and ends with 1.
#[tokio::test]
async fn a_port_in_use_is_told_readably() {
    let server = Process::start(&[]).await;
    let address = server.address.to_string();
    let (code, out, error) = run(program().args(["--listen", &address])).await;
    assert_eq!((code, out.as_str()), (1, ""));
    let lines: Vec<&str> = error.lines().collect();
    assert_eq!(lines.len(), 1, "{error}");
    for word in ["tidings: cannot listen on", &address, "another process", "--listen"] {
        assert!(lines[0].contains(word), "`{word}` is missing in: {error}");
    }
    assert!(!error.contains("Os {") && !error.contains("panicked"), "{error}");
}

/// Goal: port 0 takes a free one, and the banner says which, with lines that can be copied and work.
#[tokio::test]
async fn the_banner_tells_the_chosen_address_and_what_to_curl() {
    let server = Process::start(&[]).await;
    let url = format!("http://{}", server.address);
    assert_ne!(server.address.port(), 0);
    let banner = server.banner.join("\n");
    for line in [
        format!("{url}/ "),
        format!("curl -N '{url}/subscribe?topic=news'"),
        format!("curl '{url}/publish?topic=news' --data-urlencode 'content=hello'"),
    ] {
        assert!(banner.contains(&line), "`{line}` is missing in:\n{banner}");
    }
    // What that last line sends.
    let mut stream = server.subscribe("topic=news").await;
    let request = reqwest::Client::new().post(server.url("/publish?topic=news"));
    let request = request.header("content-type", "application/x-www-form-urlencoded").body("content=hello");
    assert_eq!(request.send().await.expect("an answer").status(), 200);
    assert_eq!(stream.next().await.expect("an event").data, "hello");
}

/// Goal: `config.toml` in the working directory < `TIDINGS__…` < flags, and `PORT` for platforms that set it.
#[tokio::test]
async fn each_source_of_configuration_counts_and_the_nearer_one_wins() {
    let (first, second, third) = (free_port(), free_port(), free_port());
    let directory = directory("sources", &format!("[server]\nport = {first}\n"));
    let mut serve = program();
    serve.current_dir(&directory);
    let server = Process::spawn(&mut serve).await;
    assert_eq!(server.address.port(), first, "config.toml in the working directory");
    drop(server);
    let server = Process::spawn(serve.env("TIDINGS__SERVER__PORT", second.to_string())).await;
    assert_eq!(server.address.port(), second, "the environment over the file");
    assert!(TcpStream::connect(("127.0.0.1", second)).is_ok(), "it is where it says");
    drop(server);
    let server = Process::spawn(serve.args(["--listen", &format!("127.0.0.1:{third}")])).await;
    assert_eq!(server.address.port(), third, "the flag over the environment");

    let elsewhere = directory.join("config.toml");
    let server = Process::spawn(program().arg("--config").arg(&elsewhere).env("PORT", "0")).await;
    assert!(![0, first].contains(&server.address.port()), "PORT over --config, and 0 takes a free one");
    // The whole of a key's way from the environment to what the broker does.
    let server = Process::start(&[("TIDINGS__PUBLISH__ALLOW_GET", "false")]).await;
    let response = reqwest::get(server.url("/publish?topic=t&content=c")).await.expect("an answer");
    assert_eq!(response.status(), 405);
    let server = Process::spawn(program().args(["serve", "--listen", "127.0.0.1:0"])).await;
    assert_eq!(reqwest::get(server.url("/healthz")).await.expect("an answer").status(), 200, "`serve` spelled out");
}

/// Goal: `--new-epoch` with the engine that begins one anyway is a mistake, and is said to be.
#[tokio::test]
async fn a_new_epoch_is_for_the_disk_engine() {
    let arguments = ["--new-epoch", "--check"];
    let (code, _, error) = run(program().args(arguments).env("TIDINGS__LOG__ENGINE", "memory")).await;
    assert_eq!(code, 78, "{error}");
    assert!(error.contains("--new-epoch") && error.contains("log.engine"), "{error}");
    let (code, _, error) = run(program().args(arguments).env("TIDINGS__LOG__ENGINE", "disk")).await;
    assert_eq!((code, error.as_str()), (0, ""));
}
