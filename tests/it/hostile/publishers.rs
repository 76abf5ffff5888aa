//! Publishers that go away while they wait for room in the log's queue.

use std::{fs, net::SocketAddr, path::Path, time::Duration};

use futures_util::future::join_all;
use tidings::config::{Config, Size};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::harness::{TestServer, blocking::Directory, until};

const PUBLISHERS: usize = 40;
/// Four of them fill the queue to the last unit of its room; the others wait.
const EVENT: usize = 127 << 10;

/// A server with a queue of 512 KiB on `log`, in which a publish waits for room for `queue_wait`.
fn server(log: &Directory, queue_wait: Duration) -> TestServer {
    TestServer::with(|config| configure(config, log, queue_wait))
}

fn configure(config: &mut Config, log: &Directory, queue_wait: Duration) {
    config.log.path.clone_from(&log.0);
    // Small, so that all is sent long before the stalled writer gives up waiting for the file's lock.
    config.publish.event_bytes_max = Size::kib(128);
    config.log.queue_bytes_max = Size::kib(512);
    config.log.queue_wait = queue_wait;
}

/// Keeps the log's writer from committing for as long as the value lives: it has the file's one write lock.
struct StalledWriter(rusqlite::Connection);

impl StalledWriter {
    fn new(log: &Directory) -> Self {
        let file = rusqlite::Connection::open(log.file()).expect("the file opens");
        file.busy_timeout(Duration::from_secs(5)).expect("a timeout");
        file.execute_batch("BEGIN IMMEDIATE").expect("the write lock");
        Self(file)
    }
}

impl Drop for StalledWriter {
    fn drop(&mut self) {
        self.0.execute_batch("ROLLBACK").expect("it gives the lock back");
    }
}

/// Sends a whole publish of [`EVENT`] bytes, under a key if there is one, and leaves its answer unread.
async fn begin(server: &TestServer, topic: &str, key: Option<&str>) -> TcpStream {
    let mut socket = TcpStream::connect(server.address).await.expect("a connection");
    let key = key.map(|key| format!("Idempotency-Key: {key}\r\n")).unwrap_or_default();
    let head = format!(
        "POST /publish?topic={topic} HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\n{key}Content-Length: {EVENT}\r\n\r\n"
    );
    socket.write_all(head.as_bytes()).await.expect("the head is sent");
    socket.write_all(&vec![b'x'; EVENT]).await.expect("the body is sent");
    socket
}

/// Whether the system holds nothing that was sent to `server` and that it has not read, on connections that both sides
/// keep open.
fn has_read_all(server: SocketAddr) -> bool {
    let table = fs::read_to_string(Path::new("/proc/net/tcp")).expect("the table of sockets");
    let port = format!(":{:04X}", server.port());
    table.lines().all(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [_, local, remote, state, queues, ..] = fields[..] else { return true };
        // Only "established" connections count. A client that has closed its side has sent a FIN, which counts as a byte
        // to read. The server does not read it while its publish is in the queue of the stalled writer.
        if state != "01" {
            return true;
        }
        let (unsent, unread) = queues.split_once(':').unwrap_or_default();
        // The bytes are at one end or the other.
        (!local.ends_with(&port) || unread == "00000000") && (!remote.ends_with(&port) || unsent == "00000000")
    })
}

/// [`PUBLISHERS`] send an event each while the writer is stalled, and go when the server has read all of it.
async fn publish_and_go(server: &TestServer, log: &Directory, key: impl Fn(usize) -> Option<String>) {
    let stalled = StalledWriter::new(log);
    let publishers = (0..PUBLISHERS).map(|n| {
        let key = key(n);
        async move { begin(server, "t", key.as_deref()).await }
    });
    let sockets = join_all(publishers).await;
    until("the server to have read all of it", async || has_read_all(server.address)).await;
    drop(sockets);
    drop(stalled);
}

/// Status and code of a publish without a key to another topic.
async fn publish(server: &TestServer) -> (u16, String) {
    let answer = server.ask("POST", "/publish?topic=other", &[("content-type", "text/plain")], b"x").await;
    (answer.status, answer.json()["code"].as_str().unwrap_or_default().to_owned())
}

async fn is_ready(server: &TestServer) -> bool {
    server.ask("GET", "/readyz", &[], b"").await.status == 200
}

/// The server takes events, and says that it does.
async fn recovers(server: &TestServer) {
    until("the server to take events", async || publish(server).await.0 == 200).await;
    assert!(is_ready(server).await, "it takes events");
}

#[tokio::test]
async fn publishers_with_a_key_that_go_away_leave_their_room() {
    // Goal: who has gone while it waited for room in the queue takes none for itself: afterwards others publish as before.
    let log = Directory::new();
    let server = server(&log, Duration::from_secs(2));
    for round in 0..2 {
        publish_and_go(&server, &log, |n| Some(format!("{round}-{n}"))).await;
        recovers(&server).await;
    }
}

#[tokio::test]
async fn publishers_without_a_key_that_go_away_leave_their_room() {
    // Goal: as above.
    let log = Directory::new();
    let server = server(&log, Duration::from_secs(2));
    for _ in 0..2 {
        publish_and_go(&server, &log, |_| None).await;
        recovers(&server).await;
    }
}

#[tokio::test]
async fn a_retry_of_a_publisher_that_went_away_is_answered() {
    // Goal: whether the event of one that has gone was taken or not, its key answers for one event: the retry publishes it,
    // or replays it, and no event is there twice.
    let log = Directory::new();
    let server = server(&log, Duration::from_secs(2));
    publish_and_go(&server, &log, |n| Some(format!("k{n}"))).await;
    recovers(&server).await;
    let body = vec![b'x'; EVENT];
    for n in 0..PUBLISHERS {
        let key = format!("k{n}");
        let headers = [("content-type", "text/plain"), ("idempotency-key", key.as_str())];
        let first = server.ask("POST", "/publish?topic=t", &headers, &body).await;
        let again = server.ask("POST", "/publish?topic=t", &headers, &body).await;
        assert_eq!(first.ok()["id"], again.ok()["id"], "key {n}");
    }
    let count: i64 = rusqlite::Connection::open(log.file())
        .and_then(|file| file.query_row("SELECT count(DISTINCT seq) FROM receipt", [], |row| row.get(0)))
        .expect("a count");
    assert_eq!(usize::try_from(count), Ok(PUBLISHERS), "one event a key");
}

#[tokio::test]
async fn while_the_queue_is_full_publishes_are_refused_and_readiness_says_so() {
    // The control: the check above fails for as long as the queue is full. The publishers stay, and all have an answer.
    let log = Directory::new();
    let server = TestServer::with(|config| {
        configure(config, &log, Duration::from_millis(200));
        // One thread: what it has read is in the queue before it accepts another connection.
        config.server.workers = 1;
    });
    assert!(is_ready(&server).await);
    let _known = server.subscribe("topic=known").await;
    let stalled = StalledWriter::new(&log);
    let sockets = join_all((0..4).map(|_| begin(&server, "t", None))).await;
    until("the server to have read all of it", async || has_read_all(server.address)).await;
    assert_eq!(publish(&server).await, (503, "queue_full".to_owned()));
    server.ask("DELETE", "/topics/known", &[], b"").await.problem(503, "queue_full");
    assert!(!is_ready(&server).await, "publishes are refused");
    drop(stalled);
    for mut socket in sockets {
        let mut status = [0; 12];
        socket.read_exact(&mut status).await.expect("an answer");
        assert_eq!(&status, b"HTTP/1.1 200", "it was in the queue");
    }
    recovers(&server).await;
}
