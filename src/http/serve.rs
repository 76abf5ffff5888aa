//! Decides what a request means, and serves it.
//!
//! Two readers of requests call this, the fast path ([`super::fast`]) and the fallback ([`super::fallback`]). They decide
//! nothing themselves: not which methods an address has, not whether the server drains, not what pages of other origins
//! may do. So a request means the same to both.

use futures_util::{FutureExt as _, future::Either};

use super::{
    app_state::AppState,
    cors, fields,
    head::Head,
    health, page,
    payload::Body,
    problem::{Code, Problem},
    publish,
    reply::{Reply, Served, later, now},
    subscribe, topics,
};
/// The addresses that are served.
enum Route<'a> {
    Publish,
    Subscribe,
    /// With the topic, as the path spells it.
    Topic(&'a str),
    /// `/healthz`.
    Alive,
    /// `/readyz`.
    Ready,
    /// A file of the bundled page.
    Page(&'static page::File),
}

/// Serves a request.
pub(super) fn serve<'a>(app: &'a AppState, head: &impl Head, body: Body<'_>) -> Served<'a> {
    let permission = cors::permission(&app.config.cors, head);
    if let Some(permission) = permission.as_ref().filter(|permission| permission.is_preflight()) {
        return now(Ok(permission.preflight(head)));
    }
    let served = route(app, head, body);
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
        Either::Left(reply) => crate::later::now(finish(reply.into_inner())),
        Either::Right(reply) => later(reply.map(finish)),
    }
}

fn route<'a>(app: &'a AppState, head: &impl Head, body: Body<'_>) -> Served<'a> {
    let path = head.path();
    now(match (Route::of(path), head.method()) {
        (Some(Route::Publish), _) => return publish::serve(app, head, body),
        (Some(Route::Subscribe), "GET") => return subscribe::serve(app, head),
        (Some(Route::Subscribe), "HEAD") => subscribe::head(app, head),
        (Some(Route::Topic(name)), "GET") => return topics::show(app, name),
        (Some(Route::Topic(name)), "DELETE") => return topics::delete(app, head, name),
        (Some(Route::Topic(_)), _) => Err(Problem::method_not_allowed("GET, DELETE")),
        (Some(Route::Alive), "GET" | "HEAD") => Ok(health::alive()),
        (Some(Route::Ready), "GET" | "HEAD") => health::ready(app),
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

fn unknown(path: &str) -> Problem {
    // Other brokers have the topic in the path.
    let hint = ["/publish", "/subscribe"].into_iter().find_map(|route| {
        let topic = path.strip_prefix(route)?.strip_prefix('/').filter(|topic| !topic.is_empty())?;
        Some(format!("; the topic is a parameter: {route}?topic={topic}"))
    });
    let detail = format!("there is nothing at this address{}", hint.unwrap_or_default());
    Problem::new(Code::NotFound, detail)
}
