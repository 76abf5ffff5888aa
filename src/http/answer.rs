//! A response, whichever server sends it.

use std::borrow::Cow;

use actix_http::ConnectionType;
use actix_web::{HttpResponse, http::StatusCode};
use smallvec::SmallVec;

/// A whole response, or the head of a stream and its first bytes.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: SmallVec<[(&'static str, Cow<'static, str>); 3]>,
    pub(super) body: Vec<u8>,
    /// Its length is not known: it is chunked already, or ends with the connection (RFC 9112, section 6.3).
    pub(super) is_stream: bool,
    /// The connection ends with it.
    pub(super) is_last: bool,
}

impl Answer {
    pub(super) fn new(status: StatusCode) -> Self {
        Self { status, headers: SmallVec::new(), body: Vec::new(), is_stream: false, is_last: false }
    }

    pub(super) fn with(mut self, name: &'static str, value: impl Into<Cow<'static, str>>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub(super) fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// As it goes over the wire; `date` is the time in the form of RFC 9110, section 5.6.7. `varies` is whether a page of
    /// another origin might be answered with more.
    pub(super) fn write(&self, date: &str, varies: bool, out: &mut Vec<u8>) {
        let mut put = |parts: &[&str]| parts.iter().for_each(|part| out.extend_from_slice(part.as_bytes()));
        put(&["HTTP/1.1 ", self.status.as_str(), " ", self.status.canonical_reason().unwrap_or_default(), "\r\n"]);
        if self.is_last {
            put(&["connection: close\r\n"]);
        }
        if !self.is_stream && self.status != StatusCode::NO_CONTENT {
            put(&["content-length: ", itoa::Buffer::new().format(self.body.len()), "\r\n"]);
        }
        for (name, value) in &self.headers {
            put(&[name, ": ", value, "\r\n"]);
        }
        if varies {
            put(&["vary: Origin, Access-Control-Request-Method, Access-Control-Request-Headers\r\n"]);
        }
        put(&["date: ", date, "\r\n\r\n"]);
        out.extend_from_slice(&self.body);
    }
}

impl From<Answer> for HttpResponse {
    fn from(answer: Answer) -> Self {
        let mut response = Self::build(answer.status);
        for (name, value) in &answer.headers {
            response.insert_header((*name, &**value));
        }
        let mut response = response.body(answer.body);
        if answer.is_last {
            response.head_mut().set_connection_type(ConnectionType::Close);
        }
        if answer.is_stream {
            response.head_mut().no_chunking(true);
        }
        response
    }
}
