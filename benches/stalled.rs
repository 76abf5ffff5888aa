//! What one stalled reader costs the other subscribers of its topic: delivery latency without and with it.
//!
//! `cargo bench --bench stalled` starts the program as a process of its own, on a free port of this machine. Rounds
//! without and with the stalled reader alternate, so that whatever else the machine does falls on both alike. A latency
//! is the time from before the publisher's request to the arrival of the event at one subscriber.

#![expect(
    clippy::as_conversions,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a benchmark that fails says where; nobody serves from here"
)]

use std::{
    io,
    process::Stdio,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpSocket, TcpStream},
    process::{Child, Command},
    time::{MissedTickBehavior, interval, sleep, timeout},
};

const SUBSCRIBERS: usize = 1_000;
/// Events a second.
const RATE: u32 = 10;
const EVENT_BYTES: usize = 1_000;
const ROUNDS: usize = 7;
const ROUND: Duration = Duration::from_secs(5);
/// Longer than a round: the stalled reader is there for all of it.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// History that the stalled reader asks for: its buffers are full before the round begins.
const HISTORY: usize = 40;
const HISTORY_EVENT_BYTES: usize = 128 << 10;
const GOAL: f64 = 1.5;
const DEADLINE: Duration = Duration::from_secs(30);
/// Before the time in an event's content; nothing else in a stream holds it.
const MARK: &[u8] = b"data: sent at ";

/// Latencies in microseconds, of all subscribers.
type Latencies = Arc<Mutex<Vec<u32>>>;

struct Server {
    process: Child,
    address: String,
}

impl Server {
    async fn start() -> io::Result<Self> {
        let mut process = Command::new(env!("CARGO_BIN_EXE_tidings"))
            .args(["--listen", "127.0.0.1:0"])
            .env("TIDINGS__STREAM__WRITE_TIMEOUT", format!("{}s", WRITE_TIMEOUT.as_secs()))
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let mut out = BufReader::new(process.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?).lines();
        let banner = out.next_line().await?.unwrap_or_default();
        let address = banner.split_once("http://").and_then(|(_, rest)| rest.split('/').next()).unwrap_or_default();
        let address = address.to_owned();
        Ok(Self { process, address })
    }

    /// MiB of memory that it occupies.
    fn resident(&self) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id().unwrap_or_default()));
        let status = status.unwrap_or_default();
        let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
        kib.trim().trim_end_matches(" kB").parse::<f64>().unwrap_or_default() / 1024.0
    }

    async fn subscribe(&self, query: &str, receive_buffer: Option<u32>) -> io::Result<TcpStream> {
        let socket = TcpSocket::new_v4()?;
        if let Some(bytes) = receive_buffer {
            socket.set_recv_buffer_size(bytes)?;
        }
        let mut socket = socket.connect(self.address.parse().map_err(io::Error::other)?).await?;
        let request = format!("GET /subscribe?topic=bench{query} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        socket.write_all(request.as_bytes()).await?;
        Ok(socket)
    }

    async fn subscribers(&self) -> io::Result<u64> {
        let url = format!("http://{}/topics/bench", self.address);
        let topic = reqwest::get(url).await.map_err(io::Error::other)?;
        let topic: serde_json::Value = topic.json().await.map_err(io::Error::other)?;
        Ok(topic["subscribers"].as_u64().unwrap_or_default())
    }

    async fn until_subscribers(&self, n: usize) -> io::Result<()> {
        let all = async {
            while self.subscribers().await? != n as u64 {
                sleep(Duration::from_millis(5)).await;
            }
            Ok(())
        };
        timeout(DEADLINE, all).await.map_err(io::Error::other)?
    }
}

/// Reads a stream for good and notes how long each event took.
async fn read(
    mut socket: TcpStream,
    origin: Instant,
    latencies: Latencies,
    received: Arc<AtomicU64>,
) -> io::Result<()> {
    let (mut buffer, mut kept) = (vec![0; 16 << 10], Vec::new());
    loop {
        let n = socket.read(&mut buffer).await?;
        let now = origin.elapsed();
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        kept.extend_from_slice(&buffer[..n]);
        let mut done = 0;
        while let Some(end) = kept[done..].windows(2).position(|window| window == b"\n\n") {
            let block = &kept[done..done + end];
            done += end + 2;
            let Some(at) = block.windows(MARK.len()).position(|window| window == MARK) else { continue };
            let digits = block[at + MARK.len()..].iter().take_while(|b| b.is_ascii_digit());
            let sent = digits.fold(0, |sent, digit| sent * 10 + u64::from(digit - b'0'));
            let took = now.saturating_sub(Duration::from_micros(sent));
            latencies
                .lock()
                .map_err(|_| io::ErrorKind::Other)?
                .push(u32::try_from(took.as_micros()).unwrap_or(u32::MAX));
            received.fetch_add(1, Ordering::Relaxed);
        }
        kept.drain(..done);
    }
}

