//! How long a connection may wait: for its first request, for the rest of a request, for the next request.
//!
//! To set a new deadline after each request, the clock would have to be read each time. So the connection keeps the
//! deadline of an earlier wait: the present wait ends then or later ([`At::NotBefore`]).
//!
//! An example with a `keep_alive` of 60 seconds: at 0 s, the connection begins to wait for its next request, so its
//! deadline is at 60 s. A request is served at 50 s. At 60 s the timer fires, and the connection gets a new, exact
//! deadline: at 120 s. Then it is closed, 70 seconds after its last request. So a connection may be idle for up to
//! 2 x `keep_alive`.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::time::{Instant, Sleep, sleep_until};

use crate::config::ServerConfig;

/// How long the fast path waits for the rest of a body. After this time the request goes to the fallback, where
/// `publish.body_timeout` limits the wait.
const BODY_TIMEOUT: Duration = Duration::from_secs(1);

/// What a connection waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wait {
    /// Its first request. Nothing of it has arrived.
    FirstRequest,
    /// Another request. Nothing of it has arrived.
    NextRequest,
    /// The rest of a request's head.
    Head,
    /// The rest of a request's body.
    Body,
}

/// The deadline of what a connection waits for.
pub(super) struct Deadline {
    keep_alive: Duration,
    head_timeout: Duration,
    wait: Wait,
    at: At,
    timer: Timer,
}

/// When the wait ends.
#[derive(Clone, Copy)]
enum At {
    /// The wait has not started.
    NotStarted,
    /// At this time.
    Exact(Instant),
    /// Not before this time, which is the deadline of an earlier wait. At this time, the wait gets an exact deadline,
    /// `keep_alive` later.
    NotBefore(Instant),
}

impl Deadline {
    /// The deadline of a connection that was just accepted.
    pub(super) fn new(config: &ServerConfig) -> Self {
        Self {
            keep_alive: config.keep_alive,
            head_timeout: config.head_timeout,
            wait: Wait::FirstRequest,
            at: At::Exact(Instant::now() + config.head_timeout),
            timer: Timer::default(),
        }
    }

    /// What the connection waits for.
    pub(super) fn current_wait(&self) -> Wait {
        self.wait
    }

    /// Sets what the connection waits for.
    pub(super) fn wait_for(&mut self, wait: Wait) {
        // More bytes of a request do not move its deadline: otherwise a client could send a byte from time to time, for
        // ever. The first request and its head have the same deadline.
        let keeps_deadline = self.wait == wait || (self.wait == Wait::FirstRequest && wait == Wait::Head);
        if !keeps_deadline {
            self.at = At::NotStarted;
        }
        self.wait = wait;
    }

    /// Notes that a request was served, and that the connection waits for the next one.
    pub(super) fn finish_request(&mut self) {
        self.wait_for(Wait::NextRequest);
        // A request that arrives in one piece does not change `wait`. So `at` can still be the deadline from before
        // this request.
        if let At::Exact(at) = self.at {
            self.at = At::NotBefore(at);
        }
    }

    /// Starts the wait, now that the connection has to wait, and sets the timer.
    pub(super) fn start(&mut self) {
        let at = match self.at {
            At::Exact(at) | At::NotBefore(at) => at,
            At::NotStarted => {
                let at = Instant::now() + self.timeout();
                self.at = At::Exact(at);
                at
            }
        };
        self.timer.fire_by(at);
    }

    fn timeout(&self) -> Duration {
        match self.wait {
            Wait::FirstRequest | Wait::Head => self.head_timeout,
            Wait::NextRequest => self.keep_alive,
            Wait::Body => BODY_TIMEOUT,
        }
    }

    /// Ready when the wait has ended.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            // The timer may fire too early. Then it is set to the deadline, and polled again.
            ready!(self.timer.poll(cx));
            let now = Instant::now();
            let at = match self.at {
                At::NotStarted => return Poll::Pending,
                At::Exact(at) => at,
                At::NotBefore(_) => now + self.keep_alive,
            };
            self.at = At::Exact(at);
            if at <= now {
                return Poll::Ready(());
            }
            self.timer.reset(at);
        }
    }
}

/// A timer that fires at the deadline or earlier. To set it again after it has fired too early costs less than to set
/// it for each request.
#[derive(Default)]
struct Timer {
    sleep: Option<Pin<Box<Sleep>>>,
    /// Whether the timer was polled since it was set, and so will wake the connection's task.
    is_armed: bool,
}

impl Timer {
    /// Makes the timer fire at `at` or earlier.
    fn fire_by(&mut self, at: Instant) {
        match &self.sleep {
            Some(sleep) if sleep.deadline() <= at => {}
            Some(_) => self.reset(at),
            None => self.sleep = Some(Box::pin(sleep_until(at))),
        }
    }

    /// Makes the timer fire at `at`.
    fn reset(&mut self, at: Instant) {
        if let Some(sleep) = &mut self.sleep {
            sleep.as_mut().reset(at);
            self.is_armed = false;
        }
    }

    /// Ready when the timer has fired.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(sleep) = &mut self.sleep else { return Poll::Pending };
        // An armed timer need not be polled again. This function is called for each request, so it must cost little.
        if self.is_armed && !sleep.is_elapsed() {
            return Poll::Pending;
        }
        self.is_armed = true;
        sleep.as_mut().poll(cx)
    }
}
