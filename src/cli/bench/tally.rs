//! The counters of a run, and what is needed to count.

use std::{collections::BTreeMap, io, time::Duration};

use hdrhistogram::Histogram;

/// The longest time that the histograms can record, in microseconds: an hour.
const TIME_MAX: u64 = 3_600_000_000;
/// The most error reasons that are counted separately. A server could cause any number of them.
const REASONS_MAX: usize = 32;

/// Nanoseconds.
pub fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// A `usize` as `u64`.
pub fn wide(n: usize) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}

/// `part` divided by `whole`; 0 if `whole` is 0.
pub fn ratio(part: u64, whole: u64) -> f64 {
    // The lints forbid `as`. Without `as`, the standard library converts a u64 to f64 only through `Duration`.
    let [part, whole] = [part, whole].map(|n| Duration::from_secs(n).as_secs_f64());
    if whole > 0.0 { part / whole } else { 0.0 }
}

/// The counters of a run. Times are in nanoseconds since the run began, unless stated otherwise.
#[derive(Debug)]
pub struct Tally {
    /// The time to the arrival of an event, in microseconds: from its scheduled publishing, or from when the subscriber
    /// began to connect, if that was later (`--replay`, `--storm`).
    pub latency: Histogram<u64>,
    /// The time from the scheduled publishing of an event to the answer, in microseconds.
    pub answer_times: Histogram<u64>,
    /// Events that were sent.
    pub sent: u64,
    /// Events that the server acknowledged.
    pub acknowledged: u64,
    /// Deliveries of events that the subscriber did not have.
    pub delivered: u64,
    /// Deliveries of an event that the subscriber already had.
    pub repeated: u64,
    /// Deliveries in the wrong order.
    pub out_of_order: u64,
    /// Heartbeats, other comments, and events of other runs.
    pub other_blocks: u64,
    /// Bytes that subscribers received.
    pub bytes: u64,
    /// The scheduled time of the first event.
    pub first_sent: Option<u64>,
    /// The time of the last answer to a publisher.
    pub last_answered: u64,
    /// The time of the last delivery.
    pub last_delivered: u64,
    /// The last time at which publishing began, a subscriber was connected, a stream received bytes, or a publisher got
    /// an answer.
    pub last_progress: u64,
    /// How often each error occurred.
    pub errors: BTreeMap<String, u64>,
}

impl Tally {
    /// # Errors
    /// When there is no memory for the histograms.
    pub fn new() -> Result<Self, String> {
        let histogram = || Histogram::new_with_bounds(1, TIME_MAX, 3).map_err(|error| error.to_string());
        Ok(Self {
            latency: histogram()?,
            answer_times: histogram()?,
            sent: 0,
            acknowledged: 0,
            delivered: 0,
            repeated: 0,
            out_of_order: 0,
            other_blocks: 0,
            bytes: 0,
            first_sent: None,
            last_answered: 0,
            last_delivered: 0,
            last_progress: 0,
            errors: BTreeMap::new(),
        })
    }

    /// Counts an error by its reason.
    pub fn count_error(&mut self, reason: String) {
        let is_separate = self.errors.len() < REASONS_MAX || self.errors.contains_key(&reason);
        let reason = if is_separate { reason } else { "other reasons".to_owned() };
        *self.errors.entry(reason).or_default() += 1;
    }

    /// Forgets all deliveries so far, so that only later ones are measured.
    pub fn reset_deliveries(&mut self) {
        self.latency.reset();
        self.delivered = 0;
        self.last_delivered = 0;
    }
}

/// Says what failed, and the reason: the text of a system error without its number.
pub fn error_text(what: &str, error: &io::Error) -> String {
    let text = error.to_string();
    format!("{what}: {}", text.split(" (os error").next().unwrap_or_default().to_lowercase())
}
