//! A server of NATS that does not know yet that it no longer leads the stream: what it says is out of date.

use std::sync::{Arc, Mutex};

use async_nats::jetstream;

use super::{Cluster, is_ready, resume, until};
use crate::harness::{
    Process,
    link::{
        Link, Tamper,
        frame::{Frame, Subscriptions},
    },
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
    /// The server finds no message by its position.
    is_blind: bool,
    /// How often it was told something wrong.
    told: usize,
    subscriptions: Subscriptions,
}

impl Stale {
    fn set(&self, last: Option<u64>, is_silent: bool) {
        let mut state = self.state.lock().expect("no panic");
        (state.last, state.is_silent, state.told) = (last, is_silent, 0);
    }

    fn set_blind(&self, last: Option<u64>) {
        self.set(last, false);
        self.state.lock().expect("no panic").is_blind = last.is_some();
    }

    fn told(&self) -> usize {
        self.state.lock().expect("no panic").told
    }
}

impl Tamper for Stale {
    fn take_request(&self, frame: &mut Frame) -> Option<Frame> {
        let mut state = self.state.lock().expect("no panic");
        state.subscriptions.note(frame);
        let (subject, reply) = (frame.word(1), frame.word(2));
        if !state.is_blind {
            return None;
        }
        let answer = if subject.starts_with("$JS.API.DIRECT.GET.") {
            Frame::status(reply, state.subscriptions.of(reply)?, "404 Message Not Found")
        } else if subject.starts_with("$JS.API.STREAM.MSG.GET.") {
            let error = r#"{"error":{"code":404,"err_code":10037,"description":"no message found"}}"#;
            Frame::message(reply, state.subscriptions.of(reply)?, error)
        } else {
            return None;
        };
        state.told += 1;
        Some(answer)
    }

    fn take_answer(&self, frame: &mut Frame) -> bool {
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

/// A server that `stale` misleads, with these settings; and one that it does not.
async fn misled(
    cluster: &Cluster,
    port: u16,
    stale: &Arc<Stale>,
    settings: &[(&str, &str)],
) -> (Link, Process, Process) {
    let link = Link::tampered(&[port], Arc::<Stale>::clone(stale)).await;
    let node = cluster.node().await;
    let urls = link.urls();
    let settings = [settings, &[("TIDINGS__CLUSTER__SERVERS", urls.as_str())]].concat();
    let misled = Process::start(&cluster.settings(&settings)).await;
    (link, node, misled)
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
    let (_link, node, behind) = misled(&cluster, nats.port(), &stale, &[]).await;
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

#[tokio::test]
async fn an_event_that_a_server_out_of_date_does_not_have_is_no_gap() {
    // Goal: a server that keeps no event in memory asks a NATS that has not read up to the event. It ends the stream, and
    // does not call the event unreadable. Later it sends the event.
    let nats = match nats::shared() {
        Ok(nats) => nats,
        Err(missing) => return left_out(&missing),
    };
    let (cluster, stale) = (Cluster::on(nats), Arc::new(Stale::default()));
    let cold = [("TIDINGS__LOG__HOT_BYTES_MAX", "0B")];
    let (_link, _node, behind) = misled(&cluster, nats.port(), &stale, &cold).await;
    let first = cluster.publish(&behind, "a", "first").await;
    let second = cluster.publish(&behind, "a", "second").await;
    stale.set_blind(Some(1));
    let told = resume(&behind, "topic=a", &first).await.until_cut().await;
    assert!(told.is_empty() && stale.told() > 0, "{told:?}");
    stale.set_blind(None);
    let block = resume(&behind, "topic=a", &first).await.next().await.expect("an event");
    assert_eq!((block.event.as_str(), block.id), ("message", second));
    // The control: a NATS that has read that far, and does not have the event.
    stale.set_blind(Some(2));
    let block = resume(&behind, "topic=a", &first).await.next().await.expect("a notice");
    assert!(block.event == "broker.gap" && block.data.contains("unreadable"), "{block:?}");
}

#[tokio::test]
async fn a_stream_that_was_restored_ends_the_process() {
    // Goal: the control; a stream of the same epoch that really has fewer messages ends the process.
    let Some(cluster) = Cluster::on_shared() else { return };
    let mut node = cluster.node().await;
    for content in ["one", "two", "three"] {
        cluster.publish(&node, "a", content).await;
    }
    let context = jetstream::new(async_nats::connect(&cluster.url).await.expect("a connection"));
    let config = context.get_stream(&cluster.namespace).await.expect("a stream").cached_info().config.clone();
    context.delete_stream(&cluster.namespace).await.expect("it is deleted");
    context.create_stream(config).await.expect("it is made");
    assert_eq!(node.exit().await.code(), Some(74));
    let (_, errors) = node.last_words().await;
    assert!(errors.contains("its last position is"), "{errors}");
}
