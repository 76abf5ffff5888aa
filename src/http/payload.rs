//! The body of a request, independent of whether the fast path or the fallback has read its head.

use bytes::Bytes;
use futures_util::stream::LocalBoxStream;

/// The parts of a body as they arrive, or why the body ended too early.
pub(super) type Payload = LocalBoxStream<'static, Result<Bytes, String>>;

/// The body of a request.
pub(super) enum Body<'a> {
    /// All of it.
    Whole(&'a [u8]),
    /// It must be received first.
    Coming(Payload),
}
