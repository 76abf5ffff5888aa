//! Tidings beside the floor and Nchan, under the same loads in one run.
//!
//! `cargo bench --bench compare` starts one server after the other on core 0, loads it with `tidings bench` from core 1,
//! and does so in rounds that alternate, so that whatever else the machine does falls on all alike. A figure is the
//! median of the rounds; what counts is the ratio within the run. `-- --only paced,many` runs those scenarios alone,
//! `--rounds 5` (or `ROUNDS=5`) more rounds. The floor is [`floor`]; Nchan takes part where nginx has its module
//! (Debian: nginx-light and libnginx-mod-nchan).

mod floor;
mod scenarios;
mod server;

use std::{
    env, fs, io,
    path::{Path, PathBuf},
};

use scenarios::{FLOOR, Figure, NCHAN, SCENARIOS, Scenario};
use serde_json::Value;
use server::Server;

const ROUNDS: usize = 3;

/// What the command line asks for.
struct Wanted {
    only: Option<String>,
    rounds: usize,
}

/// The reports of one server, one a round.
struct Row {
    server: &'static str,
    reports: Vec<Value>,
}

fn main() -> io::Result<()> {
    let mut wanted = Wanted { only: None, rounds: ROUNDS };
    if let Some(rounds) = env::var("ROUNDS").ok().and_then(|rounds| rounds.parse().ok()) {
        wanted.rounds = rounds;
    }
    let mut arguments = env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut number = || arguments.next().and_then(|number| number.parse::<u16>().ok()).ok_or(argument.clone());
        match argument.as_str() {
            "--floor" => return floor::serve(number().map_err(io::Error::other)?),
            "--rounds" => wanted.rounds = number().map_err(io::Error::other)?.into(),
            "--only" => wanted.only = arguments.next(),
            // Cargo says so to every bench.
            "--bench" => {}
            _ => return Err(io::Error::other(format!("{argument}: there are --only NAME,… and --rounds N"))),
        }
    }
    compare(&wanted)
}

fn compare(wanted: &Wanted) -> io::Result<()> {
    if !server::is_there(NCHAN) {
        println!("Nchan is not here: it takes nginx and its module (Debian: nginx-light and libnginx-mod-nchan)");
    }
    let cores = if server::is_pinned() { "servers on core 0, load on core 1" } else { "NOT pinned to cores" };
    println!("{cores}; medians of {} rounds", wanted.rounds);
    let names: Option<Vec<&str>> = wanted.only.as_ref().map(|only| only.split(',').collect());
    if let Some(name) = names.iter().flatten().find(|name| SCENARIOS.iter().all(|other| other.name != **name)) {
        let known: Vec<_> = SCENARIOS.iter().map(|scenario| scenario.name).collect();
        return Err(io::Error::other(format!("{name}: the scenarios are {}", known.join(", "))));
    }
    for scenario in SCENARIOS.iter().filter(|one| names.as_ref().is_none_or(|names| names.contains(&one.name))) {
        let servers = scenario.servers.iter().filter(|server| server::is_there(server));
        let mut rows: Vec<Row> = servers.map(|server| Row { server, reports: Vec::new() }).collect();
        for _ in 0..wanted.rounds {
            for row in &mut rows {
                match run(row.server, scenario) {
                    Ok(report) => row.reports.push(report),
                    // The others are worth having all the same.
                    Err(error) => eprintln!("{}, {}: {error}", scenario.name, row.server),
                }
            }
        }
        print(scenario, &rows);
    }
    Ok(())
}

/// Starts the server, loads it, and ends it; what `tidings bench` reports.
fn run(name: &str, scenario: &Scenario) -> io::Result<Value> {
    let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("compare-{}", std::process::id()));
    fs::create_dir_all(&directory)?;
    let report = Server::start(name, &directory).and_then(|server| {
        let mut bench = server::pinned("1", Path::new(env!("CARGO_BIN_EXE_tidings")));
        bench.arg("bench").args(scenario.arguments.split(' ')).arg("--json");
        let output = bench.arg(server.url()).args(["--pid", &server.id().to_string()]).output()?;
        let report = serde_json::from_slice::<Value>(&output.stdout);
        let error = String::from_utf8_lossy(&output.stderr);
        report.map_err(|_| io::Error::other(format!("the load ended with {}: {error}", output.status)))
    });
    fs::remove_dir_all(&directory)?;
    report
}

impl Row {
    fn median(&self, figure: &Figure) -> Option<f64> {
        let values = self.reports.iter().filter_map(|report| report.pointer(figure.pointer)?.as_f64());
        let mut values: Vec<f64> = values.map(|value| value * figure.scale).collect();
        values.sort_unstable_by(f64::total_cmp);
        values.get(values.len() / 2).copied()
    }

    /// What went wrong in any round.
    fn faults(&self) -> String {
        let mut faults = Vec::new();
        for report in &self.reports {
            let counts = ["lost", "repeated", "out_of_order"].map(|name| (name.to_owned(), report.get(name)));
            let errors = report.get("errors").and_then(Value::as_object).into_iter().flatten();
            let all = counts.into_iter().chain(errors.map(|(reason, n)| (reason.clone(), Some(n))));
            let bad = all.filter_map(|(name, n)| Some((name, n?.as_u64().filter(|n| *n > 0)?)));
            faults.extend(bad.map(|(name, n)| format!("{n} {name}")));
        }
        faults.join(", ")
    }
}

fn print(scenario: &Scenario, rows: &[Row]) {
    let Some((first, others)) = scenario.figures.split_first() else { return };
    println!("\n**{}**: {}\n", scenario.name, scenario.what);
    let titles: Vec<_> = others.iter().map(|figure| figure.title).collect();
    println!("| | {} | / floor | / Nchan | {} | generator % | faults |", first.title, titles.join(" | "));
    println!("|{}", "---|".repeat(scenario.figures.len() + 5));
    let of = |name: &str| rows.iter().find(|row| row.server == name).and_then(|row| row.median(first));
    let (floor, nchan) = (of(FLOOR), of(NCHAN));
    for row in rows {
        let value = row.median(first);
        let ratio =
            |to: Option<f64>| value.zip(to).map_or("–".to_owned(), |(value, to)| format!("{:.2}", value / to));
        let figures: Vec<_> = others.iter().map(|figure| shown(row.median(figure))).collect();
        let generator = Figure { title: "", pointer: "/generator_cpu_percent", scale: 1.0 };
        println!(
            "| {} | {} | {} | {} | {} | {} | {} |",
            row.server,
            shown(value),
            ratio(floor),
            ratio(nchan),
            figures.join(" | "),
            shown(row.median(&generator)),
            row.faults()
        );
    }
}

fn shown(value: Option<f64>) -> String {
    match value {
        None => "–".to_owned(),
        Some(value) if value >= 100.0 => format!("{value:.0}"),
        Some(value) => format!("{value:.2}"),
    }
}
