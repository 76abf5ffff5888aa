//! A server to test, and clients that read streams as the HTML standard says.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use futures_util::FutureExt as _;
use tidings::{config::Config, later::Later, log::ReadError, server::Server};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::oneshot,
    time::{sleep, timeout},
};

pub mod answer;
pub mod blocking;
pub mod chunks;
pub mod link;
pub mod nats;
pub mod nats_cluster;
pub mod nginx;
pub mod parser;
pub mod preload;
pub mod process;
pub mod remote;
pub mod small_disk;
pub mod tools;

pub use answer::{Answer, FALLBACK_LINE, FOR_THE_FALLBACK, READERS, connect_from, encoded};
use blocking::Directory;
use chunks::Chunks;
pub use parser::Block;
pub use process::Process;

/// How long anything may take before a test gives up. Never waited for when all is well.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// What a log answers that has it in memory.
pub fn at_hand<T>(answer: Later<Result<T, ReadError>>) -> T {
    answer.now_or_never().expect("it is at hand").expect("it can be read")
}

/// A server in a thread of its own; ended with the value.
pub struct TestServer {
    pub address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    _log: Directory,
}

impl TestServer {
    /// Defaults, on a free port.
    pub fn start() -> Self {
        Self::with(|_| {})
    }

    /// Defaults on a free port, changed by `configure`.
    pub fn with(configure: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config::default();
        config.server.port = 0;
        config.server.workers = 2;
        let log = Directory::new();
        config.log.path.clone_from(&log.0);
        config.shutdown.drain = Duration::from_millis(500);
        configure(&mut config);
        let (started, address) = std::sync::mpsc::channel();
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = std::thread::spawn(move || {
            actix_web::rt::System::new().block_on(async move {
                let server = Server::listen(config).expect("the server starts");
                started.send(server.address()).expect("the test waits for it");
                // An error means that the value was dropped, which ends the server, too.
                let _ = stopped.await;
                server.shutdown().await;
            });
        });
        let address = address.recv_timeout(DEADLINE).expect("the server starts");
        Self { address, stop: Some(stop), thread: Some(thread), _log: log }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Asks it to drain and stop, without waiting.
    pub fn begin_shutdown(&mut self) {
        self.stop.take();
    }

    /// Drains and stops it; how long that took.
    pub fn shutdown(mut self) -> Duration {
        let begin = Instant::now();
        self.end();
        begin.elapsed()
    }

    fn end(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the server ended well");
        }
    }

    /// Publishes `content` raw and returns the event's id.
    pub async fn publish(&self, topic: &str, content: &str) -> String {
        let response = reqwest::Client::new()
            .post(self.url("/publish"))
            .query_pair("topic", topic)
            .header("content-type", "text/plain")
            .body(content.to_owned())
            .send()
            .await
            .expect("an answer");
        let status = response.status();
        let answer: serde_json::Value = response.json().await.expect("JSON");
        assert_eq!(status, 200, "{answer}");
        answer["id"].as_str().expect("an id").to_owned()
    }

    /// Subscribes to `query` (`topic=a&topic=b&…`) as an EventSource does.
    pub async fn subscribe(&self, query: &str) -> Stream {
        self.get(&format!("/subscribe?{query}"), &[("accept", "text/event-stream")]).await
    }

    /// As [`subscribe`](Self::subscribe), and resumes after `id`.
    pub async fn resume(&self, query: &str, id: &str) -> Stream {
        self.get(&format!("/subscribe?{query}"), &[("accept", "text/event-stream"), ("last-event-id", id)]).await
    }

    /// Any GET whose response is read as a stream.
    pub async fn get(&self, path: &str, headers: &[(&str, &str)]) -> Stream {
        Stream::open(self.address, path, headers).await
    }

    /// What `GET /topics/{topic}` says of a topic that is known.
    pub async fn held(&self, topic: &str) -> serde_json::Value {
        let response = reqwest::get(self.url(&format!("/topics/{topic}"))).await.expect("an answer");
        assert_eq!(response.status(), 200, "{topic} is known");
        response.json().await.expect("JSON")
    }

    /// Sends `request` as it is; its response is read as a stream.
    pub async fn send(&self, request: &[u8]) -> Stream {
        let mut socket = TcpStream::connect(self.address).await.expect("a connection");
        socket.write_all(request).await.expect("the request is sent");
        Stream::receive(socket).await
    }

    /// Waits until the topic has `n` subscribers.
    pub async fn until_subscribers(&self, topic: &str, n: u64) {
        let url = self.url(&format!("/topics/{topic}"));
        until(&format!("{n} subscribers of {topic}"), async || {
            let response = reqwest::get(&url).await.expect("an answer");
            let subscribers = if response.status() == 404 {
                Some(0)
            } else {
                response.json::<serde_json::Value>().await.expect("JSON")["subscribers"].as_u64()
            };
            subscribers == Some(n)
        })
        .await;
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.end();
        }
    }
}

/// A query pair on a request; `reqwest` without its form feature has none.
pub trait QueryPair {
    fn query_pair(self, name: &str, value: &str) -> Self;
}

impl QueryPair for reqwest::RequestBuilder {
    fn query_pair(self, name: &str, value: &str) -> Self {
        let (client, request) = self.build_split();
        let mut request = request.expect("a valid request");
        request.url_mut().query_pairs_mut().append_pair(name, value);
        Self::from_parts(client, request)
    }
}

/// Awaits `condition`; the test fails when it does not come true in time.
pub async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !condition().await {
        assert!(Instant::now() < deadline, "gave up waiting for {what}");
        // Not a wait for something to have happened: only how often the condition is looked at.
        sleep(Duration::from_millis(5)).await;
    }
}

