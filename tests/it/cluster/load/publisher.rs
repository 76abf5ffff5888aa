//! A publisher that gives each event a key, and retries at any server until it is acknowledged.

use std::time::{Duration, Instant};

use fastrand::Rng;
use reqwest::Client;
use serde_json::Value;
use tokio::{sync::watch, time::sleep};

use super::{Plan, Sent, Targets};

/// The publisher, and what it was answered.
pub struct Publisher {
    name: String,
    plan: Plan,
    targets: Targets,
    rng: Rng,
    client: Client,
    acks: watch::Sender<Ack>,
    pub sent: Vec<Sent>,
    pub retries: usize,
    /// Answers that no publisher may get, whatever fails.
    pub unexpected: Vec<String>,
}

/// The last publish that was acknowledged.
#[derive(Clone, Copy, Debug)]
pub struct Ack {
    pub begun: Instant,
    pub at: Instant,
    /// How many there have been.
    pub count: usize,
}

/// After this time a client gives a server up that says nothing.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// No fault lasts so long.
const ACK_DEADLINE: Duration = Duration::from_secs(90);
const RETRY_PAUSE_MS: std::ops::Range<u64> = 20..200;
/// Of so many events, one is published again after it was acknowledged.
const REPEATED: u8 = 8;

impl Publisher {
    pub fn new(name: &str, plan: &Plan, targets: &Targets, rng: Rng, acks: watch::Sender<Ack>) -> Self {
        let client = Client::builder().timeout(ANSWER_TIMEOUT).build().expect("a client");
        let (name, plan, targets) = (name.to_owned(), plan.clone(), Targets::clone(targets));
        Self { name, plan, targets, rng, client, acks, sent: Vec::new(), retries: 0, unexpected: Vec::new() }
    }

    /// Publishes one event after the other.
    pub async fn run(mut self, stop: watch::Receiver<bool>) -> Self {
        while !*stop.borrow() && self.unexpected.is_empty() {
            let padding = if self.rng.u8(..50) == 0 { "x".repeat(self.rng.usize(..2000)) } else { String::new() };
            let topic = self.rng.usize(..self.plan.topics);
            self.publish(topic, &padding).await;
            // The pace of the load.
            sleep(Duration::from_millis(self.rng.u64(..=self.plan.pause_ms))).await;
        }
        self
    }

    /// Publishes an event whose content says its topic and ends with `end`, until it is acknowledged.
    pub async fn publish(&mut self, topic: usize, end: &str) {
        let key = format!("{}-{}", self.name, self.sent.len());
        let mut sent = Sent { topic, content: format!("t{topic} {key}{end}"), ids: Vec::new() };
        let first_attempt = Instant::now();
        while sent.ids.is_empty() {
            if first_attempt.elapsed() > ACK_DEADLINE {
                return self.unexpected.push(format!("{sent:?} is not acknowledged after {ACK_DEADLINE:?}"));
            }
            let begun = Instant::now();
            if let Some(id) = self.attempt(&sent, &key).await {
                self.acks.send_modify(|ack| *ack = Ack { begun, at: Instant::now(), count: ack.count + 1 });
                sent.ids.push(id);
            } else {
                self.retries += 1;
                sleep(Duration::from_millis(self.rng.u64(RETRY_PAUSE_MS))).await;
            }
        }
        if self.rng.u8(..REPEATED) == 0 {
            let again = self.attempt(&sent, &key).await;
            sent.ids.extend(again);
        }
        self.sent.push(sent);
    }

    /// Asks any server; the id, if it acknowledges the event.
    async fn attempt(&mut self, sent: &Sent, key: &str) -> Option<String> {
        let target = self.targets[self.rng.usize(..self.targets.len())];
        let request = self.client.post(format!("http://{target}/publish?topic=t{}", sent.topic));
        let request = request.header("idempotency-key", key).header("content-type", "text/plain");
        let answer = request.body(sent.content.clone()).send().await.ok()?;
        let status = answer.status();
        let body: Value = answer.json().await.ok()?;
        match status.as_u16() {
            200 => Some(body["id"].as_str().expect("an id").to_owned()),
            503 => None,
            _ => {
                self.unexpected.push(format!("{sent:?} got {status}: {body}"));
                None
            }
        }
    }
}
