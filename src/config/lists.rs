//! The values that are lists: how they are checked.

use std::{net::IpAddr, ops::RangeInclusive};

use ::config::ValueKind;
use ipnet::IpNet;

use super::sections::Origins;

/// The most origins.
pub(super) const ORIGINS_MAX: usize = 1000;
/// The most host names.
pub(super) const HOSTS_MAX: usize = 1000;
/// The most addresses and networks of proxies.
pub(super) const NETWORKS_MAX: usize = 1000;
/// The most NATS servers.
pub(super) const SERVERS_MAX: usize = 100;
/// The longest host name (RFC 1035, section 2.3.4).
const NAME_BYTES_MAX: usize = 253;

/// The items of a list of texts.
fn texts(value: &ValueKind) -> Option<Vec<&str>> {
    let ValueKind::Array(items) = value else { return None };
    let texts = items.iter().map(|item| match &item.kind {
        ValueKind::String(text) => Some(text.as_str()),
        _ => None,
    });
    texts.collect()
}

/// A list of so many texts, each of which `read` accepts.
fn list<T>(value: &ValueKind, allowed: RangeInclusive<usize>, read: impl Fn(&str) -> Option<T>) -> Option<Vec<T>> {
    let items = texts(value)?;
    if allowed.contains(&items.len()) { items.into_iter().map(read).collect() } else { None }
}

pub(super) fn origins(value: &ValueKind) -> Option<Origins> {
    if texts(value)? == ["*"] {
        return Some(Origins::Any);
    }
    list(value, 0..=ORIGINS_MAX, |item| is_origin(item).then(|| item.to_owned())).map(Origins::Only)
}

/// Whether a browser could send this text as `Origin`. Another spelling of an origin would never match.
fn is_origin(text: &str) -> bool {
    let (authority, default_port) = match text.split_once("://") {
        Some(("https", authority)) => (authority, 443),
        Some(("http", authority)) => (authority, 80),
        _ => return false,
    };
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !authority.ends_with(']') => (host, Some(port)),
        _ => (authority, None),
    };
    let port_fits = port.is_none_or(|text| {
        let number = text.parse::<u16>().unwrap_or(0);
        number != 0 && number != default_port && number.to_string() == text
    });
    port_fits && is_host(host)
}

fn is_host(host: &str) -> bool {
    if let Some(inside) = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        return inside.parse::<std::net::Ipv6Addr>().is_ok_and(|ip| ip.to_string() == inside);
    }
    let is_allowed = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || b"-_".contains(&c);
    host.split('.').all(|label| !label.is_empty() && label.bytes().all(is_allowed))
}

/// Host names, in lower case and without a final dot: neither makes a difference.
pub(super) fn hosts(value: &ValueKind) -> Option<Vec<String>> {
    let name = |item: &str| {
        let name = item.strip_suffix('.').unwrap_or(item).to_ascii_lowercase();
        (name.len() <= NAME_BYTES_MAX && is_host(&name)).then_some(name)
    };
    list(value, 0..=HOSTS_MAX, name)
}

/// IP addresses and networks. A network must not have bits behind its prefix: `10.0.0.7/8` may be meant for one
/// address.
pub(super) fn networks(value: &ValueKind) -> Option<Vec<IpNet>> {
    let network = |item: &str| {
        let address = item.parse::<IpAddr>().map(|ip| IpNet::from(ip.to_canonical()));
        let network = address.ok().or_else(|| item.parse().ok())?;
        (network.trunc() == network).then_some(network)
    };
    list(value, 0..=NETWORKS_MAX, network)
}

/// The addresses of NATS servers. An address has no user and no password, because the server logs addresses.
pub(super) fn servers(value: &ValueKind) -> Option<Vec<String>> {
    let server = |item: &str| {
        let address: async_nats::ServerAddr = item.parse().ok()?;
        let is_known = matches!(address.scheme(), "nats" | "tls");
        (is_known && !address.host().is_empty() && !item.contains('@')).then(|| item.to_owned())
    };
    list(value, 1..=SERVERS_MAX, server)
}

/// Whether the address of a NATS server is on this machine.
pub(super) fn is_loopback_address(server: &str) -> bool {
    let address = server.parse::<async_nats::ServerAddr>();
    address.is_ok_and(|address| {
        let host = address.host().trim_matches(['[', ']']);
        host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback())
    })
}
