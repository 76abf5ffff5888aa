//! A client that sends one request after the other, and says what came of each in a form that can be compared.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
};

use super::request::Request;
use crate::harness::DEADLINE;

/// Keeps its connection for as long as the server does.
pub struct Client {
    address: SocketAddr,
    /// Lines for the head of each request.
    lines: &'static str,
    connection: Option<BufReader<TcpStream>>,
    /// The name of the server's history, once it is known.
    epoch: String,
}

/// An answer without what may differ: the time, what is random, the name of the history, the order of the headers.
#[derive(Debug, PartialEq, Eq)]
pub struct Said {
    pub status: String,
    pub headers: Vec<(String, String)>,
    body: String,
}

impl Client {
    pub fn new(address: SocketAddr, lines: &'static str) -> Self {
        let mut client = Self { address, lines, connection: None, epoch: String::new() };
        let opening = client.ask(&Request::history("none"));
        let (_, id) = opening.headers.iter().find(|(name, _)| name == "last-event-id").expect("the opening has an id");
        client.epoch = id.split('-').next().expect("a name").to_owned();
        client
    }

    pub fn ask(&mut self, request: &Request) -> Said {
        self.read_to(request, None)
    }

    /// As [`ask`](Self::ask). A stream is read up to what has `last`, and else to the end of its opening.
    fn read_to(&mut self, request: &Request, last: Option<&str>) -> Said {
        let mut connection = self.connection.take().unwrap_or_else(|| {
            let socket = TcpStream::connect(self.address).expect("a connection");
            socket.set_read_timeout(Some(DEADLINE)).expect("an option");
            BufReader::new(socket)
        });
        // One that is refused before all of it is sent may end the connection.
        connection.get_mut().write_all(&request.bytes(self.lines)).ok();
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            let read = connection.read_line(&mut line).unwrap_or_else(|error| panic!("{error}: {}", request.text("")));
            assert!(read > 0, "the connection ended without an answer: {}", request.text(self.lines));
            match line.trim_end() {
                "" => break,
                line => lines.push(line.to_owned()),
            }
        }
        let (status, mut headers) = (lines.remove(0), lines.iter().map(|line| self.header(line)).collect::<Vec<_>>());
        headers.retain(|(name, _)| name != "date");
        headers.sort();
        let has_body = request.method != "HEAD" && !status.contains(" 204 ");
        let body = if has_body { body(&headers, &mut connection, last) } else { String::new() };
        if !has(&headers, "connection", "close") {
            self.connection = Some(connection);
        }
        // Where the answer comes before the body was read, the fallback ends the connection.
        headers.retain(|(name, _)| name != "connection");
        Said { status, headers, body: self.same(&body) }
    }

    /// What is known of a topic, and all events that it holds.
    pub fn held(&mut self, topic: &str) -> (Said, Option<Said>) {
        let known = self.ask(&Request::show(topic));
        let last = serde_json::from_str::<serde_json::Value>(&known.body).expect("JSON")["last_id"].take();
        let last = last.as_str().map(|last| last.replace("epoch", &self.epoch));
        let events = last.map(|last| self.read_to(&Request::history(topic), Some(&last)));
        (known, events)
    }

    fn header(&self, line: &str) -> (String, String) {
        let (name, value) = line.split_once(':').expect("a header");
        let name = name.to_ascii_lowercase();
        // A refused subscriber comes back after a jittered time.
        let value = if name == "retry-after" { "some seconds".to_owned() } else { self.same(value.trim()) };
        (name, value)
    }

    /// The text without the name of the history, and without how many subscribers have not been seen to leave yet.
    fn same(&self, text: &str) -> String {
        let text = if self.epoch.is_empty() { text.to_owned() } else { text.replace(&self.epoch, "epoch") };
        let mut parts = text.split("\"subscribers\":");
        let first = parts.next().unwrap_or_default().to_owned();
        parts.fold(first, |all, part| all + "\"subscribers\":0" + part.trim_start_matches(|c: char| c.is_ascii_digit()))
    }
}

/// The body of an answer with these `headers`.
fn body(headers: &[(String, String)], connection: &mut BufReader<TcpStream>, last: Option<&str>) -> String {
    let length = headers.iter().find(|(name, _)| name == "content-length");
    let mut body = Vec::new();
    match length {
        Some((_, length)) => {
            body.resize(length.parse().expect("a number"), 0);
            connection.read_exact(&mut body).expect("the whole body");
        }
        None if has(headers, "transfer-encoding", "chunked") => return stream(connection, last),
        None => drop(connection.read_to_end(&mut body).expect("the whole body")),
    }
    without_numbers_of("retry", &String::from_utf8_lossy(&body))
}

fn has(headers: &[(String, String)], name: &str, value: &str) -> bool {
    headers.iter().any(|(other, is)| other == name && is == value)
}

/// What a stream has up to a chunk with `last`, or its opening.
fn stream(connection: &mut BufReader<TcpStream>, last: Option<&str>) -> String {
    let mut all = String::new();
    loop {
        let mut line = String::new();
        connection.read_line(&mut line).expect("a chunk's head");
        let length = usize::from_str_radix(line.trim_end(), 16).expect("a length");
        let mut chunk = vec![0; length + 2];
        connection.read_exact(&mut chunk).expect("a chunk");
        all.push_str(&String::from_utf8_lossy(&chunk));
        if length == 0 || last.is_none_or(|last| all.contains(last)) {
            return without_numbers_of("retry", &all);
        }
    }
}

/// `text` without the digits in lines that begin with `field`.
fn without_numbers_of(field: &str, text: &str) -> String {
    let lines = text.split('\n').map(|line| {
        let is_random = line.starts_with(field) || line.contains("\"retry_ms\"");
        if is_random { line.chars().filter(|c| !c.is_ascii_digit()).collect() } else { line.to_owned() }
    });
    lines.collect::<Vec<String>>().join("\n")
}
