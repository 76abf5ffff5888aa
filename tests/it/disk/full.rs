//! A disk without room.

use std::{fs, io};

use rusqlite::{Connection, params};

use super::subscribe;
use crate::harness::{
    blocking::{Broker, Client, Directory, wait_for},
    small_disk::SmallDisk,
};

#[test]
fn a_full_disk_refuses_publishes_serves_subscribers_and_recovers_by_itself() {
    // Goal: 507 while there is no room, history and streams all the while, and no restart needed after.
    let directory = Directory::new();
    let Some(disk) = SmallDisk::mount(directory.0.join("disk"), "size=4m") else {
        eprintln!("left out: mounting a small file system needs root");
        return;
    };
    let ballast = disk.0.join("ballast");
    fs::write(&ballast, vec![0; 2 << 20]).expect("a ballast file");
    let on_disk = Directory(disk.0.join("log"));
    let broker = Broker::disk(&on_disk, &[("LOG__HOT_BYTES_MAX", "0B")]);
    let mut client = broker.client();
    client.must_publish("other", "to be deleted");
    let mut texts: Vec<String> = Vec::new();
    let mut live = Client::subscribe(broker.address, "topic=t", None).expect("a stream");
    let refused = loop {
        let text = format!("{} {}", texts.len(), "x".repeat(20_000));
        let answer = client.publish("t", &text, None).expect("an answer");
        if answer.status != 200 {
            break answer;
        }
        texts.push(text);
        assert!(texts.len() < 1000, "4 MiB do not hold this");
    };
    assert_eq!((refused.status, refused.body["code"].as_str()), (507, Some("disk_full")), "{}", refused.body);
    assert!(texts.len() > 10, "{}", texts.len());
    // A deletion takes less than an event: there may be room for some.
    let deletions = (0..1000).map(|_| client.request("DELETE", "/topics/other", "", "").expect("an answer"));
    let refused = deletions.into_iter().find(|answer| answer.status != 204).expect("it takes some room");
    assert_eq!((refused.status, refused.body["code"].as_str()), (507, Some("disk_full")), "{}", refused.body);
    for text in &texts {
        assert_eq!(live.next().map(|line| line.data).as_ref(), Some(text), "the live stream had it all");
    }
    assert_eq!(client.request("GET", "/healthz", "", "").expect("an answer").status, 200);
    assert_eq!(client.request("GET", "/readyz", "", "").expect("an answer").status, 503);
    let mut replay = Client::subscribe(broker.address, "topic=t&since=all", None).expect("a stream");
    for text in &texts {
        assert_eq!(replay.next().map(|line| line.data).as_ref(), Some(text), "history is read from the full disk");
    }
    fs::remove_file(&ballast).expect("it is removed");
    // Nobody publishes: a server that says that it is not ready is sent nothing.
    wait_for("room", || client.request("GET", "/readyz", "", "").expect("an answer").status == 200);
    texts.push("there is room again".to_owned());
    client.must_publish("t", "there is room again");
    assert_eq!(live.next().map(|line| line.data).as_ref(), texts.last());
    broker.kill();
    let broker = Broker::disk(&on_disk, &[]);
    let lines = subscribe(&broker, "topic=t&since=all", None);
    assert_eq!(lines.iter().map(|line| &line.data).collect::<Vec<_>>(), texts.iter().collect::<Vec<_>>());
}

/// Puts receipts into the file. Of every two that lie beside each other one is old: to remove those writes every page.
fn put_receipts(directory: &Directory) {
    let file = Connection::open(directory.file()).expect("the file opens");
    let topic = "INSERT INTO topic (id, name) VALUES (99, 'old')";
    file.execute(topic, []).expect("a row");
    let sql = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?1)
        INSERT INTO receipt SELECT 99, printf('%8d-%s', i, hex(zeroblob(40))), i, 0, 0,
            iif(i % 2, 0, unixepoch() * 1000), NULL FROM n";
    file.execute(sql, params![2 * OLD]).expect("rows");
}

/// Old receipts: less than what is removed at once.
const OLD: i64 = 8000;

#[test]
fn a_disk_without_room_to_remove_old_receipts_takes_what_it_has_room_for() {
    // Goal: with some hundred KiB free, where to remove old receipts takes more, a few small events are taken and the
    // server is ready all the time; when there is room, the receipts go.
    let directory = Directory::new();
    let Some(disk) = SmallDisk::mount(directory.0.join("disk"), "size=16m") else {
        eprintln!("left out: mounting a small file system needs root");
        return;
    };
    let on_disk = Directory(disk.0.join("log"));
    assert!(Broker::disk(&on_disk, &[]).stop().success());
    put_receipts(&on_disk);
    let ballast = disk.0.join("ballast");
    let mut file = fs::File::create(&ballast).expect("a ballast file");
    let written = io::copy(&mut io::repeat(0), &mut file).map_err(|error| error.kind());
    assert_eq!(written, Err(io::ErrorKind::StorageFull));
    let length = file.metadata().expect("its length").len();
    file.set_len(length - (400 << 10)).expect("some room");
    drop(file);
    let broker = Broker::disk(&on_disk, &[("PUBLISH__IDEMPOTENCY_WINDOW", "24h")]);
    let mut client = broker.client();
    for failures in 1..=3 {
        wait_for("a failure to remove them", || {
            assert_eq!(client.request("GET", "/readyz", "", "").expect("an answer").status, 200);
            // Each time something else is written, to see whether the disk is full.
            on_disk.count(&format!("meta WHERE name = 'probe' AND value >= {failures}")) == 1
        });
        client.must_publish("t", "small");
    }
    assert_eq!(on_disk.count("receipt WHERE time_ms = 0"), OLD);
    fs::remove_file(&ballast).expect("it is removed");
    wait_for("them to go", || on_disk.count("receipt WHERE time_ms = 0") == 0);
    assert!(broker.stop().success());
}
