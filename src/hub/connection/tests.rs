//! What a connection writes, and its size.

use super::*;
use crate::frame::{Format, Framing};

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
        after: 0,
        told_to: 0,
        placed_at: 0,
        ends_at: None,
        hold: Box::new(()),
    };
    Connection::new(Narrow(room), subscription, Instant::now())
}

#[test]
fn nothing_but_the_rest_of_a_cut_event_is_written() {
    let (mut connection, now) = (connection(100), Instant::now());
    connection.begin(1, 3);
    connection.say(&Bytes::from_static(b"own"));
    for frame in [&b""[..], b"ev", b"eve"] {
        assert!(connection.flush(frame, now).is_err(), "{frame:?} has no rest");
    }
    let run = Run { bytes: b"next", last: 2, to: 2 };
    assert!(connection.write(run, now).is_err());
    let cut = Cut { seq: 1, taken: 3 };
    assert_eq!((connection.cut(), connection.own(), connection.socket.0), (Some(cut), 3, 100), "as it was");
    assert_eq!(connection.flush(b"event", now).expect("a rest"), Wrote::Part { taken: 2 });
    assert_eq!((connection.cut(), connection.own(), connection.socket.0), (None, 3, 98));
    assert_eq!(connection.flush(&[], now).expect("own"), Wrote::All);
}

#[cfg(target_pointer_width = "64")]
#[test]
fn a_connection_fits_in_two_lines_of_the_cache() {
    // A socket, and the poll where it is registered.
    assert_eq!(size_of::<Connection<[usize; 2]>>(), 128);
}
