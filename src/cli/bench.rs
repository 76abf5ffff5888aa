//! `tidings bench`: loads a server of Server-Sent Events and checks that everybody gets everything, once and in order.
//!
//! ```text
//!  arguments ─► plan ─► run: the modes, and what is measured when ─► report
//!                        └► load: one thread, one poll ─┬► publishers ─► POST, stamped
//!                                                       └► subscribers ◄─ response ◄─ blocks ─► verify
//! ```
//!
//! It shares the machine with what it measures, so it must be cheap: an event costs no memory, a subscriber a few words
//! and a buffer for one cut line. It uses nothing of the broker: what it says of another server it says of ours alike.

use std::{
    io::{self, Write as _},
    process::ExitCode,
    time::Duration,
};

use clap::Args;

mod run;
mod load;
mod progress;
mod publisher;
mod subscriber;
mod shared;
mod dial;
mod tally;
mod verify;
mod blocks;
mod plan;
mod stamp;
mod report;
mod process;

use plan::{Amount, Mode, Plan, Sizes, Target};
use process::Process;

/// Descriptors that are neither a subscriber's nor a publisher's.
const DESCRIPTORS_SPARE: usize = 32;

const EXAMPLES: &str = "\
Try it, with `tidings` running in another terminal:
  tidings bench                                             1,000 subscribers of one topic, 100 events
  tidings bench --subscribers 10000 --rate 5 --messages 50  each event reaches all before the next
  tidings bench --topics 1000 --publishers 8                one subscriber a topic
  tidings bench --replay --messages 5000                    all ask for the history at once
  tidings bench --storm --messages 10                       all drop, and resume where they were
  tidings bench --idle 60                                   only hold the connections
  tidings bench --pid $(pgrep -o tidings)                   what it costs the server

Another server, here nginx with Nchan:
  tidings bench http://127.0.0.1:8081 --publish '/pub?id={topic}' --subscribe '/sub?id={topic}'

Every subscriber must get every acknowledged event of its topic once, in one order that is the same for all and never
against the order of the answers. It ends with 0 when that is so and nothing else went wrong, and with 1 when not.";

/// The command line of `tidings bench`.
#[expect(clippy::struct_excessive_bools, reason = "they are flags")]
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// The server: `http://HOST[:PORT][/PREFIX]`. There is no TLS.
    #[arg(default_value = "http://127.0.0.1:8080", value_parser = Target::parse)]
    url: Target,
    /// Streams that are held open; the topics share them evenly.
    #[arg(long, value_name = "N", default_value = "1000", value_parser = positive)]
    subscribers: usize,
    /// Topics that events are published to in turn.
    #[arg(long, value_name = "N", default_value = "1", value_parser = positive)]
    topics: usize,
    /// Connections that publish, each one event after the other.
    #[arg(long, value_name = "N", default_value = "1", value_parser = positive)]
    publishers: usize,
    /// Events of each topic.
    #[arg(long, value_name = "N", default_value = "100", conflicts_with = "duration")]
    messages: u32,
    /// Publish for a time instead: `30` seconds, or `5m`.
    #[arg(long, value_name = "TIME", value_parser = duration, conflicts_with_all = ["replay", "storm", "idle"])]
    duration: Option<Duration>,
    /// Events a second over all topics; 0 is as fast as the answers come. With a rate an event that is sent late
    /// because the server had not answered counts from when it was due.
    #[arg(long, value_name = "N", default_value = "0", value_parser = rate)]
    rate: f64,
    /// Bytes of each event, or a range such as `100..10000` of which each size is as likely as another.
    #[arg(long, value_name = "BYTES", default_value = "100", value_parser = Sizes::parse)]
    size: Sizes,
    /// Publish first; then all subscribers ask for everything at once (`since=all`).
    #[arg(long, conflicts_with_all = ["storm", "idle"])]
    replay: bool,
    /// Publish half, drop all subscribers, publish the rest, and let all resume at once with their `Last-Event-ID`.
    #[arg(long, conflicts_with = "idle")]
    storm: bool,
    /// Publish nothing: hold the connections for a time and tell what came.
    #[arg(long, value_name = "TIME", value_parser = duration)]
    idle: Option<Duration>,
    /// Where to POST events.
    #[arg(long, value_name = "PATH", default_value = "/publish?topic={topic}", value_parser = template)]
    publish: String,
    /// Where the streams are.
    #[arg(long, value_name = "PATH", default_value = "/subscribe?topic={topic}&marks=id", value_parser = template)]
    subscribe: String,
    /// A field for every request; may be given several times.
    #[arg(long, value_name = "NAME: VALUE", value_parser = header)]
    header: Vec<String>,
    /// A process of the server on this machine: also tell what it and its children use (Linux).
    #[arg(long, value_name = "PID")]
    pid: Option<u32>,
    /// Never sleep: the system charges the server with waking this process, and more so the faster it reads. Takes a
    /// core, which must not be one of the server's.
    #[arg(long)]
    spin: bool,
    /// How long to wait when nothing comes any more.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration)]
    patience: Duration,
    /// Print the figures as one JSON object.
    #[arg(long)]
    json: bool,
}

