//! A disk that fails in use: what is unknown is said to be, and the process ends rather than promise what it cannot keep.

use std::{
    collections::HashMap,
    fs,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

use super::{gap, subscribe};
use crate::harness::{
    blocking::{Broker, Client, Directory, wait_for},
    preload,
};

const PUBLISHERS: usize = 8;
/// Acknowledged before the disk fails.
const BEFORE: usize = 100;

/// A disk on which some kind of operation fails once it is told to.
struct FailingDisk {
    library: String,
    log: Directory,
    /// Goes last: the log is in it.
    directory: Directory,
}

impl FailingDisk {
    /// `None` where it cannot be built.
    fn new() -> Option<Self> {
        let directory = Directory::new();
        let library = preload::build("disk/fail.c", &directory)?;
        Some(Self { library, log: Directory(directory.0.join("log")), directory })
    }

    fn start(&self, what: &str, settings: &[(&str, &str)]) -> Broker {
        let from = self.directory.0.join("fail");
        let from = from.to_str().expect("a path in UTF-8");
        let environment = [("LD_PRELOAD", &*self.library), ("FAIL", what), ("FAIL_FROM", from)];
        Broker::start_with("disk", &self.log.0, settings, &environment).unwrap_or_else(|(_, errors)| panic!("{errors}"))
    }

    fn fail(&self) {
        fs::write(self.directory.0.join("fail"), "").expect("it is written");
    }
}

/// How a publish went.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Acknowledged(String),
    Unknown,
    /// With this code: certainly not published.
    Refused(String),
    /// There was no answer.
    Cut,
}

struct Sent {
    content: String,
    outcome: Outcome,
}

impl Sent {
    /// Its idempotency key: no two contents are the same.
    fn key(&self) -> &str {
        &self.content
    }
}

fn publish(client: &mut Client, content: String) -> Sent {
    let outcome = match client.publish("t", &content, Some(&content)) {
        Err(_) => Outcome::Cut,
        Ok(answer) => match (answer.id(), answer.body["code"].as_str()) {
            (Some(id), _) => Outcome::Acknowledged(id.to_owned()),
            (None, Some("outcome_unknown")) => {
                let detail = answer.body["detail"].as_str().expect("a detail");
                assert!(detail.contains("may have been published") && detail.contains("Idempotency-Key"), "{detail}");
                assert_eq!(answer.status, 503);
                Outcome::Unknown
            }
            (None, code) => Outcome::Refused(code.expect("a code").to_owned()),
        },
    };
    Sent { content, outcome }
}

/// Several publish, one event after the other, until the broker has no good word for each; `meanwhile` happens when many
/// have been acknowledged.
fn load(broker: &Broker, meanwhile: impl FnOnce()) -> Vec<Sent> {
    let acknowledged = AtomicUsize::new(0);
    let (acknowledged, address) = (&acknowledged, broker.address);
    let publish_until_it_fails = move |publisher| {
        let mut client = Client::connect(address).expect("a connection");
        let mut sent: Vec<Sent> = Vec::new();
        while sent.last().is_none_or(|sent| matches!(sent.outcome, Outcome::Acknowledged(_))) {
            sent.push(publish(&mut client, format!("{publisher}-{}", sent.len())));
            acknowledged.fetch_add(1, Ordering::Relaxed);
        }
        sent
    };
    thread::scope(|scope| {
        let publishers: Vec<_> = (0..PUBLISHERS).map(|n| scope.spawn(move || publish_until_it_fails(n))).collect();
        wait_for("acknowledgements", || acknowledged.load(Ordering::Relaxed) > BEFORE);
        meanwhile();
        publishers.into_iter().flat_map(|publisher| publisher.join().expect("no panic")).collect()
    })
}

/// It has ended by itself, with the code for it and one line that says why.
fn assert_failed(broker: Broker, words: &[&str]) {
    let (status, errors) = broker.end();
    assert_eq!(status.code(), Some(74), "{errors}");
    let lines: Vec<&str> = errors.lines().filter(|line| line.contains("the log has failed")).collect();
    assert_eq!(lines.len(), 1, "{errors}");
    for word in ["tidings: the log has failed: ", "tidings.db: "].iter().chain(words) {
        assert!(lines[0].contains(word), "{word:?} is not in {:?}", lines[0]);
    }
    assert!(!errors.contains("panicked"), "{errors}");
}

