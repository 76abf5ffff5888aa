//! `/topics/{topic}/subscribers`, `/subscribers/{id}`, `/subjects/{name}`: lists subscribers, and ends their streams.

use actix_http::StatusCode;
use serde::Serialize;
use serde_json::{Value, json};

use super::{
    answer::Answer,
    app_state::AppState,
    audit, credentials,
    fields::{self, Fields},
    head::Head,
    origin,
    problem::{Code, Problem},
    reply::{Served, reply_later},
    topics,
};
use crate::{
    auth::{GrantAll, Manage},
    event::TopicName,
    hub::{Listed, SubscriberId},
};

/// The parameters of a list.
const PARAMETERS: [&str; 2] = ["after", "limit"];
/// How many subscribers a page of the list has, unless the client asks for another number.
const PAGE_DEFAULT: usize = 100;
/// The most subscribers of a page.
const PAGE_MAX: usize = 1000;

/// A page of a list.
#[derive(Serialize)]
struct Page {
    subscribers: Vec<Description>,
    /// Where the next page begins, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

/// What the answer says of a subscriber.
#[derive(Serialize)]
struct Description {
    id: String,
    since: String,
    cursor: String,
    /// Only if one subscriber was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    topics: Option<Vec<String>>,
}

impl Description {
    fn new(subscriber: &Listed<SubscriberId>, topics: Option<Vec<String>>) -> Self {
        Self {
            id: subscriber.id.to_string(),
            since: humantime::format_rfc3339_millis(subscriber.since).to_string(),
            cursor: subscriber.cursor.to_string(),
            topics,
        }
    }
}

/// Serves `GET /topics/{topic}/subscribers`. `name` is the topic as in the path, percent-encoded.
pub(super) fn list<'a>(app: &'a AppState, head: &impl Head, name: &str) -> Result<Served<'a>, Problem> {
    let grant = credentials::caller(app, head)?.grant(topics::parse(app, name)?)?;
    let query = Fields::query(head.query(), &PARAMETERS, &[])?;
    let after = match query.only("after")? {
        None => None,
        Some(id) => Some(SubscriberId::parse(id).ok_or_else(|| bad_parameter("after", "the `next` of another page"))?),
    };
    let limit = match query.only("limit")?.map(str::parse) {
        None => PAGE_DEFAULT,
        Some(Ok(limit @ 1..=PAGE_MAX)) => limit,
        Some(_) => return Err(bad_parameter("limit", &format!("a number of subscribers, from 1 to {PAGE_MAX}"))),
    };
    Ok(reply_later(async move {
        if !topics::is_known(app, &grant).await? {
            return Err(topics::unknown(grant.topic()));
        }
        // One more than the page has tells whether there is a next page.
        let mut page = app.gate.list_subscribers(&grant, after, limit + 1).await;
        let has_more = page.len() > limit;
        page.truncate(limit);
        let next = page.last().filter(|_| has_more).map(|last| last.id.to_string());
        let subscribers = page.iter().map(|subscriber| Description::new(subscriber, None)).collect();
        Ok(json_answer(&json!(Page { subscribers, next })))
    }))
}

/// Serves `GET /subscribers/{id}`.
pub(super) fn show<'a>(app: &'a AppState, head: &impl Head, id: &str) -> Result<Served<'a>, Problem> {
    let grant = credentials::caller(app, head)?.grant_all()?;
    let id = parse(id)?;
    Ok(reply_later(async move {
        let (subscriber, topics) = app.gate.hubs(grant).find(id).await.ok_or_else(unknown)?;
        let topics = topics.iter().map(TopicName::to_string).collect();
        Ok::<_, Problem>(json_answer(&json!(Description::new(&subscriber, Some(topics)))))
    }))
}

/// Serves `DELETE /subscribers/{id}`: ends the stream, and tells its client to stop.
pub(super) fn end<'a>(app: &'a AppState, head: &impl Head, id: &str) -> Result<Served<'a>, Problem> {
    origin::check(head, &app.config)?;
    app.check_open()?;
    let caller = credentials::caller(app, head)?;
    let grant = caller.grant_all()?;
    let (id, remote) = (parse(id)?, head.remote());
    Ok(reply_later(async move {
        let hubs = app.gate.hubs(grant);
        hubs.find(id).await.ok_or_else(unknown)?;
        audit::record(caller.identity(), remote, "end_subscriber", &id.to_string());
        if hubs.end(id).await { Ok(Answer::new(StatusCode::NO_CONTENT)) } else { Err(unknown()) }
    }))
}

/// Serves `DELETE /subjects/{name}`: ends the streams of a subject, and tells their clients to stop.
pub(super) fn end_subject<'a>(app: &'a AppState, head: &impl Head, name: &str) -> Result<Served<'a>, Problem> {
    origin::check(head, &app.config)?;
    app.check_open()?;
    let caller = credentials::caller(app, head)?;
    let grant = caller.grant_all()?;
    let subject = fields::decode_path(name, b"subject")?.into_owned();
    audit::record(caller.identity(), head.remote(), "end_subject", &subject);
    Ok(reply_later(async move {
        let Some(peers) = app.gate.peers() else {
            end_subject_here(app, grant, &subject).await;
            return Ok(Answer::new(StatusCode::NO_CONTENT));
        };
        // In a cluster, all servers end them when they read of it from the log, this one included.
        if let Err(error) = peers.end_subject(&subject).await {
            end_subject_here(app, grant, &subject).await;
            return Err(Problem::from(error));
        }
        Ok(Answer::new(StatusCode::NO_CONTENT))
    }))
}

async fn end_subject_here(app: &AppState, grant: GrantAll<Manage>, subject: &str) {
    // The subject's tickets are removed before its streams end. Otherwise one of them could open a stream after that.
    app.auth.remove_tickets_of(subject);
    app.gate.hubs(grant).end_subject(subject).await;
}

fn json_answer(document: &Value) -> Answer {
    Answer::new(StatusCode::OK).with("content-type", "application/json").body(format!("{document}\n").into_bytes())
}

fn parse(id: &str) -> Result<SubscriberId, Problem> {
    SubscriberId::parse(&fields::decode_path(id, b"id")?).ok_or_else(unknown)
}

fn unknown() -> Problem {
    Problem::new(Code::SubscriberUnknown, "there is no subscriber with this id; perhaps its stream has ended")
}

fn bad_parameter(name: &str, allowed: &str) -> Problem {
    Problem::new(Code::BadParameter, format!("`{name}` is not understood; allowed: {allowed}"))
}
