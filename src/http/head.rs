//! The head of a request, independent of whether the fast path or the fallback has read it.

use std::net::IpAddr;

use super::authority::{Authority, Scheme};
use crate::transport::ClientCertificate;

/// The head of a request as this server has got it, from a client or from a proxy.
pub(super) trait SentHead {
    fn method(&self) -> &str;

    /// The path as it was sent: percent-encoded, without the query.
    fn path(&self) -> &str;

    /// The part of the target after the `?`.
    fn query(&self) -> &str;

    /// The host and port in the target, if it has them: `GET http://host/path`.
    fn target_authority(&self) -> Option<&str>;

    /// Whether this is HTTP/1.1: the client must send `Host`, and understands a chunked response.
    fn is_http_1_1(&self) -> bool;

    /// The address from which the request was sent.
    fn peer(&self) -> Option<IpAddr>;

    /// The certificate that the client has shown to this server, and that was verified. It comes from the connection,
    /// never from a header. `None` on a connection that a trusted proxy has opened.
    fn certificate(&self) -> Option<&ClientCertificate>;

    /// The names of the headers, in any case.
    fn names(&self) -> impl Iterator<Item = &str>;

    /// The values of a header, in order. `name` must be in lower case.
    fn values<'a>(&'a self, name: &'static str) -> impl Iterator<Item = &'a [u8]>;

    /// The first value of a header.
    fn value(&self, name: &'static str) -> Option<&[u8]> {
        self.values(name).next()
    }

    /// The first value of a header, if it has only visible ASCII characters, blanks and tabs.
    fn text(&self, name: &'static str) -> Option<&str> {
        self.value(name).and_then(ascii_text)
    }
}

/// The head of a request, with what counts for its client: what trusted proxies say of it, otherwise what was sent.
pub(super) trait Head: SentHead {
    /// The address of the client.
    fn remote(&self) -> Option<IpAddr>;

    /// The host to which the client has sent the request; `None` if the request names none.
    fn host(&self) -> Option<Authority<'_>>;

    /// The scheme of the client's request; `None` if it is not known.
    fn scheme(&self) -> Option<Scheme>;
}

/// The value of a header as text, if it has only visible ASCII characters, blanks and tabs.
pub(super) fn ascii_text(value: &[u8]) -> Option<&str> {
    let is_ascii_text = value.iter().all(|b| matches!(b, b'\t' | b' '..=b'~'));
    if is_ascii_text { std::str::from_utf8(value).ok() } else { None }
}
