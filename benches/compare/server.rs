//! The servers that are compared, each a process on a core of its own.

use std::{
    env, fs,
    io::{self, ErrorKind},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use crate::scenarios::{DISK_ENGINE, FLOOR, MEMORY_ENGINE, NCHAN};

const NCHAN_MODULES: [&str; 3] = [
    "/usr/lib/nginx/modules/ngx_nchan_module.so",
    "/usr/lib64/nginx/modules/ngx_nchan_module.so",
    "/usr/share/nginx/modules/ngx_nchan_module.so",
];
/// How long a server may take to start.
const DEADLINE: Duration = Duration::from_secs(20);

/// A running server; ended with the value.
pub struct Server {
    process: Child,
    address: SocketAddr,
}

/// Whether this machine can run it.
pub fn is_there(name: &str) -> bool {
    name != NCHAN
        || (nchan_module().is_some() && Command::new("nginx").arg("-v").stderr(Stdio::null()).status().is_ok())
}

/// A command that runs on one core, where there are several and a program to say so.
pub fn pinned(core: &str, program: &Path) -> Command {
    if !is_pinned() {
        return Command::new(program);
    }
    let mut command = Command::new("taskset");
    command.args(["-c", core]).arg(program);
    command
}

/// Whether servers and load each have a core.
pub fn is_pinned() -> bool {
    let mut taskset = Command::new("taskset");
    taskset.args(["-c", "1", "true"]).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}

impl Server {
    /// Starts `name` with nothing in its history; its files are in `directory`.
    pub fn start(name: &str, directory: &Path) -> io::Result<Self> {
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let process = command(name, directory, address)?.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        let mut server = Self { process, address };
        let begun = Instant::now();
        while TcpStream::connect(address).is_err() {
            if server.process.try_wait()?.is_some() || begun.elapsed() > DEADLINE {
                return Err(io::Error::other(format!("{name} does not start")));
            }
            wait(Duration::from_millis(20));
        }
        Ok(server)
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn id(&self) -> u32 {
        self.process.id()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself, and the figures have told so.
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

fn command(name: &str, directory: &Path, address: SocketAddr) -> io::Result<Command> {
    let port = address.port().to_string();
    match name {
        FLOOR => {
            let mut command = pinned("0", &env::current_exe()?);
            command.args(["--floor", &port]);
            Ok(command)
        }
        NCHAN => {
            let file = directory.join("nginx.conf");
            fs::write(&file, nchan(directory, &port)?)?;
            let mut command = pinned("0", Path::new("nginx"));
            command.arg("-c").arg(file);
            Ok(command)
        }
        MEMORY_ENGINE | DISK_ENGINE => {
            let mut command = pinned("0", Path::new(env!("CARGO_BIN_EXE_tidings")));
            let engine = if name == DISK_ENGINE { "disk" } else { "memory" };
            command.args(["--listen", &address.to_string()]).current_dir(directory);
            command.env("TIDINGS__SERVER__WORKERS", "1").env("TIDINGS__LOG__ENGINE", engine);
            command.env("TIDINGS__LOG__PATH", directory.join("log")).env("RUST_LOG", "warn");
            Ok(command)
        }
        _ => Err(ErrorKind::NotFound.into()),
    }
}

fn nchan_module() -> Option<PathBuf> {
    NCHAN_MODULES.iter().map(PathBuf::from).find(|path| path.exists())
}

/// As our own server is configured: one process, as long a history, as frequent heartbeats.
fn nchan(directory: &Path, port: &str) -> io::Result<String> {
    let module = nchan_module().ok_or(ErrorKind::NotFound)?;
    let (module, directory) = (module.display(), directory.display());
    // It reserves descriptors for each of its connections when it starts.
    let limit = rlimit::increase_nofile_limit(u64::MAX)?.min(200_000);
    let connections = limit.saturating_sub(200);
    Ok(format!(
        "worker_processes 1; daemon off; master_process off; pid {directory}/nginx.pid;
error_log {directory}/nginx.log; load_module {module};
worker_rlimit_nofile {limit};
events {{ worker_connections {connections}; }}
http {{
  access_log off; keepalive_requests 100000000; nchan_shared_memory_size 1024M;
  client_body_temp_path {directory}/body; client_body_buffer_size 64k;
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location = /publish {{
      nchan_publisher http; nchan_channel_id $arg_topic;
      nchan_message_buffer_length 10000; nchan_message_timeout 1h;
    }}
    location = /subscribe {{
      nchan_subscriber eventsource; nchan_channel_id $arg_topic;
      nchan_subscriber_first_message oldest; nchan_eventsource_ping_interval 15;
    }}
  }}
}}
"
    ))
}

#[expect(clippy::disallowed_methods, reason = "how often a condition is looked at; there is no worker here")]
fn wait(time: Duration) {
    std::thread::sleep(time);
}
