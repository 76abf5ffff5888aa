//! Publishers with idempotency keys without end: how many are remembered, and what is left of them.

use std::time::Duration;

use tidings::{
    config::{Config, Engine},
    server::Server,
};

use crate::harness::{
    Stream,
    blocking::{Broker, Client, Directory},
    until,
};

/// Keys for each of the topics.
const KEYS: usize = 1000;
const TOPICS: [&str; 2] = ["a", "b"];

/// Publishes many events under keys to topics that have a subscriber; then looks into the server that `configure` is for.
fn after_many(configure: impl FnOnce(&mut Config), look: impl AsyncFnOnce(&Server)) {
    let log = Directory::new();
    let mut config = Config::default();
    config.server.port = 0;
    config.server.workers = 2;
    config.log.path.clone_from(&log.0);
    config.shutdown.drain = Duration::from_millis(500);
    configure(&mut config);
    actix_web::rt::System::new().block_on(async {
        let server = Server::listen(config).expect("the server starts");
        let _stream = Stream::open(server.address(), "/subscribe?topic=a&topic=b", &[]).await;
        let mut client = Client::connect(server.address()).expect("a connection");
        for n in 0..KEYS {
            for topic in TOPICS {
                publish(&mut client, topic, &n.to_string());
            }
        }
        look(&server).await;
        for topic in TOPICS {
            let topic = server.topics().find(topic).expect("it lives");
            assert_eq!(topic.subscribers(), 1, "it was in use all the time");
        }
        server.shutdown().await;
    });
}

/// Publishes under a key, always the same event; whether that was a retry.
fn publish(client: &mut Client, topic: &str, key: &str) -> bool {
    let answer = client.publish(topic, "content", Some(key)).expect("an answer");
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer.replayed()
}

#[test]
fn keys_are_forgotten_after_the_window_though_nobody_asks() {
    // Goal: of topics that live on, without another publish to them.
    for engine in [Engine::Memory, Engine::Disk] {
        let configure = |config: &mut Config| {
            config.log.engine = engine;
            config.publish.idempotency_window = Duration::from_secs(1);
        };
        after_many(configure, async |server| {
            until("the keys to go", async || server.log().keys() == 0).await;
        });
    }
}

#[test]
fn keys_are_remembered_for_as_long_as_the_window() {
    // The control: it is the window that makes the difference, not the round in which they are looked after.
    after_many(
        |config| config.log.engine = Engine::Memory,
        async |server| {
            drop(Stream::open(server.address(), "/subscribe?topic=passing", &[]).await);
            until("a round of the server", async || server.topics().find("passing").is_none()).await;
            assert_eq!(server.log().keys(), TOPICS.len() * KEYS);
        },
    );
}

#[test]
fn past_the_most_keys_of_all_topics_the_oldest_of_all_is_forgotten() {
    // Goal: as many as `limits.idempotency_keys_max` are remembered, whichever topics they are of; one more costs the oldest
    // of all, which another topic may have, and no other. Nobody is refused.
    let directory = Directory::new();
    let broker = Broker::disk(&directory, &[("LIMITS__IDEMPOTENCY_KEYS_MAX", "5")]);
    let mut client = broker.client();
    let used = [("a", "1"), ("b", "1"), ("b", "2"), ("a", "2"), ("c", "1")];
    for (topic, key) in used {
        assert!(!publish(&mut client, topic, key));
    }
    for (topic, key) in used {
        assert!(publish(&mut client, topic, key), "key {key} of {topic} is within the limit");
    }
    assert!(!publish(&mut client, "c", "2"), "the one past it");
    for (topic, key) in [("b", "1"), ("b", "2"), ("a", "2"), ("c", "1"), ("c", "2")] {
        assert!(publish(&mut client, topic, key), "key {key} of {topic} is not the oldest");
    }
    assert!(!publish(&mut client, "a", "1"), "the oldest of all has made room");
    assert!(!publish(&mut client, "b", "1"), "and for its retry the next one has");
    assert!(publish(&mut client, "a", "2"));
}

