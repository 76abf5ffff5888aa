//! What a connection writes, and its size.

use super::*;
use crate::{
    event::Epoch,
    frame::{Format, Framing},
    log::ReadFrom,
};

/// A socket that takes so many bytes, one piece at a time.
struct Narrow(usize);

impl Read for Narrow {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(ErrorKind::WouldBlock.into())
    }
}

impl Write for Narrow {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
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

fn connection(room: usize) -> Connection<Narrow> {
    let subscription = Subscription {
        topics: SmallVec::new(),
        encoding: Encoding { format: Format::Plain, framing: Framing::Close },
        marks: Marks::None,
        start: StartPoint {
            epoch: Epoch::random(),
            from: ReadFrom { after: 0, removals_seen: 0 },
            gap: None,
            gap_ahead: None,
            watermark: 0,
        },
        ends_at: None,
        hold: Box::new(()),
    };
    Connection::new(Narrow(room), subscription, Instant::now())
}

#[test]
fn nothing_but_the_rest_of_a_cut_event_is_written() {
    let (mut connection, now) = (connection(100), Instant::now());
    connection.set_partial(1, 3);
    connection.push_control(&Bytes::from_static(b"own"));
    for frame in [&b""[..], b"ev", b"eve"] {
        assert!(connection.flush(frame, now).is_err(), "{frame:?} has no rest");
    }
    let segment = Segment { bytes: b"next", last: 2, to: 2 };
    assert!(connection.write(segment, now).is_err());
    let partial = Partial { seq: 1, sent: 3 };
    assert_eq!(
        (connection.partial(), connection.control_len(), connection.socket.0),
        (Some(partial), 3, 100),
        "as it was"
    );
    assert_eq!(connection.flush(b"event", now).expect("a rest"), Written::Part { bytes: 2 });
    assert_eq!((connection.partial(), connection.control_len(), connection.socket.0), (None, 3, 98));
    assert_eq!(connection.flush(&[], now).expect("own"), Written::All);
}

#[cfg(target_pointer_width = "64")]
#[test]
fn a_connection_fits_in_two_lines_of_the_cache() {
    // A socket, and the poll where it is registered.
    assert_eq!(size_of::<Connection<[usize; 2]>>(), 128);
}
