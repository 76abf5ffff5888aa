//! The results, as a table for people or as JSON for programs.

use std::{
    collections::BTreeMap,
    fmt::{self, Display},
};

use hdrhistogram::Histogram;
use serde::Serialize;

use super::tally::{ratio, wide};

/// The results of a run.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    pub url: String,
    pub mode: &'static str,
    pub subscribers: usize,
    pub topics: usize,
    pub publishers: usize,
    pub event_bytes: String,
    /// The first connects of the subscribers.
    pub connected: ConnectResult,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub published: Option<PublishResult>,
    /// The reconnects in a storm, each until the subscriber has got what it missed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resumed: Option<ConnectResult>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delivered: Option<DeliveryResult>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle: Option<IdleResult>,
    /// Acknowledged events that a subscriber has not got, summed over all subscribers.
    pub lost: u64,
    pub repeated: u64,
    pub out_of_order: u64,
    /// How often each error occurred.
    pub errors: BTreeMap<String, u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server: Option<ServerUsage>,
    /// How much of its one core the load generator used. Near 100, the generator was the bottleneck, not the server.
    /// `None` with `--spin`, which always uses the whole core.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generator_cpu_percent: Option<f64>,
}

/// How many subscribers connected, and how fast.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ConnectResult {
    pub subscribers: usize,
    pub seconds: f64,
    pub per_second: f64,
}

/// How many events were published, and how fast. The quantiles are the times until the answer.
#[derive(Clone, Debug, Serialize)]
pub struct PublishResult {
    pub acknowledged: u64,
    pub sent: u64,
    pub seconds: f64,
    pub per_second: f64,
    pub p50_us: u64,
    pub p99_us: u64,
}

/// How many events were delivered, and how fast. The quantiles are those of the latency.
#[derive(Clone, Debug, Serialize)]
pub struct DeliveryResult {
    pub events: u64,
    pub seconds: f64,
    pub per_second: f64,
    pub p50_us: u64,
    pub p99_us: u64,
    pub p999_us: u64,
    pub max_us: u64,
}

/// What arrived while nothing was published.
#[derive(Clone, Debug, Serialize)]
pub struct IdleResult {
    pub seconds: f64,
    /// Heartbeats, other comments, and events of other runs.
    pub blocks: u64,
    /// All bytes received, including the framing of HTTP.
    pub bytes: u64,
    pub still_connected: usize,
}

/// What the server used, with `--pid`.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ServerUsage {
    /// CPU time for each connect, or in a storm for each reconnect.
    pub connect_cpu_us: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delivery: Option<DeliveryCpu>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle_cpu_percent: Option<f64>,
    /// How much the memory grew for each subscriber.
    pub resident_bytes_per_subscriber: f64,
    /// The memory at the end.
    pub resident_bytes: u64,
}

/// The CPU time of the whole server, including publishing, divided by the number of deliveries.
#[expect(clippy::struct_field_names, reason = "the name of each figure ends with its unit")]
#[derive(Clone, Copy, Debug, Serialize)]
pub struct DeliveryCpu {
    pub total_us: f64,
    pub user_us: f64,
    pub system_us: f64,
}

impl ConnectResult {
    pub fn new(subscribers: usize, nanos: u64) -> Self {
        Self { subscribers, seconds: seconds(nanos), per_second: rate(wide(subscribers), nanos) }
    }
}

impl PublishResult {
    pub fn new(acknowledged: u64, sent: u64, nanos: u64, answers: &Histogram<u64>) -> Self {
        let (p50_us, p99_us) = (answers.value_at_quantile(0.5), answers.value_at_quantile(0.99));
        Self { acknowledged, sent, seconds: seconds(nanos), per_second: rate(acknowledged, nanos), p50_us, p99_us }
    }
}

impl DeliveryResult {
    pub fn new(events: u64, nanos: u64, latency: &Histogram<u64>) -> Self {
        Self {
            events,
            seconds: seconds(nanos),
            per_second: rate(events, nanos),
            p50_us: latency.value_at_quantile(0.5),
            p99_us: latency.value_at_quantile(0.99),
            p999_us: latency.value_at_quantile(0.999),
            max_us: latency.max(),
        }
    }
}

impl Report {
    /// Whether every subscriber connected, stayed connected, and got every event once and in order.
    pub fn is_good(&self) -> bool {
        self.lost == 0 && self.repeated == 0 && self.out_of_order == 0 && self.errors.is_empty()
    }

