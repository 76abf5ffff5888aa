//! Errors as the outside sees them: RFC 9457 problem documents with a stable `code`.

use std::{fmt, time::Duration};

use actix_http::StatusCode;
use serde_json::{Map, Value, json};

use super::answer::Answer;
use crate::limits::{TooManyBytes, TooManyPending};

/// A refusal. `code` is API: clients branch on it; `detail` is for people.
#[derive(Clone, Debug)]
pub struct Problem(Box<Parts>);

#[derive(Clone, Debug)]
struct Parts {
    status: StatusCode,
    code: &'static str,
    detail: String,
    retry_after: Option<Duration>,
    allow: Option<&'static str>,
    members: Map<String, Value>,
}

impl Problem {
    /// A refusal with `status`.
    pub fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        Self(Box::new(Parts {
            status,
            code,
            detail: detail.into(),
            retry_after: None,
            allow: None,
            members: Map::new(),
        }))
    }

    /// 400: what is wrong and where.
    pub fn bad_request(code: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, detail)
    }

    /// 503 that is worth another try after `retry_after`.
    pub fn unavailable(code: &'static str, detail: impl Into<String>, retry_after: Duration) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, code, detail).retry_after(retry_after)
    }

    /// 413, with the limit.
    pub fn too_large(what: &str, limit: u64) -> Self {
        let detail = format!("{what} is larger than {limit} bytes");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", detail).with("limit", limit)
    }

    /// 405, with what is allowed.
    pub fn method_not_allowed(allow: &'static str) -> Self {
        let detail = format!("this address answers {allow}");
        let mut problem = Self::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", detail);
        problem.0.allow = Some(allow);
        problem
    }

    /// Adds a member to the document.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.0.members.insert(name.to_owned(), value.into());
        self
    }

    /// With the time after which a retry makes sense.
    #[must_use]
    pub fn retry_after(mut self, retry_after: Duration) -> Self {
        self.0.retry_after = Some(retry_after);
        self
    }

    /// The status of the response.
    pub fn status(&self) -> StatusCode {
        self.0.status
    }

    /// The stable code.
    pub fn code(&self) -> &'static str {
        self.0.code
    }

    /// The explanation.
    pub fn detail(&self) -> &str {
        &self.0.detail
    }

    /// The response.
    pub(super) fn answer(&self) -> Answer {
        let mut document = json!({
            "type": "about:blank",
            "title": self.0.status.canonical_reason(),
            "status": self.0.status.as_u16(),
            "code": self.0.code,
            "detail": self.0.detail,
        });
        if let Value::Object(document) = &mut document {
            document.extend(self.0.members.clone());
        }
        let mut answer = Answer::new(self.0.status).with("content-type", "application/problem+json");
        answer = answer.with("x-content-type-options", "nosniff").with("cache-control", "no-store");
        if let Some(after) = self.0.retry_after {
            // Whole seconds (RFC 9110, section 10.2.3), rounded up: too late beats too early.
            let seconds = after.as_secs() + u64::from(after.subsec_nanos() > 0);
            answer = answer.with("retry-after", seconds.max(1).to_string());
        }
        if let Some(allow) = self.0.allow {
            answer = answer.with("allow", allow);
        }
        answer.body(format!("{document}\n").into_bytes())
    }
}

impl From<TooManyBytes> for Problem {
    fn from(error: TooManyBytes) -> Self {
        let (detail, retry_after) = (error.to_string(), Duration::from_secs(1));
        match error {
            TooManyBytes::Overall { .. } => Self::unavailable("too_many_request_bytes", detail, retry_after),
            TooManyBytes::PerIp { .. } => {
                Self::new(StatusCode::TOO_MANY_REQUESTS, "too_many_request_bytes_per_ip", detail)
                    .retry_after(retry_after)
            }
        }
    }
}

impl From<TooManyPending> for Problem {
    fn from(error: TooManyPending) -> Self {
        let (detail, retry_after) = (error.to_string(), Duration::from_secs(1));
        match error {
            TooManyPending::Overall { .. } => Self::unavailable("too_many_pending_connections", detail, retry_after),
            TooManyPending::PerIp { .. } => {
                Self::new(StatusCode::TOO_MANY_REQUESTS, "too_many_pending_connections_per_ip", detail)
                    .retry_after(retry_after)
            }
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.0.code, self.0.detail)
    }
}
