//! `tidings bench` against the broker, and against servers that break each promise it checks.

mod fake;

use std::process::Stdio;

use serde_json::Value;

use super::harness::{Process, process::program};
use fake::{Fake, Fault};

/// How a run has ended.
struct Outcome {
    code: i32,
    out: String,
    error: String,
}

impl Outcome {
    /// The table's row of this name.
    fn row(&self, name: &str) -> &str {
        let row = self.out.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix("  "));
        row.unwrap_or_else(|| panic!("no row `{name}` in:\n{}{}", self.out, self.error)).trim()
    }

    /// All went well, and the table says so.
    fn assert_good(&self) {
        assert_eq!(self.code, 0, "{}{}", self.out, self.error);
        assert_eq!(["lost", "repeated", "out of order", "errors"].map(|name| self.row(name)), ["0", "0", "0", "none"]);
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|_| panic!("not JSON: {}{}", self.out, self.error))
    }
}

async fn bench(url: &str, arguments: &str) -> Outcome {
    let mut command = program();
    command.arg("bench").args(arguments.split_whitespace()).arg(url);
    let output = command.stdout(Stdio::piped()).stderr(Stdio::piped()).output().await.expect("it runs");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    Outcome { code: output.status.code().expect("a code"), out: text(output.stdout), error: text(output.stderr) }
}

/// Goal: it measures the broker in every mode, finds nothing wrong, and tells all that was asked for.
#[tokio::test]
async fn every_mode_measures_the_broker() {
    let server = Process::start(&[("TIDINGS__STREAM__HEARTBEAT", "200ms")]).await;
    let url = server.url("");
    let live = bench(&url, "--subscribers 50 --messages 20").await;
    live.assert_good();
    assert!(live.row("connected").starts_with("50 of 50 in"), "{}", live.out);
    assert!(live.row("published").starts_with("20 acknowledged"), "{}", live.out);
    assert!(live.row("delivered").starts_with("1,000,"), "{}", live.out);
    for name in ["p50", "p99", "p99.9", "max"] {
        assert!(live.row("latency").contains(name), "{}", live.out);
    }

    let many = bench(&url, "--subscribers 60 --topics 20 --publishers 8 --messages 30 --size 100..10000").await;
    many.assert_good();
    assert!(many.row("delivered").starts_with("1,800,"), "{}", many.out);

    let timed = bench(&url, "--subscribers 5 --duration 500ms --rate 100 --publishers 2").await;
    timed.assert_good();
    assert!(!timed.row("published").starts_with("0 "), "{}", timed.out);

    let spinning = bench(&url, "--subscribers 5 --messages 20 --rate 100 --spin").await;
    spinning.assert_good();
    assert_eq!(spinning.row("generator CPU"), "a core, it spins");

    let replay = bench(&url, "--replay --subscribers 30 --messages 300 --publishers 4").await;
    replay.assert_good();
    assert!(replay.row("delivered").starts_with("9,000,"), "{}", replay.out);

    let storm = bench(&url, "--storm --subscribers 40 --messages 7 --topics 2").await;
    storm.assert_good();
    assert!(storm.row("resumed").starts_with("40 in"), "{}", storm.out);
    assert!(storm.row("delivered").starts_with("120,"), "what came after they resumed: {}", storm.out);

    let missed_nothing = bench(&url, "--storm --subscribers 5 --messages 1").await;
    missed_nothing.assert_good();
    assert!(!missed_nothing.row("generator CPU").contains("spins"), "{}", missed_nothing.out);

    let idle = bench(&url, "--idle 1 --subscribers 10").await;
    idle.assert_good();
    assert!(idle.row("idle").starts_with("10 connected after 1 s"), "{}", idle.out);
    assert!(!idle.row("idle").contains("; 0 blocks"), "heartbeats are counted: {}", idle.out);
}

/// Goal: with `--pid` it tells what the server used, and `--json` has all of it under stable names.
#[tokio::test]
async fn the_servers_cost_is_told_and_json_has_all_figures() {
    let server = Process::start(&[]).await;
    let arguments = format!("--json --subscribers 200 --messages 500 --pid {}", server.id());
    let outcome = bench(&server.url(""), &arguments).await;
    let report = outcome.json();
    assert_eq!(outcome.code, 0, "{report}");
    assert_eq!((&report["lost"], &report["repeated"], &report["out_of_order"]), (&0.into(), &0.into(), &0.into()));
    assert_eq!((&report["mode"], &report["subscribers"]), (&"live".into(), &200.into()));
    assert_eq!(report["delivered"]["events"], 100_000);
    for figure in [
        "/connected/per_second",
        "/published/per_second",
        "/published/p99_us",
        "/delivered/per_second",
        "/delivered/p50_us",
        "/delivered/p99_us",
        "/delivered/p999_us",
        "/delivered/max_us",
        "/server/delivery/total_us",
        "/server/resident_bytes",
    ] {
        assert!(report.pointer(figure).and_then(Value::as_f64).is_some_and(|n| n > 0.0), "{figure} in {report}");
    }
    let told = bench(&server.url(""), &format!("--subscribers 5 --pid {}", server.id())).await;
    assert!(
        told.row("server CPU").contains("per delivery") && told.row("server memory").contains("MiB"),
        "{}",
        told.out
    );
}

