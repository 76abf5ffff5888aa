//! What a process and its children use, as Linux tells it in /proc.

use std::{collections::BTreeSet, fs, ops::Sub, time::Duration};

use procfs_core::{FromRead as _, process::Stat};
use rustix::param::page_size;

/// Linux tells CPU time in hundredths of a second, whatever the machine (`USER_HZ`).
const TICK_MS: u64 = 10;

/// A server's processes.
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
    /// This process and all that descend from it; some servers work in their children.
    pub fn tree(id: u32) -> Result<Self, String> {
        if parent(id).is_none() {
            let is_known = if fs::exists("/proc/self/stat").unwrap_or(false) { "runs" } else { "can be looked at" };
            return Err(format!("--pid {id}: no such process {is_known} on this machine"));
        }
        let entries = fs::read_dir("/proc").map_err(|error| format!("/proc: {error}"))?;
        let names = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        let parents: Vec<(u32, u32)> = names.filter_map(|id| Some((id, parent(id)?))).collect();
        let mut ids = BTreeSet::from([id]);
        // Generation by generation, until no child is left out.
        while parents.iter().filter(|(_, parent)| ids.contains(parent)).any(|(id, _)| !ids.contains(id)) {
            let children = parents.iter().filter(|(_, parent)| ids.contains(parent)).map(|(id, _)| *id);
            ids.extend(children.collect::<Vec<_>>());
        }
        Ok(Self { ids: ids.into_iter().collect() })
    }

    /// This process alone.
    pub fn own() -> Self {
        Self { ids: vec![std::process::id()] }
    }

    pub fn usage(&self) -> Usage {
        self.stats().fold(Usage::default(), |sum, stat| Usage {
            user: sum.user + time(stat.utime),
            system: sum.system + time(stat.stime),
        })
    }

    /// Bytes of memory.
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

/// What is known of a process; nothing when it has ended.
fn stat(id: u32) -> Option<Stat> {
    Stat::from_file(format!("/proc/{id}/stat")).ok()
}

fn parent(id: u32) -> Option<u32> {
    u32::try_from(stat(id)?.ppid).ok()
}

fn time(ticks: u64) -> Duration {
    Duration::from_millis(ticks.saturating_mul(TICK_MS))
}
