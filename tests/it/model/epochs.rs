//! Histories that end while the hub goes on, each with what it could do to a subscriber.

use std::time::Duration;

use tidings::{
    config::LogConfig,
    frame::{Format, Framing, Marks},
    log::Start,
};

use super::{
    engine::Engine,
    fault::Fault,
    found::OPEN,
    world::{Manners, NEXT, World},
};

fn remote() -> World {
    let retention = LogConfig { age_max: Duration::ZERO, ..LogConfig::default() };
    World::new(Engine::Remote, &retention, Fault::None)
}

/// Each way to mark a position, in each framing.
fn manners() -> impl Iterator<Item = Manners> {
    [Marks::Event, Marks::Id, Marks::None]
        .into_iter()
        .flat_map(|marks| [Framing::Chunked, Framing::Close].map(|framing| Manners { framing, marks, ..OPEN }))
}

/// Whether the only stream that has ended did so cleanly. It must have been given nothing of the next history.
fn ended_cleanly(world: &World) -> Result<bool, String> {
    let [client] = &world.left[..] else { return Err(format!("{} streams have ended", world.left.len())) };
    let mut pipe = client.pipe.borrow_mut();
    let (given, _) = pipe.read();
    if String::from_utf8_lossy(&given).contains(NEXT) {
        return Err("it was given events of the next history".to_owned());
    }
    if pipe.dropped { Ok(pipe.finished) } else { Err("the stream goes on".to_owned()) }
}

/// The only client comes back, is told that there is another history, and gets all of it.
fn comes_back(world: &mut World) -> Result<(), String> {
    // That the gap is told is checked where it is placed.
    world.resume(0, true, OPEN)?;
    world.publish(0, None, "next", 2)?;
    world.settle()?;
    let tail = world.id(true, world.history.watermark).to_string();
    if world.clients[0].last_id() == tail { Ok(()) } else { Err("it is not at the tail".to_owned()) }
}

#[test]
fn the_streams_of_a_history_that_has_ended_end_and_are_told() -> Result<(), String> {
    // Goal: whether a stream has everything, waits for a page, has a backlog or is on its way to the hub.
    for manners in manners() {
        for (published, turns) in [(0, 2), (3, 2), (3, 1), (3, 0)] {
            for events in [0, 1, 5] {
                let mut world = remote();
                world.publish(0, None, "content", published)?;
                world.subscribe(&[0, 1], Format::Plain, &Start::All, manners)?;
                world.delay = 1;
                for _ in 0..turns {
                    world.turn(0, usize::MAX)?;
                }
                world.end_epoch(events)?;
                world.finish()?;
                let told = |error| format!("{manners:?}, {published} in {turns}, then {events}: {error}");
                if !ended_cleanly(&world).map_err(told)? {
                    return Err(told("it was cut".to_owned()));
                }
                comes_back(&mut world).map_err(told)?;
            }
        }
    }
    Ok(())
}

#[test]
fn an_event_is_not_completed_with_one_of_the_next_history() -> Result<(), String> {
    // Goal: a stream that has an event in part is cut, and another one is given the event that has its position now.
    for manners in manners() {
        let mut world = remote();
        world.publish(0, None, &"x".repeat(2000), 1)?;
        world.subscribe(&[0], Format::Plain, &Start::All, Manners { room: 1000, ..manners })?;
        world.finish()?;
        world.end_epoch(1)?;
        world.subscribe(&[0], Format::Plain, &Start::All, manners)?;
        world.finish()?;
        assert!(!ended_cleanly(&world)?, "the rest of the event is not there any more");
        world.settle()?;
        comes_back(&mut world)?;
    }
    Ok(())
}

#[test]
fn a_page_of_the_history_before_is_not_taken() -> Result<(), String> {
    // Goal: one that was read before the end and comes after it, and one that is asked for before the feed has told.
    for delay in 0..3 {
        for idle in [false, true] {
            let mut world = remote();
            world.publish(0, None, "content", 3)?;
            world.subscribe(&[0], Format::Plain, &Start::All, OPEN)?;
            world.delay = delay;
            world.turn(0, if idle { 0 } else { usize::MAX })?;
            world.end_epoch(5)?;
            if idle {
                world.idle_turn(usize::MAX)?;
                world.idle_turn(usize::MAX)?;
            }
            world.finish()?;
            ended_cleanly(&world)?;
            comes_back(&mut world)?;
        }
    }
    Ok(())
}

#[test]
fn a_deletion_of_the_history_before_ends_no_stream_of_the_next() -> Result<(), String> {
    // Goal: one that the hub has not told its streams of yet when the history ends.
    let mut world = remote();
    world.publish(0, None, "content", 3)?;
    world.subscribe(&[0], Format::Plain, &Start::Live, OPEN)?;
    world.turn(0, usize::MAX)?;
    world.delete(0)?;
    world.turn(0, 0)?;
    world.end_epoch(2)?;
    world.subscribe(&[0], Format::Plain, &Start::All, OPEN)?;
    world.settle()?;
    assert_eq!(world.clients.len(), 1, "it is of the next history");
    Ok(())
}
