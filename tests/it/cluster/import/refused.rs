//! What `tidings import` refuses, and what it leaves out.

use std::process::Stdio;

use super::{
    Broker, Cluster, Directory, blocks, command, import, own_nats, position, publish, publish_many, run, server, until,
};
use crate::harness::blocking::seq;

/// A log with some events.
fn some_log() -> Directory {
    let directory = Directory::new();
    let disk = Broker::disk(&directory, &[]);
    for content in ["one", "two", "end"] {
        publish(&mut disk.client(), "a", ["", "", content]);
    }
    assert!(disk.stop().success());
    directory
}

/// Runs the command, which must end with this code and say all of this.
fn assert_refused(command: std::process::Command, expected_code: i32, words: &[&str]) {
    let (code, said) = run(command);
    assert_eq!(code, Some(expected_code), "{said}");
    // On a busy machine, it says before how far it has read a long log.
    let last = said.lines().last().unwrap_or_default();
    assert!(last.starts_with("tidings import: "), "{said}");
    for word in words {
        assert!(last.contains(word), "{word:?} is not in {said:?}");
    }
}

#[tokio::test]
async fn a_log_that_cannot_be_read_is_refused() {
    // Goal: each refusal says what to do. Nothing is written, neither to the log nor to NATS.
    let Some(cluster) = Cluster::on_shared() else { return };
    let nothing = Directory::new();
    assert_refused(command(&cluster, &nothing.0, &[]), 1, &["there is no log of Tidings in it"]);
    assert_eq!(std::fs::read_dir(&nothing.0).expect("a directory").count(), 0);
    let directory = some_log();
    let memory = [("LOG__ENGINE", "memory")];
    assert_refused(command(&cluster, &directory.0, &memory), 78, &["set log.engine = \"cluster\" and [cluster]"]);
    let disk = Broker::disk(&directory, &[]);
    assert_refused(command(&cluster, &directory.0, &[]), 1, &["another Tidings uses it; stop that one"]);
    disk.kill();
    let file = rusqlite::Connection::open(directory.file()).expect("the file opens");
    for (version, said) in [(2, "start and stop a server of this version on it once"), (99, "format 99")] {
        file.pragma_update(None, "user_version", version).expect("an update");
        assert_refused(command(&cluster, &directory.0, &[]), 1, &[said]);
    }
    assert_eq!(position(&cluster).await, 0);
    // The control, on the log of a server that was killed: `--from` may name the file, too.
    file.pragma_update(None, "user_version", 3).expect("an update");
    drop(file);
    let (code, said) = run(command(&cluster, &directory.file(), &[]));
    assert!(code == Some(0) && said.contains("imported 3 events"), "{said}");
}

#[tokio::test]
async fn a_stream_that_is_in_use_is_refused() {
    // Goal: an import never mixes its events with others: neither with those of a server, nor with those of another log.
    let Some(cluster) = Cluster::on_shared() else { return };
    let directory = some_log();
    publish(&mut server(&cluster, &[]).client(), "a", ["", "", "other"]);
    let in_use = [format!("nats stream rm {}", cluster.namespace), "another cluster.namespace".to_owned()];
    let in_use: Vec<&str> = in_use.iter().map(String::as_str).collect();
    assert_refused(command(&cluster, &directory.0, &[]), 1, &in_use);
    let Some(other) = Cluster::on_shared() else { return };
    import(&other, &directory, &[]);
    let another = some_log();
    assert_refused(command(&other, &another.0, &[]), 1, &["nats stream rm", "not of this log"]);
    publish(&mut server(&other, &[]).client(), "a", ["", "", "later"]);
    assert_refused(command(&other, &directory.0, &[]), 1, &["nats stream rm"]);
    assert_eq!(position(&other).await, 4);
}

#[tokio::test]
async fn a_server_that_publishes_during_an_import_ends_it() {
    // Goal: the import notices that the stream has an event that it has not sent, and says where. None of the messages
    // that were on their way follows that event: otherwise another run would not see what is missing before it.
    let Some(nats) = own_nats() else { return };
    let cluster = Cluster::on(&nats);
    let directory = Directory::new();
    let disk = Broker::disk(&directory, &[("LOG__DURABILITY", "os")]);
    publish_many(&disk, 12_000);
    assert!(disk.stop().success());
    let node = server(&cluster, &[]);
    let importing = command(&cluster, &directory.0, &[]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let importing = importing.expect("it runs");
    until("progress", async || position(&cluster).await > 500).await;
    let (status, body, _) = publish(&mut node.client(), "a", ["", "", "between"]);
    assert_eq!(status, 200, "{body}");
    let output = importing.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("another program writes to the stream") && said.contains("stop all Tidings servers"),
        "{said}"
    );
    let id = body["id"].as_str().expect("an id");
    assert_eq!(seq(id), position(&cluster).await);
    assert_refused(command(&cluster, &directory.0, &[]), 1, &["nats stream rm"]);
}

#[tokio::test]
async fn without_nats_the_import_ends_and_says_that_it_can_be_run_again() {
    // Goal: it does not wait for ever, neither for NATS that is not there nor for one that has stopped.
    let Some(nats) = own_nats() else { return };
    let cluster = Cluster::on(&nats);
    let directory = some_log();
    nats.kill();
    let short = [("CLUSTER__ACK_TIMEOUT", "100ms")];
    let (code, said) = run(command(&cluster, &directory.0, &short));
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("NATS stores nothing") && said.contains("run the same command again"), "{said}");
    nats.restart();
    assert!(import(&cluster, &directory, &[]).contains("imported 3 events"));
}

#[tokio::test]
async fn an_event_that_nats_does_not_take_is_left_out_and_named() {
    // Goal: the command names the event, and subscribers are told of a gap at its place.
    let Some(cluster) = Cluster::on_shared() else { return };
    let directory = Directory::new();
    let disk = Broker::disk(&directory, &[]);
    let mut client = disk.client();
    publish(&mut client, "a", ["", "", "one"]);
    let (_, large, _) = publish(&mut client, "a", ["", "", &"x".repeat(1 << 20)]);
    publish(&mut client, "a", ["", "", "end"]);
    assert!(disk.stop().success());
    let said = import(&cluster, &directory, &[]);
    let id = large["id"].as_str().expect("an id");
    for expected in ["imported 2 events", "left out: 1 events", &format!("{id} of the topic a: its 1048576 bytes")] {
        assert!(said.contains(expected), "{expected}: {said}");
    }
    let got = blocks(&server(&cluster, &[]), "topic=a&since=all", None, "end").await;
    let told: Vec<&str> = got.iter().map(|block| block.event.as_str()).collect();
    assert_eq!(told, ["message", "broker.gap", "message"], "{got:?}");
    assert!(got[1].data.contains("unreadable"), "{}", got[1].data);
}
