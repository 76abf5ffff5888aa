//! Delivers events to subscribers. Each worker thread has one hub, which owns the sockets of the worker's subscribers.
//!
//! ```text
//!  feed of committed events ───────────┐
//!  sockets handed over by HTTP ────────┼─► loop: apply the feed, adopt, poll ─► step by step: write ─► sockets
//!  sockets that are ready ─────────────┤
//!  commands from other threads ────────┘
//! ```
//!
//! The hub has no send queue for a subscriber, only a cursor into the log. So a slow subscriber costs little memory,
//! and a subscriber gets a burst of events in a single write.
//!
//! # Words
//! - The *cursor* of a connection: the connection has been given every event of its topics up to this position. *Seen*:
//!   the hub has got every commit up to this position from the feed.
//! - A *channel*: the connections of one topic in one encoding, its *members*. Its *window* has the newest frames,
//!   which all members share. Streams of a single topic and streams of several topics are in different channels.
//! - A *visit* writes to one connection what it is missing. A *round* visits each member of a channel once, in *turns*
//!   between those of other channels. The *backlog* has the connections that must be visited apart from rounds.
//! - A *control block* is what the broker itself writes into a stream: a heartbeat, a notice, or the last block.
//! - `deleted_seq`: the last deletion that a channel knows of. `subscribed_seq`: the end of the log when a stream
//!   subscribed. HTTP has reported the deletions up to there, so the hub reports only later ones.
//!
//! The hub shares its thread with the HTTP server: it works in steps (see `fanout`) for a slice of time, then yields to
//! the requests. Both use the hub's state:
//!
//! ```text
//!  Hub: the event loop ───────────────────────────────┐
//!  HubHandle: HTTP hands over a socket, or delivers ──┴─► Shared ─► Core: the feed and the streams
//!             an event to few subscribers at once
//! ```

use std::{
    cell::{RefCell, RefMut},
    future::poll_fn,
    io,
    net::TcpStream,
    num::NonZeroU32,
    rc::Rc,
    sync::Arc,
    task,
    time::{Duration, Instant},
};

use futures_util::{FutureExt as _, StreamExt as _, future::LocalBoxFuture, stream::FuturesUnordered};
use mio::{Events, Poll, Token};
use tokio::{
    io::unix::AsyncFd,
    sync::{Notify, mpsc, watch},
};

use crate::{
    config::StreamConfig,
    log::{Batch, Feed, Log, Page, ReadError},
    transport::Transport,
};

// Each file uses only files below it. Those from `fanout` to `invariants` have methods of `Streams`, whose struct is in
// `streams`.
mod slice;
mod fanout;
mod lifetimes;
mod subscribers;
mod delivery;
mod rest;
mod pages;
mod invariants;
mod streams;
mod walk;
mod recent_ends;
mod backlog;
mod channels;
mod channel;
mod window;
mod handover;
mod socket;
mod connection;
mod segment;
mod unsent;
mod command;
mod counts;
mod end;
mod jitter;

use channels::SMALL_CHANNEL_MEMBERS_MAX;
pub use command::{Command, EndWhere, Hubs, Inbox, Listed, Matches, StreamId, SubscriberId};
pub use connection::{CheckedRight, Peer, Subscription};
pub use counts::HubCounts;
pub use end::End;
pub use handover::Carrier;
pub use jitter::jitter;
use slice::Core;
pub use streams::{PageRequest, Streams};
pub use unsent::UnsentBytes;

/// How many pages are fetched at the same time. Further requests wait, so that many replays do not overload the disk.
const FETCHES_MAX: usize = 4;
/// How many readiness events one poll returns at most, because many clients can disconnect at once.
const EVENTS_MAX: usize = 128;
/// The ends of streams are spread over this part of the drain time. The rest is for sockets that accept bytes late.
const DRAIN_PART: f64 = 0.8;

/// What HTTP uses of the hub of this thread. Cheap to clone.
#[derive(Clone)]
pub struct HubHandle(Rc<Shared>);

/// What the hub's task and its handles share.
#[derive(Default)]
struct Shared {
    /// Sockets that were handed over, but that the hub has not adopted yet.
    arrivals: RefCell<Vec<(Transport<TcpStream>, Subscription)>>,
    /// Wakes the hub's task when a socket was handed over.
    notify: Notify,
    /// The commands from other threads; `None` when the hub has ended.
    inbox: RefCell<Option<Inbox>>,
    /// `None` when the hub has ended.
    core: RefCell<Option<Core>>,
}

/// How the server ends all hubs.
#[derive(Clone, Debug)]
pub struct Drain {
    /// Becomes `Some` when the drain begins: the time within which the hub must end its streams.
    pub begin: watch::Receiver<Option<Duration>>,
    /// The drain has ended when all senders are dropped. A hub keeps a sender until its streams have ended, the server
    /// until the drain begins, and a request as long as the request waits for its body or for the log.
    pub delays_drain: mpsc::WeakSender<()>,
}

