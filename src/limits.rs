//! Limits on what clients may use: permits for connections and bytes.

// Each file uses only files below it.
mod permits;
mod network;

pub use network::network;
pub use permits::{BytesPermit, ConnectionPermit, LimitReached, Quota, UNCOUNTED_MAX};
