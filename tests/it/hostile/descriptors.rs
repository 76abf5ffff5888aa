//! The limit of open files: what is open goes on, and new connections are refused in words.

use std::time::{Duration, Instant};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    process::Command,
    time::timeout,
};

use super::connections::{HALF, HEALTH, LAST_PUBLISH, OWN, end, problem, send_from};
use crate::harness::{DEADLINE, Process, Stream, process::program, until};

const READY: &[u8] = b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";

/// A server that may open so many files.
async fn server_with(open_files: usize, workers: &str) -> Process {
    let mut command = Command::new("sh");
    let binary = program().as_std().get_program().to_owned();
    command
        .args(["-c", &format!("ulimit -n {open_files} && exec \"$0\" --listen 127.0.0.1:0")])
        .arg(binary)
        .current_dir(env!("CARGO_TARGET_TMPDIR"));
    command.env("TIDINGS__SERVER__WORKERS", workers).env("TIDINGS__SERVER__HEAD_TIMEOUT", "1m").kill_on_drop(true);
    Process::spawn(&mut command).await
}

/// Opens more connections than the server may have, each with `first`.
async fn exhaust(server: &Process, open_files: usize, first: &[u8]) -> Vec<TcpStream> {
    let mut sockets = Vec::new();
    for _ in 0..open_files + 50 {
        sockets.push(send_from(OWN, server.address, first).await);
    }
    sockets
}

/// Keeps the connections that the server serves: it says nothing on them, as it waits for the rest of a request.
async fn served(server: &Process, sockets: Vec<TcpStream>) -> Vec<TcpStream> {
    // The refused ones are closed at the latest half a second after they are accepted. They are accepted in turn, so
    // when a newcomer has been answered and the refused ones are closed, the others are served.
    end(&mut send_from(OWN, server.address, LAST_PUBLISH).await).await;
    let begin = Instant::now();
    until("the refused connections to end", async || begin.elapsed() > Duration::from_secs(1)).await;
    let mut open = Vec::new();
    for mut socket in sockets {
        let mut answer = [0; 1024];
        match socket.try_read(&mut answer) {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => open.push(socket),
            Ok(n @ 1..) => {
                let answer = [&answer[..n], end(&mut socket).await.as_bytes()].concat();
                let answer = String::from_utf8_lossy(&answer).into_owned();
                assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("too_many_open_files"), "{answer}");
            }
            // It was evicted before its bytes had arrived, which may take a while on a busy machine: until then it is idle.
            Ok(0) => {}
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {}
            Err(error) => panic!("it has failed: {error}"),
        }
    }
    open
}

/// A connection that always has the beginning of a request, so that it is not idle and is not evicted.
struct Publisher(TcpStream);

impl Publisher {
    async fn new(server: &Process) -> Self {
        Self(send_from(OWN, server.address, b"POS").await)
    }

    /// Publishes `content` to `a`, and returns the id.
    async fn publish(&mut self, content: &str) -> String {
        let length = content.len();
        let head = "T /publish?topic=a HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain";
        let request = format!("{head}\r\nContent-Length: {length}\r\n\r\n{content}POS");
        self.0.write_all(request.as_bytes()).await.expect("it is sent");
        let mut answer = [0; 4096];
        let n = timeout(DEADLINE, self.0.read(&mut answer)).await.expect("in time").expect("an answer");
        let answer = String::from_utf8_lossy(&answer[..n]);
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        let (_, body) = answer.split_once("\r\n\r\n").expect("a body");
        let answer: serde_json::Value = serde_json::from_str(body).expect("JSON");
        answer["id"].as_str().expect("an id").to_owned()
    }
}

/// Goal: at the limit of open files streams go on and the log takes events; new connections get a 503 or, if they ask for
/// it, learn that the server is alive; nothing spins; and when descriptors are free, all is as before. Again and again.
#[tokio::test]
async fn at_the_limit_of_open_files_new_connections_are_refused_in_words() {
    const OPEN_FILES: usize = 256;
    for workers in ["1", "3"] {
        let server = server_with(OPEN_FILES, workers).await;
        let mut publisher = Publisher::new(&server).await;
        let mut streams = Vec::new();
        for _ in 0..3 {
            streams.push(server.subscribe("topic=a").await);
        }
        server.until_subscribers("a", 3).await;
        for round in 0..3 {
            let sockets = exhaust(&server, OPEN_FILES, HALF).await;
            let busy = served(&server, sockets).await;
            assert!((100..OPEN_FILES).contains(&busy.len()), "{} connections are served", busy.len());
            let before = server.cpu();
            let begin = Instant::now();
            until("a second to pass", async || begin.elapsed() > Duration::from_secs(1)).await;
            let used = server.cpu().saturating_sub(before);
            assert!(used < Duration::from_millis(200), "it used {used:?} of a second");

            for _ in 0..8 {
                for request in [LAST_PUBLISH, b""] {
                    let answer = Stream::receive(send_from(OWN, server.address, request).await).await;
                    assert_eq!((answer.status, answer.header("connection")), (503, Some("close")));
                    assert_eq!(answer.header("retry-after"), Some("1"));
                    assert_eq!(problem(answer).await["code"], "too_many_open_files");
                }
                let ready = end(&mut send_from(OWN, server.address, READY).await).await;
                assert!(ready.starts_with("HTTP/1.1 503"), "{ready}");
                let alive = end(&mut send_from(OWN, server.address, HEALTH).await).await;
                assert!(alive.starts_with("HTTP/1.1 200") && alive.ends_with("\r\n\r\nok\n"), "{alive}");
            }
            // More than the log writes until it moves its write-ahead log to the database.
            let content = "x".repeat(100_000);
            for _ in 0..if round == 0 { 200 } else { 5 } {
                let id = publisher.publish(&content).await;
                for stream in &mut streams {
                    assert_eq!(stream.next().await.expect("an event").id, id);
                    stream.body.clear();
                }
            }
            drop(busy);
            let begin = Instant::now();
            until("recovery", async || {
                end(&mut send_from(OWN, server.address, LAST_PUBLISH).await).await.starts_with("HTTP/1.1 200")
            })
            .await;
            println!("{workers} workers, round {round}: CPU {used:?} in a second, recovery in {:?}", begin.elapsed());
            for stream in &mut streams {
                assert_eq!(stream.next().await.expect("an event").data, "x");
            }
        }
    }
}

/// Goal: when the process has no descriptor left, idle connections give theirs up, and a client that asks is answered.
#[tokio::test]
async fn idle_connections_give_up_their_descriptors() {
    let mut server = server_with(128, "1").await;
    let idle = exhaust(&server, 128, b"").await;
    let answer = end(&mut send_from(OWN, server.address, LAST_PUBLISH).await).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    server.signal("TERM").await;
    assert!(server.exit().await.success());
    let (_, report) = server.last_words().await;
    assert!(
        report.contains("the limit of open files (ulimit -n) is below the sum of limits.connections_max"),
        "{report}"
    );
    // It says so once, and not for each connection.
    assert_eq!(report.matches("new connections are refused; raise").count(), 1, "{report}");
    drop(idle);
    // The control: connections that are not idle keep theirs, and a newcomer is refused.
    let server = server_with(128, "1").await;
    let _busy = exhaust(&server, 128, HALF).await;
    let answer = end(&mut send_from(OWN, server.address, LAST_PUBLISH).await).await;
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
}
