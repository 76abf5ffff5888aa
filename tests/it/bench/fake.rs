//! A broker in a few lines that breaks one promise.

use std::{
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
};

/// What it does wrong, with its tenth event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    None,
    /// It acknowledges the event and delivers it to nobody.
    Drop,
    /// It delivers the event twice.
    Repeat,
    /// It delivers the event after the next one.
    Swap,
    /// It refuses the event.
    Refuse,
    /// It ends all streams.
    HangUp,
}

const TENTH: usize = 9;

pub struct Fake {
    address: SocketAddr,
}

#[derive(Default)]
struct State {
    subscribers: Vec<TcpStream>,
    events: usize,
    /// Swapped: not delivered yet.
    held: Vec<u8>,
}

impl Fake {
    /// Serves under `/sse` to those that send `X-Key: 1`, for as long as the test lasts.
    pub fn start(fault: Fault) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("its address");
        let state = Arc::new(Mutex::new(State::default()));
        thread::spawn(move || {
            for socket in listener.incoming().map_while(Result::ok) {
                let state = Arc::clone(&state);
                // It ends with the client's connection, which is no error.
                thread::spawn(move || serve(&socket, &state, fault).ok());
            }
        });
        Self { address }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }
}

fn serve(socket: &TcpStream, state: &Mutex<State>, fault: Fault) -> io::Result<()> {
    let (mut reader, mut writer) = (BufReader::new(socket), socket);
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if reader.read_line(&mut head)? == 0 {
                return Ok(());
            }
        }
        if !head.contains("\r\nX-Key:1\r\n") {
            return writer.write_all(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n");
        }
        if head.starts_with("GET /sse/sub?id=") {
            // Chunked, as many servers stream.
            writer.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\n:hi\n\r\n")?;
            let subscriber = socket.try_clone()?;
            state.lock().expect("no panic").subscribers.push(subscriber);
            continue;
        }
        assert!(head.starts_with("POST /sse/pub?id="), "{head}");
        let length = head.split("Content-Length: ").nth(1).and_then(|rest| rest.split('\r').next());
        let mut body = vec![0; length.expect("a length").parse().expect("a number")];
        reader.read_exact(&mut body)?;
        let is_taken = state.lock().expect("no panic").publish(&body, fault);
        let answer: &[u8] = if is_taken {
            b"HTTP/1.1 201 Created\r\nContent-Length: 2\r\n\r\nok"
        } else {
            b"HTTP/1.1 507 No\r\nContent-Length: 20\r\n\r\n{\"code\":\"disk_full\"}"
        };
        writer.write_all(answer)?;
    }
}

impl State {
    /// Delivers an event to all, before it is acknowledged; whether it is.
    fn publish(&mut self, content: &[u8], fault: Fault) -> bool {
        let block = [b"id: x\ndata: ", content, b"\n\n"].concat();
        let block = [format!("{:x}\r\n", block.len()).as_bytes(), &block, b"\r\n"].concat();
        self.events += 1;
        let held = std::mem::take(&mut self.held);
        match fault {
            _ if self.events != TENTH + 1 => self.deliver(&[block, held].concat()),
            Fault::None => self.deliver(&block),
            Fault::Drop => {}
            Fault::Repeat => self.deliver(&[&block[..], &block].concat()),
            Fault::Swap => self.held = block,
            Fault::Refuse => return false,
            Fault::HangUp => {
                for subscriber in self.subscribers.drain(..) {
                    subscriber.shutdown(Shutdown::Both).expect("it was open");
                }
            }
        }
        true
    }

    fn deliver(&mut self, bytes: &[u8]) {
        for mut subscriber in &self.subscribers {
            subscriber.write_all(bytes).expect("the subscriber is there");
        }
    }
}
