//! The values that are lists: how they are checked.

use std::net::IpAddr;

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

pub(super) fn origins(value: &ValueKind) -> Option<Origins> {
    let items = texts(value)?;
    if items == ["*"] {
        return Some(Origins::Any);
    }
    if items.len() > ORIGINS_MAX || !items.iter().all(|item| is_origin(item)) {
        return None;
    }
    Some(Origins::Only(items.into_iter().map(str::to_owned).collect()))
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
    let items = texts(value)?;
    let name = |item: &str| {
        let name = item.strip_suffix('.').unwrap_or(item).to_ascii_lowercase();
        (name.len() <= NAME_BYTES_MAX && is_host(&name)).then_some(name)
    };
    if items.len() > HOSTS_MAX { None } else { items.into_iter().map(name).collect() }
}

/// IP addresses and networks. A network must not have bits behind its prefix: `10.0.0.7/8` may be meant for one
/// address.
pub(super) fn networks(value: &ValueKind) -> Option<Vec<IpNet>> {
    let items = texts(value)?;
    let network = |item: &str| {
        let address = item.parse::<IpAddr>().map(|ip| IpNet::from(ip.to_canonical()));
        let network = address.ok().or_else(|| item.parse().ok())?;
        (network.trunc() == network).then_some(network)
    };
    if items.len() > NETWORKS_MAX { None } else { items.into_iter().map(network).collect() }
}

/// The addresses of NATS servers. An address has no user and no password, because the server logs addresses.
pub(super) fn servers(value: &ValueKind) -> Option<Vec<String>> {
    let items = texts(value)?;
    let server = |item: &str| {
        let address: async_nats::ServerAddr = item.parse().ok()?;
        let is_known = matches!(address.scheme(), "nats" | "tls");
        (is_known && !address.host().is_empty() && !item.contains('@')).then(|| item.to_owned())
    };
    if (1..=SERVERS_MAX).contains(&items.len()) { items.into_iter().map(server).collect() } else { None }
}
