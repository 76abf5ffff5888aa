//! A file that is damaged: what cannot be read is lost history, and the broker goes on without it.

use std::fs;

use rusqlite::Connection;

use crate::{
    disk::subscribe,
    harness::blocking::{Broker, Client, Directory, Line, seq, wait_for},
};

const COLD: [(&str, &str); 1] = [("LOG__HOT_BYTES_MAX", "0B")];
const PAGE: usize = 4096;

/// Publishes `count` events of `size` bytes to topic `t` and ends in order; their ids.
fn fill(directory: &Directory, count: usize, size: usize) -> Vec<String> {
    let broker = Broker::disk(directory, &COLD);
    let mut client = broker.client();
    let ids = (0..count).map(|n| client.must_publish("t", &content(n, size))).collect();
    assert!(broker.stop().success());
    ids
}

fn content(n: usize, size: usize) -> String {
    format!("<{n}>{}", "x".repeat(size))
}

fn sql(directory: &Directory, sql: &str) {
    let file = Connection::open(directory.file()).expect("the file opens");
    file.execute_batch(sql).expect("it is done");
}

/// Overwrites the pages of the file that hold the contents `of`.
fn destroy(directory: &Directory, of: std::ops::Range<usize>) {
    destroy_marks(directory, of.map(|n| format!("<{n}>x")));
}

/// Overwrites every page of the file that has one of `marks`.
fn destroy_marks(directory: &Directory, marks: impl Iterator<Item = String>) {
    let mut bytes = fs::read(directory.file()).expect("the file");
    let marks: Vec<String> = marks.collect();
    for page in bytes.chunks_mut(PAGE) {
        let has = |mark: &String| page.windows(mark.len()).any(|window| window == mark.as_bytes());
        if marks.iter().any(has) {
            page.fill(0x5A);
        }
    }
    fs::write(directory.file(), bytes).expect("it is written");
}

/// What the lines say: numbers of events, and gaps with the reason and where the stream goes on.
fn told(lines: &[Line]) -> Vec<String> {
    let told = |line: &Line| {
        if line.event.as_deref() != Some("broker.gap") {
            return line.data.split_inclusive('>').next().expect("a number").to_owned();
        }
        let data: serde_json::Value = serde_json::from_str(&line.data).expect("JSON");
        let at = seq(data["resumed_after"].as_str().expect("an id"));
        format!("{} {at}", data["reason"].as_str().expect("a reason"))
    };
    lines.iter().map(told).collect()
}

fn events(broker: &Broker) -> u64 {
    let answer = broker.client().request("GET", "/topics/t", "", "").expect("an answer");
    answer.body["events"].as_u64().expect("a number")
}

#[test]
fn an_event_that_has_changed_is_a_gap_and_the_broker_goes_on() {
    // Goal: content, name and time that do not fit their checksum are never served; the stream is told where, the next
    // one as well, what is held agrees, and neither the process nor the next one ends over it.
    let changes = [
        ("UPDATE event SET content = x'21' WHERE seq = 3", "<2>"),
        ("UPDATE event SET name = 'broker.gap' WHERE seq = 3", "<2>"),
        ("UPDATE event SET time_ms = time_ms + 1 WHERE seq = 3", "<2>"),
        ("SELECT 1", ""),
    ];
    for (change, lost) in changes {
        let directory = Directory::new();
        let ids = fill(&directory, 5, 10);
        sql(&directory, change);
        let mut expected = vec!["<0>", "<1>", "<2>", "<3>", "<4>"];
        if !lost.is_empty() {
            expected[2] = "unreadable 3";
        }
        for life in 1..=2 {
            let broker = Broker::disk(&directory, &COLD);
            assert_eq!(events(&broker), 5, "nobody has read it yet");
            for reader in 1..=2 {
                assert_eq!(told(&subscribe(&broker, "topic=t&since=all", None)), expected, "{change} {life} {reader}");
            }
            assert_eq!(told(&subscribe(&broker, "topic=t", Some(&ids[2]))), ["<3>", "<4>"], "it has seen it");
            assert_eq!(events(&broker), 4 + u64::from(lost.is_empty()), "{change}: what is held agrees");
            let cursor = format!("Last-Event-ID: {}\r\n", ids[0]);
            if !lost.is_empty() {
                let fails = broker.client().request("GET", "/subscribe?topic=t&on_gap=fail", &cursor, "");
                assert_eq!(fails.expect("an answer").status, 410);
            }
            assert!(broker.stop().success());
        }
    }
}

