//! The pause of a busy topic between two rounds of writes.

use std::time::Duration;

use tidings::{config::LogConfig, frame::Format, log::Start};

use super::{engine::Engine, fault::Fault, found::OPEN, world::World};

const MEMBERS: usize = 100;

/// A topic of which a round has taken so long, in which one more event came; all has been done that can be done now.
fn after_a_round(took: Duration, coalesce_max: Duration) -> Result<World, String> {
    let mut world = World::coalescing(Engine::Memory, &LogConfig::default(), Fault::None, coalesce_max);
    for _ in 0..MEMBERS {
        world.subscribe(&[0], Format::Plain, &Start::Live, OPEN)?;
    }
    world.finish()?;
    world.publish(0, None, "in the round", 1)?;
    assert!(world.turn(0, 2)?, "the round has begun, and is not over");
    wait(&world, took);
    world.publish(0, None, "after it", 1)?;
    world.finish()?;
    Ok(world)
}

fn wait(world: &World, time: Duration) {
    world.now.clock.set(world.now.clock.get() + time);
}

/// Clients that have not got everything.
fn behind(world: &World) -> usize {
    world.clients.iter().filter(|client| client.at_the_tail(&world.history).is_err()).count()
}

#[test]
fn a_busy_topic_pauses_as_long_as_its_round_took_and_no_longer_than_the_limit() -> Result<(), String> {
    // Those who were visited before the event came wait; then all have it. No heartbeat is due before.
    const STEP: Duration = Duration::from_micros(100);
    for (took, max, pause) in [(1, 2, 1), (4, 2, 2), (7, 2, 2), (4, 1000, 4), (700, 1000, 700), (900, 300, 300)] {
        let [took, max, pause] = [took, max, pause].map(Duration::from_millis);
        let mut world = after_a_round(took, max)?;
        let waiting = behind(&world);
        assert!(waiting > 0 && waiting < MEMBERS, "{waiting} wait after {took:?}");
        assert_eq!(world.next_deadline(), Some(world.now.clock.get() + pause), "nothing else is due before");
        wait(&world, pause.saturating_sub(STEP));
        world.finish()?;
        assert_eq!(behind(&world), waiting, "{took:?}, at most {max:?}: the pause is {pause:?}");
        wait(&world, STEP);
        world.finish()?;
        assert_eq!(behind(&world), 0, "{took:?}, at most {max:?}: the pause is {pause:?}");
    }
    Ok(())
}

#[test]
fn there_is_no_pause_after_a_round_that_was_short_or_long() -> Result<(), String> {
    for (took, max) in [(0, 2), (8, 2), (1200, 300)] {
        let world = after_a_round(Duration::from_millis(took), Duration::from_millis(max))?;
        assert_eq!(behind(&world), 0, "{took} ms, at most {max} ms");
    }
    Ok(())
}

#[test]
fn zero_never_lets_a_topic_pause() -> Result<(), String> {
    for took in [0, 1, 2, 4, 7, 8, 1000] {
        let world = after_a_round(Duration::from_millis(took), Duration::ZERO)?;
        assert_eq!(behind(&world), 0, "after {took} ms");
    }
    Ok(())
}
