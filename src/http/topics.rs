//! `/topics/{topic}`: what is known of a topic, and its end.

use std::time::Duration;

use actix_web::{HttpRequest, HttpResponse, http::StatusCode, web};
use serde_json::json;

use super::{Edge, fields, problem::Problem, refusal::refusal};
use crate::event::{EventId, TopicName};

/// What a client waits before it tries again when a deletion was not taken.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// `GET /topics/{topic}`.
pub(super) async fn show(edge: web::Data<Edge>, request: HttpRequest) -> Result<HttpResponse, Problem> {
    let topic = name(&edge, &request)?;
    let live = edge.registry.find(topic.as_str());
    let held = edge.log.held(&topic);
    if live.is_none() && held.is_none() {
        return Err(unknown(&topic));
    }
    let held = held.unwrap_or_default();
    let id = |seq: Option<u64>| seq.map(|seq| EventId { epoch: edge.log.epoch(), seq }.to_string());
    let known = json!({
        "topic": topic.as_str(),
        "subscribers": live.map_or(0, |live| live.subscribers()),
        "first_id": id(held.first),
        "last_id": id(held.last),
        "events": held.events,
        "bytes": held.bytes,
    });
    Ok(HttpResponse::Ok().content_type("application/json").body(format!("{known}\n")))
}

/// `DELETE /topics/{topic}`: ends its streams, forgets its history.
pub(super) async fn delete(edge: web::Data<Edge>, request: HttpRequest) -> Result<HttpResponse, Problem> {
    super::origin::check(&request, &edge.config.cors)?;
    edge.check_open()?;
    let _under_way = edge.under_way.upgrade().ok_or_else(Edge::draining)?;
    let topic = name(&edge, &request)?;
    if edge.registry.find(topic.as_str()).is_none() && edge.log.held(&topic).is_none() {
        return Err(unknown(&topic));
    }
    edge.registry.delete(&topic).await.map_err(|error| refusal(&error, RETRY_AFTER))?;
    Ok(HttpResponse::NoContent().finish())
}

/// The topic in the path: all that follows, so that a name may hold a slash, spelled as it is or as `%2F`.
fn name(edge: &Edge, request: &HttpRequest) -> Result<TopicName, Problem> {
    let path = request.uri().path();
    let raw = path.strip_prefix("/topics/").unwrap_or(path);
    // A plus stands for itself in a path (RFC 3986, section 3.3), unlike in a form.
    let raw = raw.replace('+', "%2B");
    let topic = fields::decode(raw.as_bytes(), "the path", b"topic")?;
    edge.topics(std::iter::once(&*topic), 0).map(|(mut topics, _)| topics.remove(0))
}

fn unknown(topic: &TopicName) -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "topic_unknown", format!("nothing is known of the topic `{topic}`"))
}
