//! The plan of a run: the command line, and the requests.

use std::{ops::RangeInclusive, time::Duration};

use clap::Args;

use super::arguments::{Target, duration, header, path, positive, rate, sizes};

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
pub struct Plan {
    /// The server: `http://HOST[:PORT][/PREFIX]`. There is no TLS.
    #[arg(default_value = "http://127.0.0.1:8080", value_parser = Target::parse)]
    pub url: Target,
    /// How many streams to open. They are spread evenly over the topics.
    #[arg(long, value_name = "N", default_value = "1000", value_parser = positive)]
    pub subscribers: usize,
    /// How many topics to publish to, in rotation.
    #[arg(long, value_name = "N", default_value = "1", value_parser = positive)]
    pub topics: usize,
    /// How many connections publish. Each publishes one event at a time.
    #[arg(long, value_name = "N", default_value = "1", value_parser = positive)]
    pub publishers: usize,
    /// How many events to publish to each topic.
    #[arg(long, value_name = "N", default_value = "100", conflicts_with = "duration")]
    pub messages: u32,
    /// Publish for a time instead: `30` seconds, or `5m`.
    #[arg(long, value_name = "TIME", value_parser = duration, conflicts_with_all = ["replay", "storm", "idle"])]
    pub duration: Option<Duration>,
    /// Events per second over all topics; 0 means as fast as the answers arrive. With a rate, latency is measured from
    /// the scheduled time, even if the event is sent later because an earlier answer was late.
    #[arg(long, value_name = "N", default_value = "0", value_parser = rate)]
    pub rate: f64,
    /// The size of an event in bytes, or a range such as `100..10000`, from which sizes are chosen at random.
    #[arg(long = "size", value_name = "BYTES", default_value = "100", value_parser = sizes)]
    pub sizes: RangeInclusive<usize>,
    /// Publish first. Then all subscribers connect and request the whole history (`since=all`).
    #[arg(long, conflicts_with_all = ["storm", "idle"])]
    pub replay: bool,
    /// Publish half, disconnect all subscribers, publish the rest, then let all resume with their `Last-Event-ID`.
    #[arg(long, conflicts_with = "idle")]
    pub storm: bool,
    /// Publish nothing: keep the connections open for a time, and report what arrives.
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub idle: Option<Duration>,
    /// The path to POST events to.
    #[arg(long, value_name = "PATH", default_value = "/publish?topic={topic}", value_parser = path)]
    pub publish: String,
    // With `marks=id`, a stream opens with an id without data. So even before its first event, a subscriber has a
    // cursor to resume from (`--storm`).
    /// The path of the streams.
    #[arg(long, value_name = "PATH", default_value = "/subscribe?topic={topic}&marks=id", value_parser = path)]
    pub subscribe: String,
    /// A header for every request. May be given several times.
    #[arg(long = "header", value_name = "NAME: VALUE", value_parser = header)]
    pub headers: Vec<String>,
    /// The process id of the server on this machine: also report what it and its children use (Linux).
    #[arg(long, value_name = "PID")]
    pub pid: Option<u32>,
    /// Never sleep: otherwise the CPU time for waking this process counts as the server's. A process that never sleeps
    /// needs a core of its own, which the server must not use.
    #[arg(long)]
    pub spin: bool,
    /// How long to wait for missing answers and events when nothing arrives any more.
    #[arg(long = "timeout", value_name = "TIME", default_value = "10s", value_parser = duration)]
    pub stall_timeout: Duration,
    /// Print the results as one JSON object.
    #[arg(long)]
    pub json: bool,
    /// A random number in the names of the topics and in the events. It distinguishes this run from others.
    #[arg(skip = fastrand::u32(..))]
    pub run_id: u32,
}

impl Plan {
    /// The request of a subscriber. `cursor` is its last event id, or empty if it connects for the first time.
    pub fn subscribe_request(&self, topic: usize, cursor: &[u8]) -> Vec<u8> {
        let mut path = self.path(&self.subscribe, topic);
        if self.replay {
            path.push_str(if path.contains('?') { "&since=all" } else { "?since=all" });
        }
        let head = self.request("GET", &path) + "Accept: text/event-stream\r\n";
        let resume = if cursor.is_empty() { Vec::new() } else { [b"Last-Event-ID: ", cursor, b"\r\n"].concat() };
        [head.as_bytes(), &resume, b"\r\n"].concat()
    }

    /// The request of a publisher up to its last header, `Content-Length`, without the value.
    pub fn publish_request(&self, topic: usize) -> String {
        self.request("POST", &self.path(&self.publish, topic)) + "Content-Type: text/plain\r\nContent-Length: "
    }

    /// The beginning of a request.
    fn request(&self, method: &str, path: &str) -> String {
        let (host, headers) = (&self.url.authority, self.headers.concat());
        format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\n{headers}")
    }

    /// A path of the plan, for a topic of this run.
    fn path(&self, template: &str, topic: usize) -> String {
        let topic = format!("bench-{:08x}-{topic}", self.run_id);
        format!("{}{}", self.url.prefix, template.replace("{topic}", &topic))
    }
}
