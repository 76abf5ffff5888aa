//! Three servers of NATS that form a cluster. Each of them can be killed, paused and started again.

use std::{
    net::{Ipv4Addr, TcpListener},
    path::PathBuf,
    time::Duration,
};

use async_nats::{
    Client, ConnectOptions,
    jetstream::{self, stream},
};
use futures_util::TryStreamExt as _;
use tokio::time::timeout;

use super::{nats::Nats, until};

/// The servers. They end with this value or with this process, whatever happens.
pub struct NatsCluster {
    servers: Vec<Nats>,
}

pub const SERVERS: usize = 3;
/// How long one question to the cluster may take. Then it is asked again.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// Ports that are free now. The system gives none of them to a client: a server that is dead for a while could not have
/// its port again, if a connection had taken it meanwhile.
pub fn free_ports(n: usize) -> Vec<u16> {
    // Linux gives clients 32768 and above.
    let random = std::iter::repeat_with(|| fastrand::u16(15_000..32_000));
    let listeners = random.filter_map(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).ok());
    // All are bound at the same time, so no port is there twice.
    let listeners: Vec<TcpListener> = listeners.take(n).collect();
    listeners.iter().map(|listener| listener.local_addr().expect("an address").port()).collect()
}

impl NatsCluster {
    /// Starts the servers, and waits until they can keep a stream.
    pub async fn start(program: PathBuf) -> Self {
        let ports = free_ports(2 * SERVERS);
        let (ports, route_ports) = ports.split_at(SERVERS);
        let routes: Vec<String> = route_ports.iter().map(|port| format!("\"nats://127.0.0.1:{port}\"")).collect();
        let routes = routes.join(", ");
        let start = |n: usize| {
            // With `no_advertise`, clients learn no other address than the one they were given, which may be a proxy's.
            let (listen, others) = (route_ports[n], format!("no_advertise: true, routes: [{routes}]"));
            let cluster = format!("cluster {{ name: test, listen: \"127.0.0.1:{listen}\", {others} }}");
            Nats::start_on(program.clone(), ports[n], &format!("server_name: \"{n}\"\n{cluster}"))
        };
        let cluster = Self { servers: (0..SERVERS).map(start).collect() };
        cluster.until_ready().await;
        cluster
    }

    pub fn server(&self, n: usize) -> &Nats {
        &self.servers[n]
    }

    pub fn ports(&self) -> Vec<u16> {
        self.servers.iter().map(Nats::port).collect()
    }

    pub fn urls(&self) -> String {
        self.servers.iter().map(Nats::url).collect::<Vec<_>>().join(",")
    }

    /// Waits until there is a leader of the cluster, and all servers can keep a replica of a stream.
    pub async fn until_ready(&self) {
        until("a cluster of NATS that keeps streams", async || {
            let probe = async {
                let context = jetstream::new(client(&self.urls()).await?);
                let (name, subjects) = ("probe".to_owned(), vec!["probe".to_owned()]);
                let config = stream::Config { name, subjects, num_replicas: SERVERS, ..stream::Config::default() };
                context.create_stream(config).await.ok()?;
                context.delete_stream("probe").await.ok()
            };
            timeout(3 * ANSWER_TIMEOUT, probe).await.ok().flatten().is_some()
        })
        .await;
    }

    /// Which server leads the stream.
    pub async fn leader(&self, stream: &str) -> usize {
        let (urls, mut leader) = (self.urls(), None);
        until("a leader of the stream", async || {
            leader = stream_info(&urls, stream).await.and_then(|info| info.cluster?.leader?.parse().ok());
            leader.is_some()
        })
        .await;
        leader.expect("it was found")
    }
}

impl Drop for NatsCluster {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        for (n, server) in self.servers.iter().enumerate() {
            let log = server.log();
            let lines: Vec<&str> = log.lines().collect();
            eprintln!("NATS {n} logged last:\n{}", lines[lines.len().saturating_sub(40)..].join("\n"));
        }
    }
}

/// What the stream has, as its leader says; `None` when there is no answer now.
pub async fn stream_info(urls: &str, stream: &str) -> Option<stream::Info> {
    let info = async {
        let context = jetstream::new(client(urls).await?);
        Some(context.get_stream(stream).await.ok()?.cached_info().clone())
    };
    timeout(ANSWER_TIMEOUT, info).await.ok().flatten()
}

/// How many messages of this subject the stream has.
pub async fn messages_of(urls: &str, stream: &str, subject: &str) -> Option<u64> {
    let stream = jetstream::new(client(urls).await?).get_stream(stream).await.ok()?;
    let mut counts = stream.info_with_subjects(subject).await.ok()?;
    let mut sum = 0;
    while let Some((_, count)) = counts.try_next().await.ok()? {
        sum += u64::try_from(count).expect("a count");
    }
    Some(sum)
}

/// A connection to any server that answers.
async fn client(urls: &str) -> Option<Client> {
    let urls: Vec<&str> = urls.split(',').collect();
    // A server that is paused accepts connections and says nothing.
    ConnectOptions::new().connection_timeout(Duration::from_millis(500)).connect(urls).await.ok()
}
