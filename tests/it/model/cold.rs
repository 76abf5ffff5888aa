//! Readers of what is not in memory: time goes by between the moment when a socket takes bytes and the page from the disk
//! that has them.

use std::time::Duration;

use tidings::{
    config::{LogConfig, Size},
    frame::{Format, Framing, Marks},
    log::Start,
};

use super::{
    engine::Engine,
    fault::Fault,
    found::OPEN,
    world::{HEARTBEAT, Manners, UNSENT_MAX, WRITE_TIMEOUT, World},
};

/// What the socket takes before it is full: less than any event here.
const PART: usize = 1000;
const NARROW: Manners = Manners { room: PART, ..OPEN };

/// A log that has none of its events in memory.
fn cold() -> World {
    let (topic_bytes_max, bytes_max) = (Size::mib(1), Size::mib(1));
    let retention = LogConfig { topic_bytes_max, bytes_max, hot_bytes_max: Size::new(0), ..LogConfig::default() };
    World::new(Engine::Disk, &LogConfig { age_max: Duration::ZERO, ..retention }, Fault::None)
}

/// A subscriber of topics 0 and 1 that has taken a part of an event, which only the disk has now: it waits for the page.
fn within_an_event(format: Format, manners: Manners) -> Result<World, String> {
    let mut world = cold();
    world.publish(0, None, &"x".repeat(UNSENT_MAX), 1)?;
    world.subscribe(&[0, 1], format, &Start::All, manners)?;
    world.finish()?;
    world.delay = 2;
    world.clients[0].pipe.borrow_mut().make_room(usize::MAX);
    world.turn(0, usize::MAX)?;
    Ok(world)
}

fn pass(world: &World, time: Duration) {
    world.now.clock.set(world.now.clock.get() + time);
}

/// Runs `history` in each encoding in which a stream may be, with a subscriber that is within an event.
fn in_each_encoding(manners: Manners, history: impl Fn(&mut World) -> Result<(), String>) -> Result<(), String> {
    for format in [Format::Plain, Format::Envelope, Format::Lines] {
        for framing in [Framing::Chunked, Framing::Close] {
            for marks in [Marks::Event, Marks::Id, Marks::None] {
                let manners = Manners { framing, marks, ..manners };
                let outcome = within_an_event(format, manners).and_then(|mut world| history(&mut world));
                outcome.map_err(|error| format!("{format:?}, {framing:?}, {marks:?}: {error}"))?;
            }
        }
    }
    Ok(())
}

#[test]
fn a_heartbeat_does_not_come_between_the_parts_of_an_event() -> Result<(), String> {
    // Goal: one falls due while the rest of the event is on its way from the disk; the event arrives whole.
    assert!(HEARTBEAT < WRITE_TIMEOUT, "else it is cut first");
    in_each_encoding(NARROW, |world| {
        pass(world, HEARTBEAT);
        world.turn(0, usize::MAX)?;
        world.settle()?;
        if world.clients.len() == 1 { Ok(()) } else { Err("its stream ended".to_owned()) }
    })
}

#[test]
fn a_notice_does_not_come_between_the_parts_of_an_event() -> Result<(), String> {
    // Goal: as above, when the other topic is deleted meanwhile, and lives again.
    in_each_encoding(NARROW, |world| {
        world.delete(1)?;
        world.publish(1, None, "next", 1)?;
        pass(world, HEARTBEAT);
        world.turn(0, usize::MAX)?;
        world.settle()?;
        if world.clients.len() == 1 { Ok(()) } else { Err("its stream ended".to_owned()) }
    })
}

#[test]
fn a_farewell_does_not_come_between_the_parts_of_an_event() -> Result<(), String> {
    // Goal: as above, when the stream is to end meanwhile: the rest of the event comes first.
    in_each_encoding(Manners { lifetime: Some(HEARTBEAT), ..NARROW }, |world| {
        pass(world, HEARTBEAT);
        world.turn(0, usize::MAX)?;
        world.settle()?;
        let last = world.left.first().map(|client| client.last_id().to_owned());
        let event = world.id(true, 1).to_string();
        if last == Some(event) { Ok(()) } else { Err(format!("it ended with {last:?}")) }
    })
}

/// A subscriber that has taken a part of an event. From then on, whenever the write deadline comes, its socket has room
/// again for `room` bytes, of which the system does not tell: it is too little. Whether its stream goes on.
fn survives(room: usize, delay: usize) -> Result<bool, String> {
    let mut world = cold();
    world.publish(0, None, &"x".repeat(UNSENT_MAX), 1)?;
    world.subscribe(&[0], Format::Plain, &Start::All, NARROW)?;
    world.finish()?;
    for _ in 0..5 {
        let Some(client) = world.clients.first() else { return Ok(false) };
        client.pipe.borrow_mut().room = room;
        world.delay = delay;
        pass(&world, WRITE_TIMEOUT);
        // The clock stands: whatever comes of it comes of one page.
        world.finish()?;
    }
    world.settle()?;
    Ok(!world.clients.is_empty())
}

#[test]
fn a_slow_reader_is_not_cut_for_a_page_that_is_on_its_way() -> Result<(), String> {
    // Goal: who takes bytes within the write deadline stays, also where the rest has to be read from the disk; who takes
    // none is cut when the page has come, and does not have it read again.
    for delay in [0, 1, 5] {
        assert!(survives(PART, delay)?, "it takes bytes, and each page takes {delay} turns");
        assert!(!survives(0, delay)?, "it takes nothing, and each page takes {delay} turns");
    }
    Ok(())
}
