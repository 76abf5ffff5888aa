//! Runs the tasks of the engine on its thread: connects, reads the stream, and then publishes, follows and watches.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, mpsc as blocking},
    time::Duration,
};

use async_nats::jetstream::stream::Info;
use futures_util::FutureExt as _;
use tokio::{
    runtime::Runtime,
    sync::{Notify, mpsc},
};

use super::{
    connection::{ConnectError, Link},
    error::OpenError,
    exchange,
    follower::Follower,
    publisher::{self, Publisher},
    shared::Shared,
    watchdog::Watchdog,
};
use crate::{
    config::{ClusterConfig, LogConfig},
    log::{AppendError, index::Index, queue::Job},
};

/// What the tasks are started with.
pub(super) struct Parts {
    pub(super) shared: Arc<Shared>,
    pub(super) config: ClusterConfig,
    pub(super) log: LogConfig,
    pub(super) key_window: Duration,
}

/// The pause between two attempts to connect.
const CONNECT_PAUSE: Duration = Duration::from_millis(500);

/// Runs the tasks until the log is closed.
pub(super) fn run_thread(
    runtime: &Runtime,
    parts: &Parts,
    mut jobs: mpsc::Receiver<Job>,
    opened: &blocking::Sender<Result<(), OpenError>>,
) {
    let shared = &parts.shared;
    // Without this report, the process would go on after a panic, and refuse every event.
    let run = AssertUnwindSafe(|| runtime.block_on(run(parts, &mut jobs, opened)));
    if catch_unwind(run).is_err() {
        shared.fail("the log's tasks panicked".to_owned());
    }
}

async fn run(parts: &Parts, jobs: &mut mpsc::Receiver<Job>, opened: &blocking::Sender<Result<(), OpenError>>) {
    let Parts { shared, config, log, key_window } = parts;
    let restart = Arc::new(Notify::new());
    let open = async {
        let (link, info) = connect(config, log).await?;
        let link = Arc::new(link);
        let mut follower = Follower {
            shared: Arc::clone(shared),
            link: Arc::clone(&link),
            restart: Arc::clone(&restart),
            key_window: *key_window,
            position: 0,
            time_ms: 0,
            suspect: None,
        };
        let index = Index::new(link.epoch, log.clone(), log.hot_bytes_max.get());
        follower.load(index, &info).await;
        Ok((link, follower))
    };
    let is_closed = async {
        // Until the log is open, no job is queued.
        while let Some(job) = jobs.recv().await {
            publisher::refuse(shared, job, AppendError::Unavailable);
        }
    };
    let (link, follower) = tokio::select! {
        result = open => match result {
            Ok(parts) => parts,
            Err(error) => {
                let error: OpenError = error;
                shared.failed.set(error.to_string()).ok();
                opened.send(Err(error)).ok();
                return;
            }
        },
        () = is_closed => return,
    };
    let publisher = match Publisher::new(Arc::clone(shared), Arc::clone(&link), config.ack_timeout).await {
        Ok(publisher) => publisher,
        Err(error) => return shared.fail(format!("NATS gives no subscription: {error}")),
    };
    tokio::spawn(report_panic(Arc::clone(shared), exchange::run(Arc::clone(shared), Arc::clone(&link))));
    let watchdog = Watchdog {
        shared: Arc::clone(shared),
        link: Arc::clone(&link),
        restart,
        interval: config.watch_interval,
        goal: None,
        suspicions: 0,
        failures: 0,
    };
    tokio::spawn(report_panic(Arc::clone(shared), follower.run()));
    tokio::spawn(report_panic(Arc::clone(shared), watchdog.run()));
    opened.send(Ok(())).ok();
    publisher.run(jobs).await;
    exchange::leave(shared, &link).await;
}

/// Runs a task. Its panic makes the log fail.
async fn report_panic(shared: Arc<Shared>, task: impl Future<Output = ()>) {
    if AssertUnwindSafe(task).catch_unwind().await.is_err() {
        shared.fail("a task of the log panicked".to_owned());
    }
}

/// Connects, and tries it again until it succeeds.
async fn connect(config: &ClusterConfig, log: &LogConfig) -> Result<(Link, Info), OpenError> {
    let mut last = String::new();
    loop {
        match Link::open(config, log).await {
            Ok(opened) => return Ok(opened),
            Err(ConnectError::Refused(error)) => return Err(error),
            Err(ConnectError::Later(why)) => {
                if why != last {
                    tracing::warn!(why, servers = ?config.servers, "no connection to NATS yet");
                    last = why;
                }
            }
        }
        tokio::time::sleep(CONNECT_PAUSE).await;
    }
}