#[test]
fn an_event_that_has_vanished_is_a_gap() {
    // Goal: a row that somebody removes from the file under the broker is told like one that cannot be read.
    for lost in [true, false] {
        let directory = Directory::new();
        fill(&directory, 5, 10);
        let broker = Broker::disk(&directory, &COLD);
        sql(&directory, if lost { "DELETE FROM event WHERE seq IN (2, 3)" } else { "SELECT 1" });
        let expected = if lost {
            ["<0>", "unreadable 3", "<3>", "<4>"].to_vec()
        } else {
            ["<0>", "<1>", "<2>", "<3>", "<4>"].to_vec()
        };
        assert_eq!(told(&subscribe(&broker, "topic=t&since=all", None)), expected);
        assert_eq!(events(&broker), if lost { 3 } else { 5 });
        assert!(broker.stop().success());
    }
}

#[test]
fn two_gaps_with_an_event_between_are_both_told() {
    // Goal: the first read of a page that begins with a gap and has another one tells of both.
    let directory = Directory::new();
    fill(&directory, 5, 10);
    sql(&directory, "UPDATE event SET content = x'21' WHERE seq IN (1, 3)");
    let broker = Broker::disk(&directory, &COLD);
    for reader in 1..=2 {
        let expected = ["unreadable 1", "<1>", "unreadable 3", "<3>", "<4>"];
        assert_eq!(told(&subscribe(&broker, "topic=t&since=all", None)), expected, "{reader}");
    }
    assert!(broker.stop().success());
}

#[test]
fn a_damaged_page_costs_the_events_on_it() {
    // Goal: whole pages of noise in the middle of history end neither the process nor the next start, whether they hold
    // rows or only the content of one; what is before and after is there, what is missing is told, publishing goes on,
    // and retention passes over it.
    for (size, lost) in [(200, 40..100), (9000, 40..43), (200, 0..0)] {
        let directory = Directory::new();
        let ids = fill(&directory, 200, size);
        destroy(&directory, lost.clone());
        for life in 1..=2 {
            let broker = Broker::disk(&directory, &COLD);
            let lines = subscribe(&broker, "topic=t&since=all", None);
            let all = told(&lines);
            let there = |n: usize| all.contains(&format!("<{n}>"));
            assert!(
                (0..200).all(|n| there(n) || (lost.start.saturating_sub(30)..lost.end + 30).contains(&n)),
                "{all:?}"
            );
            assert!(lost.clone().all(|n| !there(n)) && there(0) && there(199), "{all:?}");
            let resumed = told(&subscribe(&broker, "topic=t", Some(&ids[1])));
            let gaps = resumed.iter().filter(|line| line.starts_with("unreadable")).count();
            assert_eq!(gaps, usize::from(!lost.is_empty()), "{life}: {resumed:?}");
            broker.client().must_publish("other", "goes on");
            assert!(broker.stop().success());
        }
        let settings = [COLD[0], ("LOG__TOPIC_EVENTS_MAX", "10")];
        for _ in 1..=2 {
            let broker = Broker::disk(&directory, &settings);
            assert_eq!(told(&subscribe(&broker, "topic=t&since=all", None)).len(), 10);
            wait_for("the rows to be removed", || directory.count("event WHERE seq > 150") < 60);
            broker.client().must_publish("other", "goes on");
            let (status, said) = broker.stop_and_tell();
            assert!(status.success(), "{said}");
        }
    }
}

