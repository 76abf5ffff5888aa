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

/// The deadline of what a connection waits for.
pub(super) struct Deadline {
    keep_alive: Duration,
    head_timeout: Duration,
    wait: Wait,
    /// `None` while a new wait has not started.
    at: Option<Instant>,
    /// Whether a request was served since `at` was set. Then `at` is too early for the next request. `poll` corrects it
    /// when the timer fires: it sets `at` to `keep_alive` after that moment. So the clock is not read for each request,
    /// but a connection may be idle for up to 2 x `keep_alive`.
    has_served: bool,
    /// Fires at the deadline or earlier. If it fires earlier, `poll` sets it again. That costs less than to set it for
    /// each request.
    timer: Option<Pin<Box<Sleep>>>,
    /// Whether the timer was polled since it was set. Then it will wake the connection's task.
    is_armed: bool,
}

impl Deadline {
    /// The deadline of a connection that was just accepted.
    pub(super) fn new(config: &ServerConfig) -> Self {
        Self {
            keep_alive: config.keep_alive,
            head_timeout: config.head_timeout,
            wait: Wait::FirstRequest,
            at: Some(Instant::now() + config.head_timeout),
            has_served: false,
            timer: None,
            is_armed: false,
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
            self.at = None;
        }
        self.wait = wait;
    }

    /// Notes that a request was served, and that the connection waits for the next one.
    ///
    /// If the request was not the first one, and arrived in one piece, the wait was `NextRequest` before, too. Then
    /// `at` stays, and `poll` corrects it later.
    pub(super) fn finish_request(&mut self) {
        self.has_served = true;
        self.wait_for(Wait::NextRequest);
    }

    /// Sets the deadline of a new wait, and the timer, now that the connection has to wait.
    pub(super) fn start(&mut self) {
        let timeout = match self.wait {
            Wait::FirstRequest | Wait::Head => self.head_timeout,
            Wait::NextRequest => self.keep_alive,
            Wait::Body => BODY_TIMEOUT,
        };
        let at = *self.at.get_or_insert_with(|| {
            self.has_served = false;
            Instant::now() + timeout
        });
        match &mut self.timer {
            Some(timer) if timer.deadline() <= at => {}
            Some(timer) => {
                timer.as_mut().reset(at);
                self.is_armed = false;
            }
            None => self.timer = Some(Box::pin(sleep_until(at))),
        }
    }

    /// Ready when the deadline has passed.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let (Some(timer), Some(at)) = (&mut self.timer, &mut self.at) else { return Poll::Pending };
        // This is called for each request, and an armed timer need not be polled again.
        if self.is_armed && !timer.is_elapsed() {
            return Poll::Pending;
        }
        loop {
            self.is_armed = true;
            ready!(timer.as_mut().poll(cx));
            let now = Instant::now();
            if self.wait == Wait::NextRequest && self.has_served {
                self.has_served = false;
                *at = now + self.keep_alive;
            }
            if *at <= now {
                return Poll::Ready(());
            }
            timer.as_mut().reset(*at);
        }
    }
}
