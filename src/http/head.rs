//! A request's head. The fast path or the fallback has read it.

use std::net::IpAddr;

/// What a request is asked for.
pub(super) trait Head {
    fn method(&self) -> &str;

    /// As it was sent: with its percent-encoding, and without the query.
    fn path(&self) -> &str;

    /// What follows the `?`.
    fn query(&self) -> &str;

    /// Whether the client understands a chunked response (HTTP/1.1).
    fn takes_chunks(&self) -> bool;

    /// Where it comes from.
    fn remote(&self) -> Option<IpAddr>;

    /// The values of a header, in order; `name` is in lower case.
    fn values<'a>(&'a self, name: &'static str) -> impl Iterator<Item = &'a [u8]>;

    /// The first value of a header.
    fn value(&self, name: &'static str) -> Option<&[u8]> {
        self.values(name).next()
    }

    /// The first value of a header, if it is visible ASCII.
    fn text(&self, name: &'static str) -> Option<&str> {
        self.value(name).and_then(visible)
    }
}

/// A value of a header as text, if it is visible ASCII.
pub(super) fn visible(value: &[u8]) -> Option<&str> {
    let visible = value.iter().all(|b| matches!(b, b'\t' | b' '..=b'~'));
    if visible { std::str::from_utf8(value).ok() } else { None }
}
