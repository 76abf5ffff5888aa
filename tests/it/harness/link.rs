//! The way between one server of Tidings and NATS: a TCP proxy that a test can cut, and that can change what it carries.

use std::{net::Ipv4Addr, sync::Arc};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, copy, copy_bidirectional, sink},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
};

use frame::{Frame, Frames};

pub mod frame;

/// The proxies in front of each server of NATS. They end with the value.
pub struct Link {
    ports: Vec<u16>,
    mode: watch::Sender<Mode>,
    _proxies: JoinSet<()>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Bytes pass.
    Open,
    /// Connections are closed, and so is every new one.
    Cut,
    /// Bytes are swallowed in both directions, and nobody is told. New connections get no answer.
    Silent,
}

/// Changes what a link carries.
pub trait Tamper: Send + Sync {
    /// Looks at a frame that goes to NATS, and may change it. If there is an answer, NATS does not get the frame, and the
    /// sender gets the answer.
    fn take_request(&self, frame: &mut Frame) -> Option<Frame>;

    /// Looks at a frame that comes from NATS, and may change it. Returns whether it is passed on.
    fn take_answer(&self, frame: &mut Frame) -> bool;
}

type Tampering = Option<Arc<dyn Tamper>>;

impl Link {
    /// A link to the servers on these ports.
    pub async fn to(ports: &[u16]) -> Self {
        Self::with(ports, None).await
    }

    /// A link whose frames `tamper` sees and changes.
    pub async fn tampered(ports: &[u16], tamper: Arc<dyn Tamper>) -> Self {
        Self::with(ports, Some(tamper)).await
    }

    async fn with(ports: &[u16], tamper: Tampering) -> Self {
        let (mode, mut proxies, mut own_ports) = (watch::Sender::new(Mode::Open), JoinSet::new(), Vec::new());
        for port in ports {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
            own_ports.push(listener.local_addr().expect("an address").port());
            proxies.spawn(serve(listener, *port, mode.subscribe(), tamper.clone()));
        }
        Self { ports: own_ports, mode, _proxies: proxies }
    }

    /// The addresses for `cluster.servers`.
    pub fn urls(&self) -> String {
        self.ports.iter().map(|port| format!("nats://127.0.0.1:{port}")).collect::<Vec<_>>().join(",")
    }

    pub fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }
}

async fn serve(listener: TcpListener, port: u16, mode: watch::Receiver<Mode>, tamper: Tampering) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((client, _)) = listener.accept().await else { continue };
        connections.spawn(carry(client, port, mode.clone(), tamper.clone()));
        while connections.try_join_next().is_some() {}
    }
}

/// Carries one connection until an end closes it or the link is no longer open.
async fn carry(mut client: TcpStream, port: u16, mut mode: watch::Receiver<Mode>, tamper: Tampering) {
    let mut nats = None;
    if *mode.borrow_and_update() == Mode::Open {
        let Ok(mut connected) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await else { return };
        for socket in [&client, &connected] {
            socket.set_nodelay(true).ok();
        }
        tokio::select! {
            () = exchange(&mut client, &mut connected, tamper) => return,
            _ = mode.wait_for(|mode| *mode != Mode::Open) => {}
        }
        nats = Some(connected);
    }
    // What was swallowed is missing, so the connection cannot go on later.
    tokio::select! {
        () = swallow(client, nats) => {}
        _ = mode.wait_for(|mode| *mode != Mode::Silent) => {}
    }
}

/// Reads both ends until the link is another one. That one of them closes is not passed on either.
async fn swallow(mut client: TcpStream, nats: Option<TcpStream>) {
    copy(&mut client, &mut sink()).await.ok();
    if let Some(mut nats) = nats {
        copy(&mut nats, &mut sink()).await.ok();
    }
    std::future::pending::<()>().await;
}

async fn exchange(client: &mut TcpStream, nats: &mut TcpStream, tamper: Tampering) {
    let Some(tamper) = tamper else {
        copy_bidirectional(client, nats).await.ok();
        return;
    };
    let ((from_client, mut to_client), (from_nats, mut to_nats)) = (client.split(), nats.split());
    let (answer, mut answers) = tokio::sync::mpsc::channel(1024);
    let requests = async {
        let mut frames = Frames::new(from_client);
        while let Some(mut frame) = frames.next().await {
            match tamper.take_request(&mut frame) {
                Some(forged) => answer.send(forged).await.ok()?,
                None => to_nats.write_all(&frame.bytes()).await.ok()?,
            }
        }
        Some(())
    };
    let responses = async {
        let mut frames = Frames::new(from_nats);
        loop {
            // A frame that has come in part stays in `frames` when an answer comes first.
            let frame = tokio::select! {
                frame = frames.next() => {
                    let mut frame = frame?;
                    if !tamper.take_answer(&mut frame) {
                        continue;
                    }
                    frame
                }
                Some(forged) = answers.recv() => forged,
            };
            to_client.write_all(&frame.bytes()).await.ok()?;
        }
    };
    let _: Option<()> = tokio::select! { end = requests => end, end = responses => end };
}

/// Reads more bytes into `bytes`; `None` at the end.
async fn read_more(from: &mut (impl AsyncRead + Unpin), bytes: &mut Vec<u8>) -> Option<()> {
    let n = from.read_buf(bytes).await.ok()?;
    (n > 0).then_some(())
}
