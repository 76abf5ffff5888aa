//! Random changes of times.

use std::time::Duration;

/// Returns `duration` with a random change of up to 20 %, so that clients that were disconnected together do not
/// reconnect together.
#[must_use]
pub fn jitter(duration: Duration) -> Duration {
    duration.mul_f64(0.8 + 0.4 * fastrand::f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_come_back_over_a_span_of_time() {
        // Goal: up to a fifth sooner or later than they are told, and over all of that.
        let times: Vec<Duration> = (0..1000).map(|_| jitter(Duration::from_secs(10))).collect();
        let (first, last) = (times.iter().min().expect("times"), times.iter().max().expect("times"));
        assert!(*first >= Duration::from_secs(8) && *last <= Duration::from_secs(12), "{first:?} to {last:?}");
        assert!(*first < Duration::from_secs(9) && *last > Duration::from_secs(11), "{first:?} to {last:?}");
    }
}
