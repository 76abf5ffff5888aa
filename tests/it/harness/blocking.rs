//! The binary as a process of its own, to be killed, and clients that block: plain, and fast enough to load it.

use std::{
    io::{self, BufRead as _, BufReader, ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    sync::{Arc, Mutex},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use serde_json::Value;

use super::{DEADLINE, chunks::Body};

/// A directory of its own; removed with the value.
pub struct Directory(pub PathBuf);

impl Directory {
    pub fn new() -> Self {
        Self::in_directory(Path::new(env!("CARGO_TARGET_TMPDIR")))
    }

    /// In memory where the system has such a place: for tests that make many, and sync none.
    pub fn in_memory() -> Self {
        let shared_memory = Path::new("/dev/shm");
        if shared_memory.is_dir() { Self::in_directory(shared_memory) } else { Self::new() }
    }

    fn in_directory(parent: &Path) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("tidings-log-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = parent.join(name);
        std::fs::create_dir_all(&path).expect("a directory");
        Self(path)
    }

    pub fn file(&self) -> PathBuf {
        self.0.join("tidings.db")
    }

    /// How many rows of a table (and a condition) there are, as another process sees them.
    pub fn count(&self, table: &str) -> i64 {
        let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
        let file = rusqlite::Connection::open_with_flags(self.file(), flags).expect("the file opens");
        file.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0)).expect("a count")
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).ok();
    }
}

/// Waits until `condition` holds, for clients that block; the test fails when it does not come true in time.
pub fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !condition() {
        assert!(Instant::now() < deadline, "gave up waiting for {what}");
        pause(Duration::from_millis(5));
    }
}

#[expect(clippy::disallowed_methods, reason = "how often a condition is looked at, or a random moment: never a guess")]
pub fn pause(time: Duration) {
    std::thread::sleep(time);
}

/// A broker that runs as a process; killed with the value.
pub struct Broker {
    pub address: SocketAddr,
    child: Child,
    errors: Option<Errors>,
}

/// What a process writes to stderr.
struct Errors {
    text: Arc<Mutex<String>>,
    thread: JoinHandle<()>,
}

/// The arguments of a broker that may listen anywhere.
const ANY_PORT: [&str; 2] = ["--listen", "127.0.0.1:0"];

impl Broker {
    /// The disk engine on `directory`, with `settings` (`LOG__AGE_MAX`, …).
    pub fn disk(directory: &Directory, settings: &[(&str, &str)]) -> Self {
        Self::start("disk", &directory.0, settings).unwrap_or_else(|(status, errors)| panic!("{status}: {errors}"))
    }

    /// Starts it; when it ends instead, how and with what last words.
    pub fn start(engine: &str, path: &Path, settings: &[(&str, &str)]) -> Result<Self, (ExitStatus, String)> {
        Self::start_with(engine, path, settings, &[])
    }

    /// As [`start`](Self::start), in an environment that has these, too.
    pub fn start_with(
        engine: &str,
        path: &Path,
        settings: &[(&str, &str)],
        environment: &[(&str, &str)],
    ) -> Result<Self, (ExitStatus, String)> {
        Self::launch(engine, path, settings, environment, &ANY_PORT)
    }

    /// The disk engine on `directory`, with arguments.
    pub fn with_arguments(directory: &Directory, settings: &[(&str, &str)], arguments: &[&str]) -> Self {
        Self::launch("disk", &directory.0, settings, &[], &[&ANY_PORT, arguments].concat())
            .unwrap_or_else(|(status, errors)| panic!("{status}: {errors}"))
    }

    /// The disk engine on `directory`, on the address `listen`.
    pub fn start_at(listen: &str, directory: &Directory, settings: &[(&str, &str)]) -> Self {
        Self::launch("disk", &directory.0, settings, &[], &["--listen", listen])
            .unwrap_or_else(|(status, errors)| panic!("{status}: {errors}"))
    }

