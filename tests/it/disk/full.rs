//! A disk without room.

use std::{fs, path::PathBuf, process::Command};

use super::subscribe;
use crate::harness::blocking::{Broker, Client, Directory, wait_for};

/// A small file system of its own; unmounted with the value.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// `None` when this process may not mount.
    fn mount(at: PathBuf) -> Option<Self> {
        fs::create_dir_all(&at).expect("a directory");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=4m", "tmpfs"]).arg(&at).output();
        mounted.is_ok_and(|mounted| mounted.status.success()).then_some(Self(at))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Fails only when something still uses it, and then the directory stays.
        Command::new("umount").arg("-l").arg(&self.0).status().ok();
    }
}

#[test]
fn a_full_disk_refuses_publishes_serves_subscribers_and_recovers_by_itself() {
    // Goal: 507 while there is no room, history and streams all the while, and no restart needed after.
    let directory = Directory::new();
    let Some(disk) = SmallDisk::mount(directory.0.join("disk")) else {
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
