//! The log under test, on either engine, and its next life.

use std::{fs, sync::Arc};

use futures_util::FutureExt as _;
use tidings::{
    config::{Config, DiskDurability, LogConfig},
    log::{KeyLimits, Log, disk::DiskLog, memory::MemoryLog},
};
use tokio::runtime::{Builder, Runtime};

use crate::harness::{blocking::Directory, remote::Remote};

/// What keeps the events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    Memory,
    Disk,
    /// In another process, as far as the hub can tell.
    Remote,
}

impl Engine {
    pub const ALL: [Self; 3] = [Self::Memory, Self::Disk, Self::Remote];
    /// Those that have what is in memory at hand.
    pub const LOCAL: [Self; 2] = [Self::Memory, Self::Disk];
}

/// How a process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Ordered,
    Killed,
}

/// One life of a log.
pub struct Life {
    pub log: Arc<dyn Log>,
    /// What only the disk engine needs.
    disk: Option<Disk>,
    /// The log, when its history can end.
    pub remote: Option<Arc<Remote>>,
}

struct Disk {
    runtime: Runtime,
    config: LogConfig,
    /// Goes last: the log's files are in it.
    directory: Directory,
}

impl Life {
    pub fn first(engine: Engine, config: &LogConfig) -> Self {
        match engine {
            Engine::Memory => Self {
                log: Arc::new(MemoryLog::new(config.clone(), KeyLimits::from(&Config::default()))),
                disk: None,
                remote: None,
            },
            Engine::Remote => {
                let remote = Arc::new(Remote::new(config.clone()));
                let log: Arc<dyn Log> = Arc::<Remote>::clone(&remote);
                Self { log, disk: None, remote: Some(remote) }
            }
            Engine::Disk => Self::open(Directory::in_memory(), config).expect("the log opens"),
        }
    }

    fn open(directory: Directory, config: &LogConfig) -> Result<Self, String> {
        // What a power cut leaves is the business of `power.rs`; without it these are many times as many.
        let config = LogConfig { path: directory.0.clone(), durability: DiskDurability::Os, ..config.clone() };
        let log = DiskLog::open(&config, KeyLimits::from(&Config::default())).map_err(|error| error.to_string())?;
        let runtime = Builder::new_current_thread().enable_time().build().expect("a runtime");
        Ok(Self { log: Arc::new(log), disk: Some(Disk { runtime, config, directory }), remote: None })
    }

    /// What `future` gives: on disk, once it is written; in memory at once.
    pub fn wait<T>(&self, future: impl Future<Output = T>) -> Result<T, String> {
        match &self.disk {
            Some(disk) => Ok(disk.runtime.block_on(future)),
            None => future.now_or_never().ok_or_else(|| "memory commits at once".to_owned()),
        }
    }

    /// What a process finds that starts after this one has ended so: on disk all of it, from memory nothing.
    pub fn next(&self, end: End) -> Option<Result<Self, String>> {
        let disk = self.disk.as_ref()?;
        if end == End::Ordered {
            disk.runtime.block_on(async { self.log.close().await });
        }
        // The files as they are at this moment: what `kill -9` leaves.
        let directory = Directory::in_memory();
        for file in ["tidings.db", "tidings.db-wal"] {
            fs::copy(disk.directory.0.join(file), directory.0.join(file)).expect("it is copied");
        }
        Some(Self::open(directory, &disk.config))
    }
}
