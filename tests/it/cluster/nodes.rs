//! Servers of Tidings that use one stream, and that a test kills, stops and starts again on the same ports.

use std::{
    net::{Ipv4Addr, SocketAddr},
    process::ExitStatus,
    sync::{Arc, Mutex},
};

use super::{is_ready, until};
use crate::harness::{Process, nats, nats_cluster::free_ports};

/// The servers. They are killed with the value.
pub struct Nodes {
    nodes: Vec<Node>,
    /// The name of the stream.
    pub namespace: String,
}

struct Node {
    settings: Vec<(String, String)>,
    address: SocketAddr,
    /// `None` while it is dead.
    process: Option<Process>,
    /// What all its processes have reported.
    reports: Arc<Mutex<String>>,
}

/// The addresses of the servers, for clients. A server has the same address in each of its lives.
pub type Targets = Arc<[SocketAddr]>;

/// Besides the addresses of NATS. Nothing is removed in the time of a test, so no gap is justified.
const SETTINGS: [(&str, &str); 9] = [
    ("LOG__ENGINE", "cluster"),
    ("LOG__TOPIC_EVENTS_MAX", "1000000"),
    ("LOG__TOPIC_BYTES_MAX", "1GiB"),
    ("LOG__BYTES_MAX", "2GiB"),
    // Older events are read from NATS.
    ("LOG__HOT_BYTES_MAX", "200KiB"),
    ("SERVER__WORKERS", "2"),
    // Subscribers of `marks=id` often get the position of a quiet stream, and resume with it.
    ("STREAM__HEARTBEAT", "500ms"),
    ("STREAM__RETRY", "100ms"),
    ("SHUTDOWN__DRAIN", "5s"),
];

impl Nodes {
    /// Starts one server for each list of addresses of NATS.
    pub async fn start(urls: &[String], settings: &[(&str, &str)]) -> Self {
        let namespace = nats::namespace();
        let mut nodes = Self { nodes: Vec::new(), namespace };
        for (port, urls) in free_ports(urls.len()).into_iter().zip(urls) {
            let own = [("CLUSTER__SERVERS", &**urls), ("CLUSTER__NAMESPACE", &*nodes.namespace)];
            let all = SETTINGS.iter().chain(&own).chain(settings);
            let settings = all.map(|(name, value)| (format!("TIDINGS__{name}"), (*value).to_owned())).collect();
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            nodes.nodes.push(Node { settings, address, process: None, reports: Arc::default() });
        }
        for n in 0..nodes.nodes.len() {
            nodes.restart(n).await;
        }
        nodes.until_ready().await;
        nodes
    }

    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    pub fn targets(&self) -> Targets {
        self.nodes.iter().map(|node| node.address).collect()
    }

    pub async fn kill(&mut self, n: usize) {
        let process = self.nodes[n].process.take().expect("it runs");
        process.kill().await;
    }

    /// Starts a server that is dead.
    pub async fn restart(&mut self, n: usize) {
        let Node { settings, address, process, reports } = &mut self.nodes[n];
        let settings: Vec<(&str, &str)> = settings.iter().map(|(name, value)| (&**name, &**value)).collect();
        let started = process.insert(Process::start_at(&address.to_string(), &settings).await);
        started.report_to(Arc::clone(reports));
    }

    /// Ends a server in order.
    pub async fn stop(&mut self, n: usize) -> ExitStatus {
        let mut process = self.nodes[n].process.take().expect("it runs");
        process.signal("TERM").await;
        process.exit().await
    }

    pub async fn signal(&self, n: usize, name: &str) {
        self.nodes[n].process.as_ref().expect("it runs").signal(name).await;
    }

    /// Waits until every server accepts events.
    pub async fn until_ready(&self) {
        for (n, node) in self.nodes.iter().enumerate() {
            let process = node.process.as_ref().expect("it runs");
            until(&format!("the readiness of server {n}"), async || is_ready(process).await).await;
        }
    }

    /// Waits until a server has reported something with `text` in it.
    pub async fn until_reported(&self, n: usize, text: &str) {
        let reports = &self.nodes[n].reports;
        until(text, async || reports.lock().expect("no panic").contains(text)).await;
    }

    /// No server may end by itself.
    pub fn check(&mut self) {
        for (n, node) in self.nodes.iter_mut().enumerate() {
            let ended = node.process.as_mut().and_then(Process::ended);
            assert!(ended.is_none(), "server {n} has ended by itself: {ended:?}");
        }
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        for (n, node) in self.nodes.iter().enumerate() {
            let reports = node.reports.lock().expect("no panic");
            let lines: Vec<&str> = reports.lines().collect();
            eprintln!("server {n} reported last:\n{}", lines[lines.len().saturating_sub(60)..].join("\n"));
        }
    }
}
