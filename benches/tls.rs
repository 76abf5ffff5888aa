//! What TLS costs per subscriber: memory and CPU time of a plain Tidings, of one that speaks TLS, and of a plain one behind
//! nginx that speaks TLS (if nginx is installed).
//!
//! `cargo bench --bench tls` starts the programs as processes of their own, on free ports of this machine. `-- 1000` takes
//! 1,000 subscribers instead of 5,000. The certificate has an ECDSA key on the curve P-256.

#![expect(
    clippy::as_conversions,
    clippy::cast_precision_loss,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a benchmark that fails says where; nobody serves from here"
)]

use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::{StreamExt as _, stream};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader},
    net::TcpStream,
    process::{Child, Command},
    time::{sleep, timeout},
};
use tokio_rustls::{
    TlsConnector,
    rustls::{ClientConfig, RootCertStore, client::Resumption, crypto::aws_lc_rs::default_provider},
};

const SUBSCRIBERS: usize = 5_000;
/// Connections that are opened at the same time.
const DIALS: usize = 50;
const EVENTS: u64 = 50;
const PAUSE: Duration = Duration::from_millis(200);
const DEADLINE: Duration = Duration::from_mins(2);
/// In each event, and in nothing else.
const MARK: &[u8] = b"event number";

/// One way to serve, and how its clients reach it.
struct Setup {
    name: &'static str,
    /// Where subscribers connect.
    address: SocketAddr,
    /// `None` for a plain port.
    tls: Option<TlsConnector>,
    /// What is measured.
    processes: Vec<u32>,
    /// Where the publisher connects.
    publish: SocketAddr,
    publish_tls: Option<TlsConnector>,
    _children: Vec<Child>,
}

trait Io: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

async fn dial(address: SocketAddr, tls: Option<&TlsConnector>) -> io::Result<Box<dyn Io>> {
    let socket = TcpStream::connect(address).await?;
    socket.set_nodelay(true)?;
    let Some(tls) = tls else { return Ok(Box::new(socket)) };
    Ok(Box::new(tls.connect(address.ip().into(), socket).await?))
}

/// Starts Tidings; with a directory, it speaks TLS with the files there.
async fn tidings(tls: Option<&Path>) -> io::Result<(Child, SocketAddr)> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidings"));
    command
        .args(["--listen", "127.0.0.1:0"])
        .env("TIDINGS__LOG__ENGINE", "memory")
        .env("TIDINGS__SERVER__WORKERS", "1");
    if let Some(directory) = tls {
        command.env("TIDINGS__SERVER__TLS_CERT", directory.join("cert.pem"));
        command.env("TIDINGS__SERVER__TLS_KEY", directory.join("key.pem"));
    }
    let mut child = command.stdout(Stdio::piped()).kill_on_drop(true).spawn()?;
    let mut out = BufReader::new(child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?).lines();
    let banner = out.next_line().await?.unwrap_or_default();
    let address = banner.split_once("://").and_then(|(_, rest)| rest.split('/').next()).unwrap_or_default();
    Ok((child, address.parse().map_err(io::Error::other)?))
}

