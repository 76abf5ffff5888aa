//! Replay from the disk.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use crate::harness::blocking::{Broker, Client, Directory};

const EVENTS: usize = 20_000;
const READERS: usize = 50;
/// No live event may wait this long. Far above what one takes, and far below what it would be held up by a worker that
/// reads all of that history itself.
const HELD_UP: Duration = Duration::from_secs(5);

#[test]
fn cold_history_is_replayed_to_many_while_others_are_served() {
    // Goal: 50 subscribers that read 20,000 events from the disk get each, in order, and join the live stream; a live
    // subscriber of another topic waits for none of it.
    let directory = Directory::new();
    let settings = [("LOG__HOT_BYTES_MAX", "0B"), ("LOG__TOPIC_EVENTS_MAX", "100000")];
    let broker = Broker::disk(&directory, &settings);
    let address = broker.address;
    thread::scope(|scope| {
        for publisher in 0..16 {
            scope.spawn(move || {
                let mut client = Client::connect(address).expect("a connection");
                for n in 0..EVENTS / 16 {
                    client.must_publish("cold", &format!("{publisher} {n}"));
                }
            });
        }
    });
    let done = AtomicBool::new(false);
    let done = &done;
    let (begun, mut slowest, mut count) = (Instant::now(), Duration::ZERO, 1);
    thread::scope(|scope| {
        let mut live = Client::subscribe(address, "topic=live", None).expect("a stream");
        let readers: Vec<_> = (0..READERS)
            .map(|_| {
                scope.spawn(move || {
                    let mut stream = Client::subscribe(address, "topic=cold&since=all", None).expect("a stream");
                    let lines: Vec<_> = std::iter::from_fn(|| stream.next()).take(EVENTS + 1).collect();
                    assert_eq!(lines.len(), EVENTS + 1);
                    assert!(lines.is_sorted_by(|a, b| a.seq() < b.seq()), "in order, each once");
                    assert_eq!(lines.last().map(|line| &*line.data), Some("joined"));
                })
            })
            .collect();
        let mut client = broker.client();
        client.must_publish("cold", "joined");
        let publisher = scope.spawn(move || {
            while !done.load(Ordering::Relaxed) {
                client.must_publish("live", "now");
            }
            client.must_publish("live", "end");
        });
        let watcher = scope.spawn(move || {
            let (mut slowest, mut count, mut last) = (Duration::ZERO, 1, Instant::now());
            while live.next().expect("a line").data != "end" {
                slowest = slowest.max(last.elapsed());
                last = Instant::now();
                count += 1;
            }
            (slowest, count)
        });
        for reader in readers {
            reader.join().expect("no panic");
        }
        done.store(true, Ordering::Relaxed);
        publisher.join().expect("no panic");
        (slowest, count) = watcher.join().expect("no panic");
    });
    println!("{count} live events meanwhile, in {:?}, the slowest after {slowest:?}", begun.elapsed());
    assert!(slowest < HELD_UP, "{count} live events, the slowest after {slowest:?}");
}
