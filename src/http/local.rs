//! Whether a client is on this machine. A proxy on this machine must not make its clients local.

use super::head::Head;

/// Headers by which proxies say that they have forwarded a request, except those that begin with [`PREFIX`].
const HEADERS: [&str; 19] = [
    "forwarded",
    "via",
    "x-real-ip",
    "x-client-ip",
    "x-cluster-client-ip",
    "x-original-forwarded-for",
    "x-original-host",
    "x-envoy-external-address",
    "x-azure-clientip",
    "x-azure-socketip",
    "x-appengine-user-ip",
    "true-client-ip",
    "cf-connecting-ip",
    "cf-connecting-ipv6",
    "cf-ray",
    "cdn-loop",
    "fastly-client-ip",
    "fly-client-ip",
    "forwarded-for",
];
const PREFIX: &str = "x-forwarded";

/// Whether the request counts as forwarded by a proxy: a header says so, or the client is on another machine. The proxy
/// need not be a trusted one.
pub(super) fn is_forwarded(head: &impl Head) -> bool {
    // The PROXY protocol adds no header, but it gives the client's address. A server that listens on loopback gets the
    // address of another machine only from a proxy.
    let is_remote = head.remote().is_none_or(|client| !client.to_canonical().is_loopback());
    is_remote || has_proxy_header(head)
}

/// Whether the request has a header by which a proxy says that it has forwarded the request.
pub(super) fn has_proxy_header(head: &impl Head) -> bool {
    head.names().any(|name| {
        let begins = name.get(..PREFIX.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(PREFIX));
        begins || HEADERS.iter().any(|other| other.eq_ignore_ascii_case(name))
    })
}
