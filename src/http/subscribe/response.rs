//! The responses to a request to subscribe: the head of a stream, short streams that refuse, and the 204 that tells a
//! client to stop.

use std::time::Duration;

use actix_http::StatusCode;
use bytes::Bytes;

use crate::{
    event::EventId,
    frame::{self, Encoding, Format, Framing},
    http::{
        answer::Answer,
        problem::{Code, Problem},
    },
};

/// Tells the client to stop: an `EventSource` that gets 204 does not come back (HTML standard, section 9.2.3).
pub(super) fn stop() -> Answer {
    Answer::new(StatusCode::NO_CONTENT)
}

/// The head of a stream's response, without `Transfer-Encoding`.
pub(super) fn stream_head(format: Format, id: Option<EventId>) -> Answer {
    let media_type = match format {
        Format::Plain | Format::Envelope => "text/event-stream; charset=utf-8",
        Format::Lines => "application/x-ndjson",
    };
    let mut head = Answer::new(StatusCode::OK).with("content-type", media_type).with("x-accel-buffering", "no");
    if let Some(id) = id {
        head = head.with("last-event-id", id.to_string());
    }
    head.cache_control = "no-cache, no-transform";
    (head.is_stream, head.is_last) = (true, true);
    head
}

/// A short stream with status 200 that tells an `EventSource` why it is refused. At any other status, an `EventSource`
/// would not reconnect.
pub(super) fn refused_stream(format: Format, retry: Duration, cursor: Option<EventId>, problem: &Problem) -> Answer {
    let body = frame::refused(format, retry, cursor, problem.code().as_str(), problem.detail());
    short_stream(format, body, problem.code())
}

/// As [`refused_stream`], for a ticket that is not valid.
pub(super) fn unauthorized_stream(retry: Duration, cursor: Option<EventId>, detail: &str) -> Answer {
    // The length of the body is known, so it is no chunk.
    let encoding = Encoding { format: Format::Plain, framing: Framing::Close };
    short_stream(encoding.format, frame::unauthorized(encoding, retry, cursor, detail), Code::Unauthorized)
}

fn short_stream(format: Format, body: Bytes, code: Code) -> Answer {
    let mut answer = stream_head(format, None).body(Vec::from(body));
    // The body is complete, so its length is sent.
    (answer.is_stream, answer.code) = (false, Some(code));
    answer
}
