//! The attackers of a crowd: each kind does one thing that a server must bear, again and again.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU16, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
    runtime::{Builder, Runtime},
    task::JoinSet,
    time::{MissedTickBehavior, interval, timeout},
};

/// How often each attacker does something.
const STEP: Duration = Duration::from_millis(100);
/// How long an attacker waits for an answer that need not come.
const ANSWER_TIME: Duration = Duration::from_millis(200);
/// The ports that attackers connect from.
const FIRST_PORT: u16 = 20_000;
const PORTS: u16 = 40_000;
const SUBSCRIBE: &str = "GET /subscribe?topic=t0&topic=t1&topic=t2&topic=t3 HTTP/1.1\r\nHost: localhost\r\nAccept: \
                         text/event-stream\r\n";

/// What an attacker does.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// Subscribes to all history and never reads.
    NeverReads,
    /// Subscribes, and reads a byte at a time.
    DripReads,
    /// Subscribes, and closes its sending side.
    HalfClosed,
    /// Sends a head byte by byte.
    SlowHead,
    /// Sends a body byte by byte.
    SlowBody,
    /// Sends requests without end behind one for a stream.
    Pipelines,
    /// Connects and leaves.
    Connects,
    /// Sends a request and resets the connection.
    Resets,
    /// Sends a head that is too large.
    HeaderBomb,
    /// Resumes with an id of tens of thousands of bytes.
    GiantId,
    /// Publishes to a topic and subscribes to another, each of which nobody has named before.
    ManyTopics,
    /// Sends bytes that are no request.
    Garbage,
}

const KINDS: [Kind; 12] = [
    Kind::NeverReads,
    Kind::DripReads,
    Kind::HalfClosed,
    Kind::SlowHead,
    Kind::SlowBody,
    Kind::Pipelines,
    Kind::Connects,
    Kind::Resets,
    Kind::HeaderBomb,
    Kind::GiantId,
    Kind::ManyTopics,
    Kind::Garbage,
];

/// A crowd that attacks.
pub struct Attack {
    /// Attackers have a thread of their own, because on one with honest subscribers those would wait for them.
    runtime: Runtime,
    attackers: JoinSet<()>,
    steps: Arc<[AtomicUsize; KINDS.len()]>,
}

/// Lets `n` attackers of all kinds begin.
pub fn start(server: SocketAddr, n: usize) -> Attack {
    let steps = Arc::new(<[AtomicUsize; KINDS.len()]>::default());
    let ports = Arc::new(AtomicU16::new(0));
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    let mut attackers = JoinSet::new();
    for n in 0..n {
        let (kind, steps, ports) = (n % KINDS.len(), Arc::clone(&steps), Arc::clone(&ports));
        let attack = async move {
            let mut attacker = Attacker { server, ports, n, step: 0, socket: None };
            let mut ticks = interval(STEP);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                // An error means that the server has closed the connection, or refuses it. The attacker comes back.
                if attacker.step(KINDS[kind]).await.is_err() {
                    attacker.socket = None;
                }
                attacker.step += 1;
                steps[kind].fetch_add(1, Ordering::Relaxed);
            }
        };
        attackers.spawn_on(attack, runtime.handle());
    }
    Attack { runtime, attackers, steps }
}

impl Attack {
    /// Ends it, and gives how often each kind did something.
    pub async fn stop(mut self) -> Vec<(Kind, usize)> {
        self.attackers.shutdown().await;
        self.runtime.shutdown_background();
        KINDS.into_iter().zip(self.steps.iter().map(|steps| steps.load(Ordering::Relaxed))).collect()
    }
}

struct Attacker {
    server: SocketAddr,
    /// Counts the connections of all attackers.
    ports: Arc<AtomicU16>,
    n: usize,
    step: usize,
    socket: Option<TcpStream>,
}

impl Attacker {
    /// The open connection, or a new one on which `first` is sent.
    async fn connection(&mut self, first: &[u8]) -> std::io::Result<&mut TcpStream> {
        if self.socket.is_none() {
            let mut socket = self.connect().await?;
            socket.write_all(first).await?;
            self.socket = Some(socket);
        }
        Ok(self.socket.as_mut().expect("it is there"))
    }

