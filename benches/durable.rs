//! What durability costs: acknowledged publishes a second through HTTP, beside the bare disk.
//!
//! `cargo bench --bench durable` prints two tables. The first has, for 1, 16 and 256 concurrent publishers, what the
//! disk engine acknowledges, and what one thread reaches that appends the same bytes in batches of as many events and
//! waits for each batch with `fdatasync`: no engine can be faster. The second has the start on a million events.

use std::{
    env,
    fs::{self, File},
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

/// How long each measurement lasts.
const LASTS: Duration = Duration::from_secs(3);
/// How many of each; the disk's turns are between ours, so that both see the same neighbours.
const ROUNDS: usize = 5;
const EVENT_BYTES: usize = 100;
const TOPICS: usize = 64;
const MILLION: usize = 1_000_000;

fn main() -> io::Result<()> {
    let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("durable-{}", std::process::id()));
    fs::create_dir_all(&directory)?;
    let done = publishes(&directory).and_then(|()| restart(&directory));
    fs::remove_dir_all(&directory)?;
    done
}

fn publishes(directory: &Path) -> io::Result<()> {
    println!("{EVENT_BYTES}-byte events over {TOPICS} topics; medians of {ROUNDS} rounds of {LASTS:?} each");
    println!("| publishers | acknowledged/s | p50 | p99 | bare disk, events/s | its p50 | its p99 | p50 / its p50 |");
    println!("|---|---|---|---|---|---|---|---|");
    for publishers in [1, 16, 256] {
        let (mut ours, mut bares) = (Vec::new(), Vec::new());
        for round in 0..ROUNDS {
            ours.push(through_http(&directory.join(format!("log-{publishers}-{round}")), publishers)?);
            bares.push(bare(&directory.join("bare"), publishers)?);
        }
        let Measured { rate, p50, p99 } = median(&ours);
        let bare = median(&bares);
        let ratio = p50.as_secs_f64() / bare.p50.as_secs_f64();
        println!(
            "| {publishers} | {rate:.0} | {p50:.0?} | {p99:.0?} | {:.0} | {:.0?} | {:.0?} | {ratio:.2} |",
            bare.rate, bare.p50, bare.p99
        );
    }
    Ok(())
}

/// One round.
struct Measured {
    /// Events a second.
    rate: f64,
    /// Of the time that one took.
    p50: Duration,
    p99: Duration,
}

impl Measured {
    fn new(mut times: Vec<Duration>, each: usize, took: Duration) -> Self {
        let events = u32::try_from(times.len() * each).unwrap_or(u32::MAX);
        times.sort_unstable();
        let percentile = |percent: usize| times.get(times.len() * percent / 100).copied().unwrap_or_default();
        Self { rate: f64::from(events) / took.as_secs_f64(), p50: percentile(50), p99: percentile(99) }
    }
}

fn median(rounds: &[Measured]) -> Measured {
    let mut rates: Vec<f64> = rounds.iter().map(|round| round.rate).collect();
    rates.sort_unstable_by(f64::total_cmp);
    let time = |of: fn(&Measured) -> Duration| {
        let mut times: Vec<Duration> = rounds.iter().map(of).collect();
        times.sort_unstable();
        times.get(times.len() / 2).copied().unwrap_or_default()
    };
    let rate = rates.get(rates.len() / 2).copied().unwrap_or_default();
    Measured { rate, p50: time(|round| round.p50), p99: time(|round| round.p99) }
}

/// Starts the broker on `path`; how long that took.
fn start(path: &Path) -> io::Result<(Child, SocketAddr, Duration)> {
    let begun = Instant::now();
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidings"));
    command.args(["--listen", "127.0.0.1:0"]).env("TIDINGS__LOG__ENGINE", "disk").env("TIDINGS__LOG__PATH", path);
    command.env("TIDINGS__LOG__TOPIC_EVENTS_MAX", "1000000").env("TIDINGS__LOG__BYTES_MAX", "4GiB");
    command.env("TIDINGS__LOG__TOPIC_BYTES_MAX", "1GiB").env("RUST_LOG", "warn");
    let mut child = command.stdout(Stdio::piped()).spawn()?;
    let mut banner = String::new();
    child.stdout.take().map_or(Ok(0), |out| BufReader::new(out).read_line(&mut banner))?;
    let address = banner.split("http://").nth(1).and_then(|rest| rest.split('/').next()?.parse().ok());
    Ok((child, address.ok_or_else(|| io::Error::other(banner))?, begun.elapsed()))
}

