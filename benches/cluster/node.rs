//! A Tidings server.

use std::{
    io,
    net::SocketAddr,
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::Command,
    time::{sleep, timeout},
};

use crate::{
    http,
    process::{DEADLINE, GLANCE, Process},
};

/// A running server, which ends with this value.
pub struct Node {
    pub process: Process,
    pub address: SocketAddr,
    /// From the start of the process until it was ready.
    pub started_in: Duration,
}

/// What a node is started with, besides the defaults.
pub type Settings<'a> = &'a [(&'a str, &'a str)];

impl Node {
    /// Starts a node of the cluster that uses the stream `namespace` of the NATS at `url`.
    pub async fn start(url: &str, namespace: &str, settings: Settings<'_>) -> io::Result<Self> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidings"));
        command.env("TIDINGS__LOG__ENGINE", "cluster").env("TIDINGS__CLUSTER__SERVERS", url);
        command.env("TIDINGS__CLUSTER__NAMESPACE", namespace).envs(settings.iter().copied());
        Self::spawn(command).await
    }

    /// The same, on core 0 alone, if this machine can do so.
    pub async fn start_pinned(url: &str, namespace: &str, settings: Settings<'_>) -> io::Result<Self> {
        let mut command = pinned("0", Path::new(env!("CARGO_BIN_EXE_tidings")));
        command.env("TIDINGS__LOG__ENGINE", "cluster").env("TIDINGS__CLUSTER__SERVERS", url);
        command.env("TIDINGS__CLUSTER__NAMESPACE", namespace).envs(settings.iter().copied());
        Self::spawn(command).await
    }

    /// Starts a server that keeps its events in memory.
    pub async fn start_alone() -> io::Result<Self> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidings"));
        command.env("TIDINGS__LOG__ENGINE", "memory");
        Self::spawn(command).await
    }

    async fn spawn(mut command: Command) -> io::Result<Self> {
        let begun = Instant::now();
        command.args(["--listen", "127.0.0.1:0"]).env("RUST_LOG", "error").current_dir(env!("CARGO_TARGET_TMPDIR"));
        let mut process = Process::spawn(command.stdin(Stdio::null()).stdout(Stdio::piped()))?;
        let mut out = BufReader::new(process.child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?).lines();
        let banner = out.next_line().await?.unwrap_or_default();
        let address = banner.split_once("://").and_then(|(_, rest)| rest.split('/').next()).unwrap_or_default();
        let address = address.parse().map_err(|_| io::Error::other(format!("not an address: {banner}")))?;
        let is_ready = async {
            while !http::is_ready(address).await {
                sleep(GLANCE).await;
            }
        };
        timeout(DEADLINE, is_ready).await.map_err(|_| io::Error::other("a node is not ready"))?;
        Ok(Self { process, address, started_in: begun.elapsed() })
    }
}

/// The processes of `nodes`.
pub fn pids(nodes: &[Node]) -> Vec<u32> {
    nodes.iter().map(|node| node.process.pid).collect()
}

/// Ends all of `nodes`.
pub async fn end(nodes: Vec<Node>) -> io::Result<()> {
    for node in nodes {
        node.process.end().await?;
    }
    Ok(())
}

/// A command that runs on one core, where there is a program to say so.
fn pinned(core: &str, program: &Path) -> Command {
    if !is_pinned() {
        return Command::new(program);
    }
    let mut command = Command::new("taskset");
    command.args(["-c", core]).arg(program);
    command
}

/// Whether [`Node::start_pinned`] can do it.
pub fn is_pinned() -> bool {
    let mut taskset = std::process::Command::new("taskset");
    taskset.args(["-c", "0", "true"]).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}