#[test]
fn keys_from_before_a_restart_count_and_the_newest_are_kept() {
    // Goal: the limit is one for both; a topic that nobody has used since the start makes room like any other.
    let directory = Directory::new();
    let broker = Broker::disk(&directory, &[]);
    let mut client = broker.client();
    // One after the other: each is of a later millisecond than the one before, or of the same and a later position.
    for (topic, key) in [("a", "1"), ("b", "1"), ("c", "1"), ("d", "1"), ("a", "2")] {
        assert!(!publish(&mut client, topic, key));
    }
    assert!(broker.stop().success());
    let broker = Broker::disk(&directory, &[("LIMITS__IDEMPOTENCY_KEYS_MAX", "4")]);
    let mut client = broker.client();
    assert!(publish(&mut client, "b", "1"), "among the newest");
    assert!(!publish(&mut client, "a", "1"), "the oldest before the restart");
    assert!(!publish(&mut client, "b", "1"), "it was the next to make room");
    for (topic, key) in [("d", "1"), ("a", "2"), ("a", "1"), ("b", "1")] {
        assert!(publish(&mut client, topic, key), "key {key} of {topic} is within the limit");
    }
    assert!(!publish(&mut client, "c", "1"), "nobody had used its topic");
    assert!(broker.stop().success());
    // The control: without that limit, the first process' keys are all there.
    let broker = Broker::disk(&directory, &[]);
    let mut client = broker.client();
    for (topic, key) in [("a", "1"), ("b", "1"), ("c", "1"), ("d", "1"), ("a", "2")] {
        assert!(publish(&mut client, topic, key), "key {key} of {topic} is in the file");
    }
}

#[test]
fn a_busy_topic_costs_no_other_topic_its_keys_over_a_restart() {
    // Goal: a topic that has more keys in the file than it may have gets back its newest ones only, and the others have
    // the rest of the room: a retry that is found before the restart is found after it.
    let settings = [("PUBLISH__IDEMPOTENCY_KEYS_MAX", "3"), ("LIMITS__IDEMPOTENCY_KEYS_MAX", "5")];
    let directory = Directory::new();
    let mut broker = Broker::disk(&directory, &settings);
    let mut client = broker.client();
    for (topic, key) in [("c", "1"), ("b", "1"), ("b", "2")] {
        assert!(!publish(&mut client, topic, key));
    }
    for key in ["1", "2", "3", "4", "5", "6", "7", "8"] {
        assert!(!publish(&mut client, "busy", key));
    }
    for life in 1..=2 {
        for (topic, key) in [("b", "1"), ("b", "2"), ("busy", "6"), ("busy", "7"), ("busy", "8")] {
            assert!(publish(&mut client, topic, key), "key {key} of {topic} in process {life}");
        }
        assert!(broker.stop().success());
        broker = Broker::disk(&directory, &settings);
        client = broker.client();
    }
    // The control: the limit of all topics holds, so the sixth by age is not there.
    assert!(!publish(&mut client, "c", "1"));
    assert!(!publish(&mut client, "b", "1"), "it was the next to make room");
}

#[test]
fn a_deletion_forgets_the_keys_of_a_topic_that_there_is_no_room_for() {
    // Goal: after a restart, where no topic may be started for the deletion, as where one may.
    let directory = Directory::new();
    let broker = Broker::disk(&directory, &[]);
    assert!(!publish(&mut broker.client(), "a", "1"));
    assert!(broker.stop().success());
    let broker = Broker::disk(&directory, &[("LIMITS__TOPICS_MAX", "1"), ("STREAM__GONE", "0s")]);
    let mut client = broker.client();
    let _stream = Client::subscribe(broker.address, "topic=other", None).expect("a stream");
    assert_eq!(client.request("DELETE", "/topics/a", "", "").expect("an answer").status, 204);
    assert!(!publish(&mut client, "a", "1"));
    assert!(publish(&mut client, "a", "1"));
}
