//! The sockets of one worker: each worker thread has one hub, and every subscriber of that worker lives in it.
//!
//! ```text
//!  feed of committed events ───────────┐
//!  sockets handed over by HTTP ────────┼─► loop: apply the feed, adopt, poll ─► step by step: write ─► sockets
//!  readiness (mio under AsyncFd) ──────┘
//! ```
//!
//! A subscriber is a cursor into the log: history is its send queue, so a slow one costs little memory, and a burst
//! reaches a busy one in a single write. The hub shares its thread with the HTTP server, so it works in slices of time
//! and lets the requests that came in meanwhile go first: what they publish joins the next write.

use std::{
    cell::{RefCell, RefMut},
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
    log::{Batch, Feed, Log, Page, ReadError},
};

// Each file uses only files below it.
mod fanout;
mod lifetimes;
mod delivery;
mod streams;
mod backlog;
mod channels;
mod channel;
mod window;
mod handover;
mod socket;
mod connection;
mod segment;
mod unsent;
mod end;

use channels::SMALL_CHANNEL_MEMBERS_MAX;
pub use connection::{Peer, Subscription};
pub use delivery::PageRequest;
pub use end::End;
pub use fanout::Fanout;
pub use handover::Carrier;
pub use lifetimes::jitter;
use socket::Socket;
pub(crate) use socket::send;
pub use unsent::UnsentBytes;

/// How long the hub works before it lets the HTTP server have the thread. Shorter coalesces more of a burst, longer
/// spares switches; at half a millisecond neither shows in the figures (docs/performance.md).
const SLICE: Duration = Duration::from_micros(500);
/// The same while there is a backlog, whose writes are far larger: what others publish meanwhile waits behind them.
const BACKLOG_SLICE: Duration = Duration::from_micros(250);
/// Steps between two readings of the clock while there is no backlog.
const STEPS_PER_CLOCK_READ: u32 = 8;
/// Pages that are fetched at the same time. Further requests wait, so that replays of cold history share the disk.
const FETCHES_MAX: usize = 4;
/// Readiness events that one poll returns. Each may be a stream to close, and a thousand can close together.
const EVENTS: usize = 128;
/// The part of a drain's time in which streams are ended. The time that is left is for those whose sockets accept their
/// last bytes late.
const DRAIN_PART: f64 = 0.8;

/// Hands sockets over to the hub of this thread; cheap to clone.
#[derive(Clone)]
pub struct HubHandle(Rc<Shared>);

/// What the hub's task and its handles share.
#[derive(Default)]
struct Shared {
    /// Sockets that were handed over, and that the hub has not adopted yet.
    arrivals: RefCell<Vec<(TcpStream, Subscription)>>,
    notify: Notify,
    /// `None` when the hub has ended: nobody reads the arrivals any more.
    core: RefCell<Option<Core>>,
}

/// The part of a hub that delivers. Its task drives it, and a publisher on the same thread may, too: see
/// [`HubHandle::deliver`].
struct Core {
    feed: Arc<Feed>,
    fanout: Fanout<Socket>,
    registry: Rc<Registry>,
    /// Memory for what is taken from the feed.
    batch: Batch,
    /// A publisher drives it. When this is still set in the hub's own turn, that has panicked.
    is_delivering: bool,
}

/// How the server ends all hubs.
#[derive(Clone, Debug)]
pub struct Drain {
    /// Becomes the time within which the hub must end its streams.
    pub begin: watch::Receiver<Option<Duration>>,
    /// The hub holds a sender and drops it when its streams have ended. The server keeps one, too, and drops it when it
    /// begins to wait.
    pub done: mpsc::WeakSender<()>,
}

impl HubHandle {
    /// Starts this thread's hub on the running local set.
    ///
    /// # Errors
    /// When the system gives no poll instance.
    pub fn start(
        log: &Arc<dyn Log>,
        config: &StreamConfig,
        unsent: &Arc<UnsentBytes>,
        drain: Drain,
    ) -> io::Result<Self> {
        let shared = Rc::new(Shared::default());
        let handle = Self(Rc::clone(&shared));
        // The hub's task holds it, so that it is dropped when the task ends, however it ends.
        let done = drain.done.upgrade();
        let (log, config, unsent) = (Arc::clone(log), config.clone(), Arc::clone(unsent));
        let mut hub = Hub::new(&log, &config, &unsent, &shared)?;
        tokio::task::spawn_local(async move {
            let _done = done;
            // A bug that panics costs the streams of this worker, which resume, and not all streams to come.
            while let Err(error) = tokio::task::spawn_local(hub.run(drain.clone())).await {
                tracing::error!(%error, "a hub panicked and is started again; its subscribers resume");
                hub = match Hub::new(&log, &config, &unsent, &shared) {
                    Ok(hub) => hub,
                    Err(error) => {
                        tracing::error!(%error, "the hub cannot be started again");
                        break;
                    }
                }
            }
            shared.core.take();
            shared.arrivals.take();
        });
        Ok(handle)
    }