impl HubHandle {
    /// Starts this thread's hub on the running local set.
    ///
    /// # Errors
    /// When the system cannot create a poll.
    pub fn start(
        log: &Arc<dyn Log>,
        config: &StreamConfig,
        unsent: &Arc<UnsentBytes>,
        inbox: Inbox,
        drain: Drain,
    ) -> io::Result<Self> {
        let counts = Arc::clone(&inbox.counts);
        let shared = Rc::new(Shared { inbox: RefCell::new(Some(inbox)), ..Shared::default() });
        let handle = Self(Rc::clone(&shared));
        let delays_drain = drain.delays_drain.upgrade();
        let (log, config) = (Arc::clone(log), config.clone());
        let unsent = Arc::clone(unsent);
        let mut hub = Hub::new(&log, &config, &unsent, &counts, &shared)?;
        tokio::task::spawn_local(async move {
            let _delays_drain = delays_drain;
            // A panic closes the streams of this worker. Their clients resume at the new hub.
            while let Err(error) = tokio::task::spawn_local(hub.run(drain.clone())).await {
                tracing::error!(%error, "a hub panicked and is restarted; its subscribers must reconnect");
                hub = match Hub::new(&log, &config, &unsent, &counts, &shared) {
                    Ok(hub) => hub,
                    Err(error) => {
                        tracing::error!(%error, "the hub cannot be restarted");
                        break;
                    }
                }
            }
            shared.core.take();
            shared.arrivals.take();
            shared.inbox.take();
        });
        Ok(handle)
    }

    /// Hands over a subscriber whose response has begun: the head and the first bytes are written. The socket must be
    /// non-blocking, and not registered with another poll.
    pub fn adopt(&self, mut socket: Transport<TcpStream>, subscription: Subscription) {
        // When the hub has ended, or the client has left, this closes the socket and gives back its permits.
        if self.0.core.borrow().is_none() || !socket.begin_stream() {
            return;
        }
        self.0.arrivals.borrow_mut().push((socket, subscription));
        self.0.notify.notify_one();
    }

    /// Delivers an event that was just committed, whose topic has this many subscribers. If they are few, those of this
    /// hub get the event before other requests are answered. All others get the event from the tasks of their hubs,
    /// which the feeds have woken.
    pub fn deliver(&self, subscribers: usize) {
        if !(1..=SMALL_CHANNEL_MEMBERS_MAX).contains(&subscribers) {
            return;
        }
        let mut core = self.0.core.borrow_mut();
        let Some(core) = &mut *core else { return };
        if core.streams.is_empty() {
            // The subscribers are in other hubs. A hub without streams pauses its feed, so that commits do not wake the
            // hub. `Core::receive` would end the pause.
            return;
        }
        core.is_delivering = true;
        core.receive(self.0.arrivals.take(), Instant::now());
        if core.streams.is_work_small() {
            // Larger work is left to the hub's task.
            core.streams.step();
        }
        core.is_delivering = false;
    }
}

impl Shared {
    /// The next command. It is not lost if the future is dropped before it is ready.
    fn next_command(&self) -> impl Future<Output = Option<Command>> {
        poll_fn(|cx| {
            self.inbox.borrow_mut().as_mut().map_or(task::Poll::Ready(None), |inbox| inbox.commands.poll_recv(cx))
        })
    }
}

/// The hub's task: the event loop around [`Streams`].
struct Hub {
    shared: Rc<Shared>,
    feed: Arc<Feed>,
    /// This poll watches all sockets of the hub. Tokio watches only the poll.
    poll: AsyncFd<Poll>,
    /// The readiness events of the last poll.
    events: Events,
    /// A poll is due: a socket may be ready, or the last poll returned [`EVENTS_MAX`] events or was interrupted.
    has_more_events: bool,
    /// Pages that are being fetched.
    fetches: FuturesUnordered<LocalBoxFuture<'static, Fetched>>,
}

/// The key of a connection, the id of its page request, and the page.
type Fetched = (usize, NonZeroU32, Result<Page, ReadError>);

impl Hub {
    fn new(
        log: &Arc<dyn Log>,
        config: &StreamConfig,
        unsent: &Arc<UnsentBytes>,
        counts: &Arc<HubCounts>,
        shared: &Rc<Shared>,
    ) -> io::Result<Self> {
        let poll = Poll::new()?;
        let registry = Rc::new(poll.registry().try_clone()?);
        // Open the feed before `Streams` reads the watermark: a feed that is opened later misses the events in between.
        let feed = log.feed();
        let streams = Streams::new(Arc::clone(log), config.clone(), Arc::clone(unsent), Instant::now());
        let streams = streams.counting_in(Arc::clone(counts));
        // `with_interest` is deprecated because it trusts the caller that the descriptor stays open and is not
        // replaced. A `Poll` keeps its own descriptor for its whole life. The successor of `with_interest` is unsafe to
        // call.
        #[expect(deprecated, reason = "a `Poll` keeps its descriptor")]
        let poll = AsyncFd::with_interest(poll, tokio::io::Interest::READABLE)?;
        let core = Core { feed: Arc::clone(&feed), streams, registry, batch: Batch::default(), is_delivering: false };
        shared.core.replace(Some(core));
        Ok(Self {
            shared: Rc::clone(shared),
            feed,
            poll,
            events: Events::with_capacity(EVENTS_MAX),
            has_more_events: false,
            fetches: FuturesUnordered::new(),
        })
    }

