//! The disk engine behind a real process: what a restart keeps, to the event.

use std::{fs, io::Write as _, thread};

use crate::harness::blocking::{Broker, Client, Directory, Line, seq, wait_for};

mod cold;
mod failing;
mod full;
mod refused;
mod remembered;
mod start;
pub mod versions;

/// How a process ends.
#[derive(Clone, Copy, Debug)]
enum End {
    Ordered,
    Killed,
}

impl End {
    const BOTH: [Self; 2] = [Self::Ordered, Self::Killed];

    fn apply(self, broker: Broker) {
        match self {
            Self::Ordered => assert!(broker.stop().success(), "it ends well"),
            Self::Killed => broker.kill(),
        }
    }
}

pub fn subscribe(broker: &Broker, query: &str, cursor: Option<&str>) -> Vec<Line> {
    // An event of another topic ends the reading: it comes after all that was held. A topic of its own each time: it
    // must not have lost anything to retention.
    let topic = format!("end-{:x}", fastrand::u64(..));
    let end = broker.client().must_publish(&topic, "end");
    let query = format!("{query}&topic={topic}");
    let mut lines = Client::subscribe(broker.address, &query, cursor).expect("a stream").until(&end);
    lines.pop();
    lines
}

/// Where `broker.gap` says that the stream goes on, when the first line is one.
pub fn gap(lines: &[Line]) -> Option<(String, u64)> {
    let line = lines.first().filter(|line| line.event.as_deref() == Some("broker.gap"))?;
    let data: serde_json::Value = serde_json::from_str(&line.data).expect("JSON");
    let text = |name: &str| data[name].as_str().expect("a text").to_owned();
    Some((text("reason"), seq(&text("resumed_after"))))
}

pub fn contents(lines: &[Line]) -> Vec<&str> {
    lines.iter().map(|line| line.data.as_str()).collect()
}

#[test]
fn a_restart_keeps_history_epoch_and_receipts() {
    // Goal: after any end of the process its successor goes on where it was.
    for end in End::BOTH {
        let directory = Directory::new();
        let broker = Broker::disk(&directory, &[]);
        let mut client = broker.client();
        let texts = ["first", "", "two\r\nlines\n\n", " blank \u{2028}\u{1F980}", &"x".repeat(300_000)];
        let ids: Vec<String> = texts.iter().map(|text| client.must_publish("t", text)).collect();
        let keyed = client.publish("t", "keyed", Some("key")).expect("an answer");
        assert_eq!(keyed.body["durability"], "disk");
        end.apply(broker);
        let broker = Broker::disk(&directory, &[]);
        let lines = subscribe(&broker, "topic=t", Some(&ids[0]));
        assert_eq!(contents(&lines)[..4], texts[1..], "{end:?}");
        assert_eq!(lines.iter().map(|line| &line.id).take(4).collect::<Vec<_>>(), ids[1..].iter().collect::<Vec<_>>());
        assert_eq!(lines.len(), 5, "{end:?}: from a cursor of before without gap or repeat");
        let mut client = broker.client();
        let again = client.publish("t", "keyed", Some("key")).expect("an answer");
        assert!(again.replayed() && again.body == keyed.body, "{end:?}: {}", again.body);
        assert_eq!(client.publish("t", "other", Some("key")).expect("an answer").status, 409);
        let next = client.must_publish("t", "next");
        assert!(seq(&next) > seq(keyed.id().expect("an id")));
        assert_eq!(next.split_once('-').map(|(e, _)| e), ids[0].split_once('-').map(|(e, _)| e), "one history");
    }
}

