//! Rights that end, commands, and lists.

use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::sync::oneshot;

use super::*;
use crate::{
    config::StreamConfig,
    frame::{Format, Marks},
};
use world::{Plan, World, text, topic};

mod world;

#[test]
fn a_stream_ends_when_its_right_ends_and_says_so() {
    // Goal: at the moment itself, in every format; with the notice last, and a clean end.
    for (format, marks) in [
        (Format::Plain, Marks::Event),
        (Format::Plain, Marks::Id),
        (Format::Envelope, Marks::None),
        (Format::Lines, Marks::Event),
    ] {
        let mut world = World::new();
        let (start, right) = (world.now, Some(world.right("s", Some(10))));
        let tap = world.subscribe(&Plan { format, marks, right, ..World::plan() });
        let id = world.publish("a", "before");
        world.turn(9_999);
        assert!(text(&tap).contains("before") && !tap.borrow().closed);
        assert_eq!(world.streams.next_deadline(), Some(start + Duration::from_secs(10)));
        let late = world.publish("a", "after");
        world.turn(1);
        let (text, tap) = (text(&tap), tap.borrow());
        assert!(tap.finished && tap.closed && tap.bytes.ends_with(b"0\r\n\r\n"), "{text}");
        assert!(!text.contains("after") && !text.contains(&late), "nothing to which there is no right: {text}");
        let notice = text.split_once("broker.unauthorized").expect("the notice").1;
        assert!(notice.contains(r#""code":"unauthorized""#) && text.contains(&id), "{text}");
        if format == Format::Lines {
            assert!(text.lines().last().is_some_and(|line| line.contains(&id)), "{text}");
        } else {
            assert!(notice.ends_with(&format!("\nid: {id}\n\n")), "{text}");
            assert!(text.rsplit_once("retry: ").expect("a time to come back").1.contains("broker.unauthorized"));
        }
    }
}

#[test]
fn a_right_that_has_ended_gives_no_event() {
    // Goal: also in the turn in which the event and the end come together, and to one that arrives too late.
    let mut world = World::new();
    let right = Some(world.right("s", Some(1)));
    let plan = Plan { right, ..World::plan() };
    let tap = world.subscribe(&plan);
    world.turn(0);
    world.publish("a", "secret");
    world.turn(1_000);
    assert!(text(&tap).contains("broker.unauthorized") && !text(&tap).contains("secret"));
    let late = world.subscribe(&plan);
    world.publish("a", "secret");
    world.turn(0);
    assert!(text(&late).contains("broker.unauthorized") && !text(&late).contains("secret") && late.borrow().finished);
    let other = world.subscribe(&World::plan());
    world.publish("a", "public");
    world.turn(0);
    assert!(text(&other).contains("public") && !other.borrow().closed, "no other stream is concerned");
}

#[test]
fn a_client_that_takes_its_last_bytes_one_by_one_is_cut() {
    // Goal: neither a full socket nor one that accepts a byte now and then keeps an ended stream for longer than the
    // write timeout.
    for drips in [false, true] {
        let mut world = World::new();
        let right = Some(world.right("s", Some(1)));
        let tap = world.subscribe(&Plan { right, room: 100, ..World::plan() });
        world.publish("a", &"x".repeat(1000));
        world.turn(900);
        assert_eq!(tap.borrow().bytes.len(), 100, "its socket is full");
        let mut waited = 0;
        while !tap.borrow().closed {
            world.turn(100);
            waited += 100;
            if drips {
                tap.borrow_mut().room = 1;
                world.streams.writable(0);
            }
            assert!(waited <= 7_000, "it is still there");
        }
        let tap = tap.borrow();
        assert!(!tap.finished, "it was cut");
        assert!((5_000..=6_200).contains(&waited), "{waited} ms after it should have ended, drips: {drips}");
        assert_eq!(tap.bytes.len() > 100, drips);
    }
}

#[test]
fn a_client_that_is_in_the_middle_of_an_event_gets_its_rest_and_the_notice() {
    // Goal: the notice is not inside of an event, and its id is the event's.
    let mut world = World::new();
    let tap = world.subscribe(&Plan { right: Some(world.right("s", None)), room: 100, ..World::plan() });
    let id = world.publish("a", &"x".repeat(1000));
    world.publish("a", "later");
    world.turn(0);
    let mut answer = world.end_where("s", End::Unauthorized);
    world.turn(0);
    assert_eq!(answer.try_recv().expect("it is done"), 1);
    assert!(!tap.borrow().closed);
    tap.borrow_mut().room = usize::MAX;
    world.streams.writable(0);
    world.turn(0);
    let text = text(&tap);
    assert!(text.contains(&format!("{}\nid: {id}\n\nretry: ", "x".repeat(1000))), "{text}");
    assert!(text.ends_with(&format!("\nid: {id}\n\n")) && !text.contains("later"), "{text}");
    assert!(tap.borrow().finished);
}

#[test]
fn the_deletion_of_the_only_topic_comes_first() {
    // Goal: a client whose stream ends for both reasons is told of the deletion: with the notice alone its cursor would
    // pass over it.
    let mut world = World::new();
    let tap = world.subscribe(&Plan { right: Some(world.right("s", Some(1))), ..World::plan() });
    world.turn(0);
    world.log.delete(&topic("a")).now_or_never().expect("now").expect("it is deleted");
    world.turn(1_000);
    let text = text(&tap);
    assert!(text.contains("broker.deleted") && !text.contains("broker.unauthorized"), "{text}");
    assert!(tap.borrow().finished);
}

#[test]
fn an_ended_stream_gets_an_id_that_says_how_long_to_stay_away() {
    let mut world = World::new();
    let tap = world.subscribe(&World::plan());
    let id = world.publish("a", "one");
    world.turn(0);
    let [listed] = *world.list("a", None, 9) else { panic!("one subscriber") };
    let before = wall_ms();
    assert!(world.end(listed) && !world.end(listed), "once");
    let text = text(&tap);
    let last = text.trim_end().rsplit_once("\nid: ").expect("an id").1;
    let stop = StopId::parse(last).expect("a stop");
    assert_eq!(stop.id.to_string(), id);
    let gone = u64::try_from(StreamConfig::default().gone.as_millis()).expect("a number");
    assert!((before + gone..=wall_ms() + gone).contains(&stop.until_ms));
    assert!(text.contains("event: broker.ended\ndata: {") && tap.borrow().finished, "{text}");
}

#[test]
fn a_list_has_the_subscribers_of_the_topic_in_order_and_in_pages() {
    // Goal: over all encodings, alone or with other topics; without those whose stream ends, and each once.
    let mut world = World::new();
    let mut taps = Vec::new();
    for n in 0..40 {
        let format = [Format::Plain, Format::Envelope, Format::Lines][n % 3];
        let topics: &[&str] = [&["a"][..], &["a", "b"], &["b"], &["c", "a"]][n % 4];
        // Every fifth is full, so that it cannot end at once.
        let room = if n % 5 == 0 { 0 } else { usize::MAX };
        taps.push(world.subscribe(&Plan { topics, format, room, ..World::plan() }));
    }
    world.turn(0);
    let all = world.list("a", None, 100);
    assert!(all.len() == 30 && all.is_sorted_by(|a, b| a < b), "{all:?}");
    for limit in [1, 7, 29, 30, 31] {
        let (mut pages, mut after) = (Vec::new(), None);
        loop {
            let page = world.list("a", after, limit);
            let Some(last) = page.last() else { break };
            assert!(page.len() <= limit);
            after = Some(*last);
            pages.extend(page);
        }
        assert_eq!(pages, all, "in pages of {limit}");
    }
    let (full, open): (Vec<StreamId>, Vec<StreamId>) = all.iter().partition(|id| id.key % 5 == 0);
    assert!(full.iter().all(|id| world.end(*id)));
    assert_eq!(world.list("a", None, 100), open, "they are ending");
    assert_eq!(world.list("a", None, 5).len(), 5);
    assert_eq!(world.list("b", None, 100).len(), 20 - full.iter().filter(|id| id.key % 4 == 1).count());
    assert_eq!(world.list("elsewhere", None, 100), []);
    let id = open[0];
    assert!(!world.end(StreamId { salt: id.salt ^ 1, ..id }), "another stream had the key before");
    assert!(!world.end(StreamId { key: 1_000, ..id }));
}

#[test]
fn a_subscriber_that_is_found_has_its_topics_and_its_cursor() {
    let mut world = World::new();
    world.subscribe(&Plan { topics: &["a", "b"], ..World::plan() });
    let id = world.publish("b", "one");
    world.turn(0);
    let [listed] = *world.list("b", None, 9) else { panic!("one subscriber") };
    let find = |world: &mut World, id| {
        let (answer, mut answered) = oneshot::channel();
        world.streams.command(Command::Find(id, answer));
        answered.try_recv().expect("an answer")
    };
    let (found, topics) = find(&mut world, listed).expect("it is there");
    assert_eq!((found.id, found.cursor.to_string(), topics), (listed, id, vec![topic("a"), topic("b")]));
    assert!(found.since.elapsed().is_ok_and(|since| since < Duration::from_mins(1)));
    assert!(find(&mut world, StreamId { salt: listed.salt ^ 1, ..listed }).is_none());
}

#[test]
fn many_streams_end_in_steps_and_those_of_others_stay() {
    // Goal: a command for all connections, or rights that end together, do not hold up the other connections.
    for at_once in [false, true] {
        let mut world = World::new();
        let ended = Plan { right: Some(world.right("ended", at_once.then_some(1))), ..World::plan() };
        let stays = Plan { right: Some(world.right("stays", None)), ..World::plan() };
        let taps: Vec<_> = (0..1000).map(|n| world.subscribe(if n % 2 == 0 { &ended } else { &stays })).collect();
        let anonymous = world.subscribe(&World::plan());
        world.turn(0);
        let closed = || taps.iter().filter(|tap| tap.borrow().closed).count();
        let mut answer = None;
        if at_once {
            world.begin_turn(1_000);
            assert!((1..=64).contains(&closed()), "{} at once", closed());
        } else {
            answer = Some(world.end_where("ended", End::Unauthorized));
            assert_eq!(closed(), 0);
        }
        while world.streams.has_work() {
            assert!(world.streams.has_slow_work() && !world.streams.is_work_small(), "a step may take long");
            let before = closed();
            world.streams.step();
            assert!(closed() <= before + 16, "{} in one step", closed() - before);
        }
        assert_eq!(closed(), 500);
        assert!(taps.iter().step_by(2).all(|tap| text(tap).contains("broker.unauthorized")));
        assert!(!anonymous.borrow().closed && world.streams.len() == 501);
        if let Some(mut answer) = answer {
            assert_eq!(answer.try_recv().expect("it is done"), 500);
        }
    }
}

#[test]
fn a_stream_that_arrives_during_a_walk_ends_if_its_right_is_older() {
    // Goal: no stream slips through between the check of its right and the hub, and one with a newer right stays.
    let mut world = World::new();
    let old = Plan { right: Some(world.right("s", None)), ..World::plan() };
    let taps: Vec<_> = (0..300).map(|_| world.subscribe(&old)).collect();
    world.turn(0);
    let mut answer = world.end_where("s", End::Ended);
    world.streams.step();
    let late = world.subscribe(&old);
    world.now += Duration::from_millis(1);
    // It gets the key of a connection that the walk has passed, and others that it has not.
    let new = Plan { right: Some(world.right("s", None)), ..World::plan() };
    let newer: Vec<_> = (0..100).map(|_| world.subscribe(&new)).collect();
    world.turn(0);
    assert!(text(&late).contains("broker.ended") && late.borrow().closed);
    assert!(taps.iter().all(|tap| tap.borrow().closed));
    assert!(newer.iter().all(|tap| !tap.borrow().closed), "their right was checked after the command");
    assert_eq!(answer.try_recv().expect("it is done"), 300);
    let later = world.subscribe(&old);
    assert!(later.borrow().closed, "also when the walk is over");
}
