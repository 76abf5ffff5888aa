//! `tidings import` moves a log from the disk into the cluster.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

use async_nats::jetstream;
use serde_json::Value;

use super::{Cluster, outage::own_nats};
use crate::harness::{
    Block, Stream,
    blocking::{Broker, Client, Directory},
    until,
};

mod refused;

/// The command on the log at `from`, for the stream of `cluster`. The settings are without `TIDINGS__`.
fn command(cluster: &Cluster, from: &Path, settings: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidings"));
    command.arg("import").arg("--from").arg(from).current_dir(env!("CARGO_TARGET_TMPDIR"));
    command.envs(cluster.settings(&[])).stdin(Stdio::null());
    command.envs(settings.iter().map(|(key, value)| (format!("TIDINGS__{key}"), value)));
    command
}

/// Runs the command to its end: the exit code, and what it says.
fn run(mut command: Command) -> (Option<i32>, String) {
    let output = command.output().expect("it runs");
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    (output.status.code(), said.into_owned())
}

/// Imports everything, and returns what the command says.
fn import(cluster: &Cluster, directory: &Directory, settings: &[(&str, &str)]) -> String {
    let (code, said) = run(command(cluster, &directory.0, settings));
    assert_eq!(code, Some(0), "{said}");
    said
}

/// A server of the cluster.
fn server(cluster: &Cluster, settings: &[(&str, &str)]) -> Broker {
    let own = [("CLUSTER__SERVERS", cluster.url.as_str()), ("CLUSTER__NAMESPACE", cluster.namespace.as_str())];
    let settings: Vec<_> = own.iter().chain(settings).copied().collect();
    let started = Broker::start("cluster", &Directory::new().0, &settings);
    started.unwrap_or_else(|(status, errors)| panic!("{status}: {errors}"))
}

/// Publishes, with an event name and a key, if they are not empty.
fn publish(client: &mut Client, topic: &str, [name, key, content]: [&str; 3]) -> (u16, Value, bool) {
    let name = if name.is_empty() { String::new() } else { format!("&event={name}") };
    let key = if key.is_empty() { String::new() } else { format!("Idempotency-Key: {key}\r\n") };
    let headers = format!("Content-Type: text/plain\r\n{key}");
    let path = format!("/publish?topic={topic}{name}");
    let answer = client.request("POST", &path, &headers, content).expect("an answer");
    let is_replayed = answer.replayed();
    (answer.status, answer.body, is_replayed)
}

/// What a subscriber gets up to the event with the content `end`.
async fn blocks(broker: &Broker, query: &str, cursor: Option<&str>, end: &str) -> Vec<Block> {
    let mut headers = vec![("accept", "text/event-stream")];
    headers.extend(cursor.map(|cursor| ("last-event-id", cursor)));
    let mut stream = Stream::open(broker.address, &format!("/subscribe?{query}&envelope=json"), &headers).await;
    let mut blocks = Vec::new();
    let data = |block: &Block| serde_json::from_str::<Value>(&block.data).expect("JSON")["data"].clone();
    while blocks.last().is_none_or(|block| data(block) != end) {
        blocks.push(stream.next().await.expect("an event"));
    }
    blocks
}

/// The same without the ids, which an import changes: each event as JSON, and the reason of each gap.
async fn seen(broker: &Broker, query: &str, end: &str) -> Vec<Value> {
    let blocks = blocks(broker, query, None, end).await;
    let without_id = blocks.into_iter().map(|block| {
        let mut value: Value = serde_json::from_str(&block.data).expect("JSON");
        if block.event == "broker.gap" {
            value["reason"].take()
        } else {
            value["id"].take();
            value
        }
    });
    without_id.collect()
}

const TOPICS: &str = "topic=a&topic=room/%C3%A4/&topic=busy&topic=deleted&topic=large";
/// The same limits before and after.
const LIMITS: [(&str, &str); 1] = [("LOG__TOPIC_EVENTS_MAX", "20")];

/// Fills a log with all kinds of events, and returns their last id.
fn fill(client: &mut Client) -> String {
    let must = |(status, body, _): (u16, Value, bool)| {
        assert_eq!(status, 200, "{body}");
        body["id"].as_str().expect("an id").to_owned()
    };
    for (topic, event) in [
        ("a", ["", "", "plain"]),
        ("room/%C3%A4/", ["tick", "", "two\nlines\r\nand é 事件"]),
        ("a", ["named", "key", "once"]),
        ("a", ["", "", ""]),
        ("deleted", ["", "deleted", "gone"]),
        ("large", ["", "", &"x".repeat(500_000)]),
    ] {
        must(publish(client, topic, event));
    }
    assert_eq!(client.request("DELETE", "/topics/deleted", "", "").expect("an answer").status, 204);
    must(publish(client, "deleted", ["", "", "again"]));
    // The first ones are removed, because of the limit.
    for n in 0..30 {
        must(publish(client, "busy", ["", &n.to_string(), &n.to_string()]));
    }
    must(publish(client, "a", ["", "", "end"]))
}