    /// Hands over a subscriber. The head of its response and the first bytes of its stream have been written. Its
    /// socket must not block, and must not be registered with another poll.
    pub fn adopt(&self, socket: TcpStream, subscription: Subscription) {
        // When the hub has ended, the socket is closed here. The client comes back, and its permits are free.
        if self.0.core.borrow().is_none() {
            return;
        }
        self.0.arrivals.borrow_mut().push((socket, subscription));
        self.0.notify.notify_one();
    }

    /// Delivers what has just been committed for so many subscribers, at once, where they are few: such an event need not
    /// wait for the requests that came with it, and their answers. All else is left to the hub's task, which the feed has
    /// woken: what many subscribers get goes out with what comes next, in one write each.
    pub fn deliver(&self, subscribers: usize) {
        if !(1..=SMALL_CHANNEL_MEMBERS_MAX).contains(&subscribers) {
            return;
        }
        let mut core = self.0.core.borrow_mut();
        let Some(core) = &mut *core else { return };
        if core.fanout.is_empty() {
            // What others get wakes nobody here, and a pause of the feed stays one.
            return;
        }
        core.is_delivering = true;
        core.receive(self.0.arrivals.take(), Instant::now());
        if core.fanout.is_work_small() {
            core.fanout.step();
        }
        core.is_delivering = false;
    }
}

/// The hub itself: the event loop around a [`Fanout`].
struct Hub {
    shared: Rc<Shared>,
    feed: Arc<Feed>,
    poll: AsyncFd<Poll>,
    /// Filled by each poll.
    events: Events,
    /// The last poll returned as many events as fit: there may be more.
    has_more_events: bool,
    fetches: FuturesUnordered<LocalBoxFuture<'static, Fetched>>,
}

/// A page that was requested for a connection.
struct Fetched {
    key: usize,
    id: NonZeroU32,
    page: Result<Page, ReadError>,
}

/// How far the hub is from its end.
#[derive(Clone, Copy)]
enum Phase {
    /// It serves its subscribers.
    Serving,
    /// The server has asked it to end its streams within this time. The next iteration of the loop begins with that.
    DrainRequested(Duration),
    /// It ends its streams, and itself when none is left, or at this time.
    Draining(Instant),
}