/// A subscriber: one response, read block by block.
pub struct Stream {
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub socket: TcpStream,
    parser: parser::Parser,
    blocks: VecDeque<Block>,
    /// `broker.open`, with which a stream begins.
    pub opening: Option<Block>,
    /// Every byte of the body so far.
    pub body: Vec<u8>,
    /// On HTTP/1.1, unless the length was told.
    pub chunks: Option<Chunks>,
    ended: bool,
}

impl Stream {
    pub async fn open(address: SocketAddr, path: &str, headers: &[(&str, &str)]) -> Self {
        let socket = TcpStream::connect(address).await.expect("a connection");
        Self::send(socket, path, headers).await
    }

    /// Sends a GET on `socket` and reads the head of the response.
    pub async fn send(mut socket: TcpStream, path: &str, headers: &[(&str, &str)]) -> Self {
        let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n");
        socket.write_all(request.as_bytes()).await.expect("the request is sent");
        Self::receive(socket).await
    }

    /// Reads the head of the response to a request that has been sent on `socket`.
    pub async fn receive(mut socket: TcpStream) -> Self {
        let (mut bytes, mut buffer) = (Vec::new(), vec![0; 16 << 10]);
        let head_end = loop {
            if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
                break end;
            }
            let n = timeout(DEADLINE, socket.read(&mut buffer)).await.expect("a head in time").expect("a head");
            assert!(n > 0, "the connection ended within the head: {}", String::from_utf8_lossy(&bytes));
            bytes.extend_from_slice(&buffer[..n]);
        };
        let head = String::from_utf8(bytes[..head_end].to_vec()).expect("a head in ASCII");
        let mut lines = head.split("\r\n");
        let status = lines.next().and_then(|line| line.split(' ').nth(1)).and_then(|status| status.parse().ok());
        let headers = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        let headers: Vec<(String, String)> = headers;
        let chunked = headers.iter().any(|(name, value)| name == "transfer-encoding" && value == "chunked");
        let mut stream = Self {
            status: status.expect("a status"),
            headers,
            socket,
            parser: parser::Parser::default(),
            blocks: VecDeque::new(),
            opening: None,
            body: Vec::new(),
            chunks: chunked.then(Chunks::default),
            ended: false,
        };
        stream.feed(&bytes[head_end + 4..]);
        stream
    }

    fn feed(&mut self, bytes: &[u8]) {
        let decoded = self.chunks.as_mut().map(|chunks| chunks.feed(bytes));
        let bytes = decoded.as_deref().unwrap_or(bytes);
        self.body.extend_from_slice(bytes);
        for block in self.parser.feed(bytes) {
            if block.event == "broker.open" {
                assert!(self.opening.replace(block).is_none(), "a stream opens once");
            } else {
                self.blocks.push_back(block);
            }
        }
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
    }

    /// The id to resume with, as an EventSource keeps it.
    pub fn last_event_id(&self) -> &str {
        &self.parser.last_event_id
    }

    /// The reconnection time that was asked for, in milliseconds.
    pub fn retry(&self) -> Option<u64> {
        self.parser.retry
    }

    /// Reads once. False when the stream has ended cleanly; an unclean end fails the test.
    pub async fn read(&mut self) -> bool {
        if self.ended {
            return false;
        }
        let mut buffer = vec![0; 64 << 10];
        let n = timeout(DEADLINE, self.socket.read(&mut buffer)).await.expect("bytes in time").expect("a clean end");
        self.feed(&buffer[..n]);
        let whole = self.chunks.as_ref().is_none_or(|chunks| chunks.ended);
        assert!(n > 0 || whole, "the stream was cut");
        self.ended = n == 0 || (self.chunks.is_some() && whole);
        n > 0
    }

    /// The next event that an EventSource would dispatch; `None` at a clean end.
    pub async fn next(&mut self) -> Option<Block> {
        // Not only until anything comes: heartbeats would have it wait for ever.
        let next = async {
            loop {
                if let Some(block) = self.blocks.pop_front() {
                    return Some(block);
                }
                if !self.read().await {
                    return None;
                }
            }
        };
        timeout(DEADLINE, next).await.expect("an event in time")
    }

    /// The next `n` events.
    pub async fn take(&mut self, n: usize) -> Vec<Block> {
        let mut blocks = Vec::with_capacity(n);
        while blocks.len() < n {
            blocks.push(self.next().await.expect("another event"));
        }
        blocks
    }

    /// Takes bytes that a test has read from `socket` itself, and gives the events that are complete with them.
    pub fn push(&mut self, bytes: &[u8]) -> Vec<Block> {
        self.feed(bytes);
        self.blocks.drain(..).collect()
    }

    /// Reads to the end, be it clean or not, and gives the events that came.
    pub async fn until_cut(&mut self) -> Vec<Block> {
        let mut buffer = vec![0; 64 << 10];
        while let Ok(n @ 1..) = timeout(DEADLINE, self.socket.read(&mut buffer)).await.expect("an end in time") {
            self.feed(&buffer[..n]);
        }
        self.blocks.drain(..).collect()
    }

    /// Every event up to the clean end.
    pub async fn all(&mut self) -> Vec<Block> {
        let mut blocks = Vec::new();
        while let Some(block) = self.next().await {
            blocks.push(block);
        }
        blocks
    }

    /// Events that have been read and not taken.
    pub fn pending(&self) -> usize {
        self.blocks.len()
    }

    /// The whole body of a response that ends.
    pub async fn rest(&mut self) -> String {
        while self.read().await {}
        String::from_utf8(self.body.clone()).expect("UTF-8")
    }
}
