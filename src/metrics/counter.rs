//! Counters and histograms. Each worker counts in its own, and a scrape adds them up. So counting needs no lock, and no two
//! threads write to the same cache line.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// A number that one thread counts, and that any thread may read.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`. Only one thread may do so: this is a plain addition, which costs less than an atomic one.
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    /// What was counted so far.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Counts `key`, which is one of `keys`. Each of these has the counter at the same place.
pub fn count_one<K: PartialEq>(keys: &[K], counters: &[Counter], key: &K) {
    debug_assert_eq!(keys.len(), counters.len(), "each key has a counter");
    if let Some(counter) = keys.iter().position(|other| other == key).and_then(|at| counters.get(at)) {
        counter.add(1);
    }
}

/// The upper bounds of a histogram's buckets, in microseconds.
pub(super) const BOUNDS_US: [u64; 16] = [
    50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000,
    10_000_000,
];

/// How long something took, counted by one thread.
#[derive(Debug, Default)]
pub struct Histogram {
    /// How many were in each bucket. The last one has those above all bounds.
    buckets: [Counter; BOUNDS_US.len() + 1],
    /// In microseconds.
    sum: Counter,
}

impl Histogram {
    /// Counts `n` things that took `time` each.
    pub fn add(&self, time: Duration, n: u64) {
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let bucket = BOUNDS_US.partition_point(|bound| *bound < micros);
        if let Some(bucket) = self.buckets.get(bucket) {
            bucket.add(n);
        }
        self.sum.add(micros.saturating_mul(n));
    }
}

/// The sum of the histograms of all threads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Times {
    pub(super) buckets: [u64; BOUNDS_US.len() + 1],
    pub(super) sum: u64,
}

impl<'a> FromIterator<&'a Histogram> for Times {
    fn from_iter<I: IntoIterator<Item = &'a Histogram>>(histograms: I) -> Self {
        let mut times = Self::default();
        for histogram in histograms {
            for (sum, bucket) in times.buckets.iter_mut().zip(&histogram.buckets) {
                *sum += bucket.get();
            }
            times.sum += histogram.sum.get();
        }
        times
    }
}

impl Times {
    /// How many were counted.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_counted_in_the_first_bucket_that_is_not_below_it() {
        // Goal: a bound belongs to its bucket (`le`), and a microsecond more to the next one; nothing is left out.
        let histogram = Histogram::default();
        let mut expected = [0; BOUNDS_US.len() + 1];
        for (at, bound) in BOUNDS_US.iter().enumerate() {
            histogram.add(Duration::from_micros(*bound), 1);
            histogram.add(Duration::from_micros(bound + 1), 2);
            expected[at] += 1;
            expected[at + 1] += 2;
        }
        histogram.add(Duration::MAX, 1);
        expected[BOUNDS_US.len()] += 1;
        let times: Times = [&histogram, &Histogram::default()].into_iter().collect();
        assert_eq!(times.buckets, expected);
        assert_eq!(times.count(), 3 * 16 + 1);
    }
}
