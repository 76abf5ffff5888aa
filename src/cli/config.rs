//! `tidings config`: the defaults, to begin a `config.toml` with.

use std::{io::Write as _, process::ExitCode};

use tidings::config::document;

use crate::EXIT_FAILURE;

/// The end of `tidings config --help`.
pub const EXAMPLES: &str = "\
Write a file, keep what you change, and check it:
  tidings config > config.toml
  tidings --check

The command prints the built-in defaults, and reads neither a config.toml nor the environment.";

/// Prints the default `config.toml`.
pub fn config() -> ExitCode {
    match std::io::stdout().write_all(document::toml().as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tidings config: {error}");
            ExitCode::from(EXIT_FAILURE)
        }
    }
}