#[test]
fn a_gap_is_told_to_the_event_over_restarts() {
    // Goal: retention by count and by bytes tells exactly what is missing, also when a restart lies between.
    let by_bytes =
        [("PUBLISH__EVENT_BYTES_MAX", "1KiB"), ("LOG__TOPIC_BYTES_MAX", "72KiB"), ("LOG__QUEUE_BYTES_MAX", "64KiB")];
    for (settings, end) in [
        (&[("LOG__TOPIC_EVENTS_MAX", "10")][..], End::Killed),
        (&by_bytes[..], End::Killed),
        (&by_bytes[..], End::Ordered),
    ] {
        let directory = Directory::new();
        let broker = Broker::disk(&directory, settings);
        let mut client = broker.client();
        client.must_publish("quiet", "kept");
        let ids: Vec<String> =
            (0..120).map(|n| client.must_publish("t", &format!("{n} {}", "x".repeat(600)))).collect();
        let held: Vec<Line> = subscribe(&broker, "topic=t&since=all", None);
        let kept = held.len();
        assert!((5..110).contains(&kept), "{kept}");
        end.apply(broker);
        let mut broker = Broker::disk(&directory, settings);
        for _ in 0..2 {
            assert_eq!(subscribe(&broker, "topic=t&since=all", None), held);
            let evicted_to = &ids[ids.len() - kept - 1];
            assert_eq!(gap(&subscribe(&broker, "topic=t", Some(evicted_to))), None, "nothing is missing after it");
            assert_eq!(subscribe(&broker, "topic=t", Some(evicted_to)), held);
            let before = &ids[ids.len() - kept - 2];
            let lines = subscribe(&broker, "topic=t", Some(before));
            assert_eq!(gap(&lines), Some(("evicted".to_owned(), held[0].seq() - 1)), "{end:?}");
            assert_eq!(lines[1..], held);
            assert_eq!(gap(&subscribe(&broker, "topic=quiet", Some(before))), None, "another topic has lost nothing");
            end.apply(broker);
            broker = Broker::disk(&directory, settings);
        }
    }
}

#[test]
fn events_age_while_no_process_runs() {
    // Goal: age goes on over a restart, and what it took is a gap.
    let directory = Directory::new();
    let broker = Broker::disk(&directory, &[("LOG__AGE_MAX", "1h")]);
    let first = broker.client().must_publish("t", "old");
    broker.client().must_publish("t", "older than it may be");
    broker.kill();
    let file = rusqlite::Connection::open(directory.file()).expect("the file opens");
    // As if the process had been down for a year: the events are older, the file is the same otherwise.
    file.execute("UPDATE event SET time_ms = time_ms - 31536000000", []).expect("an update");
    drop(file);
    for _ in 0..2 {
        let broker = Broker::disk(&directory, &[("LOG__AGE_MAX", "1h")]);
        let lines = subscribe(&broker, "topic=t", Some(&first));
        assert_eq!(gap(&lines).map(|(reason, _)| reason).as_deref(), Some("evicted"));
        assert_eq!(lines.len(), 1, "{lines:?}");
        End::Ordered.apply(broker);
    }
}

#[test]
fn a_deleted_topic_stays_deleted() {
    // Goal: a deletion survives every end of the process, whether or not its rows were removed before.
    for end in End::BOTH {
        let directory = Directory::new();
        let broker = Broker::disk(&directory, &[]);
        let mut client = broker.client();
        let first = client.must_publish("t", "a");
        client.must_publish("t", "b");
        client.must_publish("other", "c");
        assert_eq!(client.request("DELETE", "/topics/t", "", "").expect("an answer").status, 204);
        let reborn = client.must_publish("t", "reborn");
        end.apply(broker);
        for _ in 0..3 {
            // Else a client that comes back would be told of the deletion, and not of what is missing.
            let broker = Broker::disk(&directory, &[("STREAM__GONE", "0s")]);
            assert_eq!(contents(&subscribe(&broker, "topic=t&topic=other&since=all", None)), ["c", "reborn"]);
            let lines = subscribe(&broker, "topic=t", Some(&first));
            assert_eq!(gap(&lines), Some(("evicted".to_owned(), seq(&reborn) - 1)), "{end:?}");
            wait_for("the rows to be removed", || directory.count("event WHERE seq < 3") == 0);
            end.apply(broker);
        }
    }
}

