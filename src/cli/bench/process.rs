//! What a process and its children use, as Linux tells it in /proc.

use std::{collections::BTreeSet, fs, ops::Sub, time::Duration};

/// Linux tells CPU time in hundredths of a second, whatever the machine (`USER_HZ`).
const TICK: Duration = Duration::from_millis(10);

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
        if stat(id).is_none() {
            let is_known = if fs::exists("/proc/self/stat").unwrap_or(false) { "runs" } else { "can be looked at" };
            return Err(format!("--pid {id}: no such process {is_known} on this machine"));
        }
        let entries = fs::read_dir("/proc").map_err(|error| format!("/proc: {error}"))?;
        let names = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        let parents: Vec<(u32, u32)> = names.filter_map(|id| Some((id, stat(id)?.parent))).collect();
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
        let stats = self.ids.iter().filter_map(|id| stat(*id));
        stats.fold(Usage::default(), |sum, Stat { usage, .. }| Usage {
            user: sum.user + usage.user,
            system: sum.system + usage.system,
        })
    }

    /// Bytes of memory.
    pub fn resident(&self) -> u64 {
        self.ids.iter().filter_map(|id| resident(*id)).sum()
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

struct Stat {
    parent: u32,
    usage: Usage,
}

fn stat(id: u32) -> Option<Stat> {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    // The name comes second, in brackets, and may hold blanks; behind it are fields 3 and on.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = |n: usize| fields.get(n)?.parse().ok().map(|ticks: u32| TICK * ticks);
    Some(Stat { parent: fields.get(1)?.parse().ok()?, usage: Usage { user: ticks(11)?, system: ticks(12)? } })
}

fn resident(id: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{id}/status")).ok()?;
    let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    kib.trim().trim_end_matches(" kB").parse::<u64>().ok().map(|kib| kib * 1024)
}
