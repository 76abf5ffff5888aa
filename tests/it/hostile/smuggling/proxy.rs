//! A real proxy that keeps its connections to the server, and says in its log which requests it has forwarded.
//!
//! Without the program these tests are left out and say so; `tests/run` installs it and makes leaving out a failure.

use std::{
    collections::BTreeMap,
    fs::File,
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use crate::harness::{
    blocking::Directory,
    tools::{installed, left_out},
    until,
};

#[derive(Clone, Copy, Debug)]
pub enum Kind {
    Nginx,
    HaProxy,
}

/// The proxy; ended with the value.
pub struct Proxy {
    kind: Kind,
    pub address: SocketAddr,
    process: Child,
    log: PathBuf,
    _directory: Directory,
}

impl Proxy {
    /// Starts it in front of `server`.
    pub async fn start(kind: Kind, server: SocketAddr) -> Option<Self> {
        let name = match kind {
            Kind::Nginx => "nginx",
            Kind::HaProxy => "haproxy",
        };
        let Some(program) = installed(name) else {
            left_out(&format!("no {name} (tests/run installs it)"));
            return None;
        };
        let directory = Directory::new();
        let free = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = free.local_addr().expect("an address");
        drop(free);
        let (file, log) = (directory.0.join("proxy.conf"), directory.0.join("log"));
        let text = match kind {
            Kind::Nginx => nginx(&directory.0, &log, address, server),
            Kind::HaProxy => haproxy(address, server),
        };
        std::fs::write(&file, text).expect("a file");
        let mut command = Command::new(program);
        command.stdin(Stdio::null()).stderr(Stdio::inherit());
        match kind {
            Kind::Nginx => command.arg("-p").arg(&directory.0).arg("-c").arg(&file).stdout(Stdio::null()),
            Kind::HaProxy => command.arg("-f").arg(&file).stdout(File::create(&log).expect("a file")),
        };
        let process = command.spawn().expect("the proxy starts");
        let proxy = Self { kind, address, process, log, _directory: directory };
        until("the proxy to listen", async || TcpStream::connect(proxy.address).is_ok()).await;
        Some(proxy)
    }

    /// Stops it, and counts the requests that it has forwarded and that were published, by topic.
    pub fn stop(mut self) -> BTreeMap<String, u64> {
        // These signals have it end its connections, and write its log, first.
        let signal = match self.kind {
            Kind::Nginx => "QUIT",
            Kind::HaProxy => "USR1",
        };
        let kill = format!("kill -{signal} {}", self.process.id());
        let status = Command::new("sh").args(["-c", &kill]).status().expect("a shell");
        assert!(status.success(), "it runs");
        self.process.wait().expect("an end");
        let log = std::fs::read_to_string(&self.log).expect("a log");
        let mut forwarded = BTreeMap::new();
        for line in log.lines() {
            let topic = line.split("topic=").nth(1).and_then(|rest| rest.split([' ', '&']).next());
            if let Some(topic) = topic.filter(|_| line.ends_with(" 200")) {
                *forwarded.entry(topic.to_owned()).or_insert(0) += 1;
            }
        }
        forwarded
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // Fails when it has ended already.
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

/// One process and one connection to the server, on which a request and its answer would fall out of step. Bodies are
/// forwarded as they come, not only when they are whole.
fn nginx(directory: &Path, log: &Path, address: SocketAddr, server: SocketAddr) -> String {
    let (path, log) = (directory.display(), log.display());
    let of_client = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
    let paths: String = of_client.iter().map(|name| format!("{name}_temp_path {path}/{name};\n")).collect();
    format!(
        "daemon off;\nmaster_process off;\npid {path}/pid;\nerror_log /dev/null;\nevents {{}}\nhttp {{\n{paths}\
         log_format forwarded '$request_method $request_uri $upstream_status';\naccess_log {log} forwarded;\n\
         client_header_timeout 1s;\nclient_body_timeout 1s;\nkeepalive_timeout 1s;\nignore_invalid_headers off;\n\
         underscores_in_headers on;\nupstream tidings {{\nserver {server};\nkeepalive 1;\n}}\nserver {{\n\
         listen {address};\nlocation / {{\nproxy_pass http://tidings;\nproxy_http_version 1.1;\n\
         proxy_set_header Connection \"\";\nproxy_set_header Host $http_host;\nproxy_request_buffering off;\n}}\n}}\n}}\n"
    )
}

fn haproxy(address: SocketAddr, server: SocketAddr) -> String {
    format!(
        "global\nnbthread 1\nhard-stop-after 10s\ndefaults\nmode http\nlog stdout format raw local0\n\
         log-format \"%HM %HU %ST\"\ntimeout connect 10s\ntimeout server 30s\ntimeout client 1s\n\
         timeout http-request 1s\ntimeout http-keep-alive 1s\nhttp-reuse always\nfrontend in\nbind {address}\n\
         default_backend tidings\nbackend tidings\nserver tidings {server}\n"
    )
}
