//! `tidings bench`: puts load on a server of Server-Sent Events, and checks that each subscriber gets each event once,
//! in order.
//!
//! ```text
//!  arguments ─► plan ─► run: the modes, and what each measures ─► report
//!                        └► load: one thread, one poll ─┬► publishers ─► POST, stamped
//!                                                       └► subscribers ◄─ response ◄─ blocks ─► verify
//! ```
//!
//! It often runs on the same machine as the server, so it must be cheap. An event costs no memory. A subscriber costs a
//! few words and a buffer for a part of one line. It uses no code of the broker, so that it treats all servers in the
//! same way.

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

/// File descriptors for everything except subscribers and publishers.
const OTHER_DESCRIPTORS: usize = 32;

const EXAMPLES: &str = "\
Try it, with `tidings` running in another terminal:
  tidings bench                                             1,000 subscribers of one topic, 100 events
  tidings bench --subscribers 10000 --rate 5 --messages 50  each event reaches all before the next
  tidings bench --topics 1000 --publishers 8                one subscriber a topic
  tidings bench --replay --messages 5000                    all request the history at the same time
  tidings bench --storm --messages 10                       all disconnect, and resume where they were
  tidings bench --idle 60                                   only hold the connections
  tidings bench --pid $(pgrep -o tidings)                   what it costs the server

Another server, here nginx with Nchan:
  tidings bench http://127.0.0.1:8081 --publish '/pub?id={topic}' --subscribe '/sub?id={topic}'

Every subscriber must get every acknowledged event of its topic once. The order must be the same for all, and an event
that was published after the answer to another event must come after it. The exit code is 0 if that is so and there were
no errors, and 1 otherwise.";

/// The command line of `tidings bench`.
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct BenchArguments {
    /// The server: `http://HOST[:PORT][/PREFIX]`. There is no TLS.
    #[arg(default_value = "http://127.0.0.1:8080", value_parser = Target::parse)]
    url: Target,
    /// How many streams to open. They are spread evenly over the topics.
    #[arg(long, value_name = "N", default_value = "1000", value_parser = positive)]
    subscribers: usize,
    /// How many topics to publish to, in rotation.
    #[arg(long, value_name = "N", default_value = "1", value_parser = positive)]
    topics: usize,
    /// How many connections publish. Each publishes one event at a time.
    #[arg(long, value_name = "N", default_value = "1", value_parser = positive)]
    publishers: usize,
    /// How many events to publish to each topic.
    #[arg(long, value_name = "N", default_value = "100", conflicts_with = "duration")]
    messages: u32,
    /// Publish for a time instead: `30` seconds, or `5m`.
    #[arg(long, value_name = "TIME", value_parser = duration, conflicts_with_all = ["replay", "storm", "idle"])]
    duration: Option<Duration>,
    /// Events per second over all topics; 0 means as fast as the answers arrive. With a rate, latency is measured from
    /// the scheduled time, even if the event is sent later because an earlier answer was late.
    #[arg(long, value_name = "N", default_value = "0", value_parser = rate)]
    rate: f64,
    /// The size of an event in bytes, or a range such as `100..10000`, from which sizes are chosen at random.
    #[arg(long, value_name = "BYTES", default_value = "100", value_parser = Sizes::parse)]
    size: Sizes,
    /// Publish first. Then all subscribers connect and request the whole history (`since=all`).
    #[arg(long, conflicts_with_all = ["storm", "idle"])]
    replay: bool,
    /// Publish half, disconnect all subscribers, publish the rest, then let all resume with their `Last-Event-ID`.
    #[arg(long, conflicts_with = "idle")]
    storm: bool,
    /// Publish nothing: keep the connections open for a time, and report what arrives.
    #[arg(long, value_name = "TIME", value_parser = duration)]
    idle: Option<Duration>,
    /// The path to POST events to.
    #[arg(long, value_name = "PATH", default_value = "/publish?topic={topic}", value_parser = template)]
    publish: String,
    /// The path of the streams.
    #[arg(long, value_name = "PATH", default_value = "/subscribe?topic={topic}&marks=id", value_parser = template)]
    subscribe: String,
    /// A header for every request. May be given several times.
    #[arg(long, value_name = "NAME: VALUE", value_parser = header)]
    header: Vec<String>,
    /// The process id of the server on this machine: also report what it and its children use (Linux).
    #[arg(long, value_name = "PID")]
    pid: Option<u32>,
    /// Never sleep. Otherwise the system charges the server for waking this process. It needs a core of its own, which
    /// the server must not use.
    #[arg(long)]
    spin: bool,
    /// How long to wait for missing answers and events when nothing arrives any more.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration)]
    timeout: Duration,
    /// Print the results as one JSON object.
    #[arg(long)]
    json: bool,
}

/// Runs the benchmark. The exit code is 1 if an event was lost, repeated or out of order, or on any error.
pub fn bench(arguments: BenchArguments) -> ExitCode {
    let json = arguments.json;
    match measure(arguments) {
        Ok(report) => {
            let text = if json { serde_json::to_string(&report).unwrap_or_default() } else { report.to_string() };
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

fn measure(arguments: BenchArguments) -> Result<report::Report, String> {
    let server = arguments.pid.map(Process::tree).transpose()?;
    raise_descriptor_limit(arguments.subscribers, arguments.publishers)?;
    run::run(&plan(arguments)?, server.as_ref())
}

fn plan(arguments: BenchArguments) -> Result<Plan, String> {
    let mode = match arguments.idle {
        Some(time) => Mode::Idle(time),
        None if arguments.replay => Mode::Replay,
        None if arguments.storm => Mode::Storm,
        None => Mode::Live,
    };
    Ok(Plan {
        address: arguments.url.resolve()?,
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
        stall_timeout: arguments.timeout,
        run: fastrand::u32(..),
    })
}

/// Raises the limit of open files as far as the system allows. It is an error if that is not enough.
fn raise_descriptor_limit(subscribers: usize, publishers: usize) -> Result<(), String> {
    let needed = subscribers.saturating_add(publishers).saturating_add(OTHER_DESCRIPTORS);
    let limit = rlimit::increase_nofile_limit(u64::MAX).map_err(|error| format!("the limit of open files: {error}"))?;
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
    rate.ok_or_else(|| "it must be a number of events per second, or 0".to_owned())
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
