//! `tidings serve`: configuration, banner, signals and the limit of open files.

use std::{fmt::Display, io::Write as _, path::PathBuf, process::ExitCode};

use super::check::check;
use clap::Args;
use tidings::{
    config::{Anonymous, Config, Engine},
    log::cluster::OpenError,
    server::{Server, StartError},
};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

use crate::{EXIT_CONFIG, EXIT_FAILURE, EXIT_LOG};

/// File descriptors for everything except connections: listeners, the files of the log, the runtime, the reserve.
const OTHER_DESCRIPTORS: usize = 200;

/// The log filter if `RUST_LOG` is not set. actix-http is silent, because it logs every malformed request as an error:
/// a port scanner could fill the log. The client of NATS repeats what the log says of its connection.
const DEFAULT_LOG_FILTER: &str = "info,actix_http=off,actix_server=warn,async_nats=warn";

/// The command line of `tidings serve`.
#[derive(Args)]
pub struct ServeArguments {
    /// The configuration file. The default is config.toml in the working directory, if it exists.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where to listen; overrides server.host and server.port. With port 0, the system chooses a free port, which is
    /// printed.
    #[arg(long, value_name = "HOST:PORT")]
    listen: Option<String>,
    /// Begin a new epoch. Use it once after the log's directory was restored from a copy: then no id is used twice, and
    /// earlier subscribers are told that they may have missed events.
    #[arg(long)]
    new_epoch: bool,
    /// Check the configuration, print a question for each point that differs from the security checklist, and exit: 0
    /// if the configuration is valid, 78 if it is not.
    #[arg(long)]
    check: bool,
}

/// Runs the server until a signal ends it or its log fails. With `--check`, it only checks the configuration.
pub fn serve(arguments: &ServeArguments) -> ExitCode {
    let mut config = match Config::load(arguments.config.as_deref(), arguments.listen.as_deref()) {
        Ok(config) => config,
        Err(error) => return fail(EXIT_CONFIG, error),
    };
    if arguments.new_epoch && config.log.engine != Engine::Disk {
        let reason = "--new-epoch is for log.engine = \"disk\": the memory engine begins a new epoch with each start, and the \
                      cluster engine with each new stream";
        return fail(EXIT_CONFIG, reason);
    }
    config.log.new_epoch = arguments.new_epoch;
    if arguments.check {
        return match check(&config, descriptors_needed(&config)) {
            Ok(findings) => {
                println!("{findings}");
                ExitCode::SUCCESS
            }
            Err(error) => fail(EXIT_CONFIG, error),
        };
    }
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(DEFAULT_LOG_FILTER));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    actix_rt::System::new().block_on(run(arguments, config))
}

/// Prints why the process ends.
fn fail(exit_code: u8, reason: impl Display) -> ExitCode {
    eprintln!("tidings: {reason}");
    ExitCode::from(exit_code)
}

async fn run(arguments: &ServeArguments, config: Config) -> ExitCode {
    let (drain, anonymous, history) = (config.shutdown.drain, config.auth.anonymous, history(&config));
    // Handle signals before the banner is printed: a program that has read the banner may send a signal at once.
    let (Ok(mut terminate), Ok(mut interrupt), Ok(mut hangup)) =
        (signal(SignalKind::terminate()), signal(SignalKind::interrupt()), signal(SignalKind::hangup()))
    else {
        return fail(EXIT_FAILURE, "cannot listen for signals");
    };
    ignore_signals();
    let descriptors = descriptors_needed(&config);
    raise_descriptor_limit();
    grow_descriptor_table(descriptors);
    let server = match Server::listen(config) {
        Ok(server) => server,
        Err(error @ (StartError::Tls(_) | StartError::Auth(_) | StartError::Cluster(OpenError::Tls(_)))) => {
            return fail(EXIT_CONFIG, error);
        }
        Err(error) => return fail(EXIT_FAILURE, error),
    };
    // After listening, so that an error of listening is printed alone.
    warn_of_descriptor_limit(descriptors);
    // If nobody reads stdout, the server runs nevertheless.
    print_banner(&server, &history, anonymous).ok();
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = hangup.recv() => {
                tracing::info!("SIGHUP: reading keys and certificates again; all else is read only at the start");
                if let Err(error) = reload(arguments, &server).await {
                    tracing::error!(%error, "the keys stay as they were");
                }
            }
            reason = server.failed() => {
                let exit_code = fail(EXIT_LOG, format_args!("the log has failed: {reason}"));
                server.abandon().await;
                return exit_code;
            }
        }
    }
    let streams = server.subscribers();
    tracing::info!(within = ?drain, streams, "ending the streams; a second signal ends the process at once");
    tokio::select! {
        () = server.shutdown() => {}
        _ = terminate.recv() => tracing::warn!("ended at once"),
        _ = interrupt.recv() => tracing::warn!("ended at once"),
    }
    ExitCode::SUCCESS
}

