//! The audit lines of the log: one for each request that ends a stream, ends the streams of a subject, or deletes a
//! topic. An operator finds them by their target, `tidings::audit`.
//!
//! The line is written before the action is done. Otherwise there would be no line if the caller disconnects meanwhile,
//! although the action is done nevertheless. No line contains a token.

use std::net::IpAddr;

use crate::identity::Identity;

/// Writes an audit line: `by` does `action` to `what`. Without an identity, the caller is anonymous.
pub(super) fn record(by: Option<&Identity>, remote: Option<IpAddr>, action: &'static str, what: &str) {
    let key = by.map_or("anonymous", |identity| &*identity.key);
    let subject = by.and_then(|identity| identity.subject.as_deref());
    // `what` and `subject` are from clients. As `Debug` texts, they cannot forge another line.
    tracing::info!(target: "tidings::audit", by = ?key, ?subject, remote = ?remote, action, ?what, "audit");
}
