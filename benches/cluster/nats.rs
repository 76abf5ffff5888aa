//! NATS: one server, or three that are a cluster.

use std::{
    env, fs, io,
    net::TcpListener,
    path::{Path, PathBuf},
    process::Stdio,
    sync::atomic::{AtomicU32, Ordering},
};

use tokio::{
    net::TcpStream,
    process::Command,
    time::{sleep, timeout},
};

use crate::process::{DEADLINE, GLANCE, Process};

/// The servers, which end with this value.
pub struct Nats {
    servers: Vec<Process>,
    ports: Vec<u16>,
}

impl Nats {
    /// Starts `n` servers, which keep their files in `directory`.
    pub async fn start(directory: &Path, n: usize) -> io::Result<Self> {
        // All are held until all are known, so that they differ.
        let held: Vec<TcpListener> = (0..2 * n).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<Result<_, _>>()?;
        let found: Vec<u16> =
            held.iter().map(|listener| Ok(listener.local_addr()?.port())).collect::<io::Result<_>>()?;
        drop(held);
        let (ports, routes) = found.split_at(n);
        let mut servers = Vec::new();
        for (at, (port, route)) in ports.iter().zip(routes).enumerate() {
            let folder = directory.join(format!("nats-{n}-{at}"));
            fs::create_dir_all(&folder)?;
            let file = folder.join("nats.conf");
            fs::write(&file, config(&folder, at, *port, *route, routes))?;
            let mut command = Command::new(program()?);
            command.arg("-c").arg(file).stdout(Stdio::null()).stderr(Stdio::null());
            servers.push(Process::spawn(&mut command)?);
        }
        let listens = async {
            for port in ports {
                while TcpStream::connect(("127.0.0.1", *port)).await.is_err() {
                    sleep(GLANCE).await;
                }
            }
        };
        timeout(DEADLINE, listens).await.map_err(|_| io::Error::other("NATS does not start"))?;
        Ok(Self { servers, ports: ports.to_vec() })
    }

    /// Where a client of server `n` connects, counted round.
    pub fn url(&self, n: usize) -> String {
        let port = self.ports.get(n % self.ports.len()).copied().unwrap_or_default();
        format!("nats://127.0.0.1:{port}")
    }

    pub fn pids(&self) -> Vec<u32> {
        self.servers.iter().map(|server| server.pid).collect()
    }

    pub async fn end(self) -> io::Result<()> {
        for server in self.servers {
            server.end().await?;
        }
        Ok(())
    }
}

/// A namespace that nothing else in this run has.
pub fn namespace() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("bench-{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

fn program() -> io::Result<PathBuf> {
    if let Some(path) = env::var_os("TIDINGS_NATS_SERVER") {
        return Ok(path.into());
    }
    let path = env::var_os("PATH").unwrap_or_default();
    let found = env::split_paths(&path).map(|folder| folder.join("nats-server")).find(|file| file.is_file());
    found.ok_or_else(|| io::Error::other("nats-server is not installed"))
}

fn config(folder: &Path, at: usize, port: u16, route: u16, routes: &[u16]) -> String {
    let folder = folder.display();
    // Each stream reserves its largest size, and each measurement has its own.
    let limits = "max_file_store: 1000000000000000, max_memory_store: 1000000000000000";
    let single = format!(
        "host: 127.0.0.1\nport: {port}\nserver_name: n{at}\njetstream {{ store_dir: \"{folder}\", {limits} }}\n"
    );
    if routes.len() == 1 {
        return single;
    }
    let others: Vec<String> = routes.iter().map(|route| format!("nats://127.0.0.1:{route}")).collect();
    format!("{single}cluster {{ name: bench, host: 127.0.0.1, port: {route}, routes: [{}] }}\n", others.join(", "))
}
