//! What is counted while a run goes on.

use std::{
    collections::BTreeMap,
    io,
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;

/// The longest time that is told apart, in microseconds: an hour.
const TIME_MAX: u64 = 3_600_000_000;
/// Different reasons that are told apart; a server can make up as many as it likes.
const REASONS_MAX: usize = 32;

/// Nanoseconds since the run began.
#[derive(Clone, Copy, Debug)]
pub struct Clock(Instant);

impl Clock {
    pub fn start() -> Self {
        Self(Instant::now())
    }

    pub fn now(self) -> u64 {
        nanos(self.0.elapsed())
    }
}

pub fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[derive(Debug)]
pub struct Tally {
    /// From the publishing of an event, or the subscriber's coming if that was later, to its arrival; in microseconds.
    pub latency: Histogram<u64>,
    /// From the time at which an event was to be published to the answer, in microseconds.
    pub answers: Histogram<u64>,
    pub sent: u64,
    pub acknowledged: u64,
    /// Events that came, each once a subscriber.
    pub delivered: u64,
    pub repeated: u64,
    pub out_of_order: u64,
    /// Blocks without an event of this run.
    pub quiet_blocks: u64,
    pub bytes: u64,
    pub first_sent: Option<u64>,
    pub last_answered: u64,
    pub last_delivered: u64,
    /// When anything has gone on last.
    pub moved: u64,
    pub errors: BTreeMap<String, u64>,
}

impl Tally {
    /// # Errors
    /// When there is no memory for the histograms.
    pub fn new() -> Result<Self, String> {
        let histogram = || Histogram::new_with_bounds(1, TIME_MAX, 3).map_err(|error| error.to_string());
        Ok(Self {
            latency: histogram()?,
            answers: histogram()?,
            sent: 0,
            acknowledged: 0,
            delivered: 0,
            repeated: 0,
            out_of_order: 0,
            quiet_blocks: 0,
            bytes: 0,
            first_sent: None,
            last_answered: 0,
            last_delivered: 0,
            moved: 0,
            errors: BTreeMap::new(),
        })
    }

    /// Counts what went wrong, by its reason.
    pub fn error(&mut self, reason: String) {
        if self.errors.len() < REASONS_MAX || self.errors.contains_key(&reason) {
            *self.errors.entry(reason).or_default() += 1;
        } else {
            *self.errors.entry("other reasons".to_owned()).or_default() += 1;
        }
    }

    /// Forgets the deliveries that have been timed so far: the next ones are what is measured.
    pub fn restart(&mut self) {
        self.latency.reset();
        self.delivered = 0;
        self.last_delivered = 0;
    }
}

/// What the system says, without its number.
pub fn told(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().to_lowercase()
}
