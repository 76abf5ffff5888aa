//! Histories that the model has found to go wrong, each with what it would do to a subscriber.

use std::time::Duration;

use tidings::{
    config::{LogConfig, Size},
    frame::{Format, Framing, Marks},
    log::Start,
};

use super::{
    engine::Engine,
    fault::Fault,
    world::{HEARTBEAT, Manners, WRITE_TIMEOUT, World},
};

pub const OPEN: Manners = Manners {
    room: usize::MAX,
    gulp: usize::MAX,
    lifetime: None,
    right: None,
    framing: Framing::Chunked,
    marks: Marks::Id,
};
pub const FULL: Manners = Manners { room: 0, ..OPEN };

/// Runs `history` on each engine; on disk every event has to be read from there.
fn replay(topic_events_max: usize, history: impl Fn(&mut World) -> Result<(), String>) -> Result<(), String> {
    replay_on(&Engine::ALL, (topic_events_max, Size::new(0)), history)
}

/// As [`replay`], with as many bytes in memory, which are at hand.
pub fn replay_with(
    topic_events_max: usize,
    hot_bytes_max: Size,
    history: impl Fn(&mut World) -> Result<(), String>,
) -> Result<(), String> {
    replay_on(&Engine::LOCAL, (topic_events_max, hot_bytes_max), history)
}

fn replay_on(
    engines: &[Engine],
    (topic_events_max, hot_bytes_max): (usize, Size),
    history: impl Fn(&mut World) -> Result<(), String>,
) -> Result<(), String> {
    let bytes_max = Size::mib(1);
    let retention = LogConfig { topic_events_max, topic_bytes_max: bytes_max, bytes_max, ..LogConfig::default() };
    let retention = LogConfig { age_max: Duration::ZERO, hot_bytes_max, ..retention };
    let run = |engine| history(&mut World::new(engine, &retention, Fault::None));
    engines.iter().try_for_each(|engine| run(*engine).map_err(|error| format!("{engine:?}: {error}")))
}

pub fn publish(world: &mut World, topic: usize, times: usize) -> Result<(), String> {
    (0..times).try_for_each(|_| world.publish(topic, None, "content", 1))
}

#[test]
fn a_loss_below_one_that_was_told_is_told() -> Result<(), String> {
    // Goal: events of one topic go while the reader is full; that another topic lost later ones before is no excuse.
    replay(3, |world| {
        publish(world, 0, 2)?;
        publish(world, 1, 8)?;
        world.subscribe(&[0, 1], Format::Plain, &Start::All, FULL)?;
        world.turn(0, usize::MAX)?;
        publish(world, 0, 3)?;
        world.settle()
    })
}

#[test]
fn a_stream_of_deleted_topics_ends_with_what_the_hub_knows_of() -> Result<(), String> {
    // Goal: that one of them has been published to again is not in the feed yet when its stream ends; it comes back,
    // and is given that.
    replay(9, |world| {
        world.subscribe(&[0, 1], Format::Plain, &Start::Live, OPEN)?;
        world.finish()?;
        world.delete(0)?;
        world.delete(1)?;
        world.turn(0, 0)?;
        publish(world, 1, 1)?;
        world.idle_turn(usize::MAX)?;
        assert_eq!(world.left.len(), 1, "it ended");
        world.resume(0, true, OPEN)?;
        world.settle()?;
        assert_eq!(world.clients[0].last_id(), world.id(true, 3).to_string());
        Ok(())
    })
}

#[test]
fn a_stream_that_has_read_of_a_next_life_goes_on() -> Result<(), String> {
    // Goal: the feed has lost both the deletions and what came after them; a slower reader of the same topics learns of
    // the deletions later, and ends neither.
    replay(9, |world| {
        world.subscribe(&[0, 1], Format::Plain, &Start::Live, OPEN)?;
        world.subscribe(&[0, 1], Format::Plain, &Start::Live, FULL)?;
        world.publish(0, None, "content", 1)?;
        world.finish()?;
        world.delete(0)?;
        world.delete(1)?;
        publish(world, 1, 1)?;
        world.turn(3, usize::MAX)?;
        world.finish()?;
        world.clients[1].pipe.borrow_mut().make_room(usize::MAX);
        world.settle()?;
        assert_eq!(world.clients.len(), 2, "both go on");
        Ok(())
    })
}

#[test]
fn a_topic_that_lives_again_is_not_called_deleted() -> Result<(), String> {
    // Goal: who subscribes after a deletion, and asks for older events of another topic, keeps both topics.
    replay(9, |world| {
        publish(world, 0, 1)?;
        publish(world, 1, 1)?;
        world.delete(1)?;
        publish(world, 1, 1)?;
        world.subscribe(&[0, 1], Format::Plain, &Start::All, OPEN)?;
        world.turn(0, usize::MAX)?;
        publish(world, 1, 1)?;
        world.settle()
    })
}

