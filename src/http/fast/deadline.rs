//! How long a connection may wait: for a request, for the rest of one, for the next.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::time::{Instant, Sleep, sleep_until};

use crate::config::ServerConfig;

/// A request that is not whole by then is left to the fallback, and its body to that one's time limit.
const WHOLE_WITHIN: Duration = Duration::from_secs(1);

/// What a connection waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wait {
    /// Its first request, of which nothing has come.
    First,
    /// The next one, of which nothing has come.
    Next,
    /// The rest of a request's head.
    Head,
    /// The rest of a request whose head has come.
    Body,
}

/// When the wait is over.
pub(super) struct Deadline {
    keep_alive: Duration,
    head: Duration,
    /// `None` between a request and what is waited for then.
    wait: Option<Wait>,
    until: Instant,
    /// There were requests since `until` was set.
    active: bool,
    /// It may ring earlier than the wait is over: to set it anew for each request would cost more than to let it ring
    /// once in vain.
    timer: Option<Pin<Box<Sleep>>>,
    /// The timer has been polled since it was set.
    armed: bool,
}

impl Deadline {
    /// Of a connection that has just been accepted.
    pub(super) fn new(config: &ServerConfig) -> Self {
        let (keep_alive, head) = (config.keep_alive, config.head_timeout);
        let until = Instant::now() + head;
        Self { keep_alive, head, wait: Some(Wait::First), until, active: false, timer: None, armed: false }
    }

    /// A wait begins, or goes on.
    pub(super) fn begin(&mut self, wait: Wait) {
        // The time of the first request runs on while its head comes: a client that sends a byte now and then gains none.
        let goes_on = self.wait == Some(wait) || (self.wait, wait) == (Some(Wait::First), Wait::Head);
        if !goes_on {
            self.wait = Some(wait);
            self.until = Instant::now() + self.span(wait);
        }
        match &mut self.timer {
            Some(timer) if goes_on || timer.deadline() <= self.until => {}
            Some(timer) => {
                timer.as_mut().reset(self.until);
                self.armed = false;
            }
            None => self.timer = Some(Box::pin(sleep_until(self.until))),
        }
    }

    fn span(&self, wait: Wait) -> Duration {
        match wait {
            Wait::First | Wait::Head => self.head,
            Wait::Next => self.keep_alive,
            Wait::Body => WHOLE_WITHIN,
        }
    }

    /// A request has been served.
    pub(super) fn met(&mut self) {
        self.active = true;
        self.wait = self.wait.filter(|wait| *wait == Wait::Next);
    }

    /// Ready when it is over.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(timer) = &mut self.timer else { return Poll::Pending };
        // It has this task's waker since it was set, and this is asked for each request.
        if self.armed && !timer.is_elapsed() {
            return Poll::Pending;
        }
        loop {
            self.armed = true;
            ready!(timer.as_mut().poll(cx));
            let now = Instant::now();
            if self.wait == Some(Wait::Next) && std::mem::take(&mut self.active) {
                self.until = now + self.keep_alive;
            }
            if self.until <= now {
                return Poll::Ready(());
            }
            timer.as_mut().reset(self.until);
        }
    }
}