    fn launch(
        engine: &str,
        path: &Path,
        settings: &[(&str, &str)],
        environment: &[(&str, &str)],
        arguments: &[&str],
    ) -> Result<Self, (ExitStatus, String)> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidings"));
        command.args(arguments).current_dir(env!("CARGO_TARGET_TMPDIR"));
        command
            .env("TIDINGS__LOG__ENGINE", engine)
            .env("TIDINGS__LOG__PATH", path)
            .env("TIDINGS__SERVER__WORKERS", "2");
        command.envs(environment.iter().copied());
        for (name, value) in settings {
            command.env(format!("TIDINGS__{name}"), value);
        }
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary starts");
        let errors = Errors::collect(child.stderr.take().expect("its stderr"));
        let mut banner = String::new();
        let mut out = BufReader::new(child.stdout.take().expect("its stdout"));
        out.read_line(&mut banner).expect("its first line");
        // The rest must be read, or be able to go nowhere without ending the process.
        std::thread::spawn(move || io::copy(&mut out, &mut io::sink()));
        let address = banner.split("http://").nth(1).and_then(|rest| rest.split('/').next()?.parse().ok());
        match address {
            Some(address) => Ok(Self { address, child, errors: Some(errors) }),
            None => Err((child.wait().expect("its status"), errors.all())),
        }
    }

    /// Waits until it has ended by itself; how, and with what words.
    pub fn end(mut self) -> (ExitStatus, String) {
        let mut status = None;
        wait_for("its end", || {
            status = self.child.try_wait().expect("its status");
            status.is_some()
        });
        let status = status.expect("it has ended");
        (status, self.errors.take().map(Errors::all).unwrap_or_default())
    }

    /// `kill -9`, and waits until it has gone. It must not have ended by itself.
    pub fn kill(mut self) {
        if let Some(status) = self.child.try_wait().expect("its status") {
            panic!("{status}: {}", self.errors.take().map(Errors::all).unwrap_or_default());
        }
        self.child.kill().expect("it is killed");
        self.child.wait().expect("it ends");
    }

    /// Ends it in order.
    pub fn stop(self) -> ExitStatus {
        self.stop_and_tell().0
    }

    /// Ends it in order; how, and all that it has said.
    pub fn stop_and_tell(self) -> (ExitStatus, String) {
        let id = self.child.id().to_string();
        let sent = Command::new("kill").args(["-TERM", &id]).status().expect("kill runs");
        assert!(sent.success());
        self.end()
    }

    pub fn client(&self) -> Client {
        Client::connect(self.address).expect("a connection")
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        // Fails when it has ended already.
        self.child.kill().ok();
        let status = self.child.wait();
        if let Some(errors) = self.errors.take().filter(|_| std::thread::panicking()) {
            eprintln!("the broker, {status:?}: {}", errors.all());
        }
    }
}

impl Errors {
    fn collect(mut from: impl io::Read + Send + 'static) -> Self {
        let text = Arc::new(Mutex::new(String::new()));
        let into = Arc::clone(&text);
        let thread = std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(n @ 1..) = from.read(&mut buffer) {
                into.lock().expect("no panic").push_str(&String::from_utf8_lossy(&buffer[..n]));
            }
        });
        Self { text, thread }
    }

    fn all(self) -> String {
        self.thread.join().expect("no panic");
        self.text.lock().expect("no panic").clone()
    }
}

/// An HTTP/1.1 client with one connection that is kept.
pub struct Client {
    socket: BufReader<TcpStream>,
}

/// What was answered.
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: Value,
}

impl Answer {
    /// The position in the id of an acknowledged event.
    pub fn id(&self) -> Option<&str> {
        self.body["id"].as_str().filter(|_| self.status == 200)
    }

    pub fn replayed(&self) -> bool {
        self.head.to_ascii_lowercase().contains("idempotency-replayed: true")
    }
}

