//! The CPU time and memory of a process and its children, from Linux's /proc.

use std::{collections::BTreeSet, fs, ops::Sub, time::Duration};

use procfs_core::{FromRead as _, process::Stat};
use rustix::param::page_size;

/// The unit of CPU time in /proc: a hundredth of a second on every machine (`USER_HZ`).
const TICK_MS: u64 = 10;

/// A process, alone or with its children.
#[derive(Clone, Debug)]
pub struct Process {
    ids: Vec<u32>,
}

/// CPU time.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    pub user: Duration,
    pub system: Duration,
}

impl Process {
    /// The process with this id and all its descendants: some servers do their work in child processes.
    pub fn tree(id: u32) -> Result<Self, String> {
        if parent(id).is_none() {
            let has_proc = fs::exists("/proc/self/stat").unwrap_or(false);
            let reason = if has_proc { "no such process on this machine" } else { "this machine has no /proc" };
            return Err(format!("--pid {id}: {reason}"));
        }
        let entries = fs::read_dir("/proc").map_err(|error| format!("/proc: {error}"))?;
        let ids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        let parents: Vec<(u32, u32)> = ids.filter_map(|id| Some((id, parent(id)?))).collect();
        let mut ids = BTreeSet::from([id]);
        // Each round finds the next generation of children, until a round finds none.
        loop {
            let known = ids.len();
            for (id, parent) in &parents {
                if ids.contains(parent) {
                    ids.insert(*id);
                }
            }
            if ids.len() == known {
                break;
            }
        }
        Ok(Self { ids: ids.into_iter().collect() })
    }

    /// This process, without children.
    pub fn own() -> Self {
        Self { ids: vec![std::process::id()] }
    }

    /// The CPU time used so far.
    pub fn usage(&self) -> Usage {
        self.stats().fold(Usage::default(), |sum, stat| Usage {
            user: sum.user + time(stat.utime),
            system: sum.system + time(stat.stime),
        })
    }

    /// The resident memory in bytes.
    pub fn resident(&self) -> u64 {
        let pages: u64 = self.stats().map(|stat| stat.rss).sum();
        pages.saturating_mul(u64::try_from(page_size()).unwrap_or_default())
    }

    fn stats(&self) -> impl Iterator<Item = Stat> {
        self.ids.iter().filter_map(|id| stat(*id))
    }
}

impl Usage {
    pub fn total(self) -> Duration {
        self.user + self.system
    }
}

impl Sub for Usage {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self { user: self.user.saturating_sub(before.user), system: self.system.saturating_sub(before.system) }
    }
}

/// The statistics of a process; `None` if it has ended.
fn stat(id: u32) -> Option<Stat> {
    Stat::from_file(format!("/proc/{id}/stat")).ok()
}

fn parent(id: u32) -> Option<u32> {
    u32::try_from(stat(id)?.ppid).ok()
}

fn time(ticks: u64) -> Duration {
    Duration::from_millis(ticks.saturating_mul(TICK_MS))
}
