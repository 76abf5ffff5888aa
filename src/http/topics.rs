//! `/topics/{topic}`: describes a topic, and deletes it.

use actix_http::StatusCode;
use serde_json::json;

use super::{
    answer::Answer,
    app_state::AppState,
    audit, credentials, fields,
    head::Head,
    origin,
    problem::{Code, Problem},
    reply::{Served, reply_later},
};
use crate::{
    auth::{Grant, Manage},
    event::{EventId, TopicName},
};

/// Serves `GET /topics/{topic}`. `name` is the topic as in the path, percent-encoded.
pub(super) fn show<'a>(app: &'a AppState, head: &impl Head, name: &str) -> Result<Served<'a>, Problem> {
    let caller = credentials::caller(app, head)?;
    Ok(reply_later(describe(app, caller.grant(parse(app, name)?)?)))
}

async fn describe(app: &AppState, grant: Grant<Manage>) -> Result<Answer, Problem> {
    let topic = grant.topic();
    let held = app.gate.held(&grant).await?;
    let subscribers = app.gate.subscribers(&grant);
    if subscribers.is_none() && held.is_none() {
        return Err(unknown(topic));
    }
    let held = held.unwrap_or_default();
    let id = |id: Option<EventId>| id.map(|id| id.to_string());
    let known = json!({
        "topic": topic.as_str(),
        "subscribers": subscribers.unwrap_or_default(),
        "first_id": id(held.first),
        "last_id": id(held.last),
        "events": held.events,
        "bytes": held.bytes,
    });
    Ok(Answer::new(StatusCode::OK).with("content-type", "application/json").body(format!("{known}\n").into_bytes()))
}

/// Serves `DELETE /topics/{topic}`: deletes its events, and ends the streams of this topic alone.
pub(super) fn delete<'a>(app: &'a AppState, head: &impl Head, name: &str) -> Result<Served<'a>, Problem> {
    origin::check(head, &app.config)?;
    app.check_open()?;
    let caller = credentials::caller(app, head)?;
    let (grant, remote) = (caller.grant(parse(app, name)?)?, head.remote());
    Ok(reply_later(async move {
        let _delays_drain = app.delay_drain()?;
        if !is_known(app, &grant).await? {
            return Err(unknown(grant.topic()));
        }
        audit::record(caller.identity(), remote, "delete_topic", grant.topic().as_str());
        app.gate.delete(&grant, remote).await?;
        Ok(Answer::new(StatusCode::NO_CONTENT))
    }))
}

/// Whether the topic is live, or the log holds something of it.
pub(super) async fn is_known(app: &AppState, grant: &Grant<Manage>) -> Result<bool, Problem> {
    Ok(app.gate.subscribers(grant).is_some() || app.gate.held(grant).await?.is_some())
}

/// Parses a topic of the path. Its name may contain slashes, as `/` or as `%2F`.
pub(super) fn parse(app: &AppState, name: &str) -> Result<TopicName, Problem> {
    let topic = fields::decode_path(name, b"topic")?;
    app.topics(std::iter::once(&*topic), 0).map(|mut named| named.topics.remove(0))
}

pub(super) fn unknown(topic: &TopicName) -> Problem {
    Problem::new(Code::TopicUnknown, format!("the server does not know the topic `{topic}`"))
}
