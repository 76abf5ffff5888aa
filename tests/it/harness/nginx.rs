//! An nginx in front of servers.

use std::{
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use super::{
    blocking::Directory,
    tools::{installed, left_out},
    until,
};

/// An nginx of one process; killed with the value.
pub struct Nginx {
    pub address: SocketAddr,
    process: Child,
    _directory: Directory,
}

/// Where it is; `None` without, which is said.
pub fn program() -> Option<PathBuf> {
    let found = installed("nginx");
    if found.is_none() {
        left_out("no nginx (tests/run installs it)");
    }
    found
}

/// An address of this machine with a free port.
pub fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a port")
}

impl Nginx {
    /// Starts it with the configuration that `text` makes for an address and for a directory of its own.
    pub async fn start(program: &Path, text: impl FnOnce(SocketAddr, &Path) -> String) -> Self {
        let (directory, address) = (Directory::new(), free_address());
        let file = directory.0.join("nginx.conf");
        std::fs::write(&file, text(address, &directory.0)).expect("a file");
        let mut command = Command::new(program);
        command.arg("-c").arg(&file).arg("-p").arg(&directory.0).args(["-g", "daemon off; master_process off;"]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::inherit());
        let nginx = Self { address, process: command.spawn().expect("nginx starts"), _directory: directory };
        until("nginx to listen", async || TcpStream::connect(nginx.address).is_ok()).await;
        nginx
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // Fails when it has ended already.
        self.process.kill().ok();
        self.process.wait().ok();
    }
}
