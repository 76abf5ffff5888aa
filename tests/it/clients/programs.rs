//! The client programs: how each is built and started, and what it gives to its application.

use std::{
    fs::File,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use serde_json::Value;

use super::{checker::Message, printed};
use crate::harness::{
    blocking::{Directory, pause},
    tools::on_path,
};

/// A client library, and how it is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Library {
    /// The loop that is printed below this heading.
    Python(&'static str),
    /// The same, as a client of HTTP/1.0, which is not sent chunks.
    Python10(&'static str),
    NodeEventSource,
    /// The loop that is printed.
    R3labs,
    /// Without it.
    R3labsAlone,
    ReqwestEventSource,
    /// `curl` in the loop that is printed.
    Shell,
}

/// How often it is looked at what a program has waited for a processor.
const WAITS_EVERY: Duration = Duration::from_millis(25);
/// The address that the printed shell loop has.
const PRINTED_URL: &str = "http://127.0.0.1:8080/subscribe?topic=news&envelope=json";

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Where `tests/run` has put what is no part of the repository.
fn installed(path: &str) -> Result<PathBuf, String> {
    let path = repository().join("target").join(path);
    if path.exists() { Ok(path) } else { Err(format!("no {} (tests/run makes it)", path.display())) }
}

fn source(path: &str) -> PathBuf {
    repository().join("tests/it/clients").join(path)
}

fn found(program: &str) -> Result<PathBuf, String> {
    on_path(program).ok_or_else(|| format!("no {program} on PATH"))
}

/// Runs a compiler, which must succeed.
fn build(compiler: &mut Command) {
    let built = compiler.output().expect("the compiler starts");
    assert!(built.status.success(), "{compiler:?}\n{}", String::from_utf8_lossy(&built.stderr));
}

impl Library {
    /// The program, built, as a subscriber of `url`; or what it lacks.
    fn command(self, url: &str, directory: &Path) -> Result<Command, String> {
        match self {
            Self::Python(name) | Self::Python10(name) => python(name, url, directory).map(|mut command| {
                command.envs((matches!(self, Self::Python10(_))).then_some(("HTTP_1_0", "1")));
                command
            }),
            Self::NodeEventSource => {
                let modules = installed("npm/node_modules/eventsource/package.json")?;
                let modules = modules.ancestors().nth(2).expect("node_modules");
                let mut command = Command::new(found("node")?);
                command.arg(source("js/eventsource.mjs")).arg(modules).arg(url);
                Ok(command)
            }
            Self::R3labs => go(Some(&printed::code("`r3labs/sse`")), url, directory),
            Self::R3labsAlone => go(None, url, directory),
            Self::ReqwestEventSource => {
                let target = installed("clients/rust")?;
                let mut cargo = Command::new(env!("CARGO"));
                cargo.args(["build", "--quiet", "--offline", "--locked", "--target-dir"]).arg(&target);
                build(cargo.arg("--manifest-path").arg(source("rust/Cargo.toml")));
                let mut command = Command::new(target.join("debug/reqwest-eventsource-client"));
                command.arg(url);
                Ok(command)
            }
            Self::Shell => {
                let script = printed::code("`curl` and a shell");
                assert!(script.contains(PRINTED_URL), "the loop is for {PRINTED_URL}");
                let file = directory.join("loop.sh");
                let url = format!("{url}&envelope=json");
                std::fs::write(&file, script.replace(PRINTED_URL, &url)).expect("it is written");
                found("curl")?;
                let mut command = Command::new(found("bash")?);
                command.arg(file);
                Ok(command)
            }
        }
    }

    /// Whether the application is shown `broker.refused`. The others' loops leave the broker's own events out.
    pub fn shows_refusals(self) -> bool {
        !matches!(self, Self::R3labs | Self::Shell)
    }

    /// Starts it; `None`, and the reason is given to `missing`, where its language is not there.
    pub fn start(self, url: &str, missing: &mut Vec<String>) -> Option<Program> {
        let directory = Directory::new();
        match self.command(url, &directory.0) {
            Ok(command) => Some(Program::start(command, directory)),
            Err(lacks) => {
                missing.push(format!("{self:?}: {lacks}"));
                None
            }
        }
    }
}

fn python(name: &str, url: &str, directory: &Path) -> Result<Command, String> {
    let mut command = Command::new(installed("clients/python/bin/python")?);
    let file = directory.join("printed.py");
    std::fs::write(&file, printed::code(name)).expect("it is written");
    command.arg(source("python/run.py")).arg(file).arg(url);
    Ok(command)
}

/// The Go program, with `printed` in place of its `subscribe.go`.
fn go(printed: Option<&str>, url: &str, directory: &Path) -> Result<Command, String> {
    let (go, modules) = (found("go")?, installed("clients/go")?);
    for file in ["go.mod", "go.sum", "main.go", "subscribe.go"] {
        std::fs::copy(source("go").join(file), directory.join(file)).expect("it is copied");
    }
    if let Some(code) = printed {
        std::fs::write(directory.join("subscribe.go"), code).expect("it is written");
    }
    let mut compiler = Command::new(go);
    compiler.args(["build", "-trimpath", "-o", "client"]).current_dir(directory);
    compiler.env("GOMODCACHE", modules).env("GOPROXY", "off").env("GOFLAGS", "-mod=readonly -buildvcs=false");
    build(&mut compiler);
    let mut command = Command::new(directory.join("client"));
    command.arg(url);
    Ok(command)
}

/// A client at work; ended with the value.
pub struct Program {
    child: Child,
    messages: Arc<Mutex<Vec<Message>>>,
    waited: Arc<Mutex<Vec<(Instant, Duration)>>>,
    directory: Directory,
}

impl Program {
    fn start(mut command: Command, directory: Directory) -> Self {
        let errors = File::create(directory.0.join("errors")).expect("a file");
        command.current_dir(&directory.0).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(errors);
        let mut child = command.spawn().expect("it starts");
        let messages = Arc::new(Mutex::new(Vec::new()));
        let (into, out) = (Arc::clone(&messages), BufReader::new(child.stdout.take().expect("its output")));
        std::thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                into.lock().expect("no panic").push(message(&line));
            }
        });
        let waited = Arc::new(Mutex::new(Vec::new()));
        let (into, id) = (Arc::downgrade(&waited), child.id());
        std::thread::spawn(move || {
            while let Some(into) = into.upgrade() {
                into.lock().expect("no panic").push((Instant::now(), processor_wait(id)));
                pause(WAITS_EVERY);
            }
        });
        Self { child, messages, waited, directory }
    }

    /// How long it has had to wait for a processor in all, at many moments.
    pub fn waited(&self) -> Vec<(Instant, Duration)> {
        self.waited.lock().expect("no panic").clone()
    }

    pub fn messages(&self) -> Vec<Message> {
        self.messages.lock().expect("no panic").clone()
    }

    /// Whether it was given this content.
    pub fn has(&self, content: &str) -> bool {
        self.messages.lock().expect("no panic").iter().any(|message| message.data == content)
    }

    /// The end of what it has said beside.
    pub fn errors(&self) -> String {
        let text = std::fs::read_to_string(self.directory.0.join("errors")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n    ")
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // Fails when it has ended already. The shell's curl ends with what it writes to.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// How long the threads of a process have been ready to run and did not, as Linux counts it; nothing where it does not.
fn processor_wait(id: u32) -> Duration {
    let threads = std::fs::read_dir(format!("/proc/{id}/task")).into_iter().flatten().filter_map(Result::ok);
    let waited = threads.filter_map(|thread| {
        let times = std::fs::read_to_string(thread.path().join("schedstat")).ok()?;
        times.split_whitespace().nth(1)?.parse::<u64>().ok()
    });
    Duration::from_nanos(waited.sum())
}

/// A line of a program. A line that is none is a message that no event has.
fn message(line: &str) -> Message {
    let at = Instant::now();
    let value: Value = serde_json::from_str(line).unwrap_or_else(|_| serde_json::json!({ "data": line }));
    let text = |name: &str| value[name].as_str().map(str::to_owned);
    let event = text("event").filter(|event| !event.is_empty()).unwrap_or_else(|| "message".to_owned());
    Message { event, data: text("data").unwrap_or_default(), at }
}

#[test]
fn what_is_fetched_comes_from_where_everybody_fetches_it() {
    let lock = std::fs::read_to_string(source("rust/Cargo.lock")).expect("it is there");
    let mut sources: Vec<&str> = lock.lines().filter_map(|line| line.strip_prefix("source = ")).collect();
    sources.dedup();
    assert_eq!(sources, ["\"registry+https://github.com/rust-lang/crates.io-index\""]);
    let versions = std::fs::read_to_string(source("python/requirements.txt")).expect("it is there");
    assert!(versions.lines().all(|line| line.split_once("==").is_some_and(|(_, version)| !version.contains(' '))));
}
