//! A server of NATS that does not know yet that it no longer leads the stream: what it says is out of date.

use std::sync::{Arc, Mutex};

use super::{Cluster, is_ready, resume, until};
use crate::harness::{
    Process,
    link::{Link, Tamper, frame::Frame},
    nats,
    tools::left_out,
};

/// Changes what a server is told of the stream.
#[derive(Default)]
struct Stale {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The last position of the stream, as the server is told.
    last: Option<u64>,
    /// The server gets no messages of the stream.
    is_silent: bool,
    /// How often it was told the wrong position.
    told: usize,
}

impl Stale {
    fn set(&self, last: Option<u64>, is_silent: bool) {
        *self.state.lock().expect("no panic") = State { last, is_silent, told: 0 };
    }

    fn told(&self) -> usize {
        self.state.lock().expect("no panic").told
    }
}

impl Tamper for Stale {
    fn to_nats(&self, _: &mut Frame) -> Option<Frame> {
        None
    }

    fn from_nats(&self, frame: &mut Frame) -> bool {
        let mut state = self.state.lock().expect("no panic");
        let is_message = frame.words.iter().any(|word| word.starts_with("$JS.ACK."));
        if is_message && state.is_silent {
            return false;
        }
        let Some(last) = state.last else { return true };
        let Some(text) = frame.payload.as_ref().and_then(|payload| String::from_utf8(payload.clone()).ok()) else {
            return true;
        };
        if text.contains("stream_info_response") {
            let (before, rest) = text.split_once(r#""last_seq":"#).expect("a last position");
            let (_, behind) = rest.split_at(rest.find([',', '}']).expect("the end of a number"));
            frame.payload = Some(format!(r#"{before}"last_seq":{last}{behind}"#).into_bytes());
            state.told += 1;
        }
        true
    }
}

#[tokio::test]
async fn a_position_that_is_out_of_date_is_not_believed() {
    // Goal: a server is told for a while that the stream ends before the ids that another server has given. It does not
    // call such an id a reset, and does not take the stream for a restored one. Then it goes on without a gap.
    let nats = match nats::shared() {
        Ok(nats) => nats,
        Err(missing) => return left_out(&missing),
    };
    let (cluster, stale) = (Cluster::on(nats), Arc::new(Stale::default()));
    let link = Link::tampered(&[nats.port()], Arc::<Stale>::clone(&stale)).await;
    let node = cluster.node().await;
    let urls = link.urls();
    let behind = Process::start(&cluster.settings(&[("TIDINGS__CLUSTER__SERVERS", &urls)])).await;
    cluster.publish(&node, "a", "first").await;
    stale.set(Some(1), true);
    let seen = cluster.publish(&node, "a", "second").await;
    let block = resume(&behind, "topic=a", &seen).await.next().await.expect("a notice");
    assert!(block.event == "broker.refused" && block.id == seen, "{block:?}");
    assert!(stale.told() > 0, "it has asked");
    stale.set(Some(1), false);
    let third = cluster.publish(&node, "a", "third").await;
    let block = resume(&behind, "topic=a", &seen).await.next().await.expect("an event");
    assert_eq!((block.event.as_str(), block.id), ("message", third));
    // The watchdog has its suspicion, and finds out each time that it is wrong.
    let told = stale.told();
    until("suspicions", async || stale.told() > told + 10).await;
    stale.set(None, false);
    until("readiness", async || is_ready(&behind).await).await;
    let seen = cluster.publish(&behind, "a", "fourth").await;
    let fifth = cluster.publish(&node, "a", "fifth").await;
    let block = resume(&behind, "topic=a", &seen).await.next().await.expect("an event");
    assert_eq!((block.event.as_str(), block.id), ("message", fifth));
}