impl Hub {
    fn new(
        log: &Arc<dyn Log>,
        config: &StreamConfig,
        unsent: &Arc<UnsentBytes>,
        shared: &Rc<Shared>,
    ) -> io::Result<Self> {
        let poll = Poll::new()?;
        let registry = Rc::new(poll.registry().try_clone()?);
        // The feed is opened before the fan-out reads the watermark: what is committed in between comes twice, not
        // never.
        let feed = log.feed();
        let fanout = Fanout::new(Arc::clone(log), config.clone(), Arc::clone(unsent), Instant::now());
        #[expect(
            deprecated,
            reason = "its successor is unsafe to call; a Poll owns its descriptor and never changes it"
        )]
        let poll = AsyncFd::with_interest(poll, tokio::io::Interest::READABLE)?;
        let core = Core { feed: Arc::clone(&feed), fanout, registry, batch: Batch::default(), is_delivering: false };
        shared.core.replace(Some(core));
        Ok(Self {
            shared: Rc::clone(shared),
            feed,
            poll,
            events: Events::with_capacity(EVENTS),
            has_more_events: false,
            fetches: FuturesUnordered::new(),
        })
    }

    async fn run(mut self, mut drain: Drain) {
        let mut phase = Phase::Serving;
        loop {
            // The time is read before the feed: see `Fanout::apply`.
            let now = Instant::now();
            self.receive(now);
            if let Phase::DrainRequested(within) = phase {
                self.core().fanout.drain(within.mul_f64(DRAIN_PART));
                phase = Phase::Draining(now + within);
            }
            self.poll_sockets();
            let busy = self.core().work(now);
            if let Phase::Draining(ends_at) = phase
                && (ends_at <= now || self.is_empty())
            {
                return;
            }
            // Done also when there is other work: in a hub that is always busy, replays and a drain would wait for
            // ever.
            self.start_fetches();
            let supplied = self.supply_fetched();
            if matches!(phase, Phase::Serving) && drain.begin.has_changed().unwrap_or(true) {
                phase = Phase::DrainRequested(drain.begin.borrow_and_update().unwrap_or_default());
            }
            if busy || supplied || self.has_more_events || matches!(phase, Phase::DrainRequested(_)) {
                tokio::task::yield_now().await;
                continue;
            }
            if self.is_empty() {
                // A worker without subscribers does not wake up for what others publish.
                self.feed.pause();
            }
            let ends_at = if let Phase::Draining(ends_at) = phase { Some(ends_at) } else { None };
            let wake_at = self.core().fanout.next_deadline().into_iter().chain(ends_at).min();
            tokio::select! {
                () = self.feed.arrived() => {}
                () = self.shared.notify.notified() => {}
                ready = self.poll.readable() => drop(ready),
                Some(fetched) = self.fetches.next(), if !self.fetches.is_empty() => self.supply(fetched),
                () = sleep_until(wake_at) => {}
                changed = drain.begin.changed(), if matches!(phase, Phase::Serving) => {
                    let within = changed.ok().and_then(|()| *drain.begin.borrow());
                    phase = Phase::DrainRequested(within.unwrap_or_default());
                }
            }
        }
    }

    /// The part that delivers, for this task's own turn.
    #[expect(clippy::expect_used, reason = "it is put there when the hub is made, and goes after this task")]
    fn core(&self) -> RefMut<'_, Core> {
        RefMut::map(self.shared.core.borrow_mut(), |core| core.as_mut().expect("a hub that runs has its core"))
    }

    /// Whether there is no subscriber, neither here nor on the way here.
    fn is_empty(&self) -> bool {
        self.core().fanout.is_empty() && self.shared.arrivals.borrow().is_empty()
    }

    fn receive(&self, now: Instant) {
        let mut core = self.core();
        assert!(!core.is_delivering, "a publisher panicked while it delivered");
        core.receive(self.shared.arrivals.take(), now);
    }

    /// Starts to fetch pages that connections wait for, a few at a time.
    fn start_fetches(&mut self) {
        while self.fetches.len() < FETCHES_MAX
            && let Some(request) = { self.core().fanout.next_page_request() }
        {
            let PageRequest { key, id, page } = request;
            self.fetches.push(page.map(move |page| Fetched { key, id, page }).boxed_local());
        }
    }

    /// Gives the pages that have been fetched to their connections, without waiting; whether there was one.
    fn supply_fetched(&mut self) -> bool {
        let mut any = false;
        while let Some(Some(fetched)) = self.fetches.next().now_or_never() {
            self.supply(fetched);
            any = true;
        }
        any
    }

    fn supply(&self, Fetched { key, id, page }: Fetched) {
        self.core().fanout.supply(key, id, page);
    }

    /// Tells the fan-out which sockets have become ready. It makes no system call as long as the poll itself is not
    /// ready.
    fn poll_sockets(&mut self) {
        if let Some(Ok(mut ready)) = self.poll.readable().now_or_never() {
            ready.clear_ready();
            self.has_more_events = true;
        }
        if self.has_more_events {
            self.has_more_events = self.poll_events();
        }
    }

    /// As [`poll_sockets`](Self::poll_sockets), with the system call; whether there may be more events.
    fn poll_events(&mut self) -> bool {
        if let Err(error) = self.poll.get_mut().poll(&mut self.events, Some(Duration::ZERO)) {
            tracing::warn!(%error, "the readiness of sockets cannot be read");
            return error.kind() == io::ErrorKind::Interrupted;
        }
        let (mut count, mut core) = (0, self.shared.core.borrow_mut());
        let Some(Core { fanout, .. }) = &mut *core else { return false };
        for event in &self.events {
            let Token(key) = event.token();
            if event.is_readable() || event.is_read_closed() || event.is_error() {
                fanout.readable(key);
            }
            if event.is_writable() {
                fanout.writable(key);
            }
            count += 1;
        }
        count == EVENTS
    }
}

impl Core {
    /// Applies what has been committed, and adopts the sockets that were handed over. They are taken before the feed: see
    /// [`Fanout::adopt`].
    fn receive(&mut self, arrivals: Vec<(TcpStream, Subscription)>, now: Instant) {
        self.feed.take(&mut self.batch);
        self.fanout.apply(&mut self.batch, now);
        for (socket, subscription) in arrivals {
            let socket = Socket::new(socket, Rc::clone(&self.registry));
            if let Err(error) = self.fanout.adopt(socket, subscription, Socket::watch_readable) {
                tracing::warn!(%error, "the socket of a subscriber cannot be registered; its stream is closed");
            }
        }
    }

    /// Works until nothing is left to do or the slice of time that began at `now` is over; whether work is left. It
    /// takes one step at least: what was done before in this iteration may have used up the slice.
    fn work(&mut self, now: Instant) -> bool {
        let mut steps: u32 = 0;
        while self.fanout.has_work() {
            let has_backlog = self.fanout.has_backlog();
            let slice = if has_backlog { BACKLOG_SLICE } else { SLICE };
            steps += 1;
            let reads_clock = steps > 1 && (has_backlog || steps.is_multiple_of(STEPS_PER_CLOCK_READ));
            if reads_clock && Instant::now() >= now + slice {
                return true;
            }
            self.fanout.step();
        }
        false
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
