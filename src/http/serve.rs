//! Decides what a request means, and serves it.
//!
//! Two readers of requests call [`serve`]: the fast path ([`super::fast`]) and the fallback ([`super::fallback`]). The
//! readers do not decide which methods an address has, whether the server drains, which hosts it answers to, or what
//! pages of other origins may do. So a request means the same to both.

use futures_util::FutureExt as _;

use super::{
    app_state::AppState,
    cors, fields,
    head::{Head, SentHead},
    health, hosts, page,
    payload::Body,
    problem::{Code, Problem},
    publish,
    received::Received,
    reply::{Reply, Served, reply_later, reply_now},
    subscribe, subscribers, tickets, topics,
};
use crate::later::{Known, NotYet};

/// Serves a request.
pub(super) fn serve<'a>(app: &'a AppState, head: &impl SentHead, body: Body<'_>) -> Served<'a> {
    match Received::read(&app.config.server, head) {
        Ok(head) => serve_received(app, &head, body),
        Err(problem) => {
            let mut answer = problem.answer();
            answer.is_head = head.method() == "HEAD";
            reply_now(answer)
        }
    }
}

fn serve_received<'a>(app: &'a AppState, head: &impl Head, body: Body<'_>) -> Served<'a> {
    let host_check = hosts::check(&app.config.server, head);
    let permission = cors::permission(&app.config.cors, head);
    if let Some(permission) = &permission
        && permission.is_preflight()
        && host_check.is_ok()
    {
        return reply_now(permission.preflight(head));
    }
    let served = host_check.and_then(|()| route(app, head, body));
    let served = served.unwrap_or_else(|problem| reply_now(problem.answer()));
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
        Known(reply) => reply_now(finish(reply.into_inner())),
        NotYet(reply) => reply_later(reply.map(finish)),
    }
}

/// Calls the handler of the request's path and method.
fn route<'a>(app: &'a AppState, head: &impl Head, body: Body<'_>) -> Result<Served<'a>, Problem> {
    let method = head.method();
    if let Some(topic) = head.path().strip_prefix("/topics/").filter(|topic| !topic.is_empty()) {
        // The path is divided before it is decoded. So the slash of a topic `a/subscribers` must be encoded.
        let listed = topic.strip_suffix("/subscribers").filter(|topic| !topic.is_empty());
        return match (listed, method) {
            (Some(topic), "GET") => subscribers::list(app, head, topic),
            (Some(_), _) => Err(Problem::method_not_allowed("GET")),
            (None, "GET") => topics::show(app, head, topic),
            (None, "DELETE") => topics::delete(app, head, topic),
            (None, _) => Err(Problem::method_not_allowed("GET, DELETE")),
        };
    }
    if let Some(id) = head.path().strip_prefix("/subscribers/").filter(|id| !id.is_empty()) {
        return match method {
            "GET" => subscribers::show(app, head, id),
            "DELETE" => subscribers::end(app, head, id),
            _ => Err(Problem::method_not_allowed("GET, DELETE")),
        };
    }
    if let Some(subject) = head.path().strip_prefix("/subjects/").filter(|subject| !subject.is_empty()) {
        return match method {
            "DELETE" => subscribers::end_subject(app, head, subject),
            _ => Err(Problem::method_not_allowed("DELETE")),
        };
    }
    // `/%70ublish` is another spelling of the same address (RFC 3986, section 6.2.2.2). The text needs no name (`b""`),
    // because the decoder's error, which would contain the name, is replaced.
    let path = fields::decode_path(head.path(), b"").map_err(|_| not_found(head.path()))?;
    let answer = match (&*path, method) {
        ("/publish", _) => return publish::serve(app, head, body),
        ("/tickets", _) => return tickets::serve(app, head, body),
        ("/subscribe", "GET") => return subscribe::serve(app, head),
        ("/subscribe", "HEAD") => return subscribe::head(app, head),
        ("/healthz", "GET" | "HEAD") => Ok(health::alive()),
        ("/readyz", "GET" | "HEAD") => health::ready(app),
        ("/subscribe" | "/healthz" | "/readyz", _) => Err(Problem::method_not_allowed("GET, HEAD")),
        (path, _) => match page::find(path) {
            Some(file) if matches!(method, "GET" | "HEAD") => Ok(page::answer(file)),
            Some(_) => Err(Problem::method_not_allowed("GET, HEAD")),
            None => Err(not_found(head.path())),
        },
    };
    answer.map(reply_now)
}

/// The problem for a path that is not served.
fn not_found(path: &str) -> Problem {
    // With other brokers, the topic is in the path.
    let hint = ["/publish", "/subscribe"].into_iter().find_map(|route| {
        let topic = path.strip_prefix(route)?.strip_prefix('/').filter(|topic| !topic.is_empty())?;
        Some(format!("; the topic is a parameter: {route}?topic={topic}"))
    });
    let detail = format!("there is nothing at this address{}", hint.unwrap_or_default());
    Problem::new(Code::NotFound, detail)
}
