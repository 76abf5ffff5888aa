//! What a worker counts of its requests. Only its thread writes here.

use std::{array, time::Instant};

use actix_http::StatusCode;

use super::{problem::Code, reply::Reply, route::Route};
use crate::{
    frame::GapReason,
    metrics::{Counter, Histogram, count_one},
};

/// The statuses that are counted one by one.
const STATUSES: [u16; 19] =
    [200, 201, 204, 400, 401, 403, 404, 405, 408, 409, 410, 413, 414, 415, 421, 429, 431, 503, 507];
const ROUTES: usize = Route::NAMES.len();

/// What one worker has counted of its requests since the server started.
// The counters of two workers are not in one cache line, nor in two that are fetched together.
#[derive(Debug)]
#[repr(align(128))]
pub struct HttpCounts {
    /// By the place of the route in [`Route::NAMES`] and of the status in [`STATUSES`].
    requests: [[Counter; STATUSES.len()]; ROUTES],
    /// By the place of the code in [`Code::ALL`].
    problems: [Counter; Code::ALL.len()],
    /// Problems of requests to subscribe, also if the status was 200, which makes an `EventSource` come back.
    streams_refused: [Counter; Code::ALL.len()],
    /// Without retries that found their event.
    pub(super) events_published: Counter,
    pub(super) bytes_published: Counter,
    /// Gaps that new streams begin with, by the place of the reason in [`GapReason::ALL`].
    pub(super) gaps: [Counter; GapReason::ALL.len()],
    /// From the moment when the request was read, on the fast path with its body, to the answer.
    pub(super) publish: Histogram,
}

impl Default for HttpCounts {
    fn default() -> Self {
        Self {
            requests: array::from_fn(|_| array::from_fn(|_| Counter::default())),
            problems: array::from_fn(|_| Counter::default()),
            streams_refused: array::from_fn(|_| Counter::default()),
            events_published: Counter::default(),
            bytes_published: Counter::default(),
            gaps: array::from_fn(|_| Counter::default()),
            publish: Histogram::default(),
        }
    }
}

impl HttpCounts {
    /// Counts a request to `route` that began at `begun`, and its reply.
    pub(super) fn note(&self, route: usize, begun: Instant, reply: &Reply) {
        let answer = reply.answer();
        let status = STATUSES.binary_search(&answer.status.as_u16());
        debug_assert!(status.is_ok(), "{} is not counted", answer.status);
        if let Some(counter) = self.requests.get(route).zip(status.ok()).and_then(|(row, at)| row.get(at)) {
            counter.add(1);
        }
        if let Some(code) = answer.code {
            self.note_problem(code);
            if route == SUBSCRIBE {
                count_one(Code::ALL, &self.streams_refused, &code);
            }
        }
        // Another status than 200 is that of a preflight.
        if route == PUBLISH && answer.status == StatusCode::OK {
            self.publish.add(begun.elapsed(), 1);
        }
    }

    /// Counts an event that was published, with so many bytes of content.
    pub(super) fn note_published(&self, bytes: usize) {
        self.events_published.add(1);
        self.bytes_published.add(u64::try_from(bytes).unwrap_or_default());
    }

    /// Counts a gap that a new stream begins with.
    pub(super) fn note_gap(&self, reason: GapReason) {
        count_one(GapReason::ALL, &self.gaps, &reason);
    }

    /// Counts a problem that was found before the request had a route.
    pub(super) fn note_problem(&self, code: Code) {
        count_one(Code::ALL, &self.problems, &code);
    }

    /// The requests of each route and status that have occurred. `all` has the counts of all workers.
    pub(super) fn requests<'a>(all: &'a [&'a Self]) -> impl Iterator<Item = (&'static str, u16, u64)> + 'a {
        let of = move |route: usize, at: usize| {
            let counter =
                |counts: &&Self| counts.requests.get(route).and_then(|row| row.get(at)).map_or(0, Counter::get);
            all.iter().map(counter).sum::<u64>()
        };
        let rows = (0..).zip(Route::NAMES);
        rows.flat_map(move |(route, name)| (0..).zip(STATUSES).map(move |(at, status)| (name, status, of(route, at))))
            .filter(|(_, _, count)| *count > 0)
    }

    /// How often each code has occurred.
    pub(super) fn problems<'a>(all: &'a [&'a Self]) -> impl Iterator<Item = (&'static str, u64)> + 'a {
        sums(all, |counts| &counts.problems)
    }

    /// How many requests to subscribe were refused with each code.
    pub(super) fn streams_refused<'a>(all: &'a [&'a Self]) -> impl Iterator<Item = (&'static str, u64)> + 'a {
        sums(all, |counts| &counts.streams_refused)
    }
}

const PUBLISH: usize = Route::Publish.index();
const SUBSCRIBE: usize = Route::Subscribe.index();

type ByCode = [Counter; Code::ALL.len()];

fn sums<'a>(
    all: &'a [&'a HttpCounts],
    of: impl Fn(&HttpCounts) -> &ByCode + 'a,
) -> impl Iterator<Item = (&'static str, u64)> + 'a {
    (0..).zip(Code::ALL).map(move |(at, code)| {
        let count = |counts: &&HttpCounts| of(counts).get(at).map_or(0, Counter::get);
        (code.as_str(), all.iter().map(count).sum())
    })
}
