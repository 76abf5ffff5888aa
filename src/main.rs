//! The command line and the exit codes.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod cli;

use cli::{bench, config, import, serve, token};

/// The configuration is invalid (`EX_CONFIG` of sysexits.h).
const EXIT_CONFIG: u8 = 78;
/// The log failed while the server was running (`EX_IOERR`).
const EXIT_LOG: u8 = 74;
/// The server could not start, or another command has failed.
const EXIT_FAILURE: u8 = 1;

/// A topic-based publish/subscribe broker over Server-Sent Events: publish with curl, subscribe with a browser.
#[derive(Parser)]
#[command(version, args_conflicts_with_subcommands = true, after_help = EXAMPLES)]
struct CommandLine {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: serve::ServeArguments,
}

#[derive(Subcommand)]
enum Command {
    /// Run the broker. This is the default.
    Serve(serve::ServeArguments),
    /// Measure a server: publish, subscribe, and check every delivery.
    Bench(bench::Plan),
    /// Print the default config.toml: each key with its default and what it is for.
    #[command(after_help = config::EXAMPLES)]
    Config,
    /// Make a token, or show what a token says.
    #[command(subcommand, after_help = token::EXAMPLES)]
    Token(token::TokenCommand),
    /// Move a log from the disk into the cluster.
    #[command(after_help = import::EXAMPLES)]
    Import(import::ImportArguments),
}

const EXAMPLES: &str = "\
Try it:
  tidings                                              serve on http://127.0.0.1:8080/
  curl -N 'http://127.0.0.1:8080/subscribe?topic=news'
  curl 'http://127.0.0.1:8080/publish?topic=news' --data-urlencode 'content=hello'

Every key of config.toml can also be set as an environment variable: log.age_max is TIDINGS__LOG__AGE_MAX.
`tidings config` prints them all.";

fn main() -> ExitCode {
    let arguments = CommandLine::parse();
    match arguments.command.unwrap_or(Command::Serve(arguments.serve)) {
        Command::Serve(arguments) => serve::serve(&arguments),
        Command::Bench(plan) => bench::bench(&plan),
        Command::Config => config::config(),
        Command::Token(command) => token::token(command),
        Command::Import(arguments) => import::import(&arguments),
    }
}