#[test]
fn a_deletion_that_took_no_event_is_no_gap() -> Result<(), String> {
    // Goal: a subscriber that had everything is not told that something is missing.
    replay(9, |world| {
        publish(world, 0, 1)?;
        world.delete(0)?;
        world.subscribe(&[0], Format::Plain, &Start::After(world.id(true, 1)), OPEN)?;
        world.settle()
    })
}

#[test]
fn a_stream_that_was_full_has_its_heartbeats_in_time() -> Result<(), String> {
    // Goal: having been full when it was looked after does not keep the next heartbeat back.
    replay(9, |world| {
        world.subscribe(&[0], Format::Plain, &Start::Live, OPEN)?;
        world.turn(0, usize::MAX)?;
        world.now.clock.set(world.now.clock.get() + HEARTBEAT * 3 / 4);
        world.clients[0].pipe.borrow_mut().make_room(1);
        publish(world, 0, 1)?;
        world.turn(0, usize::MAX)?;
        world.now.clock.set(world.now.clock.get() + HEARTBEAT / 4);
        assert!(WRITE_TIMEOUT > HEARTBEAT, "else it is cut first");
        // Of another topic: only a heartbeat tells of it.
        publish(world, 1, 1)?;
        world.settle()
    })
}

#[test]
fn a_heartbeat_does_not_lift_a_cursor_over_a_deletion() -> Result<(), String> {
    // Goal: between the deletion and its notice nothing moves the cursor past it: it is how the client that comes back
    // is known and told to stop.
    deleted_while_due(OPEN)
}

#[test]
fn nothing_follows_the_last_chunk() -> Result<(), String> {
    // Goal: a topic is deleted after its stream has ended, and before the socket has taken the end.
    replay(3, |world| {
        world.subscribe(&[0, 1], Format::Plain, &Start::Live, Manners { lifetime: Some(Duration::ZERO), ..FULL })?;
        world.turn(0, usize::MAX)?;
        world.now.clock.set(world.now.clock.get() + WRITE_TIMEOUT / 2);
        world.turn(0, usize::MAX)?;
        world.delete(1)?;
        world.turn(0, usize::MAX)?;
        world.settle()
    })
}

#[test]
fn a_farewell_does_not_lift_a_cursor_over_a_deletion() -> Result<(), String> {
    // Goal: as above, for a stream that was to end at that moment.
    deleted_while_due(Manners { lifetime: Some(HEARTBEAT), ..OPEN })
}

fn deleted_while_due(manners: Manners) -> Result<(), String> {
    replay(9, |world| {
        publish(world, 0, 1)?;
        world.subscribe(&[0], Format::Plain, &Start::Live, manners)?;
        world.turn(0, usize::MAX)?;
        world.delete(0)?;
        // The hub has taken the deletion, and its slice was over before the turn of this subscriber.
        world.turn(0, 1)?;
        world.now.clock.set(world.now.clock.get() + HEARTBEAT);
        world.idle_turn(usize::MAX)?;
        world.settle()?;
        world.resume(0, true, OPEN)?;
        if world.clients.is_empty() { Ok(()) } else { Err("it was not told to stop".to_owned()) }
    })
}

#[test]
fn a_page_that_was_fetched_for_a_topic_deleted_meanwhile_tells_of_no_gap() -> Result<(), String> {
    // Goal: who has been told that a topic is deleted is not told then that an event of it is missing.
    replay(1, |world| {
        world.subscribe(&[0, 1], Format::Plain, &Start::Live, OPEN)?;
        publish(world, 0, 2)?;
        world.delay = 1;
        world.turn(0, usize::MAX)?;
        world.delete(0)?;
        world.turn(0, usize::MAX)?;
        world.settle()
    })
}

#[test]
fn a_deletion_from_before_a_subscription_is_not_told_out_of_a_window() -> Result<(), String> {
    // Goal: the window has the notice for a stream that was there; one that came after the deletion, with a cursor from
    // before it, is not told again.
    replay(9, |world| {
        world.subscribe(&[0, 1], Format::Plain, &Start::Live, OPEN)?;
        world.turn(0, usize::MAX)?;
        world.delete(0)?;
        world.subscribe(&[0, 1], Format::Plain, &Start::After(world.id(true, 0)), OPEN)?;
        publish(world, 1, 1)?;
        world.settle()
    })
}

