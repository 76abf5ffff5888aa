//! When a connection is looked after next, and what a hub gives back.

use std::num::NonZeroU32;

use super::*;
use crate::{
    config::{Config, LogConfig},
    frame::Frame,
    hub::{connection::tests::subscription, counts::Written},
    log::{KeyLimits, memory::MemoryLog},
};

/// Accepts everything, and sends nothing.
impl Peer for io::Empty {
    fn finish(&mut self) {}

    fn watch_writable(&mut self, _: usize) -> io::Result<()> {
        Ok(())
    }
}

/// Streams with one connection, which came at the time that is returned.
fn streams(heartbeat: u64, write_timeout: u64) -> (Streams<io::Empty>, usize, Instant) {
    let now = Instant::now();
    let [heartbeat, write_timeout] = [heartbeat, write_timeout].map(Duration::from_secs);
    let config = StreamConfig { heartbeat, write_timeout, ..StreamConfig::default() };
    let log = MemoryLog::new(LogConfig::default(), KeyLimits::from(&Config::default()));
    let mut streams = Streams::new(Arc::new(log), config, Arc::new(UnsentBytes::new(100)), now);
    let connection = Connection::new(io::empty(), subscription(streams.epoch), now);
    let key = streams.insert(connection, SmallVec::new());
    (streams, key, now)
}

#[test]
fn a_stream_that_is_idle_is_looked_after_when_its_heartbeat_is_due() {
    let (streams, _, start) = streams(20, 5);
    assert_eq!(streams.next_deadline(), Some(start + Duration::from_secs(20)));
}

#[test]
fn a_stream_whose_socket_is_full_is_looked_after_when_it_is_to_be_cut() {
    // Goal: the write deadline counts though the timer was set for a heartbeat, which is later.
    let (mut streams, key, start) = streams(20, 5);
    streams.now = start + Duration::from_secs(1);
    streams.wait_writable(key).expect("it is noted");
    assert_eq!(streams.next_deadline(), Some(start + Duration::from_secs(6)));
}

#[test]
fn a_stream_whose_socket_is_full_is_looked_after_as_often_as_for_heartbeats() {
    // Goal: its socket may accept bytes again long before the write deadline.
    let (mut streams, key, start) = streams(5, 20);
    streams.now = start + Duration::from_secs(1);
    streams.wait_writable(key).expect("it is noted");
    streams.now = start + Duration::from_secs(5);
    assert_eq!(streams.next_timer(), Some(key));
    streams.set_timer(key);
    assert_eq!(streams.next_deadline(), Some(start + Duration::from_secs(10)));
}

#[test]
fn a_stream_that_waits_for_a_page_is_not_looked_after_again_and_again() {
    // Goal: past its write deadline nothing is done before the page has come, and the hub is not kept busy.
    let (mut streams, key, start) = streams(20, 5);
    streams.wait_writable(key).expect("it is noted");
    streams.connections[key].page_request = Some(NonZeroU32::MIN);
    streams.now = start + Duration::from_secs(5);
    assert_eq!(streams.next_timer(), Some(key));
    streams.cut_overdue(key);
    streams.set_timer(key);
    assert_eq!(streams.connections[key].cold.timer_at, start + Duration::from_secs(25));
}

#[test]
fn a_hub_that_goes_gives_back_what_its_streams_have_not_sent() {
    // Goal: hubs share the limit, and one that panics must not take a part of it along.
    let (mut streams, key, _) = streams(20, 5);
    let unsent = Arc::clone(&streams.unsent);
    let end = WriteEnd { seq: 1, partial: Some((Frame::Made("event".into()), 2)), written: Written::default() };
    streams.stop_at(key, Some(end)).expect("it is noted");
    streams.push_control(key, &"block".into());
    assert!(!unsent.is_empty());
    drop(streams);
    assert!(unsent.is_empty());
}