/// What the next process has of `sent`: every acknowledged event at its place, and of the rest what a retry settles.
fn assert_settled(broker: &Broker, sent: &[Sent]) {
    let held: HashMap<String, String> =
        subscribe(broker, "topic=t&since=all", None).into_iter().map(|line| (line.data, line.id)).collect();
    let mut ids = HashMap::new();
    for sent in sent {
        let there = held.get(&sent.content);
        match &sent.outcome {
            Outcome::Acknowledged(id) => assert_eq!(there, Some(id), "{} was acknowledged", sent.content),
            Outcome::Refused(code) => assert_eq!(there, None, "{} was refused: {code}", sent.content),
            Outcome::Unknown | Outcome::Cut => {}
        }
        let again = broker.client().publish("t", &sent.content, Some(sent.key())).expect("an answer");
        let id = again.id().unwrap_or_else(|| panic!("{}", again.body)).to_owned();
        assert_eq!(again.replayed(), there.is_some(), "{}", sent.content);
        assert!(there.is_none_or(|there| *there == id), "{}", sent.content);
        ids.insert(id, sent.content.clone());
    }
    let lines = subscribe(broker, "topic=t&since=all", None);
    assert_eq!(lines.len(), sent.len(), "each is there once");
    assert!(lines.iter().all(|line| ids.get(&line.id) == Some(&line.data)), "each at its place");
}

#[test]
fn when_the_disk_fails_under_load_the_outcome_is_unknown_until_a_retry_settles_it() {
    // Goal: a failed fsync, or a failed write: those in flight are told that it may be published, the process ends with
    // 74 and says why, and the next one has all that was acknowledged, once, and settles the rest.
    for what in ["sync", "write"] {
        let Some(disk) = FailingDisk::new() else { return };
        let broker = disk.start(what, &[]);
        let sent = load(&broker, || disk.fail());
        assert_failed(broker, &["cannot be written: ", "disk I/O error"]);
        let count = |wanted: fn(&Outcome) -> bool| sent.iter().filter(|sent| wanted(&sent.outcome)).count();
        let unknown = count(|outcome| *outcome == Outcome::Unknown);
        let cut = count(|outcome| *outcome == Outcome::Cut);
        println!("{what}: {} publishes, {unknown} unknown, {cut} without an answer", sent.len());
        assert!(unknown > 0, "{what}: those that waited for the disk were told");
        assert_settled(&Broker::disk(&disk.log, &[]), &sent);
    }
}

#[test]
fn when_history_cannot_be_read_its_streams_are_told_and_publishing_goes_on() {
    // Goal: a replay that meets read errors is told of a gap and goes on with what can be read; the process does not end,
    // and has all of it again when the disk has.
    let Some(disk) = FailingDisk::new() else { return };
    let settings = [("LOG__HOT_BYTES_MAX", "0B")];
    let broker = disk.start("read", &settings);
    let texts: Vec<String> = (0..200).map(|n| format!("{n} {}", "x".repeat(1000))).collect();
    for text in &texts {
        broker.client().must_publish("t", text);
    }
    broker.kill();
    let broker = disk.start("read", &[]);
    disk.fail();
    let mut stream = Client::subscribe(broker.address, "topic=t&since=all", None).expect("a stream");
    let first = stream.next().expect("a gap");
    let (reason, resumed_after) = gap(&[first]).expect("a gap");
    assert!(reason == "unreadable" && resumed_after >= 200, "{reason} {resumed_after}");
    broker.client().must_publish("t", "it is in memory");
    assert_eq!(stream.next().map(|line| line.data).as_deref(), Some("it is in memory"));
    let (status, said) = broker.stop_and_tell();
    assert!(status.success(), "{said}");
    assert!(said.contains("an event cannot be read") && said.contains("I/O errors in the system's log"), "{said}");
    let lines = subscribe(&Broker::disk(&disk.log, &[]), "topic=t&since=all", None);
    assert!(lines.iter().map(|line| &line.data).take(200).eq(&texts), "all of it is there");
}