/// Reads the keys of the configuration and the files of TLS again.
async fn reload(arguments: &ServeArguments, server: &Server) -> Result<(), Box<dyn std::error::Error>> {
    let config = Config::load(arguments.config.as_deref(), arguments.listen.as_deref())?;
    Ok(server.reload(&config.auth).await?)
}

/// Ignores SIGUSR1 and SIGUSR2, which would otherwise end the process silently. Tools send both to make other servers
/// reload their configuration or reopen their log files.
fn ignore_signals() {
    let kinds = [("SIGUSR1", SignalKind::user_defined1()), ("SIGUSR2", SignalKind::user_defined2())];
    for (name, kind) in kinds {
        let Ok(mut signals) = signal(kind) else { continue };
        tokio::task::spawn_local(async move {
            while signals.recv().await.is_some() {
                tracing::info!("{name} is ignored: SIGHUP reads keys and certificates again; SIGTERM ends the server");
            }
        });
    }
}

/// How many file descriptors the server may need.
fn descriptors_needed(config: &Config) -> usize {
    let limits = &config.limits;
    limits.connections_max.saturating_add(limits.pending_connections_max).saturating_add(OTHER_DESCRIPTORS)
}

/// Raises the limit of open files as far as the system allows. A shell's limit is usually far below that.
fn raise_descriptor_limit() {
    if let Err(error) = rlimit::increase_nofile_limit(u64::MAX) {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
}

fn warn_of_descriptor_limit(needed: usize) {
    let limit = descriptor_limit();
    if limit < needed {
        tracing::warn!(
            limit,
            needed,
            "the limit of open files (ulimit -n) is below the sum of limits.connections_max, \
             limits.pending_connections_max and {OTHER_DESCRIPTORS}; when it is reached, idle connections are closed, \
             and if there are none, new connections are refused"
        );
    }
}

fn descriptor_limit() -> usize {
    rlimit::Resource::NOFILE.get_soft().map_or(0, |limit| usize::try_from(limit).unwrap_or(usize::MAX))
}

/// Makes the kernel allocate the table of file descriptors at its full size while the process has one thread.
///
/// Otherwise the kernel doubles the table at 1,024, 2,048, 4,096 … descriptors. In a process with several threads, each
/// time it waits until no processor uses the old table. That takes about a tenth of a second. When many clients connect
/// at the same time, the queue of new connections overflows meanwhile.
fn grow_descriptor_table(needed: usize) {
    let highest = descriptor_limit().min(needed).saturating_sub(1);
    if let Ok(highest) = i32::try_from(highest) {
        // The copy of stderr gets the number `highest`, and is closed at once. If this fails, the table stays small.
        rustix::io::fcntl_dupfd_cloexec(std::io::stderr(), highest).ok();
    }
}

/// Where the events are, for the banner.
fn history(config: &Config) -> String {
    match config.log.engine {
        Engine::Memory => "in memory, lost when this process ends (log.engine)".to_owned(),
        Engine::Disk => format!("in {}", config.log.path.display()),
        Engine::Cluster => {
            let cluster = &config.cluster;
            format!("in the stream {} of NATS, at {}", cluster.namespace, cluster.servers.join(", "))
        }
    }
}

fn print_banner(server: &Server, history: &str, anonymous: Anonymous) -> std::io::Result<()> {
    let scheme = if server.is_tls() { "https" } else { "http" };
    let url = format!("{scheme}://{}", server.address());
    let mut out = std::io::stdout().lock();
    writeln!(out, "Tidings {} serves on {url}/ (the page to try it)", env!("CARGO_PKG_VERSION"))?;
    writeln!(out, "  subscribe: curl -N '{url}/subscribe?topic=news'")?;
    writeln!(out, "  publish:   curl '{url}/publish?topic=news' --data-urlencode 'content=hello'")?;
    writeln!(out, "  history:   {history}")?;
    let access = match anonymous {
        Anonymous::Loopback if server.address().ip().to_canonical().is_loopback() => {
            "everything without a token, from this machine; behind a proxy set auth.anonymous = \"none\""
        }
        Anonymous::Loopback | Anonymous::None => "with a token only (auth.anonymous)",
        Anonymous::Subscribe => "anybody may subscribe without a token (auth.anonymous)",
        Anonymous::All => "anybody may publish and subscribe without a token (auth.anonymous)",
    };
    writeln!(out, "  access:    {access}")?;
    writeln!(out, "  stop with Ctrl-C")?;
    out.flush()
}
