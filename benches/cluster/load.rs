//! Publishes with a given number of events on their way, and measures that.

use std::{
    io,
    time::{Duration, Instant},
};

use futures_util::future::try_join_all;

use crate::{
    TOPICS,
    figures::percentile_us,
    process::{cpu_us, own_cpu_us},
};

/// Publishes one event after the other.
pub trait Publish {
    /// Publishes an event to a topic, and waits until it is acknowledged.
    async fn publish(&mut self, topic: usize) -> io::Result<()>;
}

/// When the load ends.
#[derive(Clone, Copy)]
pub enum End {
    After(Duration),
    /// After so many events of all publishers together.
    Events(usize),
}

/// What was measured. CPU times are in microseconds per event.
pub struct Measured {
    /// Acknowledged events a second.
    pub rate: f64,
    pub p50_us: f64,
    pub p99_us: f64,
    /// CPU time of each of the processes.
    pub cpu_us: Vec<f64>,
    /// CPU time of the load.
    pub load_us: f64,
}

/// Lets each of `publishers` publish, and measures the CPU time of `processes` meanwhile.
pub async fn run<P: Publish>(publishers: Vec<P>, end: End, processes: &[u32]) -> io::Result<Measured> {
    let each = |processes: &[u32]| processes.iter().map(|pid| cpu_us(&[*pid])).collect::<Vec<f64>>();
    let (cpu_before, own_before, begun) = (each(processes), own_cpu_us(), Instant::now());
    let n = publishers.len();
    let times = try_join_all(publishers.into_iter().enumerate().map(|(at, mut publisher)| async move {
        let mut times = Vec::new();
        let events_max = match end {
            End::After(_) => usize::MAX,
            End::Events(events) => events / n,
        };
        let lasts = match end {
            End::After(lasts) => lasts,
            End::Events(_) => Duration::MAX,
        };
        while times.len() < events_max && begun.elapsed() < lasts {
            let sent = Instant::now();
            publisher.publish((at + times.len()) % TOPICS).await?;
            times.push(sent.elapsed());
        }
        io::Result::Ok(times)
    }));
    let mut times: Vec<Duration> = times.await?.into_iter().flatten().collect();
    let took = begun.elapsed();
    let (cpu_after, own_after) = (each(processes), own_cpu_us());
    times.sort_unstable();
    let events = times.len() as f64;
    Ok(Measured {
        rate: events / took.as_secs_f64(),
        p50_us: percentile_us(&times, 50),
        p99_us: percentile_us(&times, 99),
        cpu_us: cpu_after.iter().zip(cpu_before).map(|(after, before)| (after - before) / events).collect(),
        load_us: (own_after - own_before) / events,
    })
}
