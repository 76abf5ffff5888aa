//! The plan of a run: the server, the requests, and all counts.

use std::{
    fmt::{self, Write as _},
    net::{SocketAddr, TcpStream, ToSocketAddrs as _},
    ops::RangeInclusive,
    time::Duration,
};

use super::stamp;

/// How long the first, trial connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The largest event. A request is built in memory, so there must be a limit.
const SIZE_MAX: usize = 64 << 20;

/// The plan of a run.
#[derive(Clone, Debug)]
pub struct Plan {
    pub target: Target,
    pub address: SocketAddr,
    pub mode: Mode,
    pub subscribers: usize,
    pub topics: usize,
    pub publishers: usize,
    pub amount: Amount,
    /// Events per second over all topics; 0 means as fast as the answers arrive.
    pub rate: f64,
    pub sizes: Sizes,
    /// The path to publish to. It may contain `{topic}`.
    pub publish: String,
    /// The path of the streams. It may contain `{topic}`.
    pub subscribe: String,
    /// Headers for every request, in the form `Name: value`.
    pub headers: Vec<String>,
    /// Whether to poll without ever sleeping.
    pub spin: bool,
    /// How long to wait when nothing happens any more.
    pub stall_timeout: Duration,
    /// A random number in the names of the topics and in the events. It distinguishes this run from others.
    pub run: u32,
}

/// What a run does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Subscribe, then publish.
    Live,
    /// Publish, then subscribe from the beginning.
    Replay,
    /// Disconnect all subscribers, and let them resume at the same time.
    Storm,
    /// Subscribe, and publish nothing for this time.
    Idle(Duration),
}

/// How much is published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Amount {
    /// So many events to each topic.
    Messages(u32),
    /// As many events as possible in this time.
    Duration(Duration),
}

/// The range of event sizes in bytes. The size of an event is chosen at random.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sizes(pub RangeInclusive<usize>);

/// The address of the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The host, with the port if the URL has one.
    authority: String,
    /// The prefix of every path, without a slash at its end.
    prefix: String,
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
        let path = path.trim_end_matches('/');
        let prefix = if path.is_empty() { String::new() } else { format!("/{path}") };
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

impl Sizes {
    pub fn parse(text: &str) -> Result<Self, String> {
        let (least, most) = text.split_once("..").unwrap_or((text, text));
        let number = |text: &str| text.parse::<usize>().map_err(|_| format!("`{text}` is not a number of bytes"));
        let (least, most) = (number(least)?, number(most)?);
        if least < stamp::BYTES || most > SIZE_MAX || least > most {
            return Err(format!(
                "sizes must be from {} (which the checks need) to {SIZE_MAX}, the smaller one first",
                stamp::BYTES
            ));
        }
        Ok(Self(least..=most))
    }
}

impl fmt::Display for Sizes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (least, most) = self.0.clone().into_inner();
        if least == most { write!(f, "{least}") } else { write!(f, "{least} to {most}") }
    }
}

impl Plan {
    /// How many events to publish to each topic before the subscribers disconnect in a storm. The others follow while
    /// they are disconnected.
    pub fn before_storm(messages: u32) -> u32 {
        messages.div_ceil(2)
    }

    /// The request of a subscriber. `cursor` is its last event id, or empty if it connects for the first time.
    pub fn subscribe_request(&self, topic: usize, cursor: &[u8]) -> Vec<u8> {
        let mut path = self.path(&self.subscribe, topic);
        if self.mode == Mode::Replay {
            path.push_str(if path.contains('?') { "&since=all" } else { "?since=all" });
        }
        let mut request = self.request("GET", &path);
        request += "Accept: text/event-stream\r\n";
        let mut request = request.into_bytes();
        if !cursor.is_empty() {
            request.extend_from_slice(b"Last-Event-ID: ");
            request.extend_from_slice(cursor);
            request.extend_from_slice(b"\r\n");
        }
        request.extend_from_slice(b"\r\n");
        request
    }

    /// The request of a publisher, up to the value of `Content-Length`, which is the last header.
    pub fn publish_request(&self, topic: usize) -> String {
        let mut request = self.request("POST", &self.path(&self.publish, topic));
        request += "Content-Type: text/plain\r\nContent-Length: ";
        request
    }

    /// The beginning of a request.
    fn request(&self, method: &str, path: &str) -> String {
        let mut request = format!("{method} {path} HTTP/1.1\r\nHost: {}\r\n", self.target.authority);
        for header in &self.headers {
            // Writing to memory cannot fail.
            write!(request, "{header}\r\n").ok();
        }
        request
    }

    fn path(&self, template: &str, topic: usize) -> String {
        let topic = format!("bench-{:08x}-{topic}", self.run);
        format!("{}{}", self.target.prefix, template.replace("{topic}", &topic))
    }
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
        assert_eq!(Sizes::parse("100"), Ok(Sizes(100..=100)));
        assert_eq!(Sizes::parse("100..10000").map(|sizes| sizes.to_string()), Ok("100 to 10000".into()));
        for text in ["", "0", "37", "100..", "200..100", "1e9", "99999999999"] {
            assert!(Sizes::parse(text).is_err(), "{text}");
        }
    }
}
