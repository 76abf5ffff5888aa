//! A start that takes a while.

use rusqlite::Connection;

use crate::harness::blocking::{Broker, Directory};

/// No log that a test makes is larger.
const EVENTS_MAX: u64 = 10_000_000;

/// Puts events into the file, up to `count`, as if they had been published.
fn fill(directory: &Directory, count: u64) {
    let file = Connection::open(directory.file()).expect("the file opens");
    let count = i64::try_from(count).expect("a number");
    let events = "WITH RECURSIVE seqs (seq) AS (SELECT 1 UNION ALL SELECT seq + 1 FROM seqs WHERE seq < ?1)
        INSERT OR IGNORE INTO event (seq, topic, time_ms, cost, checksum, content) SELECT seq, 1, seq, 300, 0, x'' FROM seqs";
    file.execute_batch("PRAGMA synchronous = OFF").expect("a setting");
    file.execute("INSERT OR IGNORE INTO topic (id, name) VALUES (1, 't')", []).expect("a topic");
    file.execute(events, [count]).expect("events");
    file.execute("UPDATE meta SET value = ?1 WHERE name = 'reserved'", [count]).expect("the mark");
}

/// The number behind `name=` in a line of the process'.
fn number(line: &str, name: &str) -> u64 {
    let rest = line.split(&format!("{name}=")).nth(1).unwrap_or_else(|| panic!("no {name} in {line}"));
    rest.chars().take_while(char::is_ascii_digit).collect::<String>().parse().expect("a number")
}

#[test]
fn a_long_start_says_how_far_it_is_and_how_long_it_took() {
    // Goal: nobody wonders whether it hangs. How many events take long enough to be worth a word depends on the machine.
    let settings = [
        ("LOG__TOPIC_EVENTS_MAX", "10000000"),
        ("LOG__EVENTS_MAX", "10000000"),
        ("LOG__TOPIC_BYTES_MAX", "1TiB"),
        ("LOG__BYTES_MAX", "1TiB"),
        ("LOG__AGE_MAX", "0s"),
    ];
    let directory = Directory::in_memory();
    assert!(Broker::disk(&directory, &settings).stop().success());
    let mut count = 100_000;
    loop {
        fill(&directory, count);
        let plain = [("NO_COLOR", "1")];
        let broker =
            Broker::start_with("disk", &directory.0, &settings, &plain).unwrap_or_else(|(_, why)| panic!("{why}"));
        let (status, said) = broker.stop_and_tell();
        assert!(status.success(), "{said}");
        let lines: Vec<&str> = said.lines().collect();
        let open = lines.iter().position(|line| line.contains("the log is open")).expect("the last word");
        assert_eq!((number(lines[open], "events"), number(lines[open], "topics")), (count, 1), "{said}");
        assert!(lines[open].contains("took="), "{said}");
        let progress: Vec<&&str> = lines[..open].iter().filter(|line| line.contains("reading the log")).collect();
        if !progress.is_empty() {
            let far: Vec<u64> = progress.iter().map(|line| number(line, "events")).collect();
            assert!(far.is_sorted() && far.iter().all(|events| (1..=count).contains(events)), "{said}");
            assert!(
                progress.iter().all(|line| number(line, "percent") == (number(line, "events") - 1) * 100 / count),
                "{said}"
            );
            return;
        }
        count *= 2;
        assert!(count < EVENTS_MAX, "no word of how far it is: {said}");
    }
}