    /// Connects from one of ten addresses, so that the limits of one address do not hold the crowd back. The port is
    /// given, because the kernel's own search for a free one takes more processor time than the server does.
    async fn connect(&self) -> std::io::Result<TcpStream> {
        let socket = TcpSocket::new_v4()?;
        socket.set_reuseaddr(true)?;
        socket.set_recv_buffer_size(4 << 10)?;
        let last = u8::try_from(self.n % 10).expect("it is small");
        let port = FIRST_PORT + self.ports.fetch_add(1, Ordering::Relaxed) % PORTS;
        socket.bind((IpAddr::from(Ipv4Addr::new(127, 0, 1, 1 + last)), port).into())?;
        timeout(ANSWER_TIME, socket.connect(self.server)).await?
    }

    /// Sends `request` on a connection of its own, and reads what comes at once.
    async fn ask(&mut self, request: &[u8]) -> std::io::Result<()> {
        let mut socket = self.connect().await?;
        timeout(ANSWER_TIME, socket.write_all(request)).await??;
        timeout(ANSWER_TIME, socket.read(&mut [0; 4096])).await??;
        Ok(())
    }

    async fn step(&mut self, kind: Kind) -> std::io::Result<()> {
        match kind {
            Kind::NeverReads => {
                let request = SUBSCRIBE.replace(" HTTP", "&since=all HTTP") + "\r\n";
                self.connection(request.as_bytes()).await?;
            }
            Kind::DripReads => {
                let request = format!("{SUBSCRIBE}\r\n");
                let socket = self.connection(request.as_bytes()).await?;
                timeout(ANSWER_TIME, socket.read_u8()).await.unwrap_or(Ok(0))?;
            }
            Kind::HalfClosed => {
                let request = format!("{SUBSCRIBE}\r\n");
                let socket = self.connection(request.as_bytes()).await?;
                socket.shutdown().await?;
                if self.step.is_multiple_of(10) {
                    self.socket = None;
                }
            }
            Kind::SlowHead => self.connection(b"GET /publish?topic=").await?.write_all(b"x").await?,
            Kind::SlowBody => {
                let head = b"POST /publish?topic=slow HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\n\
                             Content-Length: 200000\r\n\r\n";
                self.connection(head).await?.write_all(b"x").await?;
            }
            Kind::Pipelines => {
                let request = format!("{SUBSCRIBE}\r\n");
                let more = "GET /publish?topic=behind&content=x HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(40);
                let socket = self.connection(request.as_bytes()).await?;
                timeout(ANSWER_TIME, socket.write_all(more.as_bytes())).await.unwrap_or(Ok(()))?;
            }
            Kind::Connects => drop(self.connect().await?),
            Kind::Resets => {
                let mut socket = self.connect().await?;
                let requests = ["GET /subscribe?topic=t0", "GET /publish?topic=reset&content=x", "GET /topics"];
                let request = format!("{} HTTP/1.1\r\nHost: localhost\r\n\r\n", requests[self.step % requests.len()]);
                socket.write_all(request.as_bytes()).await?;
                socket.set_zero_linger()?;
            }
            Kind::HeaderBomb => {
                let many = "A: b\r\n".repeat(5_000);
                let long = format!("A: {}\r\n", "x".repeat(150_000));
                let bomb = if self.step.is_multiple_of(2) { many } else { long };
                self.ask(format!("GET / HTTP/1.1\r\nHost: localhost\r\n{bomb}\r\n").as_bytes()).await?;
            }
            Kind::GiantId => {
                let id = "9".repeat(60_000);
                self.ask(format!("{SUBSCRIBE}Last-Event-ID: {id}\r\n\r\n").as_bytes()).await?;
            }
            Kind::ManyTopics => {
                let name = format!("many-{}-{}", self.n, self.step);
                for request in ["publish?content=x&", "subscribe?"] {
                    let request = format!("GET /{request}topic={name} HTTP/1.1\r\nHost: localhost\r\n\r\n");
                    self.ask(request.as_bytes()).await?;
                }
            }
            Kind::Garbage => {
                let bytes: Vec<u8> = (0..2_000).map(|_| fastrand::u8(..)).collect();
                self.ask(&[&bytes[..], b"\r\n\r\n"].concat()).await?;
            }
        }
        Ok(())
    }
}
