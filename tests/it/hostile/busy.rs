//! A worker that never has a moment to itself: replays, heartbeats and the drain go on all the same.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use crate::harness::blocking::{Broker, Client, Directory, Lines, Said, wait_for};

/// Events to be fetched from the disk.
const COLD: usize = 15_000;
const HEARTBEAT: Duration = Duration::from_secs(2);
/// Of one topic: a round takes so long that the topic never rests.
const SUBSCRIBERS: usize = 2_000;
const PUBLISHERS: usize = 6;

/// Subscribers and publishers that keep the one worker busy for as long as the value lives.
struct Load<'scope> {
    done: &'scope AtomicBool,
    delivered: &'scope AtomicU64,
}

/// A stream of which only the last bytes are kept.
struct Reader {
    socket: TcpStream,
    last: Vec<u8>,
}

/// What the last chunk ends with: the server has ended the stream, and not cut it.
const LAST_CHUNK: &[u8] = b"\r\n0\r\n\r\n";

impl Reader {
    /// Reads what there is; how much that was, or `None` at the end.
    fn read(&mut self, buffer: &mut [u8]) -> Option<usize> {
        match self.socket.read(buffer) {
            Ok(0) => None,
            Ok(n) => {
                self.last.extend_from_slice(&buffer[n.saturating_sub(LAST_CHUNK.len())..n]);
                self.last.drain(..self.last.len().saturating_sub(LAST_CHUNK.len()));
                Some(n)
            }
            Err(error) => (error.kind() == ErrorKind::WouldBlock).then_some(0),
        }
    }
}

impl Drop for Load<'_> {
    fn drop(&mut self) {
        self.done.store(true, Ordering::Relaxed);
    }
}

impl<'scope> Load<'scope> {
    fn begin(
        scope: &'scope thread::Scope<'scope, '_>,
        address: SocketAddr,
        done: &'scope AtomicBool,
        delivered: &'scope AtomicU64,
    ) -> Self {
        let load = Self { done, delivered };
        load.read(scope, (0..SUBSCRIBERS).map(|_| subscribe(address, "topic=busy")).collect());
        for _ in 0..PUBLISHERS {
            scope.spawn(move || {
                // It has ended when the broker drains.
                let Ok(mut client) = Client::connect(address) else { return };
                let content = "busy ".repeat(400);
                while !done.load(Ordering::Relaxed) && client.publish("busy", &content, None).is_ok() {}
            });
        }
        wait_for("the load", || delivered.load(Ordering::Relaxed) > 10 << 20);
        load
    }

    /// Reads `readers` for as long as the value lives; how many of them the server has ended.
    fn read(
        &self,
        scope: &'scope thread::Scope<'scope, '_>,
        mut readers: Vec<Reader>,
    ) -> thread::ScopedJoinHandle<'scope, usize> {
        let (done, delivered) = (self.done, self.delivered);
        scope.spawn(move || {
            let (mut buffer, mut ended) = (vec![0; 256 << 10], 0);
            while !done.load(Ordering::Relaxed) && !readers.is_empty() {
                readers.retain_mut(|reader| {
                    let read = reader.read(&mut buffer);
                    delivered.fetch_add(read.unwrap_or_default() as u64, Ordering::Relaxed);
                    ended += usize::from(read.is_none() && reader.last == LAST_CHUNK);
                    read.is_some()
                });
            }
            ended
        })
    }
}

