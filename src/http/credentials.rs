//! Who makes a request: finds the credential in the request, and lets [`crate::auth`] verify it.

use super::{
    app_state::AppState,
    fields::Fields,
    head::Head,
    local::{has_proxy_header, is_forwarded},
    problem::{Code, Problem},
};
use crate::auth::{Caller, Credential, Forbidden, Refused};

/// The query parameter of a token (RFC 6750, section 2.3).
const QUERY_TOKEN: &str = "access_token";

/// The caller of a request. The first credential counts: `Authorization`, then the query, then the cookie. A browser
/// sends the cookie by itself, so it comes last. Without a credential in the request, the client's certificate counts.
///
/// A credential that is not valid is an error, even if a caller without a credential may do the same: otherwise the
/// client would not notice that its token has expired.
pub(super) fn caller(app: &AppState, head: &impl Head) -> Result<Caller, Problem> {
    let config = &app.config.auth;
    if let Some(bearer) = bearer(head)? {
        return authenticate(app, head, bearer);
    }
    if config.query_token && head.query().contains(QUERY_TOKEN) {
        let query = Fields::query(head.query(), &[QUERY_TOKEN], &[])?;
        if let Some(token) = query.only(QUERY_TOKEN)? {
            return authenticate(app, head, token.as_bytes());
        }
    }
    if let Some(token) = cookie(head, &config.cookie) {
        return authenticate(app, head, token);
    }
    // With a header of a proxy, the certificate may be the proxy's. All clients of the proxy would get its rights.
    if let Some(certificate) = head.certificate()
        && !has_proxy_header(head)
        && let Some(caller) = app.auth.of_certificate(certificate)
    {
        return Ok(caller);
    }
    Ok(app.auth.anonymous(is_forwarded(head)))
}

/// Whether the request has the cookie of a token, and no `Authorization`.
pub(super) fn is_by_cookie(head: &impl Head, cookie_name: &str) -> bool {
    head.value("authorization").is_none() && cookie(head, cookie_name).is_some()
}

/// Whether the request comes with a client certificate, and no `Authorization`.
pub(super) fn is_by_certificate(head: &impl Head) -> bool {
    head.value("authorization").is_none() && head.certificate().is_some()
}

/// Verifies a credential. If too many credentials from an address are not valid, no signature is checked for it for a
/// while: a check takes far longer than all else that a refused request needs. Credentials that were verified before
/// still count, so that one client cannot lock out the others at the same address.
fn authenticate(app: &AppState, head: &impl Head, credential: &[u8]) -> Result<Caller, Problem> {
    if let Some(caller) = app.auth.recall(credential)? {
        return Ok(caller);
    }
    let attempt = app.rates.authenticate(head.remote())?;
    let caller = app.auth.authenticate(credential)?;
    app.rates.succeed(attempt);
    Ok(caller)
}

/// The token of `Authorization: Bearer` (RFC 6750, section 2.1).
fn bearer(head: &impl Head) -> Result<Option<&[u8]>, Problem> {
    let mut values = head.values("authorization");
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(Problem::new(Code::Repeated, "`Authorization` is given more than once"));
    }
    let scheme = value.get(..BEARER.len()).filter(|scheme| scheme.eq_ignore_ascii_case(BEARER));
    let token = scheme.and_then(|_| value.get(BEARER.len()..)).map(<[u8]>::trim_ascii);
    match token.filter(|token| !token.is_empty()) {
        Some(token) => Ok(Some(token)),
        None => Err(Problem::invalid_token("`Authorization` must be `Bearer` and a token")),
    }
}

const BEARER: &[u8] = b"Bearer ";

/// The value of the cookie `name` (RFC 6265, section 4.2.1). An empty name means that no cookie carries a token.
fn cookie<'a>(head: &'a impl Head, name: &str) -> Option<&'a [u8]> {
    if name.is_empty() {
        return None;
    }
    let pairs = head.values("cookie").flat_map(|cookies| cookies.split(|b| *b == b';'));
    pairs.map(<[u8]>::trim_ascii).find_map(|pair| {
        let value = pair.strip_prefix(name.as_bytes())?.strip_prefix(b"=")?;
        (!value.is_empty()).then_some(value)
    })
}

impl From<Refused> for Problem {
    fn from(error: Refused) -> Self {
        Self::invalid_token(error.to_string())
    }
}

impl From<Forbidden> for Problem {
    fn from(error: Forbidden) -> Self {
        let Forbidden { right, topic, credential } = error;
        let what = match &topic {
            Some(topic) => format!("{right} the topic `{topic}`"),
            None => right.to_string(),
        };
        let problem = match credential {
            Credential::None => {
                let detail = format!(
                    "without a token, nobody may {what} here: send `Authorization: Bearer` and a token (the operator decides \
                     with auth.anonymous what is allowed without one; behind a proxy, `loopback` allows nothing)"
                );
                Self::unauthorized(detail)
            }
            Credential::Token => {
                Self::new(Code::Forbidden, format!("the token or certificate gives no right to {what}"))
            }
            Credential::Ticket => Self::new(Code::Forbidden, format!("the ticket gives no right to {what}")),
        };
        let problem = problem.with("right", right.to_string());
        match topic {
            Some(topic) => problem.with("topic", topic.as_str()),
            None => problem,
        }
    }
}
