//! The shipped configuration of NATS, on three real servers.

use std::{
    collections::BTreeMap,
    io::Write as _,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use reqwest::Client;
use serde_json::Value;

use super::{files::probes, path, read, replaced, secrets, token};
use crate::harness::{
    Process, blocking::Directory, nats::program, nginx::free_address, process::program as tidings, tools::left_out,
    until,
};

const CONFIG: &str = "deploy/cluster/nats.conf";

/// Three servers of NATS; they end with the value, or with this process, whatever happens.
struct Servers {
    program: PathBuf,
    /// For clients.
    clients: Vec<SocketAddr>,
    /// For health and statistics.
    monitors: Vec<SocketAddr>,
    /// Shells that wait for the end of their input, and then end the server.
    watchers: Vec<Child>,
    directory: Directory,
}

/// Starts a server with its process id in a file, and ends it when nobody holds the other end of the pipe any more.
const WATCHER: &str = r#""$0" -c "$1.conf" -P "$1.pid" >"$1.log" 2>&1 & cat >/dev/null; kill -9 $! 2>/dev/null"#;

impl Servers {
    fn start(program: PathBuf) -> Self {
        let directory = Directory::new();
        let addresses = || (0..3).map(|_| free_address()).collect::<Vec<_>>();
        let (clients, monitors, routes) = (addresses(), addresses(), addresses());
        let mut servers = Self { program, clients, monitors, watchers: Vec::new(), directory };
        for n in 0..3 {
            let file = servers.file(n, "conf");
            let text = servers.config(n, &routes);
            std::fs::write(file, text).expect("a file");
            let mut command = Command::new("sh");
            command.args(["-c", WATCHER]).arg(&servers.program).arg(servers.directory.0.join(format!("nats-{n}")));
            command.env("NATS_NAME", format!("nats-{n}")).stdin(Stdio::piped());
            servers.watchers.push(command.spawn().expect("a shell"));
        }
        servers
    }

    /// The shipped configuration for one of three servers on this machine.
    fn config(&self, n: usize, routes: &[SocketAddr]) -> String {
        let mut text = read(CONFIG);
        for (from, to, address) in [
            ("\nport: 4222", "\nlisten: ", self.clients[n]),
            ("\nhttp_port: 8222", "\nhttp: ", self.monitors[n]),
            ("\n  port: 6222", "\n  listen: ", routes[n]),
        ] {
            text = replaced(&text, from, &format!("{to}{address}"));
        }
        for (n, route) in routes.iter().enumerate() {
            text = replaced(&text, &format!("nats-{n}.nats:6222"), &route.to_string());
        }
        replaced(&text, "store_dir: /data", &format!("store_dir: \"{}\"", self.file(n, "data").display()))
    }

    fn file(&self, n: usize, ending: &str) -> PathBuf {
        self.directory.0.join(format!("nats-{n}.{ending}"))
    }

    fn log(&self, n: usize) -> String {
        std::fs::read_to_string(self.file(n, "log")).unwrap_or_default()
    }

    fn urls(&self) -> String {
        let urls: Vec<String> = self.clients.iter().map(|address| format!("nats://{address}")).collect();
        urls.join(",")
    }

    /// What a server answers on its port for health and statistics.
    async fn monitor(&self, client: &Client, n: usize, path: &str) -> Option<(u16, Value)> {
        let answer = client.get(format!("http://{}{path}", self.monitors[n])).send().await.ok()?;
        Some((answer.status().as_u16(), answer.json().await.unwrap_or_default()))
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        for watcher in &mut self.watchers {
            drop(watcher.stdin.take());
            watcher.wait().ok();
        }
    }
}

/// Where `nats-server` is; `None` without, which is said.
fn nats_server() -> Option<PathBuf> {
    program().map_err(|missing| left_out(&missing)).ok()
}

/// What `nats-server -t` says of a configuration.
fn test_config(program: &Path, file: &Path) -> (bool, String) {
    let mut command = Command::new(program);
    let output = command.arg("-t").arg("-c").arg(file).env("NATS_NAME", "nats-0").output().expect("it runs");
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}

#[test]
fn nats_accepts_its_configuration() {
    // Goal: nats-server checks the file as it is. The control: it would notice a misspelt key.
    let Some(program) = nats_server() else { return };
    let (is_valid, said) = test_config(&program, &path(CONFIG));
    assert!(is_valid, "{said}");
    let directory = Directory::new();
    let file = directory.0.join("nats.conf");
    let text = replaced(&read(CONFIG), "sync_interval", "sync_intervall");
    std::fs::File::create(&file).and_then(|mut file| file.write_all(text.as_bytes())).expect("a file");
    assert!(!test_config(&program, &file).0);
}

#[tokio::test]
async fn three_nats_servers_of_the_shipped_configuration_carry_a_cluster() {
    // Goal: the servers form a cluster, write to the disk before each answer, and answer the probes. A Tidings server with
    // the shipped configuration keeps three replicas there, and takes an event of the size that its configuration allows.
    // When one of them is asked to leave, as Kubernetes does before it ends a pod, publishing goes on.
    let Some(program) = nats_server() else { return };
    let (servers, client) = (Servers::start(program), Client::new());
    let probes: BTreeMap<String, String> = probes("deploy/cluster/kubernetes/nats.yaml", "nats");
    for n in 0..3 {
        for probe in ["startupProbe", "readinessProbe", "livenessProbe"] {
            let is_healthy =
                async || servers.monitor(&client, n, &probes[probe]).await.is_some_and(|(code, _)| code == 200);
            until(&format!("{probe} of NATS"), is_healthy).await;
        }
        let (_, varz) = servers.monitor(&client, n, "/varz").await.expect("an answer");
        assert_eq!(varz["server_name"], format!("nats-{n}"));
        assert_eq!(varz["jetstream"]["config"]["sync_always"], true, "{varz}");
    }
    let (name, value) = secrets();
    let mut command = tidings();
    command.arg("--config").arg(path("deploy/cluster/config.toml")).args(["--listen", "127.0.0.1:0"]).env(name, value);
    let server = Process::spawn(command.env("TIDINGS__CLUSTER__SERVERS", servers.urls())).await;
    let publish = async |content: String| {
        let request =
            client.post(server.url("/publish?topic=a")).bearer_auth(token()).header("content-type", "text/plain");
        let answer = request.body(content).send().await.expect("an answer");
        (answer.status().as_u16(), answer.json::<Value>().await.expect("JSON"))
    };
    let is_ready = async || reqwest::get(server.url("/readyz")).await.is_ok_and(|answer| answer.status() == 200);
    until("the server to be ready", is_ready).await;
    let (status, answer) = publish("x".repeat(1 << 20)).await;
    assert_eq!((status, &answer["durability"]), (200, &"cluster".into()), "{answer}");
    let (_, jsz) = servers.monitor(&client, 0, "/jsz?streams=true&config=true").await.expect("an answer");
    let stream = &jsz["account_details"][0]["stream_detail"][0]["config"];
    assert_eq!((&stream["name"], &stream["num_replicas"]), (&"tidings".into(), &3.into()), "{jsz}");

    let pid = std::fs::read_to_string(servers.file(1, "pid")).expect("its process id");
    let hook = super::files::pre_stop("deploy/cluster/kubernetes/nats.yaml", "nats");
    assert_eq!(hook[0], "nats-server");
    let arguments: Vec<String> =
        hook[1..].iter().map(|part| part.replace("ldm=1", &format!("ldm={}", pid.trim()))).collect();
    assert!(Command::new(&servers.program).args(&arguments).status().expect("it runs").success(), "{arguments:?}");
    until("lame duck mode", async || servers.log(1).to_lowercase().contains("lame duck mode")).await;
    until("an acknowledgement", async || publish("after".to_owned()).await.0 == 200).await;
}