    async fn run(mut self, mut drain: Drain) {
        // When the hub ends at the latest; `None` before the drain.
        let mut ends_at = None;
        // A command that has woken the hub.
        let mut command = None;
        loop {
            // The time is read before the feed: see `Streams::apply`.
            let now = Instant::now();
            self.receive(now);
            // The arrivals are adopted before the command, because the command may be about one of them.
            let is_commanded = self.obey(command.take());
            // An error means that the server is gone.
            if ends_at.is_none() && drain.begin.has_changed().unwrap_or(true) {
                let within = drain.begin.borrow_and_update().unwrap_or_default();
                self.core().streams.drain(within.mul_f64(DRAIN_PART));
                ends_at = Some(now + within);
            }
            self.poll_sockets();
            let mut is_busy = self.core().work(now) || is_commanded;
            if ends_at.is_some_and(|at| at <= now || self.is_empty()) {
                return;
            }
            // Fetches are handled even if there is other work: a hub that is always busy must handle them, too.
            self.start_fetches();
            while let Some(Some((key, id, page))) = self.fetches.next().now_or_never() {
                self.core().streams.supply(key, id, page);
                is_busy = true;
            }
            if is_busy || self.has_more_events {
                tokio::task::yield_now().await;
                continue;
            }
            if self.is_empty() {
                // The feed must not wake a worker that has no subscribers.
                self.feed.pause();
            }
            let wake_at = self.core().streams.next_deadline().into_iter().chain(ends_at).min();
            tokio::select! {
                () = self.feed.arrived() => {}
                () = self.shared.notify.notified() => {}
                Some(next) = self.shared.next_command() => command = Some(next),
                ready = self.poll.readable() => drop(ready),
                Some((key, id, page)) = self.fetches.next(), if !self.fetches.is_empty() => {
                    self.core().streams.supply(key, id, page);
                }
                () = sleep_until(wake_at) => {}
                // `changed` marks the value as seen, but the next iteration must find it unseen to begin the drain.
                _ = drain.begin.changed(), if ends_at.is_none() => drain.begin.mark_changed(),
            }
        }
    }

    #[expect(clippy::expect_used, reason = "the core is set when the hub is created, and removed after this task")]
    fn core(&self) -> RefMut<'_, Core> {
        RefMut::map(self.shared.core.borrow_mut(), |core| core.as_mut().expect("a running hub has its core"))
    }

    /// Whether no subscriber is adopted or handed over.
    fn is_empty(&self) -> bool {
        self.core().streams.is_empty() && self.shared.arrivals.borrow().is_empty()
    }

    fn receive(&self, now: Instant) {
        let mut core = self.core();
        assert!(!core.is_delivering, "HubHandle::deliver panicked");
        core.receive(self.shared.arrivals.take(), now);
    }

    /// Carries out `command`, or the next one of the inbox. Returns whether there was one.
    fn obey(&self, command: Option<Command>) -> bool {
        let command = command.or_else(|| self.shared.next_command().now_or_never().flatten());
        let Some(command) = command else { return false };
        self.core().streams.command(command);
        true
    }

    /// Starts to fetch pages that connections wait for, up to [`FETCHES_MAX`] at a time.
    fn start_fetches(&mut self) {
        while self.fetches.len() < FETCHES_MAX {
            let Some(PageRequest { key, id, page }) = self.core().streams.next_page_request() else { return };
            self.fetches.push(page.map(move |page| (key, id, page)).boxed_local());
        }
    }

    /// Tells [`Streams`] which sockets have become ready. It makes no system call if the poll has nothing to report.
    fn poll_sockets(&mut self) {
        if let Some(Ok(mut ready)) = self.poll.readable().now_or_never() {
            ready.clear_ready();
            self.has_more_events = true;
        }
        if !self.has_more_events {
            return;
        }
        if let Err(error) = self.poll.get_mut().poll(&mut self.events, Some(Duration::ZERO)) {
            tracing::warn!(%error, "cannot poll the subscribers' sockets");
            self.has_more_events = error.kind() == io::ErrorKind::Interrupted;
            return;
        }
        let (mut count, mut core) = (0, self.core());
        for event in &self.events {
            let Token(key) = event.token();
            if event.is_readable() || event.is_read_closed() || event.is_error() {
                core.streams.readable(key);
            }
            if event.is_writable() {
                core.streams.writable(key);
            }
            count += 1;
        }
        drop(core);
        self.has_more_events = count == EVENTS_MAX;
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
