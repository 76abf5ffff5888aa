//! What is said of bytes that are no request.

use super::{
    bounds::{HEAD_BYTES_MAX, HEADERS_MAX, TARGET_BYTES_MAX},
    framing::line_breaks,
};
use crate::http::problem::{Code, Problem};

pub(super) fn too_long(bytes: &[u8]) -> Problem {
    let line = bytes.get(line_breaks(bytes)..HEAD_BYTES_MAX).unwrap_or_default();
    if !line.contains(&b'\n') {
        return uri_too_long();
    }
    let detail = format!("the head of the request is longer than {HEAD_BYTES_MAX} bytes");
    Problem::new(Code::HeadersTooLarge, detail).with("limit", HEAD_BYTES_MAX)
}

pub(super) fn uri_too_long() -> Problem {
    let detail = format!(
        "the address of the request is longer than {TARGET_BYTES_MAX} bytes, percent-encoded; what is long belongs in \
         the body"
    );
    Problem::new(Code::UriTooLong, detail).with("limit", TARGET_BYTES_MAX)
}

pub(super) fn unreadable(bytes: &[u8], error: httparse::Error) -> Problem {
    let line = bytes.get(line_breaks(bytes)..).and_then(|bytes| bytes.split(|byte| *byte == b'\n').next());
    // Bytes that do not even begin as a method are another protocol's, such as TLS.
    let begins_well = |line: &&[u8]| line.first().is_some_and(u8::is_ascii_alphabetic);
    if line.filter(begins_well).is_some_and(|line| std::str::from_utf8(line).is_err()) {
        let detail = "the address of the request is not valid UTF-8; percent-encode it, as \
                      `curl -G --data-urlencode 'topic=…'` does";
        return Problem::new(Code::BadUtf8, detail);
    }
    if error == httparse::Error::TooManyHeaders {
        let detail = format!("the request has more than {HEADERS_MAX} headers");
        return Problem::new(Code::HeadersTooLarge, detail).with("limit", HEADERS_MAX);
    }
    Problem::new(Code::BadRequest, format!("this is no request of HTTP/1.1: {error}"))
}
