//! `tidings serve`: configuration, banner, signals, descriptors.

use std::{io::Write as _, path::PathBuf, process::ExitCode};

use clap::Args;
use tidings::{
    config::{Config, Engine, LimitsConfig, LogConfig, Overrides},
    server::Server,
};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

use crate::{EXIT_CONFIG, EXIT_FAILURE, EXIT_LOG};

/// Descriptors that are no connection's: listeners, files of the log, the runtime's own.
const SPARE_DESCRIPTORS: usize = 200;

/// What is logged unless `RUST_LOG` says otherwise. The HTTP server reports every malformed request as an error: a line a
/// scanner could write as often as it likes.
const LOG: &str = "info,actix_http=off,actix_server=warn";

/// The command line of `tidings serve`.
#[derive(Args)]
pub struct Arguments {
    /// The configuration file; without it config.toml in the working directory, if there is one.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where to listen, over server.host and server.port. Port 0 takes a free one and prints it.
    #[arg(long, value_name = "HOST:PORT")]
    listen: Option<String>,
    /// Begin a new epoch, once, after the log's directory was restored from a copy: no id is given twice, and subscribers
    /// from before are told that they may miss events.
    #[arg(long)]
    new_epoch: bool,
    /// Check the configuration and exit: 0 when it is good, 78 when it is not.
    #[arg(long)]
    check: bool,
}

/// Serves until a signal ends it.
pub fn serve(arguments: Arguments) -> ExitCode {
    let overrides = Overrides { listen: arguments.listen };
    let mut config = match Config::from_environment(arguments.config.as_deref(), &overrides) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("tidings: {error}");
            return ExitCode::from(EXIT_CONFIG);
        }
    };
    if arguments.new_epoch && config.log.engine == Engine::Memory {
        eprintln!("tidings: --new-epoch is for log.engine = \"disk\": the memory engine begins one with each start");
        return ExitCode::from(EXIT_CONFIG);
    }
    config.log.new_epoch = arguments.new_epoch;
    if arguments.check {
        println!("the configuration is good");
        return ExitCode::SUCCESS;
    }
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(LOG));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    actix_web::rt::System::new().block_on(run(config))
}

async fn run(config: Config) -> ExitCode {
    let (drain, log) = (config.shutdown.drain, config.log.clone());
    // This comes before the banner: a program that has read the banner may send a signal at once.
    let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        eprintln!("tidings: cannot listen for signals");
        return ExitCode::from(EXIT_FAILURE);
    };
    ignore_signals();
    let needed = descriptors(&config.limits);
    raise_descriptor_limit(needed);
    let server = match Server::listen(config) {
        Ok(server) => server,
        Err(error) => {
            eprintln!("tidings: {error}");
            return ExitCode::from(EXIT_FAILURE);
        }
    };
    warn_of_descriptor_limit(needed);
    // Nobody may be reading; the server serves all the same.
    banner(&server, &log).ok();
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        reason = server.failed() => {
            eprintln!("tidings: the log has failed: {reason}");
            server.abandon().await;
            return ExitCode::from(EXIT_LOG);
        }
    }
    tracing::info!(within = ?drain, streams = server.connections().len(), "ending the streams; a second signal ends at once");
    tokio::select! {
        () = server.shutdown() => {}
        _ = terminate.recv() => tracing::warn!("ended at once"),
        _ = interrupt.recv() => tracing::warn!("ended at once"),
    }
    ExitCode::SUCCESS
}

/// Signals that would end the process without a word: a terminal that closes sends one, and so do tools that ask other
/// servers to reload or to open their log files anew.
fn ignore_signals() {
    let kinds = [
        ("SIGHUP", SignalKind::hangup()),
        ("SIGUSR1", SignalKind::user_defined1()),
        ("SIGUSR2", SignalKind::user_defined2()),
    ];
    for (name, kind) in kinds {
        let Ok(mut signals) = signal(kind) else { continue };
        tokio::task::spawn_local(async move {
            while signals.recv().await.is_some() {
                tracing::info!("{name} is ignored: a configuration is read at the start only; SIGTERM ends the server");
            }
        });
    }
}

/// Every connection takes a descriptor.
fn descriptors(limits: &LimitsConfig) -> usize {
    limits.connections_max.saturating_add(limits.pending_connections_max).saturating_add(SPARE_DESCRIPTORS)
}

/// The limit that a shell sets is far below what the system allows.
fn raise_descriptor_limit(needed: usize) {
    if let Err(error) = rlimit::increase_nofile_limit(u64::MAX) {
        tracing::warn!(%error, "the open-files limit cannot be raised");
    }
    grow_descriptor_table(needed);
}

fn warn_of_descriptor_limit(needed: usize) {
    let limit = descriptor_limit();
    if limit < needed {
        tracing::warn!(
            limit,
            needed,
            "the open-files limit (ulimit -n) is below limits.connections_max and limits.pending_connections_max \
             together; when it is reached, silent connections are closed, and then no others are accepted"
        );
    }
}

fn descriptor_limit() -> usize {
    rlimit::Resource::NOFILE.get_soft().map_or(0, |limit| usize::try_from(limit).unwrap_or(usize::MAX))
}

/// Has the kernel make room for all descriptors at once, while there is one thread. It doubles the table otherwise, at
/// 1,024, 2,048, 4,096 …, and in a process with several threads each time waits until no processor can be looking at the
/// old one: a tenth of a second in which a storm of connections overflows the queue of those to be accepted.
fn grow_descriptor_table(needed: usize) {
    let last = descriptor_limit().min(needed).saturating_sub(1);
    if let Ok(last) = i32::try_from(last) {
        // What it is a copy of does not matter, nor does it matter much when there is none.
        rustix::io::fcntl_dupfd_cloexec(std::io::stderr(), last).ok();
    }
}

fn banner(server: &Server, log: &LogConfig) -> std::io::Result<()> {
    let url = format!("http://{}", server.address());
    let mut out = std::io::stdout().lock();
    writeln!(out, "Tidings {} serves on {url}/ (the page to try it)", env!("CARGO_PKG_VERSION"))?;
    writeln!(out, "  subscribe: curl -N '{url}/subscribe?topic=news'")?;
    writeln!(out, "  publish:   curl '{url}/publish?topic=news' --data-urlencode 'content=hello'")?;
    match log.engine {
        Engine::Memory => writeln!(out, "  history:   in memory, it ends with this process (log.engine)")?,
        Engine::Disk => writeln!(out, "  history:   in {}", log.path.display())?,
    }
    writeln!(out, "  stop with Ctrl-C")?;
    out.flush()
}