#[test]
fn the_write_ahead_log_does_not_grow_from_crash_to_crash() {
    // Goal: processes that are killed before they have written much leave no more to the next one than one of them did.
    let directory = Directory::new();
    let length = || fs::metadata(directory.0.join("tidings.db-wal")).expect("a write-ahead log").len();
    for life in 1..=5 {
        let broker = Broker::disk(&directory, &[]);
        assert!(length() < 200_000, "life {life} begins with {} bytes", length());
        for n in 0..20 {
            broker.client().must_publish("t", &format!("{life} {n} {}", "x".repeat(50_000)));
        }
        assert!(length() > 1_000_000, "there is something to leave: {} bytes", length());
        broker.kill();
    }
    assert_eq!(subscribe(&Broker::disk(&directory, &[]), "topic=t&since=all", None).len(), 100);
}

#[test]
fn a_torn_tail_of_the_write_ahead_log_loses_nothing_acknowledged() {
    // Goal: whatever half-written bytes follow the last commit, every acknowledged event is there.
    let mut random = fastrand::Rng::with_seed(7);
    let directory = Directory::new();
    let mut broker = Broker::disk(&directory, &[]);
    let mut texts: Vec<String> = Vec::new();
    for round in 0..12 {
        let mut client = broker.client();
        for n in 0..20 {
            texts.push(format!("{round} {n} {}", "x".repeat(random.usize(..9000))));
            client.must_publish("t", texts.last().expect("a text"));
        }
        broker.kill();
        let tail = directory.0.join("tidings.db-wal");
        let log = fs::read(&tail).expect("a write-ahead log");
        let mut file = fs::OpenOptions::new().append(true).open(&tail).expect("it opens");
        // Noise; or a frame that is genuine but for its place, whole or torn: what an interrupted commit leaves.
        let frame = &log[log.len() - 4120..];
        let noise: Vec<u8> = (0..random.usize(1..9000)).map(|_| random.u8(..)).collect();
        let junk = match round % 3 {
            0 => &noise[..],
            1 => frame,
            _ => &frame[..random.usize(1..4120)],
        };
        file.write_all(junk).expect("it is written");
        drop(file);
        broker = Broker::disk(&directory, &[]);
        assert_eq!(contents(&subscribe(&broker, "topic=t&since=all", None)), texts, "round {round}");
    }
}

#[test]
fn a_full_queue_is_a_refusal_and_no_event() {
    // Goal: 503 `queue_full` says when to come back, and the event is certainly not there.
    let directory = Directory::new();
    let settings =
        [("PUBLISH__EVENT_BYTES_MAX", "16KiB"), ("LOG__QUEUE_BYTES_MAX", "64KiB"), ("LOG__QUEUE_WAIT", "0s")];
    let broker = Broker::disk(&directory, &settings);
    let publish = |publisher: usize| {
        let mut client = broker.client();
        let outcome = move |n| {
            let content = format!("{publisher}-{n} {}", "x".repeat(15_000));
            let answer = client.publish("t", &content, None).expect("an answer");
            if answer.status != 200 {
                assert_eq!((answer.status, answer.body["code"].as_str()), (503, Some("queue_full")), "{}", answer.body);
                assert!(answer.head.to_ascii_lowercase().contains("retry-after: "), "{}", answer.head);
            }
            (content, answer.status == 200)
        };
        (0..30).map(outcome).collect::<Vec<_>>()
    };
    let publish = &publish;
    let outcomes: Vec<(String, bool)> = thread::scope(|scope| {
        let threads: Vec<_> = (0..32).map(|publisher| scope.spawn(move || publish(publisher))).collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("no panic")).collect()
    });
    let mut taken: Vec<&str> = outcomes.iter().filter(|(_, taken)| *taken).map(|(content, _)| &**content).collect();
    assert!(!taken.is_empty() && taken.len() < outcomes.len(), "{} of {} taken", taken.len(), outcomes.len());
    let lines = subscribe(&broker, "topic=t&since=all", None);
    let mut there = contents(&lines);
    taken.sort_unstable();
    there.sort_unstable();
    assert_eq!(there, taken);
}
