//! What a restart keeps of keys and deletions.

use rusqlite::{Connection, params};

use super::{End, contents, gap, subscribe, versions::first_version};
use crate::harness::blocking::{Broker, Client, Directory, seq};

/// The status of a reconnect with `cursor`, by which the stream begins or does not.
fn status(broker: &Broker, query: &str, cursor: &str) -> u16 {
    let headers = format!("Last-Event-ID: {cursor}\r\n");
    broker.client().request("GET", &format!("/subscribe?{query}"), &headers, "").expect("an answer").status
}

fn delete(client: &mut Client, topic: &str) {
    assert_eq!(client.request("DELETE", &format!("/topics/{topic}"), "", "").expect("an answer").status, 204);
}

#[test]
fn a_deletion_is_remembered_over_a_restart() {
    // Goal: within `stream.gone` a client that comes back is told to stop, whatever the process did meanwhile; a stream of
    // several topics is told, and goes on with the next life.
    for end in End::BOTH {
        let directory = Directory::new();
        let broker = Broker::disk(&directory, &[]);
        let mut client = broker.client();
        let seen = client.must_publish("t", "one");
        client.must_publish("t", "two");
        delete(&mut client, "t");
        end.apply(broker);
        let broker = Broker::disk(&directory, &[]);
        assert_eq!(status(&broker, "topic=t", &seen), 204, "{end:?}");
        broker.client().must_publish("t", "next life");
        assert_eq!(status(&broker, "topic=t", &seen), 204, "{end:?}");
        let lines = subscribe(&broker, "topic=t", Some(&seen));
        assert_eq!(lines[0].event.as_deref(), Some("broker.deleted"), "{end:?}");
        assert_eq!(contents(&lines[1..]), ["next life"], "{end:?}");
        end.apply(broker);
        // The control: it is `stream.gone` that makes the difference.
        let broker = Broker::disk(&directory, &[("STREAM__GONE", "0s")]);
        let lines = subscribe(&broker, "topic=t", Some(&seen));
        assert_eq!(gap(&lines).expect("a gap").0, "evicted", "{end:?}");
        assert_eq!(contents(&lines[1..]), ["next life"], "{end:?}");
    }
}

#[test]
fn a_deletion_forgets_the_keys_of_an_earlier_process() {
    // Goal: of a topic that nobody has used since the restart, too.
    for end in End::BOTH {
        let directory = Directory::new();
        let broker = Broker::disk(&directory, &[]);
        let first = broker.client().publish("t", "keyed", Some("key")).expect("an answer");
        end.apply(broker);
        let broker = Broker::disk(&directory, &[]);
        let mut client = broker.client();
        delete(&mut client, "t");
        let again = client.publish("t", "keyed", Some("key")).expect("an answer");
        assert!(!again.replayed(), "{end:?}: {}", again.body);
        assert!(seq(again.id().expect("an id")) > seq(first.id().expect("an id")));
        end.apply(broker);
        let broker = Broker::disk(&directory, &[]);
        let retry = broker.client().publish("t", "keyed", Some("key")).expect("an answer");
        assert!(retry.replayed() && retry.body == again.body, "{end:?}: {}", retry.body);
    }
}

#[test]
fn a_key_of_the_first_version_answers_its_retry() {
    // Goal: its fingerprint is of a kind that is not known any more, so the key alone decides; a retry over the upgrade is
    // neither refused nor published twice. Keys of this version tell events apart, over restarts, too.
    let directory = Directory::new();
    first_version(&directory);
    let file = Connection::open(directory.file()).expect("the file opens");
    let now_ms: i64 =
        file.query_row("SELECT max(time_ms) FROM event", [], |row| row.get(0)).expect("the time of the newest event");
    file.execute("INSERT INTO receipt VALUES (1, 'old', 7, 12345, 2, ?1)", params![now_ms]).expect("a receipt");
    drop(file);
    for _ in 0..2 {
        let broker = Broker::disk(&directory, &[]);
        let mut client = broker.client();
        let old = client.publish("t", "seven", Some("old")).expect("an answer");
        assert!(old.replayed(), "{}", old.body);
        assert_eq!((seq(old.id().expect("an id")), old.body["subscribers"].as_u64()), (7, Some(2)));
        client.publish("t", "new", Some("new")).expect("an answer").id().expect("an id");
        assert!(client.publish("t", "new", Some("new")).expect("an answer").replayed());
        assert_eq!(client.publish("t", "other", Some("new")).expect("an answer").status, 409);
        assert!(broker.stop().success());
    }
}