#[test]
fn a_stalled_stream_is_told_of_the_last_of_many_deletions() -> Result<(), String> {
    // Goal: one notice at its place, then what the last life holds; and the end, when all topics are deleted.
    replay(9, |world| {
        world.subscribe(&[0, 1], Format::Plain, &Start::Live, FULL)?;
        publish(world, 1, 1)?;
        for _ in 0..50 {
            world.turn(0, usize::MAX)?;
            publish(world, 0, 1)?;
            world.delete(0)?;
        }
        publish(world, 0, 1)?;
        world.settle()?;
        world.delete(0)?;
        world.delete(1)?;
        world.settle()?;
        if world.clients.is_empty() { Ok(()) } else { Err("all of its topics were deleted".to_owned()) }
    })
}

#[test]
fn a_topic_that_is_always_busy_rests_between_its_rounds() -> Result<(), String> {
    // Goal: what comes in while a long round runs is collected, and goes out with one write; after a round that is short,
    // or has collected enough, it goes out at once.
    for (took, bytes, lag) in [(0, 10, false), (1, 10, true), (7, 10, true), (8, 10, false), (1, 40 << 10, false)] {
        replay(9, |world| {
            crowd(world, &[0])?;
            publish(world, 0, 1)?;
            // Some have it when the next one comes.
            world.turn(0, 2)?;
            world.now.clock.set(world.now.clock.get() + Duration::from_millis(took));
            world.publish(0, None, &"x".repeat(bytes), 1)?;
            world.finish()?;
            assert_eq!(lagging(world) > 0, lag, "a round of {took} ms, {bytes} bytes wait");
            world.settle()
        })?;
    }
    Ok(())
}

#[test]
fn a_loss_in_the_middle_of_a_round_is_made_up_for() -> Result<(), String> {
    // Goal: the feed is lost when some members of a topic have been visited and others not; the former must not wait for
    // the next event, or for a heartbeat.
    replay(9, |world| {
        crowd(world, &[0])?;
        publish(world, 0, 1)?;
        world.turn(0, 2)?;
        publish(world, 0, 1)?;
        world.turn(1, 2)?;
        world.finish()?;
        if lagging(world) == 0 { Ok(()) } else { Err(format!("{} have not all of it", lagging(world))) }
    })
}

#[test]
fn the_deletion_of_a_topic_at_rest_is_told_at_once() -> Result<(), String> {
    // Goal: an event of another topic must not overtake it: it would carry the cursor past the deletion.
    replay(9, |world| {
        crowd(world, &[0, 1])?;
        publish(world, 0, 1)?;
        world.turn(0, 2)?;
        world.now.clock.set(world.now.clock.get() + Duration::from_millis(1));
        publish(world, 0, 1)?;
        world.finish()?;
        assert!(lagging(world) > 0, "it rests");
        world.delete(0)?;
        publish(world, 1, 1)?;
        world.finish()?;
        if lagging(world) == 0 { Ok(()) } else { Err(format!("{} have not been told", lagging(world))) }
    })
}

#[test]
fn a_stream_ends_with_all_that_was_committed_before() -> Result<(), String> {
    // Goal: an event that a publisher knows to be taken is not missing from a stream that ends afterwards.
    replay(9, |world| {
        let lifetime = Some(HEARTBEAT / 2);
        world.subscribe(&[0], Format::Plain, &Start::Live, Manners { lifetime, ..OPEN })?;
        world.turn(0, usize::MAX)?;
        publish(world, 0, 1)?;
        world.now.clock.set(world.now.clock.get() + HEARTBEAT / 2);
        world.turn(0, usize::MAX)?;
        let last = world.left.first().map(|client| client.last_id().to_owned());
        assert_eq!(last, Some(world.id(true, world.history.watermark).to_string()), "it ended, and with the event");
        world.settle()
    })
}

#[test]
fn nothing_is_kept_for_a_stream_that_cannot_be_waited_for() -> Result<(), String> {
    // Goal: the socket takes a part of a gap's notice, or all of it and a part of an event, and then cannot be watched: the
    // stream ends, and what was to be sent is let go of, no more and no less.
    replay(2, |world| {
        for room in (1..700).step_by(50) {
            world.subscribe(&[0], Format::Plain, &Start::Live, Manners { room, ..OPEN })?;
            world.clients[0].pipe.borrow_mut().unwatched = true;
            world.publish(0, None, &"x".repeat(500), 3)?;
            world.finish()?;
            assert!(world.clients.is_empty(), "it is full after {room} bytes");
            world.settle().map_err(|error| format!("after {room} bytes: {error}"))?;
        }
        Ok(())
    })
}

/// More subscribers of `topics` than one turn visits, and few enough for the hub to check its state.
pub fn crowd(world: &mut World, topics: &[usize]) -> Result<(), String> {
    (0..30).try_for_each(|_| world.subscribe(topics, Format::Plain, &Start::Live, OPEN))?;
    world.finish()
}

/// How many have not all there is.
pub fn lagging(world: &World) -> usize {
    world.clients.iter().filter(|client| client.at_the_tail(&world.history).is_err()).count()
}
