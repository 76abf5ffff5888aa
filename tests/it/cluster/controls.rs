//! Controls of the checker: engines that are broken on purpose, on the way between a server and NATS. The load and the
//! checker are those of the tests that must find nothing.

use std::{
    sync::{Arc, Mutex},
    time::Instant,
};

use fastrand::Rng;
use serde_json::Value;

use super::{
    checker::{self, Fault, faults},
    load::{Load, PLAN, Plan},
    nodes::Nodes,
};
use crate::{
    harness::{
        DEADLINE,
        link::{
            Link, Mode, Tamper,
            frame::{Frame, Subscriptions},
        },
        nats,
        tools::left_out,
    },
    storm::checker::Fault as SeenFault,
};

/// Two servers on the NATS of all tests. The second one has a link that `tamper` changes.
struct Broken {
    url: String,
    link: Link,
    nodes: Nodes,
    load: Load,
}

impl Broken {
    /// `None` without NATS, which is said.
    async fn start(tamper: Arc<dyn Tamper>, is_late: bool) -> Option<Self> {
        let nats = nats::shared().map_err(|missing| left_out(&missing)).ok()?;
        let link = Link::tampered(&[nats.port()], tamper).await;
        let nodes = Nodes::start(&[nats.url(), link.urls()], &[]).await;
        let plan = Plan { subscribers: 20, topics: 10, pause_ms: 30, stay_ms: 50..500, is_late, ..PLAN };
        let load = Load::start(&plan, nodes.targets(), Rng::new());
        let broken = Self { url: nats.url(), link, nodes, load };
        broken.resumed().await;
        Some(broken)
    }

    async fn resumed(&self) {
        self.load.resumed_after(Instant::now(), DEADLINE).await;
    }

    async fn faults(self) -> Vec<Fault> {
        let (observed, figures) = self.load.finish(&self.nodes, &self.url).await;
        println!("{figures:?}");
        faults(&observed)
    }
}

/// Answers some events in the place of NATS, which does not get them.
#[derive(Default)]
struct Forger {
    state: Mutex<Forgery>,
}

#[derive(Default)]
struct Forgery {
    subscriptions: Subscriptions,
    /// The last position that NATS has answered with.
    last: u64,
    answers: usize,
    forged: usize,
}

/// So many events are answered falsely, each after so many true answers.
const FORGED: usize = 5;
const TRUE_ANSWERS: usize = 10;
/// A false answer names a position that the stream reaches soon.
const AHEAD: u64 = 30;

impl Tamper for Forger {
    fn take_request(&self, frame: &mut Frame) -> Option<Frame> {
        let mut state = self.state.lock().expect("no panic");
        state.subscriptions.note(frame);
        let is_event = frame.operation() == "HPUB" && frame.word(1).contains(".t.");
        if !is_event || state.answers < TRUE_ANSWERS || state.forged == FORGED {
            return None;
        }
        let reply = frame.word(2);
        let sid = state.subscriptions.of(reply)?;
        let stream = frame.word(1).split('.').next()?;
        let answer = format!(r#"{{"stream":"{stream}","seq":{}}}"#, state.last + AHEAD);
        let forged = Frame::message(reply, sid, &answer);
        (state.answers, state.forged) = (0, state.forged + 1);
        Some(forged)
    }

    fn take_answer(&self, frame: &mut Frame) -> bool {
        let answer = frame.payload.as_ref().and_then(|payload| serde_json::from_slice::<Value>(payload).ok());
        // Other answers have no position at their top.
        if let Some(seq) = answer.and_then(|answer| answer["seq"].as_u64()) {
            let mut state = self.state.lock().expect("no panic");
            (state.last, state.answers) = (state.last.max(seq), state.answers + 1);
        }
        true
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_check_finds_an_acknowledgement_before_nats_has_stored_the_event() {
    // Goal: a control; events are acknowledged that NATS does not have, and the checker finds them lost.
    let forger = Arc::new(Forger::default());
    let Some(broken) = Broken::start(Arc::<Forger>::clone(&forger), false).await else { return };
    super::until("false answers", async || forger.state.lock().expect("no panic").forged == FORGED).await;
    // The server answers its publisher once it has read up to the position in the answer.
    broken.load.until_acknowledged(300).await;
    let found = broken.faults().await;
    let lost = found.iter().filter(|fault| matches!(fault, Fault::Lost { .. })).count();
    assert!((1..=FORGED).contains(&lost), "{found:#?}");
}

/// Makes new consumers begin one message later than the server asks.
struct Late {
    /// How many more.
    left: Mutex<usize>,
}

impl Tamper for Late {
    fn take_request(&self, frame: &mut Frame) -> Option<Frame> {
        let mut left = self.left.lock().expect("no panic");
        if frame.word(1).starts_with("$JS.API.CONSUMER.CREATE.") && *left > 0 {
            let payload = String::from_utf8(frame.payload.take()?).expect("JSON");
            let (before, rest) = payload.split_once(r#""opt_start_seq":"#).expect("a first position");
            let (first, behind) = rest.split_at(rest.find([',', '}']).expect("the end of a number"));
            let mut first: u64 = first.parse().expect("a number");
            // Not the consumer of the start, which begins at 1.
            if first > 1 {
                *left -= 1;
                first += 1;
            }
            frame.payload = Some(format!(r#"{before}"opt_start_seq":{first}{behind}"#).into_bytes());
        }
        None
    }

    fn take_answer(&self, _: &mut Frame) -> bool {
        true
    }
}

/// The faults, when so many consumers in a row begin one message late.
async fn faults_of_late(consumers: usize, report: &str) -> Option<Vec<Fault>> {
    let late = Arc::new(Late { left: Mutex::new(consumers) });
    let broken = Broken::start(Arc::<Late>::clone(&late), false).await?;
    // The server makes a new consumer on each new connection.
    broken.link.set(Mode::Cut);
    broken.nodes.until_reported(1, "the connection to NATS is lost").await;
    broken.link.set(Mode::Open);
    super::until("late consumers", async || *late.left.lock().expect("no panic") == 0).await;
    broken.nodes.until_reported(1, report).await;
    broken.resumed().await;
    broken.nodes.until_ready().await;
    Some(broken.faults().await)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_check_finds_a_consumer_that_resumed_one_late() {
    // Goal: a control; NATS leaves out a message twice in a row. The server believes that it is lost and says so. The
    // checker knows that it is not, so the gap is not justified, and the servers hold different events.
    let Some(found) = faults_of_late(2, "the stream has lost messages").await else { return };
    let is_gap = |fault: &Fault| matches!(fault, Fault::Notice { notice, .. } if notice.contains("broker.gap"));
    assert!(found.iter().any(is_gap), "{found:#?}");
    assert!(found.iter().any(|fault| matches!(fault, Fault::Unequal { servers: [0, 1], .. })), "{found:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_that_leaves_out_a_message_is_made_anew() {
    // Goal: when only one consumer begins late, the server finds it and gets the message from the next one.
    let Some(found) = faults_of_late(1, "").await else { return };
    checker::assert_none(&found);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_check_finds_subscribers_that_resume_one_late() {
    // Goal: a control; what an engine would do that skips one event at each resumption and tells nobody.
    let none = Arc::new(Late { left: Mutex::new(0) });
    let Some(broken) = Broken::start(none, true).await else { return };
    broken.load.until_acknowledged(500).await;
    let found = broken.faults().await;
    let is_missing = |fault: &Fault| matches!(fault, Fault::Received { fault: SeenFault::Missing(_), .. });
    assert!(found.iter().any(is_missing), "{found:#?}");
}
