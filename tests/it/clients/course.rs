//! What the clients are taken through: kills before their first event and while publishing goes on, and a clean end.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use super::{
    checker::{Fault, Machine, Message, Published, Record},
    programs::{Library, Program},
};
use crate::harness::{
    DEADLINE,
    blocking::{Broker, Client, Directory, pause, wait_for},
    parser::Parser,
};

/// An address of this machine that connections do not come from. A client that tries a port of its own address while
/// nothing listens there can be connected with itself.
const LISTEN: &str = "127.0.0.2:0";
const SETTINGS: [(&str, &str); 3] =
    [("STREAM__HEARTBEAT", "200ms"), ("STREAM__RETRY", "500ms"), ("SHUTDOWN__DRAIN", "2s")];
/// How often events are published.
const PACE: Duration = Duration::from_millis(20);
/// Events after all clients are back, before the next thing happens.
const EVENTS: usize = 15;
const HEARTBEATS: usize = 4;

/// A client of the course: its library, and what it adds to the address.
pub type Entrant = (Library, &'static str);

/// The last client's topic belongs to the reference, which has no library.
pub struct Course {
    address: SocketAddr,
    directory: Directory,
    broker: Option<Broker>,
    topics: Vec<String>,
    /// Those that have not come back.
    away: Vec<bool>,
    programs: Vec<(Entrant, Program)>,
    reference: Reference,
    record: Arc<Mutex<Record>>,
    publisher: Option<JoinHandle<()>>,
    stop: Arc<AtomicBool>,
}

impl Course {
    /// Starts the broker and the clients; the ones that cannot run are told in `missing`.
    pub fn begin(entrants: &[Entrant], missing: &mut Vec<String>) -> Self {
        let directory = Directory::new();
        let broker = start(LISTEN, &directory, &[]);
        let address = broker.address;
        let client = |(n, entrant): (usize, &Entrant)| {
            let url = format!("http://{address}/subscribe?topic=t{n}{}", entrant.1);
            entrant.0.start(&url, missing).map(|program| (n, *entrant, program))
        };
        let running: Vec<_> = entrants.iter().enumerate().filter_map(client).collect();
        let mut topics: Vec<String> = running.iter().map(|(n, ..)| format!("t{n}")).collect();
        topics.push("reference".to_owned());
        let stop = Arc::new(AtomicBool::new(false));
        let reference = Reference::start(address, &stop);
        let programs = running.into_iter().map(|(_, entrant, program)| (entrant, program)).collect();
        let (record, broker, publisher) = (Arc::default(), Some(broker), None);
        let away = vec![false; topics.len()];
        let mut course =
            Self { address, directory, broker, topics, away, programs, reference, record, publisher, stop };
        course.until_all_subscribe();
        course.until_heartbeats();
        course
    }

    /// `kill -9`; then the broker is back, and events come before any client is.
    pub fn kill(&mut self) {
        self.end_by_kill();
        self.broker = Some(start(&self.address.to_string(), &self.directory, &[]));
        self.until_all_are_back();
    }

    /// `kill -9`, and the broker that comes back refuses every client; the next one does not.
    pub fn refuse(&mut self) {
        let refusals = |(library, program): &(Entrant, Program)| {
            let shown = program.messages().iter().filter(|message| message.event == "broker.refused").count();
            if library.0.shows_refusals() { shown } else { usize::MAX }
        };
        let before: Vec<usize> = self.programs.iter().map(refusals).collect();
        let _place = loop {
            self.end_by_kill();
            self.broker = Some(start(&self.address.to_string(), &self.directory, &[("LIMITS__CONNECTIONS_MAX", "1")]));
            // A client may have been there first.
            if let Some(place) = take_place(self.address) {
                break place;
            }
        };
        wait_for("every client to be refused", || {
            self.programs.iter().map(refusals).zip(&before).all(|(now, before)| now > *before || now == usize::MAX)
        });
        self.kill();
    }

    /// SIGTERM; publishing goes on as far as the broker lets it.
    pub fn end_cleanly(&mut self) {
        self.record.lock().expect("no panic").ends.push(Instant::now());
        let status = self.broker.take().expect("it runs").stop();
        assert!(status.success(), "{status}");
        self.broker = Some(start(&self.address.to_string(), &self.directory, &[]));
        self.until_all_are_back();
    }

    fn end_by_kill(&mut self) {
        self.broker.take().expect("it runs").kill();
        self.record.lock().expect("no panic").ends.push(Instant::now());
        if self.publisher.is_none() {
            // Before the broker listens again, so that the first events come before any client is back.
            let (address, topics, stop) = (self.address, self.topics.join("&topic="), Arc::clone(&self.stop));
            let record = Arc::clone(&self.record);
            self.publisher = Some(std::thread::spawn(move || publish(address, &topics, &record, &stop)));
        }
    }

    fn until_all_are_back(&mut self) {
        self.until_all_subscribe();
        self.until_published(EVENTS);
    }

    /// Waits until the libraries have had every event, and gives what is wrong with each of them.
    pub fn finish(mut self) -> Vec<(Entrant, Vec<Fault>, String)> {
        self.stop_publishing();
        // With an id that they know, and nothing else to come.
        self.until_heartbeats();
        let last = "the last event".to_owned();
        let topics = self.topics.join("&topic=");
        let mut client = self.broker.as_ref().expect("it runs").client();
        let event = attempt(&mut client, &topics, &last, "last").expect("an answer");
        self.record.lock().expect("no panic").published.push(event);
        let deadline = Instant::now() + DEADLINE;
        while Instant::now() < deadline && !self.programs.iter().all(|(_, program)| program.has(&last)) {
            pause(Duration::from_millis(5));
        }
        let record = self.record.lock().expect("no panic").clone();
        let reference = record.all_lateness(self.topics.len() - 1, &self.reference.messages());
        let judge = |(n, (entrant, program)): (usize, &(Entrant, Program))| {
            let machine = Machine { reference: reference.clone(), waited: program.waited() };
            (*entrant, record.faults(n, &program.messages(), &machine), program.errors())
        };
        self.programs.iter().enumerate().map(judge).collect()
    }

    fn stop_publishing(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(publisher) = self.publisher.take() {
            publisher.join().expect("no panic");
        }
    }

    /// Waits until all subscribe. One that stays away is not waited for again; it will lack what it has missed.
    fn until_all_subscribe(&mut self) {
        let mut client = self.broker.as_ref().expect("it runs").client();
        let mut subscribes = |topic: &str| {
            let answer = client.request("GET", &format!("/topics/{topic}"), "", "").expect("an answer");
            answer.body["subscribers"] == 1
        };
        let deadline = Instant::now() + DEADLINE;
        for (topic, away) in self.topics.iter().zip(&mut self.away) {
            while !*away && !subscribes(topic) {
                *away = Instant::now() > deadline;
                pause(Duration::from_millis(5));
            }
        }
    }

    fn until_heartbeats(&self) {
        let before = self.reference.heartbeats.load(Ordering::Relaxed);
        wait_for("heartbeats", || self.reference.heartbeats.load(Ordering::Relaxed) >= before + HEARTBEATS);
    }

    fn until_published(&self, n: usize) {
        let published = || self.record.lock().expect("no panic").published.len();
        let before = published();
        wait_for("events", || published() >= before + n);
    }
}

impl Drop for Course {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn start(listen: &str, directory: &Directory, more: &[(&str, &str)]) -> Broker {
    let settings = [&SETTINGS[..], more].concat();
    Broker::start_at(listen, directory, &settings)
}

/// Subscribes, and holds the stream; `None` when it is refused.
fn take_place(address: SocketAddr) -> Option<TcpStream> {
    let mut socket = TcpStream::connect(address).ok()?;
    socket.write_all(b"GET /subscribe?topic=place HTTP/1.1\r\nHost: localhost\r\n\r\n").ok()?;
    let mut status = [0; "HTTP/1.1 200".len()];
    socket.read_exact(&mut status).ok()?;
    (&status == b"HTTP/1.1 200").then_some(socket)
}

/// Content of more than ASCII, sometimes of several lines, sometimes of more than fits into one read.
fn content(n: usize) -> String {
    match n % 8 {
        3 => format!("event {n}\n  zweite Zeile: grüße\n\nvierte"),
        6 => format!("event {n} {}", "äöü ".repeat(600)),
        _ => format!("event {n}: grüße"),
    }
}

/// Publishes one event after the other, each until it is acknowledged.
fn publish(address: SocketAddr, topics: &str, record: &Mutex<Record>, stop: &AtomicBool) {
    let mut client = None;
    for n in 0.. {
        let (content, key, mut retried) = (content(n), format!("n{n}"), false);
        let mut event = loop {
            if stop.load(Ordering::Relaxed) {
                return;
            }
            let mut connection = client.take().or_else(|| Client::connect(address).ok());
            let event = connection.as_mut().and_then(|client| attempt(client, topics, &content, &key));
            client = connection.filter(|_| event.is_some());
            if let Some(event) = event {
                break event;
            }
            retried = true;
            pause(Duration::from_millis(2));
        };
        if retried {
            // The first attempt may have published it. Then the subscribers that were connected at that time have it.
            event.connected.fill(false);
        }
        record.lock().expect("no panic").published.push(event);
        pause(PACE);
    }
}

/// Publishes to every topic at once; `None` when it may not have been.
fn attempt(client: &mut Client, topics: &str, content: &str, key: &str) -> Option<Published> {
    let answer = client.publish(topics, content, Some(key)).ok().filter(|answer| answer.status == 200)?;
    let at = Instant::now();
    let one = [answer.body.clone()];
    let published = answer.body["published"].as_array().map_or(&one[..], Vec::as_slice);
    let connected = published.iter().map(|one| one["subscribers"] == 1).collect();
    Some(Published { content: content.to_owned(), at, connected })
}

/// A subscriber with nothing between it and the socket, on HTTP/1.0: what it is late is not a library's doing.
struct Reference {
    messages: Arc<Mutex<Vec<Message>>>,
    heartbeats: Arc<AtomicUsize>,
}

impl Reference {
    fn start(address: SocketAddr, stop: &Arc<AtomicBool>) -> Self {
        let reference = Self { messages: Arc::default(), heartbeats: Arc::default() };
        let (messages, heartbeats) = (Arc::clone(&reference.messages), Arc::clone(&reference.heartbeats));
        let stop = Arc::clone(stop);
        std::thread::spawn(move || {
            let mut id = String::new();
            while !stop.load(Ordering::Relaxed) {
                // An error is an end like any other.
                id = follow(address, id, &messages, &heartbeats);
                pause(Duration::from_millis(5));
            }
        });
        reference
    }

    fn messages(&self) -> Vec<Message> {
        self.messages.lock().expect("no panic").clone()
    }
}

/// Reads one stream to its end; the id to go on with.
fn follow(address: SocketAddr, id: String, messages: &Mutex<Vec<Message>>, heartbeats: &AtomicUsize) -> String {
    let Ok(mut socket) = TcpStream::connect(address) else { return id };
    let head = format!(
        "GET /subscribe?topic=reference HTTP/1.0\r\nHost: localhost\r\nAccept: text/event-stream\r\nLast-Event-ID: {id}\r\n\r\n"
    );
    if socket.write_all(head.as_bytes()).is_err() {
        return id;
    }
    let (mut parser, mut before, mut buffer) = (Parser::default(), Some(Vec::new()), vec![0; 64 << 10]);
    parser.last_event_id.clone_from(&id);
    while let Ok(n @ 1..) = socket.read(&mut buffer) {
        let at = Instant::now();
        let mut bytes = buffer[..n].to_vec();
        if let Some(mut head) = before.take() {
            head.extend_from_slice(&bytes);
            let Some(end) = head.windows(4).position(|window| window == b"\r\n\r\n") else {
                before = Some(head);
                continue;
            };
            bytes = head.split_off(end + 4);
        }
        for block in parser.feed(&bytes) {
            messages.lock().expect("no panic").push(Message { event: block.event, data: block.data, at });
        }
        heartbeats
            .store(parser.lines.iter().filter(|name| name.is_empty() || *name == "id").count(), Ordering::Relaxed);
    }
    if parser.last_event_id.is_empty() { id } else { parser.last_event_id }
}
