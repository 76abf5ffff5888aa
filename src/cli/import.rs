//! `tidings import`: moves a log from the disk into the cluster.

use std::{
    fmt::Display,
    io::{self, Write as _},
    path::PathBuf,
    process::ExitCode,
    time::Instant,
};

use clap::Args;
use tidings::{
    config::{Config, Engine},
    log::{
        cluster::{self, OpenError},
        import::{ImportError, LeftOut, Report, import as import_log},
    },
};
use tracing_subscriber::EnvFilter;

use super::progress::Progress;
use crate::{EXIT_CONFIG, EXIT_FAILURE};

/// The end of `tidings import --help`.
pub const EXAMPLES: &str = "\
Stop the server, say where NATS is, import, and start the servers of the cluster:
  export TIDINGS__LOG__ENGINE=cluster TIDINGS__CLUSTER__SERVERS=nats://10.0.0.1:4222
  tidings import --from /var/lib/tidings
  tidings serve

An import that was interrupted goes on where it was when the same command runs again. The files of the log are only
read. Subscribers with an id of the old log get one broker.gap (reset), and then all that is held.";

/// The log filter if `RUST_LOG` is not set: warnings, and how far the log has been read.
const DEFAULT_LOG_FILTER: &str = "warn,tidings::log::disk=info";
/// How many events that were left out are listed.
const LISTED_MAX: usize = 100;

/// The command line of `tidings import`.
#[derive(Args)]
pub struct ImportArguments {
    /// The configuration file, with log.engine = "cluster". The default is config.toml in the working directory, if it
    /// exists.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The directory of the log on the disk, or the file tidings.db in it. The default is log.path.
    #[arg(long, value_name = "PATH")]
    from: Option<PathBuf>,
}

/// Runs `tidings import`.
pub fn import(arguments: &ImportArguments) -> ExitCode {
    let config = match Config::load(arguments.config.as_deref(), None) {
        Ok(config) => config,
        Err(error) => return fail(EXIT_CONFIG, error),
    };
    if config.log.engine != Engine::Cluster {
        return fail(
            EXIT_CONFIG,
            "the configuration must be that of the cluster: set log.engine = \"cluster\" and [cluster]",
        );
    }
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(DEFAULT_LOG_FILTER));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).init();
    let from = arguments.from.as_ref().unwrap_or(&config.log.path);
    let (started, mut line) = (Instant::now(), Progress::new());
    let nanos = || u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX);
    let mut on_progress = |progress: tidings::log::import::Progress| {
        let (stored, events) = (progress.stored, progress.events);
        line.report(nanos(), || {
            let (percent, rate) = (stored * 100 / events.max(1), per_second(stored, nanos()));
            format!("{stored} of {events} events ({percent} %), {rate} events/s")
        });
    };
    let imported = import_log(&config, from, &mut on_progress);
    drop(line);
    match imported {
        Ok(report) => {
            // If nobody reads stdout, the exit code still tells the result.
            io::stdout().write_all(summary(&report, &config.cluster.namespace, nanos()).as_bytes()).ok();
            ExitCode::SUCCESS
        }
        Err(error @ ImportError::Stream(cluster::ImportError::Open(OpenError::Tls(_)))) => fail(EXIT_CONFIG, error),
        Err(error) => fail(EXIT_FAILURE, error),
    }
}

fn fail(exit_code: u8, reason: impl Display) -> ExitCode {
    eprintln!("tidings import: {reason}");
    ExitCode::from(exit_code)
}

fn per_second(events: usize, nanos: u64) -> u128 {
    u128::try_from(events).unwrap_or_default() * 1_000_000_000 / u128::from(nanos.max(1))
}

/// What was imported, and what to do next.
fn summary(report: &Report, stream: &str, nanos: u64) -> String {
    let Report { events, earlier, bytes, topics, keys, content_max, .. } = report;
    let from = report.from.display();
    let mut lines = Vec::new();
    if let Some(id) = report.resumed_after {
        lines.push(format!("an earlier run has imported {earlier} of the held events, up to {id}"));
    }
    let (millis, rate) = (nanos / 1_000_000, per_second(*events, nanos));
    lines.push(format!("imported {events} events from {from} into the stream {stream}"));
    lines.push(format!("  {bytes} bytes of content, in {millis} ms ({rate} events/s)"));
    lines.push(format!("  {topics} topics, {keys} idempotency keys"));
    if !report.left_out.is_empty() {
        lines.push(format!("left out: {} events; their subscribers are told of a gap", report.left_out.len()));
    }
    for LeftOut { id, topic, bytes } in report.left_out.iter().take(LISTED_MAX) {
        let why = match bytes {
            Some(bytes) => format!("its {bytes} bytes are more than the {content_max} that NATS accepts (max_payload)"),
            None => "it is damaged".to_owned(),
        };
        lines.push(format!("  {id} of the topic {topic}: {why}"));
    }
    if report.left_out.len() > LISTED_MAX {
        lines.push(format!("  and {} more", report.left_out.len() - LISTED_MAX));
    }
    lines.push("next: start the servers of the cluster with this configuration".to_owned());
    lines.push(format!("  {from} is unchanged: remove it when you no longer need it, and start no server on it"));
    lines.join("\n") + "\n"
}
