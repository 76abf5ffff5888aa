//! What a process and its children use, as Linux tells it in /proc.

use std::{collections::BTreeSet, fs, ops::Sub, time::Duration};

use procfs_core::{
    FromRead,
    process::{Stat, Status},
};

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
        let stats = self.ids.iter().filter_map(|id| read(*id, "stat"));
        stats.fold(Usage::default(), |sum, stat: Stat| Usage {
            user: sum.user + time(stat.utime),
            system: sum.system + time(stat.stime),
        })
    }

    /// Bytes of memory.
    pub fn resident(&self) -> u64 {
        let kib = |id: &u32| read::<Status>(*id, "status")?.vmrss;
        self.ids.iter().filter_map(kib).sum::<u64>() * 1024
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

/// One of the files about a process; nothing when the process has ended.
fn read<T: FromRead>(id: u32, file: &str) -> Option<T> {
    T::from_file(format!("/proc/{id}/{file}")).ok()
}

fn parent(id: u32) -> Option<u32> {
    u32::try_from(read::<Stat>(id, "stat")?.ppid).ok()
}

fn time(ticks: u64) -> Duration {
    Duration::from_millis(ticks.saturating_mul(TICK_MS))
}
