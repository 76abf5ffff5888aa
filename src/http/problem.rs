//! The errors that clients get: problem documents of RFC 9457 with a stable `code`.

use std::{fmt, time::Duration};

use serde_json::{Map, Value, json};

use super::answer::Answer;
use crate::limits::{LimitReached, RateError};

pub use super::code::Code;

/// How long a client waits before it retries after a failure that may pass by itself.
pub(super) const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Why a request is refused. The code is for programs, the detail is for people.
#[derive(Clone, Debug)]
pub struct Problem(Box<Parts>);

#[derive(Clone, Debug)]
struct Parts {
    code: Code,
    detail: String,
    /// For the header `Retry-After`.
    retry_after: Option<Duration>,
    /// For the header `Allow`.
    allow: Option<&'static str>,
    /// For the headers `RateLimit-Policy` and `RateLimit`.
    rate: Option<Box<RateFields>>,
    /// For the header `WWW-Authenticate`.
    challenge: Option<&'static str>,
    /// Further members of the document.
    members: Map<String, Value>,
}

/// The values of the headers that tell a client its rate (draft-ietf-httpapi-ratelimit-headers-10).
#[derive(Clone, Debug)]
struct RateFields {
    policy: String,
    current: String,
}

impl Problem {
    /// Creates a problem with the status of `code`.
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self(Box::new(Parts {
            code,
            detail: detail.into(),
            retry_after: None,
            allow: None,
            rate: None,
            challenge: None,
            members: Map::new(),
        }))
    }

    /// Creates [`Code::TooLarge`], with the limit.
    pub fn too_large(what: &str, limit: u64) -> Self {
        let detail = format!("{what} is larger than {limit} bytes");
        Self::new(Code::TooLarge, detail).with("limit", limit)
    }

    /// Creates [`Code::MethodNotAllowed`], with the allowed methods.
    pub fn method_not_allowed(allow: &'static str) -> Self {
        let detail = format!("the allowed methods at this address are {allow}");
        let mut problem = Self::new(Code::MethodNotAllowed, detail);
        problem.0.allow = Some(allow);
        problem
    }

    /// Creates [`Code::Unauthorized`] for a request without a token, with the challenge of RFC 6750, section 3.
    pub(super) fn unauthorized(detail: impl Into<String>) -> Self {
        let mut problem = Self::new(Code::Unauthorized, detail);
        problem.0.challenge = Some("Bearer realm=\"tidings\"");
        problem
    }

    /// As [`Self::unauthorized`], for a request with a token that is not valid.
    pub(super) fn invalid_token(detail: impl Into<String>) -> Self {
        let mut problem = Self::new(Code::Unauthorized, detail);
        problem.0.challenge = Some("Bearer realm=\"tidings\", error=\"invalid_token\"");
        problem
    }

    /// Adds a member to the document.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.0.members.insert(name.to_owned(), value.into());
        self
    }

    /// Adds the time after which the client may retry.
    #[must_use]
    pub fn retry_after(mut self, retry_after: Duration) -> Self {
        self.0.retry_after = Some(retry_after);
        self
    }

    /// The time after which the client may retry, if it may.
    pub(super) fn retry_time(&self) -> Option<Duration> {
        self.0.retry_after
    }

    /// The code.
    pub fn code(&self) -> Code {
        self.0.code
    }

    /// The explanation for people.
    pub fn detail(&self) -> &str {
        &self.0.detail
    }

    /// The response.
    pub(super) fn answer(&self) -> Answer {
        let status = self.0.code.status();
        let mut document = json!({
            "type": "about:blank",
            "title": status.canonical_reason(),
            "status": status.as_u16(),
            "code": self.0.code.as_str(),
            "detail": self.0.detail,
        });
        if let Value::Object(document) = &mut document {
            document.extend(self.0.members.clone());
        }
        let mut answer = Answer::new(status).with("content-type", "application/problem+json");
        answer.code = Some(self.0.code);
        if let Some(after) = self.0.retry_after {
            answer = answer.with("retry-after", whole_seconds(after).to_string());
        }
        if let Some(rate) = &self.0.rate {
            answer = answer.with("ratelimit-policy", rate.policy.clone()).with("ratelimit", rate.current.clone());
        }
        if let Some(allow) = self.0.allow {
            answer = answer.with("allow", allow);
        }
        if let Some(challenge) = self.0.challenge {
            answer = answer.with("www-authenticate", challenge);
        }
        answer.body(format!("{document}\n").into_bytes())
    }
}

/// The seconds for `Retry-After` (RFC 9110, section 10.2.3), rounded up, so that no client retries too early.
fn whole_seconds(time: Duration) -> u64 {
    (time.as_secs() + u64::from(time.subsec_nanos() > 0)).max(1)
}

impl From<RateError> for Problem {
    fn from(error: RateError) -> Self {
        let detail = error.to_string();
        match error {
            RateError::Reached { rate, per_second, remaining, wait, .. } => {
                let name = rate.key();
                let mut problem = Self::new(Code::RateLimited, detail).with("limit", name).retry_after(wait);
                problem.0.rate = Some(Box::new(RateFields {
                    policy: format!("\"{name}\";q={per_second};w=1"),
                    current: format!("\"{name}\";r={remaining};t={}", whole_seconds(wait)),
                }));
                problem
            }
            RateError::TooManyTopics { per_second, topics, .. } => {
                Self::new(Code::TooManyTopicsNamed, detail).with("limit", per_second).with("given", topics)
            }
        }
    }
}

impl From<LimitReached> for Problem {
    fn from(error: LimitReached) -> Self {
        let code = match error {
            LimitReached::Subscribers(_) => Code::TooManyConnections,
            LimitReached::SubscribersPerIp(_) => Code::TooManyConnectionsPerIp,
            LimitReached::SubscribersOfCredential(_) => Code::TooManySubscribersOfToken,
            LimitReached::TopicsPerIp(_) => Code::TooManyTopicsPerIp,
            LimitReached::PendingConnections(_) => Code::TooManyPendingConnections,
            LimitReached::PendingConnectionsPerIp(_) => Code::TooManyPendingConnectionsPerIp,
            LimitReached::RequestBytes(_) => Code::TooManyRequestBytes,
            LimitReached::RequestBytesPerIp(_) => Code::TooManyRequestBytesPerIp,
            LimitReached::OpenFiles => Code::TooManyOpenFiles,
        };
        Self::new(code, error.to_string()).retry_after(RETRY_AFTER)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.0.code.as_str(), self.0.detail)
    }
}
