//! `tidings --check`: whether the configuration can be used, and what the checklist of docs/security.md asks about it.

use std::{error::Error, fs, os::unix::fs::PermissionsExt as _};

use tidings::{
    auth::Auth,
    config::{
        Config, Engine,
        checklist::{Findings, Machine, review},
    },
    transport::{Acceptor, check_outgoing},
};

/// Checks a configuration, and says what was found. `open_files_needed` is how many files the server may have to open.
///
/// # Errors
/// When the server would not start with this configuration.
pub(super) fn check(config: &Config, open_files_needed: usize) -> Result<String, Box<dyn Error>> {
    // The keys and certificates are in files of their own, which the server reads when it starts.
    Auth::load(&config.auth, config.server.address())?;
    Acceptor::load(&config.server)?;
    if config.log.engine == Engine::Cluster {
        check_outgoing(&config.cluster)?;
    }
    let hard_limit = rlimit::Resource::NOFILE.get_hard().unwrap_or(u64::MAX);
    let machine = Machine {
        log_mode: fs::metadata(&config.log.path).ok().map(|directory| directory.permissions().mode()),
        // The server raises its limit to this one.
        open_files: usize::try_from(hard_limit).unwrap_or(usize::MAX),
        open_files_needed,
    };
    let Findings { questions, unseen, is_exposed } = review(config, machine);
    let mut lines = vec!["the configuration is valid".to_owned()];
    if !questions.is_empty() {
        lines.push("the checklist of docs/security.md asks:".to_owned());
        lines.extend(questions.iter().map(|question| format!("  {question}")));
    } else if is_exposed {
        lines.push("it follows the checklist of docs/security.md".to_owned());
    } else {
        lines.push("only this machine can connect, so the checklist of docs/security.md asks nothing".to_owned());
    }
    lines.extend(unseen.iter().map(|advice| format!("what --check cannot see: {advice}")));
    Ok(lines.join("\n"))
}