    /// The rows of the table about events, each with its name.
    fn event_rows(&self) -> Vec<(&'static str, String)> {
        let mut rows = Vec::new();
        let ConnectResult { subscribers, seconds, per_second } = self.connected;
        let connected = format!("{} of {}", grouped(subscribers), grouped(self.subscribers));
        rows.push(("connected", format!("{connected} in {seconds:.3} s, {}/s", grouped(per_second))));
        if let Some(PublishResult { acknowledged, per_second, p50_us, p99_us, .. }) = self.published {
            let amount = format!("{} acknowledged, {}/s", grouped(acknowledged), grouped(per_second));
            rows.push(("published", format!("{amount}; answered within p50 {}, p99 {}", time(p50_us), time(p99_us))));
        }
        if let Some(ConnectResult { subscribers, seconds, per_second }) = self.resumed {
            rows.push(("resumed", format!("{} in {seconds:.3} s, {}/s", grouped(subscribers), grouped(per_second))));
        }
        if let Some(DeliveryResult { events, per_second, p50_us, p99_us, p999_us, max_us, .. }) = self.delivered {
            rows.push(("delivered", format!("{}, {}/s", grouped(events), grouped(per_second))));
            let [p50, p99, p999, max] = [p50_us, p99_us, p999_us, max_us].map(time);
            rows.push(("latency", format!("p50 {p50}, p99 {p99}, p99.9 {p999}, max {max}")));
        }
        if let Some(IdleResult { seconds, blocks, bytes, still_connected }) = self.idle {
            let received = format!("received {} blocks, {} bytes in all", grouped(blocks), grouped(bytes));
            rows.push(("idle", format!("{} connected after {seconds:.0} s; {received}", grouped(still_connected))));
        }
        rows.push(("lost", grouped(self.lost)));
        rows.push(("repeated", grouped(self.repeated)));
        rows.push(("out of order", grouped(self.out_of_order)));
        let errors: Vec<_> = self.errors.iter().map(|(reason, n)| format!("{} × {reason}", grouped(*n))).collect();
        let errors = if errors.is_empty() { "none".to_owned() } else { errors.join("\n               ") };
        rows.push(("errors", errors));
        rows
    }

    /// The rows of the table about CPU time and memory.
    fn cost_rows(&self) -> Vec<(&'static str, String)> {
        let mut rows = Vec::new();
        if let Some(server) = &self.server {
            let mut cpu = vec![format!("{:.1} µs per connect", server.connect_cpu_us)];
            if let Some(DeliveryCpu { total_us, user_us, system_us }) = server.delivery {
                cpu.push(format!("{total_us:.3} µs per delivery (user {user_us:.3}, system {system_us:.3})"));
            }
            if let Some(percent) = server.idle_cpu_percent {
                cpu.push(format!("{percent:.2} % of a core while idle"));
            }
            rows.push(("server CPU", cpu.join(", ")));
            let (each, mib) = (grouped(server.resident_bytes_per_subscriber), ratio(server.resident_bytes, 1 << 20));
            rows.push(("server memory", format!("{each} bytes per subscriber, {mib:.1} MiB in total")));
        }
        let generator = self.generator_cpu_percent.map_or("a core, it spins".to_owned(), |percent| {
            let hint = if percent > 90.0 { ": the generator was the bottleneck, not the server" } else { "" };
            format!("{percent:.0} % of a core{hint}")
        });
        rows.push(("generator CPU", generator));
        rows
    }
}

impl Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = [(self.subscribers, "subscriber"), (self.topics, "topic"), (self.publishers, "publisher")];
        let counts = counts.map(|(n, what)| format!("{} {what}{}", grouped(n), if n == 1 { "" } else { "s" }));
        let Self { url, mode, event_bytes, .. } = self;
        writeln!(f, "{mode} on {url}: {}, events of {event_bytes} bytes\n", counts.join(", "))?;
        for (name, text) in self.event_rows().into_iter().chain(self.cost_rows()) {
            writeln!(f, "{name:<15}{text}")?;
        }
        Ok(())
    }
}

fn seconds(nanos: u64) -> f64 {
    ratio(nanos, 1_000_000_000)
}

/// `n` per second, if `n` took this time.
fn rate(n: u64, nanos: u64) -> f64 {
    ratio(n, nanos) * 1e9
}

/// Formats a number without decimals, and with commas between the thousands.
fn grouped(n: impl Display + Copy) -> String {
    let digits = format!("{n:.0}");
    let groups: Vec<_> = digits.as_bytes().rchunks(3).rev().map(String::from_utf8_lossy).collect();
    groups.join(",")
}

/// Formats a time in a unit that fits its size.
fn time(micros: u64) -> String {
    match micros {
        0..1_000 => format!("{micros} µs"),
        1_000..1_000_000 => format!("{:.2} ms", ratio(micros, 1_000)),
        _ => format!("{:.2} s", ratio(micros, 1_000_000)),
    }
}
