//! `/topics/{topic}`: describes a topic, and deletes it.

use actix_http::StatusCode;
use serde_json::json;

use super::{
    answer::Answer,
    app_state::AppState,
    audit, fields,
    head::Head,
    origin,
    problem::{Code, Problem},
    reply::{Served, reply_later},
};
use crate::event::{EventId, TopicName};

/// Serves `GET /topics/{topic}`. `name` is the topic as in the path, percent-encoded.
pub(super) fn show<'a>(app: &'a AppState, name: &str) -> Result<Served<'a>, Problem> {
    Ok(reply_later(describe(app, parse(app, name)?)))
}

async fn describe(app: &AppState, topic: TopicName) -> Result<Answer, Problem> {
    let held = app.log.held(&topic).await?;
    let live = app.registry.find(topic.as_str());
    if live.is_none() && held.is_none() {
        return Err(unknown(&topic));
    }
    let held = held.unwrap_or_default();
    let id = |id: Option<EventId>| id.map(|id| id.to_string());
    let known = json!({
        "topic": topic.as_str(),
        "subscribers": live.map_or(0, |live| live.subscribers()),
        "first_id": id(held.first),
        "last_id": id(held.last),
        "events": held.events,
        "bytes": held.bytes,
    });
    Ok(Answer::new(StatusCode::OK).with("content-type", "application/json").body(format!("{known}\n").into_bytes()))
}

/// Serves `DELETE /topics/{topic}`: deletes its events, and ends its streams.
pub(super) fn delete<'a>(app: &'a AppState, head: &impl Head, name: &str) -> Result<Served<'a>, Problem> {
    origin::check(head, &app.config.cors)?;
    app.check_open()?;
    let (topic, remote) = (parse(app, name)?, head.remote());
    Ok(reply_later(async move {
        let _delays_drain = app.delay_drain()?;
        if !is_known(app, &topic).await? {
            return Err(unknown(&topic));
        }
        audit::record(None, remote, "delete_topic", topic.as_str());
        app.registry.delete(&topic, remote).await?;
        Ok(Answer::new(StatusCode::NO_CONTENT))
    }))
}

/// Whether the topic is live, or the log holds something of it.
pub(super) async fn is_known(app: &AppState, topic: &TopicName) -> Result<bool, Problem> {
    Ok(app.registry.find(topic.as_str()).is_some() || app.log.held(topic).await?.is_some())
}

/// Parses a topic of the path. Its name may contain slashes, as `/` or as `%2F`.
pub(super) fn parse(app: &AppState, name: &str) -> Result<TopicName, Problem> {
    let topic = fields::decode_path(name, b"topic")?;
    app.topics(std::iter::once(&*topic), 0).map(|(mut topics, _)| topics.remove(0))
}

pub(super) fn unknown(topic: &TopicName) -> Problem {
    Problem::new(Code::TopicUnknown, format!("the server does not know the topic `{topic}`"))
}
