//! Which hosts the server answers to.
//!
//! A page of any site can make its own name lead to this server: its DNS server first gives the address of the page,
//! and then that of this server, for example 127.0.0.1 (DNS rebinding). To the browser, the page and this server then
//! have the same origin. So the page could read every stream, and publish. Only `Host` still has the name of the page,
//! so a name that is not known is refused.
//!
//! An IP address is always allowed: a page of another name, or of another address, has another origin.

use super::{
    authority::Authority,
    head::{Head, SentHead},
    problem::{Code, Problem},
};
use crate::config::ServerConfig;

/// Paths that need no known host. A supervisor or a load balancer calls them by any name, and their answers are no
/// secret.
const FOR_ANY_HOST: [&str; 2] = ["/healthz", "/readyz"];

/// The host as the request itself names it; `None` if it names none, as HTTP/1.0 allows. No browser sends such a
/// request.
///
/// # Errors
/// When the text is not a host (RFC 9112, section 3.2): another reader could take it for another host.
pub(super) fn named_by(head: &impl SentHead) -> Result<Option<Authority<'_>>, Problem> {
    // A host in the target counts instead (RFC 9112, section 3.2.2). The fast path has refused a request with several
    // headers, or with none in HTTP/1.1.
    let header = head.value("host").map(|value| parse(value, "`Host`")).transpose()?;
    match head.target_authority() {
        Some(authority) => parse(authority.as_bytes(), "the target of the request").map(Some),
        None => Ok(header),
    }
}

fn parse<'a>(text: &'a [u8], what: &str) -> Result<Authority<'a>, Problem> {
    Authority::parse(text).ok_or_else(|| {
        let detail = format!("{what} must name a host or an IP address, and may name a port");
        Problem::new(Code::BadRequest, detail)
    })
}

/// Refuses a request to a host that the server does not answer to.
pub(super) fn check(config: &ServerConfig, head: &impl Head) -> Result<(), Problem> {
    let is_known = match head.host() {
        None => true,
        Some(host) => host.has_name("localhost") || host.is_ip() || config.hosts.iter().any(|name| host.has_name(name)),
    };
    if is_known || FOR_ANY_HOST.contains(&head.path()) {
        return Ok(());
    }
    let detail = "the server does not answer to this host name; add the name to server.hosts, or use localhost or the \
                  server's IP address";
    Err(Problem::new(Code::Misdirected, detail))
}
