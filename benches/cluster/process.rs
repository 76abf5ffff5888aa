//! The processes that are measured, and what Linux says of them.

use std::{fs, io, time::Duration};

use tokio::process::{Child, Command};

/// How long anything may take that is waited for.
pub const DEADLINE: Duration = Duration::from_mins(3);
/// How often a condition is looked at.
pub const GLANCE: Duration = Duration::from_millis(2);

/// A process that ends with this value.
pub struct Process {
    pub pid: u32,
    pub child: Child,
}

impl Process {
    pub fn spawn(command: &mut Command) -> io::Result<Self> {
        let child = command.kill_on_drop(true).spawn()?;
        let pid = child.id().ok_or_else(|| io::Error::other("the process has ended at once"))?;
        Ok(Self { pid, child })
    }

    /// Ends it, and waits for its end.
    pub async fn end(mut self) -> io::Result<()> {
        self.child.kill().await
    }
}

/// CPU time of `pids` together, in microseconds.
pub fn cpu_us(pids: &[u32]) -> f64 {
    let of = |pid: &u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // The name in parentheses comes second and may have blanks; user and system time are fields 14 and 15.
        let fields: Vec<&str> = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
        let ticks = |n: usize| fields.get(n).and_then(|field| field.parse::<f64>().ok()).unwrap_or_default();
        // Linux counts in hundredths of a second on every machine (USER_HZ).
        (ticks(11) + ticks(12)) * 10_000.0
    };
    pids.iter().map(of).sum()
}

/// CPU time of this process, which makes the load.
pub fn own_cpu_us() -> f64 {
    cpu_us(&[std::process::id()])
}

/// Resident memory in MiB: now (`VmRSS`), or the most that it ever was (`VmHWM`).
pub fn memory_mib(pid: u32, which: &str) -> f64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(which)?.strip_prefix(':'));
    let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<f64>().ok());
    kib.unwrap_or_default() / 1024.0
}
