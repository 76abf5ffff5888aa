//! Counters and histograms, and their text for Prometheus.

// Each file uses only files below it.
mod process;
mod text;
mod counter;

pub use counter::{Counter, Histogram, Times, count_one};
pub use process::process;
pub use text::{Format, Kind, Text};
