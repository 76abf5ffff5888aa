//! A response, before the fast path or the fallback sends it.

use std::borrow::Cow;

use actix_http::StatusCode;
use smallvec::SmallVec;

use super::code::Code;

/// Every response has this header: a browser must not guess that a response is a page or a script. It also keeps pages
/// of other sites from loading JSON and streams as scripts or images.
///
/// Other headers against attacks are not here, because every header costs bytes in the answer to each publish. The
/// headers that only matter where a browser shows a document are in [`super::page`].
const NO_SNIFFING: (&str, &str) = ("x-content-type-options", "nosniff");

/// A complete response, or the head of a stream with its first bytes.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    /// What caches may do with the response. By default they may not keep it: it is about this client, or this moment.
    pub(super) cache_control: &'static str,
    /// The other headers.
    pub(super) headers: SmallVec<[(&'static str, Cow<'static, str>); 3]>,
    pub(super) body: Cow<'static, [u8]>,
    /// The request was HEAD: the length of the body is sent, the body is not (RFC 9110, section 9.3.2).
    pub(super) is_head: bool,
    /// `body` is only the beginning of a stream, so its length is not sent. The stream is already chunked, or ends with
    /// the connection (RFC 9112, section 6.3).
    pub(super) is_stream: bool,
    /// The connection is closed after the response.
    pub(super) is_last: bool,
    /// Why the request is refused, for the counters.
    pub(super) code: Option<Code>,
}

impl Answer {
    pub(super) fn new(status: StatusCode) -> Self {
        Self {
            status,
            cache_control: "no-store",
            headers: SmallVec::new(),
            body: Cow::Borrowed(&[]),
            is_head: false,
            is_stream: false,
            is_last: false,
            code: None,
        }
    }

    pub(super) fn with(mut self, name: &'static str, value: impl Into<Cow<'static, str>>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub(super) fn body(mut self, body: impl Into<Cow<'static, [u8]>>) -> Self {
        self.body = body.into();
        self
    }

    /// All headers except the date and those that say how the response is framed.
    pub(super) fn all_headers(&self) -> impl Iterator<Item = (&str, &str)> {
        let headers = self.headers.iter().map(|(name, value)| (*name, &**value));
        [("cache-control", self.cache_control), NO_SNIFFING].into_iter().chain(headers)
    }

    /// Appends the response to `out` as it is sent. `date` is the time in the format of RFC 9110, section 5.6.7.
    pub(super) fn write(&self, date: &str, out: &mut Vec<u8>) {
        let mut put = |parts: &[&str]| {
            for part in parts {
                out.extend_from_slice(part.as_bytes());
            }
        };
        put(&["HTTP/1.1 ", self.status.as_str(), " ", self.status.canonical_reason().unwrap_or_default(), "\r\n"]);
        if self.is_last {
            put(&["connection: close\r\n"]);
        }
        if !self.is_stream && self.status != StatusCode::NO_CONTENT {
            put(&["content-length: ", itoa::Buffer::new().format(self.body.len()), "\r\n"]);
        }
        for (name, value) in self.all_headers() {
            put(&[name, ": ", value, "\r\n"]);
        }
        put(&["date: ", date, "\r\n\r\n"]);
        if !self.is_head {
            out.extend_from_slice(&self.body);
        }
    }
}
