//! Which web pages may publish.
//!
//! A page of another site can make a browser send a GET or a simple POST without asking CORS first, and it is the
//! sending that publishes. So a browser's cross-site request is refused unless its origin is in `cors.origins`. Other
//! clients send neither `Origin` nor `Sec-Fetch-Site` and are not concerned.
//!
//! `Sec-Fetch-Site` is the browser's own word, which no page can set, and it knows what the page's address is however a
//! proxy changes `Host`: so it is believed first. Browsers send it over HTTPS and to this machine only; without it
//! `Origin` has to be the host that was asked.

use super::{
    head::{Head, visible},
    problem::{Code, Problem},
};
use crate::config::{CorsConfig, Origins};

pub(super) fn check(request: &impl Head, cors: &CorsConfig) -> Result<(), Problem> {
    let origin = request.value("origin").map(|origin| visible(origin).unwrap_or_default());
    let listed = is_listed(&cors.origins, origin);
    let allowed = match (request.value("sec-fetch-site"), origin) {
        // `none` is the address bar; a form or an image of another page is not.
        (Some(b"same-origin" | b"none"), _) | (None, None) => true,
        (Some(_), _) => listed,
        (None, Some(origin)) => listed || is_own(origin, request.text("host").unwrap_or_default()),
    };
    if allowed {
        return Ok(());
    }
    let detail = "a page of another site may not publish here; add its origin to cors.origins to allow it (if the page is \
                  this server's own, a proxy in between hides the host that was asked: have it pass `Host`)";
    Err(Problem::new(Code::CrossSite, detail))
}

/// Whether pages of `origin` are listed. A request that names none is listed where all are.
pub(super) fn is_listed(origins: &Origins, origin: Option<&str>) -> bool {
    match origins {
        Origins::Any => true,
        Origins::Only(origins) => origin.is_some_and(|origin| origins.iter().any(|listed| listed == origin)),
    }
}

/// Whether a page of `origin` is this server's own, which was asked as `host`.
fn is_own(origin: &str, host: &str) -> bool {
    let Some((scheme, authority)) = origin.split_once("://") else { return false };
    let default_port = match scheme {
        "https" => 443,
        "http" => 80,
        _ => return false,
    };
    let own = normal(authority, default_port);
    own.is_some() && own == normal(host, default_port)
}

/// A host as all its spellings are compared: in lower case, without the root's dot, with its port.
fn normal(authority: &str, default_port: u16) -> Option<(String, u16)> {
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !authority.ends_with(']') => (host, port.parse().ok()?),
        _ => (authority, default_port),
    };
    let host = host.strip_suffix('.').unwrap_or(host);
    (!host.is_empty()).then(|| (host.to_ascii_lowercase(), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_the_same_in_all_its_spellings() {
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
            assert!(is_own(origin, host), "{origin} {host}");
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
            assert!(!is_own(origin, host), "{origin} {host}");
        }
    }
}