#[tokio::test]
async fn everything_that_is_held_is_moved() {
    // Goal: a server of the cluster serves the same events with the same times, names and contents in the same order,
    // reports the same gaps to starts by time, and knows the same keys. A subscriber with an id of the old log gets one
    // `reset`, and then everything. The old log does not change: a server can go on with it.
    let Some(cluster) = Cluster::on_shared() else { return };
    let directory = Directory::new();
    let disk = Broker::disk(&directory, &LIMITS);
    let last = fill(&mut disk.client());
    let queries = ["since=all", "last=7", "since=1h"].map(|start| format!("{TOPICS}&{start}"));
    let queries = [&queries[..], &["topic=a&since=1h".to_owned(), "topic=busy&since=1h".to_owned()]].concat();
    let ends = ["end", "end", "end", "end", "29"];
    let mut before = Vec::new();
    for (query, end) in queries.iter().zip(ends) {
        before.push(seen(&disk, query, end).await);
    }
    assert_eq!(before[0].len(), 27, "{:?}", before[0]);
    assert_eq!(before[2][0], "evicted", "the control: topics that have lost events");
    assert_ne!(before[3][0], "evicted", "the control: a topic that has lost none");
    assert!(disk.stop().success());
    let file = fs::read(directory.file()).expect("the file");
    let said = import(&cluster, &directory, &LIMITS);
    for expected in ["imported 27 events", "5 topics, 31 idempotency keys", "next: start the servers"] {
        assert!(said.contains(expected), "{expected}: {said}");
    }
    assert!(!said.contains("left out"), "{said}");
    assert_eq!(fs::read(directory.file()).expect("the file"), file);
    // In memory, and read from NATS.
    for hot in ["64MiB", "0B"] {
        let node = server(&cluster, &[LIMITS[0], ("LOG__HOT_BYTES_MAX", hot)]);
        for ((query, end), expected) in queries.iter().zip(ends).zip(&before) {
            assert_eq!(&seen(&node, query, end).await, expected, "{query}");
        }
        let resumed = blocks(&node, TOPICS, Some(&last), "end").await;
        let gaps = resumed.iter().filter(|block| block.event == "broker.gap").count();
        assert!(resumed[0].data.contains("\"reset\"") && gaps == 1 && resumed.len() == 28, "{resumed:?}");
    }
    let node = server(&cluster, &LIMITS);
    let mut client = node.client();
    let held = blocks(&node, "topic=a&since=all", None, "end").await;
    let (status, body, is_replayed) = publish(&mut client, "a", ["named", "key", "once"]);
    assert!(status == 200 && is_replayed && body["id"] == *held[1].id, "{body}");
    assert_eq!(publish(&mut client, "a", ["", "key", "another"]).0, 409);
    // The first key of `busy` has lost its event, and the last one has it.
    for key in ["0", "29"] {
        assert!(publish(&mut client, "busy", ["", key, key]).2, "{key}");
        assert_eq!(publish(&mut client, "busy", ["", key, "another"]).0, 409);
    }
    assert!(!publish(&mut client, "deleted", ["", "deleted", "gone"]).2, "its topic was deleted");
    assert_eq!(seen(&Broker::disk(&directory, &LIMITS), &queries[0], "end").await, before[0]);
}

/// Makes the event at this position older by so many seconds, as if it had been published then.
fn make_older(directory: &Directory, seq: i64, seconds: i64) {
    let file = rusqlite::Connection::open(directory.file()).expect("the file opens");
    let sql =
        "SELECT topic.name, event.time_ms, event.content FROM event JOIN topic ON topic.id = topic WHERE seq = ?1";
    let (topic, time_ms, content): (String, i64, Vec<u8>) =
        file.query_row(sql, [seq], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).expect("the event");
    let time_ms = time_ms - seconds * 1000;
    let mut hasher = crc32fast::Hasher::new();
    for part in [&seq.to_le_bytes(), &time_ms.to_le_bytes(), topic.as_bytes(), &[0], b"", &[0], &content] {
        hasher.update(part);
    }
    let checksum = hasher.finalize();
    let update = "UPDATE event SET time_ms = ?2, checksum = ?3 WHERE seq = ?1";
    file.execute(update, rusqlite::params![seq, time_ms, checksum]).expect("an update");
    file.execute("UPDATE receipt SET time_ms = ?2 WHERE seq = ?1", [seq, time_ms]).expect("an update");
}

