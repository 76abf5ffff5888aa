//! The hub and the log, driven by random histories and held against a plain model.
//!
//! How many: `TIDINGS_TEST_CASES`. How long it looks for a shorter one that fails, too: `TIDINGS_TEST_SHRINKS`.

use std::time::Duration;

use proptest::{
    collection::vec,
    prelude::{Just, Strategy, any, prop_oneof},
    sample::Index,
    strategy::ValueTree as _,
    test_runner::{Config, TestCaseError, TestRunner},
};
use tidings::{
    config::{LogConfig, Size},
    frame::{Format, Framing, Marks},
    log::Start,
};

mod client;
mod coalesce;
mod cold;
mod deletions;
mod ending;
mod engine;
mod epochs;
mod fault;
mod found;
mod heartbeats;
mod history;
mod peer;
mod rounds;
mod world;

use crate::harness::{nats, tools::left_out};

pub use client::normalised;
use engine::{End, Engine};
use fault::Fault;
use world::{Manners, TOPICS, World};

/// One thing that happens. Clients are chosen among those that there are.
#[derive(Clone, Debug)]
enum Step {
    Publish {
        topic: usize,
        name: usize,
        content: usize,
        times: usize,
    },
    Subscribe {
        topics: Vec<bool>,
        format: Format,
        start: From,
        manners: Manners,
    },
    Resume {
        client: Index,
        deletions_are_remembered: bool,
        manners: Manners,
    },
    Turn {
        lost: usize,
        visits: usize,
    },
    IdleTurn {
        visits: usize,
    },
    Room {
        client: Index,
        bytes: usize,
    },
    Break {
        client: Index,
    },
    HangUp {
        client: Index,
    },
    Chatter {
        client: Index,
        bytes: usize,
    },
    /// An operator ends its stream.
    End {
        client: Index,
    },
    Delete {
        topic: usize,
    },
    Clock {
        milliseconds: u64,
    },
    /// From now on a page takes as many turns from the disk to the hub.
    Delay {
        turns: usize,
    },
    Restart {
        end: End,
    },
    /// The history ends, and the next one begins with as many events.
    EndEpoch {
        events: usize,
    },
}

/// Where a subscription asks to begin, before it is known what there is.
#[derive(Clone, Debug)]
enum From {
    Live,
    All,
    Last(usize),
    Since(u64),
    Unreadable,
    /// After one of the positions that there are, or two past them.
    Position(Index),
    /// After a position of another history.
    Foreign(u64),
}

const NAMES: [Option<&str>; 5] = [None, Some("tick"), Some(" data: x"), Some("事件\u{2028}"), Some("broken.gap")];

/// Contents short and awkward; the last one is larger than what one read of the log asks for.
fn content(kind: usize) -> String {
    const SHORT: [&str; 12] = [
        "",
        "a",
        "\n",
        "\r",
        "\r\n",
        "two\nlines",
        "id: 1\r\rdata: 2",
        " lead",
        "\n\r\n\r",
        "{\"a\":1}",
        "\u{feff}ä\u{2028}\0",
        ":",
    ];
    SHORT
        .get(kind)
        .map_or_else(|| "x".repeat(if kind == SHORT.len() { 700 } else { 70_000 }), |&short| short.to_owned())
}

fn manners() -> impl Strategy<Value = Manners> {
    let room = prop_oneof![3 => Just(usize::MAX), 1 => 0..400_usize];
    let gulp = prop_oneof![3 => Just(usize::MAX), 1 => 1..200_usize];
    let right = prop_oneof![5 => Just(None), 1 => (0..4_000_u64).prop_map(|ms| Some(Duration::from_millis(ms)))];
    let lifetime = prop_oneof![4 => Just(None), 1 => (0..4_000_u64).prop_map(|ms| Some(Duration::from_millis(ms)))];
    let framing = prop_oneof![3 => Just(Framing::Chunked), 1 => Just(Framing::Close)];
    let marks = prop_oneof![2 => Just(Marks::Event), 2 => Just(Marks::Id), 1 => Just(Marks::None)];
    (room, gulp, lifetime, right, framing, marks).prop_map(|(room, gulp, lifetime, right, framing, marks)| Manners {
        room,
        gulp,
        lifetime,
        right,
        framing,
        marks,
    })
}

