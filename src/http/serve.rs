//! What a request means: the one way in.
//!
//! Two readers bring requests here, the fast path ([`super::fast`]) and the fallback ([`super::fallback`]). Neither decides
//! anything: which address takes which methods, whether the server drains, what pages of other origins may do, what is
//! answered. So a request means the same to both.

use std::time::Duration;

use actix_http::StatusCode;
use futures_util::{FutureExt as _, future::Either};

use super::{
    Edge,
    answer::Answer,
    cors, fields,
    head::Head,
    page,
    problem::{Code, Problem},
    publish::{self, Payload},
    subscribe, topics,
};
use crate::{
    hub::Subscription,
    later::{self, LocalLater},
};

/// What comes of a request.
pub(super) enum Reply {
    /// All there is.
    Answer(Answer),
    /// The head of a stream with its first bytes, and the subscriber that the hub is given once they are out.
    Stream(Answer, Box<Subscription>),
}

/// A reply, now or later.
pub(super) type Served<'a> = LocalLater<'a, Reply>;

/// What is known of a request's body.
pub(super) enum Body<'a> {
    /// All of it.
    Whole(&'a [u8]),
    /// It is still on its way.
    Coming(Payload),
}

/// The addresses.
enum Route<'a> {
    Publish,
    Subscribe,
    /// The topic as it is spelled in the path.
    Topic(&'a str),
    Alive,
    Ready,
    Page(&'static page::File),
}

/// Serves a request.
pub(super) fn serve<'a>(edge: &'a Edge, head: &impl Head, body: Body<'_>) -> Served<'a> {
    let permission = cors::permission(&edge.config.cors, head);
    if let Some(permission) = permission.as_ref().filter(|permission| permission.is_preflight()) {
        return now(Ok(permission.preflight(head)));
    }
    let served = route(edge, head, body);
    let is_head = head.method() == "HEAD";
    if permission.is_none() && !is_head {
        return served;
    }
    let finish = move |mut reply: Reply| {
        let answer = reply.answer_mut();
        answer.is_head = is_head;
        if let Some(permission) = &permission {
            permission.add_to(answer);
        }
        reply
    };
    match served {
        Either::Left(reply) => later::now(finish(reply.into_inner())),
        Either::Right(reply) => later(reply.map(finish)),
    }
}

fn route<'a>(edge: &'a Edge, head: &impl Head, body: Body<'_>) -> Served<'a> {
    let path = head.path();
    now(match (Route::of(path), head.method()) {
        (Some(Route::Publish), _) => return publish::serve(edge, head, body),
        (Some(Route::Subscribe), "GET") => return subscribe::serve(edge, head),
        (Some(Route::Subscribe), "HEAD") => subscribe::head(edge, head),
        (Some(Route::Topic(name)), "GET") => return topics::show(edge, name),
        (Some(Route::Topic(name)), "DELETE") => return topics::delete(edge, head, name),
        (Some(Route::Topic(_)), _) => Err(Problem::method_not_allowed("GET, DELETE")),
        (Some(Route::Alive), "GET" | "HEAD") => Ok(alive()),
        (Some(Route::Ready), "GET" | "HEAD") => is_ready(edge).map(|()| text(b"ready\n")),
        (Some(Route::Page(file)), "GET" | "HEAD") => Ok(page::answer(file)),
        (Some(_), _) => Err(Problem::method_not_allowed("GET, HEAD")),
        (None, _) => Err(unknown(path)),
    })
}

impl Route<'_> {
    fn of(path: &str) -> Option<Route<'_>> {
        if let Some(route) = Self::with_name(path) {
            return Some(route);
        }
        if let Some(name) = path.strip_prefix("/topics/").filter(|name| !name.is_empty()) {
            return Some(Route::Topic(name));
        }
        // `/%70ublish` is another spelling of the same address (RFC 3986, section 6.2.2.2).
        let decoded = fields::decode_path(path, b"").ok()?;
        if decoded == path { None } else { Self::with_name(&decoded) }
    }

    fn with_name(path: &str) -> Option<Route<'static>> {
        match path {
            "/publish" => Some(Route::Publish),
            "/subscribe" => Some(Route::Subscribe),
            "/healthz" => Some(Route::Alive),
            "/readyz" => Some(Route::Ready),
            path => page::find(path).map(Route::Page),
        }
    }
}

impl Reply {
    fn answer_mut(&mut self) -> &mut Answer {
        match self {
            Self::Answer(answer) | Self::Stream(answer, _) => answer,
        }
    }
}

impl From<Result<Answer, Problem>> for Reply {
    fn from(answer: Result<Answer, Problem>) -> Self {
        Self::Answer(answer.unwrap_or_else(|problem| problem.answer()))
    }
}

/// A reply that is at hand.
pub(super) fn now<'a>(answer: Result<Answer, Problem>) -> Served<'a> {
    later::now(answer.into())
}

/// A reply that has to be waited for.
pub(super) fn later<'a, T: Into<Reply> + 'a>(reply: impl Future<Output = T> + 'a) -> Served<'a> {
    Either::Right(reply.map(Into::into).boxed_local())
}

/// The answer to `GET /healthz`.
pub(super) fn alive() -> Answer {
    text(b"ok\n")
}

fn text(body: &'static [u8]) -> Answer {
    Answer::new(StatusCode::OK).with("content-type", "text/plain; charset=utf-8").body(body)
}

fn is_ready(edge: &Edge) -> Result<(), Problem> {
    edge.check_open()?;
    let writable = edge.log.check();
    writable.map_err(|error| Problem::new(Code::Unavailable, error.to_string()).retry_after(Duration::from_secs(1)))
}

fn unknown(path: &str) -> Problem {
    // Where the topic is in the path with others.
    let hint = ["/publish", "/subscribe"].into_iter().find_map(|route| {
        let topic = path.strip_prefix(route)?.strip_prefix('/').filter(|topic| !topic.is_empty())?;
        Some(format!("; the topic is a parameter: {route}?topic={topic}"))
    });
    let detail = format!("there is nothing at this address{}", hint.unwrap_or_default());
    Problem::new(Code::NotFound, detail)
}
