//! Streams that are to end, and have much to get before: they get it in turns, and hold up nobody.

use std::time::Duration;

use tidings::{config::Size, frame::Format, log::Start};

use super::{
    found::{OPEN, crowd, replay_with},
    world::{GRAIN, Manners, World},
};

/// One with a long backlog that is in memory, and is to end; the other streams have no turn meanwhile.
fn ends_with_a_backlog(world: &mut World) -> Result<(), String> {
    world.publish(0, None, &"x".repeat(100_000), 8)?;
    world.subscribe(&[0], Format::Plain, &Start::All, Manners { lifetime: Some(Duration::ZERO), ..OPEN })?;
    world.turn(0, 1)?;
    world.now.clock.set(world.now.clock.get() + GRAIN);
    world.turn(0, 2)?;
    let Some(client) = world.clients.first() else { return Err("all of it at once".to_owned()) };
    let taken = OPEN.room - client.pipe.borrow().room;
    if (100_000..500_000).contains(&taken) { Ok(()) } else { Err(format!("{taken} bytes at once")) }
}

/// The only stream goes on to its end, and has had everything by then.
fn assert_ends_with_all(world: &mut World) -> Result<(), String> {
    world.finish()?;
    world.now.clock.set(world.now.clock.get() + GRAIN);
    world.finish()?;
    let last = world.left.first().map(|client| client.last_id().to_owned());
    assert_eq!(last, Some(world.id(true, world.history.watermark).to_string()), "it ended, and with all of it");
    world.settle()
}

#[test]
fn a_stream_with_a_long_backlog_ends_in_turns() -> Result<(), String> {
    // Goal: what a stream is to have before it ends does not keep others waiting, and it ends with all of it.
    replay_with(9, Size::mib(1), |world| {
        ends_with_a_backlog(world)?;
        assert_ends_with_all(world)
    })
}

#[test]
fn a_stream_with_a_long_backlog_is_told_of_a_deletion_in_turns() -> Result<(), String> {
    // Goal: as above, for what it is to have before it is told.
    replay_with(20, Size::mib(2), |world| {
        world.subscribe(&[0], Format::Plain, &Start::Live, OPEN)?;
        world.finish()?;
        let before = world.clients[0].pipe.borrow().room;
        world.publish(0, None, &"x".repeat(100_000), 16)?;
        world.delete(0)?;
        world.turn(0, 2)?;
        let Some(client) = world.clients.first() else { return Err("all of it at once".to_owned()) };
        let taken = before - client.pipe.borrow().room;
        assert!((100_000..700_000).contains(&taken), "{taken} bytes at once");
        world.finish()?;
        assert_eq!(world.left.len(), 1, "it was told");
        world.settle()
    })
}

#[test]
fn streams_that_end_with_a_long_backlog_wait_for_their_turns() -> Result<(), String> {
    // Goal: however many of them are to end, they are not all visited as often as they are looked after.
    replay_with(20, Size::mib(2), |world| {
        world.publish(0, None, &"x".repeat(100_000), 8)?;
        for _ in 0..4 {
            world.subscribe(&[0], Format::Plain, &Start::All, Manners { lifetime: Some(Duration::ZERO), ..OPEN })?;
        }
        world.turn(0, 0)?;
        let rooms =
            |world: &World| world.clients.iter().map(|client| client.pipe.borrow().room).collect::<Vec<usize>>();
        let before = rooms(world);
        for _ in 0..3 {
            world.now.clock.set(world.now.clock.get() + GRAIN);
            world.turn(0, 0)?;
        }
        assert_eq!(rooms(world), before, "nobody has had a turn");
        world.finish()?;
        world.now.clock.set(world.now.clock.get() + GRAIN);
        world.finish()?;
        assert_eq!(world.left.len(), 4, "they ended");
        world.settle()
    })
}

#[test]
fn a_stream_that_comes_in_a_drain_ends_in_turns() -> Result<(), String> {
    // Goal: as above, for one that was on its way to the hub when the drain began.
    replay_with(9, Size::mib(1), |world| {
        world.drain(Duration::from_secs(1));
        world.publish(0, None, &"x".repeat(100_000), 8)?;
        world.subscribe(&[0], Format::Plain, &Start::All, OPEN)?;
        world.clients[0].ends_at = Some(world.now.clock.get());
        world.turn(0, 1)?;
        if world.clients.is_empty() {
            return Err("all of it at once".to_owned());
        }
        assert_ends_with_all(world)
    })
}

#[test]
fn a_drain_spreads_the_ends_over_its_time() -> Result<(), String> {
    // Goal: after a tenth of it, in which the last events come, the streams end one by one, and none too late.
    replay_with(9, Size::mib(1), |world| {
        crowd(world, &[0])?;
        crowd(world, &[0])?;
        let (start, within) = (world.now.clock.get(), Duration::from_millis(200));
        world.drain(within);
        let first = world.next_deadline().map(|at| at - start).ok_or("streams end")?;
        assert!((within / 10..within / 2).contains(&first), "the first of sixty ends after {first:?}");
        for client in &mut world.clients {
            client.ends_at = Some(start);
        }
        world.now.clock.set(start + within / 2);
        world.finish()?;
        assert!((5..55).contains(&world.left.len()), "{} have ended in half of the time", world.left.len());
        world.now.clock.set(start + within);
        world.finish()?;
        assert_eq!(world.left.len(), 60);
        world.settle()
    })
}

#[test]
fn a_drain_ends_a_stream_in_its_backlog() -> Result<(), String> {
    // Goal: at the end of the drain's time a stream is given one visit, if it has had none, and then its end.
    replay_with(20, Size::mib(2), |world| {
        world.publish(0, None, &"x".repeat(100_000), 8)?;
        world.drain(Duration::ZERO);
        world.subscribe(&[0], Format::Plain, &Start::All, OPEN)?;
        world.clients[0].ends_at = Some(world.now.clock.get());
        world.turn(0, 0)?;
        let last = world.left.first().map(|client| client.last_id().to_owned());
        assert_eq!(last, Some(world.id(true, 2).to_string()), "it ended, and says where");
        world.settle()
    })
}

#[test]
fn a_stream_ends_however_much_is_published_meanwhile() -> Result<(), String> {
    // Goal: as above; it ends with what there was when it was to end, and does not go after what comes.
    replay_with(9, Size::mib(1), |world| {
        ends_with_a_backlog(world)?;
        for _ in 0..10 {
            world.publish(0, None, &"x".repeat(100_000), 4)?;
            world.now.clock.set(world.now.clock.get() + GRAIN);
            world.turn(0, 2)?;
        }
        if world.clients.is_empty() { world.settle() } else { Err("it never ends".to_owned()) }
    })
}