fn subscribe(address: SocketAddr, query: &str) -> Reader {
    let mut socket = TcpStream::connect(address).expect("a connection");
    let request = format!("GET /subscribe?{query} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    socket.write_all(request.as_bytes()).expect("the request is sent");
    socket.set_nonblocking(true).expect("a socket that does not block");
    Reader { socket, last: Vec::new() }
}

fn broker(directory: &Directory) -> Broker {
    let settings = [
        ("SERVER__WORKERS", "1"),
        ("LOG__TOPIC_EVENTS_MAX", "100000"),
        ("LOG__TOPIC_BYTES_MAX", "64MiB"),
        ("LOG__BYTES_MAX", "1GiB"),
        ("LOG__DURABILITY", "os"),
        ("STREAM__HEARTBEAT", "2s"),
        ("SHUTDOWN__DRAIN", "2s"),
    ];
    Broker::disk(directory, &settings)
}

fn fill(address: SocketAddr) {
    thread::scope(|scope| {
        for publisher in 0..16 {
            scope.spawn(move || {
                let mut client = Client::connect(address).expect("a connection");
                let events = COLD / 16 + usize::from(publisher < COLD % 16);
                (0..events).for_each(|n| drop(client.must_publish("cold", &format!("{publisher} {n}"))));
            });
        }
    });
}

/// Reads `n` events; the longest silence before one of them, or a heartbeat.
fn longest_silence(stream: &mut Lines, n: usize) -> Duration {
    let (mut events, mut longest, mut last) = (0, Duration::ZERO, Instant::now());
    while events < n {
        events += usize::from(matches!(stream.next_or_heartbeat().expect("a line"), Said::Line(_)));
        longest = longest.max(last.elapsed());
        last = Instant::now();
    }
    longest
}

#[test]
fn cold_history_is_read_beside_a_busy_hub() {
    // Goal: events that have to be fetched from the disk reach their subscriber while the hub has always something else
    // to do, and no stream is silent for two heartbeats.
    let directory = Directory::new();
    let before = broker(&directory);
    fill(before.address);
    before.kill();
    // What was there at the start is on the disk only; what keeps the hub busy is in memory.
    let broker = broker(&directory);
    let address = broker.address;
    let (done, delivered) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        let load = Load::begin(scope, address, &done, &delivered);
        let (begun, before) = (Instant::now(), load.delivered.load(Ordering::Relaxed));
        let mut stream = Client::subscribe(address, "topic=cold&since=all", None).expect("a stream");
        let silence = longest_silence(&mut stream, COLD);
        let beside = (load.delivered.load(Ordering::Relaxed) - before) >> 20;
        println!("{COLD} cold events in {:?} beside {beside} MiB, the longest silence {silence:?}", begun.elapsed());
        assert!(silence < 2 * HEARTBEAT, "a stream was silent for {silence:?}");
    });
}

#[test]
fn a_drain_begins_beside_a_busy_hub() {
    // Goal: SIGTERM ends streams although the hub has replays to write for longer than the drain's time. How many it can end
    // within that time is the machine's business, and that of the one who reads them all.
    let directory = Directory::new();
    let broker = broker(&directory);
    let mut client = broker.client();
    let content = "history ".repeat(8 << 10);
    (0..256).for_each(|_| drop(client.must_publish("long", &content)));
    let (done, delivered) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        let load = Load { done: &done, delivered: &delivered };
        let streams = (0..SUBSCRIBERS).map(|_| subscribe(broker.address, "topic=long&since=all")).collect();
        let reading = load.read(scope, streams);
        wait_for("the replays", || delivered.load(Ordering::Relaxed) > 10 << 20);
        let (status, words) = broker.stop_and_tell();
        let ended = reading.join().expect("the streams are read");
        drop(load);
        assert!(status.success(), "{status}: {words}");
        println!("{ended} of {SUBSCRIBERS} streams were ended: {words}");
        assert!(ended > 0, "all were cut: {words}");
    });
}

#[test]
fn the_silence_of_a_stream_is_measured() {
    // The control: the same measurement on a server whose heartbeats are further apart than the limit.
    let directory = Directory::new();
    let settings = [("STREAM__HEARTBEAT", "5s")];
    let broker = Broker::disk(&directory, &settings);
    let mut stream = Client::subscribe(broker.address, "topic=quiet", None).expect("a stream");
    let mut client = broker.client();
    let silence = thread::scope(|scope| {
        let measured = scope.spawn(|| longest_silence(&mut stream, 1));
        // When the second subscriber has had its opening and a heartbeat, so has the first.
        let mut second = Client::subscribe(broker.address, "topic=other", None).expect("a stream");
        for _ in 0..2 {
            second.next_or_heartbeat().expect("a line");
        }
        client.must_publish("quiet", "now");
        measured.join().expect("no panic")
    });
    assert!(silence > 2 * HEARTBEAT, "{silence:?}");
}