/// Runs it; 0 when all is well, 1 when something was lost, repeated, reordered, refused, or could not be done.
pub fn bench(arguments: Arguments) -> ExitCode {
    let json = arguments.json;
    match measure(arguments) {
        Ok(report) => {
            let text = if json { serde_json::to_string(&report).unwrap_or_default() } else { report.to_string() };
            // Nobody may be reading; how it ended is in the exit code, too.
            writeln!(io::stdout(), "{}", text.trim_end()).ok();
            if report.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(reason) => {
            eprintln!("tidings bench: {reason}");
            ExitCode::FAILURE
        }
    }
}

fn measure(arguments: Arguments) -> Result<report::Report, String> {
    let server = arguments.pid.map(Process::tree).transpose()?;
    descriptors(arguments.subscribers, arguments.publishers)?;
    run::run(&plan(arguments)?, server.as_ref())
}

fn plan(arguments: Arguments) -> Result<Plan, String> {
    let mode = match arguments.idle {
        Some(time) => Mode::Idle(time),
        None if arguments.replay => Mode::Replay,
        None if arguments.storm => Mode::Storm,
        None => Mode::Live,
    };
    Ok(Plan {
        address: arguments.url.find()?,
        target: arguments.url,
        mode,
        subscribers: arguments.subscribers,
        topics: arguments.topics,
        publishers: arguments.publishers,
        amount: arguments.duration.map_or(Amount::Messages(arguments.messages), Amount::Duration),
        rate: arguments.rate,
        sizes: arguments.size,
        publish: arguments.publish,
        subscribe: arguments.subscribe,
        headers: arguments.header,
        spin: arguments.spin,
        patience: arguments.patience,
        run: fastrand::u32(..),
    })
}

/// Raises the limit of open files as far as the system lets it, and says when that is not enough.
fn descriptors(subscribers: usize, publishers: usize) -> Result<(), String> {
    let needed = subscribers.saturating_add(publishers).saturating_add(DESCRIPTORS_SPARE);
    let limit = rlimit::increase_nofile_limit(u64::MAX).map_err(|error| format!("the open-files limit: {error}"))?;
    if usize::try_from(limit).is_ok_and(|limit| limit < needed) {
        return Err(format!(
            "{subscribers} subscribers and {publishers} publishers need {needed} open files, and this process may have \
             {limit}: raise the hard limit (ulimit -Hn), or ask for fewer"
        ));
    }
    Ok(())
}

fn positive(text: &str) -> Result<usize, String> {
    let number = text.replace(['_', ','], "").parse().ok().filter(|n| (1..=10_000_000).contains(n));
    number.ok_or_else(|| "it must be 1 to 10000000".to_owned())
}

fn rate(text: &str) -> Result<f64, String> {
    let rate = text.parse().ok().filter(|rate: &f64| rate.is_finite() && *rate >= 0.0);
    rate.ok_or_else(|| "it must be a number of events a second, or 0".to_owned())
}

fn duration(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    seconds.map_or_else(|| humantime::parse_duration(text).map_err(|error| error.to_string()), Ok)
}

fn template(text: &str) -> Result<String, String> {
    let is_path = text.starts_with('/') && !text.contains(|c: char| c.is_whitespace() || c.is_control());
    if is_path { Ok(text.to_owned()) } else { Err("it must be a path, as in /publish?topic={topic}".to_owned()) }
}

fn header(text: &str) -> Result<String, String> {
    let is_field = text.split_once(':').is_some_and(|(name, _)| !name.is_empty()) && !text.contains(['\r', '\n']);
    if is_field { Ok(text.to_owned()) } else { Err("it must be a name, a colon and a value".to_owned()) }
}