#[test]
fn a_disk_that_does_not_fail_is_left_alone() {
    // Goal: the control; the same broker on the same disk goes on as long as it is not told to fail.
    for what in ["sync", "write", "read"] {
        let Some(disk) = FailingDisk::new() else { return };
        let broker = disk.start(what, &[("LOG__HOT_BYTES_MAX", "0B")]);
        let sent: Vec<Sent> = (0..20).map(|n| publish(&mut broker.client(), n.to_string())).collect();
        assert!(sent.iter().all(|sent| matches!(sent.outcome, Outcome::Acknowledged(_))), "{what}");
        assert_settled(&broker, &sent);
        assert!(broker.stop().success(), "{what}");
    }
}

#[test]
fn what_only_looks_like_a_failure_is_a_full_disk() {
    // Goal: 507 when the memory that connections share cannot grow, or a quota is used up, which SQLite both calls an I/O
    // error; what was refused is not there, though its commit may have reached the write-ahead log; when there is room it
    // goes on by itself. The control is the same load with room.
    for (what, full) in [("room", true), ("quota", true), ("room", false)] {
        for killed in [true, false] {
            let Some(disk) = FailingDisk::new() else { return };
            assert_full(&disk, what, full, killed);
        }
    }
}

fn assert_full(disk: &FailingDisk, what: &str, full: bool, killed: bool) {
    let settings = [("LOG__TOPIC_BYTES_MAX", "256MiB"), ("LOG__HOT_BYTES_MAX", "0B")];
    let broker = disk.start(what, &settings);
    broker.client().must_publish("t", "99 first");
    if full {
        disk.fail();
    }
    let mut taken = vec![99];
    let refused = (0..20).find_map(|n| {
        let content = format!("{n} {}", "x".repeat((1 << 20) - 10));
        let answer = broker.client().publish("t", &content, None).expect("an answer");
        taken.extend((answer.status == 200).then_some(n));
        (answer.status != 200).then_some(answer)
    });
    assert_eq!(refused.is_some(), full, "{what}");
    if let Some(refused) = refused {
        assert_eq!((refused.status, refused.body["code"].as_str()), (507, Some("disk_full")), "{what}");
    }
    if !killed {
        fs::remove_file(disk.directory.0.join("fail")).ok();
        let ready = || broker.client().request("GET", "/readyz", "", "").expect("an answer").status == 200;
        wait_for("room", ready);
        broker.client().must_publish("t", "100 more");
        taken.push(100);
    }
    broker.kill();
    let lines = subscribe(&Broker::disk(&disk.log, &settings), "topic=t&since=all", None);
    let numbers = lines.iter().map(|line| line.data.split(' ').next().and_then(|n| n.parse().ok()));
    assert_eq!(numbers.collect::<Vec<_>>(), taken.iter().map(|n| Some(*n)).collect::<Vec<Option<usize>>>(), "{what}");
}

#[test]
fn no_room_to_say_what_is_committed_refuses_nothing() {
    // Goal: a batch that is committed is answered with 200 though the mark that follows it cannot be written, as where to
    // overwrite takes room; the log says so once, goes on, also over a restart on that disk, and loses nothing.
    let Some(disk) = FailingDisk::new() else { return };
    let mut sent = Vec::new();
    let broker = disk.start("mark", &[]);
    let publish_some = |broker: &Broker, sent: &mut Vec<Sent>| {
        for _ in 0..5 {
            sent.push(publish(&mut broker.client(), sent.len().to_string()));
        }
        let refused = sent.iter().find(|sent| !matches!(sent.outcome, Outcome::Acknowledged(_)));
        assert!(refused.is_none(), "{:?}", refused.map(|refused| &refused.outcome));
    };
    publish_some(&broker, &mut sent);
    disk.fail();
    publish_some(&broker, &mut sent);
    assert_eq!(broker.client().request("GET", "/readyz", "", "").expect("an answer").status, 200);
    let (status, said) = broker.stop_and_tell();
    assert!(status.success(), "{said}");
    assert_eq!(said.matches("too full to write high-water").count(), 1, "{said}");
    let broker = disk.start("mark", &[]);
    publish_some(&broker, &mut sent);
    broker.kill();
    assert_settled(&Broker::disk(&disk.log, &[]), &sent);
}
