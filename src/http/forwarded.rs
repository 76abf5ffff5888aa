//! What proxies say of a request in its headers: who has sent it, to which host, and by which scheme.
//!
//! Anyone can send such headers, so they count only from `server.trusted_proxies`. Each proxy appends the address from
//! which it got the request. So the last address that is not that of a trusted proxy is the client's. The client may
//! have made up the addresses before.
//!
//! An example with the trusted proxies 10.0.0.1 and 10.0.0.2: 10.0.0.1 sends `X-Forwarded-For: 203.0.113.9, 192.0.2.1,
//! 10.0.0.2`. It got the request from 10.0.0.2, and that one from 192.0.2.1, the client. The client has sent
//! 203.0.113.9.
//!
//! A proxy must set or remove each header that is read here. Otherwise the header may be the client's own.

use std::net::{IpAddr, SocketAddr};

use super::{
    authority::{Authority, Scheme},
    head::{SentHead, ascii_text},
    problem::{Code, Problem},
};
use crate::config::ServerConfig;

/// What trusted proxies say of a request.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Forwarded<'h> {
    /// The address of the client. `None` if the proxy that has sent the request gives none that can be read.
    pub(super) client: Option<IpAddr>,
    host: Option<&'h str>,
    scheme: Option<&'h str>,
}

impl<'h> Forwarded<'h> {
    /// Reads the headers of a request that a trusted proxy has sent.
    ///
    /// # Errors
    /// When the headers cannot be read, or contradict each other: one of them may be the client's own.
    pub(super) fn read(head: &'h impl SentHead, server: &ServerConfig) -> Result<Self, Problem> {
        match (read_forwarded(head, server)?, read_x_forwarded(head, server)?) {
            (Some(forwarded), Some(x_forwarded)) if forwarded != x_forwarded => {
                Err(bad("`Forwarded` and `X-Forwarded-…` differ; the proxy must remove those that it does not set"))
            }
            (forwarded, x_forwarded) => Ok(forwarded.or(x_forwarded).unwrap_or_default()),
        }
    }

    /// The host to which the client has sent the request.
    pub(super) fn host(&self) -> Result<Option<Authority<'h>>, Problem> {
        let host = self.host.map(|host| Authority::parse(host.as_bytes()).ok_or_else(|| bad("the host is not valid")));
        host.transpose()
    }

    /// The scheme of the client's request.
    pub(super) fn scheme(&self) -> Result<Option<Scheme>, Problem> {
        let scheme =
            self.scheme.map(|scheme| Scheme::parse(scheme).ok_or_else(|| bad("the scheme is not http or https")));
        scheme.transpose()
    }

    /// Adds the next element of a list. Each proxy appends one element: `element.client` is the address from which this
    /// proxy got the request, or `None` if the proxy does not say it.
    ///
    /// If an element names a sender that is not trusted, the elements before are forgotten: the sender may have made
    /// them up.
    fn push(&mut self, element: Self, server: &ServerConfig) {
        if element.client.is_some_and(|sender| server.trusts(sender)) {
            self.client = self.client.or(element.client);
            self.host = self.host.or(element.host);
            self.scheme = self.scheme.or(element.scheme);
        } else {
            *self = element;
        }
    }
}

fn bad(what: &str) -> Problem {
    Problem::new(
        Code::BadRequest,
        format!("what the proxy in front of the server says of the request is refused: {what}"),
    )
}

/// Reads `Forwarded` (RFC 7239).
fn read_forwarded<'h>(head: &'h impl SentHead, server: &ServerConfig) -> Result<Option<Forwarded<'h>>, Problem> {
    let unreadable = || bad("`Forwarded` cannot be read");
    let mut forwarded = None;
    for line in head.values("forwarded") {
        let mut rest = ascii_text(line).ok_or_else(unreadable)?.trim_ascii_start();
        while !rest.is_empty() {
            let (element, tail) = read_element(rest).ok_or_else(unreadable)?;
            let forwarded = forwarded.get_or_insert_with(Forwarded::default);
            if let Some(element) = element {
                forwarded.push(element, server);
            }
            rest = tail;
        }
    }
    Ok(forwarded)
}

