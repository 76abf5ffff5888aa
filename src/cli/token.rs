//! `tidings token`: makes tokens, and shows what they say.

use std::{
    fmt::Display,
    io::{self, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    num::NonZeroU32,
    path::PathBuf,
    process::ExitCode,
    time::{Duration, SystemTime},
};

use clap::{Args, Subcommand, value_parser};
use tidings::{
    auth::{Auth, NewToken, decode_unverified, mint},
    config::{Config, OWN_LIMIT_MAX, OwnLimits},
};

use crate::{EXIT_CONFIG, EXIT_FAILURE};

/// The end of `tidings token --help`.
pub const EXAMPLES: &str = "\
With a key in config.toml ([[auth.keys]] with id, algorithm and secret):
  tidings token new --subject ann --publish 'users/{sub}' --subscribe 'news/*' --expires-in 1h
  tidings token show TOKEN
  curl -H \"Authorization: Bearer $(tidings token new --publish '**')\" …

In a pattern, * is one segment of a topic, ** at the end is the rest, and {sub} is the subject.";

/// What to do.
#[derive(Subcommand)]
pub enum TokenCommand {
    /// Make a token, and print it.
    New(NewArguments),
    /// Print the header and the claims of a token, and whether a key of the configuration has signed it.
    Show(ShowArguments),
}

/// The command line of `tidings token new`.
#[derive(Args)]
pub struct NewArguments {
    /// The configuration file. The default is config.toml in the working directory, if it exists.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The id of the key that signs the token. The default is the first one.
    #[arg(long, value_name = "ID")]
    key: Option<String>,
    /// The private key in PEM, if the configuration has only the public one.
    #[arg(long, value_name = "FILE")]
    private_key: Option<PathBuf>,
    /// Whose token it is (`sub`).
    #[arg(long, value_name = "NAME")]
    subject: Option<String>,
    /// A pattern of topics that its holder may publish to; may be repeated.
    #[arg(long, value_name = "PATTERN")]
    publish: Vec<String>,
    /// A pattern of topics that its holder may subscribe to; may be repeated.
    #[arg(long, value_name = "PATTERN")]
    subscribe: Vec<String>,
    /// A pattern of topics that its holder may manage; may be repeated.
    #[arg(long, value_name = "PATTERN")]
    manage: Vec<String>,
    /// How often its key and subject may publish within a second.
    #[arg(long, value_name = "N", value_parser = value_parser!(u32).range(1..=i64::from(OWN_LIMIT_MAX)))]
    publishes_per_second: Option<u32>,
    /// How many streams its key and subject may have open at one time.
    #[arg(long, value_name = "N", value_parser = value_parser!(u32).range(1..=i64::from(OWN_LIMIT_MAX)))]
    subscribers_max: Option<u32>,
    /// How long it is valid: 90s, 10m, 24h.
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = humantime::parse_duration)]
    expires_in: Duration,
}

/// The command line of `tidings token show`.
#[derive(Args)]
pub struct ShowArguments {
    /// The configuration file. The default is config.toml in the working directory, if it exists.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The token; - reads it from the standard input, so that it is in no list of processes.
    token: String,
}

/// Runs `tidings token`.
pub fn token(command: TokenCommand) -> ExitCode {
    match command {
        TokenCommand::New(arguments) => new(arguments),
        TokenCommand::Show(arguments) => show(&arguments),
    }
}

fn fail(exit_code: u8, reason: impl Display) -> ExitCode {
    eprintln!("tidings token: {reason}");
    ExitCode::from(exit_code)
}

fn new(arguments: NewArguments) -> ExitCode {
    let config = match Config::load(arguments.config.as_deref(), None) {
        Ok(config) => config,
        Err(error) => return fail(EXIT_CONFIG, error),
    };
    let id = arguments.key.as_ref();
    let Some(key) = config.auth.keys.iter().find(|key| id.is_none_or(|id| key.id == *id)) else {
        return fail(EXIT_CONFIG, "there is no such key in the configuration: add [[auth.keys]] with this id");
    };
    let token = NewToken {
        private_key_file: arguments.private_key,
        subject: arguments.subject,
        publish: arguments.publish,
        subscribe: arguments.subscribe,
        manage: arguments.manage,
        limits: OwnLimits {
            publishes_per_second: arguments.publishes_per_second.and_then(NonZeroU32::new),
            subscribers_max: arguments.subscribers_max.and_then(NonZeroU32::new),
        },
        expires_in: arguments.expires_in,
    };
    match mint(key, &token, SystemTime::now()) {
        Ok(token) => print(&token),
        Err(error) => fail(EXIT_FAILURE, error),
    }
}

fn show(arguments: &ShowArguments) -> ExitCode {
    let mut token = arguments.token.clone();
    if token == "-" {
        token.clear();
        if let Err(error) = io::stdin().read_to_string(&mut token) {
            return fail(EXIT_FAILURE, error);
        }
    }
    let token = token.trim();
    let Some(decoded) = decode_unverified(token) else { return fail(EXIT_FAILURE, "this is not a token") };
    let text = serde_json::to_string_pretty(&decoded).unwrap_or_default();
    let printed = print(&text);
    let config = match Config::load(arguments.config.as_deref(), None) {
        Ok(config) => config,
        Err(error) => return fail(EXIT_CONFIG, error),
    };
    let loopback = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
    let auth = match Auth::load(&config.auth, loopback) {
        Ok(auth) => auth,
        Err(error) => return fail(EXIT_CONFIG, error),
    };
    match auth.authenticate(token.as_bytes()) {
        Ok(caller) => {
            let key = caller.identity().map_or("", |identity| &*identity.key);
            let left = caller.valid_for(SystemTime::now()).unwrap_or_default();
            let left = humantime::format_duration(Duration::from_secs(left.as_secs()));
            eprintln!("it is valid: the key {key:?} has signed it; it is valid for another {left}");
            printed
        }
        Err(error) => fail(EXIT_FAILURE, error),
    }
}

fn print(text: &str) -> ExitCode {
    match writeln!(io::stdout(), "{text}") {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(EXIT_FAILURE, error),
    }
}
