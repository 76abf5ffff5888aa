//! The program itself, as a process of its own: what only a process has (memory, CPU time, signals, exit code).

use std::{
    net::SocketAddr,
    process::{ExitStatus, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader, Lines},
    process::{Child, ChildStdout, Command},
    time::timeout,
};

use super::{DEADLINE, Stream, blocking::Directory, until};

/// The program, ready to be started with nothing of this process' configuration, in a directory without a `config.toml`.
pub fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidings"));
    for (name, _) in std::env::vars_os() {
        let shown = name.to_string_lossy();
        if shown.starts_with("TIDINGS__") || matches!(&*shown, "PORT" | "RUST_LOG") {
            command.env_remove(name);
        }
    }
    command.current_dir(env!("CARGO_TARGET_TMPDIR")).stdin(Stdio::null()).kill_on_drop(true);
    command
}

/// A running server; killed with the value.
pub struct Process {
    pub address: SocketAddr,
    /// What it says when it has started.
    pub banner: Vec<String>,
    child: Child,
    _log: Directory,
    out: Lines<BufReader<ChildStdout>>,
}

impl Process {
    /// Starts it on a free port, with `settings` such as `("TIDINGS__STREAM__RETRY", "1s")`.
    pub async fn start(settings: &[(&str, &str)]) -> Self {
        Self::start_at("127.0.0.1:0", settings).await
    }

    pub async fn start_at(listen: &str, settings: &[(&str, &str)]) -> Self {
        let mut command = program();
        command.args(["--listen", listen]).envs(settings.iter().copied());
        Self::spawn(&mut command).await
    }

    /// Starts `command`, which must serve, with a log of its own, and waits until it says where.
    pub async fn spawn(command: &mut Command) -> Self {
        let log = Directory::new();
        command.env("TIDINGS__LOG__PATH", &log.0);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program starts");
        let mut out = BufReader::new(child.stdout.take().expect("its output")).lines();
        let mut banner = Vec::new();
        while banner.last().is_none_or(|line: &String| !line.contains("Ctrl-C")) {
            let line = timeout(DEADLINE, out.next_line()).await.expect("a banner in time").expect("a banner");
            if let Some(line) = line {
                banner.push(line);
                continue;
            }
            let mut error = String::new();
            child.stderr.take().expect("its errors").read_to_string(&mut error).await.expect("UTF-8");
            panic!("it ended without a banner: {error}");
        }
        let address = banner[0].split_once("://").and_then(|(_, rest)| rest.split('/').next());
        let address = address.and_then(|address| address.parse().ok()).expect("a banner that says where it serves");
        Self { address, banner, child, _log: log, out }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Subscribes to `query` (`topic=a&topic=b&…`) as an `EventSource` does.
    pub async fn subscribe(&self, query: &str) -> Stream {
        Stream::open(self.address, &format!("/subscribe?{query}"), &[("accept", "text/event-stream")]).await
    }

    /// Subscribes to `query` for the media type that `accept` names.
    pub async fn get(&self, query: &str, accept: (&str, &str)) -> Stream {
        Stream::open(self.address, &format!("/subscribe?{query}"), &[accept]).await
    }

    /// Publishes `content` raw and returns the event's id.
    pub async fn publish(&self, client: &reqwest::Client, topic: &str, content: &str) -> String {
        let url = self.url(&format!("/publish?topic={topic}"));
        let request = client.post(url).header("content-type", "text/plain").body(content.to_owned());
        let answer: serde_json::Value = request.send().await.expect("an answer").json().await.expect("JSON");
        answer["id"].as_str().unwrap_or_else(|| panic!("an id in {answer}")).to_owned()
    }

    /// Subscribers of `topic` now.
    pub async fn subscribers(&self, topic: &str) -> u64 {
        let response = reqwest::get(self.url(&format!("/topics/{topic}"))).await.expect("an answer");
        let answer: serde_json::Value = response.json().await.expect("JSON");
        answer["subscribers"].as_u64().unwrap_or_default()
    }

    pub async fn until_subscribers(&self, topic: &str, n: u64) {
        until(&format!("{n} subscribers of {topic}"), async || self.subscribers(topic).await == n).await;
    }

    /// Bytes of memory that it occupies.
    pub fn resident(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id())).expect("its status");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its resident size");
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024
    }

    /// CPU time that it has used so far.
    pub fn cpu(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.id())).expect("its figures");
        // The name in parentheses comes second and may hold blanks; user and system time are fields 14 and 15.
        let (_, fields) = stat.rsplit_once(')').expect("a name");
        let ticks = |n: usize| fields.split_whitespace().nth(n).and_then(|f| f.parse::<u64>().ok()).expect("a time");
        // Linux counts in hundredths of a second, whatever the machine (USER_HZ).
        Duration::from_millis((ticks(11) + ticks(12)) * 10)
    }

    pub fn id(&self) -> u32 {
        self.child.id().expect("it runs")
    }

    /// Sends it a signal, such as `TERM`.
    pub async fn signal(&self, name: &str) {
        // The shell has a `kill` of its own; not every machine has the program.
        let mut shell = Command::new("sh");
        let sent = shell.args(["-c", &format!("kill -{name} {}", self.id())]).status().await.expect("a shell");
        assert!(sent.success(), "SIG{name} could not be sent");
    }

    /// Waits until it reports something with `text` in it, and gives what it has reported until then.
    pub async fn until_reported(&mut self, text: &str) -> String {
        let errors = self.child.stderr.as_mut().expect("its errors");
        let (mut said, mut buffer) = (String::new(), [0; 4096]);
        while !said.contains(text) {
            let n = timeout(DEADLINE, errors.read(&mut buffer)).await.expect("it says so in time").expect("its errors");
            assert!(n > 0, "it ended without {text:?}: {said}");
            said.push_str(&String::from_utf8_lossy(&buffer[..n]));
        }
        said
    }

    /// Reads what it reports from now on into `reports`, in the background, so that it never waits for a reader.
    pub fn report_to(&mut self, reports: Arc<Mutex<String>>) {
        let mut errors = self.child.stderr.take().expect("its errors");
        tokio::spawn(async move {
            let mut buffer = [0; 4096];
            while let Ok(n @ 1..) = errors.read(&mut buffer).await {
                reports.lock().expect("no panic").push_str(&String::from_utf8_lossy(&buffer[..n]));
            }
        });
    }

    /// How it has ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("its status")
    }

    /// As `kill -9` does, and waits until it has gone. It must not have ended by itself.
    pub async fn kill(mut self) {
        let ended = self.ended();
        assert!(ended.is_none(), "it has ended by itself: {ended:?}");
        self.child.kill().await.expect("it is killed");
    }

    /// Waits for its end.
    pub async fn exit(&mut self) -> ExitStatus {
        timeout(DEADLINE, self.child.wait()).await.expect("it ends in time").expect("an exit status")
    }

    /// After its end: the lines it printed behind the banner, and what it reported.
    pub async fn last_words(&mut self) -> (Vec<String>, String) {
        let (mut lines, mut error) = (Vec::new(), String::new());
        while let Some(line) = self.out.next_line().await.expect("UTF-8") {
            lines.push(line);
        }
        if let Some(mut stderr) = self.child.stderr.take() {
            stderr.read_to_string(&mut error).await.expect("UTF-8");
        }
        (lines, error)
    }
}
