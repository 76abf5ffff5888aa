//! Requests to the last byte as a test wants them, and answers that are not streams.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};

use serde_json::Value;
use tokio::{io::AsyncWriteExt as _, net::TcpSocket, net::TcpStream};

use super::{Stream, TestServer};

/// A header with which the fallback reads a request, and not the fast path. It changes nothing of what the request means.
pub const FOR_THE_FALLBACK: (&str, &str) = ("content-encoding", "identity");
/// [`FOR_THE_FALLBACK`] as a line of a head.
pub const FALLBACK_LINE: &str = "Content-Encoding: identity\r\n";
/// What sends a request to each of the two readers of requests, as lines of its head.
pub const READERS: [&str; 2] = ["", FALLBACK_LINE];

/// A whole response.
pub struct Answer {
    /// The beginning of the request, for messages.
    request: String,
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl TestServer {
    /// Sends a request as it is, with a `Content-Length` where there is a body, and reads the answer.
    pub async fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        self.ask_bytes(&self.request(method, path, headers, body)).await
    }

    /// The request that [`ask`](Self::ask) sends.
    pub fn request(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
        let length = if body.is_empty() && method != "POST" && method != "PUT" {
            String::new()
        } else {
            format!("Content-Length: {}\r\n", body.len())
        };
        let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let head =
            format!("{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n{length}{headers}\r\n", self.address);
        [head.as_bytes(), body].concat()
    }

    /// Sends `request` and reads the answer to the end of the connection.
    pub async fn ask_bytes(&self, request: &[u8]) -> Answer {
        Answer::read(self.send(request).await, request).await
    }

    /// As [`ask_bytes`](Self::ask_bytes), from `source`, an address of this machine.
    pub async fn ask_bytes_from(&self, source: &str, request: &[u8]) -> Answer {
        let mut socket = connect_from(source, self.address).await;
        socket.write_all(request).await.expect("the request is sent");
        Answer::read(Stream::receive(socket).await, request).await
    }
}

/// A connection from `source`, an address of this machine.
pub async fn connect_from(source: &str, server: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    let source: IpAddr = source.parse().expect("an address");
    socket.bind((source, 0).into()).expect("an address of this machine");
    socket.connect(server).await.expect("a connection")
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\n{}\n→ {} {:?}\n{}", self.request, self.status, self.headers, self.body)
    }
}

impl Answer {
    /// The whole answer to `request`, whose head has been read.
    pub async fn read(mut answer: Stream, request: &[u8]) -> Self {
        let body = answer.rest().await;
        let request = String::from_utf8_lossy(&request[..request.len().min(300)]).into_owned();
        Self { request, status: answer.status, headers: std::mem::take(&mut answer.headers), body }
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The JSON of a 200.
    #[track_caller]
    pub fn ok(&self) -> Value {
        assert_eq!(self.status, 200, "{self:?}");
        self.json()
    }

    /// The document, after it has been found to be a problem document of this status and code.
    #[track_caller]
    pub fn problem(&self, status: u16, code: &str) -> Value {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{self:?}");
        let document = self.json();
        assert_eq!(document["code"], code, "{self:?}");
        assert_eq!(document["type"], "about:blank", "{self:?}");
        assert_eq!(document["status"], status, "{self:?}");
        assert!(document["title"].as_str().is_some_and(|title| !title.is_empty()), "{self:?}");
        assert!(document["detail"].as_str().is_some_and(|detail| !detail.is_empty()), "{self:?}");
        document
    }
}

/// `text` for a query or a path: everything percent-encoded but letters, digits and `-._~`.
pub fn encoded(text: &str) -> String {
    let encode = |b: u8| match b {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(b).to_string(),
        _ => format!("%{b:02X}"),
    };
    text.bytes().map(encode).collect()
}