async fn publish(client: &reqwest::Client, address: &str, content: String) -> io::Result<()> {
    let request = client.post(format!("http://{address}/publish?topic=bench")).header("content-type", "text/plain");
    let response = request.body(content).send().await.map_err(io::Error::other)?;
    response.error_for_status().map(drop).map_err(io::Error::other)
}

/// Publishes at the fixed rate for a round, and waits until every subscriber has every event.
async fn round(server: &Server, client: &reqwest::Client, origin: Instant, received: &AtomicU64) -> io::Result<()> {
    let wanted = received.load(Ordering::Relaxed) + SUBSCRIBERS as u64 * u64::from(RATE) * ROUND.as_secs();
    let mut pace = interval(Duration::from_secs(1) / RATE);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for _ in 0..u64::from(RATE) * ROUND.as_secs() {
        pace.tick().await;
        let content = format!("sent at {} {}", origin.elapsed().as_micros(), "x".repeat(EVENT_BYTES));
        publish(client, &server.address, content).await?;
    }
    let all = async {
        while received.load(Ordering::Relaxed) < wanted {
            sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(DEADLINE, all).await.map_err(io::Error::other)
}

/// The 50th and 99th percentile in milliseconds; the latencies are then forgotten.
fn percentiles(latencies: &Latencies) -> io::Result<[f64; 2]> {
    let mut latencies = std::mem::take(&mut *latencies.lock().map_err(|_| io::ErrorKind::Other)?);
    latencies.sort_unstable();
    let at = |part: usize| latencies.get(latencies.len() * part / 100).map_or(0.0, |us| f64::from(*us) / 1000.0);
    Ok([at(50), at(99)])
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

/// Adds a reader that asks for all history and takes nothing, and gives the time since when it cannot have taken more.
async fn stall(server: &Server) -> io::Result<(TcpStream, Instant)> {
    let socket = server.subscribe("&since=all", Some(4096)).await?;
    server.until_subscribers(SUBSCRIBERS + 1).await?;
    Ok((socket, Instant::now()))
}

async fn run() -> io::Result<()> {
    let server = Server::start().await?;
    let client = reqwest::Client::new();
    for n in 0..HISTORY {
        publish(&client, &server.address, format!("{n} {}", "h".repeat(HISTORY_EVENT_BYTES))).await?;
    }
    let (origin, latencies, received) = (Instant::now(), Latencies::default(), Arc::new(AtomicU64::new(0)));
    for _ in 0..SUBSCRIBERS {
        let socket = server.subscribe("", None).await?;
        tokio::spawn(read(socket, origin, Arc::clone(&latencies), Arc::clone(&received)));
    }
    server.until_subscribers(SUBSCRIBERS).await?;
    println!(
        "{SUBSCRIBERS} subscribers of one topic, {RATE} events/s of {EVENT_BYTES} B, {ROUNDS} rounds of {ROUND:?} each way"
    );
    // Not counted: everything is touched once.
    round(&server, &client, origin, &received).await?;
    percentiles(&latencies)?;
    let before = server.resident();
    let (mut without, mut with, mut cuts) = (Vec::new(), Vec::new(), Vec::new());
    for n in 1..=ROUNDS {
        round(&server, &client, origin, &received).await?;
        without.push(percentiles(&latencies)?);
        let (socket, since) = stall(&server).await?;
        round(&server, &client, origin, &received).await?;
        with.push(percentiles(&latencies)?);
        if server.subscribers().await? != SUBSCRIBERS as u64 + 1 {
            return Err(io::Error::other(
                "a round took longer than stream.write_timeout: this machine is too busy to measure",
            ));
        }
        server.until_subscribers(SUBSCRIBERS).await?;
        cuts.push(since.elapsed().as_secs_f64());
        drop(socket);
        let ([p50, p99], [p50_with, p99_with]) = (without[n - 1], with[n - 1]);
        println!(
            "  round {n}: p50 {p50:.2} ms, p99 {p99:.2} ms; with a stalled reader {p50_with:.2} ms, {p99_with:.2} ms"
        );
    }
    let after = server.resident();
    let medians = |rounds: &[[f64; 2]], which: usize| median(rounds.iter().map(|round| round[which]).collect());
    println!("medians of the rounds:     p50          p99");
    println!("  without              {:>7.2} ms   {:>7.2} ms", medians(&without, 0), medians(&without, 1));
    println!("  with a stalled one   {:>7.2} ms   {:>7.2} ms", medians(&with, 0), medians(&with, 1));
    let ratio = medians(&with, 1) / medians(&without, 1);
    println!("p99 with / without: {ratio:.2} (goal: at most {GOAL})");
    println!("cut after {:.2} s (stream.write_timeout {WRITE_TIMEOUT:?})", median(cuts));
    println!("memory of the server: {before:.1} MiB before, {after:.1} MiB after");
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> io::Result<()> {
    run().await
}