#[tokio::test]
async fn events_and_keys_expire_when_they_would_have_expired() {
    // Goal: `log.age_max` and `publish.idempotency_window` count from the time of the event, not from the import.
    let Some(cluster) = Cluster::on_shared() else { return };
    let directory = Directory::new();
    let disk = Broker::disk(&directory, &[]);
    publish(&mut disk.client(), "a", ["", "old", "old"]);
    publish(&mut disk.client(), "a", ["", "", "end"]);
    assert!(disk.stop().success());
    make_older(&directory, 1, 45);
    let limits = [("LOG__AGE_MAX", "60s"), ("PUBLISH__IDEMPOTENCY_WINDOW", "60s")];
    let said = import(&cluster, &directory, &limits);
    assert!(said.contains("imported 2 events"), "{said}");
    let node = server(&cluster, &limits);
    assert!(publish(&mut node.client(), "a", ["", "old", "old"]).2, "its window is not over yet");
    until("the end of the old event", async || {
        let held = blocks(&node, "topic=a&since=all", None, "end").await;
        !held[0].data.contains("old")
    })
    .await;
    until("the end of its key", async || !publish(&mut node.client(), "a", ["", "old", "old"]).2).await;
}

/// How many messages the stream has.
async fn position(cluster: &Cluster) -> u64 {
    let nats = async_nats::connect(&cluster.url).await.expect("a connection");
    let stream = jetstream::new(nats).get_stream(&cluster.namespace).await;
    stream.map_or(0, |stream| stream.cached_info().state.last_sequence)
}

/// Publishes so many events of some 100 bytes.
fn publish_many(disk: &Broker, count: usize) {
    std::thread::scope(|scope| {
        for thread in 0..4 {
            scope.spawn(move || {
                let mut client = disk.client();
                for n in 0..count / 4 {
                    client.must_publish(&format!("topic-{}", n % 10), &format!("{thread} {n} {}", "x".repeat(80)));
                }
            });
        }
    });
}

#[tokio::test]
async fn an_import_that_was_interrupted_goes_on_and_doubles_nothing() {
    // Goal: one run is killed in the middle, during the next one NATS is killed and starts again, and the last one has
    // nothing left to do. Then the stream has each event once, in order.
    let Some(nats) = own_nats() else { return };
    let cluster = Cluster::on(&nats);
    let directory = Directory::new();
    let disk = Broker::disk(&directory, &[("LOG__DURABILITY", "os")]);
    let (count, query) = (12_000, "topic=topic-0&topic=topic-1&topic=topic-9&topic=end&since=all");
    publish_many(&disk, count);
    disk.client().must_publish("end", "end");
    let before = seen(&disk, query, "end").await;
    assert!(disk.stop().success());
    let total = u64::try_from(count).expect("a number") + 1;
    let begin = async |from: u64| {
        let child = command(&cluster, &directory.0, &[]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        until("progress", async || position(&cluster).await > from).await;
        child.expect("it runs")
    };
    let mut killed = begin(500).await;
    killed.kill().expect("it is killed");
    killed.wait().expect("it ends");
    let reached = position(&cluster).await;
    assert!(reached < total, "it was killed too late to show anything");
    let interrupted = begin(reached + 500).await;
    nats.kill();
    nats.restart();
    let output = interrupted.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    // NATS may have stored more when it had read all that the killed process had sent.
    let number = |before: &str| {
        let rest = said.split(before).nth(1).unwrap_or_else(|| panic!("{before}: {said}"));
        rest.split(' ').next().and_then(|number| number.parse::<u64>().ok()).expect("a number")
    };
    let earlier = number("an earlier run has imported ");
    assert!(earlier >= reached && earlier + number("\nimported ") == total, "{said}");
    assert!(import(&cluster, &directory, &[]).contains("imported 0 events"));
    assert_eq!(position(&cluster).await, total);
    assert_eq!(seen(&server(&cluster, &[]), query, "end").await, before);
}

#[tokio::test]
async fn a_log_that_was_used_between_two_runs_is_followed() {
    // Goal: what a server on the disk did after the first run is moved by the second one: new events, the deletion of a
    // topic, and the removal of events by a limit.
    let Some(cluster) = Cluster::on_shared() else { return };
    let directory = Directory::new();
    let disk = Broker::disk(&directory, &LIMITS);
    fill(&mut disk.client());
    assert!(disk.stop().success());
    import(&cluster, &directory, &LIMITS);
    let disk = Broker::disk(&directory, &LIMITS);
    let mut client = disk.client();
    assert_eq!(client.request("DELETE", "/topics/large", "", "").expect("an answer").status, 204);
    for n in 30..60 {
        client.must_publish("busy", &n.to_string());
    }
    client.must_publish("a", "the end");
    let queries = [format!("{TOPICS}&since=all"), format!("{TOPICS}&since=1h")];
    let before = [seen(&disk, &queries[0], "the end").await, seen(&disk, &queries[1], "the end").await];
    assert!(disk.stop().success());
    let said = import(&cluster, &directory, &LIMITS);
    assert!(said.contains("imported 21 events"), "{said}");
    let node = server(&cluster, &LIMITS);
    for (query, expected) in queries.iter().zip(&before) {
        assert_eq!(&seen(&node, query, "the end").await, expected, "{query}");
    }
}
