//! The CPU time and memory of a process and its children, from Linux's /proc.

use std::{collections::BTreeSet, fs};

use procfs_core::{FromRead as _, process::Stat};
use rustix::param::page_size;

use super::tally::wide;

/// The unit of CPU time in /proc: a hundredth of a second on every machine (`USER_HZ`).
const TICK_NANOS: u64 = 10_000_000;

/// A process, alone or with its children.
#[derive(Clone, Debug)]
pub struct Process {
    ids: BTreeSet<u32>,
}

/// CPU time in nanoseconds.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    pub user: u64,
    pub system: u64,
}

impl Process {
    /// The process with this id and all its descendants: some servers do their work in child processes.
    pub fn tree(id: u32) -> Result<Self, String> {
        let entries = fs::read_dir("/proc").into_iter().flatten();
        let all = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        let parents: Vec<(u32, u32)> = all.filter_map(|id| Some((id, u32::try_from(stat(id)?.ppid).ok()?))).collect();
        if !parents.iter().any(|(child, _)| *child == id) {
            let reason =
                if parents.is_empty() { "this machine has no /proc" } else { "no such process on this machine" };
            return Err(format!("--pid {id}: {reason}"));
        }
        let mut ids = BTreeSet::from([id]);
        // Each round finds the next generation of children, until a round finds none.
        loop {
            let known = ids.len();
            for (child, parent) in &parents {
                if ids.contains(parent) {
                    ids.insert(*child);
                }
            }
            if ids.len() == known {
                return Ok(Self { ids });
            }
        }
    }

    /// This process, without children.
    pub fn own() -> Self {
        Self { ids: BTreeSet::from([std::process::id()]) }
    }

    /// The CPU time used so far.
    pub fn usage(&self) -> Usage {
        self.stats().fold(Usage::default(), |sum, stat| Usage {
            user: sum.user + stat.utime * TICK_NANOS,
            system: sum.system + stat.stime * TICK_NANOS,
        })
    }

    /// The resident memory in bytes.
    pub fn resident(&self) -> u64 {
        self.stats().map(|stat| stat.rss).sum::<u64>() * wide(page_size())
    }

    /// The statistics of the processes that have not ended.
    fn stats(&self) -> impl Iterator<Item = Stat> {
        self.ids.iter().filter_map(|id| stat(*id))
    }
}

impl Usage {
    pub fn total(self) -> u64 {
        self.user + self.system
    }

    pub fn since(self, earlier: Self) -> Self {
        // The later usage can be less: it lacks a process that has ended.
        Self { user: self.user.saturating_sub(earlier.user), system: self.system.saturating_sub(earlier.system) }
    }
}

/// The statistics of a process; `None` if it has ended.
fn stat(id: u32) -> Option<Stat> {
    Stat::from_file(format!("/proc/{id}/stat")).ok()
}
