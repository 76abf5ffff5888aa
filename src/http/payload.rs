//! The body of a request, independent of whether the fast path or the fallback has read its head.

use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt as _, stream::LocalBoxStream};

use super::{
    head::{Head, ascii_text},
    problem::{Code, Problem},
};
use crate::limits::BytesPermit;

/// The parts of a body as they arrive, or why the body ended too early.
pub(super) type Payload = LocalBoxStream<'static, Result<Bytes, String>>;

/// The body of a request.
pub(super) enum Body<'a> {
    /// All of it.
    Whole(&'a [u8]),
    /// It must be received first.
    Coming(Payload),
}

/// How a body is received.
#[derive(Clone, Copy)]
pub(super) struct Reception {
    /// The value of `Content-Length`.
    pub(super) length: Option<usize>,
    /// The largest body.
    pub(super) bytes_max: u64,
    /// The time within which the whole body must arrive. Otherwise a client that sends very slowly could keep its
    /// connection for ever.
    pub(super) timeout: Duration,
}

/// The value of `Content-Length`.
pub(super) fn announced_length(head: &impl Head) -> Option<usize> {
    head.text("content-length").and_then(|length| length.parse().ok())
}

/// Refuses a body that is encoded, such as a compressed one.
pub(super) fn check_encoding(head: &impl Head) -> Result<(), Problem> {
    let encoding = head.value("content-encoding");
    if encoding.is_some_and(|encoding| !encoding.eq_ignore_ascii_case(b"identity")) {
        let detail = "the body is encoded; send it without Content-Encoding";
        return Err(Problem::new(Code::UnsupportedMediaType, detail));
    }
    Ok(())
}

/// The media type in the value of `Content-Type`, in lower case. Refuses another charset than UTF-8.
pub(super) fn media_type(header: &[u8]) -> Result<String, Problem> {
    let mut text = ascii_text(header).unwrap_or_default().trim().to_ascii_lowercase();
    let mut parts = text.split(';').map(str::trim);
    let length = parts.next().map_or(0, str::len);
    let charset = parts.find_map(|part| part.strip_prefix("charset=")).map(|name| name.trim_matches('"'));
    if let Some(charset) = charset.filter(|name| !matches!(*name, "utf-8" | "utf8" | "us-ascii")) {
        return Err(Problem::new(Code::UnsupportedMediaType, format!("the body is in {charset}; send UTF-8")));
    }
    text.truncate(length);
    Ok(text)
}

/// Refuses a body that is too large.
pub(super) fn check_length(length: usize, bytes_max: u64) -> Result<(), Problem> {
    let is_too_large = u64::try_from(length).is_ok_and(|length| length > bytes_max);
    if is_too_large { Err(Problem::too_large("the body", bytes_max)) } else { Ok(()) }
}

/// The body as text. `what` names it in the error.
pub(super) fn text<'a>(body: &'a [u8], what: &str) -> Result<&'a str, Problem> {
    std::str::from_utf8(body).map_err(|error| {
        let detail = format!("{what} is not valid UTF-8 at byte {}", error.valid_up_to());
        Problem::new(Code::BadUtf8, detail)
    })
}

/// Receives the whole body.
pub(super) async fn collect(
    mut payload: Payload,
    reception: Reception,
    permit: &mut BytesPermit,
) -> Result<Bytes, Problem> {
    let Reception { length, bytes_max, timeout } = reception;
    check_length(length.unwrap_or(0), bytes_max)?;
    // If there is no room for the announced body now, refuse it before it is sent. But give the room back: clients that
    // announce a large body and send nothing would leave no room for others.
    permit.cover(length.unwrap_or(0))?;
    permit.cover(0)?;
    let len_max = length.unwrap_or_else(|| usize::try_from(bytes_max).unwrap_or(usize::MAX));
    let all = async {
        let mut body = Vec::new();
        while let Some(chunk) = payload.next().await {
            let chunk =
                chunk.map_err(|error| Problem::new(Code::BadBody, format!("the body is incomplete: {error}")))?;
            let length = body.len() + chunk.len();
            check_length(length, bytes_max)?;
            if length > body.capacity() {
                let capacity = grown_capacity(length, body.capacity(), len_max);
                permit.cover(capacity)?;
                body.reserve_exact(capacity - body.len());
            }
            body.extend_from_slice(&chunk);
        }
        Ok(Bytes::from(body))
    };
    tokio::time::timeout(timeout, all).await.unwrap_or_else(|_| {
        let detail = format!("the body did not arrive within {}", humantime::format_duration(timeout));
        Err(Problem::new(Code::BodyTimeout, detail))
    })
}

/// The new capacity for a body of which `len` bytes have arrived. `len_max` is the largest length that it can get.
///
/// The caller needs a new capacity because `len` is more than `capacity`. The capacity at least doubles, or becomes
/// `len_max`, so that the body is not copied for each chunk. It becomes at most twice `len`, so that a client cannot
/// reserve memory without sending bytes.
fn grown_capacity(len: usize, capacity: usize, len_max: usize) -> usize {
    if len > len_max / 2 { len_max.max(len) } else { len.max(2 * capacity) }
}
