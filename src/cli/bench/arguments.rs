//! Parses the arguments of the command line.

use std::{
    fmt,
    net::{SocketAddr, TcpStream, ToSocketAddrs as _},
    ops::RangeInclusive,
    time::Duration,
};

use super::stamp;

/// How long [`Target::resolve`] waits for a connection to one address.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The largest event. A request is built in memory, so there must be a limit.
const SIZE_MAX: usize = 64 << 20;

/// The address of the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The host, with the port if the URL has one.
    pub authority: String,
    /// The prefix of every path, without a slash at its end.
    pub prefix: String,
}

impl Target {
    pub fn parse(url: &str) -> Result<Self, String> {
        if url.starts_with("https://") {
            return Err("only http:// is supported, no TLS: measure the server behind its proxy".into());
        }
        let rest = url.strip_prefix("http://").ok_or("it must begin with http://, as in http://127.0.0.1:8080")?;
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let is_plain = !authority.is_empty() && !authority.contains(|c: char| c.is_whitespace() || "@?#".contains(c));
        if !is_plain || path.contains(|c: char| c.is_whitespace() || "?#".contains(c)) {
            return Err("it must be http://HOST, optionally with :PORT and /PREFIX".into());
        }
        let prefix = format!("/{path}").trim_end_matches('/').to_owned();
        Ok(Self { authority: authority.to_owned(), prefix })
    }

    /// Resolves the host to an address that accepts a connection.
    pub fn resolve(&self) -> Result<SocketAddr, String> {
        let has_port = self.authority.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        let authority = if has_port { self.authority.clone() } else { format!("{}:80", self.authority) };
        let addresses = authority.to_socket_addrs().map_err(|error| format!("{self}: {error}"))?;
        let mut reason = "the name has no address".to_owned();
        for address in addresses {
            match TcpStream::connect_timeout(&address, CONNECT_TIMEOUT) {
                Ok(_) => return Ok(address),
                Err(error) => reason = format!("{address}: {error}"),
            }
        }
        Err(format!("nobody listens at {self} ({reason}); start the server (`tidings`) or use another URL"))
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}{}", self.authority, self.prefix)
    }
}

/// The size of an event in bytes, or a range of sizes.
pub fn sizes(text: &str) -> Result<RangeInclusive<usize>, String> {
    let (least, most) = text.split_once("..").unwrap_or((text, text));
    let number = |text: &str| text.parse::<usize>().map_err(|_| format!("`{text}` is not a number of bytes"));
    let (least, most) = (number(least)?, number(most)?);
    if least < stamp::BYTES || most > SIZE_MAX || least > most {
        let least = stamp::BYTES;
        return Err(format!("sizes must be from {least} (which the checks need) to {SIZE_MAX}, the smaller one first"));
    }
    Ok(least..=most)
}

/// A number from 1 to 10,000,000; `1_000` and `1,000` are read, too.
pub fn positive(text: &str) -> Result<usize, String> {
    let number = text.replace(['_', ','], "").parse().ok().filter(|n| (1..=10_000_000).contains(n));
    number.ok_or_else(|| "it must be 1 to 10000000".to_owned())
}

/// Events per second, or 0.
pub fn rate(text: &str) -> Result<f64, String> {
    let rate = text.parse().ok().filter(|rate: &f64| rate.is_finite() && *rate >= 0.0);
    rate.ok_or_else(|| "it must be a number of events per second, or 0".to_owned())
}

/// `30` seconds, or a number with a unit, as in `5m`.
pub fn duration(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    seconds.map_or_else(|| humantime::parse_duration(text).map_err(|error| error.to_string()), Ok)
}

/// A path that may contain `{topic}`.
pub fn path(text: &str) -> Result<String, String> {
    let is_path = text.starts_with('/') && !text.contains(|c: char| c.is_whitespace() || c.is_control());
    if is_path { Ok(text.to_owned()) } else { Err("it must be a path, as in /publish?topic={topic}".to_owned()) }
}

/// A header in the form `Name: value`. The result includes the line end.
pub fn header(text: &str) -> Result<String, String> {
    let is_field = text.split_once(':').is_some_and(|(name, _)| !name.is_empty()) && !text.contains(['\r', '\n']);
    if is_field { Ok(format!("{text}\r\n")) } else { Err("it must be a name, a colon and a value".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_parsed() {
        let target = Target::parse("http://localhost:9000/sse/").unwrap();
        assert_eq!((target.authority.as_str(), target.prefix.as_str()), ("localhost:9000", "/sse"));
        assert_eq!(Target::parse("http://[::1]").unwrap().to_string(), "http://[::1]");
        assert!(Target::parse("https://example.com").unwrap_err().contains("no TLS"));
        for url in ["", "localhost:8080", "http://", "http:///x", "http://a b", "http://a/?x", "http://u@h"] {
            assert!(Target::parse(url).is_err(), "{url}");
        }
    }

    #[test]
    fn sizes_are_one_or_a_range() {
        assert_eq!(sizes("100"), Ok(100..=100));
        assert_eq!(sizes("100..10000"), Ok(100..=10_000));
        for text in ["", "0", "37", "100..", "200..100", "1e9", "99999999999"] {
            assert!(sizes(text).is_err(), "{text}");
        }
    }
}
