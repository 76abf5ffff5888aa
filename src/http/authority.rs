//! The parts of a URL that name a server: its scheme, its host and its port. `Host`, targets and origins have them.

use std::net::{Ipv4Addr, Ipv6Addr};

/// The longest host name (RFC 1035, section 2.3.4), without the final dot.
const NAME_BYTES_MAX: usize = 253;

/// The scheme of a URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scheme {
    Http,
    Https,
}

impl Scheme {
    /// Parses `http` or `https`, in any case.
    pub(super) fn parse(text: &str) -> Option<Self> {
        match text {
            _ if text.eq_ignore_ascii_case("http") => Some(Self::Http),
            _ if text.eq_ignore_ascii_case("https") => Some(Self::Https),
            _ => None,
        }
    }

    /// The port of a URL that has none.
    pub(super) fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

/// A host and its port.
#[derive(Clone, Copy, Debug)]
pub(super) struct Authority<'a> {
    /// A name in any case, without a final dot, or an IP address. An IPv6 address has brackets.
    host: &'a str,
    port: Option<u16>,
}

impl<'a> Authority<'a> {
    /// Parses `host` or `host:port`. Returns `None` for anything else, such as a user name before the host.
    pub(super) fn parse(bytes: &'a [u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes).ok()?;
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) if !text.ends_with(']') => (host, port),
            _ => (text, ""),
        };
        // Only digits are allowed: `str::parse` would accept a sign, too. The port may be empty (RFC 3986, section
        // 3.2.3).
        let port = match port {
            "" => None,
            port if port.bytes().all(|byte| byte.is_ascii_digit()) => Some(port.parse().ok()?),
            _ => return None,
        };
        let host = host.strip_suffix('.').unwrap_or(host);
        (is_ipv6(host) || is_name(host)).then_some(Self { host, port })
    }

    /// Whether the host is an IP address. Numbers in other forms than a browser sends, such as `0x7f.1`, count as
    /// names.
    pub(super) fn is_ip(&self) -> bool {
        self.host.parse::<Ipv4Addr>().is_ok() || is_ipv6(self.host)
    }

    /// Whether the host is `name`.
    pub(super) fn has_name(&self, name: &str) -> bool {
        self.host.eq_ignore_ascii_case(name)
    }

    /// Whether both name the same host and port, if a missing port is `default_port`.
    pub(super) fn is_same(&self, other: &Self, default_port: u16) -> bool {
        let port = |authority: &Self| authority.port.unwrap_or(default_port);
        self.has_name(other.host) && port(self) == port(other)
    }
}

fn is_ipv6(host: &str) -> bool {
    let inside = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    inside.is_some_and(|inside| inside.parse::<Ipv6Addr>().is_ok())
}

/// Whether `host` can be a name, or an IPv4 address. A name that is not ASCII is sent in Punycode.
fn is_name(host: &str) -> bool {
    let is_label = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    host.len() <= NAME_BYTES_MAX && host.split('.').all(|label| !label.is_empty() && label.bytes().all(is_label))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_and_a_port_are_read() {
        // Goal: what a browser can send is read, and nothing that another reader could take for another host.
        for (text, host, port) in [
            ("x", "x", None),
            ("A.Example.com:80", "A.Example.com", Some(80)),
            ("a.example.:8080", "a.example", Some(8080)),
            ("a-b_c.xn--caf-dma", "a-b_c.xn--caf-dma", None),
            ("x:", "x", None),
            ("127.0.0.1:65535", "127.0.0.1", Some(65_535)),
            ("[::1]", "[::1]", None),
            ("[2001:db8::1]:0443", "[2001:db8::1]", Some(443)),
        ] {
            let parsed = Authority::parse(text.as_bytes()).expect(text);
            assert_eq!((parsed.host, parsed.port), (host, port), "{text}");
        }
        for text in [
            "",
            ".",
            ":80",
            "x:80:80",
            "x:-1",
            "x:+1",
            "x:65536",
            "x:http",
            "x..y",
            ".x",
            "x y",
            "x,y",
            "x/y",
            "u@x",
            "x?y",
            "x%2ey",
            "::1",
            "[::1",
            "::1]",
            "[x]",
            "[127.0.0.1]",
            "[fe80::1%eth0]",
            "[v1.x]",
            "[::1]x",
            "é",
        ] {
            assert!(Authority::parse(text.as_bytes()).is_none(), "{text}");
        }
        assert!(Authority::parse(b"\xff").is_none());
        for (length, is_read) in [(NAME_BYTES_MAX, true), (NAME_BYTES_MAX + 1, false)] {
            assert_eq!(Authority::parse("x".repeat(length).as_bytes()).is_some(), is_read, "{length}");
        }
    }

    #[test]
    fn an_address_is_told_from_a_name() {
        // Goal: only the form in which browsers send an address is one. Any other text may be a name of the DNS.
        for (text, is_ip) in [
            ("127.0.0.1", true),
            ("0.0.0.0:80", true),
            ("[::1]:8080", true),
            ("[::ffff:10.0.0.1]", true),
            ("127.1", false),
            ("127.0.0.01", false),
            ("0x7f.0.0.1", false),
            ("2130706433", false),
            ("127.0.0.1.example", false),
            ("localhost", false),
        ] {
            assert_eq!(Authority::parse(text.as_bytes()).expect(text).is_ip(), is_ip, "{text}");
        }
    }
}
