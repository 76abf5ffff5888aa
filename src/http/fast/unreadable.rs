//! The refusals of bytes that are not an HTTP request, or that are too long.

use super::bounds::{HEAD_BYTES_MAX, HEADERS_MAX, TARGET_BYTES_MAX};
use crate::http::problem::{Code, Problem};

/// Refuses a head that is too long. If its first line alone is too long, the problem names the target.
pub(super) fn head_too_long(bytes: &[u8]) -> Problem {
    let head = bytes.get(line_breaks(bytes)..HEAD_BYTES_MAX).unwrap_or_default();
    if !head.contains(&b'\n') {
        return target_too_long();
    }
    let detail = format!("the head of the request is longer than {HEAD_BYTES_MAX} bytes");
    Problem::new(Code::HeadersTooLarge, detail).with("limit", HEAD_BYTES_MAX)
}

/// Refuses a target that is too long.
pub(super) fn target_too_long() -> Problem {
    let detail = format!(
        "the path and query of the request are longer than {TARGET_BYTES_MAX} bytes when percent-encoded; send long \
         content in the body"
    );
    Problem::new(Code::UriTooLong, detail).with("limit", TARGET_BYTES_MAX)
}

/// Refuses HTTP on a port that speaks TLS.
pub(super) fn not_tls() -> Problem {
    let detail = "this port speaks HTTP only inside TLS; use https:// instead of http://";
    Problem::new(Code::BadRequest, detail)
}

/// Refuses bytes that cannot be parsed.
pub(super) fn unreadable(bytes: &[u8], error: httparse::Error) -> Problem {
    let lines = bytes.get(line_breaks(bytes)..).unwrap_or_default();
    let line = lines.split(|byte| *byte == b'\n').next().unwrap_or_default();
    // A method begins with a letter. Anything else is another protocol, such as TLS.
    let begins_with_method = line.first().is_some_and(u8::is_ascii_alphabetic);
    if begins_with_method && std::str::from_utf8(line).is_err() {
        let detail = "the path or query of the request is not valid UTF-8; percent-encode it, as \
                      `curl -G --data-urlencode 'topic=…'` does";
        return Problem::new(Code::BadUtf8, detail);
    }
    if error == httparse::Error::TooManyHeaders {
        let detail = format!("the request has more than {HEADERS_MAX} headers");
        return Problem::new(Code::HeadersTooLarge, detail).with("limit", HEADERS_MAX);
    }
    Problem::new(Code::BadRequest, format!("this is not an HTTP/1.1 request: {error}"))
}

/// The length of the empty lines before a request. They are ignored (RFC 9112, section 2.2).
pub(super) fn line_breaks(bytes: &[u8]) -> usize {
    bytes.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count()
}
