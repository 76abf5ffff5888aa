//! Which web pages may change something: publish, delete topics, end streams, take tickets.
//!
//! A page of another site can make a browser send a GET or a simple POST without a CORS preflight. CORS then only hides
//! the response, but the event is published. So a cross-site request of a browser is refused unless its origin is in
//! `cors.origins`. Clients other than browsers send neither `Origin` nor `Sec-Fetch-Site`, and are always allowed,
//! unless their token is in a cookie.
//!
//! `Sec-Fetch-Site` is checked first. The browser sets it, a page cannot, and it is correct even when a proxy changes
//! `Host`. But browsers send it only over HTTPS and to localhost. Without it, `Origin` must match the host.

use super::{
    authority::{Authority, Scheme},
    credentials::{is_by_certificate, is_by_cookie},
    head::{Head, ascii_text},
    problem::{Code, Problem},
};
use crate::config::{Config, Origins};

/// Refuses the request of a page that may change nothing.
pub(super) fn check(request: &impl Head, config: &Config) -> Result<(), Problem> {
    let origin = request.value("origin").map(|origin| ascii_text(origin).unwrap_or_default());
    let has_cookie = || is_by_cookie(request, &config.auth.cookie);
    let is_allowed_by_list = || match &config.cors.origins {
        // A browser sends a cookie and a certificate by itself, also for a page of another site. `"*"` does not allow
        // that: it stands for pages that the operator does not know.
        Origins::Any => !has_cookie() && !is_by_certificate(request),
        origins @ Origins::Only(_) => is_listed(origins, origin),
    };
    let allowed = match (request.value("sec-fetch-site"), origin) {
        // `none`: the user has typed the address. Forms and images of another page have other values.
        (Some(b"same-origin" | b"none"), _) => true,
        // Without the two headers, the server cannot know which page has sent the request.
        (None, None) => !has_cookie(),
        (Some(_), _) => is_allowed_by_list(),
        (None, Some(origin)) => {
            is_allowed_by_list() || request.host().is_some_and(|host| is_own(origin, host, request.scheme()))
        }
    };
    if allowed {
        return Ok(());
    }
    let detail = "a page of another site may not publish or delete here; add its origin to cors.origins to allow it (if \
                  this server has sent the page, a proxy has changed `Host`: configure the proxy to pass `Host` on, or to \
                  send X-Forwarded-Host, and list the proxy in server.trusted_proxies)";
    Err(Problem::new(Code::CrossSite, detail))
}

/// Whether `cors.origins` allows pages of `origin`.
pub(super) fn is_listed(origins: &Origins, origin: Option<&str>) -> bool {
    match origins {
        Origins::Any => true,
        Origins::Only(origins) => origin.is_some_and(|origin| origins.iter().any(|listed| listed == origin)),
    }
}

/// Whether `origin` is the origin of this server, which the client addressed as `host`. If the scheme is not known,
/// both schemes count, because a proxy may have ended TLS.
fn is_own(origin: &str, host: Authority<'_>, scheme: Option<Scheme>) -> bool {
    let Some((origin_scheme, authority)) = origin.split_once("://") else { return false };
    let Some(origin_scheme) = Scheme::parse(origin_scheme) else { return false };
    scheme.is_none_or(|scheme| scheme == origin_scheme)
        && Authority::parse(authority.as_bytes())
            .is_some_and(|origin| origin.is_same(&host, origin_scheme.default_port()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(origin: &str, host: &str) -> bool {
        Authority::parse(host.as_bytes()).is_some_and(|host| is_own(origin, host, None))
    }

    #[test]
    fn a_host_matches_in_all_its_spellings() {
        for (origin, host) in [
            ("http://x", "x"),
            ("http://x", "X:80"),
            ("https://x", "x"),
            ("https://x", "x:443"),
            ("https://X.example", "x.example."),
            ("http://x:8080", "x:8080"),
            ("http://[::1]:8080", "[::1]:8080"),
            ("http://[::1]", "[::1]:80"),
        ] {
            assert!(matches(origin, host), "{origin} {host}");
        }
        let host = Authority::parse(b"x").expect("a host");
        for (scheme, http, https) in
            [(None, true, true), (Some(Scheme::Http), true, false), (Some(Scheme::Https), false, true)]
        {
            let own = ["http://x", "https://x"].map(|origin| is_own(origin, host, scheme));
            assert_eq!(own, [http, https], "{scheme:?}");
        }
        for (origin, host) in [
            ("http://x", "x:443"),
            ("https://x", "x:80"),
            ("http://x:8080", "x"),
            ("http://x", "y"),
            ("http://x.evil", "x"),
            ("http://x", "x.evil"),
            ("http://x:99999", "x:99999"),
            ("http://[::1]:8080", "[::1]"),
            ("ftp://x", "x"),
            ("null", "null"),
            ("http://", ""),
            ("", ""),
        ] {
            assert!(!matches(origin, host), "{origin} {host}");
        }
    }
}