/// Goal: it also works against another server, with its paths and the fields it wants.
#[tokio::test]
async fn another_servers_paths_and_fields_can_be_told() {
    let server = Fake::start(Fault::None);
    let paths = "--publish /pub?id={topic} --subscribe /sub?id={topic}";
    let good = bench(&server.url("/sse/"), &format!("{paths} --subscribers 10 --messages 9 --header X-Key:1")).await;
    good.assert_good();
    assert!(good.row("delivered").starts_with("90,"), "{}", good.out);
    let refused = bench(&server.url("/sse/"), &format!("{paths} --subscribers 10")).await;
    assert_eq!((refused.code, refused.out.as_str()), (1, ""), "the field is missing: {}", refused.error);
}

/// Goal: a server that breaks a promise is found out, in the table and by the exit code. Control of all other tests.
#[tokio::test]
async fn a_server_that_breaks_a_promise_is_found_out() {
    let arguments = "--publish /pub?id={topic} --subscribe /sub?id={topic} --header X-Key:1 --timeout 1s";
    for publishers in [1, 3] {
        for (fault, row, found) in [
            (Fault::Drop, "lost", "5"),
            (Fault::Repeat, "repeated", "5"),
            (Fault::Refuse, "errors", "1 × publish: HTTP 507 (disk_full)"),
            (Fault::HangUp, "errors", "5 × stream: closed by the server"),
        ] {
            let server = Fake::start(fault);
            let load = format!("--subscribers 5 --messages 20 --publishers {publishers}");
            let outcome = bench(&server.url("/sse"), &format!("{arguments} {load}")).await;
            assert_eq!(outcome.code, 1, "{fault:?}: {}{}", outcome.out, outcome.error);
            assert_eq!(outcome.row(row), found, "{fault:?}: {}", outcome.out);
            let others = ["lost", "repeated", "out of order", "errors"].into_iter().filter(|other| *other != row);
            for other in others.filter(|other| fault != Fault::HangUp || *other != "lost") {
                assert!(["0", "none"].contains(&outcome.row(other)), "{fault:?}, {other}: {}", outcome.out);
            }
        }
    }
    let server = Fake::start(Fault::Swap);
    let outcome = bench(&server.url("/sse"), &format!("{arguments} --subscribers 5 --messages 20")).await;
    assert_eq!((outcome.code, outcome.row("out of order"), outcome.row("lost")), (1, "5", "0"), "{}", outcome.out);
}

/// Goal: what cannot be measured is told in a line that says why and what to do.
#[tokio::test]
async fn what_cannot_be_measured_is_told_readably() {
    let nobody = bench("http://127.0.0.1:1", "").await;
    let tls = bench("https://localhost", "").await;
    let server = Process::start(&[("TIDINGS__LIMITS__SUBSCRIBERS_PER_TOPIC_MAX", "3")]).await;
    let lost = bench(&server.url(""), "--subscribers 5 --subscribe /nowhere/{topic}").await;
    let full = bench(&server.url(""), "--subscribers 5 --messages 1").await;
    let greedy = bench(&server.url(""), "--subscribers 10000000").await;
    let pid = bench(&server.url(""), "--pid 4294967295").await;
    for (outcome, code, words) in [
        (&nobody, 1, &["tidings bench: nobody listens at http://127.0.0.1:1", "refused"][..]),
        (&tls, 2, &["https://localhost", "no TLS"]),
        (&lost, 1, &["no subscriber could connect", "5 × subscribe: HTTP 404 (not_found)"]),
        (&greedy, 1, &["10000000 subscribers", "open files", "ulimit"]),
        (&pid, 1, &["--pid 4294967295", "no such process"]),
    ] {
        assert_eq!((outcome.code, outcome.out.as_str()), (code, ""), "{}", outcome.error);
        for word in words {
            assert!(outcome.error.contains(word), "`{word}` is missing in: {}", outcome.error);
        }
    }
    assert_eq!((full.code, full.row("errors")), (1, "2 × subscribe: refused by the broker"), "{}", full.out);
}

/// Goal: `--help` is enough to use it.
#[tokio::test]
async fn help_teaches_to_measure() {
    let help = bench("--help", "").await;
    assert_eq!(help.code, 0);
    for word in ["--subscribers", "--replay", "--storm", "--idle", "--pid", "--json", "{topic}", "exit code is 0"] {
        assert!(help.out.contains(word), "`{word}` is missing in:\n{}", help.out);
    }
}
