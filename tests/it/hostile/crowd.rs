//! A crowd of attackers of every kind beside subscribers that do nothing wrong.
//!
//! The test checks what holds on each machine: nothing is lost, memory is bounded, and the processor is idle when the
//! attackers have gone. How late events are it only prints, because that depends on what else the machine does.

use std::{
    sync::atomic::{AtomicU64, AtomicUsize, Ordering},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use tokio::{
    task::JoinSet,
    time::{MissedTickBehavior, interval},
};

use crate::harness::{Process, Stream, until};

mod attackers;

/// How many attackers there are, and half of how many honest subscribers, unless `TIDINGS_CROWD` says so.
const ATTACKERS: usize = 120;
const TOPICS: usize = 4;
/// `limits.topics_per_request_max`.
const TOPICS_PER_PUBLISH: usize = 128;
const PUBLISH_EVERY: Duration = Duration::from_millis(50);
const PHASE: Duration = Duration::from_secs(5);
const MIB: u64 = 1 << 20;
/// How many events the log holds. The log has all the memory that it ever takes before the attack, as that of a server
/// that has run for a while. Otherwise its memory would count as that of the attackers, who publish, too.
const EVENTS: usize = 5_000;
/// How many topics without events the log remembers.
const EMPTY_TOPICS: usize = 65_536;
/// The last event of each topic.
const END: &str = "the end";

/// What happens in one phase.
#[derive(Default)]
struct Phase {
    /// How long each event took to each subscriber, in microseconds.
    latencies: Mutex<Vec<u64>>,
    resident: AtomicU64,
    /// The CPU time of the server, in milliseconds.
    cpu_ms: AtomicU64,
}

impl Phase {
    /// The latency that so many of a hundred do not exceed.
    fn percentile(&self, percent: usize) -> Duration {
        let mut latencies = self.latencies.lock().expect("no panic").clone();
        latencies.sort_unstable();
        let at = latencies.len() * percent / 100;
        latencies.get(at.min(latencies.len().saturating_sub(1))).map_or(Duration::ZERO, |us| Duration::from_micros(*us))
    }
}

/// What the publisher and the subscribers share.
struct Shared {
    begin: Instant,
    /// The current phase.
    now: AtomicUsize,
    /// The quiet phase, and two with attackers.
    phases: [Phase; 3],
}

impl Shared {
    fn phase(&self) -> &Phase {
        &self.phases[self.now.load(Ordering::Relaxed)]
    }

    fn note(&self, sent_us: u64) {
        let now = u64::try_from(self.begin.elapsed().as_micros()).expect("it is not that late");
        self.phase().latencies.lock().expect("no panic").push(now.saturating_sub(sent_us));
    }
}

/// Reads a topic to its last event, and gives the numbers of its events.
async fn subscriber(mut stream: Stream, shared: Arc<Shared>) -> Vec<u64> {
    let mut numbers = Vec::new();
    loop {
        let block = stream.next().await.expect("the stream goes on");
        if block.data == END {
            return numbers;
        }
        let (number, sent_us) = block.data.split_once(' ').expect("two numbers");
        shared.note(sent_us.parse().expect("a time"));
        numbers.push(number.parse().expect("a number"));
        stream.body.clear();
    }
}

/// Publishes to the topics in turn for the time of a phase, and gives the numbers of each topic's events.
async fn publish(server: &Process, client: &reqwest::Client, shared: &Shared, numbers: &mut [Vec<u64>; TOPICS]) {
    let mut ticks = interval(PUBLISH_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (begin, before) = (Instant::now(), server.cpu());
    while begin.elapsed() < PHASE {
        ticks.tick().await;
        let number: usize = numbers.iter().map(Vec::len).sum();
        let topic = number % TOPICS;
        let content = format!("{number} {}", shared.begin.elapsed().as_micros());
        server.publish(client, &format!("t{topic}"), &content).await;
        numbers[topic].push(number as u64);
        shared.phase().resident.fetch_max(server.resident(), Ordering::Relaxed);
    }
    let used = server.cpu().saturating_sub(before).as_millis();
    shared.phase().cpu_ms.store(u64::try_from(used).expect("it is short"), Ordering::Relaxed);
}

/// Fills the log. Each event has a topic of its own, because then the log takes the most memory.
async fn fill_log(server: &Process, client: &reqwest::Client) {
    let content = "x".repeat(100);
    let mut topics = (0..EVENTS + EMPTY_TOPICS).map(|n| format!("topic=fill{n}")).peekable();
    while topics.peek().is_some() {
        let some: Vec<_> = topics.by_ref().take(TOPICS_PER_PUBLISH).collect();
        let request = client.post(server.url(&format!("/publish?content={content}&{}", some.join("&"))));
        assert_eq!(request.send().await.expect("an answer").status(), 200);
    }
}

/// Waits until the server has used less than a tenth of a processor for half a second.
async fn until_idle(server: &Process) -> Duration {
    let begin = Instant::now();
    until("the processor to be idle", async || {
        let (before, window) = (server.cpu(), Instant::now());
        until("half a second", async || window.elapsed() > Duration::from_millis(500)).await;
        server.cpu().saturating_sub(before) < Duration::from_millis(50)
    })
    .await;
    begin.elapsed()
}

/// Goal: each honest subscriber has every event once and in order beside attackers of every kind; memory grows by less
/// than three tenths, and no further in a second attack; and when the attackers have gone, the server does nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn honest_subscribers_miss_nothing_beside_a_crowd_of_attackers() {
    let attackers: usize =
        std::env::var("TIDINGS_CROWD").map_or(ATTACKERS, |number| number.parse().expect("a number of attackers"));
    let server = Process::start(&[
        ("TIDINGS__SERVER__HEAD_TIMEOUT", "2s"),
        ("TIDINGS__PUBLISH__BODY_TIMEOUT", "2s"),
        ("TIDINGS__STREAM__WRITE_TIMEOUT", "2s"),
        ("TIDINGS__LIMITS__TOPICS_PER_IP_MAX", "100"),
        ("TIDINGS__LOG__EVENTS_MAX", &EVENTS.to_string()),
        ("TIDINGS__SERVER__WORKERS", "2"),
    ])
    .await;
    let client = reqwest::Client::new();
    fill_log(&server, &client).await;
    // The log still removes old rows from its file. That must not count as a part of the quiet phase.
    until_idle(&server).await;
    let shared = Arc::new(Shared { begin: Instant::now(), now: AtomicUsize::new(0), phases: Default::default() });
    let mut subscribers = JoinSet::new();
    for n in 0..2 * attackers {
        let topic = n % TOPICS;
        let stream = server.subscribe(&format!("topic=t{topic}")).await;
        let shared = Arc::clone(&shared);
        subscribers.spawn(async move { (topic, subscriber(stream, shared).await) });
    }
    let mut numbers: [Vec<u64>; TOPICS] = Default::default();
    publish(&server, &client, &shared, &mut numbers).await;

    for phase in 1..=2 {
        shared.now.store(phase, Ordering::Relaxed);
        let attack = attackers::start(server.address, attackers);
        publish(&server, &client, &shared, &mut numbers).await;
        let each = attack.stop().await;
        let idle_after = until_idle(&server).await;
        println!("{each:?} steps of each kind of attacker; idle {idle_after:?} after they left");
        // The control: all kinds were there.
        assert!(each.iter().all(|(_, steps)| *steps > 0), "{each:?}");
    }

    for topic in 0..TOPICS {
        server.publish(&client, &format!("t{topic}"), END).await;
    }
    while let Some(received) = subscribers.join_next().await {
        let (topic, received) = received.expect("a subscriber gets through");
        assert!(received == numbers[topic], "t{topic}: {} instead of {}", received.len(), numbers[topic].len());
    }
    for (name, phase) in ["quiet", "attacked", "attacked again"].into_iter().zip(&shared.phases) {
        let [half, most] = [50, 99].map(|percent| phase.percentile(percent));
        let resident = phase.resident.load(Ordering::Relaxed) / 1024;
        let cpu = phase.cpu_ms.load(Ordering::Relaxed);
        println!("{name}: p50 {half:.1?}, p99 {most:.1?}, {resident} KiB resident, {cpu} ms of CPU in {PHASE:?}");
        // The control: events were published meanwhile.
        assert!(!phase.latencies.lock().expect("no panic").is_empty());
    }
    let [quiet, first, second] = [0, 1, 2].map(|n| shared.phases[n].resident.load(Ordering::Relaxed));
    assert!(first < quiet * 13 / 10, "{} KiB after {} KiB", first / 1024, quiet / 1024);
    assert!(second < first * 13 / 10 + 4 * MIB, "{} KiB after {} KiB", second / 1024, first / 1024);
}
