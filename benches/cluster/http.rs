//! Publishers and subscribers of a node. Each has a connection of its own, as real ones do.

use std::{io, net::SocketAddr, time::Duration};

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use crate::{EVENT_BYTES, load::Publish};

/// What the content of each event consists of. It is nowhere else in a stream: the parts that vary have small letters.
const MARK: char = 'X';
/// How long an answer may take.
const DEADLINE: Duration = Duration::from_secs(30);

/// A publisher.
pub struct Publisher {
    socket: TcpStream,
    content: String,
    answer: Vec<u8>,
}

impl Publisher {
    pub async fn connect(address: SocketAddr) -> io::Result<Self> {
        let socket = TcpStream::connect(address).await?;
        socket.set_nodelay(true)?;
        Ok(Self { socket, content: MARK.to_string().repeat(EVENT_BYTES), answer: Vec::with_capacity(1024) })
    }

    /// Sends a request, and does not wait for its answer.
    pub async fn send(&mut self, topic: &str) -> io::Result<()> {
        // In one piece, as every client sends it.
        let request = format!(
            "POST /publish?topic={topic} HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\n\
             Content-Length: {EVENT_BYTES}\r\n\r\n{}",
            self.content
        );
        self.socket.write_all(request.as_bytes()).await
    }

    /// Reads the answer, which must be a success.
    pub async fn take_answer(&mut self) -> io::Result<()> {
        self.answer.clear();
        loop {
            if self.socket.read_buf(&mut self.answer).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let text = std::str::from_utf8(&self.answer).map_err(io::Error::other)?;
            let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
            let length = head.to_ascii_lowercase();
            let length = length.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
            if length.is_some_and(|length: usize| body.len() < length) {
                continue;
            }
            return if head.starts_with("HTTP/1.1 200") { Ok(()) } else { Err(io::Error::other(text.to_owned())) };
        }
    }
}

impl Publish for Publisher {
    async fn publish(&mut self, topic: usize) -> io::Result<()> {
        self.send(&format!("t{topic}")).await?;
        timeout(DEADLINE, self.take_answer()).await.map_err(|_| io::Error::other("no answer to a publish"))?
    }
}

/// `n` publishers over `addresses`.
pub async fn publishers(addresses: &[SocketAddr], n: usize) -> io::Result<Vec<Publisher>> {
    let mut publishers = Vec::with_capacity(n);
    for address in addresses.iter().cycle().take(n) {
        publishers.push(Publisher::connect(*address).await?);
    }
    Ok(publishers)
}

/// A subscriber.
pub struct Subscriber {
    socket: TcpStream,
    buffer: Vec<u8>,
}

impl Subscriber {
    pub async fn connect(address: SocketAddr, topic: &str) -> io::Result<Self> {
        let mut socket = TcpStream::connect(address).await?;
        socket.set_nodelay(true)?;
        let request = format!("GET /subscribe?topic={topic} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        socket.write_all(request.as_bytes()).await?;
        let mut subscriber = Self { socket, buffer: vec![0; 4096] };
        let mut head = Vec::new();
        // The opening is the last of what comes at once.
        while !head.windows(11).any(|window| window == b"broker.open") {
            head.extend_from_slice(subscriber.read().await?);
        }
        if head.starts_with(b"HTTP/1.1 200") {
            Ok(subscriber)
        } else {
            Err(io::Error::other("a subscriber is refused"))
        }
    }

    async fn read(&mut self) -> io::Result<&[u8]> {
        let read = timeout(DEADLINE, self.socket.read(&mut self.buffer)).await;
        match read.map_err(|_| io::Error::other("nothing comes to a subscriber"))?? {
            0 => Err(io::Error::other("a stream has ended")),
            n => Ok(self.buffer.get(..n).unwrap_or_default()),
        }
    }

    /// Waits for the next bytes of the stream, and returns how many bytes of content they have.
    pub async fn take_content(&mut self) -> io::Result<usize> {
        let bytes = self.read().await?;
        Ok(bytes.iter().filter(|byte| char::from(**byte) == MARK).count())
    }

    /// Waits for one whole event.
    pub async fn take_event(&mut self) -> io::Result<()> {
        let mut bytes = 0;
        while bytes < EVENT_BYTES {
            bytes += self.take_content().await?;
        }
        Ok(())
    }
}

/// Whether the node says that it is ready.
pub async fn is_ready(address: SocketAddr) -> bool {
    get(address, "/readyz").await.is_ok()
}

/// How many events of a topic a node holds.
pub async fn events_of(address: SocketAddr, topic: &str) -> io::Result<usize> {
    let answer: Value = serde_json::from_str(&get(address, &format!("/topics/{topic}")).await?)?;
    let events = answer.pointer("/events").and_then(Value::as_u64).and_then(|events| usize::try_from(events).ok());
    events.ok_or_else(|| io::Error::other(answer.to_string()))
}

/// The body of an answer that is a success.
async fn get(address: SocketAddr, path: &str) -> io::Result<String> {
    let mut socket = TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    timeout(DEADLINE, socket.read_to_string(&mut answer)).await.map_err(io::Error::other)??;
    match answer.split_once("\r\n\r\n") {
        Some((head, body)) if head.starts_with("HTTP/1.1 200") => Ok(body.to_owned()),
        _ => Err(io::Error::other(answer)),
    }
}