#[test]
fn damaged_topics_and_receipts_do_not_stop_the_start() {
    // Goal: a topic whose row is nonsense is lost, with a gap; the others are whole, a new life of it can be published
    // to, and no other topic gets its events. Receipts are forgotten at worst.
    let nonsense = "PRAGMA writable_schema = ON; UPDATE topic SET name = char(1) WHERE name = 't'";
    let receipts = "UPDATE receipt SET seq = -5";
    for (change, lost) in [(nonsense, true), (receipts, false), ("SELECT 1", false)] {
        let directory = Directory::new();
        let broker = Broker::disk(&directory, &COLD);
        let mut client = broker.client();
        let other = client.must_publish("other", "<0>");
        let first = client.must_publish("t", "<1>");
        client.publish("t", "<2>", Some("key")).expect("an answer");
        client.must_publish("other", "<3>");
        assert!(broker.stop().success());
        sql(&directory, change);
        for life in 1..=2 {
            let broker = Broker::disk(&directory, &COLD);
            assert_eq!(told(&subscribe(&broker, "topic=other&since=all", None)), ["<0>", "<3>"]);
            let resumed = told(&subscribe(&broker, "topic=t", Some(&first)));
            assert_eq!(resumed[0].starts_with("unreadable"), lost, "{change} {life}: {resumed:?}");
            assert_eq!(told(&subscribe(&broker, "topic=other", Some(&other))).last().expect("a line"), "<3>");
            broker.client().must_publish("t", "<4>");
            broker.client().must_publish(&format!("new-{life}"), "<5>");
            let all = told(&subscribe(&broker, "topic=t&since=all", None));
            assert_eq!(all.len(), life + if lost { 0 } else { 2 }, "{change} {life}: {all:?}");
            assert_eq!(told(&subscribe(&broker, &format!("topic=new-{life}&since=all"), None)), ["<5>"]);
            assert!(broker.stop().success());
        }
    }
}

#[test]
fn damaged_pages_of_topics_and_receipts_do_not_stop_the_start() {
    // Goal: the tables of topics and of receipts begin anew with what can be read; what is lost is told, no topic takes
    // over another's events, and all of it goes on at the next start. The control is the sound file.
    for (prefix, lost) in [("topic", true), ("key", false), ("none", false)] {
        let directory = Directory::new();
        let broker = Broker::disk(&directory, &COLD);
        let mut client = broker.client();
        let name = |n: usize| format!("topic-{n}-{}", "x".repeat(60));
        let key = |n: usize| format!("key-{n}-{}", "x".repeat(60));
        let publish = |client: &mut Client, n: usize| {
            client.publish(&name(n), &format!("<{n}>"), Some(&key(n))).expect("an answer")
        };
        let answers: Vec<_> = (0..300).map(|n| publish(&mut client, n).id().expect("an id").to_owned()).collect();
        client.must_publish("first", "<first>");
        assert!(broker.stop().success());
        destroy_marks(&directory, (100..110).map(|n| format!("{prefix}-{n}-")));
        for life in 1..=2 {
            let broker = Broker::disk(&directory, &COLD);
            let mut client = broker.client();
            let is_there = |n: usize| {
                told(&subscribe(&broker, &format!("topic={}&since=all", name(n)), None)).contains(&format!("<{n}>"))
            };
            assert_eq!((is_there(105), is_there(0), is_there(299)), (!lost, true, true), "{prefix} {life}");
            assert_eq!(told(&subscribe(&broker, "topic=first&since=all", None)).len(), life);
            let resumed = told(&subscribe(&broker, &format!("topic={}", name(105)), Some(&answers[0])));
            assert_eq!(resumed[0].starts_with("unreadable"), lost, "{prefix} {life}: {resumed:?}");
            // Where receipts were lost a retry is another event, which is what forgetting them means.
            let again = publish(&mut client, 0);
            let expected = (prefix != "key").then_some(&*answers[0]);
            assert_eq!(
                again.id().filter(|_| again.replayed()),
                expected.or(again.id().filter(|_| life == 2)),
                "{prefix} {life}"
            );
            client.must_publish("first", "<second>");
            assert_eq!(told(&subscribe(&broker, "topic=first&since=all", None)).len(), life + 1);
            assert!(broker.stop().success());
        }
    }
}
