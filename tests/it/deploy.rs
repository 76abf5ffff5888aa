//! What `deploy/` ships. Its files fit each other, and what can run on this machine is run: NATS, Tidings and nginx with
//! the shipped configurations, whose addresses and paths are replaced.
//!
//! `browser::cluster` has the tests with a browser.

mod backup;
mod files;
mod image;
mod nats;
mod proxy;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use reqwest::{Client, Method, RequestBuilder, Response};
use serde_json::{Value, json};

use crate::{
    auth::{seconds_from_now, sign},
    harness::{
        Process,
        nats::{self as harness_nats, Nats},
        nginx::{Nginx, free_address},
        process::program,
        tools::left_out,
        until,
    },
};

/// What `openssl rand -hex 32` gives.
const SECRET: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
/// How many servers the cluster has.
pub const NODES: usize = 3;

/// A file at the top of the repository.
pub fn path(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(file)
}

pub fn read(file: &str) -> String {
    std::fs::read_to_string(path(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

/// `text` with `to` in each place of `from`, which must be there.
pub fn replaced(text: &str, from: &str, to: &str) -> String {
    assert!(text.contains(from), "there is {from:?} in {text}");
    text.replace(from, to)
}

/// The variable of `secrets.env`, as the command in the documentation writes it.
pub fn secrets() -> (String, String) {
    let page = read("docs/cluster-operations.md");
    let command = page.lines().find(|line| line.starts_with("printf 'TIDINGS__")).expect("the command is on the page");
    let command = replaced(command, "$(openssl rand -hex 32)", SECRET);
    let command = command.trim_end_matches('\\').to_owned();
    let output = std::process::Command::new("sh").args(["-c", &command]).output().expect("a shell");
    let line = String::from_utf8(output.stdout).expect("UTF-8");
    let (name, value) = line.trim_end().split_once('=').expect("a variable");
    (name.to_owned(), value.to_owned())
}

/// A token that may do everything, signed with the key of [`secrets`].
pub fn token() -> String {
    let rights = json!({"publish": ["**"], "subscribe": ["**"], "manage": ["**"]});
    sign(Some("main"), SECRET, &json!({"sub": "ann", "exp": seconds_from_now(600), "tidings": rights}))
}

/// The shipped configuration of nginx for these servers.
pub fn nginx_conf(nodes: &[SocketAddr], listen: SocketAddr, directory: &Path) -> String {
    let mut text = read("deploy/cluster/nginx.conf");
    let directory = directory.display();
    for (n, node) in nodes.iter().enumerate() {
        text = replaced(&text, &format!("10.213.0.1{}:8080", n + 1), &node.to_string());
    }
    text = replaced(&text, "listen 8080;", &format!("listen {listen};"));
    text = replaced(&text, "/tmp/nginx.pid", &format!("{directory}/pid"));
    text = replaced(&text, "error_log stderr", &format!("error_log {directory}/error.log"));
    // Debian's nginx has these in directories of root.
    let of_client = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
    let paths: String = of_client.iter().map(|name| format!("{name}_temp_path {directory}/{name};\n")).collect();
    replaced(&text, "http {\n", &format!("http {{\n{paths}"))
}

/// The servers of `deploy/cluster/config.toml`, on this machine and on one NATS.
pub struct Cluster {
    pub nats: Nats,
    namespace: String,
    /// Where each server is, also while it is stopped.
    pub addresses: Vec<SocketAddr>,
    pub nodes: Vec<Option<Process>>,
    /// Beside the shipped configuration.
    settings: Vec<(String, String)>,
    pub client: Client,
    token: String,
}

impl Cluster {
    /// Starts all servers; `None` without NATS, which is said.
    pub async fn start(settings: &[(&str, &str)]) -> Option<Self> {
        let nats = match harness_nats::program() {
            Ok(program) => Nats::start(program),
            Err(missing) => {
                left_out(&missing);
                return None;
            }
        };
        let settings = settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let addresses = (0..NODES).map(|_| free_address()).collect();
        let namespace = harness_nats::namespace();
        let (client, token) = (Client::new(), token());
        let nodes = (0..NODES).map(|_| None).collect();
        let mut cluster = Self { nats, namespace, addresses, nodes, settings, client, token };
        cluster.start_all().await;
        Some(cluster)
    }

    pub async fn start_all(&mut self) {
        for n in 0..NODES {
            self.start_node(n).await;
        }
    }

    /// Starts a server at the address that it had before.
    pub async fn start_node(&mut self, n: usize) {
        let (name, value) = secrets();
        let mut command = program();
        command
            .arg("--config")
            .arg(path("deploy/cluster/config.toml"))
            .args(["--listen", &self.addresses[n].to_string()]);
        command.env(name, value).envs([
            ("TIDINGS__CLUSTER__SERVERS", self.nats.url().as_str()),
            ("TIDINGS__CLUSTER__NAMESPACE", &self.namespace),
            ("TIDINGS__CLUSTER__REPLICAS", "1"),
            ("TIDINGS__CLUSTER__WATCH_INTERVAL", "100ms"),
            ("TIDINGS__SERVER__TRUSTED_PROXIES", "127.0.0.1"),
            ("TIDINGS__SERVER__WORKERS", "1"),
            ("TIDINGS__SHUTDOWN__DRAIN", "1s"),
            ("TIDINGS__STREAM__RETRY", "100ms"),
        ]);
        command.envs(self.settings.iter().map(|(name, value)| (name, value)));
        self.nodes[n] = Some(Process::spawn(&mut command).await);
        until("the server to be ready", async || self.status(n, "/readyz").await == Some(200)).await;
    }

    /// Sends the server a signal that ends it, and waits for its end.
    pub async fn stop_node(&mut self, n: usize, signal: &str) {
        let mut node = self.nodes[n].take().expect("it runs");
        node.signal(signal).await;
        node.exit().await;
    }

    /// Stops all servers that run.
    pub async fn stop_all(&mut self, signal: &str) {
        for n in 0..NODES {
            if self.nodes[n].is_some() {
                self.stop_node(n, signal).await;
            }
        }
    }

    pub async fn proxy(&self, program: &Path) -> Nginx {
        Nginx::start(program, |listen, directory| nginx_conf(&self.addresses, listen, directory)).await
    }

    /// A request with a token.
    pub fn request(&self, method: Method, url: &str) -> RequestBuilder {
        self.client.request(method, url).bearer_auth(&self.token)
    }

    pub fn publish(&self, nginx: &Nginx, content: &str) -> RequestBuilder {
        let request = self.request(Method::POST, &nginx.url("/publish?topic=a"));
        request.header("content-type", "text/plain").body(content.to_owned())
    }

    /// Publishes to topic `a` until it is acknowledged, always with the same key; the event's id.
    pub async fn publish_surely(&self, nginx: &Nginx, content: &str) -> String {
        let mut id = String::new();
        until("an acknowledgement", async || {
            let request = self.publish(nginx, content).header("idempotency-key", content);
            let Ok(answer) = request.send().await else { return false };
            let status = answer.status();
            assert!(status == 200 || status.is_server_error(), "{status}");
            id = if status == 200 { id_of(answer).await } else { return false };
            true
        })
        .await;
        id
    }

    /// What `GET` of a server answers; `None` if it does not.
    pub async fn status(&self, n: usize, path: &str) -> Option<u16> {
        let answer = self.client.get(format!("http://{}{path}", self.addresses[n])).send().await.ok()?;
        Some(answer.status().as_u16())
    }

    /// The server that has a subscriber of topic `a`, other than `but`.
    pub async fn home(&self, but: Option<usize>) -> Option<usize> {
        for n in (0..NODES).filter(|n| Some(*n) != but) {
            // The list has those of one server; the count has those of all.
            let request = self.request(Method::GET, &format!("http://{}/topics/a/subscribers", self.addresses[n]));
            let Ok(answer) = request.send().await else { continue };
            let Ok(list) = answer.json::<Value>().await else { continue };
            if list["subscribers"].as_array().is_some_and(|subscribers| !subscribers.is_empty()) {
                return Some(n);
            }
        }
        None
    }

    /// Waits for a subscriber of topic `a` at a server other than `but`.
    pub async fn until_home(&self, but: Option<usize>) -> usize {
        let mut home = None;
        until("a subscriber", async || {
            home = self.home(but).await;
            home.is_some()
        })
        .await;
        home.expect("it was awaited")
    }
}

/// The id in the answer of a publish.
pub async fn id_of(answer: Response) -> String {
    let answer: Value = answer.json().await.expect("JSON");
    answer["id"].as_str().unwrap_or_else(|| panic!("an id in {answer}")).to_owned()
}
