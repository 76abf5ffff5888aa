//! How long a connection may wait: for its first request, for the rest of a request, for the next request.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::time::{Instant, Sleep, sleep_until};

use crate::config::ServerConfig;

/// How long the fast path waits for the rest of a body. After that the fallback gets the request, with its own timeout
/// for the body.
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

/// The deadline of a connection's current wait.
pub(super) struct Deadline {
    keep_alive: Duration,
    head_timeout: Duration,
    /// What the deadline is for; `None` after a request, until the next wait starts.
    wait: Option<Wait>,
    at: Instant,
    /// Requests were served since `at` was set.
    was_active: bool,
    /// May fire before the deadline: to let it fire once too early costs less than to reset it for each request.
    timer: Option<Pin<Box<Sleep>>>,
    /// The timer was polled since it was set, so it will wake this connection's task.
    is_armed: bool,
}

impl Deadline {
    /// The deadline of a connection that was just accepted.
    pub(super) fn new(config: &ServerConfig) -> Self {
        Self {
            keep_alive: config.keep_alive,
            head_timeout: config.head_timeout,
            wait: Some(Wait::FirstRequest),
            at: Instant::now() + config.head_timeout,
            was_active: false,
            timer: None,
            is_armed: false,
        }
    }

    /// Starts a wait, or continues the current one.
    pub(super) fn start(&mut self, wait: Wait) {
        // The deadline of the first request is also the deadline of its head. A client that sends a byte from time to
        // time must not gain time.
        let continues = self.wait == Some(wait) || (self.wait == Some(Wait::FirstRequest) && wait == Wait::Head);
        if !continues {
            self.wait = Some(wait);
            self.at = Instant::now() + self.timeout(wait);
        }
        match &mut self.timer {
            Some(timer) if continues || timer.deadline() <= self.at => {}
            Some(timer) => {
                timer.as_mut().reset(self.at);
                self.is_armed = false;
            }
            None => self.timer = Some(Box::pin(sleep_until(self.at))),
        }
    }

    fn timeout(&self, wait: Wait) -> Duration {
        match wait {
            Wait::FirstRequest | Wait::Head => self.head_timeout,
            Wait::NextRequest => self.keep_alive,
            Wait::Body => BODY_TIMEOUT,
        }
    }

    /// Notes that a request was served.
    pub(super) fn finish_request(&mut self) {
        self.was_active = true;
        // A wait for the next request stays: `poll` extends its deadline when the timer fires.
        if self.wait != Some(Wait::NextRequest) {
            self.wait = None;
        }
    }

    /// Ready when the deadline has passed.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(timer) = &mut self.timer else { return Poll::Pending };
        // This is called for each request, and an armed timer need not be polled again.
        if self.is_armed && !timer.is_elapsed() {
            return Poll::Pending;
        }
        loop {
            self.is_armed = true;
            ready!(timer.as_mut().poll(cx));
            let now = Instant::now();
            if self.wait == Some(Wait::NextRequest) && self.was_active {
                self.was_active = false;
                self.at = now + self.keep_alive;
            }
            if self.at <= now {
                return Poll::Ready(());
            }
            timer.as_mut().reset(self.at);
        }
    }
}
