//! Decides what a request means, and serves it.
//!
//! Two readers of requests call [`serve`]: the fast path ([`super::fast`]) and the fallback ([`super::fallback`]). The
//! readers do not decide which methods an address has, whether the server drains, which hosts it answers to, or what
//! pages of other origins may do. So a request means the same to both.

use std::time::Instant;

use futures_util::FutureExt as _;

use super::{
    app_state::AppState,
    cors,
    head::{Head, SentHead},
    health, hosts, metrics, page,
    payload::Body,
    problem::{Code, Problem},
    publish,
    received::Received,
    reply::{Reply, Served, reply_later, reply_now},
    route::Route,
    subscribe, subscribers, tickets, topics,
};
use crate::later::{Known, NotYet};

/// Serves a request, and counts it.
pub(super) fn serve<'a>(app: &'a AppState, head: &impl SentHead, body: Body<'_>) -> Served<'a> {
    let (begun, route) = (Instant::now(), Route::find(head.path()));
    let served = match Received::read(&app.config.server, head) {
        Ok(head) => serve_received(app, route, &head, body),
        Err(problem) => {
            let mut answer = problem.answer();
            answer.is_head = head.method() == "HEAD";
            reply_now(answer)
        }
    };
    let (route, counts) = (route.index(), &*app.own_counts);
    match served {
        Known(reply) => {
            let reply = reply.into_inner();
            counts.note(route, begun, &reply);
            reply_now(reply)
        }
        NotYet(reply) => reply_later(reply.inspect(move |reply| counts.note(route, begun, reply))),
    }
}

fn serve_received<'a>(app: &'a AppState, route: Route<'_>, head: &impl Head, body: Body<'_>) -> Served<'a> {
    let host_check = hosts::check(&app.config.server, head);
    let permission = cors::permission(&app.config.cors, head);
    if let Some(permission) = &permission
        && permission.is_preflight()
        && host_check.is_ok()
    {
        return reply_now(permission.preflight(head));
    }
    let served = host_check.and_then(|()| call(app, route, head, body));
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

/// Calls the handler of the request's route and method.
fn call<'a>(app: &'a AppState, route: Route<'_>, head: &impl Head, body: Body<'_>) -> Result<Served<'a>, Problem> {
    let method = head.method();
    let not_allowed = |allowed| Err(Problem::method_not_allowed(allowed));
    let answer = match (route, method) {
        (Route::Publish, _) => return publish::serve(app, head, body),
        (Route::Tickets, _) => return tickets::serve(app, head, body),
        (Route::Subscribe, "GET") => return subscribe::serve(app, head),
        (Route::Subscribe, "HEAD") => return subscribe::head(app, head),
        (Route::Topic(topic), "GET") => return topics::show(app, head, topic),
        (Route::Topic(topic), "DELETE") => return topics::delete(app, head, topic),
        (Route::TopicSubscribers(topic), "GET") => return subscribers::list(app, head, topic),
        (Route::Subscriber(id), "GET") => return subscribers::show(app, head, id),
        (Route::Subscriber(id), "DELETE") => return subscribers::end(app, head, id),
        (Route::Subject(subject), "DELETE") => return subscribers::end_subject(app, head, subject),
        (Route::Metrics, "GET" | "HEAD") => return metrics::serve(app, head),
        (Route::Topic(_) | Route::Subscriber(_), _) => return not_allowed("GET, DELETE"),
        (Route::TopicSubscribers(_), _) => return not_allowed("GET"),
        (Route::Subject(_), _) => return not_allowed("DELETE"),
        (Route::Health, "GET" | "HEAD") => Ok(health::alive()),
        (Route::Ready, "GET" | "HEAD") => health::ready(app),
        (Route::Page(file), "GET" | "HEAD") => Ok(page::answer(file)),
        (Route::Subscribe | Route::Health | Route::Ready | Route::Metrics | Route::Page(_), _) => {
            return not_allowed("GET, HEAD");
        }
        (Route::Unknown, _) => Err(not_found(head.path())),
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
