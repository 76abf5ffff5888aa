//! A subscriber that moves between the servers, and resumes with its last id.

use std::{collections::BTreeSet, net::SocketAddr, time::Duration};

use fastrand::Rng;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::watch,
    time::{sleep, timeout},
};

use super::{END, Plan, Received, Targets};
use crate::{
    harness::{Block, chunks::Chunks, parser::Parser},
    storm::{checker::Seen, seq},
};

/// A subscriber over all its connections.
pub struct Subscriber {
    plan: Plan,
    targets: Targets,
    rng: Rng,
    /// The last target, so that the next one is another one.
    last: usize,
    request: String,
    /// Its cursor, as an `EventSource` keeps it.
    last_event_id: String,
    /// The last events of its topics that it has got.
    ends: usize,
    pub received: Received,
    pub connections: usize,
}

const PAUSE_MS: std::ops::Range<u64> = 20..200;

impl Subscriber {
    pub fn new(plan: &Plan, targets: &Targets, mut rng: Rng) -> Self {
        let (wanted, mut topics) = (rng.usize(1..=10.min(plan.topics)), BTreeSet::new());
        while topics.len() < wanted {
            topics.insert(rng.usize(..plan.topics));
        }
        let names: Vec<String> = topics.iter().map(|topic| format!("topic=t{topic}")).collect();
        // Half of them get everything, and half of them resume with positions that belong to no event, too.
        let (is_since_all, marks) = (rng.bool(), if rng.bool() { "id" } else { "event" });
        let since = if is_since_all { "&since=all" } else { "" };
        let request = format!("/subscribe?{}&marks={marks}{since}", names.join("&"));
        let joined = is_since_all.then_some(0);
        let received = Received { topics, joined, seen: Vec::new(), notices: Vec::new() };
        let (last, last_event_id) = (rng.usize(..targets.len()), String::new());
        let targets = Targets::clone(targets);
        Self { plan: plan.clone(), targets, rng, last, request, last_event_id, ends: 0, received, connections: 0 }
    }

    /// Moves and resumes until it has got the last event of each of its topics.
    pub async fn run(mut self, mut over: watch::Receiver<bool>) -> Self {
        while self.ends < self.received.topics.len() && !*over.borrow() {
            self.last = (self.last + self.rng.usize(1..self.targets.len().max(2))) % self.targets.len();
            let target = self.targets[self.last];
            let stay = Duration::from_millis(self.rng.u64(self.plan.stay_ms.clone()));
            let is_over = async {
                // An error means that nobody waits for this subscriber.
                over.wait_for(|is_over| *is_over).await.is_ok()
            };
            tokio::select! {
                _ = timeout(stay, self.follow(target)) => {}
                _ = is_over => {}
            }
            sleep(Duration::from_millis(self.rng.u64(PAUSE_MS))).await;
        }
        self
    }

    /// Reads one stream, until it ends or until all is there.
    async fn follow(&mut self, target: SocketAddr) -> Option<()> {
        let cursor = match self.last_event_id.split_once('-') {
            None => String::new(),
            Some((epoch, _)) => {
                let position = seq(&self.last_event_id) + u64::from(self.plan.is_late);
                format!("Last-Event-ID: {epoch}-{position}\r\n")
            }
        };
        let mut socket = TcpStream::connect(target).await.ok()?;
        let head = format!("GET {} HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n", self.request);
        socket.write_all(format!("{head}{cursor}\r\n").as_bytes()).await.ok()?;
        let mut bytes = Vec::new();
        let head_end = loop {
            if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
                break end;
            }
            if socket.read_buf(&mut bytes).await.ok()? == 0 {
                return None;
            }
        };
        if !bytes.starts_with(b"HTTP/1.1 200 ") {
            let line = String::from_utf8_lossy(&bytes[..head_end]).lines().next().unwrap_or_default().to_owned();
            self.received.notices.push(line);
            return None;
        }
        self.connections += 1;
        let (mut chunks, mut parser) = (Chunks::default(), Parser::default());
        bytes.drain(..head_end + 4);
        while self.ends < self.received.topics.len() {
            self.take(&chunks.feed(&bytes), &mut parser)?;
            bytes.clear();
            if socket.read_buf(&mut bytes).await.ok()? == 0 {
                return None;
            }
        }
        Some(())
    }

    /// Takes a part of a stream. `None` when the server wants the client to come back later.
    fn take(&mut self, mut bytes: &[u8], parser: &mut Parser) -> Option<()> {
        while !bytes.is_empty() {
            // Byte by byte up to its first cursor: an event behind it in the same bytes would be taken for it.
            let (now, later) = bytes.split_at(if self.received.joined.is_none() { 1 } else { bytes.len() });
            bytes = later;
            let blocks = parser.feed(now);
            if !parser.last_event_id.is_empty() {
                self.last_event_id.clone_from(&parser.last_event_id);
                self.received.joined.get_or_insert_with(|| seq(&parser.last_event_id));
            }
            for Block { event, id, data } in blocks {
                match event.as_str() {
                    "broker.open" => {}
                    "broker.refused" => return None,
                    "message" => {
                        self.ends += usize::from(data.ends_with(END));
                        self.received.seen.push(Seen { seq: seq(&id), content: data });
                    }
                    _ => self.received.notices.push(format!("{event} {data}, with the id {id}")),
                }
            }
        }
        Some(())
    }
}
