//! What the system says of this process, with the names that all clients of Prometheus use.

use std::{fs, time::Duration};

use super::text::{Kind, Text};

/// The times in `/proc` are in ticks of 10 ms, on every Linux, whatever the kernel's own clock is.
const TICK_MS: u64 = 10;

/// Adds the metrics of this process. On a system without `/proc`, there are none.
pub fn process(text: &mut Text) {
    let Some(stat) = Stat::read() else { return };
    text.one("process_cpu_seconds_total", Kind::Counter, "CPU time, user and system.", stat.cpu_seconds);
    text.one("process_resident_memory_bytes", Kind::Gauge, "Memory in use.", stat.resident);
    text.one("process_virtual_memory_bytes", Kind::Gauge, "Address space.", stat.virtual_size);
    text.one("process_threads", Kind::Gauge, "Threads.", stat.threads);
    if let Some(start) = stat.start_seconds {
        text.one("process_start_time_seconds", Kind::Gauge, "When it started, since the Unix epoch.", start);
    }
    // Since Linux 6.2 this is their number, and 0 before. To read the directory would stop this worker for long: it has an
    // entry for each subscriber.
    if let Some(open) = fs::metadata("/proc/self/fd").ok().map(|files| files.len()).filter(|open| *open > 0) {
        text.one("process_open_fds", Kind::Gauge, "Open descriptors.", open);
    }
    if let Some(max) = open_files_max() {
        text.one("process_max_fds", Kind::Gauge, "How many descriptors may be open.", max);
    }
}

/// The fields of `/proc/self/stat` (proc(5)).
struct Stat {
    cpu_seconds: f64,
    threads: u64,
    start_seconds: Option<f64>,
    virtual_size: u64,
    resident: u64,
}

impl Stat {
    fn read() -> Option<Self> {
        let stat = fs::read_to_string("/proc/self/stat").ok()?;
        // The second field, the name in parentheses, may contain blanks. The third is the first one after it.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let field = |number: usize| fields.get(number - 3).and_then(|field| field.parse::<u64>().ok());
        let seconds = |ticks: u64| Duration::from_millis(ticks.saturating_mul(TICK_MS)).as_secs_f64();
        let start_seconds = boot_time().zip(field(22)).map(|(boot, ticks)| boot + seconds(ticks));
        Some(Self {
            cpu_seconds: seconds(field(14)? + field(15)?),
            threads: field(20)?,
            start_seconds,
            virtual_size: field(23)?,
            resident: resident()?,
        })
    }
}

/// Resident memory in bytes. `/proc/self/stat` has it in pages, whose size is not known here.
fn resident() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?.trim().strip_suffix(" kB")?;
    Some(kib.trim().parse::<u64>().ok()? * 1024)
}

/// When the machine started, in seconds since the Unix epoch.
fn boot_time() -> Option<f64> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    let seconds: u32 = stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds.into()).as_secs_f64())
}

fn open_files_max() -> Option<u64> {
    let limits = fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}
