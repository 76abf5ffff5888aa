//! The log under test, on each engine, and its next life.

use std::{fs, sync::Arc};

use futures_util::FutureExt as _;
use tidings::{
    config::{ClusterConfig, Config, DiskDurability, LogConfig},
    log::{KeyLimits, Log, cluster::ClusterLog, disk::DiskLog, memory::MemoryLog},
};
use tokio::runtime::{Builder, Runtime};

use crate::harness::{
    blocking::{Directory, wait_for},
    nats,
    remote::Remote,
};

/// What keeps the events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    Memory,
    Disk,
    /// In another process, as far as the hub can tell.
    Remote,
    /// In NATS, which must be there.
    Cluster,
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
    /// What only an engine needs that outlives its process.
    stored: Option<Stored>,
    /// The log, when its history can end.
    pub remote: Option<Arc<Remote>>,
}

struct Stored {
    runtime: Runtime,
    config: LogConfig,
    place: Place,
}

/// Where the events are.
enum Place {
    /// Goes last: the log's files are in it.
    Files(Directory),
    Stream(ClusterConfig),
}

impl Life {
    /// Whether the log is a stream of NATS.
    pub fn is_stream(&self) -> bool {
        matches!(&self.stored, Some(Stored { place: Place::Stream(_), .. }))
    }

    pub fn first(engine: Engine, config: &LogConfig) -> Self {
        match engine {
            Engine::Memory => Self {
                log: Arc::new(MemoryLog::new(config.clone(), KeyLimits::from(&Config::default()))),
                stored: None,
                remote: None,
            },
            Engine::Remote => {
                let remote = Arc::new(Remote::new(config.clone()));
                let log: Arc<dyn Log> = Arc::<Remote>::clone(&remote);
                Self { log, stored: None, remote: Some(remote) }
            }
            Engine::Disk => Self::open(Directory::in_memory(), config).expect("the log opens"),
            Engine::Cluster => {
                let servers = vec![nats::shared().expect("NATS").url()];
                let cluster = ClusterConfig { servers, namespace: nats::namespace(), ..ClusterConfig::default() };
                Self::follow(cluster, config).expect("the log opens")
            }
        }
    }

    fn follow(cluster: ClusterConfig, config: &LogConfig) -> Result<Self, String> {
        let log = ClusterLog::open(&cluster, config, KeyLimits::from(&Config::default()));
        let log = log.map_err(|error| error.to_string())?;
        wait_for("the stream to be read", || log.check().is_ok());
        let runtime = Builder::new_current_thread().enable_time().build().expect("a runtime");
        let stored = Stored { runtime, config: config.clone(), place: Place::Stream(cluster) };
        Ok(Self { log: Arc::new(log), stored: Some(stored), remote: None })
    }

    fn open(directory: Directory, config: &LogConfig) -> Result<Self, String> {
        // What a power cut leaves is the business of `power.rs`; without it these are many times as many.
        let config = LogConfig { path: directory.0.clone(), durability: DiskDurability::Os, ..config.clone() };
        let log = DiskLog::open(&config, KeyLimits::from(&Config::default())).map_err(|error| error.to_string())?;
        let runtime = Builder::new_current_thread().enable_time().build().expect("a runtime");
        let stored = Stored { runtime, config, place: Place::Files(directory) };
        Ok(Self { log: Arc::new(log), stored: Some(stored), remote: None })
    }

    /// What `future` gives: on disk, once it is written; in memory at once.
    pub fn wait<T>(&self, future: impl Future<Output = T>) -> Result<T, String> {
        match &self.stored {
            Some(stored) => Ok(stored.runtime.block_on(future)),
            None => future.now_or_never().ok_or_else(|| "memory commits at once".to_owned()),
        }
    }

    /// What a process finds that starts after this one has ended so: on disk all of it, from memory nothing.
    pub fn next(&self, end: End) -> Option<Result<Self, String>> {
        let stored = self.stored.as_ref()?;
        if end == End::Ordered {
            stored.runtime.block_on(async { self.log.close().await });
        }
        let directory = match &stored.place {
            Place::Files(directory) => directory,
            Place::Stream(cluster) => return Some(Self::follow(cluster.clone(), &stored.config)),
        };
        // The files as they are at this moment: what `kill -9` leaves.
        let copy = Directory::in_memory();
        for file in ["tidings.db", "tidings.db-wal"] {
            fs::copy(directory.0.join(file), copy.0.join(file)).expect("it is copied");
        }
        Some(Self::open(copy, &stored.config))
    }
}
