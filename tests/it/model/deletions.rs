//! Deletions, as streams of several topics are told of them.

use tidings::{config::Size, frame::Format, log::Start};

use super::{
    found::{OPEN, publish, replay_with},
    world::{Manners, UNSENT_MAX, World},
};

#[test]
fn a_stream_ends_with_the_last_of_many_topics() -> Result<(), String> {
    // Goal: when each of its topics is deleted nothing is left to wait for, and not before.
    replay_with(9, Size::mib(1), |world| {
        world.subscribe(&[0, 1, 2], Format::Plain, &Start::Live, OPEN)?;
        world.turn(0, usize::MAX)?;
        for topic in 0..3 {
            assert_eq!(world.clients.len(), 1, "topic {topic} is left");
            world.delete(topic)?;
            world.finish()?;
        }
        assert_eq!(world.left.len(), 1, "all are deleted");
        world.settle()
    })
}

#[test]
fn a_stream_goes_on_with_a_topic_that_lives_again() -> Result<(), String> {
    // Goal: the feed has lost both deletions and the event between them: only the log knows that there is one.
    replay_with(9, Size::mib(1), |world| {
        world.subscribe(&[0, 1], Format::Plain, &Start::Live, OPEN)?;
        world.turn(0, usize::MAX)?;
        world.delete(0)?;
        publish(world, 0, 1)?;
        world.delete(1)?;
        world.turn(3, usize::MAX)?;
        world.finish()?;
        assert_eq!(world.clients.len(), 1, "it is still of use");
        world.settle()
    })
}

#[test]
fn a_notice_that_was_sent_in_part_is_made_again() -> Result<(), String> {
    // Goal: what was kept of it had to make room for a large event: the rest comes out of the log.
    replay_with(9, Size::mib(1), |world| {
        world.subscribe(&[0, 1], Format::Plain, &Start::Live, OPEN)?;
        world.turn(0, usize::MAX)?;
        take_one_byte(world, 0);
        world.delete(0)?;
        world.turn(0, usize::MAX)?;
        world.subscribe(&[2], Format::Plain, &Start::Live, Manners { room: 1, ..OPEN })?;
        world.publish(2, None, &"x".repeat(UNSENT_MAX), 1)?;
        world.turn(0, usize::MAX)?;
        world.settle()?;
        assert_eq!(world.clients.len(), 2, "both go on");
        Ok(())
    })
}

fn take_one_byte(world: &World, client: usize) {
    world.clients[client].pipe.borrow_mut().make_room(1);
}
