//! What browsers are told about pages of other origins (Fetch standard, section 3.2): exact origins with credentials, or
//! everybody without.
//!
//! This lets a page read an answer. Whether the page may make the browser send the request at all is another question
//! ([`super::origin`]).

use std::borrow::Cow;

use actix_http::StatusCode;

use super::{answer::Answer, head::Head, origin::is_listed};
use crate::config::{CorsConfig, Origins};

/// What a request of some page gets to know.
pub(super) struct Permission {
    /// `*`, or the page's own origin; `None` when it is not listed, or when no page asks.
    origin: Option<Cow<'static, str>>,
    credentials: bool,
    is_preflight: bool,
}

const METHODS: &str = "GET, HEAD, POST, PUT, DELETE";
const EXPOSED: &str = "last-event-id, idempotency-replayed, retry-after";
/// Seconds for which a browser remembers a preflight's answer.
const MAX_AGE: &str = "3600";
/// What an answer depends on, for caches.
const VARY: &str = "Origin, Access-Control-Request-Method, Access-Control-Request-Headers";

/// What the answer to a request tells browsers; `None` when no other origin is listed, and nothing is told to any.
pub(super) fn permission(config: &CorsConfig, head: &impl Head) -> Option<Permission> {
    if config.origins == Origins::default() {
        return None;
    }
    let is_for_all = config.origins == Origins::Any;
    let listed = head.text("origin").filter(|origin| is_listed(&config.origins, Some(origin)));
    let origin = listed.map(|origin| if is_for_all { Cow::Borrowed("*") } else { Cow::Owned(origin.to_owned()) });
    let asks = head.value("origin").is_some() && head.value("access-control-request-method").is_some();
    Some(Permission { origin, credentials: !is_for_all, is_preflight: asks && head.method() == "OPTIONS" })
}

impl Permission {
    /// Whether the browser asks before it sends the page's own request.
    pub(super) fn is_preflight(&self) -> bool {
        self.is_preflight
    }

    /// The answer to a preflight. A page may set any header that it names.
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

    /// Adds to an answer what is permitted.
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
