//! What a connection writes, and its size.

use super::*;
use crate::{
    event::Epoch,
    frame::{Format, Framing},
    hub::counts::Written,
    log::ReadFrom,
};

/// A socket that takes so many bytes, one piece at a time; but first its calls end as a test says, the last one first.
struct Narrow(usize, Vec<Result<usize, ErrorKind>>);

impl Read for Narrow {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        self.1.pop().unwrap_or(Err(ErrorKind::WouldBlock)).map_err(Into::into)
    }
}

impl Write for Narrow {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        if let Some(end) = self.1.pop() {
            return end.map_err(Into::into);
        }
        let taken = buf.len().min(self.0);
        self.0 -= taken;
        if taken > 0 { Ok(taken) } else { Err(ErrorKind::WouldBlock.into()) }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Peer for Narrow {
    fn finish(&mut self) {}

    fn watch_writable(&mut self, _: usize) -> io::Result<()> {
        Ok(())
    }
}

/// A subscription in the history `epoch` from its beginning, without topics, that nothing ends.
pub(in crate::hub) fn subscription(epoch: Epoch) -> Subscription {
    Subscription {
        topics: SmallVec::new(),
        encoding: Encoding { format: Format::Plain, framing: Framing::Close },
        marks: Marks::None,
        start: StartPoint {
            epoch,
            from: ReadFrom { after: 0, removals_seen: 0 },
            gap: None,
            gap_ahead: None,
            watermark: 0,
        },
        ends_at: None,
        right: None,
        guards: Box::new(()),
    }
}

fn connection(room: usize) -> Connection<Narrow> {
    Connection::new(Narrow(room, Vec::new()), subscription(Epoch::random()), Instant::now())
}

#[test]
fn nothing_but_the_rest_of_a_cut_event_is_written() {
    let (mut connection, now) = (connection(100), Instant::now());
    connection.set_partial(1, 3);
    connection.push_control(&Bytes::from_static(b"own"));
    let partial = Partial { seq: 1, sent: 3 };
    for frame in [&b""[..], b"ev", b"eve"] {
        assert!(connection.write_rest(partial, frame, now).is_err(), "{frame:?} has no rest");
    }
    let segment = Segment { bytes: b"next", last: 2, to: 2, written: Written::default() };
    assert!(connection.write(segment, now).is_err() && connection.write_control(now).is_err());
    let state = |connection: &Connection<Narrow>| (connection.partial(), connection.control(), connection.socket.0);
    assert_eq!(state(&connection), (Some(partial), "own".into(), 100), "as it was");
    assert!(connection.write_rest(partial, b"event", now).expect("a rest"));
    assert_eq!(state(&connection), (None, "own".into(), 98));
    assert!(connection.write(segment, now).is_err(), "the broker's own block comes first");
    connection.socket.0 = 2;
    assert_eq!(connection.write_control(now).expect("own"), 2);
    assert_eq!(state(&connection), (None, "n".into(), 0), "a part of a block is kept");
}

#[test]
fn a_cut_event_goes_on_where_it_was_cut_and_nothing_that_is_sent_is_kept() {
    // Goal: a socket that is full exactly behind a block has nothing to be written when it accepts bytes again.
    let (mut connection, now) = (connection(1), Instant::now());
    connection.set_partial(1, 2);
    assert!(!connection.write_rest(Partial { seq: 1, sent: 2 }, b"event", now).expect("a part of it"));
    let partial = Partial { seq: 1, sent: 3 };
    assert_eq!(connection.partial(), Some(partial));
    connection.socket.0 = 2;
    assert!(connection.write_rest(partial, b"event", now).expect("all of it"));
    assert!(connection.remainder.is_none());
    connection.push_control(&Bytes::from_static(b"own"));
    connection.socket.0 = 3;
    assert_eq!(connection.write_control(now).expect("it is written"), 3);
    assert!(connection.remainder.is_none());
}

#[test]
fn a_call_that_was_interrupted_is_made_again_and_an_error_ends_the_stream() {
    // Goal: a signal costs no stream, and a socket that has failed is not kept.
    let (now, segment) = (Instant::now(), Segment { bytes: b"next", last: 1, to: 1, written: Written::default() });
    let write = |ends: &[Result<usize, ErrorKind>]| {
        let mut connection = connection(100);
        connection.socket.1 = ends.to_vec();
        connection.write(segment, now).map_err(|error| error.kind())
    };
    assert_eq!(write(&[Err(ErrorKind::Interrupted)]), Ok(4));
    assert_eq!(write(&[Err(ErrorKind::WouldBlock)]), Ok(0));
    assert_eq!(write(&[Err(ErrorKind::ConnectionReset)]), Err(ErrorKind::ConnectionReset));
    assert_eq!(write(&[Ok(0)]), Err(ErrorKind::WriteZero));
    let read = |ends: &[Result<usize, ErrorKind>]| {
        let mut connection = connection(100);
        connection.socket.1 = ends.to_vec();
        connection.discard_input().map_err(|error| error.kind())
    };
    assert_eq!(read(&[Err(ErrorKind::Interrupted), Ok(5)]), Ok(()));
    assert_eq!(read(&[Err(ErrorKind::ConnectionReset), Ok(5)]), Err(ErrorKind::ConnectionReset));
    assert_eq!(read(&[Ok(0), Ok(5)]), Err(ErrorKind::UnexpectedEof), "the peer has closed its side");
}

#[test]
fn a_peer_may_send_up_to_the_limit_on_its_stream() {
    // Goal: what was sent before counts, and one byte past the limit ends the stream.
    let mut connection = connection(100);
    for _ in 0..16 {
        connection.socket.1 = vec![Ok(4096)];
        connection.discard_input().expect("that is allowed");
    }
    connection.socket.1 = vec![Ok(1)];
    assert!(connection.discard_input().is_err());
}

#[cfg(target_pointer_width = "64")]
#[test]
fn a_connection_fits_in_two_lines_of_the_cache() {
    // A socket, and the poll where it is registered.
    assert_eq!(size_of::<Connection<[usize; 2]>>(), 128);
}

#[cfg(target_pointer_width = "64")]
#[test]
fn the_cold_fields_of_a_connection_fit_in_112_bytes() {
    // The allocator has no size between 80, which was enough before streams had rights and ids, and 96 and 112.
    assert!(size_of::<Cold>() <= 112, "{}", size_of::<Cold>());
}
