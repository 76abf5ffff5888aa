//! Servers of NATS for the tests. The unit tests of the library include this file, too.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Mutex, OnceLock, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

/// A server of NATS that keeps streams. It ends with this value or with this process, whatever happens, and its directory
/// goes with it.
pub struct Nats {
    program: PathBuf,
    directory: PathBuf,
    /// Further lines of the configuration.
    settings: String,
    port: u16,
    state: Mutex<State>,
}

struct State {
    /// The process of the server.
    pid: String,
    /// Shells that wait for the end of their input, which is the end of this process, and then end the server.
    watchers: Vec<Child>,
}

/// Ends the server when this process has ended or has dropped its end of the pipe. A signal that ends this process may go
/// to the shell, too, which must outlive it.
const WATCHER: &str = r#""$0" -c "$1/nats.conf" >>"$1/nats.log" 2>&1 & echo $!; trap "" HUP INT QUIT TERM
cat >/dev/null; kill -9 $! 2>/dev/null; rm -rf "$1""#;
/// How long a server may take to start.
const DEADLINE: Duration = Duration::from_secs(30);

/// Every stream reserves its largest size, and there are many.
const DISK_BYTES: u64 = 1_000_000_000_000_000;

/// Where `nats-server` is; `Err` says what is missing.
pub fn program() -> Result<PathBuf, String> {
    if let Some(path) = std::env::var_os("TIDINGS_NATS_SERVER") {
        return Ok(path.into());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|folder| folder.join("nats-server")).find(|file| file.is_file());
    found.ok_or_else(|| "nats-server is not installed".to_owned())
}

/// The server that all tests of this process share.
pub fn shared() -> Result<&'static Nats, String> {
    static SHARED: OnceLock<Result<Nats, String>> = OnceLock::new();
    SHARED.get_or_init(|| program().map(Nats::start)).as_ref().map_err(Clone::clone)
}

/// A namespace that no other test has.
pub fn namespace() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

impl Nats {
    /// Starts a server of its own.
    pub fn start(program: PathBuf) -> Self {
        Self::start_with(program, DISK_BYTES, "")
    }

    /// As [`start`](Self::start), with a limit of bytes on the disk, and with these further lines of the configuration.
    pub fn start_with(program: PathBuf, disk_bytes_max: u64, settings: &str) -> Self {
        let mut nats = Self::new(program, disk_bytes_max, settings);
        nats.write_config("port: -1\nserver_name: test");
        nats.launch();
        nats.port = nats.found_port();
        // The next process has the same port.
        nats.write_config(&format!("port: {}\nserver_name: test", nats.port));
        nats
    }

    /// Starts a server on `port`, with these lines in its configuration, too.
    pub fn start_on(program: PathBuf, port: u16, lines: &str) -> Self {
        let mut nats = Self::new(program, DISK_BYTES, lines);
        nats.port = port;
        nats.write_config(&format!("port: {port}"));
        nats.launch();
        nats
    }

    fn new(program: PathBuf, disk_bytes_max: u64, settings: &str) -> Self {
        let directory = std::env::temp_dir().join(format!("tidings-nats-{}", namespace()));
        fs::create_dir_all(&directory).expect("a directory");
        let limits = format!("max_file_store: {disk_bytes_max}, max_memory_store: {DISK_BYTES}");
        let store = format!("jetstream {{ store_dir: \"{}\", {limits} }}", directory.display());
        let settings = format!("{store}\n{settings}");
        Self { program, directory, settings, port: 0, state: Mutex::new(State::new()) }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// As `kill -9` does.
    pub fn kill(&self) {
        self.signal("-KILL");
    }

    /// Sends a signal to the server.
    pub fn signal(&self, signal: &str) {
        let pid = self.state.lock().unwrap_or_else(PoisonError::into_inner).pid.clone();
        let sent = Command::new("kill").args([signal, &pid]).status().expect("kill runs");
        assert!(sent.success(), "the server has ended by itself: {}", self.log());
    }

    /// Starts the server again, on what it has stored.
    pub fn restart(&self) {
        self.launch();
    }

    /// Where the server keeps its streams.
    pub fn store(&self) -> PathBuf {
        self.directory.join("jetstream")
    }

    /// Copies what a killed server has stored.
    pub fn save(&self) {
        self.copy("jetstream", "saved");
    }

    /// Puts back what [`save`](Self::save) has copied, instead of what a killed server has stored.
    pub fn put_back(&self) {
        fs::remove_dir_all(self.directory.join("jetstream")).expect("it is removed");
        self.copy("saved", "jetstream");
    }

    fn copy(&self, from: &str, to: &str) {
        let (from, to) = (self.directory.join(from), self.directory.join(to));
        assert!(Command::new("cp").arg("-a").args([from, to]).status().expect("cp runs").success());
    }

    /// What the server has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.join("nats.log")).unwrap_or_default()
    }

    fn write_config(&self, lines: &str) {
        let directory = self.directory.display();
        let mut config = format!("{lines}\nhost: 127.0.0.1\nports_file_dir: \"{directory}\"\n");
        config.push_str(&self.settings);
        fs::write(self.directory.join("nats.conf"), config).expect("it is written");
    }

    fn launch(&self) {
        let mut command = Command::new("sh");
        command.arg("-c").arg(WATCHER).arg(&self.program).arg(&self.directory);
        let mut watcher = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("a shell");
        let mut pid = String::new();
        BufReader::new(watcher.stdout.take().expect("a pipe")).read_line(&mut pid).expect("its pid");
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.pid = pid.trim().to_owned();
        state.watchers.push(watcher);
    }

    /// The port that the server has chosen, as it says in a file.
    fn found_port(&self) -> u16 {
        let begin = Instant::now();
        loop {
            let port = ports_file(&self.directory).and_then(|text| {
                let (_, port) = text.split_once("://127.0.0.1:")?;
                port.split('"').next()?.parse().ok()
            });
            if let Some(port) = port {
                return port;
            }
            assert!(begin.elapsed() < DEADLINE, "NATS does not start: {}", self.log());
            std::thread::yield_now();
        }
    }
}

impl State {
    fn new() -> Self {
        Self { pid: String::new(), watchers: Vec::new() }
    }
}

impl Drop for Nats {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        for watcher in &mut state.watchers {
            drop(watcher.stdin.take());
            watcher.wait().ok();
        }
    }
}

fn ports_file(directory: &Path) -> Option<String> {
    let mut files = fs::read_dir(directory).ok()?.filter_map(Result::ok);
    let file = files.find(|file| file.path().extension().is_some_and(|ending| ending == "ports"))?;
    fs::read_to_string(file.path()).ok()
}