/// Reads one element, such as `for=192.0.2.1;proto=https`, and the comma after it. Returns what follows, too. An empty
/// element of a list counts as none (RFC 9110, section 5.6.1).
///
/// The quotes matter: a client could send `for="`, and a proxy then appends its own element. A reader that does not
/// refuse the open quote could take the proxy's element for a part of the client's.
fn read_element(text: &str) -> Option<(Option<Forwarded<'_>>, &str)> {
    let (mut node, mut host, mut scheme) = (None, None, None);
    let (mut rest, mut has_pairs) = (text, false);
    loop {
        // Pairs may be left out (RFC 7239, section 4).
        rest = rest.trim_start_matches([';', ' ', '\t']);
        if rest.is_empty() || rest.starts_with(',') {
            let tail = rest.strip_prefix(',').unwrap_or(rest).trim_ascii_start();
            let element = Forwarded { client: node.and_then(address), host, scheme };
            return Some((has_pairs.then_some(element), tail));
        }
        let (name, tail) = rest.split_once('=')?;
        let (value, tail) = match tail.strip_prefix('"') {
            // An escaped character is legal, but no address and no host needs one.
            Some(tail) => tail.split_once('"').filter(|(value, _)| !value.contains('\\'))?,
            None => tail.split_at(tail.find([';', ',', ' ', '\t', '"']).unwrap_or(tail.len())),
        };
        let field = match name.trim_ascii() {
            name if name.eq_ignore_ascii_case("for") => Some(&mut node),
            name if name.eq_ignore_ascii_case("host") => Some(&mut host),
            name if name.eq_ignore_ascii_case("proto") => Some(&mut scheme),
            name if !name.is_empty() && name.bytes().all(is_token) => None,
            _ => return None,
        };
        // Each field may be given once.
        if field.is_some_and(|field| field.replace(value).is_some()) {
            return None;
        }
        let tail = tail.trim_ascii_start();
        if !tail.is_empty() && !tail.starts_with([';', ',']) {
            return None;
        }
        (rest, has_pairs) = (tail, true);
    }
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Reads `X-Forwarded-For`, `X-Forwarded-Host` and `X-Forwarded-Proto`. Of a list of hosts or schemes, the last one
/// counts: it is from the proxy that has sent the request.
fn read_x_forwarded<'h>(head: &'h impl SentHead, server: &ServerConfig) -> Result<Option<Forwarded<'h>>, Problem> {
    let mut forwarded = Forwarded::default();
    let mut is_given = false;
    for line in head.values("x-forwarded-for") {
        is_given = true;
        for item in line.split(|byte| *byte == b',') {
            let client = ascii_text(item).and_then(address);
            forwarded.push(Forwarded { client, ..Forwarded::default() }, server);
        }
    }
    for (name, field) in [("x-forwarded-host", &mut forwarded.host), ("x-forwarded-proto", &mut forwarded.scheme)] {
        if let Some(line) = head.values(name).last() {
            is_given = true;
            let text = ascii_text(line).ok_or_else(|| bad(&format!("`{name}` cannot be read")))?;
            *field = text.rsplit(',').next().map(str::trim_ascii).filter(|value| !value.is_empty());
        }
    }
    Ok(is_given.then_some(forwarded))
}

