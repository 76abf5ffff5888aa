//! The sockets of one worker: each worker thread has one hub, and every subscriber of that worker lives in it.
//!
//! ```text
//!            feed of committed events ─┐
//!  sockets handed over by HTTP ────────┼─► loop: take, look at the clock, adopt ─► fan out in slices ─► sockets
//!  readiness (mio under AsyncFd) ──────┘
//! ```
//!
//! A subscriber is a cursor into the log: history is its send queue, so a slow one costs nothing but its place, and a
//! burst reaches a busy one in a single write. The hub shares its thread with the HTTP server, so it works in slices
//! of time and lets the requests that came in meanwhile go first: what they publish joins the next write.

use std::{
    cell::{Cell, RefCell},
    io,
    net::TcpStream,
    num::NonZeroU32,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{FutureExt as _, StreamExt as _, future::LocalBoxFuture, stream::FuturesUnordered};
use mio::{Events, Poll, Registry, Token};
use tokio::{
    io::unix::AsyncFd,
    sync::{Notify, mpsc, watch},
};

use crate::{
    config::StreamConfig,
    log::{Batch, Feed, FetchError, Log, Page},
};

mod channel;
mod connection;
mod deletion;
mod fanout;
mod handover;
mod lifetime;
mod socket;
mod unsent;
mod visit;

pub use connection::{Peer, Subscription};
pub use fanout::{Fanout, Wanted};
pub use handover::Carrier;
pub use lifetime::jitter;
use socket::Socket;
pub(crate) use socket::send;
pub use unsent::Unsent;

/// How long the hub works before it lets the HTTP server have the thread. Shorter coalesces more of a burst, longer
/// spares switches; at half a millisecond neither shows in the figures (README, Performance).
const SLICE: Duration = Duration::from_micros(500);
/// As above, as long as there are backlogs: what others publish meanwhile waits behind far larger writes.
const HEAVY_SLICE: Duration = Duration::from_micros(250);
/// Turns between two looks at the clock, as long as none is heavy.
const TURNS_PER_LOOK: u32 = 8;
/// Pages that are fetched at once; more wait their turn, so that replays of cold history share the disk.
const FETCHES_MAX: usize = 4;
/// Readiness events taken from the system at once: each may be a stream to close, and a thousand can go together.
const EVENTS: usize = 128;

/// Hands sockets over to the hub of this thread; cheap to clone.
#[derive(Clone, Debug)]
pub struct HubHandle(Rc<Inbox>);

/// Sockets that were handed over, and that the hub has not taken in yet.
#[derive(Debug, Default)]
struct Inbox {
    arrivals: RefCell<Vec<(TcpStream, Subscription)>>,
    notify: Notify,
    /// The hub has ended: nobody reads this any more.
    closed: Cell<bool>,
}

/// How the server ends all hubs.
#[derive(Clone, Debug)]
pub struct Drain {
    /// Becomes the time within which the hub shall end its streams.
    pub begin: watch::Receiver<Option<Duration>>,
    /// Dropped when it has. The server keeps one, and drops it, too, when it begins to wait.
    pub done: mpsc::WeakSender<()>,
}

impl HubHandle {
    /// Starts this thread's hub on the running local set.
    ///
    /// # Errors
    /// When the system gives no poll instance.
    pub fn start(log: &Arc<dyn Log>, config: &StreamConfig, unsent: &Arc<Unsent>, drain: Drain) -> io::Result<Self> {
        let handle = Self(Rc::default());
        // Held by the hub's task, so that it goes when that ends.
        let done = drain.done.upgrade();
        let inbox = Rc::clone(&handle.0);
        let (log, config, unsent) = (Arc::clone(log), config.clone(), Arc::clone(unsent));
        let mut hub = Hub::new(&log, &config, &unsent, &inbox)?;
        tokio::task::spawn_local(async move {
            let _done = done;
            // A bug that panics costs this worker's streams, which resume, and not all streams to come.
            while let Err(error) = tokio::task::spawn_local(hub.run(drain.clone())).await {
                tracing::error!(%error, "a hub died and is started anew; its subscribers resume with their cursors");
                hub = match Hub::new(&log, &config, &unsent, &inbox) {
                    Ok(hub) => hub,
                    Err(error) => {
                        tracing::error!(%error, "the hub cannot be started");
                        break;
                    }
                }
            }
            inbox.closed.set(true);
            inbox.arrivals.take();
        });
        Ok(handle)
    }

    /// Hands over a subscriber whose response head, and the first bytes of its stream, are out. Its socket does not
    /// block, and no other poll knows it.
    pub fn adopt(&self, socket: TcpStream, subscription: Subscription) {
        // Dropped, the client comes back, and what the subscription holds is free.
        if !self.0.closed.get() {
            self.0.arrivals.borrow_mut().push((socket, subscription));
            self.0.notify.notify_one();
        }
    }
}

/// The hub itself: the event loop around a [`Fanout`].
struct Hub {
    inbox: Rc<Inbox>,
    feed: Arc<Feed>,
    fanout: Fanout<Socket>,
    registry: Rc<Registry>,
    poll: AsyncFd<Poll>,
    log: Arc<dyn Log>,
    fetching: FuturesUnordered<LocalBoxFuture<'static, Fetched>>,
}

/// A page, the connection that waits for it, and under which ticket.
struct Fetched {
    key: usize,
    ticket: NonZeroU32,
    page: Result<Page, FetchError>,
}

impl Hub {
    fn new(log: &Arc<dyn Log>, config: &StreamConfig, unsent: &Arc<Unsent>, inbox: &Rc<Inbox>) -> io::Result<Self> {
        let poll = Poll::new()?;
        let registry = Rc::new(poll.registry().try_clone()?);
        // The feed before the fan-out reads the watermark: what is committed in between comes twice, not never.
        let feed = log.feed();
        let fanout = Fanout::new(Arc::clone(log), config.clone(), Arc::clone(unsent), Instant::now());
        #[expect(
            deprecated,
            reason = "its successor is unsafe to call; a Poll owns its descriptor and never changes it"
        )]
        let poll = AsyncFd::with_interest(poll, tokio::io::Interest::READABLE)?;
        let log = Arc::clone(log);
        Ok(Self { inbox: Rc::clone(inbox), feed, fanout, registry, poll, log, fetching: FuturesUnordered::new() })
    }

    async fn run(mut self, mut drain: Drain) {
        let (mut batch, mut events) = (Batch::default(), Events::with_capacity(EVENTS));
        let (mut begins, mut ends_at, mut polled) = (None::<Duration>, None, true);
        loop {
            // Arrivals first, the feed after: see `Fanout::adopt`. The time first of all: see `Fanout::take`.
            let now = Instant::now();
            let arrivals = self.inbox.arrivals.take();
            self.feed.take(&mut batch);
            self.fanout.take(&mut batch, now);
            for (socket, subscription) in arrivals {
                self.adopt(socket, subscription);
            }
            if let Some(within) = begins.take() {
                ends_at = Some(now + within);
                // Streams that take their last bytes late still have a fifth of the time for it.
                self.fanout.drain(within.mul_f64(0.8));
            }
            polled = self.look(&mut events, polled);
            let mut turns = 0;
            let busy = self.fanout.run(|heavy| {
                turns += 1;
                let (look, slice) = if heavy { (true, HEAVY_SLICE) } else { (turns % TURNS_PER_LOOK == 0, SLICE) };
                // One at least: what came before it may have taken the slice.
                turns == 1 || !look || Instant::now() < now + slice
            });
            if let Some(ends_at) = ends_at
                && (ends_at <= now || (self.fanout.is_empty() && self.inbox.arrivals.borrow().is_empty()))
            {
                return;
            }
            // Not only when there is nothing else to do: a hub that is always busy would keep replays and a drain waiting.
            self.fetch();
            let fetched = self.take_fetched();
            if ends_at.is_none() && drain.begin.has_changed().unwrap_or(true) {
                begins = Some(drain.begin.borrow_and_update().unwrap_or_default());
            }
            if busy || fetched || !polled || begins.is_some() {
                tokio::task::yield_now().await;
                continue;
            }
            if self.fanout.is_empty() && self.inbox.arrivals.borrow().is_empty() {
                // A worker without subscribers sleeps through what others publish.
                self.feed.pause();
            }
            let wake_at = self.fanout.next_deadline().into_iter().chain(ends_at).min();
            tokio::select! {
                () = self.feed.arrived() => {}
                () = self.inbox.notify.notified() => {}
                ready = self.poll.readable() => drop(ready),
                Some(Fetched { key, ticket, page }) = self.fetching.next(), if !self.fetching.is_empty() => {
                    self.fanout.supply(key, ticket, page);
                }
                () = sleep_until(wake_at) => {}
                changed = drain.begin.changed(), if ends_at.is_none() => {
                    begins = Some(changed.ok().and_then(|()| *drain.begin.borrow()).unwrap_or_default());
                }
            }
        }
    }

    /// Asks for pages that connections wait for, a few at a time.
    fn fetch(&mut self) {
        while self.fetching.len() < FETCHES_MAX
            && let Some(Wanted { key, ticket, topics, after, removals_seen, bytes_max }) = self.fanout.next_wanted()
        {
            let page = self.log.fetch(topics, after, removals_seen, bytes_max);
            self.fetching.push(page.map(move |page| Fetched { key, ticket, page }).boxed_local());
        }
    }

    /// Takes the pages that have been fetched, without waiting; whether there were any.
    fn take_fetched(&mut self) -> bool {
        let mut any = false;
        while let Some(Some(Fetched { key, ticket, page })) = self.fetching.next().now_or_never() {
            self.fanout.supply(key, ticket, page);
            any = true;
        }
        any
    }

    fn adopt(&mut self, socket: TcpStream, subscription: Subscription) {
        let socket = Socket::new(socket, Rc::clone(&self.registry));
        if let Err(error) = self.fanout.adopt(socket, subscription, Socket::watch_readable) {
            tracing::warn!(%error, "a subscriber could not be taken over");
        }
    }

    /// Looks for sockets that have become ready, without a system call as long as the poll is not; whether that is done.
    fn look(&mut self, events: &mut Events, polled: bool) -> bool {
        let mut polled = polled;
        if let Some(Ok(mut ready)) = self.poll.readable().now_or_never() {
            ready.clear_ready();
            polled = false;
        }
        polled || !self.poll_events(events)
    }

    /// Tells the fan-out of sockets that have become ready; whether there may be more of them.
    fn poll_events(&mut self, events: &mut Events) -> bool {
        if let Err(error) = self.poll.get_mut().poll(events, Some(Duration::ZERO)) {
            tracing::warn!(%error, "the readiness of sockets cannot be read");
            return error.kind() == io::ErrorKind::Interrupted;
        }
        let mut count = 0;
        for event in &*events {
            let Token(key) = event.token();
            if event.is_readable() || event.is_read_closed() || event.is_error() {
                self.fanout.readable(key);
            }
            if event.is_writable() {
                self.fanout.writable(key);
            }
            count += 1;
        }
        count == EVENTS
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
