//! The CORS headers (Fetch standard, section 3.2). The configuration allows a list of origins, with credentials, or all
//! origins, without credentials.
//!
//! CORS decides whether a page of another origin may read a response. [`super::origin`] decides whether such a page may
//! change something.

use std::borrow::Cow;

use actix_http::StatusCode;

use super::{answer::Answer, head::Head, origin::is_listed};
use crate::config::{CorsConfig, Origins};

/// The CORS headers for the response to one request.
pub(super) struct Permission {
    /// The allowed origin: `*`, or the origin of the page. `None` if the page's origin is not listed, or the client is
    /// not a page. Then the response gets only `Vary`.
    origin: Option<Cow<'static, str>>,
    /// Whether the page may send credentials.
    credentials: bool,
    is_preflight: bool,
}

/// The methods that a page may use.
const METHODS: &str = "GET, HEAD, POST, PUT, DELETE";
/// The response headers that a page may read.
const EXPOSED: &str = "last-event-id, idempotency-replayed, retry-after, ratelimit-policy, ratelimit";
/// For how many seconds a browser may cache the response to a preflight.
const MAX_AGE: &str = "3600";
/// The request headers on which the response depends, for caches.
const VARY: &str = "Origin, Access-Control-Request-Method, Access-Control-Request-Headers";

/// The CORS headers for the response; `None` if the configuration allows no other origin.
pub(super) fn permission(config: &CorsConfig, head: &impl Head) -> Option<Permission> {
    if matches!(&config.origins, Origins::Only(origins) if origins.is_empty()) {
        return None;
    }
    let is_for_all = config.origins == Origins::Any;
    let listed = head.text("origin").filter(|origin| is_listed(&config.origins, Some(origin)));
    let origin = listed.map(|origin| if is_for_all { Cow::Borrowed("*") } else { Cow::Owned(origin.to_owned()) });
    let is_preflight = head.method() == "OPTIONS"
        && head.value("origin").is_some()
        && head.value("access-control-request-method").is_some();
    Some(Permission { origin, credentials: !is_for_all, is_preflight })
}

impl Permission {
    /// Whether the request is a preflight: the browser asks whether it may send the request of the page.
    pub(super) fn is_preflight(&self) -> bool {
        self.is_preflight
    }

    /// The response to a preflight. A page may set all the headers that it asks for.
    pub(super) fn preflight(&self, head: &impl Head) -> Answer {
        let mut answer = Answer::new(StatusCode::NO_CONTENT);
        if self.origin.is_some() {
            answer = answer.with("access-control-allow-methods", METHODS).with("access-control-max-age", MAX_AGE);
            if let Some(names) = head.text("access-control-request-headers") {
                answer = answer.with("access-control-allow-headers", names.to_owned());
            }
        }
        self.add_to(&mut answer);
        answer
    }

    /// Adds the headers to a response.
    pub(super) fn add_to(&self, answer: &mut Answer) {
        let mut add = |name, value| answer.headers.push((name, value));
        if let Some(origin) = &self.origin {
            add("access-control-allow-origin", origin.clone());
            if self.credentials {
                add("access-control-allow-credentials", Cow::Borrowed("true"));
            }
            if !self.is_preflight {
                add("access-control-expose-headers", Cow::Borrowed(EXPOSED));
            }
        }
        add("vary", Cow::Borrowed(VARY));
    }
}