fn from() -> impl Strategy<Value = From> {
    prop_oneof![
        3 => Just(From::Live),
        2 => Just(From::All),
        2 => (0..8_usize).prop_map(From::Last),
        1 => prop_oneof![Just(0), Just(u64::MAX)].prop_map(From::Since),
        1 => Just(From::Unreadable),
        4 => any::<Index>().prop_map(From::Position),
        1 => (0..9_u64).prop_map(From::Foreign),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let format = prop_oneof![2 => Just(Format::Plain), 1 => Just(Format::Envelope), 1 => Just(Format::Lines)];
    let content = prop_oneof![40 => 0..13_usize, 1 => Just(13)];
    let client = any::<Index>;
    let visits = || prop_oneof![2 => Just(usize::MAX), 1 => 1..6_usize];
    prop_oneof![
        16 => (0..TOPICS, 0..NAMES.len(), content, 1..5_usize)
            .prop_map(|(topic, name, content, times)| Step::Publish { topic, name, content, times }),
        6 => (vec(any::<bool>(), TOPICS), format, from(), manners())
            .prop_map(|(topics, format, start, manners)| Step::Subscribe { topics, format, start, manners }),
        4 => (client(), any::<bool>(), manners()).prop_map(|(client, deletions_are_remembered, manners)| {
            Step::Resume { client, deletions_are_remembered, manners }
        }),
        12 => visits().prop_map(|visits| Step::Turn { lost: 0, visits }),
        1 => (1..9_usize, visits()).prop_map(|(lost, visits)| Step::Turn { lost, visits }),
        2 => visits().prop_map(|visits| Step::IdleTurn { visits }),
        8 => (client(), prop_oneof![Just(0), Just(usize::MAX), 1..300_usize])
            .prop_map(|(client, bytes)| Step::Room { client, bytes }),
        1 => client().prop_map(|client| Step::Break { client }),
        3 => client().prop_map(|client| Step::HangUp { client }),
        1 => (client(), prop_oneof![3 => Just(100), 1 => Just(70_000)])
            .prop_map(|(client, bytes)| Step::Chatter { client, bytes }),
        1 => client().prop_map(|client| Step::End { client }),
        1 => (0..TOPICS).prop_map(|topic| Step::Delete { topic }),
        3 => (1..1_500_u64).prop_map(|milliseconds| Step::Clock { milliseconds }),
        2 => (0..5_usize).prop_map(|turns| Step::Delay { turns }),
        1 => prop_oneof![Just(End::Ordered), Just(End::Killed)].prop_map(|end| Step::Restart { end }),
        1 => (0..4_usize).prop_map(|events| Step::EndEpoch { events }),
    ]
}

/// Small limits, so that what is not read soon is gone: by count, by bytes of a topic, by bytes of all. And little
/// memory for those that keep some of it elsewhere.
fn retention() -> impl Strategy<Value = LogConfig> {
    let bytes = || prop_oneof![1 => 300..3_000_u64, 1 => Just(1 << 30)].prop_map(Size::new);
    let hot = prop_oneof![1 => Just(0), 2 => 0..3_000_u64].prop_map(Size::new);
    (1..9_usize, bytes(), bytes(), hot).prop_map(|(topic_events_max, topic_bytes_max, bytes_max, hot_bytes_max)| {
        LogConfig {
            topic_events_max,
            topic_bytes_max,
            bytes_max,
            hot_bytes_max,
            age_max: Duration::ZERO,
            ..LogConfig::default()
        }
    })
}

fn apply(world: &mut World, step: &Step) -> Result<(), String> {
    let client = |world: &World, index: &Index| (!world.clients.is_empty()).then(|| index.index(world.clients.len()));
    match step {
        Step::Publish { topic, name, content: kind, times } => {
            world.publish(*topic, NAMES[*name], &content(*kind), *times)
        }
        Step::Subscribe { topics, format, start, manners } => {
            let topics: Vec<usize> = (0..TOPICS).filter(|topic| topics[*topic]).collect();
            let start = start_of(world, start);
            if topics.is_empty() { Ok(()) } else { world.subscribe(&topics, *format, &start, *manners) }
        }
        Step::Resume { client, deletions_are_remembered, manners } if !world.left.is_empty() => {
            world.resume(client.index(world.left.len()), *deletions_are_remembered, *manners)
        }
        Step::Turn { lost, visits } => world.turn(*lost, *visits).map(drop),
        Step::IdleTurn { visits } => world.idle_turn(*visits).map(drop),
        Step::Delete { topic } => world.delete(*topic),
        Step::Clock { milliseconds } => {
            world.now.clock.set(world.now.clock.get() + Duration::from_millis(*milliseconds));
            Ok(())
        }
        Step::Delay { turns } => {
            world.delay = *turns;
            Ok(())
        }
        Step::Restart { end } => world.restart(*end),
        Step::EndEpoch { events } => world.end_epoch(*events),
        Step::Room { client: index, .. }
        | Step::Break { client: index }
        | Step::HangUp { client: index }
        | Step::End { client: index }
        | Step::Chatter { client: index, .. } => {
            let Some(at) = client(world, index) else { return Ok(()) };
            match step {
                Step::Room { bytes, .. } => world.clients[at].pipe.borrow_mut().make_room(*bytes),
                Step::Break { .. } => world.clients[at].pipe.borrow_mut().broken = true,
                Step::Chatter { bytes, .. } => world.clients[at].pipe.borrow_mut().say(*bytes),
                Step::End { .. } => return world.end(at),
                _ => world.hang_up(at),
            }
            Ok(())
        }
        Step::Resume { .. } => Ok(()),
    }
}

fn start_of(world: &World, from: &From) -> Start {
    match *from {
        From::Live => Start::Live,
        From::All => Start::All,
        From::Last(n) => Start::Last(n),
        From::Since(time) => Start::Since(time),
        From::Unreadable => Start::Unreadable,
        From::Position(at) => Start::After(world.id(true, *at.get(&world.history.positions()))),
        From::Foreign(seq) => Start::After(world.id(false, seq)),
    }
}

fn run(engine: Engine, retention: &LogConfig, steps: &[Step], fault: Fault) -> Result<(), String> {
    let mut world = World::new(engine, retention, fault);
    for (at, step) in steps.iter().enumerate() {
        apply(&mut world, step).map_err(|error| format!("step {at}: {error}"))?;
    }
    world.settle()
}

/// How many cases to run: `default`, or what the environment says.
pub fn cases(default: u32) -> u32 {
    number("TIDINGS_TEST_CASES", default)
}

fn number(variable: &str, default: u32) -> u32 {
    std::env::var(variable).ok().map_or(default, |number| number.parse().expect("a number"))
}

/// Runs random histories; the first that fails, made as short as can be.
fn explore(engine: Engine, cases: u32) -> Result<(), String> {
    let max_shrink_iters = number("TIDINGS_TEST_SHRINKS", 20_000);
    let config = Config { cases, failure_persistence: None, max_shrink_iters, ..Config::default() };
    let histories = (retention(), vec(step(), 1..60));
    let run = |retention: &LogConfig, steps: &[Step]| run(engine, retention, steps, Fault::None);
    TestRunner::new(config)
        .run(&histories, |(retention, steps)| run(&retention, &steps).map_err(TestCaseError::fail))
        .map_err(|error| error.to_string())
}

#[test]
fn every_subscriber_receives_exactly_what_the_model_says() {
    // Goal: in any history each subscriber is given every event of its topics once, in order, or told that it is gone.
    if let Err(error) = explore(Engine::Memory, cases(2_000)) {
        panic!("{error}");
    }
}

#[test]
fn every_subscriber_receives_exactly_what_the_model_says_from_disk_and_over_restarts() {
    // Goal: as above; with pages that come from the disk, soon or late, and processes that end and start again.
    if let Err(error) = explore(Engine::Disk, cases(600)) {
        panic!("{error}");
    }
}

#[test]
fn every_subscriber_receives_exactly_what_the_model_says_from_another_process_and_over_its_histories() {
    // Goal: as above; with pages that always have to be waited for, and histories that end while the hub goes on.
    if let Err(error) = explore(Engine::Remote, cases(1_000)) {
        panic!("{error}");
    }
}

#[test]
fn every_subscriber_receives_exactly_what_the_model_says_from_nats_and_over_restarts() {
    // Goal: as above; with pages that come from NATS, and processes that end and start again on the same stream.
    if let Err(missing) = nats::shared() {
        return left_out(&missing);
    }
    if let Err(error) = explore(Engine::Cluster, cases(150)) {
        panic!("{error}");
    }
}

/// Whether the checks catch `fault`: histories that pass without it fail with it, and for the right reason.
fn is_caught(engine: Engine, fault: Fault) -> bool {
    is_caught_as(engine, fault, "is missing on the way")
}

fn is_caught_as(engine: Engine, fault: Fault, reason: &str) -> bool {
    let mut runner = TestRunner::deterministic();
    let histories = (retention(), vec(step(), 1..60));
    (0..200).any(|_| {
        let (retention, steps) = histories.new_tree(&mut runner).expect("a history").current();
        run(engine, &retention, &steps, Fault::None).is_ok()
            && run(engine, &retention, &steps, fault).is_err_and(|error| error.contains(reason))
    })
}

#[test]
fn a_fan_out_sharded_by_topic_is_caught() {
    // Goal: the checks above can fail: with a feed for each half of the topics a cursor passes over events.
    assert!(is_caught(Engine::Memory, Fault::Sharded));
}

#[test]
fn a_feed_that_swallows_events_is_caught() {
    // Goal: the checks above can fail: a commit that never reaches the hub is missed.
    assert!(is_caught(Engine::Memory, Fault::Swallowed));
}

#[test]
fn a_deletion_that_is_not_told_is_caught() {
    // Goal: the checks above can fail: a deletion has its place in the order, and no cursor passes it in silence.
    assert!(is_caught_as(Engine::Memory, Fault::Undeleted, "it must be told of that"));
}

#[test]
fn a_stream_that_misses_the_next_life_of_a_topic_is_caught() {
    // Goal: the checks above can fail: a stream that goes on is owed what is published to a deleted topic later.
    assert!(is_caught(Engine::Memory, Fault::Orphaned));
}

#[test]
fn a_torn_page_from_the_disk_is_caught() {
    // Goal: the checks above can fail: pages do come from the disk, and what lacks in one is missed.
    assert!(is_caught(Engine::Disk, Fault::Torn));
}
