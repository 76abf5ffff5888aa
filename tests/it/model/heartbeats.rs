//! What an idle stream is sent, and when.

use std::time::Duration;

use tidings::{config::Size, frame::Format, frame::Marks, log::Start};

use super::{
    found::{OPEN, publish, replay_with},
    world::{HEARTBEAT, Manners, World},
};

fn pass(world: &mut World, time: Duration) -> Result<(), String> {
    world.now.clock.set(world.now.clock.get() + time);
    world.turn(0, usize::MAX).map(drop)
}

/// The ids and the comments that the only client has been sent.
fn ids_and_comments(world: &World) -> (usize, usize) {
    (world.clients[0].fields("id"), world.clients[0].fields(""))
}

#[test]
fn a_heartbeat_tells_a_position_once_and_only_where_it_is_asked_for() -> Result<(), String> {
    // Goal: some clients take an id without data for an empty message, so there are no more of them than needed.
    for (marks, first, second) in
        [(Marks::Id, (1, 0), (1, 1)), (Marks::Event, (0, 1), (0, 2)), (Marks::None, (0, 1), (0, 2))]
    {
        replay_with(9, Size::mib(1), |world| {
            world.subscribe(&[0], Format::Plain, &Start::Live, Manners { marks, ..OPEN })?;
            world.turn(0, usize::MAX)?;
            let (ids, comments) = ids_and_comments(world);
            let since = |world: &World| {
                let now = ids_and_comments(world);
                (now.0 - ids, now.1 - comments)
            };
            publish(world, 1, 1)?;
            pass(world, HEARTBEAT.saturating_sub(Duration::from_millis(1)))?;
            assert_eq!(since(world), (0, 0), "none is due");
            pass(world, Duration::from_millis(1))?;
            assert_eq!(since(world), first, "{marks:?}, the first one");
            pass(world, HEARTBEAT)?;
            assert_eq!(since(world), second, "{marks:?}, the second one");
            world.settle()
        })?;
    }
    Ok(())
}

#[test]
fn an_event_takes_the_place_of_a_heartbeat() -> Result<(), String> {
    // Goal: one that comes at the moment when a heartbeat is due shows that the stream lives.
    replay_with(9, Size::mib(1), |world| {
        world.subscribe(&[0], Format::Plain, &Start::Live, Manners { marks: Marks::None, ..OPEN })?;
        world.turn(0, usize::MAX)?;
        let (_, comments) = ids_and_comments(world);
        publish(world, 0, 1)?;
        pass(world, HEARTBEAT)?;
        assert_eq!(ids_and_comments(world), (1, comments));
        pass(world, HEARTBEAT)?;
        assert_eq!(ids_and_comments(world), (1, comments + 1));
        world.settle()
    })
}

#[test]
fn a_heartbeat_tells_the_position_of_a_notice_and_not_that_of_an_event() -> Result<(), String> {
    // Goal: an event tells its own position. The notice of a deletion has none, and its client comes back from before it.
    replay_with(9, Size::mib(1), |world| {
        world.subscribe(&[0, 1], Format::Plain, &Start::Live, OPEN)?;
        world.turn(0, usize::MAX)?;
        publish(world, 0, 1)?;
        world.turn(0, usize::MAX)?;
        let (ids, comments) = ids_and_comments(world);
        pass(world, HEARTBEAT)?;
        assert_eq!(ids_and_comments(world), (ids, comments + 1), "after an event");
        world.delete(1)?;
        world.turn(0, usize::MAX)?;
        pass(world, HEARTBEAT)?;
        assert_eq!(ids_and_comments(world), (ids + 1, comments + 1), "after a notice");
        world.settle()
    })
}

#[test]
fn the_rest_of_a_heartbeat_goes_out_with_the_next_event() -> Result<(), String> {
    // Goal: the socket takes a part of a heartbeat; when all of it is sent nothing is kept of it.
    replay_with(9, Size::mib(1), |world| {
        world.subscribe(&[0], Format::Plain, &Start::Live, OPEN)?;
        world.turn(0, usize::MAX)?;
        world.clients[0].pipe.borrow_mut().make_room(1);
        pass(world, HEARTBEAT)?;
        publish(world, 0, 1)?;
        world.settle()
    })
}