fn through_http(path: &Path, publishers: usize) -> io::Result<Measured> {
    let (mut child, address, _) = start(path)?;
    let begun = Instant::now();
    let threads: Vec<_> = (0..publishers)
        .map(|n| thread::Builder::new().stack_size(128 << 10).spawn(move || publisher(address, n, usize::MAX, LASTS)))
        .collect::<Result<_, _>>()?;
    let mut times = Vec::new();
    for thread in threads {
        times.extend(thread.join().map_err(|_| io::Error::other("a publisher panicked"))??);
    }
    let took = begun.elapsed();
    child.kill()?;
    child.wait()?;
    Ok(Measured::new(times, 1, took))
}

/// Publishes one event after the other over one connection; how long each took.
fn publisher(address: SocketAddr, n: usize, events: usize, lasts: Duration) -> io::Result<Vec<Duration>> {
    let mut socket = BufReader::new(TcpStream::connect(address)?);
    socket.get_ref().set_nodelay(true)?;
    let content = "x".repeat(EVENT_BYTES);
    let (begun, mut times, mut line) = (Instant::now(), Vec::new(), String::new());
    while begun.elapsed() < lasts && times.len() < events {
        let topic = (n + times.len()) % TOPICS;
        let sent = Instant::now();
        // In one piece, as every client sends it: formatted into the socket it would be a system call a part.
        let request = format!(
            "POST /publish?topic=t{topic} HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\n\
             Content-Length: {EVENT_BYTES}\r\n\r\n{content}"
        );
        socket.get_mut().write_all(request.as_bytes())?;
        let mut length = 0;
        loop {
            line.clear();
            socket.read_line(&mut line)?;
            if line == "\r\n" {
                break;
            }
            if line.starts_with("HTTP/") && !line.contains(" 200 ") {
                return Err(io::Error::other(line));
            }
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().map_err(io::Error::other)?;
            }
        }
        let mut body = vec![0; length];
        socket.read_exact(&mut body)?;
        times.push(sent.elapsed());
    }
    Ok(times)
}

/// One thread that appends batches of `batch` events and waits for each.
fn bare(path: &Path, batch: usize) -> io::Result<Measured> {
    let mut file = File::create(path)?;
    let bytes = vec![b'x'; batch * EVENT_BYTES];
    let (begun, mut times) = (Instant::now(), Vec::new());
    while begun.elapsed() < LASTS {
        let sent = Instant::now();
        file.write_all(&bytes)?;
        file.sync_data()?;
        times.push(sent.elapsed());
    }
    Ok(Measured::new(times, batch, begun.elapsed()))
}

/// Fills a log with a million events, kills the broker, and times the start.
fn restart(directory: &Path) -> io::Result<()> {
    let path = directory.join("million");
    let (mut child, address, _) = start(&path)?;
    let (each, forever) = (MILLION / 256, Duration::from_mins(10));
    let threads: Vec<_> = (0..256)
        .map(|n| thread::Builder::new().stack_size(128 << 10).spawn(move || publisher(address, n, each, forever)))
        .collect::<Result<_, _>>()?;
    let mut events = 0;
    for thread in threads {
        events += thread.join().map_err(|_| io::Error::other("a publisher panicked"))??.len();
    }
    child.kill()?;
    child.wait()?;
    println!("\n| start on {events} events | |\n|---|---|");
    for what in ["after kill -9", "once more"] {
        let (mut child, _, took) = start(&path)?;
        child.kill()?;
        child.wait()?;
        println!("| {what} | {took:.2?} |");
    }
    Ok(())
}
