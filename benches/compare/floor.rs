//! The floor: the least that a server of event streams can do, to measure others by.
//!
//! One thread; an event is encoded once and written to each subscriber of its topic with one bare write, then answered.
//! Nothing is parsed but what tells a subscriber from a publisher, nothing is kept, nobody is cut.

use std::{
    collections::HashMap,
    io::{self, ErrorKind, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr},
};

use mio::{
    Events, Interest, Poll, Registry, Token,
    net::{TcpListener, TcpStream},
};
use slab::Slab;

const LISTENER: Token = Token(usize::MAX);
const EVENTS: usize = 512;
const BUFFER: usize = 64 << 10;
const STREAM: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n: floor\n\n";
const TAKEN: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";

struct Connection {
    socket: TcpStream,
    /// Of a request that has not come as a whole.
    request: Vec<u8>,
    /// What a full socket has not taken: nearly always nothing.
    late: Vec<u8>,
    topic: Option<Vec<u8>>,
}

#[derive(Default)]
struct Floor {
    connections: Slab<Connection>,
    topics: HashMap<Vec<u8>, Vec<usize>>,
    events: u64,
}

/// Serves for as long as the process lives.
pub fn serve(port: u16) -> io::Result<()> {
    rlimit::increase_nofile_limit(u64::MAX)?;
    let mut poll = Poll::new()?;
    let mut listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))?;
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    let registry = poll.registry().try_clone()?;
    let (mut events, mut floor, mut buffer) = (Events::with_capacity(EVENTS), Floor::default(), vec![0; BUFFER]);
    loop {
        poll.poll(&mut events, None)?;
        for event in &events {
            let Token(key) = event.token();
            if event.token() == LISTENER {
                floor.accept(&listener, &registry)?;
                continue;
            }
            if event.is_writable() {
                floor.write(key, &[]);
            }
            if event.is_readable() || event.is_read_closed() {
                floor.read(key, event.is_read_closed(), &mut buffer);
            }
        }
    }
}

impl Floor {
    fn accept(&mut self, listener: &TcpListener, registry: &Registry) -> io::Result<()> {
        while let Ok((mut socket, _)) = listener.accept() {
            socket.set_nodelay(true)?;
            let entry = self.connections.vacant_entry();
            registry.register(&mut socket, Token(entry.key()), Interest::READABLE | Interest::WRITABLE)?;
            entry.insert(Connection { socket, request: Vec::new(), late: Vec::new(), topic: None });
        }
        Ok(())
    }

    /// Reads until the socket is empty. A read that does not fill the buffer has emptied it, but for its end.
    fn read(&mut self, key: usize, is_closed: bool, buffer: &mut [u8]) {
        loop {
            let Some(connection) = self.connections.get_mut(key) else { return };
            let read = connection.socket.read(buffer);
            match read {
                Ok(n @ 1..) => connection.request.extend_from_slice(buffer.get(..n).unwrap_or_default()),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                _ => return self.close(key),
            }
            let mut request = std::mem::take(&mut connection.request);
            while let Some(len) = self.request(key, &request) {
                request.drain(..len);
            }
            if let Some(connection) = self.connections.get_mut(key) {
                connection.request = request;
            }
            if !is_closed && read.is_ok_and(|n| n < buffer.len()) {
                return;
            }
        }
    }

    /// Serves the request that `bytes` begin with, if all of it is there; its length.
    fn request(&mut self, key: usize, bytes: &[u8]) -> Option<usize> {
        let end = memchr::memmem::find(bytes, b"\r\n\r\n")? + 4;
        let (head, rest) = bytes.split_at_checked(end)?;
        let topic = after(head, b"topic=");
        let topic = topic.split(|byte| matches!(byte, b' ' | b'&')).next().unwrap_or_default();
        if head.starts_with(b"GET") {
            self.write(key, STREAM);
            self.topics.entry(topic.to_vec()).or_default().push(key);
            self.connections.get_mut(key)?.topic = Some(topic.to_vec());
            return Some(end);
        }
        let length = after(head, b"Content-Length: ");
        let length = length.iter().take_while(|byte| byte.is_ascii_digit());
        let length = length.fold(0, |length, digit| length * 10 + usize::from(digit - b'0'));
        let content = rest.get(..length)?;
        self.events += 1;
        let block = [format!("id: {}\ndata: ", self.events).as_bytes(), content, b"\n\n"].concat();
        let subscribers = self.topics.remove(topic).unwrap_or_default();
        for subscriber in &subscribers {
            self.write(*subscriber, &block);
        }
        self.topics.insert(topic.to_vec(), subscribers);
        self.write(key, TAKEN);
        Some(end + length)
    }

    /// Writes what is late, then `bytes`.
    fn write(&mut self, key: usize, bytes: &[u8]) {
        let Some(Connection { socket, late, .. }) = self.connections.get_mut(key) else { return };
        let is_late = !late.is_empty();
        if is_late {
            late.extend_from_slice(bytes);
        }
        let rest = if is_late { late.as_slice() } else { bytes };
        if rest.is_empty() {
            return;
        }
        let taken = match socket.write(rest) {
            Ok(taken) => taken,
            Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
            // Its end is read, too.
            Err(_) => return,
        };
        if is_late {
            late.drain(..taken);
        } else {
            late.extend_from_slice(bytes.get(taken..).unwrap_or_default());
        }
    }

    fn close(&mut self, key: usize) {
        let topic = self.connections.try_remove(key).and_then(|connection| connection.topic);
        if let Some(subscribers) = topic.and_then(|topic| self.topics.get_mut(&topic)) {
            subscribers.retain(|subscriber| *subscriber != key);
        }
    }
}

/// What follows `word` in `text`.
fn after<'a>(text: &'a [u8], word: &[u8]) -> &'a [u8] {
    memchr::memmem::find(text, word).and_then(|at| text.get(at + word.len()..)).unwrap_or_default()
}
