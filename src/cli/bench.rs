//! `tidings bench`: puts load on a server of Server-Sent Events, and checks that each subscriber gets each event once,
//! in order.
//!
//! ```text
//!  arguments ─► plan ─► run: the modes, and what each measures ─► report
//!                        └► load: one thread, one poll ─┬► publisher ─► POST, stamped
//!                                                       └► subscriber: response ─► blocks ─► verify
//! ```
//!
//! The benchmark often runs on the same machine as the server, so it must be cheap. An event takes some 30 bytes of
//! memory, no matter how many subscribers get it. A subscriber takes a few hundred, and stores at most the beginning of
//! one line. The benchmark uses no code of the broker, so that it treats all servers in the same way.

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

mod run;
mod report;
mod process;
mod load;
mod publisher;
mod subscriber;
mod shared;
mod dial;
mod verify;
mod blocks;
mod response;
mod tally;
mod plan;
mod arguments;
mod stamp;

pub use plan::Plan;
use process::Process;

/// File descriptors for everything except subscribers and publishers.
const OTHER_DESCRIPTORS: usize = 32;

/// Runs the benchmark. The exit code is 1 if an event was lost, repeated or out of order, or on any error.
pub fn bench(plan: &Plan) -> ExitCode {
    match measure(plan) {
        Ok(report) => {
            let text = if plan.json { serde_json::to_string(&report).unwrap_or_default() } else { report.to_string() };
            // If nobody reads stdout, the exit code still tells the result.
            writeln!(io::stdout(), "{}", text.trim_end()).ok();
            if report.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(reason) => {
            eprintln!("tidings bench: {reason}");
            ExitCode::FAILURE
        }
    }
}

fn measure(plan: &Plan) -> Result<report::Report, String> {
    let server = plan.pid.map(Process::tree).transpose()?;
    raise_descriptor_limit(plan)?;
    run::run(plan, server.as_ref())
}

/// Raises the limit of open files as far as the system allows. It is an error if that is not enough.
fn raise_descriptor_limit(plan: &Plan) -> Result<(), String> {
    let Plan { subscribers, publishers, .. } = plan;
    let needed = subscribers + publishers + OTHER_DESCRIPTORS;
    let limit = rlimit::increase_nofile_limit(u64::MAX).map_err(|error| format!("the limit of open files: {error}"))?;
    if usize::try_from(limit).is_ok_and(|limit| limit < needed) {
        return Err(format!(
            "{subscribers} subscribers and {publishers} publishers need {needed} open files, and this process may have \
             {limit}: raise the hard limit (ulimit -Hn), or ask for fewer"
        ));
    }
    Ok(())
}