/// Starts nginx in front of `broker`; `None` if it is not installed. It is one process: a worker of its own would outlive
/// its master when that is killed.
async fn nginx(directory: &Path, broker: SocketAddr) -> io::Result<Option<(Child, SocketAddr)>> {
    let Some(program) = ["/usr/sbin/nginx", "/usr/bin/nginx"].map(PathBuf::from).into_iter().find(|path| path.exists())
    else {
        return Ok(None);
    };
    let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let folder = directory.display();
    let config = format!(
        "daemon off; master_process off; worker_rlimit_nofile 60000; pid {folder}/nginx.pid;
         error_log {folder}/error.log; events {{ worker_connections 30000; }}
         http {{ access_log off; ssl_session_cache shared:a:10m;
         server {{ listen {port} ssl backlog=4096; ssl_certificate {folder}/cert.pem; ssl_certificate_key {folder}/key.pem;
         location / {{ proxy_pass http://{broker}; proxy_http_version 1.1; proxy_set_header Connection \"\";
         proxy_set_header Host localhost; proxy_buffering off; proxy_read_timeout 1h; }} }} }}"
    );
    std::fs::write(directory.join("nginx.conf"), config)?;
    let mut command = Command::new(program);
    command.arg("-p").arg(directory).arg("-c").arg(directory.join("nginx.conf")).arg("-e").arg("stderr");
    let child = command.stderr(Stdio::null()).kill_on_drop(true).spawn()?;
    let started = async {
        while TcpStream::connect(port).await.is_err() {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(DEADLINE, started).await.map_err(io::Error::other)?;
    Ok(Some((child, port)))
}

impl Setup {
    /// Memory in bytes and CPU time in microseconds of all processes.
    fn usage(&self) -> (f64, f64) {
        let of = |id: &u32| {
            let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
            let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
            let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
            let fields: Vec<&str> = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
            let ticks = |n: usize| fields.get(n).and_then(|field| field.parse::<f64>().ok()).unwrap_or_default();
            let kib = kib.trim().trim_end_matches(" kB").parse::<f64>().unwrap_or_default();
            (kib * 1024.0, (ticks(11) + ticks(12)) * 10_000.0)
        };
        self.processes.iter().map(of).fold((0.0, 0.0), |(a, b), (c, d)| (a + c, b + d))
    }

    async fn publish(&self, client: &mut Box<dyn Io>, n: u64) -> io::Result<()> {
        let content = format!("{} {n:3} {}", String::from_utf8_lossy(MARK), "x".repeat(84));
        let head =
            "POST /publish?topic=bench HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\nContent-Length";
        client.write_all(format!("{head}: {}\r\n\r\n{content}", content.len()).as_bytes()).await?;
        let mut answer = vec![0; 4096];
        let n = client.read(&mut answer).await?;
        if answer[..n].starts_with(b"HTTP/1.1 200") { Ok(()) } else { Err(io::Error::other("it was not published")) }
    }

    async fn measure(&self, subscribers: usize) -> io::Result<()> {
        let received = Arc::new(AtomicU64::new(0));
        let before = self.usage();
        let dials = stream::iter(0..subscribers).map(|_| async {
            let mut socket = dial(self.address, self.tls.as_ref()).await?;
            socket.write_all(b"GET /subscribe?topic=bench HTTP/1.1\r\nHost: localhost\r\n\r\n").await?;
            let mut head = vec![0; 4096];
            let n = socket.read(&mut head).await?;
            if !head[..n].starts_with(b"HTTP/1.1 200") {
                return Err(io::Error::other("a subscriber was refused"));
            }
            Ok(socket)
        });
        let mut dials = dials.buffer_unordered(DIALS);
        while let Some(socket) = dials.next().await {
            tokio::spawn(read(socket?, Arc::clone(&received)));
        }
        // The last first bytes are on their way.
        sleep(Duration::from_secs(2)).await;
        let connected = self.usage();
        let mut publisher = dial(self.publish, self.publish_tls.as_ref()).await?;
        for n in 1..=EVENTS {
            self.publish(&mut publisher, n).await?;
            let all = async {
                while received.load(Ordering::Relaxed) < n * subscribers as u64 {
                    sleep(Duration::from_millis(1)).await;
                }
            };
            timeout(DEADLINE, all).await.map_err(io::Error::other)?;
            sleep(PAUSE).await;
        }
        let after = self.usage();
        let each = subscribers as f64;
        println!(
            "| {} | {:.1} KB | {:.0} µs | {:.1} µs |",
            self.name,
            (after.0 - before.0) / each / 1000.0,
            (connected.1 - before.1) / each,
            (after.1 - connected.1) / each / EVENTS as f64,
        );
        Ok(())
    }
}

/// Counts the events of a stream.
async fn read(mut socket: Box<dyn Io>, received: Arc<AtomicU64>) -> io::Result<()> {
    let mut buffer = vec![0; 1024];
    loop {
        let n = socket.read(&mut buffer).await?;
        if n == 0 {
            return Ok(());
        }
        let events = buffer[..n].windows(MARK.len()).filter(|window| *window == MARK).count();
        received.fetch_add(events as u64, Ordering::Relaxed);
    }
}

async fn run(directory: &Path, subscribers: usize) -> io::Result<()> {
    let CertifiedKey { cert, signing_key } =
        generate_simple_self_signed(["127.0.0.1".to_owned()]).map_err(io::Error::other)?;
    std::fs::write(directory.join("cert.pem"), cert.pem())?;
    std::fs::write(directory.join("key.pem"), signing_key.serialize_pem())?;
    let mut roots = RootCertStore::empty();
    roots.add(cert.der().clone()).map_err(io::Error::other)?;
    let config =
        ClientConfig::builder_with_provider(Arc::new(default_provider())).with_safe_default_protocol_versions();
    let mut config = config.map_err(io::Error::other)?.with_root_certificates(roots).with_no_client_auth();
    // Each subscriber is another client: none has a ticket.
    config.resumption = Resumption::disabled();
    let tls = TlsConnector::from(Arc::new(config));

    println!(
        "{subscribers} subscribers of one topic, {EVENTS} events of 100 bytes, each after the one before has reached all"
    );
    println!("| | memory per subscriber | CPU per connection | CPU per delivery |\n|---|---|---|---|");
    let (child, address) = tidings(None).await?;
    let processes = child.id().into_iter().collect();
    let plain = Setup {
        name: "plain",
        address,
        tls: None,
        processes,
        publish: address,
        publish_tls: None,
        _children: vec![child],
    };
    plain.measure(subscribers).await?;
    drop(plain);
    let (child, address) = tidings(Some(directory)).await?;
    let processes = child.id().into_iter().collect();
    let (tls_too, publish_tls) = (Some(tls.clone()), Some(tls.clone()));
    let encrypted =
        Setup { name: "TLS", address, tls: tls_too, processes, publish: address, publish_tls, _children: vec![child] };
    encrypted.measure(subscribers).await?;
    drop(encrypted);
    let (broker, publish) = tidings(None).await?;
    let Some((front, address)) = nginx(directory, publish).await? else {
        println!("nginx is not installed: left out");
        return Ok(());
    };
    let processes = front.id().into_iter().chain(broker.id()).collect();
    let behind = Setup {
        name: "plain behind nginx with TLS",
        address,
        tls: Some(tls),
        processes,
        publish,
        publish_tls: None,
        _children: vec![front, broker],
    };
    behind.measure(subscribers).await
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> io::Result<()> {
    let subscribers = std::env::args().skip(1).find_map(|argument| argument.parse().ok()).unwrap_or(SUBSCRIBERS);
    rlimit::increase_nofile_limit(u64::MAX)?;
    let directory = std::env::temp_dir().join(format!("tidings-tls-{}", std::process::id()));
    std::fs::create_dir_all(&directory)?;
    let measured = run(&directory, subscribers).await;
    std::fs::remove_dir_all(&directory)?;
    measured
}