/// Reads an address, with or without a port. An IPv6 address may have brackets.
fn address(text: &str) -> Option<IpAddr> {
    let text = text.trim_ascii();
    let inside = || text.strip_prefix('[')?.strip_suffix(']')?.parse().ok().map(IpAddr::V6);
    let with_port = || text.parse().ok().map(|address: SocketAddr| address.ip());
    let address = text.parse().ok().or_else(with_port).or_else(inside)?;
    Some(address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A request with these headers, from a peer that does not matter.
    struct Headers(Vec<(&'static str, &'static str)>);

    impl SentHead for Headers {
        fn method(&self) -> &'static str {
            "GET"
        }

        fn path(&self) -> &'static str {
            "/"
        }

        fn query(&self) -> &'static str {
            ""
        }

        fn target_authority(&self) -> Option<&str> {
            None
        }

        fn is_http_1_1(&self) -> bool {
            true
        }

        fn peer(&self) -> Option<IpAddr> {
            None
        }

        fn certificate(&self) -> Option<&crate::transport::ClientCertificate> {
            None
        }

        fn names(&self) -> impl Iterator<Item = &str> {
            self.0.iter().map(|(name, _)| *name)
        }

        fn values<'a>(&'a self, name: &'static str) -> impl Iterator<Item = &'a [u8]> {
            self.0.iter().filter(move |(other, _)| *other == name).map(|(_, value)| value.as_bytes())
        }
    }

    /// Client, host and scheme; or `refused`.
    fn read(headers: &[(&'static str, &'static str)]) -> String {
        let trusted_proxies = vec!["10.0.0.0/8".parse().unwrap(), "2001:db8:1::/48".parse().unwrap()];
        let server = ServerConfig { trusted_proxies, ..ServerConfig::default() };
        let headers = Headers(headers.to_vec());
        let Ok(forwarded) = Forwarded::read(&headers, &server) else { return "refused".to_owned() };
        let client = forwarded.client.map_or_else(|| "-".to_owned(), |client| client.to_string());
        match (forwarded.host(), forwarded.scheme()) {
            (Ok(_), Ok(_)) => {
                format!("{client} {} {}", forwarded.host.unwrap_or("-"), forwarded.scheme.unwrap_or("-"))
            }
            _ => "refused".to_owned(),
        }
    }

    #[test]
    fn the_client_is_the_last_address_that_is_not_trusted() {
        // Goal: only what trusted proxies have written counts. What a client has sent before it changes nothing.
        for (list, client) in [
            ("192.0.2.1", "192.0.2.1"),
            ("203.0.113.9, 192.0.2.1", "192.0.2.1"),
            ("203.0.113.9,192.0.2.1,10.0.0.2", "192.0.2.1"),
            ("203.0.113.9, 192.0.2.1, 10.0.0.3, 10.0.0.2", "192.0.2.1"),
            ("10.0.0.9, 192.0.2.1, 10.0.0.2", "192.0.2.1"),
            ("10.0.0.3, 10.0.0.2", "10.0.0.3"),
            ("2001:db8::7", "2001:db8::7"),
            ("192.0.2.1, 2001:db8:1::5", "192.0.2.1"),
            ("192.0.2.1:4711", "192.0.2.1"),
            ("[2001:db8::7]:4711", "2001:db8::7"),
            ("[2001:db8::7]", "2001:db8::7"),
            ("::ffff:192.0.2.1", "192.0.2.1"),
            ("192.0.2.1, ::ffff:10.0.0.2", "192.0.2.1"),
            // Not an address: the request counts as that of the proxy that has written so.
            ("unknown", "-"),
            ("", "-"),
            ("192.0.2.1, garbage", "-"),
            ("192.0.2.1, 1.2.3.4.5, 10.0.0.2", "10.0.0.2"),
            ("192.0.2.1,", "-"),
            ("garbage, 192.0.2.1", "192.0.2.1"),
        ] {
            assert_eq!(read(&[("x-forwarded-for", list)]), format!("{client} - -"), "{list}");
        }
        let lines = [("x-forwarded-for", "203.0.113.9, 192.0.2.1"), ("x-forwarded-for", "10.0.0.2")];
        assert_eq!(read(&lines), "192.0.2.1 - -", "several lines are one list");
    }

    #[test]
    fn the_standard_header_is_read_with_its_quotes() {
        // Goal: the reader accepts every form that RFC 7239 allows, and refuses every other.
        for (text, expected) in [
            ("for=192.0.2.1", "192.0.2.1 - -"),
            (
                "For=\"192.0.2.1:80\";Proto=HTTPS;by=10.0.0.1;host=Broker.example:8443",
                "192.0.2.1 Broker.example:8443 HTTPS",
            ),
            ("for=\"[2001:db8::7]:4711\"", "2001:db8::7 - -"),
            ("for=192.0.2.1:80;host=x:1", "192.0.2.1 x:1 -"),
            ("host=x;proto=http;for=192.0.2.1 , for=10.0.0.2", "192.0.2.1 x http"),
            (
                "for=203.0.113.9;host=evil, for=192.0.2.1;host=x;proto=https, for=10.0.0.2;host=y;proto=http",
                "192.0.2.1 x https",
            ),
            ("for=192.0.2.1;proto=https, for=10.0.0.2;host=y;proto=http", "192.0.2.1 y https"),
            ("for=10.0.0.3;host=x, for=10.0.0.2;host=y", "10.0.0.3 x -"),
            ("for=unknown;host=x", "- x -"),
            ("for=192.0.2.1, for=_hidden", "- - -"),
            ("for=192.0.2.1, for=_hidden, for=10.0.0.2", "10.0.0.2 - -"),
            ("proto=https", "- - https"),
            (", for=192.0.2.1;;host=x; , ,", "192.0.2.1 x -"),
            ("secret=\"a, b;c\";for=192.0.2.1", "192.0.2.1 - -"),
            ("for=192.0.2.1, proto=https", "- - https"),
            // What a client has sent must not swallow the element that a proxy appends.
            ("for=\", for=192.0.2.1", "refused"),
            ("for=\"203.0.113.9\\\", for=192.0.2.1", "refused"),
            ("for=203.0.113.9\", for=192.0.2.1", "refused"),
            ("garbage, for=192.0.2.1", "refused"),
            ("for=192.0.2.1;for=203.0.113.9", "refused"),
            ("for=192.0.2.1 host=x", "refused"),
            ("for=\"192.0.2.1\"x", "refused"),
            ("=192.0.2.1", "refused"),
            ("f or=192.0.2.1", "refused"),
            ("for=192.0.2.1;host=u@x", "refused"),
            ("for=192.0.2.1;proto=ftp", "refused"),
            ("for=192.0.2.1;host=caf\u{e9}", "refused"),
        ] {
            assert_eq!(read(&[("forwarded", text)]), expected, "{text}");
        }
        let lines = [("forwarded", "for=192.0.2.1;host=x"), ("forwarded", "for=10.0.0.2")];
        assert_eq!(read(&lines), "192.0.2.1 x -", "several lines are one list");
    }

    #[test]
    fn the_last_host_and_scheme_count() {
        // Goal: what the nearest proxy says counts, and what a client has sent before it does not.
        for (name, value, expected) in [
            ("x-forwarded-host", "x", "- x -"),
            ("x-forwarded-host", "evil.example, x:8080", "- x:8080 -"),
            ("x-forwarded-proto", "http, https", "- - https"),
            ("x-forwarded-proto", "", "- - -"),
            ("x-forwarded-host", "u@x", "refused"),
            ("x-forwarded-host", "caf\u{e9}", "refused"),
            ("x-forwarded-proto", "gopher", "refused"),
        ] {
            assert_eq!(read(&[(name, value)]), expected, "{name}: {value}");
        }
        assert_eq!(read(&[("x-forwarded-host", "evil.example"), ("x-forwarded-host", "x")]), "- x -");
    }

    #[test]
    fn headers_that_contradict_each_other_are_refused() {
        // Goal: a proxy that sets one kind passes on the other as the client has sent it.
        let both = |standard, other| read(&[("forwarded", standard), ("x-forwarded-for", other)]);
        assert_eq!(both("for=192.0.2.1", "203.0.113.9, 192.0.2.1"), "192.0.2.1 - -");
        assert_eq!(both("for=203.0.113.9", "192.0.2.1"), "refused");
        assert_eq!(both("for=192.0.2.1;host=localhost", "192.0.2.1"), "refused");
    }
}
