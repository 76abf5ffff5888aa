//! Rounds, in which the members of a topic are visited a few at a time.

use tidings::{config::Size, frame::Format, log::Start};

use super::{
    found::{OPEN, crowd, lagging, publish, replay_with},
    world::World,
};

#[test]
fn members_that_leave_in_a_round_take_nobody_else_out_of_it() -> Result<(), String> {
    // Goal: of those who have been visited and of those who have not some leave; all others have everything.
    for leavers in [[0, 0], [3, 4], [14, 14], [15, 15], [16, 20], [28, 28], [2, 20], [20, 2]] {
        replay_with(9, Size::mib(1), |world| {
            crowd(world, &[0])?;
            publish(world, 0, 1)?;
            world.turn(0, 2)?;
            assert_eq!(lagging(world), 14, "a turn has visited sixteen");
            for at in leavers {
                world.hang_up(at);
            }
            publish(world, 0, 1)?;
            world.settle()
        })?;
    }
    Ok(())
}

#[test]
fn a_topic_waits_for_a_turn_of_another_and_not_for_a_round() -> Result<(), String> {
    // Goal: with many subscribers a topic does not hold up those of others.
    replay_with(9, Size::mib(1), |world| {
        crowd(world, &[0])?;
        crowd(world, &[0])?;
        world.subscribe(&[1], Format::Plain, &Start::Live, OPEN)?;
        world.finish()?;
        publish(world, 0, 1)?;
        publish(world, 1, 1)?;
        // The first topic has a turn, then the second one.
        world.turn(0, 3)?;
        let last = world.clients.last().ok_or("it is there")?;
        last.at_the_tail(&world.history)?;
        assert_eq!(lagging(world), 60 - 16);
        world.settle()
    })
}

#[test]
fn a_reader_of_old_events_has_a_visit_after_every_few_turns() -> Result<(), String> {
    // Goal: with topics that are always busy it waits, but not for ever, and it does not come before them.
    replay_with(9, Size::mib(1), |world| {
        for _ in 0..10 {
            crowd(world, &[0])?;
        }
        world.publish(1, None, &"x".repeat(100_000), 8)?;
        world.subscribe(&[1], Format::Plain, &Start::All, OPEN)?;
        publish(world, 0, 1)?;
        let room = |world: &World| world.clients.last().map(|client| client.pipe.borrow().room);
        world.turn(0, 1)?;
        for _ in 0..2 {
            let before = room(world);
            world.idle_turn(4)?;
            assert_eq!(room(world), before, "three turns of the topic");
            world.idle_turn(2)?;
            assert_ne!(room(world), before, "and with the fourth a visit");
        }
        world.settle()
    })
}

#[test]
fn a_stream_of_several_topics_has_all_of_what_is_too_much_for_one_write() -> Result<(), String> {
    // Goal: where a write ends, the next one begins.
    replay_with(20, Size::mib(2), |world| {
        world.subscribe(&[0, 1], Format::Plain, &Start::Live, OPEN)?;
        world.finish()?;
        for topic in [0, 1, 0, 1, 0] {
            world.publish(topic, None, &"x".repeat(100_000), 1)?;
        }
        world.settle()
    })
}