impl Client {
    pub fn connect(address: SocketAddr) -> io::Result<Self> {
        let socket = TcpStream::connect(address)?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(DEADLINE))?;
        Ok(Self { socket: BufReader::new(socket) })
    }

    pub fn request(&mut self, method: &str, path: &str, headers: &str, body: &str) -> io::Result<Answer> {
        let length = body.len();
        let request =
            format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n{headers}\r\n{body}");
        self.socket.get_mut().write_all(request.as_bytes())?;
        let head = read_head(&mut self.socket)?;
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or(ErrorKind::InvalidData)?;
        let length = head.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
        });
        let mut body = vec![0; length.unwrap_or(0)];
        self.socket.read_exact(&mut body)?;
        Ok(Answer { status, head, body: serde_json::from_slice(&body).unwrap_or(Value::Null) })
    }

    /// Publishes `content` raw.
    pub fn publish(&mut self, topic: &str, content: &str, key: Option<&str>) -> io::Result<Answer> {
        let key = key.map(|key| format!("Idempotency-Key: {key}\r\n")).unwrap_or_default();
        let path = format!("/publish?topic={topic}");
        self.request("POST", &path, &format!("Content-Type: text/plain\r\n{key}"), content)
    }

    /// Publishes and gives the position; anything but an acknowledgement fails the test.
    pub fn must_publish(&mut self, topic: &str, content: &str) -> String {
        let answer = self.publish(topic, content, None).expect("an answer");
        answer.id().unwrap_or_else(|| panic!("{}: {}", answer.status, answer.body)).to_owned()
    }

    /// Subscribes to `query`, after `cursor` if there is one, as lines of JSON.
    pub fn subscribe(address: SocketAddr, query: &str, cursor: Option<&str>) -> io::Result<Lines> {
        let mut client = Self::connect(address)?;
        let cursor = cursor.map(|cursor| format!("Last-Event-ID: {cursor}\r\n")).unwrap_or_default();
        let request = format!(
            "GET /subscribe?{query} HTTP/1.1\r\nHost: localhost\r\nAccept: application/x-ndjson\r\n{cursor}\r\n"
        );
        client.socket.get_mut().write_all(request.as_bytes())?;
        let head = read_head(&mut client.socket)?;
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        Ok(Lines { body: BufReader::new(Body::new(client.socket, &head)) })
    }
}

fn read_head(socket: &mut BufReader<TcpStream>) -> io::Result<String> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if socket.read_line(&mut head)? == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(head)
}

/// A subscriber that reads lines of JSON.
pub struct Lines {
    body: BufReader<Body<BufReader<TcpStream>>>,
}

/// One line of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    pub id: String,
    pub topic: String,
    pub data: String,
    /// Set when it is the broker's own: a gap, a refusal, a deletion.
    pub event: Option<String>,
}

impl Line {
    /// The position in its id.
    pub fn seq(&self) -> u64 {
        seq(&self.id)
    }
}

/// The position in an id.
pub fn seq(id: &str) -> u64 {
    id.split_once('-').and_then(|(_, seq)| seq.parse().ok()).unwrap_or_else(|| panic!("not an id: {id}"))
}

/// What a stream of lines says.
pub enum Said {
    Line(Line),
    Heartbeat,
}

impl Lines {
    /// The next whole line; `None` when the stream has ended, however it ended, a heartbeat is skipped.
    pub fn next(&mut self) -> Option<Line> {
        loop {
            if let Said::Line(line) = self.next_or_heartbeat()? {
                return Some(line);
            }
        }
    }

    /// As [`next`](Self::next), and heartbeats are told, too.
    pub fn next_or_heartbeat(&mut self) -> Option<Said> {
        let mut line = String::new();
        match self.body.read_line(&mut line) {
            Ok(_) if !line.ends_with('\n') => return None,
            Ok(_) => {}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                panic!("gave up waiting for a line")
            }
            Err(_) => return None,
        }
        if line == "\n" {
            return Some(Said::Heartbeat);
        }
        let line: Value = serde_json::from_str(&line).expect("a line of JSON");
        let text = |name: &str| line[name].as_str().map(str::to_owned);
        let data = text("data").unwrap_or_else(|| line["data"].to_string());
        let (id, topic) = (text("id").unwrap_or_default(), text("topic").unwrap_or_default());
        Some(Said::Line(Line { id, topic, data, event: text("event") }))
    }

    /// Every line up to the one with `id`, inclusive.
    pub fn until(&mut self, id: &str) -> Vec<Line> {
        let mut lines = Vec::new();
        while lines.last().is_none_or(|line: &Line| line.id != id) {
            lines.push(self.next().unwrap_or_else(|| panic!("the stream ended before {id}")));
        }
        lines
    }
}
