//! What a hub does at once: it applies the feed and adopts sockets, and then works for a slice of time.

use std::{
    net::TcpStream,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use mio::Registry;

use super::{connection::Subscription, socket::Socket, streams::Streams};
use crate::{
    log::{Batch, Feed},
    transport::Transport,
};

/// How long the hub works before it yields the thread to the HTTP server. With shorter slices, the thread switches
/// between tasks more often. With longer ones, the hub writes the events of a burst before the next requests are read:
/// there are more writes, each with fewer events.
const SLICE: Duration = Duration::from_micros(500);
/// The slice while there is a backlog. The writes of the backlog are far larger, and new publishes wait for them.
const BACKLOG_SLICE: Duration = Duration::from_micros(250);
/// Steps between two readings of the clock while there is no backlog. The number comes from a measurement: for a burst
/// to 500 subscribers, the hub made 26,000 writes with seven steps, and 34,500 with eight.
const STEPS_PER_CLOCK_READ: u32 = 7;

/// The part of a hub that both the hub's task and [`HubHandle::deliver`] use.
pub(super) struct Core {
    pub(super) feed: Arc<Feed>,
    pub(super) streams: Streams<Socket>,
    pub(super) registry: Rc<Registry>,
    /// Commits taken from the feed. The batch is kept here so that its memory is used again.
    pub(super) batch: Batch,
    /// [`HubHandle::deliver`] is running. If the hub's task finds this set, `deliver` has panicked.
    pub(super) is_delivering: bool,
}

impl Core {
    /// Applies the feed, then adopts `arrivals`, in this order: [`Streams::adopt`] needs every deletion from before the
    /// subscription to be applied. The arrivals subscribed before this call, so all these deletions are in the feed.
    pub(super) fn receive(&mut self, arrivals: Vec<(Transport<TcpStream>, Subscription)>, now: Instant) {
        self.feed.take(&mut self.batch);
        self.streams.apply(&mut self.batch, now);
        for (socket, subscription) in arrivals {
            let socket = Socket::new(socket, Rc::clone(&self.registry));
            if let Err(error) = self.streams.adopt(socket, subscription, Socket::watch_readable) {
                tracing::warn!(%error, "cannot watch the socket of a subscriber; its stream is closed");
            }
        }
    }

    /// Makes steps until the slice that began at `now` is over, or no work is left. Returns whether work is left. If
    /// there is work, at least one step is made, even if the feed and the poll have used up the slice.
    pub(super) fn work(&mut self, now: Instant) -> bool {
        let mut steps: u32 = 0;
        while self.streams.has_work() {
            let (slice, steps_per_clock_read) =
                if self.streams.has_slow_work() { (BACKLOG_SLICE, 1) } else { (SLICE, STEPS_PER_CLOCK_READ) };
            let reads_clock = steps > 0 && steps.is_multiple_of(steps_per_clock_read);
            if reads_clock && Instant::now() >= now + slice {
                return true;
            }
            self.streams.step();
            steps += 1;
        }
        false
    }
}
