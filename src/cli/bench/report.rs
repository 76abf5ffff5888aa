//! The results, as a table for people or as JSON for programs.

use std::{collections::BTreeMap, fmt, time::Duration};

use hdrhistogram::Histogram;
use serde::Serialize;

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
    #[serde(skip_serializing_if = "Option::is_none")]
    /// The reconnects after the storm.
    pub resumed: Option<ConnectResult>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delivered: Option<DeliveryResult>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle: Option<IdleResult>,
    /// Events that a subscriber should have got and has not, for all subscribers.
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
    /// Heartbeats and comments.
    pub blocks: u64,
    /// The size of the blocks.
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
    pub fn new(subscribers: usize, time: Duration) -> Self {
        Self { subscribers, seconds: time.as_secs_f64(), per_second: rate(wide(subscribers), time) }
    }
}

impl PublishResult {
    pub fn new(acknowledged: u64, sent: u64, time: Duration, answers: &Histogram<u64>) -> Self {
        let (p50_us, p99_us) = (answers.value_at_quantile(0.5), answers.value_at_quantile(0.99));
        Self { acknowledged, sent, seconds: time.as_secs_f64(), per_second: rate(acknowledged, time), p50_us, p99_us }
    }
}

impl DeliveryResult {
    pub fn new(events: u64, time: Duration, latency: &Histogram<u64>) -> Self {
        Self {
            events,
            seconds: time.as_secs_f64(),
            per_second: rate(events, time),
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

    /// Writes one row of the table.
    fn row(f: &mut fmt::Formatter<'_>, name: &str, text: &str) -> fmt::Result {
        writeln!(f, "{name:<15}{text}")
    }

    fn deliveries(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(PublishResult { acknowledged, per_second, p50_us, p99_us, .. }) = self.published {
            let times = format!("answered within p50 {}, p99 {}", time(p50_us), time(p99_us));
            let text = format!("{} acknowledged, {}/s; {times}", grouped(acknowledged), round(per_second));
            Self::row(f, "published", &text)?;
        }
        if let Some(ConnectResult { subscribers, seconds, per_second }) = self.resumed {
            let text = format!("{} in {seconds:.3} s, {}/s", grouped(wide(subscribers)), round(per_second));
            Self::row(f, "resumed", &text)?;
        }
        if let Some(DeliveryResult { events, per_second, p50_us, p99_us, p999_us, max_us, .. }) = self.delivered {
            Self::row(f, "delivered", &format!("{}, {}/s", grouped(events), round(per_second)))?;
            let [p50, p99, p999, max] = [p50_us, p99_us, p999_us, max_us].map(time);
            Self::row(f, "latency", &format!("p50 {p50}, p99 {p99}, p99.9 {p999}, max {max}"))?;
        }
        if let Some(IdleResult { seconds, blocks, bytes, still_connected }) = self.idle {
            let received = format!("received {} blocks of {} bytes", grouped(blocks), grouped(bytes));
            let text = format!("{} connected after {seconds:.0} s; {received}", grouped(wide(still_connected)));
            Self::row(f, "idle", &text)?;
        }
        Ok(())
    }

    fn costs(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(ServerUsage { connect_cpu_us, delivery, idle_cpu_percent, .. }) = self.server {
            let delivery = delivery.map(|DeliveryCpu { total_us, user_us, system_us }| {
                format!("{total_us:.3} µs per delivery (user {user_us:.3}, system {system_us:.3})")
            });
            let idle = idle_cpu_percent.map(|percent| format!("{percent:.2} % of a core while idle"));
            let costs = [Some(format!("{connect_cpu_us:.1} µs per connect")), delivery, idle];
            Self::row(f, "server CPU", &costs.into_iter().flatten().collect::<Vec<_>>().join(", "))?;
        }
        if let Some(ServerUsage { resident_bytes_per_subscriber, resident_bytes, .. }) = self.server {
            let mib = ratio(resident_bytes, 1 << 20);
            let text = format!("{} bytes per subscriber, {mib:.1} MiB in total", round(resident_bytes_per_subscriber));
            Self::row(f, "server memory", &text)?;
        }
        let Some(busy) = self.generator_cpu_percent else { return Self::row(f, "generator CPU", "a core, it spins") };
        let hint = if busy > 90.0 { ": the generator was the bottleneck, not the server" } else { "" };
        Self::row(f, "generator CPU", &format!("{busy:.0} % of a core{hint}"))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { url, mode, subscribers, topics, publishers, event_bytes, .. } = self;
        let counts = [(*subscribers, "subscriber"), (*topics, "topic"), (*publishers, "publisher")];
        let counts = counts.map(|(n, what)| format!("{} {what}{}", grouped(wide(n)), if n == 1 { "" } else { "s" }));
        writeln!(f, "{mode} on {url}: {}, events of {event_bytes} bytes\n", counts.join(", "))?;
        let ConnectResult { subscribers: connected, seconds, per_second } = self.connected;
        let connected = format!("{} of {}", grouped(wide(connected)), grouped(wide(*subscribers)));
        Self::row(f, "connected", &format!("{connected} in {seconds:.3} s, {}/s", round(per_second)))?;
        self.deliveries(f)?;
        Self::row(f, "lost", &grouped(self.lost))?;
        Self::row(f, "repeated", &grouped(self.repeated))?;
        Self::row(f, "out of order", &grouped(self.out_of_order))?;
        let errors: Vec<_> = self.errors.iter().map(|(reason, n)| format!("{} × {reason}", grouped(*n))).collect();
        let errors = if errors.is_empty() { "none".to_owned() } else { errors.join("\n               ") };
        Self::row(f, "errors", &errors)?;
        self.costs(f)
    }
}

fn wide(n: usize) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}

/// `part` divided by `whole`.
pub fn ratio(part: u64, whole: u64) -> f64 {
    // The standard library has no conversion from u64 to f64 without `as`, except through `Duration`.
    Duration::from_secs(part).as_secs_f64() / Duration::from_secs(whole).as_secs_f64()
}

/// `n` per second.
fn rate(n: u64, time: Duration) -> f64 {
    if time.is_zero() { 0.0 } else { Duration::from_secs(n).as_secs_f64() / time.as_secs_f64() }
}

/// Formats a whole number with commas between the thousands.
fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let groups = digits.as_bytes().rchunks(3).rev().map(String::from_utf8_lossy);
    groups.collect::<Vec<_>>().join(",")
}

/// Formats a number without decimals.
fn round(n: f64) -> String {
    let rounded = Duration::try_from_secs_f64(n.round());
    rounded.map_or_else(|_| format!("{n:.0}"), |n| grouped(n.as_secs()))
}

/// Formats a time in a unit that fits its size.
fn time(us: u64) -> String {
    match us {
        0..1_000 => format!("{us} µs"),
        1_000..1_000_000 => format!("{:.2} ms", ratio(us, 1_000)),
        _ => format!("{:.2} s", ratio(us, 1_000_000)),
    }
}
